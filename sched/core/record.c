/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/core.h"

#include "proto/base/io.h"
#include "sched/core/results.h"

#include <stdlib.h>
#include <xxhash.h>

struct croft_slice task_record(const struct task *task, struct croft_arena *arena)
{
	Journal__TaskRecord record = JOURNAL__TASK_RECORD__INIT;
	record.id = (char *)task->id;
	record.state = (Journal__TaskRecord__State)task->state;
	record.instance_name = (char *)task->instance_name;
	record.action_digest = croft_digest_to_message(&task->action, arena);
	record.command_digest = croft_digest_to_message(&task->command, arena);
	record.input_root_digest = croft_digest_to_message(&task->input_root, arena);
	record.n_requirements = task->class->requirement_count;
	record.requirements = croft_arena_array(arena, record.n_requirements, sizeof(void *));
	for (size_t i = 0; i < record.n_requirements; i++) {
		const char *requirement = task->class->requirements[i];
		Reapi__Platform__Property *property = croft_arena_alloc(arena, sizeof(*property));
		reapi__platform__property__init(property);
		size_t name = (size_t)(strchr(requirement, '=') - requirement);
		property->name = croft_arena_strndup(arena, requirement, name);
		property->value = (char *)requirement + name + 1;
		record.requirements[i] = property;
	}
	record.priority = task->priority;
	record.keep_priority = task->keep_priority;
	record.do_not_cache = task->do_not_cache;
	record.may_merge = task->may_merge;
	record.timeout_ms = task->timeout_ms;
	record.queued_unix_ns = task->queued_unix_ns;
	record.completed_unix_ns = task->completed_unix_ns;
	record.attempts = task->attempts;
	record.lease = (char *)task->lease;
	record.agent_id = task->agent_id ? task->agent_id : (char *)"";
	record.request_metadata = (ProtobufCBinaryData){
		task->request_metadata.size, (uint8_t *)task->request_metadata.data};
	record.response =
		(ProtobufCBinaryData){task->response.size, (uint8_t *)task->response.data};
	record.description = task->description ? task->description : (char *)"";
	record.sequence = task->sequence;
	record.hint = task->hint;
	record.kept = task->kept;
	record.abandoned = task->abandoned;
	if (task->account)
		record.account = task->account;
	struct operation *operation;
	LIST_FOREACH (operation, &task->operations, link)
		record.n_operations++;
	record.operations = croft_arena_array(arena, record.n_operations, sizeof(void *));
	size_t at = 0;
	LIST_FOREACH (operation, &task->operations, link) {
		Journal__OperationRecord *message = croft_arena_alloc(arena, sizeof(*message));
		journal__operation_record__init(message);
		message->name = operation->name;
		message->cancelled = operation->cancelled;
		record.operations[at++] = message;
	}
	return croft_message_encode(&record.base, arena);
}

static struct croft_slice own(const ProtobufCBinaryData *data)
{
	void *copy = croft_alloc(data->len);
	if (data->len)
		memcpy(copy, data->data, data->len);
	return CROFT_SLICE(copy, data->len);
}

/* A task that was queued or running: its inputs are held again, and it waits for its agent to come
 * back with its lease, or for a new one. */
static void resume(struct croft_sched *sched, struct task *task, const Journal__TaskRecord *record)
{
	struct croft_ref refs[] = {{CROFT_REF_BLOB, task->action}, {CROFT_REF_BLOB, task->command},
		{CROFT_REF_DIRECTORY, task->input_root}};
	/* Without the hold the agent says what is missing, if it is. */
	task->hold = croft_store_hold(sched->store, refs, 3, NULL);
	task->announced = task->state;
	alone_look(sched, task);
	if (task->may_merge) {
		size_t bucket = XXH3_64bits(task->action.hash, CROFT_HASH_SIZE) % BUCKETS;
		LIST_INSERT_HEAD(&sched->actions[bucket], task, action_link);
		task->action_listed = true;
	}
	if (task->state == TASK_QUEUED) {
		placed_restore(sched, task);
		return;
	}
	memcpy(task->lease, record->lease, strnlen(record->lease, NAME_TEXT - 1));
	task->agent_id = croft_strdup(record->agent_id);
	task->agent_lost_ns = croft_now_ns();
	sched->running++;
	LIST_INSERT_HEAD(&sched->leases[bucket_of(task->lease)], task, lease_link);
}

static bool read_digests(struct task *task, const Journal__TaskRecord *record,
	struct croft_error *err)
{
	return croft_digest_from_message(record->command_digest, "a task's command", &task->command, err) &&
		croft_digest_from_message(
			record->input_root_digest, "a task's input root", &task->input_root, err);
}

struct task *task_restore(struct croft_sched *sched, struct croft_slice bytes, struct results_lost *lost,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const Journal__TaskRecord *record =
		croft_message_decode(&journal__task_record__descriptor, bytes, arena, NULL, err);
	struct croft_digest action;
	if (!record || strlen(record->id) != NAME_TEXT - 1 ||
		!croft_digest_from_message(record->action_digest, "a task's action", &action, err))
		return croft_error_wrap(err, "reading the journal"), NULL;
	struct task *task = task_create(sched, record->instance_name, &action);
	if (!read_digests(task, record, err)) {
		task_free(sched, task);
		return croft_error_wrap(err, "reading the journal"), NULL;
	}
	memcpy(task->id, record->id, NAME_TEXT);
	Reapi__Platform platform = REAPI__PLATFORM__INIT;
	platform.n_properties = record->n_requirements;
	platform.properties = record->requirements;
	task->class = class_of(sched, &platform);
	task->state = (enum task_state)record->state;
	task->told = true;
	task->priority = record->priority;
	task->keep_priority = record->keep_priority;
	task->do_not_cache = record->do_not_cache;
	task->may_merge = record->may_merge;
	task->timeout_ms = record->timeout_ms;
	task->queued_unix_ns = record->queued_unix_ns;
	task->completed_unix_ns = record->completed_unix_ns;
	task->attempts = record->attempts;
	if (record->request_metadata.len)
		task->request_metadata = own(&record->request_metadata);
	task->response = own(&record->response);
	task->description = croft_strdup(record->description);
	task->sequence = record->sequence;
	task->hint = record->hint;
	task->kept = record->kept;
	task->abandoned = record->abandoned;
	if (*record->account)
		task->account = croft_strdup(record->account);
	if (record->sequence >= sched->next_sequence)
		sched->next_sequence = record->sequence + 1;
	for (size_t i = 0; i < record->n_operations; i++)
		if (strlen(record->operations[i]->name) == NAME_TEXT - 1)
			task_add_operation(sched, task, record->operations[i]->name)->cancelled =
				record->operations[i]->cancelled;
	if (task->state != TASK_COMPLETED) {
		resume(sched, task, record);
		return task;
	}
	task->announced = TASK_COMPLETED;
	task->unindexed = results_lost_see(lost, record);
	/* What the wall clock says of the time while there was no server; never less than nothing. */
	int64_t age_ns = croft_unix_ns() - task->completed_unix_ns;
	task->completed_ns = (int64_t)croft_now_ns() - (age_ns > 0 ? age_ns : 0);
	TAILQ_INSERT_TAIL(&sched->completed, task, queue_link);
	sched->completed_count++;
	return task;
}
