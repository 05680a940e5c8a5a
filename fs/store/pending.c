/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What was written or removed since the last checkpoint: it overrides the index. */
#include "fs/store/internal.h"

#include <stdlib.h>

void store_pending_init(struct store_pending_table *table, uint64_t seed)
{
	*table = (struct store_pending_table){.room = 1024, .seed = seed | 1};
	table->buckets = croft_array(table->room, sizeof(*table->buckets));
}

static void free_entry(struct store_pending *pending)
{
	free((void *)pending->sums.data);
	free(pending);
}

void store_pending_finish(struct store_pending_table *table)
{
	for (size_t i = 0; table->buckets && i < table->room; i++)
		for (struct store_pending *next, *at = table->buckets[i]; at; at = next) {
			next = at->next;
			free_entry(at);
		}
	free(table->buckets);
	table->buckets = NULL;
}

static struct store_pending **place_of(const struct store_pending_table *table, const uint8_t *hash)
{
	size_t bucket = (size_t)((store_key(hash) * table->seed) >> 32) & (table->room - 1);
	struct store_pending **at = &table->buckets[bucket];
	while (*at && memcmp((*at)->hash, hash, CROFT_HASH_SIZE) != 0)
		at = &(*at)->next;
	return at;
}

struct store_pending *store_pending_find(const struct store_pending_table *table,
	const uint8_t *hash)
{
	return *place_of(table, hash);
}

static void grow(struct store_pending_table *table)
{
	struct store_pending **old = table->buckets;
	size_t old_room = table->room;
	table->room *= 2;
	table->buckets = croft_array(table->room, sizeof(*table->buckets));
	for (size_t i = 0; i < old_room; i++)
		for (struct store_pending *next, *at = old[i]; at; at = next) {
			next = at->next;
			struct store_pending **place = place_of(table, at->hash);
			at->next = NULL;
			*place = at;
		}
	free(old);
}

struct store_pending *store_pending_set(struct store_pending_table *table, const uint8_t *hash,
	enum store_pending_state state, const struct store_entry *entry, struct croft_slice sums)
{
	if (table->count >= table->room)
		grow(table);
	struct store_pending **place = place_of(table, hash), *at = *place;
	if (!at) {
		at = *place = croft_zalloc(sizeof(*at));
		memcpy(at->hash, hash, CROFT_HASH_SIZE);
		table->count++;
	} else {
		table->settled -= at->state != STORE_WRITING;
		free((void *)at->sums.data);
	}
	at->state = state;
	at->evicted = at->rewrite = false;
	at->serial = ++table->serial;
	at->entry = *entry;
	at->sums = sums;
	table->settled += state != STORE_WRITING;
	return at;
}

void store_pending_remove(struct store_pending_table *table, const uint8_t *hash)
{
	struct store_pending **place = place_of(table, hash), *at = *place;
	if (!at)
		return;
	*place = at->next;
	table->count--;
	table->settled -= at->state != STORE_WRITING;
	free_entry(at);
}
