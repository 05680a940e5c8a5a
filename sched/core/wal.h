/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A log of groups of records, in files that are filled with zeros ahead: what is appended overwrites blocks
 * that the file has, so that one write by the device's leave is all that a group costs.
 *
 * Files are used over and over. What makes a file the log's part is the number of the *segment* that its
 * first group names; segments are numbered without gaps, and each group names the oldest that counts.
 *
 * A group counts whole or not at all: one checksum is over all of it. The next is written only when it is on
 * disk, so only the very last can be torn, and is then as if it had never been. Each also names the checksum
 * of the one before, and what stands behind the end is looked through: a group that is bad where it should
 * be good is told as damage, never passed over.
 *
 * Of one thread.
 */
#ifndef CROFT_SCHED_WAL_H
#define CROFT_SCHED_WAL_H

#include "proto/base/error.h"
#include "proto/base/slice.h"

#include <stdint.h>

enum {
	WAL_SEGMENT = 4 << 20, /* bytes; a group that is larger gets a longer one for itself */
};

struct wal;

/* Where a group's payload stands. */
struct wal_place {
	uint32_t segment, offset;
};

/* Gives all groups that count, in the order in which they were written; false from `group` ends it. */
struct wal *wal_open(const char *path,
	bool (*group)(void *user, const struct wal_place *place, struct croft_slice payload,
		struct croft_error *err),
	void *user, struct croft_error *err);
void wal_close(struct wal *wal);

/* Room for a group's payload of that size; what was filled in before is kept. */
uint8_t *wal_buffer(struct wal *wal, size_t size);
/* When a group is done with: lets go of a buffer that is larger than most need. */
void wal_shrink(struct wal *wal);
/* Returns when that many bytes of it are on disk. On failure the log is as it was. */
bool wal_write(struct wal *wal, size_t size, struct wal_place *place, struct croft_error *err);
bool wal_read(struct wal *wal, const struct wal_place *place, void *data, size_t size,
	struct croft_error *err);

/* Segments in use are numbered from the oldest to the newest. */
uint32_t wal_oldest(const struct wal *wal);
uint32_t wal_newest(const struct wal *wal);
/* Nothing in it counts any more; not for the newest. */
void wal_free_oldest(struct wal *wal);

#endif
