/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/results.h"

#include "google/rpc/status.pb-c.h"
#include "proto/base/cleanup.h"
#include "proto/base/log.h"
#include "proto/rpc/message.h"
#include "sched/action_result.h"

#include <stdlib.h>

static struct croft_slice record_key(
	const char *instance_name, const struct croft_digest *action, struct croft_arena *arena)
{
	size_t instance = strlen(instance_name);
	char *key = croft_arena_alloc(arena, instance + 1 + CROFT_HASH_TEXT);
	memcpy(key, instance_name, instance + 1);
	croft_hash_format(action->hash, key + instance + 1);
	return CROFT_SLICE(key, instance + 1 + 64);
}

static struct croft_slice encode(const Reapi__ExecuteResponse *response)
{
	size_t size = protobuf_c_message_get_packed_size(&response->base);
	uint8_t *bytes = croft_alloc(size);
	protobuf_c_message_pack(&response->base, bytes);
	return CROFT_SLICE(bytes, size);
}

/* Without room in the cache the result is still a result; with an output missing it is none. */
static void not_kept(struct result *result, struct croft_error *err)
{
	croft_error_wrap(err, "keeping the action's result");
	croft_log(CROFT_LOG_WARNING, "%s", err->message);
	if (err->code == CROFT_RESOURCE_EXHAUSTED)
		return;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__ExecuteResponse *response = croft_message_decode(
		&reapi__execute_response__descriptor, result->response, arena, NULL, NULL);
	if (!response)
		abort(); /* it was encoded here */
	GoogleRpc__Status status = GOOGLE_RPC__STATUS__INIT;
	status.code = CROFT_INTERNAL;
	status.message = err->message;
	response->status = &status;
	free((void *)result->response.data);
	result->response = encode(response);
	result->failed = true;
	result->ran = false;
}

/* Among what the agent says of the run. */
static void add_placement(
	const struct result_source *source, Reapi__ActionResult *result, struct croft_arena *arena)
{
	Reapi__ExecutedActionMetadata *metadata = result->execution_metadata;
	if (!metadata || !source->reason)
		return;
	Farm__Placement placement = FARM__PLACEMENT__INIT;
	placement.reason = (char *)source->reason;
	croft_message_attach(
		&metadata->auxiliary_metadata, &metadata->n_auxiliary_metadata, &placement.base, arena);
}

static struct croft_ref *with_inputs(const struct croft_digest *action, const struct croft_digest *input_root,
	struct croft_arena *arena, const struct croft_ref *refs, size_t *count)
{
	struct croft_ref *more = croft_arena_array(arena, *count + 2, sizeof(*more));
	if (*count)
		memcpy(more, refs, *count * sizeof(*refs));
	more[(*count)++] = (struct croft_ref){CROFT_REF_BLOB, *action};
	if (!croft_digest_is_empty(input_root))
		more[(*count)++] = (struct croft_ref){CROFT_REF_DIRECTORY, *input_root};
	return more;
}

/* The action cache's record of it. It must name only what is there, else it would be a promise that cannot be kept. */
static bool fill_record(struct croft_record *record, const char *instance_name, const struct croft_digest *action,
	const struct croft_digest *input_root, const Reapi__ActionResult *result, bool failed, struct croft_arena *arena,
	struct croft_error *err)
{
	struct croft_ref *refs;
	record->table = failed ? CROFT_RECORD_FAILURE : CROFT_RECORD_ACTION;
	record->key = record_key(instance_name, action, arena);
	record->value = croft_message_encode(&result->base, arena);
	if (!croft_action_result_refs(result, arena, &refs, &record->ref_count, err))
		return false;
	/* Of a failure, what it was built from is kept as well: people look into it. */
	if (failed)
		refs = with_inputs(action, input_root, arena, refs, &record->ref_count);
	record->refs = refs;
	return true;
}

void result_make(struct result *result, const struct result_source *source,
	const Farm__JobDone *done)
{
	*result = (struct result){.arena = croft_arena_create()};
	GoogleRpc__Status status = GOOGLE_RPC__STATUS__INIT;
	if (source->cancelled) {
		status.code = CROFT_CANCELLED;
		status.message = (char *)"cancelled by its client";
	} else if (done->status) {
		status.code = done->status->code;
		status.message = done->status->message;
	}
	bool ran = result->ran = status.code == CROFT_OK && done->result;
	result->failed = !ran || done->result->exit_code != 0;
	if (done->result)
		add_placement(source, done->result, result->arena);
	Reapi__ExecuteResponse response = REAPI__EXECUTE_RESPONSE__INIT;
	response.status = &status;
	response.message = done->message;
	if (ran || (done->result && !source->cancelled))
		response.result = done->result;
	result->response = encode(&response);
	if (!ran || source->do_not_cache)
		return;
	struct croft_error err = CROFT_ERROR_INIT;
	result->to_keep = fill_record(&result->record, source->instance_name, &source->action, &source->input_root,
		done->result, result->failed, result->arena, &err);
	if (!result->to_keep)
		not_kept(result, &err);
}

void result_kept(struct result *result, const struct result_source *source)
{
	if (!result->to_keep)
		return;
	if (!result->record.ok)
		not_kept(result, &result->record.failed);
	else if (result->record.table == CROFT_RECORD_ACTION) {
		croft_action_result_prefer(
			source->store, source->keep_priority, result->record.refs, result->record.ref_count);
		croft_upstream_send_result(
			source->upstream, source->instance_name, &source->action, result->record.value);
	}
}

Journal__TaskRecord__Kept result_table(const struct result *result)
{
	if (!result->late)
		return JOURNAL__TASK_RECORD__KEPT__NOT_KEPT;
	return result->record.table == CROFT_RECORD_ACTION ? JOURNAL__TASK_RECORD__KEPT__KEPT_RESULT
													   : JOURNAL__TASK_RECORD__KEPT__KEPT_FAILURE;
}

/* After a crash -------------------------------------------------------------------------------------- */

enum { LOST_AT_ONCE = 1024 };

struct results_lost {
	struct croft_store *store;
	struct croft_arena *arena;
	struct croft_record *records;
	size_t count, room;
	struct croft_error failed; /* the first of the last try, but for what is not there any more */
};

struct results_lost *results_lost_create(struct croft_store *store)
{
	struct results_lost *lost = croft_zalloc(sizeof(*lost));
	lost->store = store;
	lost->arena = croft_arena_create();
	return lost;
}

void results_lost_destroy(struct results_lost *lost)
{
	if (!lost)
		return;
	croft_arena_destroy(lost->arena);
	free(lost->records);
	free(lost);
}

/* Those of actions that were run again meanwhile have a newer one. */
static void drop_replaced(struct results_lost *lost)
{
	size_t left = 0;
	for (size_t i = 0; i < lost->count; i++)
		if (!croft_store_record_has(lost->store, lost->records[i].table, lost->records[i].key))
			lost->records[left++] = lost->records[i];
	lost->count = left;
}

/* What names blobs that are not there any more is no result any more. */
static void put_lost(struct results_lost *lost)
{
	size_t left = 0;
	lost->failed = (struct croft_error)CROFT_ERROR_INIT;
	croft_store_record_put_many(lost->store, lost->records, lost->count);
	for (size_t i = 0; i < lost->count; i++) {
		struct croft_record *record = &lost->records[i];
		if (record->ok || record->failed.code == CROFT_FAILED_PRECONDITION)
			continue;
		if (lost->failed.code == CROFT_OK)
			lost->failed = record->failed;
		lost->records[left++] = *record;
	}
	lost->count = left;
	if (left == 0)
		croft_arena_reset(lost->arena);
}

/* The next of those that are missing; its parts are in the arena. */
static struct croft_record *add_lost(struct results_lost *lost)
{
	if (lost->count == lost->room) {
		lost->room = 2 * lost->room + LOST_AT_ONCE;
		lost->records = croft_realloc(lost->records, lost->room, sizeof(*lost->records));
	}
	struct croft_record *record = &lost->records[lost->count];
	*record = (struct croft_record){0};
	return record;
}

bool results_lost_see(struct results_lost *lost, const Journal__TaskRecord *record)
{
	struct croft_digest action, input_root;
	bool failed = record->kept == JOURNAL__TASK_RECORD__KEPT__KEPT_FAILURE;
	if (record->kept == JOURNAL__TASK_RECORD__KEPT__NOT_KEPT || record->state != JOURNAL__TASK_RECORD__STATE__COMPLETED ||
		!croft_digest_from_message(record->action_digest, "a task's action", &action, NULL) ||
		!croft_digest_from_message(record->input_root_digest, "a task's input root", &input_root, NULL))
		return false;
	struct croft_slice key = record_key(record->instance_name, &action, lost->arena);
	if (croft_store_record_has(lost->store, failed ? CROFT_RECORD_FAILURE : CROFT_RECORD_ACTION, key))
		return false;
	const Reapi__ExecuteResponse *response = croft_message_decode(&reapi__execute_response__descriptor,
		CROFT_SLICE(record->response.data, record->response.len), lost->arena, NULL, NULL);
	if (!response || !response->result ||
		!fill_record(add_lost(lost), record->instance_name, &action, &input_root, response->result, failed,
			lost->arena, NULL))
		return false;
	/* Where there was no room for some there is none for more. */
	if (++lost->count >= LOST_AT_ONCE && lost->failed.code == CROFT_OK)
		put_lost(lost);
	return true;
}

bool results_lost_put(struct results_lost *lost, struct croft_error *err)
{
	drop_replaced(lost);
	if (lost->count)
		put_lost(lost);
	if (lost->count && err)
		*err = lost->failed;
	return lost->count == 0;
}
