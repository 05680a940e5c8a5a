/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * google.longrunning.Operations.
 */
#include "sched/core/core.h"

#include "google/protobuf/empty.pb-c.h"

#include <errno.h>
#include <stdlib.h>

enum { PAGE_SIZE = 100, PAGE_MOST = 1000 };

static struct operation *find(struct croft_sched *sched, const char *name, struct croft_error *err)
{
	struct operation *operation = find_operation(sched, name);
	if (!operation)
		croft_error_set(err, CROFT_NOT_FOUND, "there is no operation '%s'", name);
	return operation;
}

static bool get_operation(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_sched *sched = user;
	const Longrunning__GetOperationRequest *request = croft_call_request(call);
	Longrunning__Operation *message = NULL;
	sched_lock(sched);
	struct operation *operation = find(sched, request->name, err);
	if (operation) {
		/* Who asks now and then waits for it, too. */
		alone_end(sched, operation->task);
		alone_look(sched, operation->task);
		message = operation_message(operation, croft_call_arena(call));
	}
	sched_unlock(sched);
	return message && croft_call_write(call, &message->base, err);
}

/* filter: conditions NAME=VALUE with " AND " between them; none: all. */
struct filter {
	const char *stage, *agent, *instance, *build, *target, *action; /* NULL: any */
};

static bool parse_condition(char *condition, struct filter *filter)
{
	const struct {
		const char *name;
		const char **value;
	} known[] = {{"stage", &filter->stage}, {"agent", &filter->agent},
		{"instance", &filter->instance}, {"build", &filter->build}, {"target", &filter->target},
		{"action", &filter->action}};
	char *equals = strchr(condition, '=');
	if (!equals)
		return false;
	*equals = '\0';
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i].name, condition) == 0) {
			*known[i].value = equals + 1;
			return true;
		}
	return false;
}

static bool parse_filter(const char *text, struct filter *filter, struct croft_arena *arena,
	struct croft_error *err)
{
	*filter = (struct filter){0};
	char *rest = *text ? croft_arena_strdup(arena, text) : NULL;
	while (rest) {
		char *condition = rest, *end = strstr(rest, " AND ");
		rest = end ? end + 5 : NULL;
		if (end)
			*end = '\0';
		if (!parse_condition(condition, filter))
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"filter '%s': conditions are stage=queued|running|completed, agent=, instance=, build= "
				"(invocation id), target= and action= (hash), with ' AND ' between them", text);
	}
	return true;
}

static bool has_stage(const struct task *task, const char *stage)
{
	return strcmp(stage, state_name(task->state)) == 0 ||
		(task->state == TASK_LEASED && strcmp(stage, "running") == 0);
}

static bool is_requested_by(const struct task *task, const struct filter *filter,
	struct croft_arena *arena)
{
	const Reapi__RequestMetadata *metadata = croft_message_decode(
		&reapi__request_metadata__descriptor, task->request_metadata, arena, NULL, NULL);
	return metadata && (!filter->build || strcmp(metadata->tool_invocation_id, filter->build) == 0) &&
		(!filter->target || strcmp(metadata->target_id, filter->target) == 0);
}

static bool passes(const struct task *task, const struct filter *filter, struct croft_arena *arena)
{
	char action[CROFT_HASH_TEXT];
	croft_hash_format(task->action.hash, action);
	return (!filter->stage || has_stage(task, filter->stage)) &&
		(!filter->agent || (task->agent_id && strcmp(task->agent_id, filter->agent) == 0)) &&
		(!filter->instance || strcmp(task->instance_name, filter->instance) == 0) &&
		(!filter->action || strcmp(action, filter->action) == 0) &&
		((!filter->build && !filter->target) || is_requested_by(task, filter, arena));
}

static bool list_operations(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_sched *sched = user;
	const Longrunning__ListOperationsRequest *request = croft_call_request(call);
	struct croft_arena *arena = croft_call_arena(call);
	struct filter filter;
	if (!parse_filter(request->filter, &filter, arena, err))
		return false;
	char *end;
	errno = 0;
	/* A page goes on behind a bucket of names, so that it stays right while operations come and go. */
	unsigned long bucket = strtoul(request->page_token, &end, 10);
	if (errno || *end || bucket >= BUCKETS)
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "page_token '%s' is not from this server", request->page_token);
	size_t most = request->page_size > 0 ? (size_t)request->page_size : PAGE_SIZE;
	if (most > PAGE_MOST)
		most = PAGE_MOST;
	Longrunning__ListOperationsResponse response = LONGRUNNING__LIST_OPERATIONS_RESPONSE__INIT;
	Longrunning__Operation **list = NULL;
	size_t room = 0;
	sched_lock(sched);
	for (; bucket < BUCKETS && response.n_operations < most; bucket++) {
		struct operation *operation;
		LIST_FOREACH (operation, &sched->names[bucket], name_link) {
			if (!passes(operation->task, &filter, arena))
				continue;
			if (response.n_operations == room)
				list = croft_realloc(list, room = room * 2 + 16, sizeof(*list));
			list[response.n_operations++] = operation_message(operation, arena);
		}
	}
	sched_unlock(sched);
	response.operations = list;
	if (bucket < BUCKETS)
		response.next_page_token = croft_arena_printf(arena, "%lu", bucket);
	bool ok = croft_call_write(call, &response.base, err);
	free(list);
	return ok;
}

static bool cancel_operation(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_sched *sched = user;
	const Longrunning__CancelOperationRequest *request = croft_call_request(call);
	sched_lock(sched);
	struct operation *operation = find(sched, request->name, err);
	if (operation)
		operation_cancel(sched, operation);
	sched_unlock(sched);
	Google__Protobuf__Empty empty = GOOGLE__PROTOBUF__EMPTY__INIT;
	return operation && croft_call_write(call, &empty.base, err);
}

/* The client will not ask for it again; the task goes on for others. */
static bool delete_operation(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_sched *sched = user;
	const Longrunning__DeleteOperationRequest *request = croft_call_request(call);
	sched_lock(sched);
	struct operation *operation = find(sched, request->name, err);
	bool done = operation && operation->task->announced == TASK_COMPLETED;
	if (done)
		operation_delete(sched, operation);
	sched_unlock(sched);
	if (!operation)
		return false;
	if (!done)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"operation '%s' is not done: cancel it first", request->name);
	Google__Protobuf__Empty empty = GOOGLE__PROTOBUF__EMPTY__INIT;
	return croft_call_write(call, &empty.base, err);
}

static bool wait_operation(struct croft_call *call, void *user, struct croft_error *err)
{
	return croft_error_set(err, CROFT_UNIMPLEMENTED,
		"WaitOperation is not offered: use Execution.WaitExecution, which streams");
}

#define SERVICE "/google.longrunning.Operations/"

const struct croft_rpc_method operations_methods[5] = {
	{SERVICE "GetOperation", CROFT_RPC_UNARY, &longrunning__get_operation_request__descriptor,
		&longrunning__operation__descriptor, get_operation, false},
	{SERVICE "ListOperations", CROFT_RPC_UNARY, &longrunning__list_operations_request__descriptor,
		&longrunning__list_operations_response__descriptor, list_operations, false},
	{SERVICE "CancelOperation", CROFT_RPC_UNARY, &longrunning__cancel_operation_request__descriptor,
		&google__protobuf__empty__descriptor, cancel_operation, false},
	{SERVICE "DeleteOperation", CROFT_RPC_UNARY, &longrunning__delete_operation_request__descriptor,
		&google__protobuf__empty__descriptor, delete_operation, false},
	{SERVICE "WaitOperation", CROFT_RPC_UNARY, &longrunning__wait_operation_request__descriptor,
		&longrunning__operation__descriptor, wait_operation, false},
};
