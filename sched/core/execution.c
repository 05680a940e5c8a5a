/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * build.bazel.remote.execution.v2.Execution: Execute and WaitExecution.
 */
#include "sched/core/core.h"

#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "fs/action_result.h"
#include "fs/private.h"
#include "proto/base/io.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#define REQUEST_METADATA "build.bazel.remote.execution.v2.requestmetadata-bin"
/* BuildGrid's: a message whose only meaning here is that equal ones belong together. */
#define LOCALITY_HINT "build.buildgrid.schedulingmetadata-bin"
/* With "yes" an Execute call takes the result of a run that failed, too, instead of another run. */
#define FAILED_RESULTS "croft-failed-results"

/* An Execute call on its way to a task. Everything in the call's arena. */
struct execution {
	struct croft_sched *sched;
	struct croft_call *call;
	const Reapi__ExecuteRequest *request;
	struct croft_digest action_digest, command_digest, input_root;
	struct croft_arena *read; /* what follows */
	const Reapi__Action *action;
	const Reapi__Command *command;
	struct croft_placement_input *inputs; /* owned */
	size_t input_count;
};

static struct croft_slice tenant(const struct execution *execution)
{
	return croft_tenant(execution->sched->config.private_blobs,
		croft_slice_str(execution->request->instance_name));
}

/* It takes the result of another run. */
static bool may_share(const struct execution *execution)
{
	return !execution->request->skip_cache_lookup && !execution->action->do_not_cache;
}

static int32_t keep_priority(const Reapi__ExecuteRequest *request)
{
	return request->results_cache_policy ? request->results_cache_policy->priority : 0;
}

/* Missing blobs --------------------------------------------------------------------------------- */

/* FAILED_PRECONDITION with one MISSING violation per digest, so that the client uploads them. */
static bool fail_missing(struct croft_call *call, const struct croft_digest *missing, size_t count,
	struct croft_error *err)
{
	struct croft_arena *arena = croft_call_arena(call);
	GoogleRpc__PreconditionFailure failure = GOOGLE_RPC__PRECONDITION_FAILURE__INIT;
	failure.violations = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++) {
		char text[CROFT_DIGEST_TEXT];
		croft_digest_format(&missing[i], '/', text);
		GoogleRpc__PreconditionFailure__Violation *violation =
			croft_arena_alloc(arena, sizeof(*violation));
		google_rpc__precondition_failure__violation__init(violation);
		violation->type = (char *)"MISSING";
		violation->subject = croft_arena_printf(arena, "blobs/%s", text);
		failure.violations[failure.n_violations++] = violation;
	}
	croft_call_add_detail(call, &failure.base);
	return croft_error_set(err, CROFT_FAILED_PRECONDITION,
		"%zu blob%s of the action missing from the store, the first: %s; upload and try again", count,
		count == 1 ? " is" : "s are", failure.violations[0]->subject);
}

static void *read_message(struct execution *execution, const struct croft_digest *digest,
	const ProtobufCMessageDescriptor *type, const char *what, struct croft_error *err)
{
	struct croft_slice bytes = CROFT_SLICE("", 0);
	struct croft_error failed = CROFT_ERROR_INIT;
	struct croft_store *store = execution->sched->store;
	if (!croft_digest_is_empty(digest) &&
		(!croft_store_check_visible(store, tenant(execution), digest, &failed) ||
			!croft_store_get(store, digest, croft_call_arena(execution->call), &bytes, &failed))) {
		if (failed.code == CROFT_NOT_FOUND || failed.code == CROFT_DATA_LOSS)
			fail_missing(execution->call, digest, 1, err);
		else
			*err = failed;
		croft_error_wrap(err, "reading the %s", what);
		return NULL;
	}
	void *message = croft_message_decode(type, bytes, execution->read, NULL, err);
	if (!message)
		croft_error_wrap(err, "the %s", what);
	return message;
}

/* Checks ----------------------------------------------------------------------------------------- */

static bool check_path(const char *path, const char *what, struct croft_error *err)
{
	if (path[0] == '/')
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "the Command's %s '%s' is absolute: it must be relative", what,
			path);
	return true;
}

static bool check_command(const Reapi__Command *command, struct croft_error *err)
{
	if (command->n_arguments == 0 || command->arguments[0][0] == '\0')
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "the Command has no arguments: there is nothing to run");
	if (!check_path(command->working_directory, "working_directory", err))
		return false;
	for (size_t i = 0; i < command->n_output_paths; i++)
		if (!check_path(command->output_paths[i], "output path", err))
			return false;
	for (size_t i = 0; i < command->n_output_files; i++)
		if (!check_path(command->output_files[i], "output file", err))
			return false;
	for (size_t i = 0; i < command->n_output_directories; i++)
		if (!check_path(command->output_directories[i], "output directory", err))
			return false;
	for (size_t i = 0; i < command->n_environment_variables; i++)
		if (command->environment_variables[i]->name[0] == '\0' ||
			strchr(command->environment_variables[i]->name, '='))
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"the Command's environment variable %zu has the name '%s'", i,
				command->environment_variables[i]->name);
	return true;
}

static bool read_action(struct execution *execution, struct croft_error *err)
{
	const Reapi__ExecuteRequest *request = execution->request;
	if (request->digest_function != REAPI__DIGEST_FUNCTION__VALUE__UNKNOWN &&
		request->digest_function != REAPI__DIGEST_FUNCTION__VALUE__SHA256)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"digest function %d is not supported: this server takes SHA256 (1)",
			request->digest_function);
	if (!croft_digest_from_message(
			request->action_digest, "action_digest", &execution->action_digest, err))
		return false;
	execution->action = read_message(
		execution, &execution->action_digest, &reapi__action__descriptor, "Action", err);
	if (!execution->action ||
		!croft_digest_from_message(execution->action->command_digest, "the Action's command_digest",
			&execution->command_digest, err) ||
		!croft_digest_from_message(execution->action->input_root_digest,
			"the Action's input_root_digest", &execution->input_root, err))
		return false;
	execution->command = read_message(
		execution, &execution->command_digest, &reapi__command__descriptor, "Command", err);
	return execution->command && check_command(execution->command, err);
}

static bool timeout_of(const struct execution *execution, uint64_t *timeout_ms,
	struct croft_error *err)
{
	const struct croft_sched_config *config = &execution->sched->config;
	const Google__Protobuf__Duration *asked = execution->action->timeout;
	*timeout_ms = config->default_timeout_ms;
	if (asked) {
		if (asked->seconds < 0 || asked->nanos < 0)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT, "the Action's timeout is negative");
		*timeout_ms = (uint64_t)asked->seconds * 1000 + (uint64_t)asked->nanos / 1000000;
	}
	if (config->max_timeout_ms && *timeout_ms > config->max_timeout_ms)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the Action's timeout of %" PRIu64 " ms is over this server's cap of %" PRIu64 " ms",
			*timeout_ms, config->max_timeout_ms);
	return true;
}

/* Cached results ---------------------------------------------------------------------------------- */

static struct croft_slice action_key(struct execution *execution)
{
	struct croft_arena *arena = croft_call_arena(execution->call);
	const char *instance = execution->request->instance_name;
	size_t size = strlen(instance) + 1 + 64;
	char *key = croft_arena_alloc(arena, size + 1);
	strcpy(key, instance);
	croft_hash_format(execution->action_digest.hash, key + strlen(instance) + 1);
	return CROFT_SLICE(key, size);
}

/* Failures are remembered apart, and are no answer but for who asks for them. */
static bool find_result(struct execution *execution, struct croft_slice *value,
	struct croft_error *err)
{
	struct croft_arena *arena = croft_call_arena(execution->call);
	struct croft_store *store = execution->sched->store;
	struct croft_upstream *upstream = execution->sched->upstream;
	struct croft_slice key = action_key(execution);
	if (croft_store_record_get(store, CROFT_RECORD_ACTION, key, arena, value, err))
		return croft_store_grant_record(store, tenant(execution), CROFT_RECORD_ACTION, key, err);
	if (upstream && err->code == CROFT_NOT_FOUND) {
		croft_upstream_bring_result(
			upstream, execution->request->instance_name, &execution->action_digest);
		*err = CROFT_ERROR_INIT;
		if (croft_store_record_get(store, CROFT_RECORD_ACTION, key, arena, value, err))
			return true;
	}
	if (err->code != CROFT_NOT_FOUND ||
		!croft_slice_equal(croft_call_header(execution->call, FAILED_RESULTS), croft_slice_str("yes")))
		return false;
	*err = CROFT_ERROR_INIT;
	return croft_store_record_get(store, CROFT_RECORD_FAILURE, key, arena, value, err) &&
		croft_store_grant_record(store, tenant(execution), CROFT_RECORD_FAILURE, key, err);
}

/* Who takes it may want it kept for longer. */
static void prefer_result(struct execution *execution, const Reapi__ActionResult *result)
{
	struct croft_ref *refs;
	size_t count;
	if (keep_priority(execution->request) < 0 &&
		croft_action_result_refs(result, croft_call_arena(execution->call), &refs, &count, NULL))
		croft_action_result_prefer(execution->sched->store, keep_priority(execution->request), refs, count);
}

/* 1: answered from the cache. 0: not there. -1: an error. */
static int answer_from_cache(struct execution *execution, struct croft_error *err)
{
	struct croft_arena *arena = croft_call_arena(execution->call);
	struct croft_slice value;
	struct croft_error failed = CROFT_ERROR_INIT;
	if (!find_result(execution, &value, &failed)) {
		if (failed.code == CROFT_NOT_FOUND)
			return 0;
		*err = failed;
		return -1;
	}
	Reapi__ActionResult *result =
		croft_message_decode(&reapi__action_result__descriptor, value, arena, NULL, err);
	if (!result)
		return -1;
	prefer_result(execution, result);
	struct task task = {.announced = TASK_COMPLETED, .action = execution->action_digest};
	struct operation operation = {.task = &task};
	make_name(operation.name);
	Reapi__ExecuteResponse response = REAPI__EXECUTE_RESPONSE__INIT;
	GoogleRpc__Status ok = GOOGLE_RPC__STATUS__INIT;
	response.status = &ok;
	response.result = result;
	response.cached_result = true;
	task.response = croft_message_encode(&response.base, arena);
	Longrunning__Operation *message = operation_message(&operation, arena);
	sched_lock(execution->sched);
	execution->sched->hit_count++;
	sched_unlock(execution->sched);
	return croft_call_write(execution->call, &message->base, err) ? 1 : -1;
}

/* Tasks -------------------------------------------------------------------------------------------- */

/* To name a digest in an input root is not to have the blob. */
static bool are_visible(struct execution *execution, const struct croft_ref *refs, size_t count,
	struct croft_hold **hold, struct croft_error *err)
{
	struct croft_digest *hidden;
	size_t hidden_count;
	bool ok = croft_store_hidden(execution->sched->store, tenant(execution), refs, count,
		croft_call_arena(execution->call), &hidden, &hidden_count, err);
	if (ok && hidden_count > 0)
		ok = fail_missing(execution->call, hidden, hidden_count, err);
	if (ok)
		return true;
	croft_store_release(*hold);
	*hold = NULL;
	return false;
}

/* The inputs are there and stay there until the task ends. */
static bool hold_inputs(struct execution *execution, struct croft_hold **hold,
	struct croft_error *err)
{
	struct croft_store *store = execution->sched->store;
	struct croft_ref refs[] = {{CROFT_REF_BLOB, execution->action_digest},
		{CROFT_REF_BLOB, execution->command_digest},
		{CROFT_REF_DIRECTORY, execution->input_root}};
	/* Held in memory, and taken anew when the journal brings the task back; the store's keeper writes
	 * leases of what is held for long. So nothing need be written here when all is there. */
	struct croft_error absent = CROFT_ERROR_INIT;
	*hold = croft_store_hold(store, refs, 3, &absent);
	if (*hold)
		return are_visible(execution, refs, 3, hold, err);
	if (absent.code != CROFT_FAILED_PRECONDITION) {
		*err = absent;
		return croft_error_wrap(err, "looking for the action's inputs");
	}
	struct croft_digest *missing;
	size_t missing_count;
	if (!croft_upstream_lease_closure(execution->sched->upstream, store, refs, 3, 0,
			croft_call_arena(execution->call), &missing, &missing_count, err))
		return croft_error_wrap(err, "looking for the action's inputs");
	if (missing_count > 0)
		return fail_missing(execution->call, missing, missing_count, err);
	*hold = croft_store_hold(store, refs, 3, err);
	return *hold && are_visible(execution, refs, 3, hold, err);
}

static char *describe(const Reapi__Command *command)
{
	char *text;
	const char *output = command->n_output_paths ? command->output_paths[0]
		: command->n_output_files                ? command->output_files[0]
												 : "";
	if (asprintf(&text, "%.60s%s%.60s", command->arguments[0], *output ? " → " : "", output) < 0)
		abort();
	return text;
}

/* The lock is held. */
static struct task *new_task(struct execution *execution, struct croft_hold *hold,
	uint64_t timeout_ms)
{
	struct croft_sched *sched = execution->sched;
	const Reapi__ExecuteRequest *request = execution->request;
	struct task *task = task_create(sched, request->instance_name, &execution->action_digest);
	task->command = execution->command_digest;
	task->input_root = execution->input_root;
	task->inputs = execution->inputs;
	task->input_count = execution->input_count;
	execution->inputs = NULL;
	task->class = class_of(sched,
		execution->action->platform ? execution->action->platform : execution->command->platform);
	task->priority = request->execution_policy ? request->execution_policy->priority : 0;
	task->keep_priority = keep_priority(request);
	task->do_not_cache = execution->action->do_not_cache;
	task->may_merge = !execution->action->do_not_cache;
	task->timeout_ms = timeout_ms;
	task->queued_unix_ns = croft_unix_ns();
	task->hold = hold;
	task->description = describe(execution->command);
	struct croft_slice metadata = croft_call_header(execution->call, REQUEST_METADATA);
	if (metadata.size) {
		void *copy = croft_alloc(metadata.size);
		memcpy(copy, metadata.data, metadata.size);
		task->request_metadata = CROFT_SLICE(copy, metadata.size);
	}
	struct croft_slice hint = croft_call_header(execution->call, LOCALITY_HINT);
	if (hint.size)
		task->hint = XXH3_64bits(hint.data, hint.size) | 1;
	return task;
}

static struct waiter *park(struct croft_sched *sched, struct croft_call *call)
{
	struct waiter *waiter = croft_zalloc(sizeof(*waiter));
	waiter->sched = sched;
	waiter->call = croft_call_ref(call);
	croft_call_park(call, &(struct croft_parked){.on_closed = waiter_closed, .user = waiter});
	return waiter;
}

static bool queue_is_full(struct croft_sched *sched)
{
	SCHED_LOCKED(sched);
	return sched->queued >= sched->config.queue_limit;
}

static bool fail_full(struct croft_call *call, const char *what, size_t limit,
	struct croft_error *err)
{
	GoogleRpc__RetryInfo retry = GOOGLE_RPC__RETRY_INFO__INIT;
	Google__Protobuf__Duration delay = GOOGLE__PROTOBUF__DURATION__INIT;
	delay.seconds = 5;
	retry.retry_delay = &delay;
	croft_call_add_detail(call, &retry.base);
	return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
		"%s is full (%zu operations): try again later", what, limit);
}

/* So that nothing is read twice for a job that goes to its agent at once; others may wait for long. */
static void give_read(struct execution *execution, struct task *task)
{
	if (task->state != TASK_LEASED)
		return;
	task->read = croft_arena_alloc(execution->read, sizeof(*task->read));
	*task->read = (struct action_read){execution->read, execution->action, execution->command};
	execution->read = NULL;
}

/* Takes the lock, and then returns 0 with a task to be joined, or NULL. Otherwise the same action ended since the action
 * cache was asked: its answer. */
static int lock_and_find(struct execution *execution, struct task **task, struct croft_error *err)
{
	struct croft_sched *sched = execution->sched;
	const char *instance_name = execution->request->instance_name;
	*task = NULL;
	sched_lock(sched);
	if (!may_share(execution))
		return 0;
	*task = find_mergeable(sched, instance_name, &execution->action_digest);
	if (*task || !find_ended(sched, instance_name, &execution->action_digest))
		return 0;
	sched_unlock(sched);
	int answered = answer_from_cache(execution, err);
	if (answered != 0)
		return answered;
	sched_lock(sched);
	*task = find_mergeable(sched, instance_name, &execution->action_digest);
	return 0;
}

/* Joins the same action in flight, or becomes a task. */
static bool enqueue(struct execution *execution, struct croft_error *err)
{
	struct croft_sched *sched = execution->sched;
	uint64_t timeout_ms;
	struct croft_hold *hold = NULL;
	if (!timeout_of(execution, &timeout_ms, err) || !hold_inputs(execution, &hold, err))
		return false;
	if (queue_is_full(sched)) {
		croft_store_release(hold);
		return fail_full(execution->call, "the queue", sched->config.queue_limit, err);
	}
	execution->inputs = placed_inputs(sched, &execution->input_root, &execution->input_count);
	/* A worker's thread may see the stream close before the operation has its waiter: the lock orders
	 * the two, since waiter_closed takes it. */
	struct task *task;
	int answered = lock_and_find(execution, &task, err);
	if (answered != 0) {
		croft_store_release(hold);
		free(execution->inputs);
		return answered > 0;
	}
	bool merged = task != NULL;
	if (!merged)
		task = new_task(execution, hold, timeout_ms);
	if (!merged && placed_of_tenant(sched, task) >= sched->config.tenant_limit) {
		task_free(sched, task);
		sched_unlock(sched);
		free(execution->inputs);
		return fail_full(
			execution->call, "the queue of this build", sched->config.tenant_limit, err);
	}
	struct operation *operation = task_add_operation(sched, task, NULL);
	operation->joining = merged;
	waiter_add(park(sched, execution->call), operation);
	if (merged) {
		if (task->keep_priority > keep_priority(execution->request))
			task->keep_priority = keep_priority(execution->request);
		operation_write_down(sched, operation);
	} else {
		task_enqueue(sched, task);
		dispatch(sched);
		give_read(execution, task);
	}
	sched_unlock(sched);
	if (merged)
		croft_store_release(hold);
	free(execution->inputs);
	return true;
}

static bool execute_read(struct execution *execution, struct croft_error *err)
{
	if (!read_action(execution, err))
		return false;
	if (may_share(execution)) {
		int answered = answer_from_cache(execution, err);
		if (answered != 0)
			return answered > 0;
	}
	return enqueue(execution, err);
}

static bool execute(struct croft_call *call, void *user, struct croft_error *err)
{
	struct execution execution = {.sched = user, .call = call, .request = croft_call_request(call),
		.read = croft_arena_create()};
	bool ok = execute_read(&execution, err);
	croft_arena_destroy(execution.read);
	return ok;
}

static bool wait_execution(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_sched *sched = user;
	const Reapi__WaitExecutionRequest *request = croft_call_request(call);
	SCHED_LOCKED(sched);
	struct operation *operation = find_operation(sched, request->name);
	if (!operation)
		return croft_error_set(err, CROFT_NOT_FOUND,
			"there is no operation '%s': it ended more than an hour ago, or never was", request->name);
	if (operation->task->abandoned)
		return croft_error_set(err, CROFT_NOT_FOUND,
			"operation '%s' is given up, since nobody waited for it: call Execute again", request->name);
	waiter_add(park(sched, call), operation);
	return true;
}

#define SERVICE "/build.bazel.remote.execution.v2.Execution/"

const struct croft_rpc_method execution_methods[2] = {
	{SERVICE "Execute", CROFT_RPC_SERVER_STREAM, &reapi__execute_request__descriptor,
		&longrunning__operation__descriptor, execute, false},
	{SERVICE "WaitExecution", CROFT_RPC_SERVER_STREAM, &reapi__wait_execution_request__descriptor,
		&longrunning__operation__descriptor, wait_execution, false},
};
