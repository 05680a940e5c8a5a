/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a job is expected to cost on an agent, in seconds:
 *
 *	wait for a slot
 *	+ bytes that it will read and the agent lacks / bandwidth + inputs that are not whole × round trip
 *	+ run time / speed of the agent
 *	+ what it costs others
 *	+ HINT_SECONDS unless the last job of its hint went there
 *
 * Others are cost four things. A copy of something rare fills another cache with what nobody else
 * there wants: its bytes count up to twice. What comes to a full cache pushes out as much, which somebody
 * fetches again. An agent that holds much that this job does not read is
 * better kept for jobs that do: EXCESS of those bytes are counted as if they were missing. And the
 * busier an agent is, the sooner its cache is out of reach for the next job.
 */
#include "sched/placement/internal.h"

#include "proto/base/arena.h"

#include <math.h>
#include <stdlib.h>

/* Found on Debian's build dependencies (bench/run locality), where both halves and doubles are worse. */
static const double EXCESS = 0.01, RARITY = 1;
/* Of what a full cache pushes out, that is fetched again. */
static const double EVICTED = 1;
/* What a client's locality hint is worth. */
static const double HINT_SECONDS = 2;

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

/* The bytes that are expected to be read of these inputs. */
static double add_lack(struct croft_placement *placement, const struct inputs *inputs, uint32_t from,
	uint32_t to, const uint32_t *agents, size_t count, struct lack *lack)
{
	struct presence *presence = placement->presence;
	enum { AT_ONCE = 48 };
	uint8_t levels[COST_MOST];
	double read = 0;
	if (count == 0)
		return 0;
	/* Look-ups that are begun together, while the tables of the next ones are on their way: beyond `to`
	 * too, as most often these are asked for next. */
	uint32_t block = count > AT_ONCE / 2 ? 2 : AT_ONCE / (uint32_t)count;
	uint32_t ahead = inputs->count - from < block ? inputs->count - from : block;
	presence_prefetch(presence, inputs->roots + from, ahead, agents, count);
	for (uint32_t i = from, next = from; i < to; i++) {
		if (i == next) {
			presence_prefetch_groups(presence, inputs->roots + i, ahead, agents, count);
			next += ahead;
			ahead = inputs->count - next < block ? inputs->count - next : block;
			presence_prefetch(presence, inputs->roots + next, ahead, agents, count);
		}
		double bytes = (double)presence_bytes(presence, inputs->roots[i]);
		double rarity = 1 - (double)presence_holders(presence, inputs->roots[i]) /
			(double)(placement->open_agents + 1);
		float needed = placement->shares[inputs->levels[i]];
		read += bytes * (double)needed;
		presence_get_many(presence, inputs->roots[i], agents, count, levels);
		for (size_t c = 0; c < count; c++) {
			/* Without a jump: which agents lack it cannot be foreseen. */
			float there = placement->shares[levels[c] & LEVEL_MASK];
			float gap = there < needed ? needed - there : 0;
			double lacked = bytes * (double)gap;
			lack->missing[c] += lacked;
			lack->rare[c] += lacked * rarity;
			lack->misses[c] += gap > 0;
		}
	}
	return read;
}

static void weigh(struct croft_placement *placement, const struct croft_placement_job *job,
	const uint32_t *agents, size_t count, const struct lack *lack, struct cost *costs)
{
	const struct croft_placement_config *config = &placement->config;
	const struct hint *hint = &placement->hints[job->hint % HINTS];
	bool hinted = job->hint && hint->hint == job->hint;
	for (size_t c = 0; c < count; c++) {
		const struct agent *agent = &placement->agents[agents[c]];
		struct cost *cost = &costs[c];
		double missing = lack->missing[c];
		cost->missing = missing;
		cost->there = job->inputs->bytes > missing ? job->inputs->bytes - missing : 0;
		cost->wait = wait_for(placement, agents[c]);
		double held = presence_held(placement->presence, agents[c]), excess = held - cost->there;
		double evicted = held + missing - (double)agent->full_bytes;
		evicted = evicted < 0 ? 0 : evicted > missing ? missing : evicted;
		double bytes =
			RARITY * lack->rare[c] + EVICTED * evicted + EXCESS * (excess > 0 ? excess : 0);
		cost->fetch = missing / config->bandwidth + lack->misses[c] * config->round_trip;
		cost->run = job->run_seconds / agent->speed;
		cost->others = bytes / config->bandwidth + config->load_seconds * busy_share(agent);
		cost->apart = hinted && hint->agent != agents[c] ? HINT_SECONDS : 0;
		cost->seconds = cost->wait + cost->fetch + cost->run + cost->others + cost->apart;
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

/* Whether the first is the best whatever is found out of the inputs from there on. */
static bool is_decided(const struct croft_placement *placement, const struct inputs *inputs,
	uint32_t from, double bytes, uint32_t first, const struct cost *costs, size_t count)
{
	double times = isinf(placement->agents[first].full_bytes) ? 1 + RARITY : 1 + RARITY + EVICTED;
	double most = bytes * times / placement->config.bandwidth +
		(inputs->count - from) * placement->config.round_trip;
	for (size_t c = 1; c < count; c++)
		if (costs[c].seconds < costs[0].seconds + most)
			return false;
	return true;
}

size_t cost_of_best(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t *agents, size_t count, struct cost *costs)
{
	/* The heaviest inputs tell most. What is left out costs 3 % more bytes moved than weighing all whole, and
	 * of many agents keeping more does not move less (bench/run locality). */
	enum { HEAVIEST = 6, FIRST = 8, KEEP = 3 };
	const struct inputs *inputs = job->inputs;
	struct lack lack = {0};
	double rest = inputs->bytes;
	uint32_t at = 0;
	if (count > KEEP && inputs->count > 2 * HEAVIEST) {
		if (count > FIRST && placement->agent_count > COST_MOST) {
			/* Of a large farm these are agents that hold something of it anyway. */
			rest -= add_lack(placement, inputs, 0, HEAVIEST, agents, count, &lack);
			weigh(placement, job, agents, count, &lack, costs);
			best_to_front(agents, count, costs, &lack, FIRST);
			count = FIRST;
			at = HEAVIEST;
		}
		rest -= add_lack(placement, inputs, at, 2 * HEAVIEST, agents, count, &lack);
		weigh(placement, job, agents, count, &lack, costs);
		best_to_front(agents, count, costs, &lack, KEEP);
		count = KEEP;
		at = 2 * HEAVIEST;
	}
	while (count > 1 && at > 0 && at < inputs->count &&
		!is_decided(placement, inputs, at, rest, agents[0], costs, count)) {
		uint32_t to = inputs->count - at > 2 * HEAVIEST ? at + 2 * HEAVIEST : inputs->count;
		rest -= add_lack(placement, inputs, at, to, agents, count, &lack);
		at = to;
		weigh(placement, job, agents, count, &lack, costs);
		best_to_front(agents, count, costs, &lack, count);
	}
	/* The rest only tells how much the chosen one lacks. */
	if (at > 0 && at < inputs->count)
		count = 1;
	add_lack(placement, inputs, at, inputs->count, agents, count, &lack);
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
