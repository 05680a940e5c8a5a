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
#include "bench/sched/load.h"

#include "fs/remote.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include "google/longrunning/operations.pb-c.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define EXECUTE "/build.bazel.remote.execution.v2.Execution/Execute"

static const char *command_word = "true";
static struct load load = {.agents = 4, .clients = 64, .operations = 20000};
static unsigned queued;
static struct croft_digest *actions, *waiting_actions, empty_directory;

static void stop(const struct croft_error *err)
{
	fprintf(stderr, "load: %s\n", err->message);
	exit(1);
}

static struct croft_channel *connect_server(void)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_channel *channel = croft_channel_create(load.target, NULL, &err);
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
	make_actions(upload, actions, load.operations, NULL);
	make_actions(upload, waiting_actions, queued, "nowhere");
	if (!croft_upload_flush(upload, NULL, &err))
		stop(&err);
	croft_upload_destroy(upload);
	croft_remote_destroy(remote);
	croft_channel_destroy(channel);
}

/* A queue ---------------------------------------------------------------------------------------------- */

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
		case 'a': load.agents = value; break;
		case 'c': load.clients = value; break;
		case 'o': load.operations = value; break;
		case 'r': load.rate = value; break;
		case 'q': queued = value; break;
		case 'w': command_word = optarg; break;
		default: exit(2);
		}
	}
	if (optind != argc - 1)
		exit(2);
	load.target = argv[optind];
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	load.actions = actions = allocate(load.operations, sizeof(*actions));
	waiting_actions = allocate(queued, sizeof(*waiting_actions));
	load.latencies = allocate(load.operations, sizeof(float));
	load.late = allocate(load.operations, sizeof(float));
	upload_all();
	if (queued) {
		struct croft_channel *channel = connect_server();
		fill_queue(channel);
		croft_channel_destroy(channel);
	}
	if (load.agents)
		agents_start(&load);
	double seconds = clients_run(&load);
	qsort(load.latencies, load.operations, sizeof(float), by_value);
	qsort(load.late, load.operations, sizeof(float), by_value);
	printf("{\"operations\": %u, \"failures\": %u, \"per_second\": %.0f, \"p50_ms\": %.3f, "
		   "\"p99_ms\": %.3f, \"begun_late_p99_ms\": %.3f}\n",
		load.operations, load.failures, load.operations / seconds,
		load.latencies[load.operations / 2], load.latencies[load.operations / 100 * 99],
		load.late[load.operations / 100 * 99]);
	fflush(stdout);
	_exit(load.failures > 0);
}
