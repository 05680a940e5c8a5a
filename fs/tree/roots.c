/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/roots.h"

#include "fs/digest_map.h"
#include "proto/base/cleanup.h"

#include <pthread.h>
#include <stdlib.h>
#include <xxhash.h>

enum {
	KNOWN_LIMIT = 1 << 18, /* Directories remembered: 25 MB; then it starts anew */
	FOUND_SLOTS = 256,     /* trees whose roots are remembered */
	DEPTH_LIMIT = 1024,
};

/* What is below a Directory. */
struct below {
	uint64_t bytes;
	bool has_heavy; /* parts */
};

struct found {
	struct croft_digest tree;
	struct croft_root *list; /* owned; NULL: a free slot */
	size_t count;
};

struct croft_roots {
	struct croft_tree_source source;
	pthread_mutex_t lock; /* guards: all below */
	struct croft_digest_map *known; /* to struct below in the arena */
	struct croft_arena *arena;
	struct found found[FOUND_SLOTS];
};

static void begin(struct croft_roots *roots)
{
	roots->known = croft_digest_map_create();
	roots->arena = croft_arena_create();
}

struct croft_roots *croft_roots_create(const struct croft_tree_source *source)
{
	struct croft_roots *roots = croft_zalloc(sizeof(*roots));
	roots->source = *source;
	pthread_mutex_init(&roots->lock, NULL);
	begin(roots);
	return roots;
}

static void forget(struct croft_roots *roots)
{
	croft_digest_map_destroy(roots->known);
	croft_arena_destroy(roots->arena);
}

void croft_roots_destroy(struct croft_roots *roots)
{
	if (!roots)
		return;
	forget(roots);
	for (size_t i = 0; i < FOUND_SLOTS; i++)
		free(roots->found[i].list);
	pthread_mutex_destroy(&roots->lock);
	free(roots);
}

static Reapi__Directory *read_directory(struct croft_roots *roots, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_error *err)
{
	struct croft_slice bytes = CROFT_SLICE("", 0);
	if (!croft_digest_is_empty(digest) &&
		!roots->source.read(roots->source.user, digest, arena, &bytes, err))
		return NULL;
	return croft_directory_decode(bytes, arena, err);
}

/* Sums ---------------------------------------------------------------------------------------------- */

static bool sum_up(struct croft_roots *roots, const struct croft_digest *digest, unsigned depth,
	struct below *sum, struct croft_error *err);

static bool add_child(struct croft_roots *roots, const Reapi__DirectoryNode *node, unsigned depth,
	struct below *sum, struct croft_error *err)
{
	struct croft_digest digest;
	struct below child;
	if (!croft_digest_from_message(node->digest, "a directory", &digest, err) ||
		!sum_up(roots, &digest, depth + 1, &child, err))
		return false;
	sum->bytes += child.bytes;
	sum->has_heavy |= child.bytes >= CROFT_ROOT_BYTES;
	return true;
}

static bool sum_up(struct croft_roots *roots, const struct croft_digest *digest, unsigned depth,
	struct below *sum, struct croft_error *err)
{
	const struct below *known = croft_digest_map_get(roots->known, digest);
	if (known) {
		*sum = *known;
		return true;
	}
	if (depth == DEPTH_LIMIT)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"directories stand in one another more than %d deep", DEPTH_LIMIT);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__Directory *directory = read_directory(roots, digest, arena, err);
	if (!directory)
		return false;
	*sum = (struct below){0};
	for (size_t i = 0; i < directory->n_files; i++) {
		uint64_t bytes = (uint64_t)directory->files[i]->digest->size_bytes;
		sum->bytes += bytes;
		sum->has_heavy |= bytes >= CROFT_ROOT_BYTES;
	}
	for (size_t i = 0; i < directory->n_directories; i++)
		if (!add_child(roots, directory->directories[i], depth, sum, err))
			return false;
	struct below *kept = croft_arena_alloc(roots->arena, sizeof(*kept));
	*kept = *sum;
	*croft_digest_map_at(roots->known, digest) = kept;
	return true;
}

/* Collecting ------------------------------------------------------------------------------------------ */

struct collection {
	struct croft_roots *roots;
	struct croft_digest_map *seen; /* shared subtrees are taken once */
	struct croft_root *list;
	size_t count, room;
};

static uint64_t label_below(uint64_t label, const char *name)
{
	return XXH3_64bits_withSeed(name, strlen(name), label + 1);
}

static void add(struct collection *collection, const struct croft_digest *digest, bool directory,
	uint64_t bytes, uint64_t label)
{
	if (collection->count == collection->room) {
		collection->room = collection->room * 2 + 64;
		collection->list =
			croft_realloc(collection->list, collection->room, sizeof(*collection->list));
	}
	collection->list[collection->count++] = (struct croft_root){*digest, directory, bytes, label};
}

static bool is_new(struct collection *collection, const struct croft_digest *digest)
{
	void **seen = croft_digest_map_at(collection->seen, digest);
	bool new = !*seen;
	*seen = collection;
	return new;
}

/* Below a Directory that has heavy parts; it was read before, so its depth is fine. */
static bool collect(struct collection *collection, const struct croft_digest *digest, uint64_t label,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__Directory *directory = read_directory(collection->roots, digest, arena, err);
	if (!directory)
		return false;
	for (size_t i = 0; i < directory->n_files; i++) {
		const Reapi__FileNode *node = directory->files[i];
		struct croft_digest file;
		if (!croft_digest_from_message(node->digest, "a file", &file, err))
			return false;
		if (file.size_bytes >= CROFT_ROOT_BYTES && is_new(collection, &file))
			add(collection, &file, false, file.size_bytes, label_below(label, node->name));
	}
	for (size_t i = 0; i < directory->n_directories; i++) {
		const Reapi__DirectoryNode *node = directory->directories[i];
		struct croft_digest child;
		struct below below;
		if (!croft_digest_from_message(node->digest, "a directory", &child, err) ||
			!sum_up(collection->roots, &child, 0, &below, err))
			return false;
		if (below.bytes < CROFT_ROOT_BYTES || !is_new(collection, &child))
			continue;
		uint64_t child_label = label_below(label, node->name);
		if (!below.has_heavy)
			add(collection, &child, true, below.bytes, child_label);
		else if (!collect(collection, &child, child_label, err))
			return false;
	}
	return true;
}

static int heaviest_first(const void *a, const void *b)
{
	const struct croft_root *one = a, *other = b;
	if (one->bytes != other->bytes)
		return one->bytes > other->bytes ? -1 : 1;
	return memcmp(one->digest.hash, other->digest.hash, CROFT_HASH_SIZE);
}

static bool find(struct croft_roots *roots, const struct croft_digest *tree, struct found *found,
	struct croft_error *err)
{
	struct below below;
	struct collection collection = {.roots = roots, .seen = croft_digest_map_create()};
	bool ok = sum_up(roots, tree, 0, &below, err);
	if (ok && below.has_heavy)
		ok = collect(&collection, tree, 0, err);
	else if (ok && below.bytes >= CROFT_ROOT_BYTES)
		add(&collection, tree, true, below.bytes, 0);
	croft_digest_map_destroy(collection.seen);
	if (!ok) {
		free(collection.list);
		return false;
	}
	if (collection.count)
		qsort(collection.list, collection.count, sizeof(*collection.list), heaviest_first);
	free(found->list);
	found->tree = *tree;
	found->list = collection.list ? collection.list : croft_alloc(1);
	found->count = collection.count < CROFT_ROOTS_MOST ? collection.count : CROFT_ROOTS_MOST;
	return true;
}

bool croft_roots_find(struct croft_roots *roots, const struct croft_digest *tree,
	struct croft_arena *arena, struct croft_root **list, size_t *count, struct croft_error *err)
{
	CROFT_LOCKED(&roots->lock);
	if (croft_digest_map_count(roots->known) > KNOWN_LIMIT) {
		forget(roots);
		begin(roots);
	}
	struct found *found = &roots->found[XXH3_64bits(tree->hash, CROFT_HASH_SIZE) % FOUND_SLOTS];
	if ((!found->list || !croft_digest_equal(&found->tree, tree)) && !find(roots, tree, found, err))
		return false;
	*list = croft_arena_copy(arena, found->list, found->count * sizeof(**list));
	*count = found->count;
	return true;
}
