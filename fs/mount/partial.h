/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Large files that are read before all of them is here: the chunks that hold what is read are fetched,
 * and some of those that are likely to be read next. When a file has been read whole, its chunks become
 * the blob.
 */
#ifndef CROFT_FS_MOUNT_PARTIAL_H
#define CROFT_FS_MOUNT_PARTIAL_H

#include "fs/mount.h"

struct partials;
struct request;

struct partials *partials_create(struct croft_store *store);
void partials_destroy(struct partials *partials);
/* What the origin said a blob is made of. */
void partials_learn(struct partials *partials, const struct croft_digest *digest,
	const struct croft_digest *chunks, size_t count);

size_t partials_ranges(struct partials *partials, const struct croft_digest *digest,
	struct croft_mount_range *ranges, size_t most);

enum partial_answer {
	PARTIAL_ANSWERED,
	PARTIAL_WAITS, /* and is out of the caller's hands */
	PARTIAL_NOT,   /* the blob is to be had whole only */
};
/* Answers a READ of `wanted` bytes, all within the blob, which is not in the store. */
enum partial_answer partial_read(struct request *request, const struct croft_digest *digest,
	size_t wanted);

#endif
