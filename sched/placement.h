/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Placement: which queued job runs next, and on which agent. No I/O, no clock, no threads: the real
 * scheduler and the simulator (`croft bench locality`) use this same module.
 *
 *	struct croft_placement *placement = croft_placement_create(&config);
 *	uint32_t agent = croft_placement_agent_add(placement, &description);
 *	job = croft_placement_job_add(placement, &info, now);
 *	while (croft_placement_next(placement, now, &decision))
 *		start(decision.job, decision.agent);
 *	croft_placement_job_end(placement, job, &outcome, now);   // frees the slot and the job
 *
 * Times are seconds on any clock that does not go back. The caller guards it: one thread at a time.
 *
 * Inputs are *roots*: blobs and subtrees heavy enough (about 1 MiB) to be worth tracking. Agents say
 * which they hold and how much of each; a job names those it has. How much of a root a kind of job
 * really reads is learned from what jobs report.
 *
 * Order. Jobs go by priority, then by fair turn among tenants. Of the first `window` of them any may be
 * taken for a slot if its bytes are there (of those only that long chains of other jobs wait for, while such a
 * chain takes longer than the queue does), but no job is passed over more than `max_skips` times by
 * jobs whose turn was later, and every `oldest_every`-th job started is the oldest of all.
 */
#ifndef CROFT_SCHED_PLACEMENT_H
#define CROFT_SCHED_PLACEMENT_H

#include "fs/digest.h"

struct croft_placement;
struct croft_placement_job;

enum croft_policy {
	CROFT_POLICY_LOCALITY,     /* least expected seconds; see docs/architecture.md */
	CROFT_POLICY_RANDOM,
	CROFT_POLICY_ROUND_ROBIN,
	CROFT_POLICY_LEAST_LOADED,
	CROFT_POLICY_LAST_USED,    /* the last agent that ran this kind of job, else a random one */
	CROFT_POLICY_BOUNDED_HASH, /* rendezvous on the kind of job, no agent over 1.25 of mean load */
	CROFT_POLICY_LOCAL_BYTES,  /* fewest missing bytes among free agents, ties to least loaded */
	CROFT_POLICY_DASK,         /* queues at the agent of least (queued work + transfer) */
	CROFT_POLICY_DASK_STEALING,
	CROFT_POLICY_DELAY,        /* waits a bounded time for an agent that has nine tenths */
	CROFT_POLICY_COUNT,
};
/* "locality", "random", "round-robin", "least-loaded", "last-used", "bounded-hash", "local-bytes",
 * "dask", "dask-stealing", "delay"; INVALID_ARGUMENT lists them. NULL: locality. */
bool croft_policy_parse(const char *name, enum croft_policy *policy, struct croft_error *err);
const char *croft_policy_name(enum croft_policy policy);

struct croft_placement_config {
	enum croft_policy policy;
	uint64_t seed;
	double bandwidth;      /* bytes per second into an agent; 0: 125e6 */
	double round_trip;     /* seconds; 0: 0.0005 */
	double load_seconds;   /* what joining a nearly full agent costs; 0: 0.5 */
	double delay_seconds;  /* of CROFT_POLICY_DELAY; 0: 5 */
	unsigned window;       /* 0: 128 */
	unsigned max_skips;    /* 0: 8 × slots: it waits no longer than eight jobs of each slot take */
	unsigned oldest_every; /* 0: 64 */
	unsigned max_inputs;   /* roots considered per job, the heaviest; 0: 96 */
};

struct croft_placement *croft_placement_create(const struct croft_placement_config *config);
void croft_placement_destroy(struct croft_placement *placement);

/* Agents ------------------------------------------------------------------------------------ */

/* Whether an agent's property is what a job requires: the same text, or, for croft-cpus and
 * croft-resource-NAME, at least as many. Such properties are counts: running jobs take of them. */
bool croft_placement_offers(const char *property, const char *requirement);

struct croft_placement_agent {
	const char *const *properties; /* "name=value", several values of a name are several entries */
	size_t property_count;
	unsigned slots;
	uint64_t memory_bytes;         /* 0: not limited */
	double speed;                  /* 0: 1 */
	void *user;
};

enum { CROFT_PLACEMENT_MAX_AGENTS = 65535 };

/* A small number, used again after removal. UINT32_MAX when there are too many agents. */
uint32_t croft_placement_agent_add(struct croft_placement *placement,
	const struct croft_placement_agent *agent);
/* Other properties, slots, memory or speed; jobs that run there stay. */
void croft_placement_agent_change(struct croft_placement *placement, uint32_t agent,
	const struct croft_placement_agent *description);
/* A closed agent (draining, cordoned, not connected) is given nothing; what it runs goes on. */
void croft_placement_agent_open(struct croft_placement *placement, uint32_t agent, bool open);
/* Gives it nothing until then: it refused a job. */
void croft_placement_agent_pause(struct croft_placement *placement, uint32_t agent, double until);
/* As it was described. */
void *croft_placement_agent_user(const struct croft_placement *placement, uint32_t agent);
/* It must run nothing. */
void croft_placement_agent_remove(struct croft_placement *placement, uint32_t agent);

/* Presence: numbered deltas. `begin` says whether the delta fits onto what is known; false: leave it
 * and ask for a snapshot. A snapshot forgets what was there before. */
bool croft_placement_delta_begin(struct croft_placement *placement, uint32_t agent, uint64_t epoch,
	uint64_t sequence, bool snapshot);
void croft_placement_present(struct croft_placement *placement, uint32_t agent,
	const struct croft_digest *root, uint64_t present_bytes, uint64_t total_bytes);
void croft_placement_gone(struct croft_placement *placement, uint32_t agent,
	const struct croft_digest *root);
/* What its cache takes of its budget, other things than roots too; told now and then. Budget 0: it never evicts. */
void croft_placement_agent_cache(struct croft_placement *placement, uint32_t agent, uint64_t used_bytes,
	uint64_t budget_bytes);
/* What the map knows it to hold, in bytes of roots. */
double croft_placement_held(const struct croft_placement *placement, uint32_t agent);

/* Jobs ------------------------------------------------------------------------------------------ */

struct croft_placement_input {
	struct croft_digest root;
	uint64_t bytes; /* of all that is below it */
	/* What it is to jobs of this kind, over versions: a hash of its path, say. */
	uint64_t label;
};

struct croft_placement_job_info {
	struct croft_slice tenant; /* who shares fairly with whom */
	struct croft_slice kind;   /* what it is like: run time and reads are learned per kind */
	struct croft_slice family; /* a coarser kind to fall back to; may be empty */
	const char *const *requirements; /* "name=value", all of which an agent must have */
	size_t requirement_count;
	int32_t priority;          /* REAPI's: the lower the sooner */
	double critical_seconds;   /* longest chain of jobs that wait for this one; 0: as learned */
	uint64_t memory_bytes;     /* asked for; 0: as learned */
	uint64_t hint;             /* jobs of one hint like to run where the last one did; 0: none */
	const struct croft_placement_input *inputs;
	size_t input_count;
	void *user;
};

/* Queued. Everything is copied. */
struct croft_placement_job *croft_placement_job_add(struct croft_placement *placement,
	const struct croft_placement_job_info *info, double now);
/* It runs there already (found so after a restart). */
void croft_placement_job_adopt(struct croft_placement *placement, struct croft_placement_job *job,
	uint32_t agent, double now);
/* From its agent back to its old turn in the queue. */
void croft_placement_job_requeue(struct croft_placement *placement,
	struct croft_placement_job *job, double now);

/* What jobs hand to one another, each by any 64 bits that tell it apart (of its digest, say). Told before the job's
 * end. From who read what others made it is learned how long a chain of jobs follows a kind. */
struct croft_handed {
	const uint64_t *read, *made;
	size_t read_count, made_count;
};
void croft_placement_job_handed(struct croft_placement *placement, const struct croft_placement_job *job,
	double run_seconds, const struct croft_handed *handed);

/* What was learned from a run; zeros: unknown. */
struct croft_placement_touch {
	uint64_t label; /* of an input */
	float share;    /* of its bytes that was read */
};
struct croft_placement_outcome {
	double run_seconds; /* without waiting for fetches */
	uint64_t memory_bytes;
	const struct croft_placement_touch *touched;
	size_t touched_count;
};
/* Done, failed or cancelled, queued or running: the slot is free and the job is gone. */
void croft_placement_job_end(struct croft_placement *placement, struct croft_placement_job *job,
	const struct croft_placement_outcome *outcome, double now);

/* Decisions ----------------------------------------------------------------------------------- */

enum { CROFT_PLACEMENT_CANDIDATES = 8 };

struct croft_candidate {
	uint32_t agent;
	/* The expected cost of taking it, which is the sum of the others. */
	double score_seconds;
	double wait_seconds;   /* until a slot is free */
	double fetch_seconds;  /* bytes that it lacks, and round trips */
	double run_seconds;
	double others_seconds; /* what it costs jobs that come later */
	double apart_seconds;  /* for not being where the last job of the same hint went */
	uint64_t bytes_there, bytes_missing;
};

struct croft_decision {
	struct croft_placement_job *job;
	void *job_user;
	uint32_t agent;
	void *agent_user;
	double waited_seconds;
	unsigned skipped;      /* times it was passed over by later ones */
	const char *reason;    /* one sentence; static */
	struct croft_candidate candidates[CROFT_PLACEMENT_CANDIDATES]; /* the best first */
	size_t candidate_count;
};

/* One job for one free slot, which it then holds; false when nothing can be placed now. *wake, if not
 * NULL, is when it may be worth asking again although nothing happened (INFINITY: it is not). */
bool croft_placement_next(struct croft_placement *placement, double now,
	struct croft_decision *decision, double *wake);

/* Why a queued job waits and where it would go. The reason is static. */
void croft_placement_explain(struct croft_placement *placement,
	const struct croft_placement_job *job, double now, struct croft_decision *decision,
	uint64_t *jobs_before);

/* Jobs of a tenant that are queued or running. */
size_t croft_placement_tenant_jobs(
	const struct croft_placement *placement, struct croft_slice tenant);

/* Expected run time of a queued or running job, as learned. */
double croft_placement_job_run_seconds(const struct croft_placement *placement,
	const struct croft_placement_job *job);
/* Other agents that hold much of what the job reads, whatever they run and offer; the best first. */
size_t croft_placement_peers(struct croft_placement *placement,
	const struct croft_placement_job *job, uint32_t agent, uint32_t *peers, size_t most);

struct croft_placement_stat {
	size_t agents, slots, running, queued, roots, postings;
	size_t presence_bytes; /* memory of the presence map */
	size_t kinds;
	uint64_t decisions;
	unsigned most_skips, skip_bound; /* that any job has seen, and may see */
};
void croft_placement_stat(const struct croft_placement *placement,
	struct croft_placement_stat *stat);

/* What was learned, to be kept over a restart. Records are small and in no order. */
void croft_placement_save(const struct croft_placement *placement,
	void (*emit)(void *user, struct croft_slice record), void *user);
/* False for a record that is not one of these. */
bool croft_placement_load(struct croft_placement *placement, struct croft_slice record);

#endif
