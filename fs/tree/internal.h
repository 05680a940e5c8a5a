/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of fs/tree share. */
#ifndef CROFT_FS_TREE_INTERNAL_H
#define CROFT_FS_TREE_INTERNAL_H

#include "fs/tree.h"

/* Directories below one another. A path of more is longer than the kernel's PATH_MAX allows to be
 * opened in one call by names of three bytes; recursion over a tree ends here. */
enum { TREE_DEPTH_LIMIT = 1024 };

/* A name that may stand in a Directory: not empty, ".", "..", nor with '/' or NUL in it. */
bool tree_name_check(struct croft_slice name, const char *what, struct croft_error *err);

/* Reads, decodes and checks; the empty blob is the empty Directory and is never asked for. */
Reapi__Directory *tree_read(const struct croft_tree_source *source,
	const struct croft_digest *digest, struct croft_arena *arena, struct croft_error *err);

/* Entries of a checked Directory in name order, files, directories and symlinks together. */
struct tree_cursor {
	const Reapi__Directory *directory;
	size_t file, subdirectory, symlink;
};
bool tree_cursor_next(struct tree_cursor *cursor, struct croft_tree_entry *entry);

bool tree_depth_error(struct croft_error *err);

/* Puts "<path>/" before further components; grows as it must. */
struct tree_path {
	char *data;
	size_t size, room;
};
/* Appends a component; returns the size to cut back to afterwards. */
size_t tree_path_push(struct tree_path *path, struct croft_slice name);
void tree_path_cut(struct tree_path *path, size_t size);
void tree_path_finish(struct tree_path *path);

/* N-way merge (merge.c) ------------------------------------------------------------------- */

/* One Directory of several that stand at the same path; later ones win where `replace` is set. */
struct tree_layer {
	struct croft_digest digest;
	bool replace;
};
/* They grow in the arena of whoever owns them. */
struct tree_layers {
	struct tree_layer *items;
	size_t count, room;
};
/* Leaves out what would change nothing. */
void tree_layers_add(struct tree_layers *layers, struct croft_arena *arena,
	const struct croft_digest *digest, bool replace);

/* What stands under one name after all layers were looked at: a directory holds its layers. */
struct tree_merged {
	struct croft_tree_entry entry;
	struct tree_layers layers;
};
/* Puts `entry` over `merged` (which holds something already). The path is for the error. */
bool tree_merge_entry(struct tree_merged *merged, const struct croft_tree_entry *entry, bool replace,
	struct croft_arena *arena, const struct tree_path *path, struct croft_error *err);
/* One level: the entries of all layers, in name order, in the arena. */
bool tree_merge_level(const struct croft_tree_source *source, const struct tree_layers *layers,
	struct croft_arena *arena, const struct tree_path *path, struct tree_merged **merged,
	size_t *count, const Reapi__NodeProperties **properties, struct croft_error *err);

typedef bool tree_emit(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err);

/* Whole trees: remembers the result of each list of layers. */
struct tree_merger {
	const struct croft_tree_source *source;
	tree_emit *emit;
	void *user;
	struct croft_arena *arena; /* of the memo */
	void *memo;                /* tsearch tree of struct memo_entry */
	struct tree_path path;
	unsigned depth;
};
void tree_merger_init(struct tree_merger *merger, const struct croft_tree_source *source,
	tree_emit *emit, void *user);
void tree_merger_finish(struct tree_merger *merger);
/* The digest of the merged Directory, whose new messages were emitted. */
bool tree_merge(struct tree_merger *merger, const struct tree_layers *layers,
	struct croft_digest *digest, struct croft_error *err);
/* Encodes the entries (in name order, directories with their final digest) and emits the message. */
bool tree_write(struct tree_merger *merger, const struct croft_tree_entry *entries, size_t count,
	const Reapi__NodeProperties *properties, struct croft_digest *digest,
	struct croft_error *err);

#endif
