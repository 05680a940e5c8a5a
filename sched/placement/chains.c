/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which kinds of job others wait for: learned from jobs that read what others made. Who made it is remembered for a
 * while, in a table of fixed size in which what is new replaces what is old.
 */
#include "sched/placement/internal.h"

#include "proto/base/arena.h"

#include <stdlib.h>

enum { MAKERS = 1 << 16 };

struct maker {
	uint64_t what, kind, family; /* keys */
};

struct chains {
	struct maker makers[MAKERS];
};

struct chains *chains_create(void)
{
	return croft_zalloc(sizeof(struct chains));
}

void chains_destroy(struct chains *chains)
{
	free(chains);
}

static struct maker *place_of(struct chains *chains, uint64_t what)
{
	return &chains->makers[(what ^ what >> 32) % MAKERS];
}

void croft_placement_job_handed(struct croft_placement *placement, const struct croft_placement_job *job,
	double run_seconds, const struct croft_handed *handed)
{
	struct learn *learn = placement->learn;
	uint64_t kind = learn_get(learn, job->kind)->key, family = learn_get(learn, job->family)->key;
	for (size_t i = 0; i < handed->read_count; i++) {
		const struct maker *maker = place_of(placement->chains, handed->read[i]);
		if (maker->what != handed->read[i])
			continue;
		learn_follows(learn, maker->kind, kind, run_seconds);
		learn_follows(learn, maker->family, family, run_seconds);
	}
	for (size_t i = 0; i < handed->made_count; i++)
		*place_of(placement->chains, handed->made[i]) = (struct maker){handed->made[i], kind, family};
}
