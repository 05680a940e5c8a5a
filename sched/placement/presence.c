/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of roots; their postings are in posting.c. */
#include "sched/placement/presence.h"

#include "proto/base/arena.h"

#include <math.h>
#include <stdlib.h>

/* 16 bytes of a SHA-256 tell roots apart as well as 32, and half the table is theirs. */
enum { KEY_SIZE = 16, NONE = -1 };

struct root {
	uint8_t key[KEY_SIZE];
	uint64_t bytes;
	uint32_t references;
	uint32_t next; /* of its bucket, or of the free ones */
	struct posting posting;
};

struct presence {
	struct root *roots;
	uint32_t count, room, first_free;
	uint32_t *buckets;
	uint32_t bucket_mask;
	uint32_t used;
	uint32_t agents;       /* capacity */
	uint32_t *agent_roots; /* how many each agent holds */
	double *agent_bytes;   /* and how many bytes */
	size_t postings;
	float shares[128];
};

uint8_t level_of_share(double share)
{
	if (!(share > 0))
		return 0;
	if (share >= 1)
		return LEVEL_FULL;
	double level = LEVEL_FULL + 12 * log2(share);
	return level < 1.5 ? 1 : level > 126 ? 126 : (uint8_t)lround(level);
}

struct presence *presence_create(void)
{
	struct presence *presence = croft_zalloc(sizeof(*presence));
	presence->first_free = (uint32_t)NONE;
	presence->bucket_mask = 255;
	presence->buckets = croft_alloc((presence->bucket_mask + 1) * sizeof(uint32_t));
	memset(presence->buckets, 0xff, (presence->bucket_mask + 1) * sizeof(uint32_t));
	presence_reserve(presence, POSTING_GROUP);
	for (int level = 1; level <= LEVEL_FULL; level++)
		presence->shares[level] = (float)exp2((level - LEVEL_FULL) / 12.0);
	return presence;
}

const float *presence_shares(const struct presence *presence)
{
	return presence->shares;
}

void presence_destroy(struct presence *presence)
{
	if (!presence)
		return;
	for (uint32_t i = 0; i < presence->count; i++)
		posting_finish(&presence->roots[i].posting);
	free(presence->roots);
	free(presence->buckets);
	free(presence->agent_roots);
	free(presence->agent_bytes);
	free(presence);
}

void presence_reserve(struct presence *presence, uint32_t agents)
{
	uint32_t capacity = presence->agents ? presence->agents : POSTING_GROUP;
	while (capacity < agents)
		capacity += capacity < 2048 ? capacity : 2048;
	if (capacity == presence->agents)
		return;
	for (uint32_t i = 0; i < presence->count; i++)
		posting_resize(&presence->roots[i].posting, presence->agents, capacity);
	presence->agent_roots = croft_realloc(presence->agent_roots, capacity, sizeof(uint32_t));
	memset(presence->agent_roots + presence->agents, 0,
		(capacity - presence->agents) * sizeof(uint32_t));
	presence->agent_bytes = croft_realloc(presence->agent_bytes, capacity, sizeof(double));
	for (uint32_t i = presence->agents; i < capacity; i++)
		presence->agent_bytes[i] = 0;
	presence->agents = capacity;
}

/* Roots ------------------------------------------------------------------------------------------- */

/* The key is a piece of a SHA-256 already. */
static uint32_t hash_of(const uint8_t *key)
{
	uint32_t hash;
	memcpy(&hash, key + 4, sizeof(hash));
	return hash;
}

static void grow_buckets(struct presence *presence)
{
	presence->bucket_mask = presence->bucket_mask * 2 + 1;
	presence->buckets = croft_realloc(
		presence->buckets, presence->bucket_mask + 1, sizeof(uint32_t));
	memset(presence->buckets, 0xff, (presence->bucket_mask + 1) * sizeof(uint32_t));
	for (uint32_t i = 0; i < presence->count; i++) {
		struct root *root = &presence->roots[i];
		if (root->references == 0 && root->posting.count == 0)
			continue; /* a free one, in a list of its own */
		uint32_t *bucket = &presence->buckets[hash_of(root->key) & presence->bucket_mask];
		root->next = *bucket;
		*bucket = i;
	}
}

uint32_t presence_find(const struct presence *presence, const struct croft_digest *digest)
{
	uint32_t at = presence->buckets[hash_of(digest->hash) & presence->bucket_mask];
	while (at != (uint32_t)NONE && memcmp(presence->roots[at].key, digest->hash, KEY_SIZE) != 0)
		at = presence->roots[at].next;
	return at;
}

static uint32_t take_root(struct presence *presence)
{
	if (presence->first_free != (uint32_t)NONE) {
		uint32_t at = presence->first_free;
		presence->first_free = presence->roots[at].next;
		return at;
	}
	if (presence->count == presence->room) {
		presence->room += presence->room < 512 ? 512 : presence->room / 8;
		presence->roots = croft_realloc(presence->roots, presence->room, sizeof(struct root));
	}
	return presence->count++;
}

/* Freed again by presence_unref or with its last holder, so one of both follows. */
uint32_t presence_root(struct presence *presence, const struct croft_digest *digest, uint64_t bytes)
{
	uint32_t at = presence_find(presence, digest);
	if (at != (uint32_t)NONE) {
		/* A root's size is fixed by its digest: whoever named it first is believed. */
		return at;
	}
	if (presence->used > presence->bucket_mask)
		grow_buckets(presence);
	at = take_root(presence);
	struct root *root = &presence->roots[at];
	*root = (struct root){.bytes = bytes};
	memcpy(root->key, digest->hash, KEY_SIZE);
	uint32_t *bucket = &presence->buckets[hash_of(root->key) & presence->bucket_mask];
	root->next = *bucket;
	*bucket = at;
	presence->used++;
	return at;
}

static void drop_if_unused(struct presence *presence, uint32_t at)
{
	struct root *root = &presence->roots[at];
	if (root->references > 0 || root->posting.count > 0)
		return;
	uint32_t *link = &presence->buckets[hash_of(root->key) & presence->bucket_mask];
	while (*link != at)
		link = &presence->roots[*link].next;
	*link = root->next;
	posting_finish(&root->posting);
	root->next = presence->first_free;
	presence->first_free = at;
	presence->used--;
}

void presence_ref(struct presence *presence, uint32_t root)
{
	presence->roots[root].references++;
}

void presence_unref(struct presence *presence, uint32_t root)
{
	presence->roots[root].references--;
	drop_if_unused(presence, root);
}

uint64_t presence_bytes(const struct presence *presence, uint32_t root)
{
	return presence->roots[root].bytes;
}

uint32_t presence_holders(const struct presence *presence, uint32_t root)
{
	return presence->roots[root].posting.count;
}

uint32_t presence_room(const struct presence *presence)
{
	return presence->room;
}

/* Holders ------------------------------------------------------------------------------------------ */

uint8_t presence_get(const struct presence *presence, uint32_t root, uint32_t agent)
{
	return posting_get(&presence->roots[root].posting, presence->agents, agent);
}

void presence_get_many(const struct presence *presence, uint32_t root, const uint32_t *agents,
	size_t count, uint8_t *levels)
{
	posting_get_many(&presence->roots[root].posting, presence->agents, agents, count, levels);
}

void presence_prefetch(const struct presence *presence, const uint32_t *roots, size_t count,
	const uint32_t *agents, size_t agent_count)
{
	for (size_t i = 0; i < count; i++)
		__builtin_prefetch(&presence->roots[roots[i]].posting);
	for (size_t i = 0; i < count; i++)
		posting_prefetch(&presence->roots[roots[i]].posting, presence->agents, agents, agent_count);
}

void presence_prefetch_groups(const struct presence *presence, const uint32_t *roots, size_t count,
	const uint32_t *agents, size_t agent_count)
{
	for (size_t i = 0; i < count; i++)
		posting_prefetch_groups(
			&presence->roots[roots[i]].posting, presence->agents, agents, agent_count);
}

void presence_set(struct presence *presence, uint32_t root, uint32_t agent, uint8_t level)
{
	struct posting *posting = &presence->roots[root].posting;
	uint32_t before = posting->count;
	uint8_t was = posting_set(posting, presence->agents, agent, level);
	presence->agent_bytes[agent] += (double)presence->roots[root].bytes *
		(double)(presence->shares[level & LEVEL_MASK] - presence->shares[was & LEVEL_MASK]);
	if (posting->count > before) {
		presence->agent_roots[agent]++;
		presence->postings++;
	} else if (posting->count < before) {
		if (--presence->agent_roots[agent] == 0)
			presence->agent_bytes[agent] = 0; /* no rounding is carried along */
		presence->postings--;
		drop_if_unused(presence, root);
	}
}

double presence_held(const struct presence *presence, uint32_t agent)
{
	return presence->agent_bytes[agent];
}

void presence_walk_begin(const struct presence *presence, uint32_t root, uint64_t random,
	unsigned probes, struct posting_walk *walk)
{
	posting_walk_begin(&presence->roots[root].posting, presence->agents, random, probes, walk);
}

size_t presence_walk(const struct presence *presence, uint32_t root, struct posting_walk *walk,
	uint32_t *agents, size_t most)
{
	return posting_walk(&presence->roots[root].posting, presence->agents, walk, agents, most);
}

void presence_forget(struct presence *presence, uint32_t agent)
{
	for (uint32_t i = 0; i < presence->count && presence->agent_roots[agent] > 0; i++)
		if (presence->roots[i].posting.count > 0)
			presence_set(presence, i, agent, 0);
}

void presence_stat(const struct presence *presence, struct presence_stat *stat)
{
	*stat = (struct presence_stat){.roots = presence->used, .postings = presence->postings};
	stat->bytes = sizeof(*presence) + presence->room * sizeof(struct root) +
		(presence->bucket_mask + 1) * sizeof(uint32_t) + presence->agents * (sizeof(uint32_t) + sizeof(double));
	for (uint32_t i = 0; i < presence->count; i++)
		stat->bytes += posting_bytes(&presence->roots[i].posting, presence->agents);
}
