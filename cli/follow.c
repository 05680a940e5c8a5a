/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/follow.h"

#include "cli/livelog.h"
#include "cli/output.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include "google/longrunning/operations.pb-c.h"
#include "google/rpc/error_details.pb-c.h"

#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/random.h>
#include <time.h>

#define EXECUTION "/build.bazel.remote.execution.v2.Execution/"

struct follower {
	const struct follow_request *request;
	struct croft_arena *arena; /* what is kept to the end */
	struct livelog *output, *errors;
	struct croft_slice metadata; /* the RequestMetadata header */
	uint64_t heard_ns;         /* when the server last answered */
	bool ended;
	const Reapi__ExecuteResponse *response;
	struct croft_error failure; /* of the operation, when it ended without a response */

	bool cancelling;           /* canceller runs, or did */
	pthread_t canceller;
	atomic_bool cancel_sent;   /* and understood */

	pthread_mutex_t lock;      /* guards: operation, stream, over */
	pthread_cond_t named;      /* operation is known now, or never will be; by the monotonic clock */
	bool over;
	char *operation;           /* its name, once it is known */
	struct croft_stream *stream;
};

/* Cancelling ---------------------------------------------------------------------------------- */

enum { CANCEL_MS = 5000 };

static atomic_int signalled;
static pthread_mutex_t current_lock = PTHREAD_MUTEX_INITIALIZER; /* guards: current */
static struct follower *current; /* what a signal cancels; NULL: it ends the process */

int follow_cancelled(void)
{
	return atomic_load(&signalled);
}

static void cancel_operation(struct follower *follower)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Longrunning__CancelOperationRequest request = LONGRUNNING__CANCEL_OPERATION_REQUEST__INIT;
	char *name = NULL;
	pthread_mutex_lock(&follower->lock);
	if (follower->operation)
		name = croft_arena_strdup(arena, follower->operation);
	pthread_mutex_unlock(&follower->lock);
	if (!name)
		return;
	request.name = name;
	struct croft_call_options options = {.timeout_ms = CANCEL_MS};
	struct croft_error err = CROFT_ERROR_INIT;
	if (croft_unary(follower->request->client->channel, &options,
		    "/google.longrunning.Operations/CancelOperation", &request.base,
		    &google__protobuf__empty__descriptor, arena, &err))
		atomic_store(&follower->cancel_sent, true);
	else
		warn("cancelling %s: %s", name, err.message);
}

/* Without a name nothing can be cancelled: were the call just ended, the server would run the job for nobody. False:
 * there is none yet, and whoever hears of it cancels (take_operation); or none came. */
static bool is_named(struct follower *follower)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += CANCEL_MS / 1000;
	CROFT_LOCKED(&follower->lock);
	if (follower->operation)
		return true;
	int waited = 0;
	while (!follower->operation && !follower->over && waited == 0)
		waited = pthread_cond_timedwait(&follower->named, &follower->lock, &until);
	if (!follower->operation && follower->stream)
		croft_stream_cancel(follower->stream);
	return false;
}

static void *cancel_once(void *user)
{
	if (is_named(user))
		cancel_operation(user);
	return NULL;
}

/* The call to cancel has a thread of its own, so that the next signal is heard at once. */
static void *wait_for_signals(void *user)
{
	const sigset_t *set = user;
	for (int number; sigwait(set, &number) == 0;) {
		pthread_mutex_lock(&current_lock);
		if (!current || atomic_load(&signalled)) {
			progress_clear();
			_exit(128 + number);
		}
		atomic_store(&signalled, number);
		progress_clear();
		fputs("croft run: cancelling the job; once more leaves at once\n", stderr);
		current->cancelling =
			pthread_create(&current->canceller, NULL, cancel_once, current) == 0;
		pthread_mutex_unlock(&current_lock);
	}
	return NULL;
}

void follow_catch_signals(void)
{
	static sigset_t set;
	pthread_t thread;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (pthread_create(&thread, NULL, wait_for_signals, &set) == 0)
		pthread_detach(thread);
	else
		pthread_sigmask(SIG_UNBLOCK, &set, NULL); /* they end the process, then */
}

static void set_current(struct follower *follower)
{
	pthread_mutex_lock(&current_lock);
	struct follower *before = current;
	current = follower;
	pthread_mutex_unlock(&current_lock);
	if (before && before->cancelling)
		pthread_join(before->canceller, NULL);
}

/* What the server says ------------------------------------------------------------------------ */

static bool is_type(const Google__Protobuf__Any *any, const ProtobufCMessageDescriptor *type)
{
	const char *slash = any ? strrchr(any->type_url, '/') : NULL;
	return any && !strcmp(slash ? slash + 1 : any->type_url, type->name);
}

static void *unpack(const Google__Protobuf__Any *any, const ProtobufCMessageDescriptor *type,
	struct croft_arena *arena, struct croft_error *err)
{
	if (is_type(any, type))
		return croft_message_decode(type, CROFT_SLICE(any->value.data, any->value.len), arena, NULL,
			err);
	croft_error_set(err, CROFT_INTERNAL, "the server sent %s where %s belongs",
		any ? any->type_url : "nothing", type->name);
	return NULL;
}

static void show_stage(const Reapi__ExecuteOperationMetadata *metadata)
{
	const Reapi__ExecutedActionMetadata *partial = metadata->partial_execution_metadata;
	const char *worker = partial && *partial->worker ? partial->worker : NULL;
	if (metadata->stage == REAPI__EXECUTION_STAGE__VALUE__QUEUED)
		progress("queued");
	else if (metadata->stage == REAPI__EXECUTION_STAGE__VALUE__EXECUTING)
		progress("running%s%s", worker ? " on " : "", worker ? worker : "");
}

static bool take_metadata(struct follower *follower, const Google__Protobuf__Any *any,
	struct croft_arena *arena, struct croft_error *err)
{
	if (!any)
		return true;
	const Reapi__ExecuteOperationMetadata *metadata =
		unpack(any, &reapi__execute_operation_metadata__descriptor, arena, err);
	if (!metadata)
		return false;
	show_stage(metadata);
	livelog_begin(follower->output, metadata->stdout_stream_name);
	livelog_begin(follower->errors, metadata->stderr_stream_name);
	return true;
}

static bool take_end(struct follower *follower, const Longrunning__Operation *operation,
	struct croft_error *err)
{
	follower->ended = true;
	if (operation->result_case == LONGRUNNING__OPERATION__RESULT_ERROR) {
		const char *message = operation->error->message;
		croft_error_set(&follower->failure, (enum croft_code)operation->error->code, "%s",
			*message ? message : "the operation failed without saying why");
		return true;
	}
	follower->response =
		unpack(operation->response, &reapi__execute_response__descriptor, follower->arena, err);
	return follower->response != NULL;
}

static bool take_operation(struct follower *follower, const Longrunning__Operation *operation,
	struct croft_arena *arena, struct croft_error *err)
{
	pthread_mutex_lock(&follower->lock);
	if (!follower->operation)
		follower->operation = croft_strdup(operation->name);
	pthread_cond_signal(&follower->named);
	pthread_mutex_unlock(&follower->lock);
	if (operation->done)
		return take_end(follower, operation, err);
	/* The signal came before there was a name, or the server was away just then. */
	if (follow_cancelled() && !atomic_load(&follower->cancel_sent))
		cancel_operation(follower);
	return take_metadata(follower, operation->metadata, arena, err);
}

/* Staying with it ----------------------------------------------------------------------------- */

static struct croft_stream *open_stream(struct follower *follower, struct croft_error *err)
{
	const struct follow_request *request = follower->request;
	struct croft_metadata header = {
		"build.bazel.remote.execution.v2.requestmetadata-bin", follower->metadata};
	struct croft_call_options options = {.metadata = &header, .metadata_count = 1};
	const char *method = follower->operation ? EXECUTION "WaitExecution" : EXECUTION "Execute";
	struct croft_stream *stream = croft_stream_open(request->client->channel, &options, method,
		&longrunning__operation__descriptor, err);
	if (!stream)
		return NULL;
	bool sent;
	if (follower->operation) {
		Reapi__WaitExecutionRequest wait = REAPI__WAIT_EXECUTION_REQUEST__INIT;
		wait.name = follower->operation;
		sent = croft_stream_write(stream, &wait.base, err);
	} else {
		CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
		Reapi__ExecuteRequest execute = REAPI__EXECUTE_REQUEST__INIT;
		Reapi__ExecutionPolicy policy = REAPI__EXECUTION_POLICY__INIT;
		policy.priority = request->priority;
		execute.instance_name = (char *)request->client->instance;
		execute.skip_cache_lookup = request->skip_cache;
		execute.action_digest = croft_digest_to_message(&request->action, arena);
		execute.execution_policy = request->priority ? &policy : NULL;
		execute.inline_stdout = execute.inline_stderr = true;
		sent = croft_stream_write(stream, &execute.base, err);
	}
	/* When the server refuses, writing may fail without the reason: reading brings it. */
	if (sent)
		croft_stream_close_write(stream, NULL);
	return stream;
}

static bool read_stream(struct follower *follower, struct croft_stream *stream,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	while (!follower->ended) {
		void *message;
		croft_arena_reset(arena);
		int got = croft_stream_read(stream, arena, &message, err);
		if (got < 0)
			return false;
		if (got == 0)
			return croft_error_set(err, CROFT_UNAVAILABLE,
				"the server ended the stream before the operation was done");
		follower->heard_ns = croft_now_ns();
		if (!take_operation(follower, message, arena, err))
			return false;
	}
	return true;
}

static bool attempt(struct follower *follower, struct croft_error *err)
{
	struct croft_stream *stream = open_stream(follower, err);
	if (!stream)
		return false;
	pthread_mutex_lock(&follower->lock);
	follower->stream = stream;
	pthread_mutex_unlock(&follower->lock);
	bool ok = read_stream(follower, stream, err);
	pthread_mutex_lock(&follower->lock);
	follower->stream = NULL;
	pthread_mutex_unlock(&follower->lock);
	croft_stream_destroy(stream);
	return ok;
}

static bool may_try_again(struct follower *follower, const struct croft_error *err)
{
	if (follow_cancelled() && !follower->operation)
		return false;
	if (err->code == CROFT_NOT_FOUND && follower->operation) {
		/* The server does not know the operation any more: it is begun anew, or its result is
		 * in the action cache by now. */
		warn("the server lost the operation; asking for it again");
		pthread_mutex_lock(&follower->lock);
		free(follower->operation);
		follower->operation = NULL;
		pthread_mutex_unlock(&follower->lock);
		return true;
	}
	return err->code == CROFT_UNAVAILABLE &&
		croft_now_ns() - follower->heard_ns < follower->request->patience_ms * 1000000u;
}

static bool follow_to_end(struct follower *follower, struct croft_error *err)
{
	uint64_t pause_ms = 100;
	for (;;) {
		struct croft_error failure = CROFT_ERROR_INIT;
		uint64_t heard = follower->heard_ns;
		if (attempt(follower, &failure))
			return true;
		if (!may_try_again(follower, &failure)) {
			if (err)
				*err = failure;
			return false;
		}
		progress("waiting for the server: %s", failure.message);
		pause_ms = follower->heard_ns != heard ? 100 : pause_ms * 2 < 2000 ? pause_ms * 2 : 2000;
		nanosleep(&(struct timespec){(time_t)(pause_ms / 1000), (long)(pause_ms % 1000) * 1000000},
			NULL);
	}
}

/* --------------------------------------------------------------------------------------------- */

static struct croft_slice request_metadata(const struct follow_request *request,
	struct croft_arena *arena)
{
	Reapi__ToolDetails tool = REAPI__TOOL_DETAILS__INIT;
	tool.tool_name = (char *)"croft";
	tool.tool_version = (char *)CROFT_VERSION;
	unsigned char random[16];
	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		abort();
	char hex[33];
	for (size_t i = 0; i < 16; i++)
		snprintf(hex + 2 * i, 3, "%02x", random[i]);
	char action[CROFT_HASH_TEXT];
	croft_hash_format(request->action.hash, action);
	Reapi__RequestMetadata metadata = REAPI__REQUEST_METADATA__INIT;
	metadata.tool_details = &tool;
	metadata.tool_invocation_id = hex;
	metadata.action_id = action;
	if (request->kind)
		metadata.action_mnemonic = (char *)request->kind;
	return croft_message_encode(&metadata.base, arena);
}

/* What the job wrote and was not yet passed on. */
static bool pass_on_rest(struct follower *follower, struct croft_error *err)
{
	const Reapi__ActionResult *result = follower->response ? follower->response->result : NULL;
	static const Reapi__ActionResult none = REAPI__ACTION_RESULT__INIT;
	if (!result)
		result = &none;
	struct croft_slice output = {result->stdout_raw.data, result->stdout_raw.len};
	struct croft_slice errors = {result->stderr_raw.data, result->stderr_raw.len};
	bool ok = livelog_finish(follower->output, result->stdout_digest, output, err);
	return livelog_finish(follower->errors, result->stderr_digest, errors, ok ? err : NULL) && ok;
}

static void begin_follower(struct follower *follower)
{
	pthread_condattr_t attributes;
	pthread_mutex_init(&follower->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&follower->named, &attributes);
	pthread_condattr_destroy(&attributes);
	set_current(follower);
}

static void end_follower(struct follower *follower)
{
	pthread_mutex_lock(&follower->lock);
	follower->over = true;
	pthread_cond_signal(&follower->named);
	pthread_mutex_unlock(&follower->lock);
	set_current(NULL);
	pthread_cond_destroy(&follower->named);
	pthread_mutex_destroy(&follower->lock);
}

bool follow(const struct follow_request *request, struct croft_arena *arena,
	struct follow_result *result, struct croft_error *err)
{
	struct follower follower = {
		.request = request,
		.arena = arena,
		.output = livelog_create(request->client, request->output_fd, "stdout"),
		.errors = livelog_create(request->client, request->error_fd, "stderr"),
		.metadata = request_metadata(request, arena),
		.heard_ns = croft_now_ns(),
		.failure = CROFT_ERROR_INIT,
	};
	begin_follower(&follower);
	bool ok = follow_to_end(&follower, err);
	if (ok && !follower.response) {
		if (err)
			*err = follower.failure;
		ok = false;
	}
	progress_clear();
	struct croft_error rest = CROFT_ERROR_INIT;
	if (!pass_on_rest(&follower, &rest) && ok) {
		/* Why a job did not run to its end is what its user has to hear. */
		ok = follower.response->status && follower.response->status->code != CROFT_OK;
		if (ok)
			warn("%s", rest.message);
		else if (err)
			*err = rest;
	}
	end_follower(&follower);
	result->operation = croft_arena_strdup(arena, follower.operation ? follower.operation : "");
	result->response = follower.response;
	free(follower.operation);
	livelog_destroy(follower.output);
	livelog_destroy(follower.errors);
	return ok;
}
