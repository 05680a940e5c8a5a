/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merging: several Directories that stand at one path become one. A subtree that only one of them
 * has is taken by its digest, unread; a list of layers that was merged before is not merged again.
 */
#include "fs/tree/internal.h"

#include "proto/base/cleanup.h"
#include "proto/rpc/message.h"

#include <search.h>

void tree_layers_add(struct tree_layers *layers, struct croft_arena *arena,
	const struct croft_digest *digest, bool replace)
{
	/* Without `replace` a layer that is there already adds nothing; with it, only the topmost. */
	for (size_t i = layers->count; i-- > 0;) {
		if (croft_digest_equal(&layers->items[i].digest, digest))
			return;
		if (replace)
			break;
	}
	if (layers->count == layers->room) {
		struct tree_layer *old = layers->items;
		layers->room = layers->room ? layers->room * 2 : 2;
		layers->items = croft_arena_array(arena, layers->room, sizeof(*old));
		if (layers->count)
			memcpy(layers->items, old, layers->count * sizeof(*old));
	}
	layers->items[layers->count++] = (struct tree_layer){*digest, replace};
}

static const char *kind_name(enum croft_entry_kind kind)
{
	return kind == CROFT_ENTRY_FILE ? "file" : kind == CROFT_ENTRY_SYMLINK ? "symlink" : "directory";
}

static bool conflict(const struct croft_tree_entry *a, const struct croft_tree_entry *b,
	const struct tree_path *path, struct croft_error *err)
{
	const char *parent = path->size ? path->data : "", *slash = path->size ? "/" : "";
	if (a->kind != b->kind)
		return croft_error_set(err, CROFT_ALREADY_EXISTS, "%s%s%.*s: a %s and a %s want this place",
			parent, slash, (int)b->name.size, (const char *)b->name.data, kind_name(a->kind),
			kind_name(b->kind));
	if (a->kind == CROFT_ENTRY_SYMLINK)
		return croft_error_set(err, CROFT_ALREADY_EXISTS,
			"%s%s%.*s: two symlinks want this place, to \"%.*s\" and to \"%.*s\"", parent, slash,
			(int)b->name.size, (const char *)b->name.data, (int)a->target.size,
			(const char *)a->target.data, (int)b->target.size, (const char *)b->target.data);
	char first[CROFT_DIGEST_TEXT], second[CROFT_DIGEST_TEXT];
	croft_digest_format(&a->digest, '-', first);
	croft_digest_format(&b->digest, '-', second);
	bool mode = croft_digest_equal(&a->digest, &b->digest);
	return croft_error_set(err, CROFT_ALREADY_EXISTS,
		mode ? "%s%s%.*s: one file wants this place executable, another the same not (%s, %s)"
		     : "%s%s%.*s: two different files want this place, %s and %s",
		parent, slash, (int)b->name.size, (const char *)b->name.data, first, second);
}

static bool same(const struct croft_tree_entry *a, const struct croft_tree_entry *b)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind == CROFT_ENTRY_SYMLINK)
		return croft_slice_equal(a->target, b->target);
	return croft_digest_equal(&a->digest, &b->digest) && a->executable == b->executable;
}

bool tree_merge_entry(struct tree_merged *merged, const struct croft_tree_entry *entry, bool replace,
	struct croft_arena *arena, const struct tree_path *path, struct croft_error *err)
{
	bool both_directories = merged->entry.kind == CROFT_ENTRY_DIRECTORY &&
		entry->kind == CROFT_ENTRY_DIRECTORY;
	if (!both_directories && !replace)
		return same(&merged->entry, entry) || conflict(&merged->entry, entry, path, err);
	if (!both_directories) {
		merged->entry = *entry;
		merged->layers = (struct tree_layers){0};
	}
	if (entry->kind == CROFT_ENTRY_DIRECTORY)
		tree_layers_add(&merged->layers, arena, &entry->digest, replace);
	return true;
}

/* One entry of one layer, to be brought into name order over all layers. */
struct candidate {
	struct croft_tree_entry entry;
	size_t layer;
};

static int compare_candidates(const void *a, const void *b)
{
	const struct candidate *one = a, *other = b;
	int order = croft_slice_compare(one->entry.name, other->entry.name);
	return order ? order : (one->layer > other->layer) - (one->layer < other->layer);
}

static size_t entry_count(const Reapi__Directory *directory)
{
	return directory->n_files + directory->n_directories + directory->n_symlinks;
}

static bool read_layers(const struct croft_tree_source *source, const struct tree_layers *layers,
	struct croft_arena *arena, struct candidate **candidates, size_t *count,
	const Reapi__NodeProperties **properties, struct croft_error *err)
{
	const Reapi__Directory **directories =
		croft_arena_array(arena, layers->count, sizeof(*directories));
	*count = 0;
	for (size_t i = 0; i < layers->count; i++) {
		directories[i] = tree_read(source, &layers->items[i].digest, arena, err);
		if (!directories[i])
			return false;
		*count += entry_count(directories[i]);
		if (directories[i]->node_properties && (!*properties || layers->items[i].replace))
			*properties = directories[i]->node_properties;
	}
	*candidates = croft_arena_array(arena, *count, sizeof(**candidates));
	size_t filled = 0;
	for (size_t i = 0; i < layers->count; i++) {
		struct tree_cursor cursor = {.directory = directories[i]};
		while (tree_cursor_next(&cursor, &(*candidates)[filled].entry))
			(*candidates)[filled++].layer = i;
	}
	if (layers->count > 1)
		qsort(*candidates, *count, sizeof(**candidates), compare_candidates);
	return true;
}

bool tree_merge_level(const struct croft_tree_source *source, const struct tree_layers *layers,
	struct croft_arena *arena, const struct tree_path *path, struct tree_merged **merged,
	size_t *count, const Reapi__NodeProperties **properties, struct croft_error *err)
{
	struct candidate *candidates;
	size_t candidate_count;
	*properties = NULL;
	if (!read_layers(source, layers, arena, &candidates, &candidate_count, properties, err))
		return path->size ? croft_error_wrap(err, "%s", path->data) : false;
	struct tree_merged *all = croft_arena_array(arena, candidate_count, sizeof(*all));
	size_t used = 0;
	for (size_t i = 0; i < candidate_count; i++) {
		const struct croft_tree_entry *entry = &candidates[i].entry;
		bool replace = layers->items[candidates[i].layer].replace;
		if (used && croft_slice_equal(all[used - 1].entry.name, entry->name)) {
			if (!tree_merge_entry(&all[used - 1], entry, replace, arena, path, err))
				return false;
			continue;
		}
		all[used].entry = *entry;
		if (entry->kind == CROFT_ENTRY_DIRECTORY)
			tree_layers_add(&all[used].layers, arena, &entry->digest, replace);
		used++;
	}
	*merged = all;
	*count = used;
	return true;
}

/* Whole trees ----------------------------------------------------------------------------- */

struct memo_entry {
	struct croft_digest result;
	size_t count;
	struct tree_layer layers[];
};

static int compare_memo(const void *a, const void *b)
{
	const struct memo_entry *one = a, *other = b;
	if (one->count != other->count)
		return one->count < other->count ? -1 : 1;
	for (size_t i = 0; i < one->count; i++) {
		int order = memcmp(one->layers[i].digest.hash, other->layers[i].digest.hash,
			CROFT_HASH_SIZE);
		if (!order)
			order = one->layers[i].replace - other->layers[i].replace;
		if (order)
			return order;
	}
	return 0;
}

void tree_merger_init(struct tree_merger *merger, const struct croft_tree_source *source,
	tree_emit *emit, void *user)
{
	*merger = (struct tree_merger){
		.source = source, .emit = emit, .user = user, .arena = croft_arena_create()};
}

static void keep(void *memory)
{
}

void tree_merger_finish(struct tree_merger *merger)
{
	tdestroy(merger->memo, keep);
	tree_path_finish(&merger->path);
	croft_arena_destroy(merger->arena);
}

static struct croft_slice encode(const struct croft_tree_entry *entries, size_t count,
	const Reapi__NodeProperties *properties, struct croft_arena *arena)
{
	Reapi__Directory directory = REAPI__DIRECTORY__INIT;
	directory.node_properties = (Reapi__NodeProperties *)properties;
	directory.files = croft_arena_array(arena, count, sizeof(void *));
	directory.directories = croft_arena_array(arena, count, sizeof(void *));
	directory.symlinks = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++) {
		const struct croft_tree_entry *entry = &entries[i];
		char *name = croft_arena_strndup(arena, entry->name.data, entry->name.size);
		if (entry->kind == CROFT_ENTRY_FILE) {
			Reapi__FileNode *node = croft_arena_alloc(arena, sizeof(*node));
			reapi__file_node__init(node);
			node->name = name;
			node->digest = croft_digest_to_message(&entry->digest, arena);
			node->is_executable = entry->executable;
			node->node_properties = (Reapi__NodeProperties *)entry->properties;
			directory.files[directory.n_files++] = node;
		} else if (entry->kind == CROFT_ENTRY_DIRECTORY) {
			Reapi__DirectoryNode *node = croft_arena_alloc(arena, sizeof(*node));
			reapi__directory_node__init(node);
			node->name = name;
			node->digest = croft_digest_to_message(&entry->digest, arena);
			directory.directories[directory.n_directories++] = node;
		} else {
			Reapi__SymlinkNode *node = croft_arena_alloc(arena, sizeof(*node));
			reapi__symlink_node__init(node);
			node->name = name;
			node->target = croft_arena_strndup(arena, entry->target.data, entry->target.size);
			node->node_properties = (Reapi__NodeProperties *)entry->properties;
			directory.symlinks[directory.n_symlinks++] = node;
		}
	}
	return croft_message_encode(&directory.base, arena);
}

bool tree_write(struct tree_merger *merger, const struct croft_tree_entry *entries, size_t count,
	const Reapi__NodeProperties *properties, struct croft_digest *digest, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice bytes = encode(entries, count, properties, arena);
	*digest = croft_digest_of(bytes.data, bytes.size);
	return croft_digest_is_empty(digest) || merger->emit(merger->user, digest, bytes, err);
}

static bool merge_read(struct tree_merger *merger, const struct tree_layers *layers,
	struct croft_digest *digest, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct tree_merged *merged;
	size_t count;
	const Reapi__NodeProperties *properties;
	if (!tree_merge_level(merger->source, layers, arena, &merger->path, &merged, &count, &properties,
		    err))
		return false;
	struct croft_tree_entry *entries = croft_arena_array(arena, count, sizeof(*entries));
	for (size_t i = 0; i < count; i++) {
		entries[i] = merged[i].entry;
		if (entries[i].kind != CROFT_ENTRY_DIRECTORY)
			continue;
		size_t before = tree_path_push(&merger->path, entries[i].name);
		if (!tree_merge(merger, &merged[i].layers, &entries[i].digest, err))
			return false;
		tree_path_cut(&merger->path, before);
	}
	return tree_write(merger, entries, count, properties, digest, err);
}

bool tree_merge(struct tree_merger *merger, const struct tree_layers *layers,
	struct croft_digest *digest, struct croft_error *err)
{
	if (layers->count == 1) {
		*digest = layers->items[0].digest;
		return true;
	}
	struct memo_entry *entry = croft_arena_alloc(merger->arena,
		sizeof(*entry) + layers->count * sizeof(entry->layers[0]));
	entry->count = layers->count;
	memcpy(entry->layers, layers->items, layers->count * sizeof(entry->layers[0]));
	void *found = tfind(entry, &merger->memo, compare_memo);
	if (found) {
		*digest = (*(struct memo_entry **)found)->result;
		return true;
	}
	if (merger->depth == TREE_DEPTH_LIMIT)
		return tree_depth_error(err);
	merger->depth++;
	if (!merge_read(merger, layers, &entry->result, err))
		return false;
	merger->depth--;
	if (!tsearch(entry, &merger->memo, compare_memo))
		abort();
	*digest = entry->result;
	return true;
}
