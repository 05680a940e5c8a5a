/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bringing local files into trees: a directory is hashed by several threads, an archive is read as a
 * stream. What is found is given to a tree builder and an upload; nothing is sent before its flush.
 */
#ifndef CROFT_CLI_LOAD_H
#define CROFT_CLI_LOAD_H

#include "fs/remote.h"

struct load {
	struct croft_tree_builder *builder;
	struct croft_upload *upload;
	/* The totals so far. */
	uint64_t files, bytes, skipped;
	/* Directories that files were taken from, open until load_finish. */
	int *directories;
	size_t directory_count;
	/* Of archives: bytes that wait to be sent, and the directory of large files; NULL: none yet. */
	uint64_t gathered_bytes, spooled_files;
	char *spool;
	int spool_fd;
	unsigned threads; /* 0: one per CPU */
	struct croft_tree_keep keep;
};

/* The builder and upload are made here. */
void load_init(struct load *load, struct croft_remote *remote, const struct croft_tree_source *source);
void load_finish(struct load *load);

/* Puts what stands below `path` at `under` ("" is the root of the tree). What no tree can hold
 * (fifos, sockets, devices) is left out with a warning. */
bool load_directory(struct load *load, const char *path, const char *under, struct croft_error *err);
/* A tar or zip archive in any compression, or a Debian package (its data). "-" is standard input. */
bool load_archive(struct load *load, const char *path, const char *under, struct croft_error *err);
/* One of the two, by what `path` is. */
bool load_path(struct load *load, const char *path, const char *under, struct croft_error *err);

/* Finishes the tree, uploads everything; the root's digest. */
bool load_upload(struct load *load, struct croft_digest *root, struct croft_upload_stat *stat,
	struct croft_error *err);

#endif
