/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * System calls done to the end: interrupted and partial ones are gone on with.
 */
#ifndef CROFT_BASE_IO_H
#define CROFT_BASE_IO_H

#include "proto/base/error.h"
#include "proto/base/slice.h"

#include <stdint.h>
#include <sys/types.h>

/* The whole buffer or an error that names `what`. */
bool croft_write_all(int fd, const void *data, size_t size, const char *what,
	struct croft_error *err);
bool croft_pwrite_all(int fd, const void *data, size_t size, uint64_t offset, const char *what,
	struct croft_error *err);
/* Exactly size bytes; an early end is DATA_LOSS. */
bool croft_read_all(int fd, void *data, size_t size, const char *what, struct croft_error *err);
bool croft_pread_all(int fd, void *data, size_t size, uint64_t offset, const char *what,
	struct croft_error *err);

/* The whole file as malloc'ed bytes with a NUL behind them; RESOURCE_EXHAUSTED past `limit`. */
bool croft_read_file(int dirfd, const char *path, size_t limit, char **data, size_t *size,
	struct croft_error *err);
/* Replaces the file by a synced rename, so that after a crash the old or the new text stands. */
bool croft_write_file(int dirfd, const char *path, const void *data, size_t size, int mode,
	struct croft_error *err);

/* Makes the directory and its parents, mode 0755; one that is there is fine. */
bool croft_make_directories(const char *path, struct croft_error *err);
/* Removes a whole tree without crossing mounts or following symlinks; a missing one is fine. */
bool croft_remove_tree(int dirfd, const char *path, struct croft_error *err);

uint64_t croft_now_ns(void); /* monotonic */
int64_t croft_unix_ns(void); /* wall clock */

#endif
