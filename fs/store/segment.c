/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Segments: files of records, appended to by the log, read by anyone. */
#include "fs/store/internal.h"
#include "fs/store/xxh3.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const uint32_t record_magic = 0x31725243; /* "CRr1" */

static uint64_t checksum_of(const struct store_record *record, const void *payload)
{
	uint64_t header = XXH3_64bits(record, offsetof(struct store_record, checksum));
	return XXH3_64bits_withSeed(payload, record->payload_size, header);
}

void store_record_fill(struct store_record *record, uint32_t kind,
	const struct croft_digest *digest, uint32_t segment, struct croft_slice payload)
{
	*record = (struct store_record){.magic = record_magic, .kind = kind,
		.size = digest->size_bytes, .payload_size = (uint32_t)payload.size, .segment = segment};
	memcpy(record->hash, digest->hash, CROFT_HASH_SIZE);
	record->checksum = checksum_of(record, payload.data);
}

bool store_record_check(const struct store_record *record, uint32_t segment, const void *payload)
{
	return record->magic == record_magic && record->segment == segment &&
		   record->checksum == checksum_of(record, payload);
}

bool store_record_check_in_place(const struct store_record *record, const struct store_segment *segment, uint32_t offset)
{
	enum { PIECE = 64 * 1024 };
	CROFT_CLEANUP_FREE void *piece = croft_alloc(PIECE);
	XXH3_state_t *state = XXH3_createState();
	if (!state)
		abort();
	XXH3_64bits_reset_withSeed(state, XXH3_64bits(record, offsetof(struct store_record, checksum)));
	bool read = true;
	for (uint64_t at = 0; read && at < record->payload_size; at += PIECE) {
		size_t size = record->payload_size - at < PIECE ? (size_t)(record->payload_size - at) : PIECE;
		read = croft_pread_all(
			segment->fd, piece, size, offset + STORE_HEADER + at, "a segment of the store", NULL);
		if (read)
			XXH3_64bits_update(state, piece, size);
	}
	uint64_t checksum = XXH3_64bits_digest(state);
	XXH3_freeState(state);
	return read && record->magic == record_magic && record->segment == segment->number &&
		record->checksum == checksum;
}

void store_segment_name(uint32_t number, char name[16])
{
	snprintf(name, 16, "%08x", number);
}

/* The first that is not below the number. */
static size_t lower_bound(const struct store_segments *segments, uint32_t number)
{
	size_t low = 0, high = segments->count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (segments->items[middle]->number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct store_segment *store_segment_find(const struct store_segments *segments, uint32_t number)
{
	size_t at = lower_bound(segments, number);
	return at < segments->count && segments->items[at]->number == number ? segments->items[at]
																		 : NULL;
}

struct store_segment *store_segment_add(struct store_segments *segments, uint32_t number, int fd)
{
	if (segments->count == segments->room) {
		segments->room = segments->room ? 2 * segments->room : 16;
		segments->items =
			croft_realloc(segments->items, segments->room, sizeof(*segments->items));
	}
	struct store_segment *segment = croft_zalloc(sizeof(*segment));
	segment->number = number;
	segment->fd = fd;
	size_t at = lower_bound(segments, number);
	memmove(segments->items + at + 1, segments->items + at,
		(segments->count - at) * sizeof(*segments->items));
	segments->items[at] = segment;
	segments->count++;
	return segment;
}

static void destroy(struct croft_store *store, struct store_segment *segment)
{
	if (!store->config.read_only)
		store->segment_bytes -= segment->size;
	close(segment->fd);
	free(segment);
}

void store_segment_unref(struct croft_store *store, struct store_segment *segment)
{
	if (--segment->refs == 0 && segment->removed)
		destroy(store, segment);
}

void store_segment_remove(struct croft_store *store, struct store_segment *segment)
{
	struct store_segments *segments = &store->segments;
	size_t at = lower_bound(segments, segment->number);
	segments->count--;
	memmove(segments->items + at, segments->items + at + 1,
		(segments->count - at) * sizeof(*segments->items));
	char name[16];
	store_segment_name(segment->number, name);
	unlinkat(store->segments_fd, name, 0);
	segment->removed = true;
	store->generation++;
	if (segment->refs == 0)
		destroy(store, segment);
}
