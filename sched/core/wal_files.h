/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files of a log (wal.h), and the thread that fills new ones with zeros, and reads old ones, ahead of need. */
#ifndef CROFT_SCHED_WAL_FILES_H
#define CROFT_SCHED_WAL_FILES_H

#include "proto/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct wal_file {
	uint32_t segment;  /* that it is; 0: spare */
	uint64_t freed_at; /* the group from whose writing on it may be used again; 0: now */
	unsigned name;
	int fd, read_fd;
	uint64_t size;
	bool direct; /* fd: past the page cache */
	bool warm;   /* what it has is in the page cache, or will be */
};

struct wal_files;

/* Those that are there. */
struct wal_files *wal_files_open(const char *path, struct croft_error *err);
void wal_files_close(struct wal_files *files);
size_t wal_files_count(const struct wal_files *files);
struct wal_file *wal_files_at(const struct wal_files *files, size_t index);

/* A new one, all zeros, on disk with its name; waits for it where none is prepared. */
struct wal_file *wal_files_add(struct wal_files *files, struct croft_error *err);
/* One more will be wanted. */
void wal_files_prepare(struct wal_files *files);
/* It will be read soon: brought into the page cache, unless as many others are. */
void wal_files_warm(struct wal_files *files, struct wal_file *file);
/* It will not be read any more, and may be written. */
void wal_files_cool(struct wal_files *files, struct wal_file *file);
/* Removes a spare one. */
void wal_files_retire(struct wal_files *files, struct wal_file *file);

uint64_t wal_file_size(const struct wal_file *file);
bool wal_file_read(struct wal_file *file, uint64_t offset, void *data, size_t size, struct croft_error *err);
/* Returns when it is on disk. Address, offset and size are multiples of 4096. */
bool wal_file_write(struct wal_file *file, uint64_t offset, const void *data, size_t size,
	struct croft_error *err);

#endif
