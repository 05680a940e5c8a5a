/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs that ended, on their way into the action cache and then to their waiters.
 *
 * One thread takes all that came meanwhile: what they name is looked for in the store, then their tasks end together,
 * and one look at the queue fills the slots. No agent's stream waits for a disk, and the action cache's is the journal's:
 * it is written down once, with the task's end.
 */
#include "sched/core/finish.h"

#include "google/rpc/status.pb-c.h"
#include "fs/private.h"
#include "proto/base/log.h"
#include "sched/core/handed.h"
#include "sched/core/oplog.h"
#include "sched/core/results.h"

#include <stdlib.h>

/* A message with ends of jobs. */
struct heard {
	struct heard *next;
	struct croft_arena *arena;
	const Farm__AgentMessage *message;
	char *agent_id; /* in the arena */
};

/* One of them. */
struct finished {
	struct finished *next;
	const Farm__JobDone *done;
	char lease[NAME_TEXT];
	struct croft_digest input_root;
	const char *const *kinds; /* of its profile, if it has one */
	struct result_source source;
	struct result result;
	struct croft_placement_touch *touched; /* owned */
	size_t touched_count;
	struct croft_handed handed; /* in the result's arena */
	struct oplog_run run; /* for the operation log, if there is one */
	bool ended; /* by this */
};

struct finisher {
	pthread_t thread;
	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t wanted;
	struct heard *first, **last;
	bool stopping;
};

/* What agents said of runs ------------------------------------------------------------------------ */

/* The job could not be run for reasons that are not its own: another try may work. */
static bool may_retry(const Farm__JobDone *done)
{
	if (!done->status)
		return false;
	return done->status->code == CROFT_UNAVAILABLE || done->status->code == CROFT_INTERNAL ||
		done->status->code == CROFT_UNKNOWN;
}

static double timestamp_seconds(const Google__Protobuf__Timestamp *time)
{
	return time ? (double)time->seconds + time->nanos / 1e9 : 0;
}

/* What the command took, without waiting for fetches; 0: not known. */
static double run_seconds_of(const Farm__JobDone *done)
{
	const Reapi__ExecutedActionMetadata *metadata =
		done->result ? done->result->execution_metadata : NULL;
	if (!metadata)
		return 0;
	double seconds = timestamp_seconds(metadata->execution_completed_timestamp) -
		timestamp_seconds(metadata->execution_start_timestamp);
	double stalled = done->inputs ? (double)done->inputs->stall_ms / 1000 : 0;
	return seconds > stalled ? seconds - stalled : 0;
}

static void note_inputs(struct croft_sched *sched, struct agent *agent, const Farm__JobDone *done)
{
	if (done->inputs)
		agent->fetched_bytes += done->inputs->fetched_bytes;
	for (size_t i = 0; i < done->n_roots; i++)
		placed_presence(sched, agent, done->roots[i]);
	agent->jobs_done++;
}

/* For the operation log. */
static struct oplog_run describe_run(const struct task *task, struct croft_arena *arena)
{
	const struct operation *operation = LIST_FIRST(&task->operations);
	struct oplog_run run = {
		.operation = operation ? croft_arena_strdup(arena, operation->name) : "-",
		.agent_id = croft_arena_strdup(arena, task->agent->id),
		.slots = task->agent->slots,
		.attempt = task->attempts,
		.queued_unix_ns = task->queued_unix_ns,
		.leased_unix_ns = task->leased_unix_ns,
		.priority = task->priority,
	};
	/* What it is like stays the task's, which may be gone by then. */
	placed_describe(task, &run.info, arena);
	run.info.kind.data = croft_arena_strndup(arena, run.info.kind.data, run.info.kind.size);
	return run;
}

static struct finished *begin_end(struct croft_sched *sched, struct task *task,
	const Farm__JobDone *done, struct croft_arena *arena)
{
	struct finished *finished = croft_arena_zalloc(arena, sizeof(*finished));
	task->ending = true;
	finished->done = done;
	finished->input_root = task->input_root;
	if (done->profile)
		finished->kinds = placed_kinds(task, arena);
	if (sched->oplog)
		finished->run = describe_run(task, arena);
	memcpy(finished->lease, task->lease, NAME_TEXT);
	finished->source = (struct result_source){
		.action = task->action,
		.input_root = task->input_root,
		.instance_name = croft_arena_strdup(arena, task->instance_name),
		.reason = task->where ? croft_arena_strdup(arena, task->where->reason) : NULL,
		.do_not_cache = task->do_not_cache,
		.cancelled = task->cancelling,
		.keep_priority = task->keep_priority,
		.store = sched->store,
		.upstream = sched->upstream,
	};
	return finished;
}

/* NULL: there is nothing left to do. */
static struct finished *hear_end(struct croft_sched *sched, const struct heard *heard,
	const Farm__JobDone *done)
{
	struct task *task = find_lease(sched, done->lease);
	if (!task || !task->agent || strcmp(task->agent->id, heard->agent_id) != 0) {
		/* Reported a second time, or given up meanwhile. */
		agent_ack(sched, heard->agent_id, done->lease, heard->arena);
		return NULL;
	}
	if (task->ending)
		return NULL; /* said twice: the first will be acknowledged */
	note_inputs(sched, task->agent, done);
	if (!may_retry(done) || task->cancelling || task->attempts >= sched->config.max_attempts)
		return begin_end(sched, task, done, heard->arena);
	croft_log(CROFT_LOG_WARNING, "%s could not run %s, it is queued again: %s", heard->agent_id,
		task->id, done->status->message);
	agent_ack(sched, heard->agent_id, done->lease, heard->arena);
	task_lost(sched, task, done->status->message);
	return NULL;
}

static struct finished **hear_message(struct croft_sched *sched, const struct heard *heard,
	const Farm__AgentMessage *message, struct finished **last)
{
	if (message->kind_case == FARM__AGENT_MESSAGE__KIND_BATCH)
		for (size_t i = 0; i < message->batch->n_messages; i++)
			last = hear_message(sched, heard, message->batch->messages[i], last);
	else if (message->kind_case == FARM__AGENT_MESSAGE__KIND_JOB_DONE &&
		(*last = hear_end(sched, heard, message->job_done)))
		last = &(*last)->next;
	return last;
}

static struct finished *hear_all(struct croft_sched *sched, const struct heard *heard)
{
	struct finished *batch = NULL, **last = &batch;
	SCHED_LOCKED(sched);
	for (; heard; heard = heard->next)
		last = hear_message(sched, heard, heard->message, last);
	agents_send(sched);
	return batch;
}

/* Without the lock: this reads the store. */
static void make_results(struct croft_sched *sched, struct finished *batch)
{
	for (struct finished *at = batch; at; at = at->next) {
		if (!at->done->status && at->kinds)
			profiles_learn(sched->profiles, at->kinds, JOB_KINDS, at->done);
		result_make(&at->result, &at->source, at->done);
		at->touched = placed_touched(sched, &at->input_root, at->done, &at->touched_count);
		at->handed = handed_of(sched->store, at->done, at->result.arena);
	}
}

/* Their ends ------------------------------------------------------------------------------------- */

/* The agent put what is new in the tenant's name; what the result names besides was made for it as well. A look-up of
 * the result would grant it, too, so a failure is only told. */
static void grant_outputs(struct croft_sched *sched, const struct finished *finished)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice tenant =
		croft_tenant(sched->config.private_blobs, croft_slice_str(finished->source.instance_name));
	const struct croft_record *record = &finished->result.record;
	if (!croft_store_grant_closure(sched->store, tenant, record->refs, record->ref_count, &err))
		croft_log(CROFT_LOG_WARNING, "outputs of an action of '%s' are not visible to it: %s",
			finished->source.instance_name, err.message);
}

/* For the action cache, which gets them when the journal has them. */
static void prepare_records(struct croft_sched *sched, struct finished *batch)
{
	size_t count = 0;
	for (struct finished *at = batch; at; at = at->next)
		count += at->result.to_keep;
	CROFT_CLEANUP_FREE struct croft_record *records = croft_array(count + 1, sizeof(*records));
	CROFT_CLEANUP_FREE struct croft_late_record **late = croft_array(count + 1, sizeof(*late));
	count = 0;
	for (struct finished *at = batch; at; at = at->next)
		if (at->result.to_keep)
			records[count++] = at->result.record;
	croft_store_record_prepare(sched->store, records, count, late);
	count = 0;
	for (struct finished *at = batch; at; at = at->next) {
		if (at->result.to_keep) {
			at->result.record = records[count];
			at->result.late = late[count++];
		}
		if (at->result.late)
			grant_outputs(sched, at);
		result_kept(&at->result, &at->source);
	}
}

/* The lock is held. */
static void end_task(struct croft_sched *sched, struct finished *finished)
{
	struct task *task = find_lease(sched, finished->lease);
	if (!task)
		return; /* reported a second time, or given up meanwhile */
	struct croft_placement_outcome outcome = {
		.run_seconds = run_seconds_of(finished->done),
		.memory_bytes = finished->done->peak_memory_bytes,
		.touched = finished->touched,
		.touched_count = finished->touched_count,
	};
	if (task->placed)
		croft_placement_job_handed(sched->placement, task->placed, outcome.run_seconds, &finished->handed);
	finished->ended = true;
	task->kept = result_table(&finished->result);
	task->late = finished->result.late;
	finished->result.late = NULL;
	task->ran = finished->result.ran;
	account_run(task, finished->done, &finished->result.response);
	task->outcome = &outcome;
	task_complete(sched, task, finished->result.response, finished->result.failed);
	task->outcome = NULL;
	finished->result.response = CROFT_SLICE(NULL, 0);
}

/* Everybody was told: nobody waits for this. */
static void log_runs(struct oplog *log, const struct finished *batch)
{
	for (; batch; batch = batch->next)
		if (batch->ended)
			oplog_add(log, &batch->run, batch->done, run_seconds_of(batch->done));
	oplog_flush(log);
}

static void finish_all(struct croft_sched *sched, struct heard *heard)
{
	struct finished *batch = hear_all(sched, heard);
	make_results(sched, batch);
	prepare_records(sched, batch);
	sched_lock(sched);
	for (struct finished *at = batch; at; at = at->next)
		end_task(sched, at);
	dispatch(sched);
	sched_unlock(sched);
	if (sched->oplog)
		log_runs(sched->oplog, batch);
	for (struct finished *at = batch; at; at = at->next) {
		croft_store_record_drop(sched->store, at->result.late);
		croft_arena_destroy(at->result.arena);
		free((void *)at->result.response.data);
		free(at->touched);
	}
	for (struct heard *next; heard; heard = next) {
		next = heard->next;
		croft_arena_destroy(heard->arena); /* and it, and what it said */
	}
}

static void *finisher_thread(void *user)
{
	struct croft_sched *sched = user;
	struct finisher *finisher = sched->finisher;
	pthread_mutex_lock(&finisher->lock);
	for (;;) {
		while (!finisher->first && !finisher->stopping)
			pthread_cond_wait(&finisher->wanted, &finisher->lock);
		struct heard *batch = finisher->first;
		if (!batch)
			break;
		finisher->first = NULL;
		finisher->last = &finisher->first;
		pthread_mutex_unlock(&finisher->lock);
		finish_all(sched, batch);
		pthread_mutex_lock(&finisher->lock);
	}
	pthread_mutex_unlock(&finisher->lock);
	return NULL;
}

void finish(struct croft_sched *sched, const char *agent_id, const Farm__AgentMessage *message,
	struct croft_arena *arena)
{
	struct finisher *finisher = sched->finisher;
	struct heard *heard = croft_arena_zalloc(arena, sizeof(*heard));
	heard->arena = arena;
	heard->message = message;
	heard->agent_id = croft_arena_strdup(arena, agent_id);
	CROFT_LOCKED(&finisher->lock);
	*finisher->last = heard;
	finisher->last = &heard->next;
	pthread_cond_signal(&finisher->wanted);
}

void finisher_open(struct croft_sched *sched)
{
	struct finisher *finisher = sched->finisher = croft_zalloc(sizeof(*finisher));
	pthread_mutex_init(&finisher->lock, NULL);
	pthread_cond_init(&finisher->wanted, NULL);
	finisher->last = &finisher->first;
	if (pthread_create(&finisher->thread, NULL, finisher_thread, sched) != 0)
		abort();
	pthread_setname_np(finisher->thread, "finisher");
}

void finisher_close(struct croft_sched *sched)
{
	struct finisher *finisher = sched->finisher;
	if (!finisher)
		return;
	pthread_mutex_lock(&finisher->lock);
	finisher->stopping = true;
	pthread_cond_signal(&finisher->wanted);
	pthread_mutex_unlock(&finisher->lock);
	pthread_join(finisher->thread, NULL);
	pthread_cond_destroy(&finisher->wanted);
	pthread_mutex_destroy(&finisher->lock);
	free(finisher);
	sched->finisher = NULL;
}
