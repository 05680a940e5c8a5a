/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Load for a real server: clients that Execute actions of their own and wait, and, unless --agents 0,
 * fake agents that speak the real protocol and are done at once.
 *
 *	load SERVER [--agents N] [--clients N] [--operations N] [--rate N] [--queue N] [--command WORD]
 *
 * --rate spreads the calls over time (operations per second, all clients together); --queue leaves that
 * many operations waiting first, for a platform that no agent offers.
 */
#include "fs/remote.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include "croft/v1/farm.pb-c.h"
#include "google/longrunning/operations.pb-c.h"

#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define EXECUTE "/build.bazel.remote.execution.v2.Execution/Execute"

static const char *server, *command_word = "true";
static unsigned agents = 4, clients = 64, operations = 20000, rate, queued;
static struct croft_digest *actions, *waiting_actions, empty_directory;
static atomic_uint next_operation, failures;
static float *latencies; /* milliseconds */
static uint64_t begun_ns;

static void stop(const struct croft_error *err)
{
	fprintf(stderr, "load: %s\n", err->message);
	exit(1);
}

static struct croft_channel *connect_server(void)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_channel *channel = croft_channel_create(server, NULL, &err);
	if (!channel)
		stop(&err);
	return channel;
}

/* Actions ------------------------------------------------------------------------------------------- */

static struct croft_digest put(struct croft_upload *upload, const ProtobufCMessage *message)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice bytes = croft_message_encode(message, arena);
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	if (!croft_upload_bytes(upload, &digest, bytes, &err))
		stop(&err);
	return digest;
}

/* Distinct by their salt: nothing is merged, nothing cached. */
static void make_actions(struct croft_upload *upload, struct croft_digest *digests, unsigned count,
	const char *platform)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__Command command = REAPI__COMMAND__INIT;
	char *arguments[] = {(char *)command_word};
	command.n_arguments = 1;
	command.arguments = arguments;
	struct croft_digest command_digest = put(upload, &command.base);
	Reapi__Platform wanted = REAPI__PLATFORM__INIT;
	Reapi__Platform__Property property = REAPI__PLATFORM__PROPERTY__INIT;
	Reapi__Platform__Property *properties[] = {&property};
	property.name = (char *)"load";
	property.value = (char *)platform;
	wanted.n_properties = platform != NULL;
	wanted.properties = properties;
	for (unsigned i = 0; i < count; i++) {
		uint64_t salt[] = {croft_now_ns(), (uint64_t)getpid(), i};
		Reapi__Action action = REAPI__ACTION__INIT;
		action.command_digest = croft_digest_to_message(&command_digest, arena);
		action.input_root_digest = croft_digest_to_message(&empty_directory, arena);
		action.salt = (ProtobufCBinaryData){sizeof(salt), (uint8_t *)salt};
		action.platform = platform ? &wanted : NULL;
		digests[i] = put(upload, &action.base);
	}
}

static void upload_all(void)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_channel *channel = connect_server();
	struct croft_remote *remote = croft_remote_create(channel, "");
	struct croft_upload *upload = croft_upload_create(remote);
	Reapi__Directory nothing = REAPI__DIRECTORY__INIT;
	empty_directory = put(upload, &nothing.base);
	make_actions(upload, actions, operations, NULL);
	make_actions(upload, waiting_actions, queued, "nowhere");
	if (!croft_upload_flush(upload, NULL, &err))
		stop(&err);
	croft_upload_destroy(upload);
	croft_remote_destroy(remote);
	croft_channel_destroy(channel);
}

/* Clients --------------------------------------------------------------------------------------------- */

static struct croft_stream *execute(struct croft_channel *channel, const struct croft_digest *action,
	struct croft_arena *arena)
{
	struct croft_error err = CROFT_ERROR_INIT;
	Reapi__ExecuteRequest request = REAPI__EXECUTE_REQUEST__INIT;
	request.action_digest = croft_digest_to_message(action, arena);
	request.skip_cache_lookup = true;
	struct croft_stream *stream = croft_stream_open(
		channel, NULL, EXECUTE, &longrunning__operation__descriptor, &err);
	if (!stream)
		stop(&err);
	if (croft_stream_write(stream, &request.base, &err))
		croft_stream_close_write(stream, NULL);
	return stream;
}

static void *client(void *user)
{
	struct croft_channel *channel = user;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	unsigned number;
	while ((number = atomic_fetch_add(&next_operation, 1)) < operations) {
		uint64_t due_ns = begun_ns + (rate ? (uint64_t)number * 1000000000u / rate : 0);
		for (uint64_t now_ns; (now_ns = croft_now_ns()) < due_ns;)
			usleep((useconds_t)((due_ns - now_ns) / 1000));
		uint64_t from_ns = rate ? due_ns : croft_now_ns();
		struct croft_error err = CROFT_ERROR_INIT;
		struct croft_stream *stream = execute(channel, &actions[number], arena);
		bool done = false;
		void *message;
		while (!done && croft_stream_read(stream, arena, &message, &err) == 1)
			done = ((Longrunning__Operation *)message)->done;
		failures += !done;
		croft_stream_destroy(stream);
		latencies[number] = (float)(croft_now_ns() - from_ns) / 1e6f;
		croft_arena_reset(arena);
	}
	return NULL;
}

/* Left to wait: their calls are cancelled once they are queued, which does not cancel the operation. */
static void fill_queue(struct croft_channel *channel)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	enum { AT_ONCE = 256 };
	for (unsigned from = 0; from < queued; from += AT_ONCE) {
		struct croft_stream *streams[AT_ONCE];
		unsigned count = queued - from < AT_ONCE ? queued - from : AT_ONCE;
		for (unsigned i = 0; i < count; i++)
			streams[i] = execute(channel, &waiting_actions[from + i], arena);
		for (unsigned i = 0; i < count; i++) {
			void *message;
			struct croft_error err = CROFT_ERROR_INIT;
			if (croft_stream_read(streams[i], arena, &message, &err) != 1)
				stop(&err);
			croft_stream_destroy(streams[i]);
		}
		croft_arena_reset(arena);
	}
}

/* Agents ---------------------------------------------------------------------------------------------- */

static void say(struct croft_stream *stream, Farm__AgentMessage *message,
	Farm__AgentMessage__KindCase kind, void *part)
{
	farm__agent_message__init(message);
	message->kind_case = kind;
	message->hello = part; /* a union: any of its members */
	croft_stream_write(stream, &message->base, NULL);
}

static void finish_job(struct croft_stream *stream, const Farm__Job *job)
{
	Farm__AgentMessage message;
	Farm__JobStarted started = FARM__JOB_STARTED__INIT;
	started.lease = job->lease;
	say(stream, &message, FARM__AGENT_MESSAGE__KIND_JOB_STARTED, &started);
	Farm__JobDone done = FARM__JOB_DONE__INIT;
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	Reapi__ExecutedActionMetadata metadata = REAPI__EXECUTED_ACTION_METADATA__INIT;
	metadata.worker = (char *)"fake";
	result.execution_metadata = &metadata;
	done.lease = job->lease;
	done.result = &result;
	say(stream, &message, FARM__AGENT_MESSAGE__KIND_JOB_DONE, &done);
}

static void *agent(void *user)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_channel *channel = connect_server();
	struct croft_stream *stream = croft_stream_open(channel, NULL, "/croft.v1.Agents/Session",
		&farm__server_message__descriptor, &err);
	if (!stream)
		stop(&err);
	char id[32];
	snprintf(id, sizeof(id), "fake-%u-%u", (unsigned)getpid(), (unsigned)(uintptr_t)user);
	Farm__Hello hello = FARM__HELLO__INIT;
	hello.agent_id = hello.hostname = id;
	hello.slots = 256;
	Farm__AgentMessage message;
	say(stream, &message, FARM__AGENT_MESSAGE__KIND_HELLO, &hello);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	void *answer;
	uint64_t heard_ns = croft_now_ns();
	while (croft_stream_read(stream, arena, &answer, &err) == 1) {
		const Farm__ServerMessage *said = answer;
		if (said->kind_case == FARM__SERVER_MESSAGE__KIND_JOB)
			finish_job(stream, said->job);
		if (croft_now_ns() - heard_ns > 1000000000u) {
			Farm__Heartbeat heartbeat = FARM__HEARTBEAT__INIT;
			say(stream, &message, FARM__AGENT_MESSAGE__KIND_HEARTBEAT, &heartbeat);
			heard_ns = croft_now_ns();
		}
		croft_arena_reset(arena);
	}
	return NULL;
}

/* ----------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
	float one = *(const float *)a, other = *(const float *)b;
	return (one > other) - (one < other);
}

static void *allocate(size_t count, size_t size)
{
	return croft_array(count + 1, size);
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {{"agents", 1, NULL, 'a'}, {"clients", 1, NULL, 'c'},
		{"operations", 1, NULL, 'o'}, {"rate", 1, NULL, 'r'}, {"queue", 1, NULL, 'q'},
		{"command", 1, NULL, 'w'}, {0}};
	for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		unsigned value = option == 'w' ? 0 : (unsigned)strtoul(optarg, NULL, 10);
		switch (option) {
		case 'a': agents = value; break;
		case 'c': clients = value; break;
		case 'o': operations = value; break;
		case 'r': rate = value; break;
		case 'q': queued = value; break;
		case 'w': command_word = optarg; break;
		default: exit(2);
		}
	}
	if (optind != argc - 1)
		exit(2);
	server = argv[optind];
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	actions = allocate(operations, sizeof(*actions));
	waiting_actions = allocate(queued, sizeof(*waiting_actions));
	latencies = allocate(operations, sizeof(*latencies));
	upload_all();
	struct croft_channel *channels[4];
	for (int i = 0; i < 4; i++)
		channels[i] = connect_server();
	fill_queue(channels[0]);
	for (unsigned i = 0; i < agents; i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, agent, (void *)(uintptr_t)i) != 0)
			abort();
	}
	sleep(agents ? 1 : 0);
	pthread_t *threads = allocate(clients, sizeof(*threads));
	begun_ns = croft_now_ns();
	for (unsigned i = 0; i < clients; i++)
		if (pthread_create(&threads[i], NULL, client, channels[i % 4]) != 0)
			abort();
	for (unsigned i = 0; i < clients; i++)
		pthread_join(threads[i], NULL);
	double seconds = (double)(croft_now_ns() - begun_ns) / 1e9;
	qsort(latencies, operations, sizeof(*latencies), by_value);
	printf("{\"operations\": %u, \"failures\": %u, \"per_second\": %.0f, \"p50_ms\": %.3f, "
		   "\"p99_ms\": %.3f}\n",
		operations, atomic_load(&failures), operations / seconds, latencies[operations / 2],
		latencies[operations / 100 * 99]);
	fflush(stdout);
	_exit(atomic_load(&failures) > 0);
}
