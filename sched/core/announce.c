/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/core.h"

#include "google/rpc/status.pb-c.h"

#include <stdlib.h>

/* ExecuteResponse of a task that has no result. malloc'ed bytes. */
struct croft_slice error_response(enum croft_code code, const char *message)
{
	GoogleRpc__Status status = GOOGLE_RPC__STATUS__INIT;
	status.code = (int32_t)code;
	status.message = (char *)message;
	Reapi__ExecuteResponse response = REAPI__EXECUTE_RESPONSE__INIT;
	response.status = &status;
	size_t size = protobuf_c_message_get_packed_size(&response.base);
	uint8_t *bytes = croft_alloc(size);
	protobuf_c_message_pack(&response.base, bytes);
	return CROFT_SLICE(bytes, size);
}

#define TYPE "type.googleapis.com/"

static Google__Protobuf__Any *any_of(const char *type, struct croft_slice bytes,
	struct croft_arena *arena)
{
	Google__Protobuf__Any *any = croft_arena_alloc(arena, sizeof(*any));
	google__protobuf__any__init(any);
	any->type_url = (char *)type;
	any->value = (ProtobufCBinaryData){bytes.size, (uint8_t *)bytes.data};
	return any;
}

static char *stream_name(const struct operation *operation, const char *stream,
	struct croft_arena *arena)
{
	char *name = croft_arena_alloc(arena, 11 + NAME_TEXT + strlen(stream));
	memcpy(name, "operations/", 11);
	memcpy(name + 11, operation->name, NAME_TEXT - 1);
	strcpy(name + 11 + NAME_TEXT - 1, stream);
	return name;
}

static Reapi__ExecutionStage__Value stage_of(const struct operation *operation)
{
	if (operation->cancelled || operation->task->announced == TASK_COMPLETED)
		return REAPI__EXECUTION_STAGE__VALUE__COMPLETED;
	/* It has an agent that starts it at once. */
	return operation->task->announced != TASK_QUEUED ? REAPI__EXECUTION_STAGE__VALUE__EXECUTING
													  : REAPI__EXECUTION_STAGE__VALUE__QUEUED;
}

Longrunning__Operation *operation_message(const struct operation *operation,
	struct croft_arena *arena)
{
	const struct task *task = operation->task;
	Reapi__ExecuteOperationMetadata metadata = REAPI__EXECUTE_OPERATION_METADATA__INIT;
	metadata.stage = stage_of(operation);
	metadata.action_digest = croft_digest_to_message(&task->action, arena);
	metadata.stdout_stream_name = stream_name(operation, "/stdout", arena);
	metadata.stderr_stream_name = stream_name(operation, "/stderr", arena);
	metadata.digest_function = REAPI__DIGEST_FUNCTION__VALUE__SHA256;

	Longrunning__Operation *message = croft_arena_alloc(arena, sizeof(*message));
	longrunning__operation__init(message);
	message->name = croft_arena_strdup(arena, operation->name);
	message->metadata = any_of(TYPE "build.bazel.remote.execution.v2.ExecuteOperationMetadata",
		croft_message_encode(&metadata.base, arena), arena);
	if (metadata.stage != REAPI__EXECUTION_STAGE__VALUE__COMPLETED)
		return message;
	message->done = true;
	message->result_case = LONGRUNNING__OPERATION__RESULT_RESPONSE;
	struct croft_slice response = task->response;
	if (operation->cancelled && task->announced != TASK_COMPLETED) {
		struct croft_slice cancelled = error_response(CROFT_CANCELLED, "cancelled by its client");
		response =
			CROFT_SLICE(croft_arena_copy(arena, cancelled.data, cancelled.size), cancelled.size);
		free((void *)cancelled.data);
	}
	message->response =
		any_of(TYPE "build.bazel.remote.execution.v2.ExecuteResponse", response, arena);
	return message;
}

void waiter_leave(struct waiter *waiter)
{
	LIST_REMOVE(waiter, link);
	waiter->operation->task->waiter_count--;
	waiter->operation = NULL;
}

static void tell(struct waiter *waiter, const Longrunning__Operation *message)
{
	if (!message->done) {
		croft_call_post(waiter->call, &message->base);
		return;
	}
	croft_call_post_last(waiter->call, &message->base);
	waiter_leave(waiter);
}

void waiter_add(struct waiter *waiter, struct operation *operation)
{
	struct task *task = operation->task;
	waiter->operation = operation;
	LIST_INSERT_HEAD(&operation->waiters, waiter, link);
	task->waiter_count++;
	alone_end(waiter->sched, task);
	/* What is not on disk yet is announced when it is. */
	if (!task->told || operation->joining)
		return;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	tell(waiter, operation_message(operation, arena));
	alone_look(waiter->sched, task);
}

void waiter_closed(void *user)
{
	struct waiter *waiter = user;
	sched_lock(waiter->sched);
	struct task *task = waiter->operation ? waiter->operation->task : NULL;
	if (task) {
		waiter_leave(waiter);
		alone_look(waiter->sched, task);
	}
	sched_unlock(waiter->sched);
	croft_call_unref(waiter->call);
	free(waiter);
}
