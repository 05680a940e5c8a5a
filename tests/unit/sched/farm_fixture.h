/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A scheduler over gRPC on the loopback, clients of it, and agents that do what a test tells them. */
#ifndef CROFT_TESTS_UNIT_SCHED_FARM_FIXTURE_H
#define CROFT_TESTS_UNIT_SCHED_FARM_FIXTURE_H

#include "google/longrunning/operations.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "proto/base/io.h"
#include "proto/rpc/client.h"
#include "sched/sched.h"
#include "tests/unit/test.h"

#include "croft/v1/farm.pb-c.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define EXECUTION "/build.bazel.remote.execution.v2.Execution/"
#define OPERATIONS "/google.longrunning.Operations/"

struct farm {
	char folder[64], journal[80];
	struct croft_store *store;
	struct croft_sched *sched;
	struct croft_sched_config config;
	struct croft_server *server;
	struct croft_channel *channel;
	struct croft_arena *arena;
	struct croft_digest command, nothing;
};

static struct farm farm;
static struct croft_error err;

/* The server ---------------------------------------------------------------------------------------- */

static inline struct croft_digest farm_put(const ProtobufCMessage *message)
{
	struct croft_slice bytes = croft_message_encode(message, farm.arena);
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	assert_ok(croft_store_put(farm.store, &digest, bytes, &err), err);
	return digest;
}

static inline void farm_serve(void)
{
	farm.config.path = farm.journal;
	farm.config.store = farm.store;
	/* However slow the machine is, no agent of a test is lost for its silence; one whose stream closed is,
	 * soon. */
	if (!farm.config.heartbeat_ms)
		farm.config.heartbeat_ms = 3600000;
	if (!farm.config.reconnect_ms)
		farm.config.reconnect_ms = 100;
	farm.sched = croft_sched_open(&farm.config, &err);
	assert_ok(farm.sched, err);
	farm.server = croft_server_create(&(struct croft_server_config){.address = "127.0.0.1:0"}, &err);
	assert_ok(farm.server, err);
	croft_sched_serve(farm.sched, farm.server);
	assert_ok(croft_server_start(farm.server, &err), err);
	char target[32];
	snprintf(target, sizeof(target), "127.0.0.1:%d", croft_server_port(farm.server));
	farm.channel = croft_channel_create(target, NULL, &err);
	assert_ok(farm.channel, err);
}

static inline void farm_end_server(void)
{
	croft_channel_destroy(farm.channel);
	croft_server_shutdown(farm.server, 0);
	croft_server_destroy(farm.server);
	croft_sched_close(farm.sched);
}

static inline int farm_start(void **state)
{
	farm = (struct farm){.arena = croft_arena_create()};
	err = CROFT_ERROR_INIT;
	const char *base = getenv("TMPDIR");
	snprintf(farm.folder, sizeof(farm.folder), "%s/croft-test-XXXXXX",
		base && strlen(base) < 40 ? base : "/tmp");
	assert_non_null(mkdtemp(farm.folder));
	snprintf(farm.journal, sizeof(farm.journal), "%s/journal", farm.folder);
	farm.store = croft_store_open(
		&(struct croft_store_config){.path = farm.folder, .budget_bytes = 1 << 30}, &err);
	assert_ok(farm.store, err);
	Reapi__Directory nothing = REAPI__DIRECTORY__INIT;
	farm.nothing = farm_put(&nothing.base);
	Reapi__Command command = REAPI__COMMAND__INIT;
	char *arguments[] = {(char *)"true"};
	command.n_arguments = 1;
	command.arguments = arguments;
	farm.command = farm_put(&command.base);
	return 0;
}

static inline int farm_stop(void **state)
{
	farm_end_server();
	croft_store_close(farm.store);
	croft_arena_destroy(farm.arena);
	struct croft_error failed = CROFT_ERROR_INIT;
	assert_ok(croft_remove_tree(AT_FDCWD, farm.folder, &failed), failed);
	return 0;
}

/* Clients --------------------------------------------------------------------------------------------- */

/* One of its own for each salt. */
static inline struct croft_digest farm_action(const char *salt)
{
	Reapi__Action action = REAPI__ACTION__INIT;
	action.command_digest = croft_digest_to_message(&farm.command, farm.arena);
	action.input_root_digest = croft_digest_to_message(&farm.nothing, farm.arena);
	action.salt = (ProtobufCBinaryData){strlen(salt), (uint8_t *)salt};
	return farm_put(&action.base);
}

static inline struct croft_stream *farm_stream(const struct croft_call_options *options,
	const char *path, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response)
{
	struct croft_stream *stream = croft_stream_open(farm.channel, options, path, response, &err);
	assert_ok(stream && croft_stream_write(stream, request, &err), err);
	return stream;
}

static inline struct croft_stream *farm_execute_with(const struct croft_call_options *options,
	struct croft_digest action)
{
	Reapi__ExecuteRequest request = REAPI__EXECUTE_REQUEST__INIT;
	request.action_digest = croft_digest_to_message(&action, farm.arena);
	struct croft_stream *stream = farm_stream(
		options, EXECUTION "Execute", &request.base, &longrunning__operation__descriptor);
	croft_stream_close_write(stream, NULL);
	return stream;
}

static inline struct croft_stream *farm_execute(const char *salt)
{
	return farm_execute_with(NULL, farm_action(salt));
}

static inline struct croft_stream *farm_wait(const char *name)
{
	Reapi__WaitExecutionRequest request = REAPI__WAIT_EXECUTION_REQUEST__INIT;
	request.name = (char *)name;
	struct croft_stream *stream = farm_stream(
		NULL, EXECUTION "WaitExecution", &request.base, &longrunning__operation__descriptor);
	croft_stream_close_write(stream, NULL);
	return stream;
}

static inline const Longrunning__Operation *farm_read(struct croft_stream *stream)
{
	void *message;
	assert_ok(croft_stream_read(stream, farm.arena, &message, &err) == 1, err);
	return message;
}

/* Reads on to the operation's end, and the stream's. */
static inline const Reapi__ExecuteResponse *farm_finish(struct croft_stream *stream)
{
	const Longrunning__Operation *operation;
	void *more;
	do
		operation = farm_read(stream);
	while (!operation->done);
	assert_int_equal(croft_stream_read(stream, farm.arena, &more, &err), 0);
	croft_stream_destroy(stream);
	assert_int_equal(operation->result_case, LONGRUNNING__OPERATION__RESULT_RESPONSE);
	const Reapi__ExecuteResponse *response = croft_message_decode(&reapi__execute_response__descriptor,
		CROFT_SLICE(operation->response->value.data, operation->response->value.len), farm.arena, NULL,
		&err);
	assert_ok(response, err);
	return response;
}

static inline void farm_succeeds(struct croft_stream *stream)
{
	const Reapi__ExecuteResponse *response = farm_finish(stream);
	assert_int_equal(response->status ? response->status->code : 0, 0);
	assert_non_null(response->result);
	assert_int_equal(response->result->exit_code, 0);
}

static inline void farm_fails(struct croft_stream *stream, enum croft_code code)
{
	const Reapi__ExecuteResponse *response = farm_finish(stream);
	assert_non_null(response->status);
	assert_int_equal(response->status->code, code);
}

static inline Reapi__ExecutionStage__Value farm_stage(const Longrunning__Operation *operation)
{
	const Reapi__ExecuteOperationMetadata *metadata =
		croft_message_decode(&reapi__execute_operation_metadata__descriptor,
			CROFT_SLICE(operation->metadata->value.data, operation->metadata->value.len), farm.arena,
			NULL, &err);
	assert_ok(metadata, err);
	return metadata->stage;
}

static inline void *farm_call(const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response)
{
	return croft_unary(farm.channel, NULL, path, request, response, farm.arena, &err);
}

/* Agents ---------------------------------------------------------------------------------------------- */

struct fake {
	const char *id;
	struct croft_stream *stream;
	const Farm__ServerMessage *heard[256]; /* and not looked at yet, the oldest first */
	size_t heard_count;
};

static inline void fake_say(struct fake *fake, Farm__AgentMessage__KindCase kind, void *part)
{
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = kind;
	message.hello = part; /* a union: any of its members */
	assert_ok(croft_stream_write(fake->stream, &message.base, &err), err);
}

static inline void fake_take(struct fake *fake, const Farm__ServerMessage *message)
{
	if (message->kind_case == FARM__SERVER_MESSAGE__KIND_BATCH) {
		for (size_t i = 0; i < message->batch->n_messages; i++)
			fake_take(fake, message->batch->messages[i]);
		return;
	}
	assert_true(fake->heard_count < 256);
	fake->heard[fake->heard_count++] = message;
}

/* The next message of that kind; others are left. */
static inline const Farm__ServerMessage *fake_hear(struct fake *fake,
	Farm__ServerMessage__KindCase kind)
{
	for (size_t i = 0;; i++) {
		while (i >= fake->heard_count) {
			void *message;
			assert_ok(croft_stream_read(fake->stream, farm.arena, &message, &err) == 1, err);
			fake_take(fake, message);
		}
		const Farm__ServerMessage *found = fake->heard[i];
		if (found->kind_case != kind)
			continue;
		fake->heard_count--;
		memmove(&fake->heard[i], &fake->heard[i + 1], (fake->heard_count - i) * sizeof(found));
		return found;
	}
}

static inline const Farm__Job *fake_job(struct fake *fake)
{
	return fake_hear(fake, FARM__SERVER_MESSAGE__KIND_JOB)->job;
}

/* With a lease that it says it still has, or NULL. */
static inline const Farm__Welcome *fake_connect_with(struct fake *fake, unsigned slots,
	const char *lease)
{
	fake->heard_count = 0;
	fake->stream = croft_stream_open(farm.channel, NULL, "/croft.v1.Agents/Session",
		&farm__server_message__descriptor, &err);
	assert_ok(fake->stream, err);
	Farm__Hello hello = FARM__HELLO__INIT;
	char *leases[] = {(char *)lease};
	hello.agent_id = hello.hostname = (char *)fake->id;
	hello.slots = slots;
	hello.n_leases = lease != NULL;
	hello.leases = leases;
	fake_say(fake, FARM__AGENT_MESSAGE__KIND_HELLO, &hello);
	return fake_hear(fake, FARM__SERVER_MESSAGE__KIND_WELCOME)->welcome;
}

static inline void fake_connect(struct fake *fake, unsigned slots)
{
	fake_connect_with(fake, slots, NULL);
}

static inline void fake_leave(struct fake *fake)
{
	croft_stream_destroy(fake->stream);
	fake->stream = NULL;
}

static inline void fake_done(struct fake *fake, const char *lease, int exit_code)
{
	Farm__JobDone done = FARM__JOB_DONE__INIT;
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	result.exit_code = exit_code;
	done.lease = (char *)lease;
	done.result = &result;
	fake_say(fake, FARM__AGENT_MESSAGE__KIND_JOB_DONE, &done);
}

static inline void fake_failed(struct fake *fake, const char *lease, enum croft_code code)
{
	Farm__JobDone done = FARM__JOB_DONE__INIT;
	GoogleRpc__Status status = GOOGLE_RPC__STATUS__INIT;
	status.code = code;
	status.message = (char *)"as the test wants it";
	done.lease = (char *)lease;
	done.status = &status;
	fake_say(fake, FARM__AGENT_MESSAGE__KIND_JOB_DONE, &done);
}

#endif
