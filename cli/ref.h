/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How people name content: "<hash>-<size>" (or with '/') is a Directory by digest, or an Action, which stands for its
 * job as a tree (cli/view.h); anything else is a name that `croft import --name` gave, or that of a job's operation.
 * ":PATH" behind it is a place in that tree.
 */
#ifndef CROFT_CLI_REF_H
#define CROFT_CLI_REF_H

#include "cli/connect.h"

struct ref {
	struct croft_slice name;  /* as given; borrowed from the text */
	bool by_digest;
	struct croft_digest digest; /* when by_digest */
	struct croft_slice path;  /* without slashes at either end; "" when there is none */
	bool has_path;            /* a ':' was there */
};

bool ref_parse(const char *text, struct ref *ref, struct croft_error *err);
/* A name that can be told from a digest and from a path. */
bool ref_name_check(struct croft_slice name, struct croft_error *err);

/* The Directory that the ref stands for, without its path. NOT_FOUND says which name is unknown. */
bool ref_root(struct client *client, const struct ref *ref, struct croft_digest *root,
	struct croft_error *err);
/* The Directory that was pushed with that URI; NOT_FOUND: none was. */
bool ref_asset(struct client *client, const char *uri, struct croft_digest *root, struct croft_error *err);
/* The entry at the ref's path; names and targets in the arena. Symlinks on the way are followed inside
 * the tree, and the last one too when `follow`. */
bool ref_entry(struct client *client, const struct ref *ref, bool follow,
	struct croft_arena *arena, struct croft_tree_entry *entry, struct croft_error *err);
/* The same, when it must be a Directory. */
bool ref_directory(struct client *client, const char *text, struct croft_digest *directory,
	struct croft_error *err);

/* A path as the tree's symlinks lead: "..", absolute targets and all stay inside the root. */
bool tree_follow(const struct croft_tree_source *source, const struct croft_digest *root,
	struct croft_slice path, bool follow_last, struct croft_arena *arena,
	struct croft_tree_entry *entry, struct croft_error *err);

/* Gives the tree a name, in place of what had it. */
bool ref_store(struct client *client, const char *name, const struct croft_digest *root,
	struct croft_error *err);

#endif
