/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sched/placement.
 *
 * Agents with the same properties form a *pool*; jobs with the same requirements form a *class*. A class
 * knows which pools match it, so that matching costs nothing per job.
 */
#ifndef CROFT_SCHED_PLACEMENT_INTERNAL_H
#define CROFT_SCHED_PLACEMENT_INTERNAL_H

#include "sched/placement.h"
#include "sched/placement/learn.h"
#include "sched/placement/presence.h"

#include <sys/queue.h>

#define NO_AGENT UINT32_MAX

/* Inputs: what jobs over the same roots share -------------------------------------------------- */

struct inputs {
	LIST_ENTRY(inputs) link; /* of its bucket */
	uint64_t hash;
	uint32_t references, count;
	double bytes;      /* expected to be read, of all of them */
	uint8_t *levels;   /* the share of each that is expected to be read; behind roots */
	uint32_t roots[];  /* the heaviest first */
};

/* Jobs --------------------------------------------------------------------------------------------- */

enum { TOWER = 8 }; /* of the queue's skip list: enough for 4^8 jobs and more */

struct arrival {
	uint32_t root;
	uint8_t before; /* what the agent held when the job was placed */
};

struct croft_placement_job {
	enum { JOB_QUEUED, JOB_BOUND, JOB_RUNNING } state;
	uint8_t height;
	int32_t priority;
	double tag; /* its fair turn: virtual time */
	uint64_t sequence;
	double queued_at, started_at;
	struct class *class;
	struct tenant *tenant;
	struct inputs *inputs;
	uint32_t kind, family;
	uint32_t skips;
	uint32_t agent; /* bound to, or running on */
	float run_seconds, critical_seconds;
	uint64_t memory_bytes, hint;
	void *user;
	TAILQ_ENTRY(croft_placement_job) age_link, agent_link;
	struct arrival *arrivals;
	uint32_t arrival_count;
	bool reserves; /* an agent is kept free for it */
	struct croft_placement_job *next[]; /* height of them */
};

TAILQ_HEAD(job_list, croft_placement_job);

enum { COUNTS = 8 }; /* names of countable things that are kept account of */

struct tenant {
	LIST_ENTRY(tenant) link;
	uint64_t key;
	double finish; /* virtual time at which its last job's turn ends */
	size_t jobs;
};

struct class {
	LIST_ENTRY(class) link;
	char *key; /* requirements, sorted, one a line */
	char **requirements;
	size_t requirement_count, jobs, queued;
	uint32_t counts[COUNTS]; /* that each of its jobs takes */
	struct pool **pools; /* that match */
	size_t pool_count;
	struct croft_placement_job *heads[TOWER];
	struct job_list by_age; /* queued ones */
	uint64_t given_up; /* the round in which none of its jobs fitted */
};

/* Agents ------------------------------------------------------------------------------------------- */

struct pool {
	LIST_ENTRY(pool) link;
	char *key;
	char **properties; /* sorted */
	size_t property_count, agents;
	uint32_t counts[COUNTS]; /* that each agent has */
	uint32_t *free; /* agents that may be given a job */
	size_t free_count, free_room, free_slots;
};

enum { CACHE_LINE = 64 };

struct agent {
	_Alignas(CACHE_LINE) bool used;
	bool open;
	struct pool *pool;
	uint32_t free_at; /* place in pool->free, or NO_AGENT */
	unsigned slots, running;
	float full_bytes; /* of roots, from which on what comes pushes others out of its cache; INFINITY: not known */
	struct croft_placement_job *reserved_for;
	uint64_t memory_bytes, memory_used;
	double speed; /* up to here: what is looked at of candidates, in one cache line */
	uint32_t counts_used[COUNTS];
	double paused_until;
	void *user;
	uint64_t epoch, sequence; /* of the last delta */
	bool reported;
	double bytes_placed; /* dask: ties */
	double queued_seconds; /* bound jobs */
	struct job_list jobs, bound;
};

enum { TENANT_BUCKETS = 1024, INPUT_BUCKETS = 1 << 14, HINTS = 4096 };

struct hint {
	uint64_t hint;
	uint32_t agent;
};

struct croft_placement {
	struct croft_placement_config config;
	uint64_t random;
	struct presence *presence;
	struct learn *learn;
	struct chains *chains;
	const float *shares; /* of levels */
	struct agent *agents;
	uint32_t agent_count, agent_room; /* count: above every number in use */
	size_t open_slots, running, paused;
	size_t open_agents;
	uint32_t turn; /* round robin */
	LIST_HEAD(, pool) pools;
	LIST_HEAD(, class) classes;
	LIST_HEAD(, tenant) tenants[TENANT_BUCKETS];
	LIST_HEAD(, inputs) inputs[INPUT_BUCKETS];
	struct hint hints[HINTS];
	char *count_names[COUNTS]; /* each with a value behind it */
	double virtual_time;
	uint64_t next_sequence, started, rounds;
	size_t queued;
	double queued_seconds; /* expected run time of all that is queued */
	unsigned most_skips;
	/* Levels of one agent's roots, as looked up for one decision: valid where stamp is the decision's. */
	struct {
		uint32_t stamp;
		uint8_t level;
	} *memo;
	uint32_t memo_room, stamp;
	struct croft_placement_job **window; /* room for config.window */
};

/* Uniform below `below`. */
static inline uint64_t random_below(struct croft_placement *placement, uint64_t below)
{
	/* splitmix64 */
	uint64_t value = placement->random += 0x9e3779b97f4a7c15;
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
	value = (value ^ value >> 27) * 0x94d049bb133111eb;
	value ^= value >> 31;
	return (uint64_t)((unsigned __int128)value * below >> 64);
}

/* texts.c: sets of "name=value" */
char **sorted_copy(const char *const *texts, size_t count);
char *joined(char *const *texts, size_t count);
void free_texts(char **texts, size_t count);

/* inputs.c */
struct inputs *inputs_take(struct croft_placement *placement,
	const struct croft_placement_job_info *info, uint64_t kind_key, uint64_t family_key);
void inputs_release(struct croft_placement *placement, struct inputs *inputs);
void arrivals_begin(struct croft_placement *placement, struct croft_placement_job *job);
void arrivals_end(struct croft_placement *placement, struct croft_placement_job *job);

/* chains.c: croft_placement_job_handed's memory */
struct chains *chains_create(void);
void chains_destroy(struct chains *chains);

/* queue.c */
struct class *class_take(struct croft_placement *placement,
	const struct croft_placement_job_info *info);
void class_release(struct croft_placement *placement, struct class *class);
void class_match(struct croft_placement *placement, struct class *class);
size_t class_free_slots(const struct class *class);
/* How often a job may be passed over by later ones. */
unsigned skip_bound(const struct croft_placement *placement);
struct tenant *tenant_take(struct croft_placement *placement, struct croft_slice name);
void tenant_release(struct croft_placement *placement, struct tenant *tenant);
int queue_order(const struct croft_placement_job *a, const struct croft_placement_job *b);
void queue_insert(struct croft_placement *placement, struct croft_placement_job *job);
void queue_remove(struct croft_placement *placement, struct croft_placement_job *job);
/* The first jobs of all classes that the pool matches, in turn, of one priority. */
size_t queue_window(struct croft_placement *placement, const struct pool *pool,
	struct croft_placement_job **window, size_t most);

/* agents.c */
bool agent_fits(const struct croft_placement *placement, uint32_t agent,
	const struct croft_placement_job *job);
bool agent_is_free(const struct agent *agent);
void agent_take_slot(struct croft_placement *placement, uint32_t agent,
	const struct croft_placement_job *job);
void agent_give_slot(struct croft_placement *placement, uint32_t agent,
	const struct croft_placement_job *job);
void agents_wake(struct croft_placement *placement, double now, double *wake);
bool class_matches_agent(const struct class *class, const struct agent *agent);

/* counts.c: CPUs, devices, licences */
bool is_counted(const char *text);
void pool_count(struct croft_placement *placement, struct pool *pool);
void class_count(const struct croft_placement *placement, struct class *class);
bool pool_has_enough(const struct pool *pool, const char *requirement);
bool counts_fit(const struct agent *agent, const struct croft_placement_job *job);
void counts_take(struct agent *agent, const struct croft_placement_job *job);
void counts_give(struct agent *agent, const struct croft_placement_job *job);
void counts_free(struct croft_placement *placement);

/* cost.c: expected seconds */
struct cost {
	double seconds; /* the sum of the next five */
	double wait, fetch, run, others, apart;
	double there, missing; /* bytes */
};
/* What the job would cost on each of the agents (at most COST_MOST). */
enum { COST_MOST = 64 };
void cost_of_agents(struct croft_placement *placement, const struct croft_placement_job *job,
	const uint32_t *agents, size_t count, struct cost *costs);
/* The same of only those that look best by the job's heaviest inputs: they are moved to the front. How
 * many they are. */
size_t cost_of_best(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t *agents, size_t count, struct cost *costs);
/* Bytes the job would miss on an agent; cheap for many jobs on the same agent, after cost_begin. */
void cost_begin(struct croft_placement *placement);
double cost_missing(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t agent);

/* candidates.c */
size_t candidates(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t *agents, size_t most, bool busy_too);
/* Agents that may have its inputs, whatever they run and offer. */
size_t holders(struct croft_placement *placement, const struct croft_placement_job *job,
	uint32_t *agents, size_t most);

/* policies.c: an agent for the job among those that are free and fit, or NO_AGENT */
uint32_t choose_agent(struct croft_placement *placement, struct croft_placement_job *job,
	struct croft_decision *decision);
uint32_t random_agent(struct croft_placement *placement, const struct croft_placement_job *job);

void note_candidate(struct croft_decision *decision, uint32_t agent, const struct cost *cost);
/* Weighs the candidates and notes the best of them; the best, or NO_AGENT. */
uint32_t weigh_candidates(struct croft_placement *placement, const struct croft_placement_job *job,
	bool busy_too, struct croft_decision *decision);

/* window.c: a job for a slot; a job of a class with an agent for it */
struct croft_placement_job *choose_job(struct croft_placement *placement, uint32_t agent,
	struct croft_decision *decision);
struct croft_placement_job *choose_pair(struct croft_placement *placement, struct class *class,
	uint32_t *agent, struct croft_decision *decision);
void reserve_for(struct croft_placement *placement, struct croft_placement_job *job);

/* delay.c */
struct croft_placement_job *delay_next(struct croft_placement *placement, struct class *class,
	double now, uint32_t *agent, struct croft_decision *decision, double *wake);

/* bound.c: queues at agents (dask) */
bool bound_next(struct croft_placement *placement, uint32_t *agent,
	struct croft_placement_job **job);
void bound_drop(struct croft_placement *placement, struct croft_placement_job *job);
void bound_release(struct croft_placement *placement, uint32_t agent);

#endif
