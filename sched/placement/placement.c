/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The life of jobs, and one decision at a time. */
#include "sched/placement/internal.h"

#include "proto/base/arena.h"

#include <math.h>
#include <stdlib.h>
#include <xxhash.h>

struct croft_placement *croft_placement_create(const struct croft_placement_config *config)
{
	struct croft_placement *placement = croft_zalloc(sizeof(*placement));
	struct croft_placement_config *own = &placement->config;
	*own = *config;
	own->bandwidth = own->bandwidth > 0 ? own->bandwidth : 125e6;
	own->round_trip = own->round_trip > 0 ? own->round_trip : 0.0005;
	own->load_seconds = own->load_seconds > 0 ? own->load_seconds : 0.5;
	own->delay_seconds = own->delay_seconds > 0 ? own->delay_seconds : 5;
	own->window = own->window ? own->window : 128;
	own->oldest_every = own->oldest_every ? own->oldest_every : 64;
	own->max_inputs = own->max_inputs ? own->max_inputs : 96;
	placement->random = config->seed;
	placement->presence = presence_create();
	placement->shares = presence_shares(placement->presence);
	placement->learn = learn_create();
	placement->chains = chains_create();
	placement->window = croft_array(own->window, sizeof(*placement->window));
	return placement;
}

static void job_free(struct croft_placement *placement, struct croft_placement_job *job)
{
	if (job->reserves)
		for (uint32_t i = 0; i < placement->agent_count; i++)
			if (placement->agents[i].reserved_for == job)
				placement->agents[i].reserved_for = NULL;
	class_release(placement, job->class);
	tenant_release(placement, job->tenant);
	inputs_release(placement, job->inputs);
	learn_unref(placement->learn, job->kind);
	learn_unref(placement->learn, job->family);
	free(job->arrivals);
	free(job);
}

static void free_jobs(struct croft_placement *placement)
{
	struct class *class;
	while ((class = LIST_FIRST(&placement->classes))) {
		struct croft_placement_job *job = class->heads[0];
		if (!job)
			break; /* cannot be: a class without jobs is gone */
		queue_remove(placement, job);
		job_free(placement, job);
	}
}

void croft_placement_destroy(struct croft_placement *placement)
{
	if (!placement)
		return;
	for (uint32_t i = 0; i < placement->agent_count; i++) {
		struct croft_placement_job *job;
		if (!placement->agents[i].used)
			continue;
		bound_release(placement, i);
		while ((job = TAILQ_FIRST(&placement->agents[i].jobs)))
			croft_placement_job_end(placement, job, NULL, 0);
		croft_placement_agent_remove(placement, i);
	}
	free_jobs(placement);
	for (size_t i = 0; i < TENANT_BUCKETS; i++) {
		struct tenant *tenant;
		while ((tenant = LIST_FIRST(&placement->tenants[i]))) {
			LIST_REMOVE(tenant, link);
			free(tenant);
		}
	}
	counts_free(placement);
	presence_destroy(placement->presence);
	learn_destroy(placement->learn);
	chains_destroy(placement->chains);
	free(placement->agents);
	free(placement->window);
	free(placement->memo);
	free(placement);
}

/* Jobs ---------------------------------------------------------------------------------------------- */

static uint64_t key_of(struct croft_slice text)
{
	return text.size ? XXH3_64bits(text.data, text.size) : 0;
}

static uint8_t random_height(struct croft_placement *placement)
{
	uint8_t height = 1;
	while (height < TOWER && random_below(placement, 4) == 0)
		height++;
	return height;
}

struct croft_placement_job *croft_placement_job_add(struct croft_placement *placement,
	const struct croft_placement_job_info *info, double now)
{
	uint8_t height = random_height(placement);
	struct croft_placement_job *job = croft_zalloc(sizeof(*job) + height * sizeof(job->next[0]));
	uint64_t kind = key_of(info->kind), family = key_of(info->family);
	job->height = height;
	job->priority = info->priority;
	job->sequence = placement->next_sequence++;
	job->queued_at = now;
	job->agent = NO_AGENT;
	job->hint = info->hint;
	job->user = info->user;
	job->class = class_take(placement, info);
	job->tenant = tenant_take(placement, info->tenant);
	job->kind = learn_kind(placement->learn, kind);
	job->family = learn_kind(placement->learn, family);
	job->inputs = inputs_take(placement, info, kind, family);
	job->run_seconds = (float)learn_run_seconds(placement->learn, job->kind, job->family);
	job->critical_seconds = info->critical_seconds > 0
		? (float)info->critical_seconds
		: (float)learn_behind_seconds(placement->learn, job->kind, job->family);
	job->memory_bytes = info->memory_bytes
		? info->memory_bytes
		: learn_memory(placement->learn, job->kind, job->family);
	/* Shares are of machine time; a job that was never seen counts like the mean of all. */
	struct tenant *tenant = job->tenant;
	job->tag = tenant->finish > placement->virtual_time ? tenant->finish : placement->virtual_time;
	tenant->finish = job->tag + (job->run_seconds > 0.01f ? (double)job->run_seconds : 0.01);
	queue_insert(placement, job);
	return job;
}

/* Out of the queue or the agent's own already. */
static void run_on(struct croft_placement *placement, struct croft_placement_job *job,
	uint32_t number, double now)
{
	struct agent *agent = &placement->agents[number];
	job->state = JOB_RUNNING;
	job->agent = number;
	job->started_at = now;
	TAILQ_INSERT_TAIL(&agent->jobs, job, agent_link);
	agent_take_slot(placement, number, job);
	if (job->reserves)
		agent->reserved_for = NULL;
	job->reserves = false;
	arrivals_begin(placement, job);
	learn_agent(placement->learn, job->kind, number);
	learn_agent(placement->learn, job->family, number);
	if (job->hint)
		placement->hints[job->hint % HINTS] = (struct hint){job->hint, number};
	if (job->tag > placement->virtual_time)
		placement->virtual_time = job->tag;
}

void croft_placement_job_adopt(struct croft_placement *placement, struct croft_placement_job *job,
	uint32_t agent, double now)
{
	if (job->state == JOB_BOUND)
		bound_drop(placement, job);
	else if (job->state == JOB_QUEUED)
		queue_remove(placement, job);
	run_on(placement, job, agent, now);
}

static void leave_agent(struct croft_placement *placement, struct croft_placement_job *job)
{
	arrivals_end(placement, job);
	TAILQ_REMOVE(&placement->agents[job->agent].jobs, job, agent_link);
	agent_give_slot(placement, job->agent, job);
	job->agent = NO_AGENT;
}

void croft_placement_job_requeue(struct croft_placement *placement,
	struct croft_placement_job *job, double now)
{
	if (job->state != JOB_RUNNING)
		return;
	leave_agent(placement, job);
	queue_insert(placement, job);
}

static void learn_from(struct croft_placement *placement, const struct croft_placement_job *job,
	const struct croft_placement_outcome *outcome)
{
	uint64_t kind = learn_get(placement->learn, job->kind)->key;
	uint64_t family = learn_get(placement->learn, job->family)->key;
	learn_run(placement->learn, job->kind, job->family, outcome->run_seconds,
		outcome->memory_bytes);
	for (size_t i = 0; i < outcome->touched_count; i++) {
		double share = (double)outcome->touched[i].share;
		learn_touched(placement->learn, kind, family, outcome->touched[i].label,
			share > 1 ? 1 : share > 0 ? share : 0);
	}
}

void croft_placement_job_end(struct croft_placement *placement, struct croft_placement_job *job,
	const struct croft_placement_outcome *outcome, double now)
{
	if (job->state == JOB_QUEUED)
		queue_remove(placement, job);
	else if (job->state == JOB_BOUND)
		bound_drop(placement, job);
	else
		leave_agent(placement, job);
	if (outcome)
		learn_from(placement, job, outcome);
	job_free(placement, job);
}

double croft_placement_job_run_seconds(const struct croft_placement *placement,
	const struct croft_placement_job *job)
{
	return learn_run_seconds(placement->learn, job->kind, job->family);
}

/* Decisions ----------------------------------------------------------------------------------------- */

/* Among classes for which there is a free slot, the one whose turn it is: by its first job's order, or
 * by its oldest. */
static struct class *next_class(struct croft_placement *placement, bool by_age, uint64_t round)
{
	struct class *class, *best = NULL;
	LIST_FOREACH (class, &placement->classes, link) {
		if (!class->queued || class->given_up == round || class_free_slots(class) == 0)
			continue;
		if (!best ||
			(by_age ? TAILQ_FIRST(&class->by_age)->sequence < TAILQ_FIRST(&best->by_age)->sequence
					: queue_order(class->heads[0], best->heads[0]) < 0))
			best = class;
	}
	return best;
}

/* A free agent that the class may use. */
static uint32_t free_agent(struct croft_placement *placement, const struct class *class)
{
	size_t count = 0;
	for (size_t i = 0; i < class->pool_count; i++)
		count += class->pools[i]->free_count;
	size_t at = random_below(placement, count), pool = 0;
	while (at >= class->pools[pool]->free_count)
		at -= class->pools[pool++]->free_count;
	return class->pools[pool]->free[at];
}

static struct croft_placement_job *by_slot(struct croft_placement *placement,
	const struct class *class, uint32_t *agent, struct croft_decision *decision)
{
	enum { TRIES = 4 }; /* a reserved agent or one short of memory may have no job that fits */
	struct croft_placement_job *job = NULL;
	for (int i = 0; i < TRIES && !job; i++) {
		*agent = free_agent(placement, class);
		job = choose_job(placement, *agent, decision);
	}
	return job;
}

static struct croft_placement_job *choose(struct croft_placement *placement, double now,
	uint32_t *agent, struct croft_decision *decision, double *wake)
{
	struct croft_placement_job *job;
	struct class *class;
	enum croft_policy policy = placement->config.policy;
	uint64_t round = ++placement->rounds;
	if (policy == CROFT_POLICY_DASK || policy == CROFT_POLICY_DASK_STEALING) {
		decision->reason = "the least queued work and transfer time when it came";
		return bound_next(placement, agent, &job) ? job : NULL;
	}
	if ((placement->started + 1) % placement->config.oldest_every == 0 &&
		(class = next_class(placement, true, round))) {
		job = TAILQ_FIRST(&class->by_age);
		*agent = choose_agent(placement, job, decision);
		if (*agent != NO_AGENT)
			return job;
	}
	while ((class = next_class(placement, false, round))) {
		decision->candidate_count = 0;
		if (policy == CROFT_POLICY_DELAY)
			job = delay_next(placement, class, now, agent, decision, wake);
		else if (policy == CROFT_POLICY_LOCALITY && class->queued > class_free_slots(class))
			job = by_slot(placement, class, agent, decision);
		else
			job = choose_pair(placement, class, agent, decision);
		if (job)
			return job;
		class->given_up = round;
	}
	return NULL;
}

bool croft_placement_next(struct croft_placement *placement, double now,
	struct croft_decision *decision, double *wake)
{
	double when = INFINITY;
	*decision = (struct croft_decision){.reason = ""};
	agents_wake(placement, now, &when);
	uint32_t agent = NO_AGENT;
	struct croft_placement_job *job = choose(placement, now, &agent, decision, &when);
	if (wake)
		*wake = when;
	if (!job)
		return false;
	decision->job = job;
	decision->job_user = job->user;
	decision->agent = agent;
	decision->agent_user = placement->agents[agent].user;
	decision->waited_seconds = now - job->queued_at;
	decision->skipped = job->skips;
	if (job->state == JOB_QUEUED)
		queue_remove(placement, job);
	run_on(placement, job, agent, now);
	placement->started++;
	return true;
}

/* Questions ------------------------------------------------------------------------------------------ */

static const char *why_waiting(struct croft_placement *placement,
	const struct croft_placement_job *job)
{
	bool matched = false, memory = false;
	for (uint32_t i = 0; i < placement->agent_count; i++) {
		const struct agent *agent = &placement->agents[i];
		if (!agent->used || !agent->open || !class_matches_agent(job->class, agent))
			continue;
		matched = true;
		memory |= agent_is_free(agent) && !agent_fits(placement, i, job);
	}
	if (!matched)
		return "no connected agent has the platform properties that it asks for";
	if (memory)
		return "the agents with free slots have not enough free memory, CPUs or devices, or are kept for "
			   "another job";
	return "all slots of the agents that it may run on are busy";
}

void croft_placement_explain(struct croft_placement *placement,
	const struct croft_placement_job *job, double now, struct croft_decision *decision,
	uint64_t *jobs_before)
{
	*decision = (struct croft_decision){.job = (struct croft_placement_job *)job,
		.job_user = job->user, .agent = job->agent, .skipped = job->skips, .reason = "it runs"};
	*jobs_before = 0;
	decision->waited_seconds = (job->state == JOB_RUNNING ? job->started_at : now) - job->queued_at;
	if (job->state == JOB_RUNNING) {
		decision->agent_user = placement->agents[job->agent].user;
		return;
	}
	weigh_candidates(placement, job, true, decision);
	if (job->state == JOB_BOUND) {
		decision->reason = "it waits for the agent that it is bound to";
		return;
	}
	decision->reason = why_waiting(placement, job);
	const struct croft_placement_job *at = job->class->heads[0];
	for (; at && at != job; at = at->next[0])
		++*jobs_before;
}

size_t croft_placement_peers(struct croft_placement *placement,
	const struct croft_placement_job *job, uint32_t agent, uint32_t *peers, size_t most)
{
	uint32_t found[COST_MOST];
	struct cost costs[COST_MOST];
	size_t taken = 0;
	size_t count = holders(placement, job, found, COST_MOST);
	cost_of_agents(placement, job, found, count, costs);
	while (taken < most) {
		size_t best = count;
		for (size_t i = 0; i < count; i++)
			if (found[i] != agent && costs[i].there > 0 &&
				(best == count || costs[i].there > costs[best].there))
				best = i;
		if (best == count)
			break;
		peers[taken++] = found[best];
		costs[best].there = 0;
	}
	return taken;
}

void croft_placement_stat(const struct croft_placement *placement,
	struct croft_placement_stat *stat)
{
	struct presence_stat presence;
	presence_stat(placement->presence, &presence);
	*stat = (struct croft_placement_stat){
		.agents = placement->open_agents,
		.slots = placement->open_slots,
		.running = placement->running,
		.queued = placement->queued,
		.roots = presence.roots,
		.postings = presence.postings,
		.presence_bytes = presence.bytes,
		.kinds = learn_count(placement->learn),
		.decisions = placement->started,
		.most_skips = placement->most_skips,
		.skip_bound = skip_bound(placement),
	};
}

void croft_placement_save(const struct croft_placement *placement,
	void (*emit)(void *user, struct croft_slice record), void *user)
{
	learn_save(placement->learn, emit, user);
}

bool croft_placement_load(struct croft_placement *placement, struct croft_slice record)
{
	return learn_load(placement->learn, record);
}
