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

/* The result must name only what is there; else it would be a promise that cannot be kept. */
static bool remember(struct croft_store *store, const struct result_source *source,
	const Reapi__ActionResult *result, enum croft_record_table table, struct croft_arena *arena,
	struct croft_error *err)
{
	struct croft_ref *refs;
	size_t count;
	struct croft_slice value = croft_message_encode(&result->base, arena);
	if (!croft_action_result_refs(result, arena, &refs, &count, err) ||
		!croft_store_record_put(
			store, table, record_key(source, arena), value, refs, count, 0, err))
		return false;
	if (table == CROFT_RECORD_ACTION)
		croft_upstream_send_result(source->upstream, source->instance_name, &source->action, value);
	return true;
}

static struct croft_slice encode(const Reapi__ExecuteResponse *response)
{
	size_t size = protobuf_c_message_get_packed_size(&response->base);
	uint8_t *bytes = croft_alloc(size);
	protobuf_c_message_pack(&response->base, bytes);
	return CROFT_SLICE(bytes, size);
}

struct croft_slice result_store(struct croft_store *store, const struct result_source *source,
	const Farm__JobDone *done, bool *failed)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	GoogleRpc__Status status = GOOGLE_RPC__STATUS__INIT;
	struct croft_error err = CROFT_ERROR_INIT;
	if (source->cancelled) {
		status.code = CROFT_CANCELLED;
		status.message = (char *)"cancelled by its client";
	} else if (done->status) {
		status.code = done->status->code;
		status.message = done->status->message;
	}
	bool ran = status.code == CROFT_OK && done->result;
	bool success = ran && done->result->exit_code == 0;
	if (ran && !source->do_not_cache &&
		!remember(store, source, done->result,
			success ? CROFT_RECORD_ACTION : CROFT_RECORD_FAILURE, arena, &err)) {
		croft_error_wrap(&err, "keeping the action's result");
		croft_log(CROFT_LOG_WARNING, "%s", err.message);
		/* Without room in the cache the result is still a result; with an output missing it is none. */
		if (err.code != CROFT_RESOURCE_EXHAUSTED) {
			status.code = CROFT_INTERNAL;
			status.message = err.message;
			ran = success = false;
		}
	}
	Reapi__ExecuteResponse response = REAPI__EXECUTE_RESPONSE__INIT;
	response.status = &status;
	response.message = done->message;
	if (ran || (done->result && !source->cancelled))
		response.result = done->result;
	*failed = !success;
	return encode(&response);
}
