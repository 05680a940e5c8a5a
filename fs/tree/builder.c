/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The builder's tree in memory. A directory in it is closed or open. A closed one is the list of
 * Directories that were added there, still unread: merging them waits for finish, so that adding
 * hundreds of artifacts costs nothing per file. It is opened, one level, when something is added
 * below it.
 */
#include "fs/tree/internal.h"

#include "proto/base/cleanup.h"
#include "proto/rpc/message.h"

#include <search.h>

struct node {
	struct tree_merged here; /* the entry; for a closed directory its layers */
	bool open;
	void *children; /* tsearch tree of struct node by name, of an open directory */
	size_t child_count;
};

struct croft_tree_builder {
	struct croft_tree_source source;
	struct croft_arena *arena; /* nodes, names, targets, properties, layers */
	struct node root;
	bool replace;
};

static int compare_nodes(const void *a, const void *b)
{
	return croft_slice_compare(((const struct node *)a)->here.entry.name,
		((const struct node *)b)->here.entry.name);
}

struct croft_tree_builder *croft_tree_builder_create(const struct croft_tree_source *source)
{
	struct croft_tree_builder *builder = croft_zalloc(sizeof(*builder));
	builder->source = *source;
	builder->arena = croft_arena_create();
	builder->root.here.entry.kind = CROFT_ENTRY_DIRECTORY;
	builder->root.open = true;
	return builder;
}

/* The memory is the arena's; the search trees are not. */
static void destroy_children(void *memory)
{
	struct node *node = memory;
	tdestroy(node->children, destroy_children);
	node->children = NULL;
	node->child_count = 0;
}

void croft_tree_builder_destroy(struct croft_tree_builder *builder)
{
	if (!builder)
		return;
	destroy_children(&builder->root);
	croft_arena_destroy(builder->arena);
	free(builder);
}

void croft_tree_builder_replace(struct croft_tree_builder *builder, bool replace)
{
	builder->replace = replace;
}

static struct croft_slice copy_slice(struct croft_arena *arena, struct croft_slice slice)
{
	return CROFT_SLICE(croft_arena_strndup(arena, slice.data, slice.size), slice.size);
}

static const Reapi__NodeProperties *copy_properties(struct croft_arena *arena,
	const Reapi__NodeProperties *properties)
{
	if (!properties)
		return NULL;
	const Reapi__NodeProperties *copy = croft_message_decode(&reapi__node_properties__descriptor,
		croft_message_encode(&properties->base, arena), arena, NULL, NULL);
	if (!copy)
		abort(); /* what was just encoded decodes */
	return copy;
}

static struct croft_tree_entry copy_entry(struct croft_arena *arena,
	const struct croft_tree_entry *entry)
{
	struct croft_tree_entry copy = *entry;
	copy.name = copy_slice(arena, entry->name);
	copy.target = copy_slice(arena, entry->target);
	copy.properties = copy_properties(arena, entry->properties);
	return copy;
}

static struct node *find_child(const struct node *directory, struct croft_slice name)
{
	struct node key = {.here.entry.name = name};
	void *found = tfind(&key, &directory->children, compare_nodes);
	return found ? *(struct node **)found : NULL;
}

/* `merged` without its layers' room: they are copied. */
static struct node *add_child(struct croft_tree_builder *builder, struct node *directory,
	const struct tree_merged *merged)
{
	struct node *node = croft_arena_zalloc(builder->arena, sizeof(*node));
	node->here.entry = copy_entry(builder->arena, &merged->entry);
	for (size_t i = 0; i < merged->layers.count; i++)
		tree_layers_add(&node->here.layers, builder->arena, &merged->layers.items[i].digest,
			merged->layers.items[i].replace);
	if (!tsearch(node, &directory->children, compare_nodes))
		abort();
	directory->child_count++;
	return node;
}

/* Turns the layers of a closed directory into children. */
static bool open_node(struct croft_tree_builder *builder, struct node *node,
	const struct tree_path *path, struct croft_error *err)
{
	if (node->open)
		return true;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct tree_merged *merged;
	size_t count;
	const Reapi__NodeProperties *properties;
	if (!tree_merge_level(&builder->source, &node->here.layers, arena, path, &merged, &count,
		    &properties, err))
		return false;
	for (size_t i = 0; i < count; i++)
		add_child(builder, node, &merged[i]);
	node->here.entry.properties = copy_properties(builder->arena, properties);
	node->here.layers = (struct tree_layers){0};
	node->open = true;
	return true;
}

static bool put_child(struct croft_tree_builder *builder, struct node *directory,
	const struct croft_tree_entry *entry, struct tree_path *path, unsigned depth,
	struct croft_error *err);

/* Puts every entry of a Directory into an open node. */
static bool pour(struct croft_tree_builder *builder, struct node *node,
	const struct croft_digest *digest, struct tree_path *path, unsigned depth,
	struct croft_error *err)
{
	if (depth == TREE_DEPTH_LIMIT)
		return tree_depth_error(err);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const Reapi__Directory *directory = tree_read(&builder->source, digest, arena, err);
	if (!directory)
		return path->size ? croft_error_wrap(err, "%s", path->data) : false;
	if (directory->node_properties && (builder->replace || !node->here.entry.properties))
		node->here.entry.properties = copy_properties(builder->arena, directory->node_properties);
	struct tree_cursor cursor = {.directory = directory};
	for (struct croft_tree_entry entry; tree_cursor_next(&cursor, &entry);)
		if (!put_child(builder, node, &entry, path, depth + 1, err))
			return false;
	return true;
}

static bool put_directory(struct croft_tree_builder *builder, struct node *node,
	const struct croft_digest *digest, const Reapi__NodeProperties *properties,
	struct tree_path *path, unsigned depth, struct croft_error *err)
{
	if (properties && !open_node(builder, node, path, err))
		return false;
	if (!node->open)
		tree_layers_add(&node->here.layers, builder->arena, digest, builder->replace);
	else if (!pour(builder, node, digest, path, depth, err))
		return false;
	if (properties)
		node->here.entry.properties = copy_properties(builder->arena, properties);
	return true;
}

static bool put_child(struct croft_tree_builder *builder, struct node *directory,
	const struct croft_tree_entry *entry, struct tree_path *path, unsigned depth,
	struct croft_error *err)
{
	struct node *child = find_child(directory, entry->name);
	struct tree_merged fresh = {.entry = *entry};
	if (!child && entry->kind == CROFT_ENTRY_DIRECTORY)
		tree_layers_add(&fresh.layers, builder->arena, &entry->digest, builder->replace);
	if (!child) {
		child = add_child(builder, directory, &fresh);
		if (entry->kind != CROFT_ENTRY_DIRECTORY || !entry->properties)
			return true;
	}
	bool both_directories = child->here.entry.kind == CROFT_ENTRY_DIRECTORY &&
		entry->kind == CROFT_ENTRY_DIRECTORY;
	if (both_directories) {
		size_t before = tree_path_push(path, entry->name);
		bool ok = put_directory(builder, child, &entry->digest, entry->properties, path, depth, err);
		tree_path_cut(path, before);
		return ok;
	}
	struct tree_merged over = child->here;
	if (!tree_merge_entry(&over, entry, builder->replace, builder->arena, path, err))
		return false;
	if (!builder->replace)
		return true;
	destroy_children(child);
	child->open = false;
	child->here = over;
	child->here.entry = copy_entry(builder->arena, entry);
	return true;
}

/* The open directory called `name`, made or opened if it is not; a file in its place gives way only
 * with `replace`. */
static struct node *enter(struct croft_tree_builder *builder, struct node *directory,
	struct croft_slice name, struct tree_path *path, struct croft_error *err)
{
	struct node *child = find_child(directory, name);
	if (!child || child->here.entry.kind != CROFT_ENTRY_DIRECTORY) {
		struct croft_tree_entry entry = {
			.kind = CROFT_ENTRY_DIRECTORY, .name = name, .digest = croft_digest_empty};
		if (!put_child(builder, directory, &entry, path, 0, err))
			return NULL;
		child = find_child(directory, name);
	}
	tree_path_push(path, name);
	return open_node(builder, child, path, err) ? child : NULL;
}

static bool check_entry(const struct croft_tree_entry *entry, struct croft_slice path,
	struct croft_error *err)
{
	if (path.size == 0 && entry->kind != CROFT_ENTRY_DIRECTORY)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the root of a tree cannot be a file or a symlink");
	if (entry->kind == CROFT_ENTRY_SYMLINK &&
		(!entry->target.size || memchr(entry->target.data, '\0', entry->target.size)))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%.*s: a symlink needs a target without NUL bytes", (int)path.size,
			(const char *)path.data);
	return true;
}

static bool add_at(struct croft_tree_builder *builder, struct croft_slice path,
	const struct croft_tree_entry *entry, struct tree_path *walked, struct croft_error *err)
{
	struct node *directory = &builder->root;
	if (path.size == 0)
		return put_directory(builder, directory, &entry->digest, entry->properties, walked, 0, err);
	const char *text = path.data;
	unsigned depth = 0;
	for (size_t at = 0;; depth++) {
		const char *slash = memchr(text + at, '/', path.size - at);
		size_t end = slash ? (size_t)(slash - text) : path.size;
		struct croft_slice name = CROFT_SLICE(text + at, end - at);
		if (!tree_name_check(name, "path", err))
			return false;
		if (depth == TREE_DEPTH_LIMIT)
			return tree_depth_error(err);
		if (!slash) {
			struct croft_tree_entry named = *entry;
			named.name = name;
			return put_child(builder, directory, &named, walked, depth, err);
		}
		directory = enter(builder, directory, name, walked, err);
		if (!directory)
			return false;
		at = end + 1;
	}
}

bool croft_tree_builder_add(struct croft_tree_builder *builder, struct croft_slice path,
	const struct croft_tree_entry *entry, struct croft_error *err)
{
	if (!check_entry(entry, path, err))
		return false;
	struct tree_path walked = {0};
	bool ok = add_at(builder, path, entry, &walked, err);
	tree_path_finish(&walked);
	return ok;
}

/* Finishing --------------------------------------------------------------------------------- */

struct gather {
	struct node **nodes;
	size_t count;
};

static void gather_node(const void *place, VISIT visit, void *user)
{
	struct gather *gather = user;
	if (visit == postorder || visit == leaf)
		gather->nodes[gather->count++] = *(struct node *const *)place;
}

static bool finish_node(struct tree_merger *merger, const struct node *node,
	struct croft_digest *digest, struct croft_error *err)
{
	if (!node->open)
		return tree_merge(merger, &node->here.layers, digest, err);
	if (merger->depth == TREE_DEPTH_LIMIT)
		return tree_depth_error(err);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct gather gather = {croft_arena_array(arena, node->child_count, sizeof(void *)), 0};
	twalk_r(node->children, gather_node, &gather);
	struct croft_tree_entry *entries = croft_arena_array(arena, gather.count, sizeof(*entries));
	merger->depth++;
	for (size_t i = 0; i < gather.count; i++) {
		entries[i] = gather.nodes[i]->here.entry;
		if (entries[i].kind != CROFT_ENTRY_DIRECTORY)
			continue;
		size_t before = tree_path_push(&merger->path, entries[i].name);
		if (!finish_node(merger, gather.nodes[i], &entries[i].digest, err))
			return false;
		tree_path_cut(&merger->path, before);
	}
	merger->depth--;
	return tree_write(merger, entries, gather.count, node->here.entry.properties, digest, err);
}

bool croft_tree_builder_finish(struct croft_tree_builder *builder,
	bool (*emit)(void *user, const struct croft_digest *digest, struct croft_slice bytes,
		struct croft_error *err),
	void *user, struct croft_digest *root, struct croft_error *err)
{
	struct tree_merger merger;
	tree_merger_init(&merger, &builder->source, emit, user);
	bool ok = finish_node(&merger, &builder->root, root, err);
	tree_merger_finish(&merger);
	return ok;
}
