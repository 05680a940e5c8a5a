/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/wal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "sched/core/wal_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>
#include <xxhash.h>

enum { BLOCK = 4096, MAGIC = 0x4c524a43 /* "CJRL" */, BUFFER_KEPT = 1 << 20, SPARES_KEPT = 2, WARM = 4 };

/* As it stands in the file, little endian; the payload follows, and zeros up to the next block. */
struct header {
	uint64_t checksum; /* XXH3 of all that follows, payload included */
	uint64_t salt;     /* of the segment: nothing that a client sent passes for one of its groups */
	uint64_t previous; /* the checksum of the group before */
	uint32_t magic, segment, oldest;
	uint32_t offset; /* of this header in the file */
	uint32_t size;   /* of the payload */
	uint32_t previous_end; /* of a segment's first: how far the segment before it counts */
};
_Static_assert(sizeof(struct header) == 48, "this is the format on disk");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers are stored little endian");

struct wal {
	struct wal_files *files;
	struct wal_file *newest;
	struct wal_file *next; /* chosen for the segment after it, and tried again when that failed; or NULL */
	uint32_t oldest, segment; /* the second: of newest; 0: nothing was ever written */
	uint32_t end;             /* of newest: where the next group goes */
	uint64_t salt, previous;
	uint64_t groups; /* written since the start */
	uint8_t *buffer; /* a header, then the payload; aligned to BLOCK */
	size_t room;
};

static uint64_t blocks_of(uint64_t payload_size)
{
	return (sizeof(struct header) + payload_size + BLOCK - 1) & ~(uint64_t)(BLOCK - 1);
}

static uint64_t checksum_of(const void *group, size_t payload_size)
{
	return XXH3_64bits(
		(const uint8_t *)group + sizeof(uint64_t), sizeof(struct header) - sizeof(uint64_t) + payload_size);
}

/* Reading ---------------------------------------------------------------------------------------- */

/* A whole file in memory. */
struct content {
	uint8_t *bytes;
	size_t size;
};

static bool group_at(const struct content *content, uint64_t offset, struct header *header)
{
	if (offset + sizeof(*header) > content->size)
		return false;
	memcpy(header, content->bytes + offset, sizeof(*header));
	return header->magic == MAGIC && header->offset == offset &&
		header->size <= content->size - offset - sizeof(*header) &&
		header->checksum == checksum_of(content->bytes + offset, header->size);
}

/* Where the groups of the segment end, at most at the limit; `last` becomes the last of them. */
static uint64_t end_of(const struct content *content, const struct header *first, uint64_t limit,
	struct header *last)
{
	struct header header;
	uint64_t offset = 0;
	while (offset < limit && group_at(content, offset, &header) && header.segment == first->segment &&
		header.salt == first->salt && (offset == 0 || header.previous == last->checksum)) {
		*last = header;
		offset += blocks_of(header.size);
	}
	return offset;
}

/* Whether there is a whole group of the segment (NULL: of any) behind where they seem to end. */
static bool goes_on(const struct content *content, uint64_t offset, const struct header *first)
{
	struct header header;
	for (; offset + sizeof(header) <= content->size; offset += BLOCK)
		if (group_at(content, offset, &header) &&
			(!first || (header.segment == first->segment && header.salt == first->salt)))
			return true;
	return false;
}

static bool damaged(struct croft_error *err, const char *path, uint32_t segment, const char *how)
{
	return croft_error_set(err, CROFT_DATA_LOSS,
		"the journal in %s is damaged: segment %u %s. Bring back a copy of the folder, or move it away: what "
		"was queued and running is then forgotten",
		path, segment, how);
}

static bool load(struct wal_file *file, struct content *content, struct croft_error *err)
{
	content->size = wal_file_size(file);
	content->bytes = croft_realloc(content->bytes, content->size, 1);
	return wal_file_read(file, 0, content->bytes, content->size, err);
}

struct replay {
	struct wal *wal;
	const char *path;
	struct content content;
	bool (*group)(void *user, const struct wal_place *place, struct croft_slice payload,
		struct croft_error *err);
	void *user;
};

/* What the first group of each file says. */
static bool look_at_files(struct replay *replay, struct croft_error *err)
{
	struct wal *wal = replay->wal;
	bool any = false;
	for (size_t i = 0; i < wal_files_count(wal->files); i++) {
		struct wal_file *file = wal_files_at(wal->files, i);
		struct header first;
		if (!load(file, &replay->content, err))
			return false;
		bool whole = group_at(&replay->content, 0, &first);
		any |= !whole && goes_on(&replay->content, 0, NULL);
		file->segment = whole ? first.segment : 0;
		if (file->segment > wal->segment) {
			wal->segment = file->segment;
			wal->newest = file;
		}
	}
	return wal->newest || !any || damaged(err, replay->path, 1, "has no beginning");
}

/* How far the newest segment goes, and which is the oldest that counts. */
static bool find_end(struct replay *replay, struct croft_error *err)
{
	struct wal *wal = replay->wal;
	struct header first, last = {0};
	if (!load(wal->newest, &replay->content, err))
		return false;
	if (!group_at(&replay->content, 0, &first))
		return damaged(err, replay->path, wal->segment, "changes while it is read");
	uint64_t end = end_of(&replay->content, &first, UINT64_MAX, &last);
	if (goes_on(&replay->content, end, &first))
		return damaged(err, replay->path, wal->segment, "has a bad group before a good one");
	wal->end = (uint32_t)end;
	wal->oldest = last.oldest;
	wal->salt = last.salt;
	wal->previous = last.checksum;
	return true;
}

static struct wal_file *file_of(struct wal *wal, uint32_t segment)
{
	for (size_t i = 0; i < wal_files_count(wal->files); i++)
		if (wal_files_at(wal->files, i)->segment == segment)
			return wal_files_at(wal->files, i);
	return NULL;
}

/* How far a segment before the newest counts, and the checksum of its last group. */
static bool find_limit(struct replay *replay, uint32_t segment, uint64_t *limit, uint64_t *checksum,
	struct croft_error *err)
{
	struct header next;
	struct wal_file *file = file_of(replay->wal, segment + 1);
	if (!file)
		return damaged(err, replay->path, segment + 1, "is missing");
	if (!wal_file_read(file, 0, &next, sizeof(next), err))
		return false;
	*limit = next.previous_end;
	*checksum = next.previous;
	return true;
}

static bool replay_segment(struct replay *replay, uint32_t segment, struct croft_error *err)
{
	struct wal *wal = replay->wal;
	struct wal_file *file = file_of(wal, segment);
	struct header first, header, last = {0};
	uint64_t limit = wal->end, checksum = wal->previous;
	if (!file)
		return damaged(err, replay->path, segment, "is missing");
	if (segment < wal->segment && !find_limit(replay, segment, &limit, &checksum, err))
		return false;
	if (!load(file, &replay->content, err))
		return false;
	if (!group_at(&replay->content, 0, &first))
		return damaged(err, replay->path, segment, "changes while it is read");
	uint64_t end = end_of(&replay->content, &first, limit, &last);
	if (end != limit || last.checksum != checksum)
		return damaged(err, replay->path, segment, "has a bad group before its end");
	for (uint64_t offset = 0; offset < end; offset += blocks_of(header.size)) {
		memcpy(&header, replay->content.bytes + offset, sizeof(header));
		struct wal_place place = {segment, (uint32_t)(offset + sizeof(header))};
		if (!replay->group(replay->user, &place,
				CROFT_SLICE(replay->content.bytes + place.offset, header.size), err))
			return false;
	}
	return true;
}

static bool replay_all(struct replay *replay, struct croft_error *err)
{
	struct wal *wal = replay->wal;
	if (!look_at_files(replay, err))
		return false;
	wal->oldest = 1;
	if (!wal->newest)
		return true;
	if (!find_end(replay, err))
		return false;
	for (uint32_t segment = wal->oldest; segment <= wal->segment; segment++)
		if (!replay_segment(replay, segment, err))
			return false;
	for (size_t i = 0; i < wal_files_count(wal->files); i++)
		if (wal_files_at(wal->files, i)->segment < wal->oldest)
			wal_files_at(wal->files, i)->segment = 0;
	return true;
}

struct wal *wal_open(const char *path,
	bool (*group)(void *user, const struct wal_place *place, struct croft_slice payload,
		struct croft_error *err),
	void *user, struct croft_error *err)
{
	struct wal *wal = croft_zalloc(sizeof(*wal));
	struct replay replay = {.wal = wal, .path = path, .group = group, .user = user};
	wal->files = wal_files_open(path, err);
	bool ok = wal->files && replay_all(&replay, err);
	free(replay.content.bytes);
	if (ok)
		return wal;
	wal_close(wal);
	return NULL;
}

void wal_close(struct wal *wal)
{
	if (!wal)
		return;
	wal_files_close(wal->files);
	free(wal->buffer);
	free(wal);
}

bool wal_read(struct wal *wal, const struct wal_place *place, void *data, size_t size,
	struct croft_error *err)
{
	struct wal_file *file = file_of(wal, place->segment);
	if (!file)
		return croft_error_set(err, CROFT_INTERNAL, "the journal has no segment %u", place->segment);
	return wal_file_read(file, place->offset, data, size, err);
}

/* Writing ---------------------------------------------------------------------------------------- */

uint8_t *wal_buffer(struct wal *wal, size_t size)
{
	size_t wanted = blocks_of(size);
	if (wanted > wal->room) {
		size_t room = wanted > 2 * wal->room ? wanted : 2 * wal->room;
		void *larger = NULL;
		if (posix_memalign(&larger, BLOCK, room) != 0)
			abort();
		if (wal->room)
			memcpy(larger, wal->buffer, wal->room);
		free(wal->buffer);
		wal->buffer = larger;
		wal->room = room;
	}
	return wal->buffer + sizeof(struct header);
}

void wal_shrink(struct wal *wal)
{
	if (wal->room <= BUFFER_KEPT)
		return;
	free(wal->buffer);
	wal->buffer = NULL;
	wal->room = 0;
}

/* A file may be used again once a group that does not count it is on disk: else, should the first new one be
 * torn, a segment that counts would be missing. */
static struct wal_file *spare_file(struct wal *wal)
{
	for (size_t i = 0; i < wal_files_count(wal->files); i++) {
		struct wal_file *file = wal_files_at(wal->files, i);
		if (!file->segment && file->freed_at <= wal->groups && file != wal->newest)
			return file;
	}
	return NULL;
}

/* Where the next group goes. */
struct target {
	struct wal_file *file;
	uint32_t segment, offset;
	uint64_t salt;
};

static bool target_of(struct wal *wal, uint64_t bytes, struct target *target, struct croft_error *err)
{
	if (wal->newest && wal->end + bytes <= WAL_SEGMENT) {
		*target = (struct target){wal->newest, wal->segment, wal->end, wal->salt};
		return true;
	}
	if (!wal->next)
		wal->next = spare_file(wal);
	if (!wal->next)
		wal->next = wal_files_add(wal->files, err);
	if (!wal->next)
		return false;
	*target = (struct target){.file = wal->next, .segment = wal->segment + 1};
	if (getrandom(&target->salt, sizeof(target->salt), 0) != sizeof(target->salt))
		abort();
	return true;
}

/* Those that will be emptied next: reading them then would hold up the group that it is done with. */
static void warm_oldest(struct wal *wal)
{
	for (uint32_t segment = wal->oldest; segment < wal->segment && segment < wal->oldest + WARM; segment++)
		wal_files_warm(wal->files, file_of(wal, segment));
}

/* A segment was begun: one spare file is kept ready, and not many. */
static void opened(struct wal *wal)
{
	size_t spares = 0;
	wal->next = NULL;
	for (size_t i = wal_files_count(wal->files); i-- > 0;) {
		struct wal_file *file = wal_files_at(wal->files, i);
		if (file->segment || file->freed_at > wal->groups)
			continue;
		if (spares == SPARES_KEPT || wal_file_size(file) > WAL_SEGMENT)
			wal_files_retire(wal->files, file);
		else
			spares++;
	}
	if (spares == 0)
		wal_files_prepare(wal->files);
	warm_oldest(wal);
}

bool wal_write(struct wal *wal, size_t size, struct wal_place *place, struct croft_error *err)
{
	uint64_t bytes = blocks_of(size);
	struct target target;
	if (bytes > UINT32_MAX)
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED, "a group of %zu bytes for the journal", size);
	if (!target_of(wal, bytes, &target, err))
		return false;
	struct header header = {.salt = target.salt, .previous = wal->previous, .magic = MAGIC,
		.segment = target.segment, .oldest = wal->oldest, .offset = target.offset,
		.size = (uint32_t)size, .previous_end = wal->end};
	memcpy(wal->buffer, &header, sizeof(header));
	memset(wal->buffer + sizeof(header) + size, 0, bytes - sizeof(header) - size);
	header.checksum = checksum_of(wal->buffer, size);
	memcpy(wal->buffer, &header.checksum, sizeof(header.checksum));
	if (!wal_file_write(target.file, target.offset, wal->buffer, bytes, err))
		return false;
	target.file->segment = target.segment;
	wal->newest = target.file;
	wal->segment = target.segment;
	wal->salt = target.salt;
	wal->previous = header.checksum;
	wal->end = target.offset + (uint32_t)bytes;
	wal->groups++;
	*place = (struct wal_place){target.segment, target.offset + (uint32_t)sizeof(header)};
	if (target.offset == 0)
		opened(wal);
	return true;
}

/* Segments ---------------------------------------------------------------------------------------- */

uint32_t wal_oldest(const struct wal *wal)
{
	return wal->oldest;
}

uint32_t wal_newest(const struct wal *wal)
{
	return wal->segment;
}

void wal_free_oldest(struct wal *wal)
{
	struct wal_file *file = file_of(wal, wal->oldest++);
	file->segment = 0;
	file->freed_at = wal->groups + 1;
	wal_files_cool(wal->files, file);
	warm_oldest(wal);
}
