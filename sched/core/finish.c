/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs that ended, on their way into the action cache and then to their waiters.
 *
 * One thread takes all that came meanwhile: their records share a commit of the store, then their tasks
 * end together, and one look at the queue fills the slots. No agent's stream waits for a disk.
 */
#include "sched/core/finish.h"

#include <stdlib.h>

struct finisher {
	pthread_t thread;
	pthread_mutex_t lock; /* guards: everything below */
	pthread_cond_t wanted;
	struct finished *first, **last;
	bool stopping;
};

static void finished_free(struct finished *finished)
{
	croft_arena_destroy(finished->result.arena);
	free((void *)finished->result.response.data);
	free((void *)finished->source.instance_name);
	free((void *)finished->source.reason);
	free(finished->touched);
	free(finished);
}

static void put_records(struct croft_sched *sched, struct finished *batch)
{
	size_t count = 0;
	for (struct finished *at = batch; at; at = at->next)
		count += at->result.to_keep;
	CROFT_CLEANUP_FREE struct croft_record *records = croft_array(count + 1, sizeof(*records));
	count = 0;
	for (struct finished *at = batch; at; at = at->next)
		if (at->result.to_keep)
			records[count++] = at->result.record;
	croft_store_record_put_many(sched->store, records, count);
	count = 0;
	for (struct finished *at = batch; at; at = at->next) {
		if (at->result.to_keep)
			at->result.record = records[count++];
		result_kept(&at->result, &at->source);
	}
}

/* The lock is held. */
static void end_task(struct croft_sched *sched, struct finished *finished)
{
	struct task *task = find_lease(sched, finished->lease);
	if (!task)
		return; /* reported a second time, or given up meanwhile */
	task->run_seconds = finished->run_seconds;
	task->peak_memory_bytes = finished->peak_memory_bytes;
	free(task->touched);
	task->touched = finished->touched;
	task->touched_count = finished->touched_count;
	finished->touched = NULL;
	task_complete(sched, task, finished->result.response, finished->result.failed);
	finished->result.response = CROFT_SLICE(NULL, 0);
}

static void finish_all(struct croft_sched *sched, struct finished *batch)
{
	put_records(sched, batch);
	pthread_mutex_lock(&sched->lock);
	for (struct finished *at = batch; at; at = at->next)
		end_task(sched, at);
	dispatch(sched);
	pthread_mutex_unlock(&sched->lock);
	for (struct finished *next; batch; batch = next) {
		next = batch->next;
		finished_free(batch);
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
		struct finished *batch = finisher->first;
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

void finish(struct croft_sched *sched, struct finished *finished)
{
	struct finisher *finisher = sched->finisher;
	CROFT_LOCKED(&finisher->lock);
	finished->next = NULL;
	*finisher->last = finished;
	finisher->last = &finished->next;
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
