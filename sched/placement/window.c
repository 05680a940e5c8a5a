/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When jobs wait for slots, the choice that saves bytes is which of them gets the slot that is free.
 * Any of the first `window` in turn may; each time a later one is taken counts as a skip of those
 * before it, and one that reached the bound is taken before any other.
 *
 * Jobs that long chains of others wait for go first, once such a chain takes longer than what is queued: before that
 * the slots are busy anyway, and bytes decide; after that each second that the chain begins later is one for which the
 * build's end is late. What is queued counts twice, for more will come. Chains are guesses: half of the longest is long
 * as well, and among those the bytes decide.
 */
#include "sched/placement/internal.h"

#include <math.h>

unsigned skip_bound(const struct croft_placement *placement)
{
	enum { PER_SLOT = 8, LEAST = 32 };
	size_t bound = placement->config.max_skips ? placement->config.max_skips
											   : PER_SLOT * placement->open_slots;
	return bound > LEAST || placement->config.max_skips ? (unsigned)bound : LEAST;
}

/* The lower the sooner. Bytes it lacks here, as a part of what it reads: counting bytes alone would
 * leave the large jobs to the end. */
static double value_of(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t agent)
{
	double missing = cost_missing(placement, job, agent);
	return missing / (job->inputs->bytes + 1);
}

static void skip(struct croft_placement *placement, struct croft_placement_job *job)
{
	if (++job->skips > placement->most_skips)
		placement->most_skips = job->skips;
}

/* Nothing else is given to an agent until this job fits there. */
void reserve_for(struct croft_placement *placement, struct croft_placement_job *job)
{
	uint32_t best = NO_AGENT;
	if (job->reserves)
		return;
	for (uint32_t i = 0; i < placement->agent_count; i++) {
		const struct agent *agent = &placement->agents[i];
		if (!agent->used || !agent->open || agent->reserved_for ||
			!class_matches_agent(job->class, agent))
			continue;
		if (best == NO_AGENT || agent->memory_bytes > placement->agents[best].memory_bytes)
			best = i;
	}
	if (best == NO_AGENT)
		return;
	placement->agents[best].reserved_for = job;
	job->reserves = true;
}

/* How long a chain must wait for a job that is to be taken. */
static float long_chain(const struct croft_placement *placement, uint32_t agent, size_t count)
{
	float longest = 0;
	for (size_t i = 0; i < count; i++) {
		const struct croft_placement_job *job = placement->window[i];
		if (job->critical_seconds > longest && agent_fits(placement, agent, job))
			longest = job->critical_seconds;
	}
	double backlog = placement->queued_seconds / (double)(placement->open_slots + 1);
	return (double)longest > 2 * backlog ? longest / 2 : 0;
}

struct croft_placement_job *choose_job(struct croft_placement *placement, uint32_t agent,
	struct croft_decision *decision)
{
	struct croft_placement_job **window = placement->window;
	size_t count = queue_window(
		placement, placement->agents[agent].pool, window, placement->config.window);
	size_t best = count;
	double least = INFINITY;
	unsigned bound = skip_bound(placement);
	float long_enough = long_chain(placement, agent, count);
	cost_begin(placement);
	decision->reason = long_enough > 0
		? "of the first jobs in the queue that many others wait for the one with most of its bytes there"
		: "of the first jobs in the queue the one with most of its bytes there";
	for (size_t i = 0; i < count; i++) {
		bool fits = agent_fits(placement, agent, window[i]);
		bool overdue = window[i]->skips >= bound;
		if (overdue && !fits)
			reserve_for(placement, window[i]);
		if (!fits)
			continue;
		if (overdue) {
			best = i;
			decision->reason = "passed over so often that it is its turn before any other";
			break;
		}
		if (window[i]->critical_seconds < long_enough)
			continue;
		double value = value_of(placement, window[i], agent);
		if (value < least) {
			least = value;
			best = i;
		}
	}
	for (size_t i = 0; i < best && best < count; i++)
		skip(placement, window[i]);
	if (best == count)
		return NULL;
	struct cost cost;
	cost_of_agents(placement, window[best], &agent, 1, &cost);
	note_candidate(decision, agent, &cost);
	return window[best];
}

/* The first jobs of a class that fit anywhere, each with the agent that suits it. */
struct croft_placement_job *choose_pair(struct croft_placement *placement, struct class *class,
	uint32_t *agent, struct croft_decision *decision)
{
	struct croft_placement_job *job = class->heads[0];
	for (unsigned i = 0; job && i < placement->config.window; i++, job = job->next[0]) {
		decision->candidate_count = 0;
		*agent = choose_agent(placement, job, decision);
		if (*agent == NO_AGENT) {
			if (job->skips >= skip_bound(placement))
				reserve_for(placement, job);
			continue;
		}
		for (struct croft_placement_job *before = class->heads[0]; before != job;
			before = before->next[0])
			skip(placement, before);
		return job;
	}
	return NULL;
}
