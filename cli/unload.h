/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bringing trees out of a farm: into a local directory, or as a tar stream. */
#ifndef CROFT_CLI_UNLOAD_H
#define CROFT_CLI_UNLOAD_H

#include "fs/remote.h"

struct unload_stat {
	uint64_t files, bytes;
};

/* What stands at `entry` becomes `path`: a directory is made if it is missing and must be empty; a
 * file or symlink must not be there. With `force` what is in the way is replaced. */
bool unload_to_path(struct croft_remote *remote, const struct croft_tree_entry *entry,
	const char *path, bool force, struct unload_stat *stat, struct croft_error *err);

/* A pax archive with the same bytes for the same tree: mtime is the node's own or a fixed one, owner
 * and group are 0. `filter` names a compression of libarchive, or NULL. */
bool unload_to_tar(struct croft_remote *remote, const struct croft_digest *root, int fd,
	const char *filter, struct unload_stat *stat, struct croft_error *err);

/* The entries of a whole tree in walk order, in the arena. */
struct listed {
	struct croft_slice path;
	struct croft_tree_entry entry;
};
bool list_tree(struct croft_remote *remote, const struct croft_digest *root,
	struct croft_arena *arena, struct listed **listed, size_t *count, struct croft_error *err);

/* Reads the contents of the files from listed[*at] on that fit into one round trip; data[i] belongs
 * to listed[*at + i]. Files too large for that come alone, with data NULL: they are to be streamed. */
enum { WINDOW_FILES = 1024 };
size_t read_window(struct croft_remote *remote, const struct listed *listed, size_t count,
	struct croft_arena *arena, struct croft_slice data[WINDOW_FILES], struct croft_error *err);

#endif
