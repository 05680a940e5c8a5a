/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/digest_map.h"

#include "proto/base/arena.h"
#include "proto/base/io.h"

#include <stdlib.h>
#include <xxhash.h>

/* Open addressing with linear probing, at most half full. */
struct slot {
	struct croft_digest digest;
	void *value; /* NULL: free */
};

struct croft_digest_map {
	struct slot *slots;
	size_t mask, count;
	uint64_t seed;
};

enum { FIRST_SLOTS = 64 };

struct croft_digest_map *croft_digest_map_create(void)
{
	struct croft_digest_map *map = croft_zalloc(sizeof(*map));
	map->slots = croft_array(FIRST_SLOTS, sizeof(struct slot));
	map->mask = FIRST_SLOTS - 1;
	map->seed = croft_now_ns() ^ (uint64_t)(uintptr_t)map << 16;
	return map;
}

void croft_digest_map_destroy(struct croft_digest_map *map)
{
	if (!map)
		return;
	free(map->slots);
	free(map);
}

static size_t home(const struct croft_digest_map *map, const struct croft_digest *digest)
{
	uint64_t seed = map->seed ^ digest->size_bytes;
	return (size_t)XXH3_64bits_withSeed(digest->hash, CROFT_HASH_SIZE, seed) & map->mask;
}

/* Where it is, or the free slot where it would stand. */
static struct slot *find(const struct croft_digest_map *map, const struct croft_digest *digest)
{
	for (size_t at = home(map, digest);; at = (at + 1) & map->mask) {
		struct slot *slot = &map->slots[at];
		if (!slot->value || croft_digest_equal(&slot->digest, digest))
			return slot;
	}
}

static void grow(struct croft_digest_map *map)
{
	struct slot *old = map->slots;
	size_t old_count = map->mask + 1;
	map->mask = old_count * 2 - 1;
	map->slots = croft_array(old_count * 2, sizeof(struct slot));
	for (size_t i = 0; i < old_count; i++)
		if (old[i].value)
			*find(map, &old[i].digest) = old[i];
	free(old);
}

void **croft_digest_map_at(struct croft_digest_map *map, const struct croft_digest *digest)
{
	struct slot *slot = find(map, digest);
	if (slot->value)
		return &slot->value;
	if ((map->count + 1) * 2 > map->mask + 1) {
		grow(map);
		slot = find(map, digest);
	}
	map->count++;
	slot->digest = *digest;
	return &slot->value;
}

void *croft_digest_map_get(const struct croft_digest_map *map, const struct croft_digest *digest)
{
	return find(map, digest)->value;
}

void croft_digest_map_remove(struct croft_digest_map *map, const struct croft_digest *digest)
{
	struct slot *slot = find(map, digest);
	if (!slot->value)
		return;
	map->count--;
	slot->value = NULL;
	/* What stands behind it in the same run may have been pushed there by it. */
	for (size_t at = (size_t)(slot - map->slots + 1) & map->mask; map->slots[at].value;
		at = (at + 1) & map->mask) {
		struct slot moved = map->slots[at];
		map->slots[at].value = NULL;
		*find(map, &moved.digest) = moved;
	}
}

size_t croft_digest_map_count(const struct croft_digest_map *map)
{
	return map->count;
}

void *croft_digest_map_next(const struct croft_digest_map *map, size_t *position)
{
	while (*position <= map->mask) {
		void *value = map->slots[(*position)++].value;
		if (value)
			return value;
	}
	return NULL;
}
