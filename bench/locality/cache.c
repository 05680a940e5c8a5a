/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench/locality/cache.h"

#include "proto/base/arena.h"

#include <stdlib.h>

#define NONE UINT32_MAX

void cache_init(struct cache *cache, size_t roots, double budget)
{
	cache->entries = croft_array(roots + 1, sizeof(*cache->entries));
	for (size_t i = 0; i < roots; i++)
		cache->entries[i].newer = cache->entries[i].older = NONE;
	cache->newest = cache->oldest = NONE;
	cache->bytes = 0;
	cache->budget = budget;
}

void cache_finish(struct cache *cache)
{
	free(cache->entries);
}

static void unlink_entry(struct cache *cache, uint32_t root)
{
	struct cache_entry *entry = &cache->entries[root];
	if (entry->newer != NONE)
		cache->entries[entry->newer].older = entry->older;
	else if (cache->newest == root)
		cache->newest = entry->older;
	if (entry->older != NONE)
		cache->entries[entry->older].newer = entry->newer;
	else if (cache->oldest == root)
		cache->oldest = entry->newer;
	entry->newer = entry->older = NONE;
}

static void link_newest(struct cache *cache, uint32_t root)
{
	struct cache_entry *entry = &cache->entries[root];
	entry->older = cache->newest;
	if (cache->newest != NONE)
		cache->entries[cache->newest].newer = root;
	else
		cache->oldest = root;
	cache->newest = root;
}

void cache_use(struct cache *cache, uint32_t root)
{
	unlink_entry(cache, root);
	link_newest(cache, root);
	cache->entries[root].users++;
}

void cache_done(struct cache *cache, uint32_t root)
{
	cache->entries[root].users--;
}

void cache_add(struct cache *cache, uint32_t root, float share, double bytes)
{
	struct cache_entry *entry = &cache->entries[root];
	if (share <= entry->share)
		return;
	cache->bytes += bytes * (double)(share - entry->share);
	entry->share = share;
}

uint32_t cache_evict(struct cache *cache, double (*bytes_of)(void *user, uint32_t root), void *user)
{
	if (cache->budget <= 0 || cache->bytes <= cache->budget)
		return NONE;
	uint32_t at = cache->oldest;
	while (at != NONE && cache->entries[at].users > 0)
		at = cache->entries[at].newer;
	if (at == NONE)
		return NONE;
	struct cache_entry *entry = &cache->entries[at];
	cache->bytes -= bytes_of(user, at) * (double)entry->share;
	entry->share = 0;
	unlink_entry(cache, at);
	return at;
}
