/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a job is expected to cost on an agent, in seconds:
 *
 *	wait for a slot
 *	+ bytes that it will read and the agent lacks / bandwidth + inputs that are not whole × round trip
 *	+ run time / speed of the agent
 *	+ what it costs others
 *
 * Others are cost three things. A copy of something rare fills another cache with what nobody else
 * there wants: its bytes count up to twice. An agent that holds much that this job does not read is
 * better kept for jobs that do: EXCESS of those bytes are counted as if they were missing. And the
 * busier an agent is, the sooner its cache is out of reach for the next job.
 */
#include "sched/placement/internal.h"

#include "proto/base/arena.h"

#include <stdlib.h>

/* Found on Debian's build dependencies (bench/run locality), where both halves and doubles are worse. */
static const double EXCESS = 0.01, RARITY = 1;

static double busy_share(const struct agent *agent)
{
	return agent->slots ? (double)agent->running / agent->slots : 1;
}

/* Until a slot is free: the runs under way are on average half done. */
static double wait_for(const struct croft_placement *placement, uint32_t number)
{
	const struct agent *agent = &placement->agents[number];
	if (agent->running < agent->slots || agent->slots == 0)
		return 0;
	double run = learn_run_seconds(placement->learn, 0, 0) / agent->speed;
	return run / (agent->slots + 1) + agent->queued_seconds / agent->slots;
}

/* What some agents lack of a job's inputs, summed over those looked at so far. */
struct lack {
	double missing[COST_MOST], rare[COST_MOST];
	unsigned misses[COST_MOST];
};

static void add_lack(struct croft_placement *placement, const struct inputs *inputs, uint32_t from,
	uint32_t to, const uint32_t *agents, size_t count, struct lack *lack)
{
	struct presence *presence = placement->presence;
	uint8_t levels[COST_MOST];
	for (uint32_t i = from; i < to; i++) {
		if (i + 3 < inputs->count)
			presence_prefetch(presence, inputs->roots[i + 3]);
		double bytes = (double)presence_bytes(presence, inputs->roots[i]);
		double rarity = 1 - (double)presence_holders(presence, inputs->roots[i]) /
			(double)(placement->open_agents + 1);
		float needed = placement->shares[inputs->levels[i]];
		presence_get_many(presence, inputs->roots[i], agents, count, levels);
		for (size_t c = 0; c < count; c++) {
			float there = placement->shares[levels[c] & LEVEL_MASK];
			if (there < needed) {
				double lacked = bytes * (double)(needed - there);
				lack->missing[c] += lacked;
				lack->rare[c] += lacked * rarity;
				lack->misses[c]++;
			}
		}
	}
}

static void weigh(struct croft_placement *placement, const struct croft_placement_job *job,
	const uint32_t *agents, size_t count, const struct lack *lack, struct cost *costs)
{
	const struct croft_placement_config *config = &placement->config;
	for (size_t c = 0; c < count; c++) {
		const struct agent *agent = &placement->agents[agents[c]];
		struct cost *cost = &costs[c];
		double missing = lack->missing[c];
		cost->missing = missing;
		cost->there = job->inputs->bytes > missing ? job->inputs->bytes - missing : 0;
		cost->wait = wait_for(placement, agents[c]);
		double excess = presence_held(placement->presence, agents[c]) - cost->there;
		double bytes = missing + RARITY * lack->rare[c] + EXCESS * (excess > 0 ? excess : 0);
		cost->seconds = cost->wait + bytes / config->bandwidth +
			lack->misses[c] * config->round_trip + job->run_seconds / agent->speed +
			config->load_seconds * busy_share(agent);
	}
}

void cost_of_agents(struct croft_placement *placement, const struct croft_placement_job *job,
	const uint32_t *agents, size_t count, struct cost *costs)
{
	struct lack lack = {0};
	add_lack(placement, job->inputs, 0, job->inputs->count, agents, count, &lack);
	weigh(placement, job, agents, count, &lack, costs);
}

/* The best `keep` to the front; the rest in no order. */
static void best_to_front(uint32_t *agents, size_t count, struct cost *costs, struct lack *lack,
	size_t keep)
{
	for (size_t at = 0; at < keep; at++) {
		size_t best = at;
		for (size_t c = at + 1; c < count; c++)
			if (costs[c].seconds < costs[best].seconds)
				best = c;
		uint32_t agent = agents[at];
		agents[at] = agents[best];
		agents[best] = agent;
		struct cost cost = costs[at];
		costs[at] = costs[best];
		costs[best] = cost;
		double missing = lack->missing[at], rare = lack->rare[at];
		unsigned misses = lack->misses[at];
		lack->missing[at] = lack->missing[best];
		lack->rare[at] = lack->rare[best];
		lack->misses[at] = lack->misses[best];
		lack->missing[best] = missing;
		lack->rare[best] = rare;
		lack->misses[best] = misses;
	}
}

size_t cost_of_best(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t *agents, size_t count, struct cost *costs)
{
	/* A fourth of the look-ups, and 3 % more bytes moved than with all of them (bench/run locality). Keeping
	 * more of many does not move less. */
	enum { HEAVIEST = 12, KEEP = 3 };
	const struct inputs *inputs = job->inputs;
	struct lack lack = {0};
	uint32_t first = 0;
	if (count > KEEP && inputs->count > HEAVIEST) {
		first = HEAVIEST;
		add_lack(placement, inputs, 0, first, agents, count, &lack);
		weigh(placement, job, agents, count, &lack, costs);
		best_to_front(agents, count, costs, &lack, KEEP);
		count = KEEP;
	}
	add_lack(placement, inputs, first, inputs->count, agents, count, &lack);
	weigh(placement, job, agents, count, &lack, costs);
	return count;
}

void cost_begin(struct croft_placement *placement)
{
	uint32_t room = presence_room(placement->presence);
	if (room > placement->memo_room) {
		placement->memo = croft_realloc(placement->memo, room, sizeof(*placement->memo));
		memset(placement->memo + placement->memo_room, 0,
			(room - placement->memo_room) * sizeof(*placement->memo));
		placement->memo_room = room;
	}
	placement->stamp++;
	if (placement->stamp == 0) {
		memset(placement->memo, 0, placement->memo_room * sizeof(*placement->memo));
		placement->stamp = 1;
	}
}

double cost_missing(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t agent)
{
	const struct inputs *inputs = job->inputs;
	double missing = 0;
	for (uint32_t i = 0; i < inputs->count; i++) {
		uint32_t root = inputs->roots[i];
		if (placement->memo[root].stamp != placement->stamp) {
			placement->memo[root].stamp = placement->stamp;
			placement->memo[root].level =
				presence_get(placement->presence, root, agent) & LEVEL_MASK;
		}
		float needed = placement->shares[inputs->levels[i]];
		float there = placement->shares[placement->memo[root].level];
		if (there < needed)
			missing += (double)presence_bytes(placement->presence, root) * (double)(needed - there);
	}
	return missing;
}
