/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Closures: a root and all that it reaches. A walk pins every blob that it finds, so that at its end all are there at
 * the same time; then the pins are turned into leases, or stay as a hold, or (something was missing) are taken back.
 * What it found complete it leaves behind as nodes (node.h), which the next one does not walk into.
 */
#include "fs/store/digests.h"
#include "fs/store/node.h"

#include "fs/tree.h"
#include "proto/base/cleanup.h"
#include "proto/rpc/message.h"

#include <stdlib.h>

enum { DEPTH_LIMIT = 1024 };

/* The walk, `lock` not held --------------------------------------------------------------------- */

struct walk {
	struct croft_store *store;
	struct digest_set missing;
	struct digest_set broken; /* directories that something is missing below of */
	struct nodes fresh;       /* made by this walk, held until its end so that it meets them again */
	struct nodes roots;       /* held */
	struct keys keys;         /* of refs that are plain blobs; pinned */
	bool failed;
	struct croft_error err;
};

/* Of a recipe, which is pinned itself: its chunks as well. False: not all are there. */
static bool pin_chunks(struct walk *walk, const struct croft_digest *digest, struct keys *keys)
{
	struct croft_slice recipe;
	bool complete;
	if (!store_recipe_grip(walk->store, digest, STORE_PIN, 0, &recipe, &complete, &walk->err)) {
		walk->failed = true;
		return false;
	}
	const struct croft_digest *chunks = recipe.data;
	for (size_t i = 0; complete && i < store_recipe_count(recipe); i++)
		keys_append(keys, &chunks[i]);
	free((void *)recipe.data);
	return complete;
}

/* Pins what is there, adding their keys; notes what is missing. */
static bool pin_blobs(struct walk *walk, const struct digests *digests, struct keys *keys)
{
	size_t count = digests->count;
	CROFT_CLEANUP_FREE bool *found = croft_array(2 * count + 1, sizeof(*found));
	bool *recipes = found + count;
	if (!store_find_parts(walk->store, digests->items, count, STORE_PIN, 0, found, recipes,
			&walk->err)) {
		walk->failed = true;
		return false;
	}
	bool all = true;
	for (size_t i = 0; i < count; i++) {
		if (found[i])
			keys_append(keys, &digests->items[i]);
		bool whole = found[i] && (!recipes[i] || pin_chunks(walk, &digests->items[i], keys));
		if (!whole)
			digest_set_add(&walk->missing, &digests->items[i]);
		all &= whole;
	}
	return all && !walk->failed;
}

/* Takes the digests out of a Directory; of directories those that are not `held` (NULL: none is). */
static bool list_directory(struct walk *walk, const Reapi__Directory *directory, const struct digest_set *held,
	struct digests *files, struct digests *subs)
{
	struct croft_digest digest;
	for (size_t i = 0; i < directory->n_files; i++) {
		if (!croft_digest_from_message(directory->files[i]->digest, directory->files[i]->name,
				&digest, &walk->err))
			return false;
		if (!croft_digest_is_empty(&digest))
			digests_append(files, &digest);
	}
	for (size_t i = 0; i < directory->n_directories; i++) {
		if (!croft_digest_from_message(directory->directories[i]->digest,
				directory->directories[i]->name, &digest, &walk->err))
			return false;
		if (!croft_digest_is_empty(&digest) && !(held && digest_set_has(held, &digest)))
			digests_append(subs, &digest);
	}
	return true;
}

/* What a Tree names and does not hold is to be in the store. */
static bool list_tree(struct walk *walk, const Reapi__Tree *tree, struct croft_slice bytes, struct digests *files,
	struct digests *subs)
{
	struct digest_set children = {0};
	digest_set_add_children(&children, bytes);
	bool ok = !tree->root || list_directory(walk, tree->root, &children, files, subs);
	for (size_t i = 0; ok && i < tree->n_children; i++)
		ok = list_directory(walk, tree->children[i], &children, files, subs);
	digest_set_finish(&children);
	return ok;
}

static bool list_message(struct walk *walk, enum croft_ref_kind kind, struct croft_slice bytes,
	struct croft_arena *arena, struct digests *files, struct digests *subs)
{
	if (kind == CROFT_REF_DIRECTORY) {
		/* One that is out of the canonical form no agent can mount: better told now. */
		const Reapi__Directory *directory = croft_directory_decode(bytes, arena, &walk->err);
		return directory && list_directory(walk, directory, NULL, files, subs);
	}
	const Reapi__Tree *tree =
		croft_message_decode(&reapi__tree__descriptor, bytes, arena, NULL, &walk->err);
	return tree && list_tree(walk, tree, bytes, files, subs);
}

static struct node *reach(struct walk *walk, enum croft_ref_kind kind,
	const struct croft_digest *digest, unsigned depth);

/* The children of one message; the node takes over the pins (`self`: of the message) and holds. */
static struct node *make_node(struct walk *walk, enum croft_ref_kind kind,
	const struct croft_digest *digest, struct keys *self, const struct digests *files,
	const struct digests *subs, unsigned depth)
{
	struct node *node = croft_zalloc(sizeof(*node));
	node->digest = *digest;
	node->kind = kind;
	node->holds = node->refs = 1;
	node->keys = *self;
	*self = (struct keys){0};
	node->keys.room = node->keys.count + files->count;
	node->keys.items = croft_realloc(node->keys.items, node->keys.room, sizeof(uint64_t));
	node->subs = croft_array(subs->count + 1, sizeof(*node->subs));
	pthread_mutex_lock(&walk->store->lock);
	node->damage = walk->store->damage;
	pthread_mutex_unlock(&walk->store->lock);
	bool complete = pin_blobs(walk, files, &node->keys);
	for (size_t i = 0; !walk->failed && i < subs->count; i++) {
		struct node *sub = reach(walk, CROFT_REF_DIRECTORY, &subs->items[i], depth + 1);
		complete &= sub != NULL;
		if (!sub)
			continue;
		CROFT_LOCKED(&walk->store->lock);
		sub->refs++; /* for the place in subs; its hold is taken over as it is */
		node->subs[node->sub_count++] = sub;
	}
	CROFT_LOCKED(&walk->store->lock);
	if (!complete || walk->failed) {
		node_release(walk->store, node);
		return NULL;
	}
	return node_enter(walk->store, node);
}

static struct node *read_node(struct walk *walk, enum croft_ref_kind kind,
	const struct croft_digest *digest, unsigned depth)
{
	struct croft_store *store = walk->store;
	struct keys pinned = {0};
	struct digests self = {(struct croft_digest *)digest, 1, 1}, files = {0}, subs = {0};
	if (!pin_blobs(walk, &self, &pinned)) {
		keys_unpin(store, &pinned);
		return NULL;
	}
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice bytes;
	struct node *node = NULL;
	struct croft_error err = CROFT_ERROR_INIT;
	if (!store_get(store, digest, STORE_LOOK, arena, &bytes, &err)) {
		/* Found bad just now: it is missing. */
		if (err.code == CROFT_DATA_LOSS || err.code == CROFT_NOT_FOUND) {
			digest_set_add(&walk->missing, digest);
		} else {
			walk->failed = true;
			walk->err = err;
		}
	} else if (!list_message(walk, kind, bytes, arena, &files, &subs)) {
		char text[CROFT_DIGEST_TEXT];
		croft_digest_format(digest, '/', text);
		croft_error_wrap(&walk->err, "%s %s", kind == CROFT_REF_TREE ? "tree" : "directory", text);
		walk->failed = true;
	} else {
		node = make_node(walk, kind, digest, &pinned, &files, &subs, depth);
	}
	keys_unpin(store, &pinned);
	free(files.items);
	free(subs.items);
	return node;
}

/* A complete node with a hold, or NULL: something is missing, or the walk failed. */
static struct node *reach(struct walk *walk, enum croft_ref_kind kind,
	const struct croft_digest *digest, unsigned depth)
{
	if (depth > DEPTH_LIMIT) {
		walk->failed = true;
		croft_error_set(&walk->err, CROFT_INVALID_ARGUMENT,
			"directories are nested more than %d deep", DEPTH_LIMIT);
		return NULL;
	}
	if (digest_set_has(&walk->broken, digest))
		return NULL;
	struct node *node = node_known(walk->store, kind, digest);
	if (node)
		return node;
	node = read_node(walk, kind, digest, depth);
	if (!node) {
		digest_set_add(&walk->broken, digest);
		return NULL;
	}
	CROFT_LOCKED(&walk->store->lock);
	node_hold(walk->store, node);
	nodes_append(&walk->fresh, node);
	return node;
}

/* All is pinned when it returns true; otherwise `missing` or `failed` says why. */
static bool walk_refs(struct walk *walk, const struct croft_ref *refs, size_t count)
{
	struct digests blobs = {0};
	for (size_t i = 0; i < count && !walk->failed; i++) {
		if (croft_digest_is_empty(&refs[i].digest))
			continue;
		if (refs[i].kind == CROFT_REF_BLOB) {
			digests_append(&blobs, &refs[i].digest);
			continue;
		}
		struct node *node = reach(walk, refs[i].kind, &refs[i].digest, 0);
		if (node)
			nodes_append(&walk->roots, node);
	}
	if (!walk->failed)
		pin_blobs(walk, &blobs, &walk->keys);
	free(blobs.items);
	nodes_release(walk->store, &walk->fresh);
	return !walk->failed && walk->missing.list.count == 0;
}

static void walk_finish(struct walk *walk)
{
	nodes_release(walk->store, &walk->roots);
	keys_unpin(walk->store, &walk->keys);
	digest_set_finish(&walk->missing);
	digest_set_finish(&walk->broken);
}

bool store_lease_closure(struct croft_store *store, const struct croft_ref *refs, size_t count,
	uint64_t lease_ms, struct croft_arena *arena, struct croft_digest **missing,
	size_t *missing_count, struct croft_error *err)
{
	struct walk walk = {.store = store};
	if (!lease_ms)
		lease_ms = store->config.lease_ms;
	*missing = NULL;
	*missing_count = 0;
	if (walk_refs(&walk, refs, count)) {
		CROFT_LOCKED(&store->lock);
		uint64_t until_ms = store_now_ms(store) + lease_ms;
		for (size_t i = 0; i < walk.roots.count; i++) {
			/* Rather longer than asked: so the next to ask finds it long enough. */
			if (walk.roots.items[i]->until_ms < until_ms)
				node_lease(store, walk.roots.items[i], until_ms + lease_ms / 2);
		}
		for (size_t i = 0; i < walk.keys.count; i++)
			store_lease(store, walk.keys.items[i], until_ms, until_ms + lease_ms / 2);
	} else if (!walk.failed) {
		*missing_count = walk.missing.list.count;
		*missing = croft_arena_copy(
			arena, walk.missing.list.items, *missing_count * sizeof(**missing));
	}
	if (walk.failed && err)
		*err = walk.err;
	bool ok = !walk.failed;
	walk_finish(&walk);
	return ok;
}

bool croft_store_lease_closure(struct croft_store *store, const struct croft_ref *refs,
	size_t count, uint64_t lease_ms, struct croft_arena *arena,
	struct croft_digest **missing, size_t *missing_count, struct croft_error *err)
{
	if (!store_lease_closure(
			store, refs, count, lease_ms, arena, missing, missing_count, err))
		return false;
	if (*missing_count == 0)
		store_lease_commit(store);
	return true;
}

bool croft_store_prefer(struct croft_store *store, const struct croft_ref *refs, size_t count, uint64_t later_ms,
	struct croft_error *err)
{
	struct walk walk = {.store = store};
	if (walk_refs(&walk, refs, count)) {
		CROFT_LOCKED(&store->lock);
		uint64_t used_ms = store_now_ms(store) + (later_ms < CROFT_STORE_PREFER_MS ? later_ms : CROFT_STORE_PREFER_MS);
		for (size_t i = 0; i < walk.roots.count; i++)
			node_use(store, walk.roots.items[i], used_ms);
		for (size_t i = 0; i < walk.keys.count; i++)
			store_use(store_activity_get(&store->activity, walk.keys.items[i]), used_ms);
	}
	if (walk.failed && err)
		*err = walk.err;
	bool ok = !walk.failed;
	walk_finish(&walk);
	return ok;
}

struct croft_hold {
	struct croft_store *store;
	uint32_t node_count, key_count;
	/* Nodes, then keys; in one piece of just that size, since each job of a queue has a hold. */
	union {
		struct node *node;
		uint64_t key;
	} items[];
};

/* It takes over what the walk holds. */
static struct croft_hold *hold_of(struct walk *walk)
{
	struct nodes *nodes = &walk->roots;
	struct keys *keys = &walk->keys;
	struct croft_hold *hold =
		croft_alloc(sizeof(*hold) + (nodes->count + keys->count) * sizeof(hold->items[0]));
	hold->store = walk->store;
	hold->node_count = (uint32_t)nodes->count;
	hold->key_count = (uint32_t)keys->count;
	for (size_t i = 0; i < nodes->count; i++)
		hold->items[i].node = nodes->items[i];
	for (size_t i = 0; i < keys->count; i++)
		hold->items[nodes->count + i].key = keys->items[i];
	nodes->count = keys->count = 0;
	return hold;
}

struct croft_hold *croft_store_hold(struct croft_store *store, const struct croft_ref *refs,
	size_t count, struct croft_error *err)
{
	struct walk walk = {.store = store};
	struct croft_hold *hold = NULL;
	if (walk_refs(&walk, refs, count)) {
		hold = hold_of(&walk);
	} else if (!walk.failed) {
		char text[CROFT_DIGEST_TEXT];
		croft_digest_format(&walk.missing.list.items[0], '/', text);
		croft_error_set(err, CROFT_FAILED_PRECONDITION, "%zu blobs are missing, the first is %s",
			walk.missing.list.count, text);
	} else if (err) {
		*err = walk.err;
	}
	walk_finish(&walk);
	return hold;
}

void croft_store_release(struct croft_hold *hold)
{
	if (!hold)
		return;
	pthread_mutex_lock(&hold->store->lock);
	for (uint32_t i = 0; i < hold->node_count; i++)
		node_release(hold->store, hold->items[i].node);
	for (uint32_t i = 0; i < hold->key_count; i++)
		store_unpin(hold->store, hold->items[hold->node_count + i].key);
	hold->store->keeper.barren_ns = 0;
	pthread_mutex_unlock(&hold->store->lock);
	free(hold);
}

bool croft_store_find_missing(struct croft_store *store, const struct croft_digest *digests,
	size_t count, bool *missing, struct croft_error *err)
{
	if (!store_find_many(store, digests, count, STORE_LEASE,
			store_now_ms(store) + store->config.lease_ms, missing, err))
		return false;
	store_lease_commit(store);
	for (size_t i = 0; i < count; i++)
		missing[i] = !missing[i] && !croft_digest_is_empty(&digests[i]);
	return true;
}
