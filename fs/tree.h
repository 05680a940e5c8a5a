/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merkle trees of REAPI Directory messages: checking, building, merging, walking.
 */
#ifndef CROFT_FS_TREE_H
#define CROFT_FS_TREE_H

#include "fs/digest.h"
#include "proto/base/arena.h"

#include <time.h>

/* The canonical form that REAPI asks for: names sorted by bytes, none twice (over files,
 * directories and symlinks together), none empty, ".", "..", or with '/' or NUL; every digest well
 * formed; symlinks with a target. INVALID_ARGUMENT names the entry. */
bool croft_directory_check(const Reapi__Directory *directory, struct croft_error *err);
/* Decode and check. The message lives in the arena. */
Reapi__Directory *croft_directory_decode(struct croft_slice bytes, struct croft_arena *arena,
	struct croft_error *err);

/* Where Directory messages come from: the local store, a remote CAS, a Tree in memory. Returns the
 * blob's bytes, in the arena. */
struct croft_tree_source {
	bool (*read)(void *user, const struct croft_digest *digest, struct croft_arena *arena,
		struct croft_slice *bytes, struct croft_error *err);
	void *user;
};

/* Finds the entry at a relative path ("" is the root itself). Symlinks are not followed. NOT_FOUND
 * says which part is missing. */
struct croft_tree_entry {
	enum croft_entry_kind { CROFT_ENTRY_FILE, CROFT_ENTRY_DIRECTORY, CROFT_ENTRY_SYMLINK } kind;
	struct croft_slice name;
	struct croft_digest digest;  /* file, directory */
	bool executable;             /* file */
	struct croft_slice target;   /* symlink */
	const Reapi__NodeProperties *properties; /* or NULL */
};
bool croft_tree_lookup(const struct croft_tree_source *source, const struct croft_digest *root,
	struct croft_slice path, struct croft_arena *arena, struct croft_tree_entry *entry,
	struct croft_error *err);

/* The entries of one Directory in name order, in the arena; nothing below it is read. */
bool croft_tree_list(const struct croft_tree_source *source, const struct croft_digest *directory,
	struct croft_arena *arena, struct croft_tree_entry **entries, size_t *count,
	struct croft_error *err);

/* Depth first, entries of a directory in name order, directories before what is in them and with the properties that
 * their own messages have. `path` is relative without a leading '/'. Return false from visit to stop (with err set: an error). */
typedef bool croft_tree_visit(void *user, struct croft_slice path,
	const struct croft_tree_entry *entry, struct croft_error *err);
bool croft_tree_walk(const struct croft_tree_source *source, const struct croft_digest *root,
	croft_tree_visit *visit, void *user, struct croft_error *err);

/* Files, directories and total file bytes below a root (each occurrence counts). Memoised within
 * the call, so its cost is that of the distinct directories. */
struct croft_tree_totals {
	uint64_t files, directories, symlinks, bytes;
};
bool croft_tree_measure(const struct croft_tree_source *source, const struct croft_digest *root,
	struct croft_tree_totals *totals, struct croft_error *err);

/* What a tree keeps beside names, contents, links and executable bits. */
struct croft_tree_keep {
	bool modes, mtimes;
};
/* As an entry's properties, in the arena; NULL: there is nothing to keep. `mode` with its kind; mtime may be NULL. A
 * symlink has no mode of its own. */
const Reapi__NodeProperties *croft_tree_properties(struct croft_tree_keep keep, uint32_t mode,
	const struct timespec *mtime, struct croft_arena *arena);

/* Permissions and time of what has such properties (or NULL), the same wherever it is shown: a file that is executable has
 * a bit that says so; what has no time has that of 2011-11-11T11:11:11Z, as build tools of this kind show it. */
uint32_t croft_tree_mode(enum croft_entry_kind kind, bool executable, const Reapi__NodeProperties *properties);
struct timespec croft_tree_mtime(const Reapi__NodeProperties *properties);
/* Those of a tree's root itself, in the arena; *properties is NULL when it has none. */
bool croft_tree_root_properties(const struct croft_tree_source *source, const struct croft_digest *root,
	struct croft_arena *arena, const Reapi__NodeProperties **properties, struct croft_error *err);

/* Building: a tree in memory, to which files, links and whole subtrees are added by path, in any
 * order; parents are made. Adding a directory where one stands merges the two (reading the Directory
 * messages from `source`, never a file); two different entries of one name are ALREADY_EXISTS
 * naming the path, unless `replace`. */
struct croft_tree_builder;
struct croft_tree_builder *croft_tree_builder_create(const struct croft_tree_source *source);
void croft_tree_builder_destroy(struct croft_tree_builder *builder);
void croft_tree_builder_replace(struct croft_tree_builder *builder, bool replace);
bool croft_tree_builder_add(struct croft_tree_builder *builder, struct croft_slice path,
	const struct croft_tree_entry *entry, struct croft_error *err);
/* Hands out every new Directory message (children before parents), then the root's digest. */
bool croft_tree_builder_finish(struct croft_tree_builder *builder,
	bool (*emit)(void *user, const struct croft_digest *digest, struct croft_slice bytes,
		struct croft_error *err),
	void *user, struct croft_digest *root, struct croft_error *err);

#endif
