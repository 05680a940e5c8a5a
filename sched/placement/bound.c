/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The Dask-like baselines: each job is bound to an agent as it arrives, by queued work and transfer
 * time, and waits there. With stealing, an idle agent takes from the agent with most queued work the job
 * whose run time is longest in proportion to what it would have to fetch.
 */
#include "sched/placement/internal.h"

#include <math.h>

static bool usable(const struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t number)
{
	const struct agent *agent = &placement->agents[number];
	return agent->used && agent->open && class_matches_agent(job->class, agent);
}

/* Dask weighs the holders of inputs; croft's heaviest inputs stand for all of them. */
static uint32_t choose_bound(struct croft_placement *placement, struct croft_placement_job *job)
{
	uint32_t agents[COST_MOST], best = NO_AGENT;
	struct cost costs[COST_MOST];
	double least = INFINITY;
	size_t count = candidates(placement, job, agents, COST_MOST, true);
	cost_of_agents(placement, job, agents, count, costs);
	for (size_t i = 0; i < count; i++) {
		const struct agent *agent = &placement->agents[agents[i]];
		double running = agent->running * job->run_seconds / 2;
		double seconds = (agent->queued_seconds + running) / agent->slots +
			costs[i].missing / placement->config.bandwidth;
		if (seconds < least || (seconds == least &&
				agent->bytes_placed < placement->agents[best].bytes_placed)) {
			least = seconds;
			best = agents[i];
		}
	}
	/* Nothing is held anywhere and nobody is free: any agent, by least work. */
	for (uint32_t i = 0; best == NO_AGENT && i < placement->agent_count; i++) {
		if (!usable(placement, job, i))
			continue;
		double work = placement->agents[i].queued_seconds / placement->agents[i].slots;
		if (work < least) {
			least = work;
			best = i;
		}
	}
	return best;
}

static void bind(struct croft_placement *placement, struct croft_placement_job *job, uint32_t number)
{
	struct agent *agent = &placement->agents[number];
	queue_remove(placement, job);
	job->state = JOB_BOUND;
	job->agent = number;
	agent->queued_seconds += job->run_seconds;
	agent->bytes_placed += job->inputs->bytes;
	TAILQ_INSERT_TAIL(&agent->bound, job, agent_link);
}

void bound_drop(struct croft_placement *placement, struct croft_placement_job *job)
{
	struct agent *agent = &placement->agents[job->agent];
	TAILQ_REMOVE(&agent->bound, job, agent_link);
	agent->queued_seconds -= job->run_seconds;
	if (TAILQ_EMPTY(&agent->bound))
		agent->queued_seconds = 0; /* no rounding is carried along */
}

void bound_release(struct croft_placement *placement, uint32_t number)
{
	struct croft_placement_job *job;
	while ((job = TAILQ_FIRST(&placement->agents[number].bound))) {
		bound_drop(placement, job);
		queue_insert(placement, job);
	}
}

static struct croft_placement_job *steal_for(struct croft_placement *placement, uint32_t thief)
{
	uint32_t victim = NO_AGENT;
	double most = 0;
	for (uint32_t i = 0; i < placement->agent_count; i++) {
		const struct agent *agent = &placement->agents[i];
		if (!agent->used || TAILQ_EMPTY(&agent->bound))
			continue;
		double work = agent->queued_seconds / agent->slots;
		if (work > most) {
			most = work;
			victim = i;
		}
	}
	if (victim == NO_AGENT)
		return NULL;
	struct croft_placement_job *job, *best = NULL;
	double best_ratio = 0;
	unsigned looked_at = 0;
	cost_begin(placement);
	TAILQ_FOREACH (job, &placement->agents[victim].bound, agent_link) {
		if (looked_at++ == placement->config.window)
			break;
		if (!class_matches_agent(job->class, &placement->agents[thief]) ||
			!agent_fits(placement, thief, job))
			continue;
		double transfer = cost_missing(placement, job, thief) / placement->config.bandwidth;
		double ratio = job->run_seconds / (transfer + 0.01);
		if (ratio > best_ratio) {
			best_ratio = ratio;
			best = job;
		}
	}
	return best;
}

static struct croft_placement_job *first_bound(struct croft_placement *placement, uint32_t number)
{
	struct croft_placement_job *job;
	TAILQ_FOREACH (job, &placement->agents[number].bound, agent_link)
		if (agent_fits(placement, number, job))
			return job;
	return NULL;
}

/* A job for one of the free agents of a pool. */
static struct croft_placement_job *start_in(struct croft_placement *placement,
	const struct pool *pool, uint32_t *number)
{
	bool steals = placement->config.policy == CROFT_POLICY_DASK_STEALING;
	for (size_t i = 0; i < pool->free_count; i++) {
		struct croft_placement_job *job = first_bound(placement, pool->free[i]);
		if (!job && steals)
			job = steal_for(placement, pool->free[i]);
		if (job) {
			*number = pool->free[i];
			return job;
		}
	}
	return NULL;
}

bool bound_next(struct croft_placement *placement, uint32_t *number,
	struct croft_placement_job **chosen)
{
	struct class *class;
	LIST_FOREACH (class, &placement->classes, link) {
		struct croft_placement_job *job;
		while ((job = class->heads[0])) {
			uint32_t agent = choose_bound(placement, job);
			if (agent == NO_AGENT)
				break;
			bind(placement, job, agent);
		}
	}
	struct pool *pool;
	LIST_FOREACH (pool, &placement->pools, link) {
		*chosen = start_in(placement, pool, number);
		if (*chosen) {
			bound_drop(placement, *chosen);
			return true;
		}
	}
	return false;
}
