/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a transition to the disk, and from there to those who wait to hear of it.
 *
 * What happens to a task while the lock is held is written down once, as it stands when the lock is given
 * back: an action that finds a free slot at once is on disk as leased, never as queued. The journal's
 * thread commits what came meanwhile, then announces all of it: what clients are told is gathered under
 * one hold of the lock and sent without it; what an agent is told goes out as one message.
 *
 * That a job executes is held back for a moment: most short ones are done by then, and one message says it
 * all.
 */
#include "sched/core/core.h"

#include "proto/base/io.h"

#include <stdlib.h>

static const uint64_t HOLD_NS = HOLD_MS * UINT64_C(1000000);

/* Of one commit; the journal's thread's own. */
struct announcements {
	struct croft_arena *arena;
	struct word {
		struct croft_call *call; /* referenced */
		const Longrunning__Operation *message;
	} *words;
	struct handing {
		struct job_source *source;
		Farm__Job *job; /* NULL: it cannot be made */
		struct croft_error failed;
	} *handings;
	/* Ends that are told once their accounts are in the store. */
	struct announcement **accounted;
	size_t word_count, word_room, handing_count, handing_room, accounted_count, accounted_room;
};

/* The lock ----------------------------------------------------------------------------------------- */

struct announcement {
	struct croft_sched *sched;
	struct task *task;
	enum task_state state;
	char lease[NAME_TEXT]; /* to hand out (leased), or to acknowledge (completed) */
	char agent_id[];
};

static void announce(void *user, const struct croft_error *failed);
static void announce_now(struct announcement *announcement, const struct croft_error *failed);

static void write_task(struct croft_sched *sched, struct task *task, struct croft_arena *arena)
{
	const char *agent_id = task->agent_id ? task->agent_id : "";
	struct announcement *announcement = croft_alloc(sizeof(*announcement) + strlen(agent_id) + 1);
	announcement->sched = sched;
	announcement->task = task;
	announcement->state = task->state;
	memcpy(announcement->lease, task->lease, NAME_TEXT);
	strcpy(announcement->agent_id, agent_id);
	task->announcing++;
	uint8_t key[TASK_KEY];
	croft_journal_put(sched->journal, task_key(task, key), task_record(task, arena),
		task->state != TASK_COMPLETED && !task->told, announce, announcement);
}

void sched_write_down(struct croft_sched *sched)
{
	struct task *task;
	if (STAILQ_EMPTY(&sched->changed))
		return;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	while ((task = STAILQ_FIRST(&sched->changed))) {
		STAILQ_REMOVE_HEAD(&sched->changed, changed_link);
		task->changed = false;
		write_task(sched, task, arena);
		croft_arena_reset(arena);
	}
}

void task_changed(struct croft_sched *sched, struct task *task)
{
	if (task->changed)
		return;
	task->changed = true;
	STAILQ_INSERT_TAIL(&sched->changed, task, changed_link);
}

void sched_lock(struct croft_sched *sched)
{
	pthread_mutex_lock(&sched->lock);
}

void sched_unlock(struct croft_sched *sched)
{
	sched_write_down(sched);
	pthread_mutex_unlock(&sched->lock);
}

struct croft_slice task_key(const struct task *task, uint8_t key[TASK_KEY])
{
	for (int i = 0; i < TASK_KEY; i++)
		key[i] = (uint8_t)(task->sequence >> (8 * (TASK_KEY - 1 - i)));
	return CROFT_SLICE(key, TASK_KEY);
}

/* Gathering: the lock is held ----------------------------------------------------------------------- */

static void *grown(struct croft_arena *arena, void *list, size_t count, size_t *room, size_t size)
{
	if (count < *room)
		return list;
	*room = *room * 2 + 64;
	void *larger = croft_arena_array(arena, *room, size);
	if (count)
		memcpy(larger, list, count * size);
	return larger;
}

static void gather(struct croft_sched *sched, struct announcements *all, struct operation *operation)
{
	held_forget(sched, operation);
	if (operation->joining || LIST_EMPTY(&operation->waiters))
		return;
	const Longrunning__Operation *message = operation_message(operation, all->arena);
	struct waiter *waiter = LIST_FIRST(&operation->waiters);
	while (waiter) {
		struct waiter *next = LIST_NEXT(waiter, link);
		all->words = grown(
			all->arena, all->words, all->word_count, &all->word_room, sizeof(*all->words));
		all->words[all->word_count++] = (struct word){croft_call_ref(waiter->call), message};
		if (message->done)
			waiter_leave(waiter);
		waiter = next;
	}
	alone_look(sched, operation->task);
}

/* Held words: the lock is held ---------------------------------------------------------------------- */

static void hold(struct croft_sched *sched, struct operation *operation)
{
	if (operation->held_ns || LIST_EMPTY(&operation->waiters))
		return;
	operation->held_ns = croft_now_ns();
	TAILQ_INSERT_TAIL(&sched->held, operation, held_link);
	if (sched->ticks_slowly)
		pthread_cond_signal(&sched->tick);
	sched->ticks_slowly = false;
}

void held_forget(struct croft_sched *sched, struct operation *operation)
{
	if (operation->held_ns)
		TAILQ_REMOVE(&sched->held, operation, held_link);
	operation->held_ns = 0;
}

static void hand_out(struct croft_sched *sched, struct task *task, const char *lease)
{
	struct announcements *all = sched->announcements;
	if (task->state != TASK_LEASED || strcmp(task->lease, lease) != 0)
		return; /* it went on meanwhile */
	if (task->cancelling) {
		task_complete_error(sched, task, CROFT_CANCELLED, "cancelled by its client");
		return;
	}
	all->handings = grown(all->arena, all->handings, all->handing_count, &all->handing_room,
		sizeof(*all->handings));
	all->handings[all->handing_count++] =
		(struct handing){.source = job_source(task, all->arena), .failed = CROFT_ERROR_INIT};
}

/* On the journal's thread, between begin and end: the transition is on disk. */
static void announce(void *user, const struct croft_error *failed)
{
	struct announcement *announcement = user;
	struct announcements *all = announcement->sched->announcements;
	if (failed || announcement->state != TASK_COMPLETED || !announcement->task->account) {
		announce_now(announcement, failed);
		return;
	}
	all->accounted = grown(
		all->arena, all->accounted, all->accounted_count, &all->accounted_room, sizeof(*all->accounted));
	all->accounted[all->accounted_count++] = announcement;
}

static void announce_now(struct announcement *announcement, const struct croft_error *failed)
{
	struct croft_sched *sched = announcement->sched;
	struct task *task = announcement->task;
	task->announcing--;
	if (failed && task->state != TASK_COMPLETED && !task->told) {
		task->told = true;
		task_complete(sched, task, error_response(failed->code, failed->message), true);
	} else if (!failed) {
		task->told = true;
		if (announcement->state == TASK_COMPLETED)
			task_announced_end(sched, task);
		task->announced = announcement->state;
		/* Nobody finds it before it is on disk, and everybody before its client hears of the end. */
		if (task->late)
			task->late_number = croft_store_record_publish(sched->store, task->late);
		task->late = NULL;
		struct operation *operation;
		LIST_FOREACH (operation, &task->operations, link) {
			if (announcement->state == TASK_LEASED)
				hold(sched, operation);
			else
				gather(sched, sched->announcements, operation);
		}
		if (announcement->state == TASK_LEASED)
			hand_out(sched, task, announcement->lease);
		if (announcement->state == TASK_COMPLETED && *announcement->agent_id)
			agent_ack(sched, announcement->agent_id, announcement->lease,
				sched->announcements->arena);
	}
	free(announcement);
}

/* One operation of a task that goes on ------------------------------------------------------------- */

struct single {
	struct croft_sched *sched;
	struct operation *operation;
};

/* The operation outlives this, as its task is being announced. */
static void announce_operation(void *user, const struct croft_error *failed)
{
	(void)failed; /* tried until it works */
	struct single *single = user;
	single->operation->task->announcing--;
	single->operation->joining = false;
	gather(single->sched, single->sched->announcements, single->operation);
	free(single);
}

void operation_write_down(struct croft_sched *sched, struct operation *operation)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct single *single = croft_zalloc(sizeof(*single));
	*single = (struct single){sched, operation};
	operation->task->announcing++;
	uint8_t key[TASK_KEY];
	croft_journal_put(sched->journal, task_key(operation->task, key),
		task_record(operation->task, arena), false, announce_operation, single);
}

/* A record that somebody waits for ----------------------------------------------------------------- */

struct written {
	struct croft_sched *sched;
	bool done;
};

/* On the journal's thread, with the scheduler's lock. */
static void announce_written(void *user, const struct croft_error *failed)
{
	(void)failed; /* tried until it works */
	struct written *written = user;
	written->done = true;
	pthread_cond_broadcast(&written->sched->record_written);
}

void record_write(struct croft_sched *sched, struct croft_slice key, struct croft_slice value)
{
	struct written written = {.sched = sched};
	croft_journal_put(sched->journal, key, value, false, announce_written, &written);
	sched_write_down(sched);
	while (!written.done)
		pthread_cond_wait(&sched->record_written, &sched->lock);
}

/* A commit's announcements ---------------------------------------------------------------------------- */

void announcements_begin(void *user)
{
	struct croft_sched *sched = user;
	struct announcements *all = croft_zalloc(sizeof(*all));
	all->arena = croft_arena_create();
	sched_lock(sched);
	sched->announcements = all;
}

static void tell_clients(struct announcements *all)
{
	for (size_t i = 0; i < all->word_count; i++) {
		struct word *word = &all->words[i];
		if (word->message->done)
			croft_call_post_last(word->call, &word->message->base);
		else
			croft_call_post(word->call, &word->message->base);
		croft_call_unref(word->call);
	}
}

void held_tell(struct croft_sched *sched)
{
	struct operation *operation = TAILQ_FIRST(&sched->held);
	uint64_t now_ns = croft_now_ns();
	if (!operation || operation->held_ns + HOLD_NS > now_ns)
		return;
	struct announcements all = {.arena = croft_arena_create()};
	while ((operation = TAILQ_FIRST(&sched->held)) && operation->held_ns + HOLD_NS <= now_ns)
		gather(sched, &all, operation);
	sched_unlock(sched);
	/* One that was told its end meanwhile does not hear of this any more. */
	tell_clients(&all);
	croft_arena_destroy(all.arena);
	sched_lock(sched);
}

/* Making a job reads the store: it is done without the lock. */
static void make_jobs(struct croft_sched *sched, struct announcements *all)
{
	for (size_t i = 0; i < all->handing_count; i++)
		all->handings[i].job =
			job_make(sched, all->handings[i].source, all->arena, &all->handings[i].failed);
}

/* The lock is held. */
static void give_jobs(struct croft_sched *sched, struct announcements *all)
{
	for (size_t i = 0; i < all->handing_count; i++) {
		struct handing *handing = &all->handings[i];
		struct task *task = find_lease(sched, job_source_lease(handing->source));
		if (!task || task->state != TASK_LEASED)
			continue;
		if (!handing->job) {
			croft_error_wrap(&handing->failed, "reading the action again");
			task_complete_error(sched, task, handing->failed.code, handing->failed.message);
		} else if (task->cancelling) {
			task_complete_error(sched, task, CROFT_CANCELLED, "cancelled by its client");
		} else {
			job_add_peers(sched, handing->job, task, all->arena);
			agent_give(task, handing->job, all->arena);
			task_run(task);
		}
	}
}

/* The lock is held, but not over the putting. */
static void put_accounts(struct croft_sched *sched, struct announcements *all)
{
	struct task **tasks = croft_arena_array(all->arena, all->accounted_count, sizeof(*tasks));
	for (size_t i = 0; i < all->accounted_count; i++)
		tasks[i] = all->accounted[i]->task; /* it stays while it is announced, as it is done */
	sched_unlock(sched);
	accounts_put(sched, tasks, all->accounted_count);
	sched_lock(sched);
	for (size_t i = 0; i < all->accounted_count; i++) {
		account_drop(tasks[i]);
		announce_now(all->accounted[i], NULL);
	}
}

void announcements_end(void *user)
{
	struct croft_sched *sched = user;
	struct announcements *all = sched->announcements;
	agents_send(sched);
	if (all->accounted_count) {
		put_accounts(sched, all);
		agents_send(sched);
	}
	sched->announcements = NULL;
	sched_unlock(sched);
	make_jobs(sched, all);
	if (all->handing_count) {
		sched_lock(sched);
		give_jobs(sched, all);
		agents_send(sched);
		sched_unlock(sched);
	}
	for (size_t i = 0; i < all->handing_count; i++)
		job_source_finish(all->handings[i].source);
	tell_clients(all);
	croft_arena_destroy(all->arena);
	free(all);
}
