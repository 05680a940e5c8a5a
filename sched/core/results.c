/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/results.h"

#include "google/rpc/status.pb-c.h"
#include "proto/base/cleanup.h"
#include "proto/base/log.h"
#include "proto/rpc/message.h"
#include "sched/action_result.h"

#include <stdlib.h>

static struct croft_slice record_key(const struct result_source *source, struct croft_arena *arena)
{
	size_t instance = strlen(source->instance_name);
	char *key = croft_arena_alloc(arena, instance + 1 + CROFT_HASH_TEXT);
	memcpy(key, source->instance_name, instance + 1);
	croft_hash_format(source->action.hash, key + instance + 1);
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

static struct croft_ref *with_inputs(const struct result_source *source, struct croft_arena *arena,
	const struct croft_ref *refs, size_t *count)
{
	struct croft_ref *more = croft_arena_array(arena, *count + 2, sizeof(*more));
	if (*count)
		memcpy(more, refs, *count * sizeof(*refs));
	more[(*count)++] = (struct croft_ref){CROFT_REF_BLOB, source->action};
	if (!croft_digest_is_empty(&source->input_root))
		more[(*count)++] = (struct croft_ref){CROFT_REF_DIRECTORY, source->input_root};
	return more;
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
	bool ran = status.code == CROFT_OK && done->result;
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
	/* It must name only what is there; else it would be a promise that cannot be kept. */
	struct croft_ref *refs;
	struct croft_error err = CROFT_ERROR_INIT;
	result->record.table = result->failed ? CROFT_RECORD_FAILURE : CROFT_RECORD_ACTION;
	result->record.key = record_key(source, result->arena);
	result->record.value = croft_message_encode(&done->result->base, result->arena);
	result->to_keep = croft_action_result_refs(
		done->result, result->arena, &refs, &result->record.ref_count, &err);
	/* Of a failure, what it was built from is kept as well: people look into it. */
	if (result->to_keep && result->failed)
		refs = with_inputs(source, result->arena, refs, &result->record.ref_count);
	result->record.refs = refs;
	if (!result->to_keep)
		not_kept(result, &err);
}

void result_kept(struct result *result, const struct result_source *source)
{
	if (!result->to_keep)
		return;
	if (!result->record.ok)
		not_kept(result, &result->record.failed);
	else if (result->record.table == CROFT_RECORD_ACTION)
		croft_upstream_send_result(
			source->upstream, source->instance_name, &source->action, result->record.value);
}
