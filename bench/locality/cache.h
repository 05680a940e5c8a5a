/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One simulated agent's cache: which share of each root it holds, least recently used first out. */
#ifndef CROFT_BENCH_LOCALITY_CACHE_H
#define CROFT_BENCH_LOCALITY_CACHE_H

#include <stddef.h>
#include <stdint.h>

struct cache_entry {
	float share;
	uint32_t newer, older;
	uint16_t users; /* running jobs: not evicted */
};

struct cache {
	struct cache_entry *entries; /* one per root */
	uint32_t newest, oldest;
	double bytes, budget;
};

void cache_init(struct cache *cache, size_t roots, double budget);
void cache_finish(struct cache *cache);
/* A job begins to use a root: most recently used, and kept while it runs. */
void cache_use(struct cache *cache, uint32_t root);
void cache_done(struct cache *cache, uint32_t root);
void cache_add(struct cache *cache, uint32_t root, float share, double bytes);
/* The root to be evicted next for the budget to hold, or UINT32_MAX; its share is then 0. */
uint32_t cache_evict(struct cache *cache, double (*bytes_of)(void *user, uint32_t root), void *user);

#endif
