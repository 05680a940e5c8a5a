/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The presence map: which agents hold how much of which root.
 *
 * Roots are interned as small numbers. Each has a posting: its holders, and of each a *level*, the share
 * that it holds on a logarithmic scale of 127 steps (6 % each, down to 0.07 %; 0 is none). Postings take
 * about two bytes a holder: 10,000 agents with 2,300 of 100,000 roots each fit in 60 MB.
 */
#ifndef CROFT_SCHED_PLACEMENT_PRESENCE_H
#define CROFT_SCHED_PLACEMENT_PRESENCE_H

#include "fs/digest.h"
#include "sched/placement/posting.h"

enum {
	LEVEL_FULL = 127,
	LEVEL_MASK = 127,
	/* Set on a level that is expected of a job placed there, and not confirmed by the agent. */
	LEVEL_ARRIVING = 128,
};
uint8_t level_of_share(double share); /* at least 1 for any share above 0 */

struct presence;

struct presence *presence_create(void);
void presence_destroy(struct presence *presence);
/* The share that each level without LEVEL_ARRIVING stands for: 2^((level - 127) / 12), and 0. */
const float *presence_shares(const struct presence *presence);
/* Agents are numbered below this; postings are laid out for it. */
void presence_reserve(struct presence *presence, uint32_t agents);

/* The number of a root; found or made. A root lives while someone holds it or a reference is kept. */
uint32_t presence_root(struct presence *presence, const struct croft_digest *digest, uint64_t bytes);
uint32_t presence_find(const struct presence *presence, const struct croft_digest *digest); /* UINT32_MAX */
void presence_ref(struct presence *presence, uint32_t root);
void presence_unref(struct presence *presence, uint32_t root);
uint64_t presence_bytes(const struct presence *presence, uint32_t root);
uint32_t presence_holders(const struct presence *presence, uint32_t root);
/* Above every number of a root. */
uint32_t presence_room(const struct presence *presence);

/* With LEVEL_ARRIVING if it is set. */
uint8_t presence_get(const struct presence *presence, uint32_t root, uint32_t agent);
/* The same of several agents; one pass over the posting's table. */
void presence_get_many(const struct presence *presence, uint32_t root, const uint32_t *agents,
	size_t count, uint8_t *levels);
/* Of roots that are about to be looked up; few agents or few roots at a time, as caches are small. The
 * second reads what the first has brought meanwhile. */
void presence_prefetch(const struct presence *presence, const uint32_t *roots, size_t count,
	const uint32_t *agents, size_t agent_count);
void presence_prefetch_groups(const struct presence *presence, const uint32_t *roots, size_t count,
	const uint32_t *agents, size_t agent_count);
void presence_set(struct presence *presence, uint32_t root, uint32_t agent, uint8_t level);
/* Some holders of a root; see posting_walk. */
void presence_walk_begin(const struct presence *presence, uint32_t root, uint64_t random,
	unsigned probes, struct posting_walk *walk);
size_t presence_walk(const struct presence *presence, uint32_t root, struct posting_walk *walk,
	uint32_t *agents, size_t most);
double presence_held(const struct presence *presence, uint32_t agent); /* bytes */
void presence_forget(struct presence *presence, uint32_t agent);

struct presence_stat {
	size_t roots, postings, bytes;
};
void presence_stat(const struct presence *presence, struct presence_stat *stat);

#endif
