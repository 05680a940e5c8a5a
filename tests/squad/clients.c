/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The clients: what they are told is judged by what they know, and asked for again. */
#include "tests/squad/squad.h"

#include "fs/remote.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"
#include "google/longrunning/operations.pb-c.h"
#include "google/rpc/status.pb-c.h"

#include <stdlib.h>
#include <string.h>

#define EXECUTION "/build.bazel.remote.execution.v2.Execution/"
#define OPERATIONS "/google.longrunning.Operations/"
enum { NUMBERS = 5000, PATIENCE_SECONDS = 240, AGAIN_MS = 200 };

struct client {
	pthread_t thread;
	const struct squad *squad;
	const atomic_bool *over;
	uint64_t random;
	struct croft_channel *channel;
	struct croft_arena *arena;
	uint64_t give_up_ns;
};

struct clients {
	struct squad squad;
	struct client *list;
	unsigned count;
	atomic_bool over;
};

static struct croft_digest add(struct croft_upload *upload, const ProtobufCMessage *message,
	struct croft_arena *arena, bool *ok)
{
	struct croft_slice bytes = croft_message_encode(message, arena);
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	*ok = *ok && croft_upload_bytes(upload, &digest, bytes, NULL);
	return digest;
}

static bool upload_action(struct client *client, unsigned number, struct croft_digest *action)
{
	struct croft_remote *remote = croft_remote_create(client->channel, "");
	struct croft_upload *upload = croft_upload_create(remote);
	Reapi__Directory nothing = REAPI__DIRECTORY__INIT;
	Reapi__Command command = REAPI__COMMAND__INIT;
	Reapi__Action message = REAPI__ACTION__INIT;
	Reapi__Platform platform = REAPI__PLATFORM__INIT;
	Reapi__Platform__Property squad = REAPI__PLATFORM__PROPERTY__INIT, *properties[] = {&squad};
	char *arguments[] = {(char *)"squad"};
	uint64_t salt[] = {client->squad->seed, number};
	bool ok = true;
	command.n_arguments = 1;
	command.arguments = arguments;
	squad.name = (char *)"squad";
	squad.value = (char *)"yes";
	platform.n_properties = 1;
	platform.properties = properties;
	struct croft_digest root = add(upload, &nothing.base, client->arena, &ok),
						digest = add(upload, &command.base, client->arena, &ok);
	message.input_root_digest = croft_digest_to_message(&root, client->arena);
	message.command_digest = croft_digest_to_message(&digest, client->arena);
	message.salt = (ProtobufCBinaryData){sizeof(salt), (uint8_t *)salt};
	message.platform = &platform;
	*action = add(upload, &message.base, client->arena, &ok);
	ok = ok && croft_upload_flush(upload, NULL, NULL);
	croft_upload_destroy(upload);
	croft_remote_destroy(remote);
	return ok;
}

/* 1: `last` is the operation's end. 0: the connection was lost, or it was not accepted. */
static int follow(struct client *client, const char *path, const ProtobufCMessage *request,
	const Longrunning__Operation **last, struct croft_error *err)
{
	struct croft_stream *stream = croft_stream_open(
		client->channel, NULL, path, &longrunning__operation__descriptor, err);
	void *message;
	int read = 0;
	if (stream && croft_stream_write(stream, request, NULL))
		croft_stream_close_write(stream, NULL);
	while (stream && (read = croft_stream_read(stream, client->arena, &message, err)) == 1) {
		if (*last && (*last)->done)
			wrong("operation %s went on after its end", (*last)->name);
		*last = message;
	}
	if (stream && read == 0 && !(*last && (*last)->done))
		wrong("a stream ended before its operation");
	croft_stream_destroy(stream);
	return *last && (*last)->done;
}

static const Longrunning__Operation *wait_for(struct client *client, const char *name)
{
	Reapi__WaitExecutionRequest request = REAPI__WAIT_EXECUTION_REQUEST__INIT;
	request.name = (char *)name;
	while (croft_now_ns() < client->give_up_ns) {
		const Longrunning__Operation *last = NULL;
		struct croft_error err = CROFT_ERROR_INIT;
		if (follow(client, EXECUTION "WaitExecution", &request.base, &last, &err))
			return last;
		if (err.code == CROFT_NOT_FOUND) {
			wrong("operation %s was accepted, and is not known any more", name);
			return NULL;
		}
		counts.reconnected++;
		pause_ms(AGAIN_MS);
	}
	wrong("operation %s did not end within %d s", name, PATIENCE_SECONDS);
	return NULL;
}

/* NULL: it was not accepted, for a reason that may pass. */
static const Longrunning__Operation *execute(struct client *client, const struct croft_digest *action,
	bool skip_cache)
{
	Reapi__ExecuteRequest request = REAPI__EXECUTE_REQUEST__INIT;
	request.action_digest = croft_digest_to_message(action, client->arena);
	request.skip_cache_lookup = skip_cache;
	const Longrunning__Operation *last = NULL;
	struct croft_error err = CROFT_ERROR_INIT;
	if (follow(client, EXECUTION "Execute", &request.base, &last, &err))
		return last;
	if (last)
		return wait_for(client, last->name);
	if (err.code != CROFT_UNAVAILABLE && err.code != CROFT_RESOURCE_EXHAUSTED &&
		err.code != CROFT_FAILED_PRECONDITION && err.code != CROFT_CANCELLED)
		wrong("Execute was answered with %d: %s", (int)err.code, err.message);
	return NULL;
}

static void judge(struct client *client, const struct croft_digest *action,
	const Longrunning__Operation *operation)
{
	struct right right = right_result(action);
	const Reapi__ExecuteResponse *response = croft_message_decode(&reapi__execute_response__descriptor,
		CROFT_SLICE(operation->response->value.data, operation->response->value.len), client->arena, NULL,
		NULL);
	if (!response)
		wrong("operation %s has no response", operation->name);
	else if (response->status && response->status->code != CROFT_OK) {
		counts.refused++;
		if (response->status->code != CROFT_RESOURCE_EXHAUSTED &&
			(response->status->code != CROFT_UNAVAILABLE ||
				(!strstr(response->status->message, "agent was lost") &&
					!strstr(response->status->message, "could not run it"))))
			wrong("operation %s ended with %d: %s", operation->name, response->status->code,
				response->status->message);
	} else if (!response->result || response->result->exit_code != right.exit_code ||
		response->result->stdout_raw.len != strlen(right.text) ||
		memcmp(response->result->stdout_raw.data, right.text, strlen(right.text)) != 0)
		wrong("operation %s has another job's result", operation->name);
	else
		counts.done++;
}

/* Whoever asks later is told the same; an answer from the cache has no operation to ask for. */
static void ask_again(struct client *client, const Longrunning__Operation *operation)
{
	const Longrunning__Operation *later = wait_for(client, operation->name);
	if (later && (later->response->value.len != operation->response->value.len ||
		memcmp(later->response->value.data, operation->response->value.data,
			later->response->value.len) != 0))
		wrong("operation %s ended twice, in two ways", operation->name);
}

static void *client_thread(void *user)
{
	struct client *client = user;
	client->channel = croft_channel_create(client->squad->server, NULL, NULL);
	client->arena = croft_arena_create();
	while (!*client->over) {
		unsigned number = (unsigned)(next_random(&client->random) % NUMBERS);
		bool skip_cache = next_random(&client->random) % 4 != 0;
		struct croft_digest action;
		client->give_up_ns = croft_now_ns() + PATIENCE_SECONDS * UINT64_C(1000000000);
		const Longrunning__Operation *operation = NULL;
		if (upload_action(client, number, &action))
			operation = execute(client, &action, skip_cache);
		if (operation) {
			judge(client, &action, operation);
			if (skip_cache && next_random(&client->random) % 4 == 0)
				ask_again(client, operation);
		} else if (!*client->over) {
			pause_ms(AGAIN_MS); /* the server is away, or its disk is full */
		}
		croft_arena_reset(client->arena);
	}
	croft_arena_destroy(client->arena);
	croft_channel_destroy(client->channel);
	return NULL;
}

struct clients *clients_start(const struct squad *squad, unsigned count)
{
	struct clients *clients = croft_zalloc(sizeof(*clients));
	clients->squad = *squad;
	clients->count = count;
	clients->list = croft_zalloc((count + 1) * sizeof(*clients->list));
	for (unsigned i = 0; i < count; i++) {
		struct client *client = &clients->list[i];
		client->squad = &clients->squad;
		client->over = &clients->over;
		client->random = ~squad->seed + i;
		start_thread(&client->thread, client_thread, client);
	}
	return clients;
}

void clients_end(struct clients *clients)
{
	clients->over = true;
	for (unsigned i = 0; i < clients->count; i++)
		pthread_join(clients->list[i].thread, NULL);
	free(clients->list);
	free(clients);
}
