/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/learned.h"

#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#define XXH_INLINE_ALL
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <xxhash.h>

static const char name[] = "learned";
enum { FILE_MOST = 256 << 20 };

/* Of this machine's byte order, as the records are. Behind it each record with its size in front. */
struct head {
	char magic[8];
	uint64_t size;     /* of what follows */
	uint64_t checksum; /* its XXH3 */
};
static const char magic[8] = "croftL1";

struct learned {
	char *bytes; /* the head first */
	size_t size, room;
};

static void append(struct learned *learned, const void *data, size_t size)
{
	if (learned->size + size > learned->room) {
		learned->room = 2 * (learned->size + size) + 4096;
		learned->bytes = croft_realloc(learned->bytes, learned->room, 1);
	}
	memcpy(learned->bytes + learned->size, data, size);
	learned->size += size;
}

static void append_record(void *user, struct croft_slice record)
{
	uint32_t size = (uint32_t)record.size;
	append(user, &size, sizeof(size));
	append(user, record.data, record.size);
}

struct learned *learned_of(const struct croft_placement *placement)
{
	struct learned *learned = croft_zalloc(sizeof(*learned));
	append(learned, &(struct head){0}, sizeof(struct head));
	croft_placement_save(placement, append_record, learned);
	return learned;
}

bool learned_write(struct learned *learned, const char *folder, struct croft_error *err)
{
	struct head head = {.size = learned->size - sizeof(head)};
	memcpy(head.magic, magic, sizeof(magic));
	head.checksum = XXH3_64bits(learned->bytes + sizeof(head), head.size);
	memcpy(learned->bytes, &head, sizeof(head));
	CROFT_CLEANUP_FD int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening %s", folder);
	return croft_write_file(fd, name, learned->bytes, learned->size, 0644, err);
}

void learned_free(struct learned *learned)
{
	free(learned->bytes);
	free(learned);
}

/* Every record or, when one is none, so many as came before. */
static ssize_t load(struct croft_placement *placement, const char *at, size_t left)
{
	ssize_t count = 0;
	uint32_t size;
	for (; left >= sizeof(size); count++) {
		memcpy(&size, at, sizeof(size));
		at += sizeof(size);
		left -= sizeof(size);
		if (size > left || !croft_placement_load(placement, CROFT_SLICE(at, size)))
			return count;
		at += size;
		left -= size;
	}
	return count;
}

ssize_t learned_read(struct croft_placement *placement, const char *folder, struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CROFT_CLEANUP_FREE char *bytes = NULL;
	size_t size;
	struct croft_error failure = CROFT_ERROR_INIT;
	if (fd < 0 || !croft_read_file(fd, name, FILE_MOST, &bytes, &size, &failure)) {
		if (fd < 0 || failure.sys_errno == ENOENT)
			return 0;
		*err = failure;
		return -1;
	}
	struct head head;
	if (size >= sizeof(head))
		memcpy(&head, bytes, sizeof(head));
	if (size < sizeof(head) || memcmp(head.magic, magic, sizeof(magic)) != 0 ||
		head.size != size - sizeof(head) ||
		head.checksum != XXH3_64bits(bytes + sizeof(head), head.size)) {
		croft_error_set(err, CROFT_DATA_LOSS, "%s/%s is damaged", folder, name);
		return -1;
	}
	return load(placement, bytes + sizeof(head), head.size);
}
