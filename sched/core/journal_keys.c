/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/journal_keys.h"

#include "proto/base/arena.h"

#include <stdlib.h>
#include <xxhash.h>

enum { FIRST_BUCKETS = 1024, SEGMENT_LISTS = 1024 };

struct journal_keys {
	struct journal_key **buckets;
	size_t room, count; /* room: a power of two */
	uint64_t bytes;
	LIST_HEAD(, journal_key) segments[SEGMENT_LISTS]; /* by their numbers; far ones share a list */
};

struct journal_keys *journal_keys_create(void)
{
	struct journal_keys *keys = croft_zalloc(sizeof(*keys));
	keys->room = FIRST_BUCKETS;
	keys->buckets = croft_array(keys->room, sizeof(struct journal_key *));
	return keys;
}

void journal_keys_destroy(struct journal_keys *keys)
{
	if (!keys)
		return;
	for (size_t i = 0; i < keys->room; i++)
		for (struct journal_key *key = keys->buckets[i], *next; key; key = next) {
			next = key->next;
			free(key);
		}
	free(keys->buckets);
	free(keys);
}

static struct journal_key **find(const struct journal_keys *keys, struct croft_slice key)
{
	struct journal_key **at = &keys->buckets[XXH3_64bits(key.data, key.size) & (keys->room - 1)];
	while (*at && !croft_slice_equal(journal_key_slice(*at), key))
		at = &(*at)->next;
	return at;
}

static void grow(struct journal_keys *keys)
{
	struct journal_key **old = keys->buckets;
	size_t room = keys->room;
	keys->room *= 2;
	keys->buckets = croft_array(keys->room, sizeof(struct journal_key *));
	for (size_t i = 0; i < room; i++)
		for (struct journal_key *key = old[i], *next; key; key = next) {
			next = key->next;
			struct journal_key **at =
				&keys->buckets[XXH3_64bits(key->bytes, key->key_size) & (keys->room - 1)];
			key->next = *at;
			*at = key;
		}
	free(old);
}

static uint64_t bytes_of(const struct journal_key *key)
{
	return 8 + (uint64_t)key->key_size + key->size;
}

static uint32_t sum_of(struct croft_slice value)
{
	return (uint32_t)XXH3_64bits(value.data, value.size);
}

void journal_keys_put(struct journal_keys *keys, struct croft_slice name, const struct wal_place *place,
	struct croft_slice value)
{
	struct journal_key **at = find(keys, name), *key = *at;
	if (key) {
		LIST_REMOVE(key, link);
		keys->bytes -= bytes_of(key);
	} else {
		key = *at = croft_zalloc(sizeof(*key) + name.size);
		key->key_size = (uint32_t)name.size;
		memcpy(key->bytes, name.data, name.size);
		keys->count++;
	}
	key->place = *place;
	key->size = (uint32_t)value.size;
	key->sum = sum_of(value);
	keys->bytes += bytes_of(key);
	LIST_INSERT_HEAD(&keys->segments[place->segment % SEGMENT_LISTS], key, link);
	if (keys->count > keys->room)
		grow(keys);
}

void journal_keys_remove(struct journal_keys *keys, struct croft_slice name)
{
	struct journal_key **at = find(keys, name), *key = *at;
	if (!key)
		return;
	*at = key->next;
	LIST_REMOVE(key, link);
	keys->bytes -= bytes_of(key);
	keys->count--;
	free(key);
}

uint64_t journal_keys_bytes(const struct journal_keys *keys)
{
	return keys->bytes;
}

const struct journal_key *journal_keys_next(const struct journal_keys *keys, uint32_t segment,
	const struct journal_key *after)
{
	const struct journal_key *key =
		after ? LIST_NEXT(after, link) : LIST_FIRST(&keys->segments[segment % SEGMENT_LISTS]);
	while (key && key->place.segment != segment)
		key = LIST_NEXT(key, link);
	return key;
}

static int by_key(const void *a, const void *b)
{
	const struct journal_key *one = *(const struct journal_key *const *)a;
	const struct journal_key *other = *(const struct journal_key *const *)b;
	size_t shorter = one->key_size < other->key_size ? one->key_size : other->key_size;
	int order = memcmp(one->bytes, other->bytes, shorter);
	return order ? order : (one->key_size > other->key_size) - (one->key_size < other->key_size);
}

const struct journal_key **journal_keys_sorted(const struct journal_keys *keys, size_t *count)
{
	const struct journal_key **all = croft_array(keys->count + 1, sizeof(struct journal_key *));
	*count = 0;
	for (size_t i = 0; i < keys->room; i++)
		for (const struct journal_key *key = keys->buckets[i]; key; key = key->next)
			all[(*count)++] = key;
	qsort(all, *count, sizeof(struct journal_key *), by_key);
	return all;
}

bool journal_key_check(const struct journal_key *key, const void *value, struct croft_error *err)
{
	return sum_of(CROFT_SLICE(value, key->size)) == key->sum ||
		croft_error_set(err, CROFT_DATA_LOSS,
			"a record in segment %u of the journal is not what was written", key->place.segment);
}
