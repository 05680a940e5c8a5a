/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A few agents worth weighing for a job: holders of its inputs that are heavy and rare, where its kind
 * ran last, and some at random. Measured, about twenty of them are as good as all of 512. Of a small farm
 * all are weighed.
 */
#include "sched/placement/internal.h"

enum { RARE_ROOTS = 4, HOLDERS = 4, PROBES = 48, RANDOM = 4 };

struct search {
	const struct croft_placement *placement;
	const struct croft_placement_job *job;
	const uint32_t *taken;
	size_t count;
	bool busy_too;
	bool anyone; /* whatever it runs and offers: only its cache counts */
};

static bool want(const struct search *search, uint32_t number)
{
	const struct agent *agent = &search->placement->agents[number];
	if (!agent->used || (!search->anyone && !class_matches_agent(search->job->class, agent)))
		return false;
	if (!search->anyone && !(search->busy_too ? agent->open : agent_fits(search->placement, number, search->job)))
		return false;
	for (size_t i = 0; i < search->count; i++)
		if (search->taken[i] == number)
			return false;
	return true;
}

/* The inputs that tell agents apart: bytes × share of agents that lack them. */
static size_t rare_roots(const struct croft_placement *placement, const struct inputs *inputs,
	uint32_t *roots)
{
	double weights[RARE_ROOTS];
	size_t count = 0;
	for (uint32_t i = 0; i < inputs->count; i++) {
		uint32_t holders = presence_holders(placement->presence, inputs->roots[i]);
		if (holders == 0)
			continue;
		double weight = (double)presence_bytes(placement->presence, inputs->roots[i]) *
			(double)placement->shares[inputs->levels[i]] *
			(1.0 - (double)holders / (placement->open_agents + 1.0));
		size_t at = count < RARE_ROOTS ? count++ : RARE_ROOTS;
		while (at > 0 && weights[at - 1] < weight) {
			if (at < RARE_ROOTS) {
				weights[at] = weights[at - 1];
				roots[at] = roots[at - 1];
			}
			at--;
		}
		if (at < RARE_ROOTS) {
			weights[at] = weight;
			roots[at] = inputs->roots[i];
		}
	}
	return count;
}

static void add(struct search *search, uint32_t *agents, size_t most, uint32_t number)
{
	if (number < search->placement->agent_count && search->count < most && want(search, number))
		agents[search->count++] = number;
}

/* Which agents are looked at is by chance, and of a large farm they are in no cache: all are asked for before
 * the first is looked at. */
static void prefetch_agents(const struct croft_placement *placement, const uint32_t *numbers,
	size_t count)
{
	for (size_t i = 0; i < count; i++)
		__builtin_prefetch(&placement->agents[numbers[i]]);
}

/* From the pools' lists of free agents. */
static void add_random(struct croft_placement *placement, struct search *search, uint32_t *agents,
	size_t most)
{
	const struct class *class = search->job->class;
	uint32_t picked[RANDOM];
	size_t free_agents = 0;
	for (size_t i = 0; i < class->pool_count; i++)
		free_agents += class->pools[i]->free_count;
	if (free_agents == 0)
		return;
	for (int i = 0; i < RANDOM; i++) {
		size_t at = random_below(placement, free_agents), pool = 0;
		while (at >= class->pools[pool]->free_count)
			at -= class->pools[pool++]->free_count;
		picked[i] = class->pools[pool]->free[at];
	}
	prefetch_agents(placement, picked, RANDOM);
	for (int i = 0; i < RANDOM; i++)
		add(search, agents, most, picked[i]);
}

struct holders {
	uint32_t root;
	struct posting_walk walk;
	uint32_t some[HOLDERS * 2];
	size_t count;
};

static bool next_holders(const struct croft_placement *placement, struct holders *holders)
{
	holders->count = presence_walk(placement->presence, holders->root, &holders->walk,
		holders->some, HOLDERS * 2);
	prefetch_agents(placement, holders->some, holders->count);
	return holders->count > 0;
}

/* Up to HOLDERS of one of the inputs. */
static void add_wanted(struct search *search, struct holders *holders, uint32_t *agents, size_t most)
{
	size_t enough = search->count + HOLDERS < most ? search->count + HOLDERS : most;
	do {
		for (size_t i = 0; i < holders->count && search->count < enough; i++)
			add(search, agents, enough, holders->some[i]);
	} while (search->count < enough && next_holders(search->placement, holders));
}

/* Up to `most` holders of each of the inputs that tell agents apart. */
static void add_holders(struct croft_placement *placement, struct search *search, uint32_t *agents,
	size_t most)
{
	uint32_t roots[RARE_ROOTS] = {0};
	struct holders holders[RARE_ROOTS];
	size_t count = rare_roots(placement, search->job->inputs, roots);
	presence_prefetch(placement->presence, roots, count, &(uint32_t){0}, 1);
	for (size_t i = 0; i < count; i++) {
		holders[i].root = roots[i];
		presence_walk_begin(placement->presence, roots[i], random_below(placement, UINT64_MAX),
			PROBES, &holders[i].walk);
	}
	for (size_t i = 0; i < count; i++)
		next_holders(placement, &holders[i]);
	for (size_t i = 0; i < count; i++)
		add_wanted(search, &holders[i], agents, most);
}

size_t holders(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t *agents, size_t most)
{
	struct search search = {.placement = placement, .job = job, .taken = agents, .anyone = true};
	if (placement->agent_count > most)
		add_holders(placement, &search, agents, most);
	else
		for (uint32_t i = 0; i < placement->agent_count; i++)
			add(&search, agents, most, i);
	return search.count;
}

size_t candidates(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t *agents, size_t most, bool busy_too)
{
	struct search search = {
		.placement = placement, .job = job, .taken = agents, .busy_too = busy_too};
	if (placement->agent_count <= most) {
		for (uint32_t i = 0; i < placement->agent_count; i++)
			add(&search, agents, most, i);
		return search.count;
	}
	add_holders(placement, &search, agents, most);
	const uint32_t *last = learn_get(placement->learn, job->kind)->agents;
	for (int i = 0; i < LEARN_AGENTS; i++)
		add(&search, agents, most, last[i]);
	if (job->hint && placement->hints[job->hint % HINTS].hint == job->hint)
		add(&search, agents, most, placement->hints[job->hint % HINTS].agent);
	add_random(placement, &search, agents, most);
	return search.count;
}
