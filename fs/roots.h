/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The heavy parts of a tree: blobs and subtrees of at least 1 MiB, whose presence on agents is worth
 * knowing. A subtree with a heavy part is not one itself, so that no byte counts twice; versions of a
 * tree share most of their roots.
 */
#ifndef CROFT_FS_ROOTS_H
#define CROFT_FS_ROOTS_H

#include "fs/tree.h"

enum { CROFT_ROOTS_MOST = 96, CROFT_ROOT_BYTES = 1 << 20 };

struct croft_root {
	struct croft_digest digest;
	bool directory;
	uint64_t bytes; /* of it and all below */
	uint64_t label; /* of its path: the same in the next version of the tree */
};

/* What stands below Directories, remembered. Thread-safe. */
struct croft_roots;
struct croft_roots *croft_roots_create(const struct croft_tree_source *source);
void croft_roots_destroy(struct croft_roots *roots);

/* The heaviest CROFT_ROOTS_MOST, the heaviest first; in the arena. */
bool croft_roots_find(struct croft_roots *roots, const struct croft_digest *tree,
	struct croft_arena *arena, struct croft_root **list, size_t *count, struct croft_error *err);

#endif
