/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a mount needs to go on in another process, in a memory file: what was agreed on with the kernel, the nodes
 * that the kernel knows, the accounts, and the requests that wait. All else (recipes, Directory messages, open
 * blobs, fetches) is found again.
 *
 * The other process may be of another version, so the layout is one of its own and has a version: a reader that
 * does not know it refuses, before anything was given up.
 */
#ifndef CROFT_FS_MOUNT_SAVED_H
#define CROFT_FS_MOUNT_SAVED_H

#include "proto/base/error.h"

#include <stdbool.h>
#include <stdint.h>

#include <linux/fuse.h>

struct croft_mount;

/* The last request that this thread took from the kernel. */
extern _Thread_local struct fuse_in_header taken_header;

enum { SAVED_INIT_BYTES = 256 };
/* What was said in INIT: libfuse of the other process is told it again. */
struct saved_init {
	uint32_t size, want;
	uint8_t request[SAVED_INIT_BYTES];
};

/* Of a mount that does not run any more and whose requests wait for nothing (request_list). */
bool saved_write(struct croft_mount *mount, int fd, struct croft_error *err);
/* Into a new mount, whose `init` and `resumed` are set by it. */
bool saved_read(struct croft_mount *mount, int fd, struct croft_error *err);
/* Gives the requests that waited to libfuse again. */
void saved_run_requests(struct croft_mount *mount);

#endif
