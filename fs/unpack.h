/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Archives into trees: tar, zip and cpio, plain or compressed, and Debian packages (their data). It is read once, as a
 * stream, in bounded memory; its files are handed out with their digests, and stand in a tree builder at the end.
 *
 *	struct croft_unpacking archive = {.name = "x.tar", .read = read_file, .builder = builder, .small = put,
 *		.make_file = make_file, .large = put_file, .user = me, .bounds = {.bytes = 1 << 30}};
 *	bool ok = croft_unpack(&archive, &err);
 *
 * What is wrong with the archive is INVALID_ARGUMENT: a damaged one, a name that leads outside, a hard link to what does
 * not stand before it. Of a path that comes twice the later counts. No program is ever run for a compression.
 */
#ifndef CROFT_FS_UNPACK_H
#define CROFT_FS_UNPACK_H

#include "fs/tree.h"

#include <sys/types.h>

enum { CROFT_UNPACK_SMALL = 1 << 20 }; /* files below this are handed out from memory */

/* 0: none. Of what comes out, however little goes in; more is RESOURCE_EXHAUSTED. */
struct croft_unpack_bounds {
	uint64_t entries;
	uint64_t bytes;      /* of all files */
	uint64_t name_bytes; /* of all names and targets: they are in memory until the end */
	uint64_t name_size;  /* of one */
	unsigned depth;
};

struct croft_unpacking {
	const char *name; /* for messages */
	/* Bytes at the offset, which only goes forward unless `seekable`; 0: the end. */
	ssize_t (*read)(void *user, void *buffer, size_t size, uint64_t offset, struct croft_error *err);
	bool seekable;
	uint64_t size_bytes; /* of a seekable one */

	struct croft_tree_builder *builder; /* borrowed */
	const char *under;                  /* where in it; NULL: its root */
	struct croft_tree_keep keep;
	/* A small file, for as long as the call lasts. */
	bool (*small)(void *user, const struct croft_digest *digest, struct croft_slice data, struct croft_error *err);
	/* A large one goes into a new file (-1: failed), then that is handed out, and closed. */
	int (*make_file)(void *user, struct croft_error *err);
	bool (*large)(void *user, const struct croft_digest *digest, int fd, struct croft_error *err);
	/* Told of what no tree can hold (fifos, devices), which is left out; an absolute name loses its slash. NULL: both
	 * are refused. */
	void (*skip)(void *user, const char *path);
	/* Asked for each entry and piece; false ends it. NULL: it always goes on. */
	bool (*go_on)(void *user, struct croft_error *err);
	void *user;
	struct croft_unpack_bounds bounds;
};

bool croft_unpack(const struct croft_unpacking *archive, struct croft_error *err);

#endif
