/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What jobs were like, per kind: how long they ran, what memory they took, which share of an input they
 * read. Bounded: the least recently used kinds and shares are forgotten.
 */
#ifndef CROFT_SCHED_PLACEMENT_LEARN_H
#define CROFT_SCHED_PLACEMENT_LEARN_H

#include "proto/base/slice.h"

enum { LEARN_AGENTS = 2, LEARN_KINDS = 1 << 16 };

struct kind {
	uint64_t key;
	uint32_t runs;
	uint32_t next; /* of its bucket */
	uint32_t references;
	uint32_t older, newer; /* by last use */
	float run_seconds; /* smoothed */
	float memory_bytes; /* the most seen, sinking slowly */
	float behind_seconds; /* the longest chain of jobs that waited for what one of these made */
	uint32_t behind_jobs; /* how many of them that are */
	uint32_t agents[LEARN_AGENTS]; /* that ran it last, the newest first; UINT32_MAX */
};

struct learn;

struct learn *learn_create(void);
void learn_destroy(struct learn *learn);

/* The kind of that key, found or made, with a reference that keeps its number. 0 is the kind of all
 * jobs. */
uint32_t learn_kind(struct learn *learn, uint64_t key);
void learn_unref(struct learn *learn, uint32_t kind);
struct kind *learn_get(struct learn *learn, uint32_t kind); /* until the next learn_kind */
size_t learn_count(const struct learn *learn);

void learn_run(struct learn *learn, uint32_t kind, uint32_t family, double run_seconds,
	uint64_t memory_bytes);
void learn_agent(struct learn *learn, uint32_t kind, uint32_t agent);
/* With family and all jobs as fallback. */
double learn_run_seconds(const struct learn *learn, uint32_t kind, uint32_t family);
uint64_t learn_memory(const struct learn *learn, uint32_t kind, uint32_t family);

/* What one of a kind made was read by one of another kind, which ran so long. At most LEARN_CHAIN jobs of a chain
 * count: kinds can follow one another in a circle. */
enum { LEARN_CHAIN = 64 };
void learn_follows(struct learn *learn, uint64_t maker_key, uint64_t reader_key, double run_seconds);
/* With the family as fallback; 0: nothing is known to follow. */
double learn_behind_seconds(const struct learn *learn, uint32_t kind, uint32_t family);

/* The share of an input that jobs of a kind read: as seen for kind and label; else for the family and
 * the label, else for the label, else for all. */
void learn_touched(struct learn *learn, uint64_t kind_key, uint64_t family_key, uint64_t label,
	double share);
double learn_share(const struct learn *learn, uint64_t kind_key, uint64_t family_key,
	uint64_t label);

void learn_save(const struct learn *learn, void (*emit)(void *user, struct croft_slice record),
	void *user);
bool learn_load(struct learn *learn, struct croft_slice record);

#endif
