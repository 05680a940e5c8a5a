/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The holders of one root, in whichever of three forms is the smallest:
 *
 * list     few holders: their numbers, then their levels
 * groups   agents by the high byte of their number: a table of where each group begins, then of each
 *          agent the low byte and the level; a look-up reads a few neighbouring bytes
 * dense    a level for every agent
 *
 * `agents` is the capacity that all postings of a map are laid out for.
 */
#ifndef CROFT_SCHED_PLACEMENT_POSTING_H
#define CROFT_SCHED_PLACEMENT_POSTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { POSTING_GROUP = 256 };

struct posting {
	uint8_t *data;
	uint16_t count, room; /* room: of list and groups */
	uint8_t form;
};

/* For look-ups of these agents a while later; the second when the first has come. */
void posting_prefetch(const struct posting *posting, uint32_t agents, const uint32_t *list,
	size_t count);
void posting_prefetch_groups(const struct posting *posting, uint32_t agents, const uint32_t *list,
	size_t count);
void posting_finish(struct posting *posting);
void posting_resize(struct posting *posting, uint32_t from_agents, uint32_t to_agents);
uint8_t posting_get(const struct posting *posting, uint32_t agents, uint32_t agent);
void posting_get_many(const struct posting *posting, uint32_t agents, const uint32_t *list,
	size_t count, uint8_t *levels);
/* The level before. 0 takes the agent out. */
uint8_t posting_set(struct posting *posting, uint32_t agents, uint32_t agent, uint8_t level);
/* Holders from a place that `random` picks, looking at no more than `probes` places; a few at a time, until
 * none is left. The posting does not change meanwhile. */
struct posting_walk {
	uint32_t at, group, left;
};
void posting_walk_begin(const struct posting *posting, uint32_t agents, uint64_t random,
	unsigned probes, struct posting_walk *walk);
size_t posting_walk(const struct posting *posting, uint32_t agents, struct posting_walk *walk,
	uint32_t *found, size_t most);
size_t posting_bytes(const struct posting *posting, uint32_t agents); /* of memory */

#endif
