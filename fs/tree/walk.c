/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Going over whole trees. */
#include "fs/tree/internal.h"

#include "proto/base/cleanup.h"

#include <search.h>

size_t tree_path_push(struct tree_path *path, struct croft_slice name)
{
	size_t before = path->size, need = path->size + name.size + 2;
	if (need > path->room) {
		path->room = need * 2;
		path->data = croft_realloc(path->data, path->room, 1);
	}
	if (path->size)
		path->data[path->size++] = '/';
	memcpy(path->data + path->size, name.data, name.size);
	path->size += name.size;
	path->data[path->size] = '\0';
	return before;
}

void tree_path_cut(struct tree_path *path, size_t size)
{
	path->size = size;
	if (path->data)
		path->data[size] = '\0';
}

void tree_path_finish(struct tree_path *path)
{
	free(path->data);
}

struct walk {
	const struct croft_tree_source *source;
	croft_tree_visit *visit;
	void *user;
	struct tree_path path;
	unsigned depth;
};

static bool visit_here(struct walk *walk, const struct croft_tree_entry *entry, struct croft_error *err)
{
	return walk->visit(walk->user, CROFT_SLICE(walk->path.data, walk->path.size), entry, err);
}

/* `entry`: as which it is visited; NULL: the root, which is not. */
static bool walk_directory(struct walk *walk, const struct croft_digest *digest, struct croft_tree_entry *entry,
	struct croft_error *err)
{
	if (walk->depth == TREE_DEPTH_LIMIT)
		return tree_depth_error(err);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct tree_cursor cursor = {.directory = tree_read(walk->source, digest, arena, err)};
	if (!cursor.directory)
		return walk->path.size ? croft_error_wrap(err, "%s", walk->path.data) : false;
	if (entry) {
		entry->properties = cursor.directory->node_properties;
		if (!visit_here(walk, entry, err))
			return false;
	}
	walk->depth++;
	bool ok = true;
	for (struct croft_tree_entry child; ok && tree_cursor_next(&cursor, &child);) {
		size_t before = tree_path_push(&walk->path, child.name);
		ok = child.kind == CROFT_ENTRY_DIRECTORY ? walk_directory(walk, &child.digest, &child, err)
							 : visit_here(walk, &child, err);
		tree_path_cut(&walk->path, before);
	}
	walk->depth--;
	return ok;
}

bool croft_tree_walk(const struct croft_tree_source *source, const struct croft_digest *root,
	croft_tree_visit *visit, void *user, struct croft_error *err)
{
	struct walk walk = {.source = source, .visit = visit, .user = user};
	bool ok = walk_directory(&walk, root, NULL, err);
	tree_path_finish(&walk.path);
	return ok;
}

/* Measuring: each distinct Directory once. */

struct measured {
	struct croft_digest digest;
	struct croft_tree_totals totals;
};

struct measure {
	const struct croft_tree_source *source;
	struct croft_arena *arena;
	void *memo;
	unsigned depth;
};

static int compare_measured(const void *a, const void *b)
{
	return memcmp(&((const struct measured *)a)->digest, &((const struct measured *)b)->digest,
		sizeof(struct croft_digest));
}

static bool add_totals(struct croft_tree_totals *to, const struct croft_tree_totals *from)
{
	return !__builtin_add_overflow(to->files, from->files, &to->files) &&
		!__builtin_add_overflow(to->directories, from->directories, &to->directories) &&
		!__builtin_add_overflow(to->symlinks, from->symlinks, &to->symlinks) &&
		!__builtin_add_overflow(to->bytes, from->bytes, &to->bytes);
}

static bool measure_directory(struct measure *measure, const struct croft_digest *digest,
	struct croft_tree_totals *totals, struct croft_error *err)
{
	struct measured *known = croft_arena_zalloc(measure->arena, sizeof(*known));
	known->digest = *digest;
	void *found = tfind(known, &measure->memo, compare_measured);
	if (found) {
		*totals = (*(struct measured **)found)->totals;
		return true;
	}
	if (measure->depth == TREE_DEPTH_LIMIT)
		return tree_depth_error(err);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct tree_cursor cursor = {.directory = tree_read(measure->source, digest, arena, err)};
	if (!cursor.directory)
		return false;
	measure->depth++;
	*totals = (struct croft_tree_totals){0};
	for (struct croft_tree_entry entry; tree_cursor_next(&cursor, &entry);) {
		struct croft_tree_totals one = {0};
		if (entry.kind == CROFT_ENTRY_FILE) {
			one.files = 1;
			one.bytes = entry.digest.size_bytes;
		} else if (entry.kind == CROFT_ENTRY_SYMLINK) {
			one.symlinks = 1;
		} else {
			if (!measure_directory(measure, &entry.digest, &one, err))
				return croft_error_wrap(err, "%.200s", (const char *)entry.name.data);
			one.directories++;
		}
		if (!add_totals(totals, &one))
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"the tree claims more than 2^64 files or bytes");
	}
	measure->depth--;
	known->totals = *totals;
	if (!tsearch(known, &measure->memo, compare_measured))
		abort();
	return true;
}

static void keep(void *memory)
{
}

bool croft_tree_measure(const struct croft_tree_source *source, const struct croft_digest *root,
	struct croft_tree_totals *totals, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct measure measure = {.source = source, .arena = arena};
	bool ok = measure_directory(&measure, root, totals, err);
	tdestroy(measure.memo, keep);
	return ok;
}
