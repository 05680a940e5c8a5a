/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sched/core: the scheduler's state, all of it guarded by one lock.
 *
 * A *task* is one action to be run. An *operation* is one client's name for a task: identical actions
 * in flight share a task, each Execute call has an operation of its own, so that one client's cancel
 * does not end the others'. A *waiter* is an open Execute or WaitExecution stream on an operation.
 *
 * The lock is never held over I/O on the store; the journal has a lock of its own below this one.
 */
#ifndef CROFT_SCHED_CORE_H
#define CROFT_SCHED_CORE_H

#include "proto/base/cleanup.h"
#include "sched/core/journal.h"
#include "sched/core/profiles.h"
#include "sched/sched.h"

#include "croft/v1/farm.pb-c.h"
#include "croft/v1/journal.pb-c.h"
#include "fs/roots.h"
#include "sched/placement.h"

#include "google/longrunning/operations.pb-c.h"

#include <pthread.h>
#include <sys/queue.h>

enum { TASK_KEY = 8, NAME_TEXT = 33 /* 16 random bytes in hex and NUL */, LOG_KEEP_BYTES = 8 << 20,
	HOLD_MS = 50 /* for which a client is not told that its job executes, unless it ends */ };

enum task_state { TASK_QUEUED, TASK_LEASED, TASK_RUNNING, TASK_COMPLETED };

struct waiter {
	LIST_ENTRY(waiter) link;
	struct croft_sched *sched;
	struct operation *operation; /* NULL once it was told the end */
	struct croft_call *call;     /* referenced */
};

struct operation {
	LIST_ENTRY(operation) link;      /* of its task */
	LIST_ENTRY(operation) name_link; /* of its name's bucket */
	struct task *task;
	char name[NAME_TEXT];
	bool cancelled;
	bool joining; /* its task's record on disk does not name it yet: nobody hears of it */
	TAILQ_ENTRY(operation) held_link; /* of `held` */
	uint64_t held_ns;                 /* since when; 0: it is not */
	LIST_HEAD(, waiter) waiters;
};

/* Output of a running job, the newest LOG_KEEP_BYTES of it. */
struct live_log {
	uint8_t *data;
	size_t size, room;
	uint64_t start; /* offset of data[0] in the whole stream */
};

/* The newest output of a running job. */
struct live_logs {
	struct live_log streams[2];
};

/* An action as it was read, in the arena that it brings. */
struct action_read {
	struct croft_arena *arena;
	const Reapi__Action *action;
	const Reapi__Command *command;
};

/* Hundreds of thousands may be queued: what only a job has that was given to an agent stands behind pointers. */
struct task {
	LIST_ENTRY(task) lease_link;  /* of its lease's bucket, while leased or running */
	LIST_ENTRY(task) action_link; /* of its action's bucket, while it may be merged with or is found as ended */
	TAILQ_ENTRY(task) queue_link; /* of `queue`, while queued; of `completed` afterwards */
	LIST_ENTRY(task) agent_link;  /* of its agent */
	STAILQ_ENTRY(task) changed_link; /* of `changed` */
	TAILQ_ENTRY(task) alone_link;    /* of `alone` */
	LIST_HEAD(, operation) operations;
	struct croft_digest action, command, input_root;
	struct task_class *class;
	char *description; /* for people: first argument and outputs */
	struct croft_slice request_metadata, response; /* owned */
	struct croft_hold *hold;
	uint64_t timeout_ms;
	int64_t queued_unix_ns, completed_unix_ns;
	int64_t leased_unix_ns; /* 0: before a restart */
	int64_t completed_ns; /* the same by the clock that does not jump */
	uint64_t sequence;
	uint64_t hint; /* tasks of one hint like to run on one agent; 0: those of one input root */
	char *agent_id; /* of the lease */
	struct agent *agent;
	uint64_t agent_lost_ns; /* when its agent went away; 0: it is there */
	struct croft_late_record *late; /* its result for the action cache, until it is announced; owned */
	uint64_t late_number;           /* the journal must have it until the store's index has it; 0: it need not */
	struct action_read *read; /* when it was leased as soon as it came; else NULL */
	struct croft_placement_job *placed; /* what placement knows it as; NULL: not yet, or no more */
	struct croft_placement_input *inputs; /* for placement, until it knows it; owned */
	size_t input_count;
	struct placed_where *where; /* it was placed; NULL: not since this server started */
	const struct croft_placement_outcome *outcome; /* of the run that ends it just now, or NULL */
	char *account;          /* of tries that gave no result, for people; NULL: none, or it is in the store */
	struct live_logs *logs; /* NULL: there was no output */
	uint64_t alone_ns; /* since when it is in `alone`; 0: it is not */
	size_t waiter_count; /* of all its operations */
	int32_t priority;
	int32_t keep_priority; /* of its result in the cache: the lowest that was asked for */
	unsigned attempts;
	unsigned announcing; /* announcements under way: it must not be freed */
	enum task_state state;
	enum task_state announced; /* what clients were told, after it was on disk */
	Journal__TaskRecord__Kept kept;
	char id[NAME_TEXT];
	char lease[NAME_TEXT];
	bool told; /* that it is queued: before, its Execute call waits for the disk */
	bool do_not_cache, may_merge, action_listed;
	bool cancelling;
	bool ran;       /* it ended by a run: who asks for the action before clients are told joins it still */
	bool ending;    /* its agent said that it is done: the finisher has it */
	bool unindexed; /* since before a restart: the journal must have it while `lost` is there */
	bool changed;   /* it is written down when the lock is given back */
	bool abandoned; /* it ended because nobody waited for it: who asks for it now is to call Execute */
	char instance_name[];
};
_Static_assert(sizeof(struct task) <= 576, "a long queue takes much memory: see where else it could be");

/* Why it was placed as it was, and where else it could have gone. */
struct placed_where {
	char *reason;
	size_t candidate_count;
	struct croft_candidate candidates[];
};

/* One set of platform requirements. */
struct task_class {
	LIST_ENTRY(task_class) link;
	char *key; /* "name=value\n" of each requirement, sorted */
	char **requirements;
	size_t requirement_count;
	uint64_t memory_bytes; /* that it asks for; no property of agents */
	size_t queued;     /* tasks in the queue */
	uint64_t unfit_ns; /* since when no agent has fitted while some waited; 0: one does */
};

struct agent {
	LIST_ENTRY(agent) link;
	char *id, *hostname, *blob_url;
	char **properties; /* "name=value" */
	size_t property_count;
	uint32_t placed; /* its number in placement */
	unsigned slots, running;
	uint64_t memory_bytes;
	struct session *session; /* NULL: not connected */
	uint64_t heard_ns, lost_ns;
	bool draining; /* as drain.c has it, or since it said so itself in this session */
	uint64_t cache_bytes, cache_budget_bytes, jobs_done, fetched_bytes;
	/* From its heartbeats; `moved_bytes` is all that its daemon fetched. */
	uint64_t moved_bytes, moved_per_second, fetching_blobs, fetching_bytes, from_peers_bytes, served_bytes;
	uint64_t heartbeat_ns; /* when the last one came */
	LIST_HEAD(, task) tasks;
};

struct session {
	struct croft_sched *sched;
	struct croft_call *call; /* referenced */
	struct agent *agent;     /* NULL before Hello, and after another session took its place */
	/* To be sent as one message, before the lock is given back. */
	Farm__ServerMessage **waiting;
	size_t waiting_count, waiting_room;
};

enum { BUCKETS = 1 << 16 };

struct croft_sched {
	struct croft_sched_config config;
	struct croft_store *store;
	struct croft_upstream *upstream;
	struct croft_journal *journal;
	struct profiles *profiles; /* has a lock of its own */
	struct finisher *finisher; /* finish.c; has a lock of its own */
	struct oplog *oplog;       /* the finisher's; NULL: none is kept */
	uint64_t started_ns;
	pthread_t ticker;

	pthread_mutex_t lock; /* guards: everything below, and all tasks, operations and agents */
	char *journal_path; /* what was learned is kept beside it */
	uint64_t learned_ns; /* when that was written last */
	pthread_cond_t log_changed; /* more output, or a task ended */
	pthread_cond_t tick;
	bool stopping;
	uint64_t next_sequence;
	LIST_HEAD(, operation) names[BUCKETS];
	LIST_HEAD(, task) leases[BUCKETS];
	LIST_HEAD(, task) actions[BUCKETS];
	LIST_HEAD(, task_class) classes;
	LIST_HEAD(, agent) agents;
	LIST_HEAD(, draining) draining;
	pthread_cond_t record_written;
	struct croft_placement *placement;
	struct croft_roots *roots; /* has a lock of its own */
	STAILQ_HEAD(, task) changed; /* while the lock was held this time */
	TAILQ_HEAD(, operation) held; /* their clients are not told yet that they execute: transitions.c */
	bool ticks_slowly; /* the ticker sleeps for longer than words are held */
	struct announcements *announcements; /* under way: transitions.c */
	TAILQ_HEAD(, task) queue; /* in the order in which they came, for people to look at */
	TAILQ_HEAD(, task) completed; /* the oldest first */
	struct results_lost *lost; /* the ticker's; NULL: the store has all results of before the restart */
	uint64_t lost_ns;          /* when they were last tried */
	TAILQ_HEAD(, task) alone; /* that nobody waits for, and are not done: alone.c */
	size_t completed_count;
	size_t queued, running;
	uint64_t done_count, failed_count, hit_count;
};

/* transitions.c ------------------------------------------------------------------------------ */
/* Giving the lock back writes down what happened to tasks meanwhile. */
void sched_lock(struct croft_sched *sched);
void sched_unlock(struct croft_sched *sched);
static inline void sched_cleanup_unlock(struct croft_sched **sched)
{
	sched_unlock(*sched);
}
#define SCHED_LOCKED(sched)                                                                        \
	__attribute__((cleanup(sched_cleanup_unlock), unused)) struct croft_sched *locked_sched =      \
		(sched_lock(sched), (sched))
/* The same for who waits on a condition with the lock. */
void sched_write_down(struct croft_sched *sched);
void task_changed(struct croft_sched *sched, struct task *task);
/* Its key in the journal: in the order in which tasks came, so that those of one time share pages. */
struct croft_slice task_key(const struct task *task, uint8_t key[TASK_KEY]);
/* What became of one operation of a task that others go on with; its waiters are told when it is on
 * disk. */
void operation_write_down(struct croft_sched *sched, struct operation *operation);
/* Returns when that is on disk (a value without data: the record is gone). The lock is held, but not over
 * the waiting. */
void record_write(struct croft_sched *sched, struct croft_slice key, struct croft_slice value);
/* The ticker's: tells what was held for long enough. The lock is held, but not over the telling. */
void held_tell(struct croft_sched *sched);
void held_forget(struct croft_sched *sched, struct operation *operation);
/* For the journal, around its announcements. */
void announcements_begin(void *user);
void announcements_end(void *user);

/* names.c: random names, buckets ------------------------------------------------------------- */
void make_name(char name[NAME_TEXT]);
size_t bucket_of(const char *text);
struct operation *find_operation(struct croft_sched *sched, const char *name);
struct task *find_lease(struct croft_sched *sched, const char *lease);
/* One whose end nobody was told yet. */
struct task *find_mergeable(struct croft_sched *sched, const char *instance_name,
	const struct croft_digest *action);
/* One that was told, and whose result went into the action cache. */
struct task *find_ended(struct croft_sched *sched, const char *instance_name,
	const struct croft_digest *action);

/* task.c: life; the lock is held for all of these --------------------------------------------- */
struct task *task_create(struct croft_sched *sched, const char *instance_name,
	const struct croft_digest *action);
void task_free(struct croft_sched *sched, struct task *task);
struct operation *task_add_operation(struct croft_sched *sched, struct task *task, const char *name);
/* Clients are told its end from now on. */
void task_announced_end(struct croft_sched *sched, struct task *task);
void placed_where_free(struct placed_where *where);
void action_read_free(struct action_read *read);
/* Moves it to the state, and writes that down. Announced, or the lease handed to its agent, only after
 * it is on disk. */
void task_enqueue(struct croft_sched *sched, struct task *task);
void task_lease(struct croft_sched *sched, struct task *task, struct agent *agent);
void task_run(struct task *task);
/* Takes the response's bytes (malloc'ed). */
void task_complete(struct croft_sched *sched, struct task *task, struct croft_slice response,
	bool failed);
void task_complete_error(struct croft_sched *sched, struct task *task, enum croft_code code,
	const char *message);
/* Its agent is gone: queued again, or ended when that happened too often (or it was cancelled). */
void task_lost(struct croft_sched *sched, struct task *task, const char *why);
/* Ends the operation; the task too when nobody else wants it. */
void operation_cancel(struct croft_sched *sched, struct operation *operation);
/* Of a task that is done: nobody will ask for it again. Returns when that is on disk; gives the lock back
 * meanwhile. */
void operation_delete(struct croft_sched *sched, struct operation *operation);
/* Forgets completed tasks beyond what is kept, so many at most. */
void tasks_expire(struct croft_sched *sched, size_t most);
const char *state_name(enum task_state state);

/* record.c: a task as a journal record ------------------------------------------------------- */
struct croft_slice task_record(const struct task *task, struct croft_arena *arena);
/* NULL: it cannot be read. `lost` sees its result, if it has one. */
struct results_lost;
struct task *task_restore(struct croft_sched *sched, struct croft_slice bytes, struct results_lost *lost,
	struct croft_error *err);

/* announce.c: what clients are sent -------------------------------------------------------- */
/* An Operation as it is announced now; lives in the arena. */
Longrunning__Operation *operation_message(const struct operation *operation,
	struct croft_arena *arena);
void waiter_add(struct waiter *waiter, struct operation *operation);
/* It has an operation, and leaves it. */
void waiter_leave(struct waiter *waiter);
void waiter_closed(void *user);
struct croft_slice error_response(enum croft_code code, const char *message);

/* account.c: what became of tries, for people; the lock is held but where it says otherwise -------- */
/* A try ends without a result; its agent is the task's still. */
void account_try(struct task *task, const char *why);
/* The task ends, by this answer, to which the account is added where there is something to tell. */
void account_end(struct task *task, enum croft_code code, const char *message, struct croft_slice *response);
/* The same by what an agent said. */
void account_run(struct task *task, const Farm__JobDone *done, struct croft_slice *response);
void account_drop(struct task *task);
/* Who asked for it, as its RequestMetadata says, or ""; in the arena. */
const char *requested_by(const struct task *task, struct croft_arena *arena);
/* Without the lock: into the store, of tasks that are done. The journal has them until then: a response that names a
 * log which is not there is never told. */
void accounts_put(struct croft_sched *sched, struct task *const *tasks, size_t count);

/* class.c: platform requirements ------------------------------------------------------------- */
struct task_class *class_of(struct croft_sched *sched, const Reapi__Platform *platform);
bool class_is_memory(const char *requirement);
bool class_matches(const struct task_class *class, const struct agent *agent);
void classes_free(struct croft_sched *sched);

/* alone.c: that nobody waits for a task any more, or somebody asks for it */
void alone_look(struct croft_sched *sched, struct task *task);
void alone_end(struct croft_sched *sched, struct task *task);
void alone_tick(struct croft_sched *sched);

/* unfit.c */
void unfit_tick(struct croft_sched *sched);

/* placed.c: between tasks and placement --------------------------------------------------------- */
double placed_now(void);
/* Its tenant, kind and family; in the arena. */
void placed_describe(const struct task *task, struct croft_placement_job_info *info,
	struct croft_arena *arena);
/* Names of what the task is like, from the exact to the coarse, in the arena: JOB_KINDS. */
enum { JOB_KINDS = 2 };
const char *const *placed_kinds(const struct task *task, struct croft_arena *arena);
/* Into the queue: for the first time, or back from its agent to its old turn. */
/* Jobs of the task's tenant, queued or running. */
size_t placed_of_tenant(struct croft_sched *sched, const struct task *task);
void placed_queue(struct croft_sched *sched, struct task *task);
/* The same in two steps for tasks that the journal brings back in no order: placement hears of them when
 * all are there, in the order in which they came. */
void placed_restore(struct croft_sched *sched, struct task *task);
void placed_restored(struct croft_sched *sched);
/* Out of the queue, to an agent or to its end. */
void placed_unqueue(struct croft_sched *sched, struct task *task);
/* It runs there since before the server's restart. */
void placed_adopt(struct croft_sched *sched, struct task *task, struct agent *agent);
/* What a job's inputs weigh, for placement: malloc'ed. Without the lock. Nothing when the tree cannot
 * be read, which the job will tell. */
struct croft_placement_input *placed_inputs(struct croft_sched *sched,
	const struct croft_digest *input_root, size_t *count);
/* What an agent said of its cache. */
void placed_presence(struct croft_sched *sched, struct agent *agent,
	const Farm__PresentRoot *root);
/* What a run read of each input, as far as the agent's cache tells: malloc'ed. Without the lock. */
struct croft_placement_touch *placed_touched(struct croft_sched *sched,
	const struct croft_digest *input_root, const Farm__JobDone *done, size_t *count);
/* It is over: its slot is free. */
void placed_end(struct croft_sched *sched, struct task *task);

/* dispatch.c --------------------------------------------------------------------------------- */
void dispatch(struct croft_sched *sched);
/* What is needed of a leased task to make its Job message without holding the lock; in the arena. */
struct job_source;
struct job_source *job_source(struct task *task, struct croft_arena *arena);
/* When the message is sent. */
void job_source_finish(struct job_source *source);
const char *job_source_lease(const struct job_source *source);
Farm__Job *job_make(struct croft_sched *sched, const struct job_source *source,
	struct croft_arena *arena, struct croft_error *err);
/* Agents whose caches have much of what it reads. The lock is held. */
void job_add_peers(struct croft_sched *sched, Farm__Job *job, const struct task *task,
	struct croft_arena *arena);

/* agents.c --------------------------------------------------------------------------------- */
void agents_tick(struct croft_sched *sched);
struct agent *find_agent(struct croft_sched *sched, const char *id);
/* What follows stands in the arena and goes out with agents_send, under the same hold of the lock. */
void agent_ack(struct croft_sched *sched, const char *agent_id, const char *lease,
	struct croft_arena *arena);
void agent_give(struct task *task, Farm__Job *job, struct croft_arena *arena);
void agents_send(struct croft_sched *sched);
void agent_cancel(struct task *task, const char *reason);
void agent_free(struct agent *agent);
/* Placement gives it jobs from now on, or no more. */
void agent_open(struct croft_sched *sched, const struct agent *agent);

/* drain.c ------------------------------------------------------------------------------------ */
enum { DRAINING_NAME_MOST = 256 };
/* NULL: nobody drains the agent. */
struct draining *draining_find(const struct croft_sched *sched, const char *agent_id);
const char *draining_reason(const struct draining *draining);
/* reason NULL: it gets jobs again. Returns when that is on disk; gives the lock back meanwhile. */
bool draining_set(struct croft_sched *sched, const char *agent_id, const char *reason,
	struct croft_error *err);
/* False: this record of the journal says nothing of draining. */
bool draining_restore(struct croft_sched *sched, struct croft_slice key, struct croft_slice value);
void draining_free(struct croft_sched *sched);

/* logs.c */
void log_append(struct croft_sched *sched, struct task *task, int stream, uint64_t offset,
	struct croft_slice data);
void logs_free(struct task *task);

/* Method tables of the services. */
extern const struct croft_rpc_method execution_methods[2], operations_methods[5], agents_methods[1],
	farm_methods[4];

#endif
