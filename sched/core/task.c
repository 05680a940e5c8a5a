/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/core.h"

#include "proto/base/io.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

enum { KEEP_COMPLETED = 20000, EXPIRE_WITH_EACH = 2 };
static const int64_t KEEP_NS = 3600ll * 1000000000;

const char *state_name(enum task_state state)
{
	static const char *const names[] = {"queued", "leased", "running", "completed"};
	return names[state];
}

struct task *task_create(struct croft_sched *sched, const char *instance_name,
	const struct croft_digest *action)
{
	struct task *task = croft_zalloc(sizeof(*task) + strlen(instance_name) + 1);
	make_name(task->id);
	strcpy(task->instance_name, instance_name);
	task->action = *action;
	task->sequence = sched->next_sequence++;
	LIST_INIT(&task->operations);
	return task;
}

void placed_where_free(struct placed_where *where)
{
	if (where)
		free(where->reason);
	free(where);
}

void action_read_free(struct action_read *read)
{
	if (read)
		croft_arena_destroy(read->arena); /* and it */
}

static void operation_free(struct croft_sched *sched, struct operation *operation)
{
	struct waiter *waiter;
	held_forget(sched, operation);
	LIST_REMOVE(operation, link);
	LIST_REMOVE(operation, name_link);
	while ((waiter = LIST_FIRST(&operation->waiters)))
		waiter_leave(waiter); /* it is freed when its stream closes */
	free(operation);
}

static void unlist_action(struct task *task)
{
	if (task->action_listed)
		LIST_REMOVE(task, action_link);
	task->action_listed = false;
}

void task_free(struct croft_sched *sched, struct task *task)
{
	while (!LIST_EMPTY(&task->operations))
		operation_free(sched, LIST_FIRST(&task->operations));
	unlist_action(task);
	alone_end(sched, task);
	croft_store_release(task->hold);
	croft_store_record_drop(sched->store, task->late);
	free((void *)task->request_metadata.data);
	free((void *)task->response.data);
	free(task->agent_id);
	free(task->description);
	account_drop(task);
	action_read_free(task->read);
	placed_where_free(task->where);
	free(task->inputs);
	logs_free(task);
	free(task);
}

struct operation *task_add_operation(struct croft_sched *sched, struct task *task, const char *name)
{
	struct operation *operation = croft_zalloc(sizeof(*operation));
	operation->task = task;
	if (name)
		memcpy(operation->name, name, NAME_TEXT - 1);
	else
		make_name(operation->name);
	LIST_INIT(&operation->waiters);
	LIST_INSERT_HEAD(&task->operations, operation, link);
	LIST_INSERT_HEAD(&sched->names[bucket_of(operation->name)], operation, name_link);
	return operation;
}

/* Transitions --------------------------------------------------------------------------------- */

/* Takes the task from its agent. */
static void leave_agent(struct croft_sched *sched, struct task *task)
{
	if (task->state != TASK_LEASED && task->state != TASK_RUNNING)
		return;
	sched->running--;
	LIST_REMOVE(task, lease_link);
	if (task->agent) {
		LIST_REMOVE(task, agent_link);
		task->agent->running--;
		task->agent = NULL;
	}
}

void task_enqueue(struct croft_sched *sched, struct task *task)
{
	leave_agent(sched, task);
	free(task->agent_id);
	task->agent_id = NULL;
	action_read_free(task->read);
	task->read = NULL;
	task->lease[0] = '\0';
	task->agent_lost_ns = 0;
	task->state = TASK_QUEUED;
	logs_free(task);
	placed_queue(sched, task);
	alone_look(sched, task);
	if (task->may_merge && !task->action_listed) {
		size_t bucket = XXH3_64bits(task->action.hash, CROFT_HASH_SIZE) % BUCKETS;
		LIST_INSERT_HEAD(&sched->actions[bucket], task, action_link);
		task->action_listed = true;
	}
	task_changed(sched, task);
}

void task_lease(struct croft_sched *sched, struct task *task, struct agent *agent)
{
	placed_unqueue(sched, task);
	task->state = TASK_LEASED;
	task->ending = false;
	task->attempts++;
	make_name(task->lease);
	task->agent_id = croft_strdup(agent->id);
	task->agent = agent;
	task->leased_unix_ns = croft_unix_ns();
	agent->running++;
	sched->running++;
	LIST_INSERT_HEAD(&agent->tasks, task, agent_link);
	LIST_INSERT_HEAD(&sched->leases[bucket_of(task->lease)], task, lease_link);
	task_changed(sched, task);
}

void task_run(struct task *task)
{
	if (task->state == TASK_LEASED)
		task->state = TASK_RUNNING; /* no need to write that down: its lease is */
}

void task_complete(struct croft_sched *sched, struct task *task, struct croft_slice response,
	bool failed)
{
	if (task->state == TASK_QUEUED)
		placed_unqueue(sched, task);
	leave_agent(sched, task);
	placed_end(sched, task);
	if (!task->ran)
		unlist_action(task);
	alone_end(sched, task);
	task->state = TASK_COMPLETED;
	free((void *)task->response.data);
	task->response = response;
	task->completed_unix_ns = croft_unix_ns();
	task->completed_ns = (int64_t)croft_now_ns();
	sched->done_count++;
	sched->failed_count += failed;
	TAILQ_INSERT_TAIL(&sched->completed, task, queue_link);
	sched->completed_count++;
	croft_store_release(task->hold);
	task->hold = NULL;
	action_read_free(task->read);
	task->read = NULL;
	pthread_cond_broadcast(&sched->log_changed);
	task_changed(sched, task);
	/* A few with each that is new: thousands at once would hold up everybody. */
	tasks_expire(sched, EXPIRE_WITH_EACH);
}

/* One ended task of an action is enough: it says to look into the action cache. */
void task_announced_end(struct croft_sched *sched, struct task *task)
{
	struct task *earlier = find_ended(sched, task->instance_name, &task->action);
	if (earlier)
		unlist_action(earlier);
	task->announced = TASK_COMPLETED;
	if (task->kept != JOURNAL__TASK_RECORD__KEPT__KEPT_RESULT)
		unlist_action(task);
}

void task_complete_error(struct croft_sched *sched, struct task *task, enum croft_code code,
	const char *message)
{
	struct croft_slice response = error_response(code, message);
	account_end(task, code, message, &response);
	task_complete(sched, task, response, true);
}

void task_lost(struct croft_sched *sched, struct task *task, const char *why)
{
	unsigned most = sched->config.max_attempts;
	account_try(task, why);
	if (task->cancelling) {
		task_complete_error(sched, task, CROFT_CANCELLED, "cancelled by its client");
	} else if (task->attempts >= most) {
		char message[400];
		snprintf(message, sizeof(message),
			"tried %u times, each time the agent was lost or could not run it; the last: %s (%s)",
			task->attempts, task->agent_id ? task->agent_id : "unknown", why);
		task_complete_error(sched, task, CROFT_UNAVAILABLE, message);
	} else {
		task_enqueue(sched, task);
	}
}

void operation_cancel(struct croft_sched *sched, struct operation *operation)
{
	struct task *task = operation->task;
	if (operation->cancelled || task->state == TASK_COMPLETED)
		return;
	operation->cancelled = true;
	bool wanted = false;
	struct operation *other;
	LIST_FOREACH (other, &task->operations, link)
		wanted |= !other->cancelled;
	if (wanted) {
		operation_write_down(sched, operation);
		return;
	}
	unlist_action(task);
	task->cancelling = true;
	if (task->state == TASK_QUEUED)
		task_complete_error(sched, task, CROFT_CANCELLED, "cancelled by its client");
	else
		agent_cancel(task, "cancelled by its client");
}

void operation_delete(struct croft_sched *sched, struct operation *operation)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct task *task = operation->task;
	uint8_t key[TASK_KEY];
	operation_free(sched, operation);
	task->announcing++; /* it stays, though the lock is not held all the time */
	record_write(sched, task_key(task, key), task_record(task, arena));
	task->announcing--;
}

void tasks_expire(struct croft_sched *sched, size_t most)
{
	int64_t oldest = (int64_t)croft_now_ns() - KEEP_NS;
	struct task *task;
	while (most-- > 0 && (task = TAILQ_FIRST(&sched->completed)) && task->announcing == 0 && !task->changed &&
		!(task->unindexed && sched->lost) &&
		(sched->completed_count > KEEP_COMPLETED || task->completed_ns < oldest) &&
		(task->late_number == 0 || task->late_number <= croft_store_records_indexed(sched->store))) {
		TAILQ_REMOVE(&sched->completed, task, queue_link);
		sched->completed_count--;
		uint8_t key[TASK_KEY];
		croft_journal_put(
			sched->journal, task_key(task, key), CROFT_SLICE(NULL, 0), false, NULL, NULL);
		task_free(sched, task);
	}
}
