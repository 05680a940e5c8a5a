/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An agent for a job, policy by policy. */
#include "sched/placement/internal.h"

#include <math.h>
#include <xxhash.h>

/* Every free agent that fits, in the order of the pools. */
struct cursor {
	const struct croft_placement *placement;
	const struct croft_placement_job *job;
	size_t pool, at;
};

static uint32_t next_fitting(struct cursor *cursor)
{
	const struct class *class = cursor->job->class;
	while (cursor->pool < class->pool_count) {
		const struct pool *pool = class->pools[cursor->pool];
		while (cursor->at < pool->free_count) {
			uint32_t number = pool->free[cursor->at++];
			if (agent_fits(cursor->placement, number, cursor->job))
				return number;
		}
		cursor->pool++;
		cursor->at = 0;
	}
	return NO_AGENT;
}

uint32_t random_agent(struct croft_placement *placement, const struct croft_placement_job *job)
{
	struct cursor cursor = {placement, job, 0, 0};
	uint32_t chosen = NO_AGENT, number;
	uint64_t seen = 0;
	while ((number = next_fitting(&cursor)) != NO_AGENT)
		if (random_below(placement, ++seen) == 0)
			chosen = number;
	return chosen;
}

static uint32_t round_robin(struct croft_placement *placement, const struct croft_placement_job *job)
{
	struct cursor cursor = {placement, job, 0, 0};
	uint32_t chosen = NO_AGENT, least = UINT32_MAX, number;
	while ((number = next_fitting(&cursor)) != NO_AGENT) {
		uint32_t distance = (number + placement->agent_count - placement->turn) %
			placement->agent_count;
		if (distance < least) {
			least = distance;
			chosen = number;
		}
	}
	if (chosen != NO_AGENT)
		placement->turn = (chosen + 1) % placement->agent_count;
	return chosen;
}

static double load_of(const struct croft_placement *placement, uint32_t number)
{
	return (double)placement->agents[number].running / placement->agents[number].slots;
}

/* The least by `measure`, ties by chance. */
static uint32_t least(struct croft_placement *placement, const struct croft_placement_job *job,
	double (*measure)(struct croft_placement *placement, const struct croft_placement_job *job,
		uint32_t number))
{
	struct cursor cursor = {placement, job, 0, 0};
	uint32_t chosen = NO_AGENT, number;
	double best = INFINITY;
	uint64_t equals = 0;
	while ((number = next_fitting(&cursor)) != NO_AGENT) {
		double value = measure(placement, job, number);
		if (value < best || (value == best && random_below(placement, equals + 1) == 0)) {
			equals = value < best ? 1 : equals + 1;
			best = value;
			chosen = number;
		}
	}
	return chosen;
}

static double measure_load(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t number)
{
	return load_of(placement, number);
}

/* Bytes first; the load only decides between equals. */
static double measure_bytes(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t number)
{
	cost_begin(placement);
	return floor(cost_missing(placement, job, number)) + 0.5 * load_of(placement, number);
}

static double measure_hash(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t number)
{
	/* No agent may have more than 1.25 of the mean, the new job included. */
	double mean = (double)(placement->running + 1) / (double)placement->open_agents;
	if (placement->agents[number].running + 1 > ceil(1.25 * mean))
		return 2;
	uint64_t both[] = {learn_get(placement->learn, job->kind)->key, number};
	return (double)XXH3_64bits(both, sizeof(both)) / 0x1p64;
}

static uint32_t last_used(struct croft_placement *placement, const struct croft_placement_job *job)
{
	const uint32_t *last = learn_get(placement->learn, job->kind)->agents;
	for (int i = 0; i < LEARN_AGENTS; i++)
		if (last[i] < placement->agent_count &&
			class_matches_agent(job->class, &placement->agents[last[i]]) &&
			agent_fits(placement, last[i], job))
			return last[i];
	/* Nothing of its kind ran: where its family did. */
	uint32_t family = learn_get(placement->learn, job->family)->agents[0];
	if (family < placement->agent_count &&
		class_matches_agent(job->class, &placement->agents[family]) &&
		agent_fits(placement, family, job))
		return family;
	return random_agent(placement, job);
}

/* Locality ------------------------------------------------------------------------------------------- */

void note_candidate(struct croft_decision *decision, uint32_t agent, const struct cost *cost)
{
	if (!decision)
		return;
	struct croft_candidate candidate = {
		.agent = agent,
		.score_seconds = cost->seconds,
		.wait_seconds = cost->wait,
		.fetch_seconds = cost->fetch,
		.run_seconds = cost->run,
		.others_seconds = cost->others,
		.apart_seconds = cost->apart,
		.bytes_there = (uint64_t)cost->there,
		.bytes_missing = (uint64_t)cost->missing,
	};
	size_t at = decision->candidate_count;
	if (at < CROFT_PLACEMENT_CANDIDATES)
		decision->candidate_count++;
	else if (decision->candidates[--at].score_seconds <= cost->seconds)
		return;
	while (at > 0 && decision->candidates[at - 1].score_seconds > cost->seconds) {
		decision->candidates[at] = decision->candidates[at - 1];
		at--;
	}
	decision->candidates[at] = candidate;
}

uint32_t weigh_candidates(struct croft_placement *placement, const struct croft_placement_job *job,
	bool busy_too, struct croft_decision *decision)
{
	uint32_t agents[COST_MOST], best = NO_AGENT;
	struct cost costs[COST_MOST];
	size_t count = candidates(placement, job, agents, COST_MOST, busy_too);
	double least_seconds = INFINITY;
	count = cost_of_best(placement, job, agents, count, costs);
	for (size_t i = 0; i < count; i++) {
		if (costs[i].seconds < least_seconds) {
			least_seconds = costs[i].seconds;
			best = agents[i];
		}
		note_candidate(decision, agents[i], &costs[i]);
	}
	return best;
}

static uint32_t locality(struct croft_placement *placement, const struct croft_placement_job *job,
	struct croft_decision *decision)
{
	uint32_t best = weigh_candidates(placement, job, false, decision);
	/* Memory or a reservation may exclude all that were looked at, and yet not all. */
	return best != NO_AGENT ? best : random_agent(placement, job);
}

uint32_t choose_agent(struct croft_placement *placement, struct croft_placement_job *job,
	struct croft_decision *decision)
{
	switch (placement->config.policy) {
	case CROFT_POLICY_LOCALITY:
		decision->reason = "the least expected seconds: bytes it will read are there, or cheap to move";
		return locality(placement, job, decision);
	case CROFT_POLICY_ROUND_ROBIN:
		decision->reason = "its turn in the round";
		return round_robin(placement, job);
	case CROFT_POLICY_LEAST_LOADED:
		decision->reason = "the least loaded agent";
		return least(placement, job, measure_load);
	case CROFT_POLICY_LAST_USED:
		decision->reason = "where this kind of job ran last, else by chance";
		return last_used(placement, job);
	case CROFT_POLICY_BOUNDED_HASH:
		decision->reason = "hash of its kind among agents below 1.25 of the mean load";
		return least(placement, job, measure_hash);
	case CROFT_POLICY_LOCAL_BYTES:
		decision->reason = "the fewest missing bytes";
		return least(placement, job, measure_bytes);
	default:
		decision->reason = "by chance";
		return random_agent(placement, job);
	}
}

/* Names --------------------------------------------------------------------------------------------- */

static const char *const names[CROFT_POLICY_COUNT] = {
	[CROFT_POLICY_LOCALITY] = "locality",
	[CROFT_POLICY_RANDOM] = "random",
	[CROFT_POLICY_ROUND_ROBIN] = "round-robin",
	[CROFT_POLICY_LEAST_LOADED] = "least-loaded",
	[CROFT_POLICY_LAST_USED] = "last-used",
	[CROFT_POLICY_BOUNDED_HASH] = "bounded-hash",
	[CROFT_POLICY_LOCAL_BYTES] = "local-bytes",
	[CROFT_POLICY_DASK] = "dask",
	[CROFT_POLICY_DASK_STEALING] = "dask-stealing",
	[CROFT_POLICY_DELAY] = "delay",
};

const char *croft_policy_name(enum croft_policy policy)
{
	return names[policy];
}

bool croft_policy_parse(const char *name, enum croft_policy *policy, struct croft_error *err)
{
	char all[256] = "";
	for (int i = 0; i < CROFT_POLICY_COUNT; i++) {
		if (!name || strcmp(name, names[i]) == 0) {
			*policy = (enum croft_policy)i;
			return true;
		}
		strcat(strcat(all, i ? ", " : ""), names[i]);
	}
	return croft_error_set(
		err, CROFT_INVALID_ARGUMENT, "there is no placement policy '%s'; there are: %s", name, all);
}
