/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/store/node.h"

#include "proto/base/cleanup.h"

#include <stdlib.h>

/* Lists ----------------------------------------------------------------------------------------- */

void nodes_append(struct nodes *nodes, struct node *node)
{
	if (nodes->count == nodes->room) {
		nodes->room = nodes->room ? 2 * nodes->room : 8;
		nodes->items = croft_realloc(nodes->items, nodes->room, sizeof(*nodes->items));
	}
	nodes->items[nodes->count++] = node;
}

void keys_append(struct keys *keys, const struct croft_digest *digest)
{
	if (keys->count == keys->room) {
		keys->room = keys->room ? 2 * keys->room : 8;
		keys->items = croft_realloc(keys->items, keys->room, sizeof(*keys->items));
	}
	keys->items[keys->count++] = store_key(digest->hash);
}

/* The table ------------------------------------------------------------------------------------- */

struct store_closures {
	struct node **buckets;
	size_t room, count;
};

void store_closures_init(struct croft_store *store)
{
	store->closures = croft_zalloc(sizeof(*store->closures));
	store->closures->room = 256;
	store->closures->buckets = croft_array(store->closures->room, sizeof(struct node *));
}

static void unref(struct node *node)
{
	if (--node->refs > 0)
		return;
	for (size_t i = 0; i < node->sub_count; i++)
		unref(node->subs[i]);
	free(node->subs);
	free(node->keys.items);
	free(node);
}

void store_closures_finish(struct croft_store *store)
{
	for (size_t i = 0; i < store->closures->room; i++)
		for (struct node *next, *node = store->closures->buckets[i]; node; node = next) {
			next = node->next;
			unref(node);
		}
	free(store->closures->buckets);
	free(store->closures);
}

static struct node **place_of(const struct store_closures *closures, enum croft_ref_kind kind,
	const struct croft_digest *digest)
{
	struct node **at = &closures->buckets[store_key(digest->hash) & (closures->room - 1)];
	while (*at && ((*at)->kind != kind || !croft_digest_equal(&(*at)->digest, digest)))
		at = &(*at)->next;
	return at;
}

static void grow(struct store_closures *closures)
{
	struct node **old = closures->buckets;
	size_t old_room = closures->room;
	closures->room *= 2;
	closures->buckets = croft_array(closures->room, sizeof(struct node *));
	for (size_t i = 0; i < old_room; i++)
		for (struct node *next, *node = old[i]; node; node = next) {
			next = node->next;
			struct node **bucket =
				&closures->buckets[store_key(node->digest.hash) & (closures->room - 1)];
			node->next = *bucket;
			*bucket = node;
		}
	free(old);
}

/* Below: `lock` held ---------------------------------------------------------------------------- */

static bool is_complete(const struct croft_store *store, const struct node *node, uint64_t now_ms)
{
	return node->damage == store->damage && (node->holds > 0 || node->until_ms > now_ms);
}

void node_hold(struct croft_store *store, struct node *node)
{
	node->refs++;
	if (node->holds++ > 0)
		return;
	for (size_t i = 0; i < node->keys.count; i++)
		store_pin(store, node->keys.items[i]);
	for (size_t i = 0; i < node->sub_count; i++)
		node_hold(store, node->subs[i]);
}

void node_release(struct croft_store *store, struct node *node)
{
	if (--node->holds == 0) {
		for (size_t i = 0; i < node->keys.count; i++)
			store_unpin(store, node->keys.items[i]);
		for (size_t i = 0; i < node->sub_count; i++)
			node_release(store, node->subs[i]);
	}
	unref(node);
}

void node_lease(struct croft_store *store, struct node *node, uint64_t until_ms)
{
	if (node->until_ms >= until_ms)
		return;
	node->until_ms = until_ms;
	for (size_t i = 0; i < node->keys.count; i++)
		store_lease(store, node->keys.items[i], until_ms, until_ms);
	for (size_t i = 0; i < node->sub_count; i++)
		node_lease(store, node->subs[i], until_ms);
}

void node_use(struct croft_store *store, const struct node *node, uint64_t used_ms)
{
	for (size_t i = 0; i < node->keys.count; i++)
		store_use(store_activity_get(&store->activity, node->keys.items[i]), used_ms);
	for (size_t i = 0; i < node->sub_count; i++)
		node_use(store, node->subs[i], used_ms);
}

void store_closures_sweep(struct croft_store *store, uint64_t now_ms)
{
	struct store_closures *closures = store->closures;
	for (size_t i = 0; i < closures->room; i++)
		for (struct node **at = &closures->buckets[i]; *at;) {
			struct node *node = *at;
			if (is_complete(store, node, now_ms)) {
				at = &node->next;
				continue;
			}
			*at = node->next;
			closures->count--;
			unref(node);
		}
}

struct node *node_enter(struct croft_store *store, struct node *node)
{
	struct store_closures *closures = store->closures;
	struct node **place = place_of(closures, node->kind, &node->digest), *other = *place;
	if (other && is_complete(store, other, store_now_ms(store))) {
		node_hold(store, other);
		node_release(store, node);
		return other;
	}
	if (other) { /* outlived; who still holds it keeps it */
		*place = other->next;
		closures->count--;
		unref(other);
	}
	if (closures->count >= closures->room)
		grow(closures);
	struct node **bucket =
		&closures->buckets[store_key(node->digest.hash) & (closures->room - 1)];
	node->next = *bucket;
	*bucket = node;
	node->refs++;
	closures->count++;
	return node;
}

/* With `lock` not held --------------------------------------------------------------------------- */

struct node *node_known(struct croft_store *store, enum croft_ref_kind kind, const struct croft_digest *digest)
{
	CROFT_LOCKED(&store->lock);
	struct node *node = *place_of(store->closures, kind, digest);
	if (!node || !is_complete(store, node, store_now_ms(store)))
		return NULL;
	node_hold(store, node);
	return node;
}

void nodes_release(struct croft_store *store, struct nodes *nodes)
{
	CROFT_LOCKED(&store->lock);
	for (size_t i = 0; i < nodes->count; i++)
		node_release(store, nodes->items[i]);
	free(nodes->items);
	*nodes = (struct nodes){0};
}

void keys_unpin(struct croft_store *store, struct keys *keys)
{
	pthread_mutex_lock(&store->lock);
	for (size_t i = 0; i < keys->count; i++)
		store_unpin(store, keys->items[i]);
	pthread_mutex_unlock(&store->lock);
	free(keys->items);
	*keys = (struct keys){0};
}
