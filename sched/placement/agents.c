/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Agents and the pools that they form; which of them may be given a job. */
#include "sched/placement/internal.h"

#include "proto/base/arena.h"

#include <math.h>
#include <stdlib.h>

/* Pools -------------------------------------------------------------------------------------------- */

static void match_all(struct croft_placement *placement)
{
	struct class *class;
	LIST_FOREACH (class, &placement->classes, link)
		class_match(placement, class);
}

static struct pool *pool_take(struct croft_placement *placement,
	const struct croft_placement_agent *agent)
{
	char **properties = sorted_copy(agent->properties, agent->property_count);
	char *key = joined(properties, agent->property_count);
	struct pool *pool;
	LIST_FOREACH (pool, &placement->pools, link)
		if (strcmp(pool->key, key) == 0)
			break;
	if (pool) {
		free_texts(properties, agent->property_count);
		free(key);
	} else {
		pool = croft_zalloc(sizeof(*pool));
		pool->key = key;
		pool->properties = properties;
		pool->property_count = agent->property_count;
		pool_count(placement, pool);
		LIST_INSERT_HEAD(&placement->pools, pool, link);
		match_all(placement);
	}
	pool->agents++;
	return pool;
}

static void pool_release(struct croft_placement *placement, struct pool *pool)
{
	if (--pool->agents > 0)
		return;
	LIST_REMOVE(pool, link);
	match_all(placement);
	free_texts(pool->properties, pool->property_count);
	free(pool->key);
	free(pool->free);
	free(pool);
}

/* Free agents ----------------------------------------------------------------------------------------- */

bool agent_is_free(const struct agent *agent)
{
	return agent->free_at != NO_AGENT;
}

static unsigned free_slots(const struct agent *agent)
{
	return agent->slots > agent->running ? agent->slots - agent->running : 0;
}

static void leave_free(struct croft_placement *placement, struct agent *agent)
{
	struct pool *pool = agent->pool;
	uint32_t last = pool->free[--pool->free_count];
	pool->free[agent->free_at] = last;
	placement->agents[last].free_at = agent->free_at;
	agent->free_at = NO_AGENT;
}

static void join_free(struct agent *agent, uint32_t number)
{
	struct pool *pool = agent->pool;
	if (pool->free_count == pool->free_room) {
		pool->free_room = pool->free_room * 2 + 16;
		pool->free = croft_realloc(pool->free, pool->free_room, sizeof(uint32_t));
	}
	agent->free_at = (uint32_t)pool->free_count;
	pool->free[pool->free_count++] = number;
}

/* Counts of free slots are kept by taking the agent out before it changes and putting it back after. */
static void withdraw(struct croft_placement *placement, uint32_t number)
{
	struct agent *agent = &placement->agents[number];
	if (!agent_is_free(agent))
		return;
	agent->pool->free_slots -= free_slots(agent);
	leave_free(placement, agent);
}

static void offer(struct croft_placement *placement, uint32_t number)
{
	struct agent *agent = &placement->agents[number];
	if (!agent->open || agent->paused_until > 0 || free_slots(agent) == 0)
		return;
	join_free(agent, number);
	agent->pool->free_slots += free_slots(agent);
}

void agent_take_slot(struct croft_placement *placement, uint32_t number,
	const struct croft_placement_job *job)
{
	struct agent *agent = &placement->agents[number];
	withdraw(placement, number);
	agent->running++;
	agent->memory_used += job->memory_bytes;
	counts_take(agent, job);
	placement->running++;
	offer(placement, number);
}

void agent_give_slot(struct croft_placement *placement, uint32_t number,
	const struct croft_placement_job *job)
{
	struct agent *agent = &placement->agents[number];
	withdraw(placement, number);
	agent->running--;
	agent->memory_used -= job->memory_bytes;
	counts_give(agent, job);
	placement->running--;
	offer(placement, number);
}

bool agent_fits(const struct croft_placement *placement, uint32_t number,
	const struct croft_placement_job *job)
{
	const struct agent *agent = &placement->agents[number];
	if (!agent_is_free(agent) || (agent->reserved_for && agent->reserved_for != job))
		return false;
	if (!counts_fit(agent, job))
		return false;
	/* A job that wants more memory than any agent has still runs, alone. */
	return agent->memory_bytes == 0 || agent->running == 0 ||
		agent->memory_used + job->memory_bytes <= agent->memory_bytes;
}

void agents_wake(struct croft_placement *placement, double now, double *wake)
{
	if (placement->paused == 0)
		return;
	for (uint32_t i = 0; i < placement->agent_count; i++) {
		struct agent *agent = &placement->agents[i];
		if (!agent->used || agent->paused_until <= 0)
			continue;
		if (agent->paused_until > now) {
			if (agent->paused_until < *wake)
				*wake = agent->paused_until;
			continue;
		}
		agent->paused_until = 0;
		placement->paused--;
		offer(placement, i);
	}
}

/* Their life -------------------------------------------------------------------------------------------- */

static uint32_t take_number(struct croft_placement *placement)
{
	for (uint32_t i = 0; i < placement->agent_count; i++)
		if (!placement->agents[i].used)
			return i;
	if (placement->agent_count == CROFT_PLACEMENT_MAX_AGENTS)
		return NO_AGENT;
	if (placement->agent_count == placement->agent_room) {
		placement->agent_room = placement->agent_room * 2 + 16;
		size_t size = placement->agent_room * sizeof(struct agent);
		struct agent *agents = aligned_alloc(_Alignof(struct agent), size);
		if (!agents)
			abort();
		memset(agents, 0, size);
		/* The heads of their lists are pointed to by first elements. */
		for (uint32_t i = 0; i < placement->agent_count; i++) {
			agents[i] = placement->agents[i];
			TAILQ_INIT(&agents[i].jobs);
			TAILQ_CONCAT(&agents[i].jobs, &placement->agents[i].jobs, agent_link);
			TAILQ_INIT(&agents[i].bound);
			TAILQ_CONCAT(&agents[i].bound, &placement->agents[i].bound, agent_link);
		}
		free(placement->agents);
		placement->agents = agents;
	}
	return placement->agent_count++;
}

static void describe(struct agent *agent, const struct croft_placement_agent *description)
{
	agent->slots = description->slots;
	agent->memory_bytes = description->memory_bytes;
	agent->speed = description->speed > 0 ? description->speed : 1;
	agent->user = description->user;
}

uint32_t croft_placement_agent_add(struct croft_placement *placement,
	const struct croft_placement_agent *description)
{
	uint32_t number = take_number(placement);
	if (number == NO_AGENT)
		return number;
	presence_reserve(placement->presence, number + 1);
	struct agent *agent = &placement->agents[number];
	*agent = (struct agent){.used = true, .open = true, .free_at = NO_AGENT, .full_bytes = INFINITY};
	TAILQ_INIT(&agent->jobs);
	TAILQ_INIT(&agent->bound);
	describe(agent, description);
	agent->pool = pool_take(placement, description);
	placement->open_slots += agent->slots;
	placement->open_agents++;
	offer(placement, number);
	return number;
}

void croft_placement_agent_cache(struct croft_placement *placement, uint32_t number, uint64_t used_bytes,
	uint64_t budget_bytes)
{
	/* A store evicts a little before its budget is used up, and then a little more than it must. */
	static const double FULL = 0.9;
	double room = FULL * (double)budget_bytes - (double)used_bytes;
	placement->agents[number].full_bytes =
		budget_bytes ? (float)(presence_held(placement->presence, number) + room) : INFINITY;
}

void croft_placement_agent_change(struct croft_placement *placement, uint32_t number,
	const struct croft_placement_agent *description)
{
	struct agent *agent = &placement->agents[number];
	struct pool *before = agent->pool;
	withdraw(placement, number);
	if (agent->open)
		placement->open_slots -= agent->slots;
	describe(agent, description);
	agent->pool = pool_take(placement, description);
	pool_release(placement, before);
	if (agent->open)
		placement->open_slots += agent->slots;
	offer(placement, number);
}

static void drop_reservation(struct agent *agent)
{
	if (agent->reserved_for)
		agent->reserved_for->reserves = false;
	agent->reserved_for = NULL;
}

void croft_placement_agent_open(struct croft_placement *placement, uint32_t number, bool open)
{
	struct agent *agent = &placement->agents[number];
	if (agent->open == open)
		return;
	withdraw(placement, number);
	agent->open = open;
	if (open) {
		placement->open_slots += agent->slots;
		placement->open_agents++;
	} else {
		placement->open_slots -= agent->slots;
		placement->open_agents--;
		drop_reservation(agent);
		bound_release(placement, number);
	}
	offer(placement, number);
}

void croft_placement_agent_pause(struct croft_placement *placement, uint32_t number, double until)
{
	struct agent *agent = &placement->agents[number];
	withdraw(placement, number);
	placement->paused -= agent->paused_until > 0;
	agent->paused_until = until > 0 ? until : 0;
	placement->paused += agent->paused_until > 0;
	offer(placement, number);
}

void *croft_placement_agent_user(const struct croft_placement *placement, uint32_t number)
{
	return placement->agents[number].user;
}

double croft_placement_held(const struct croft_placement *placement, uint32_t number)
{
	return presence_held(placement->presence, number);
}

void croft_placement_agent_remove(struct croft_placement *placement, uint32_t number)
{
	struct agent *agent = &placement->agents[number];
	croft_placement_agent_open(placement, number, false);
	croft_placement_agent_pause(placement, number, 0);
	presence_forget(placement->presence, number);
	pool_release(placement, agent->pool);
	agent->used = false;
}

/* Presence --------------------------------------------------------------------------------------------- */

bool croft_placement_delta_begin(struct croft_placement *placement, uint32_t number, uint64_t epoch,
	uint64_t sequence, bool snapshot)
{
	struct agent *agent = &placement->agents[number];
	if (snapshot) {
		presence_forget(placement->presence, number);
	} else if (!agent->reported || agent->epoch != epoch || agent->sequence + 1 != sequence) {
		agent->reported = false; /* until a snapshot comes */
		return false;
	}
	agent->reported = true;
	agent->epoch = epoch;
	agent->sequence = sequence;
	return true;
}

void croft_placement_present(struct croft_placement *placement, uint32_t number,
	const struct croft_digest *digest, uint64_t present_bytes, uint64_t total_bytes)
{
	if (present_bytes == 0) {
		croft_placement_gone(placement, number, digest);
		return;
	}
	uint32_t root = presence_root(placement->presence, digest, total_bytes);
	double share = total_bytes ? (double)present_bytes / (double)total_bytes : 1;
	presence_set(placement->presence, root, number, level_of_share(share));
}

void croft_placement_gone(struct croft_placement *placement, uint32_t number,
	const struct croft_digest *digest)
{
	uint32_t root = presence_find(placement->presence, digest);
	if (root != UINT32_MAX)
		presence_set(placement->presence, root, number, 0);
}
