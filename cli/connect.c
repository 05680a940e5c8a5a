/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/connect.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

enum { SECOND_TRY_MS = 1000 };

static const char *environment(const char *name, const char *otherwise)
{
	const char *value = getenv(name);
	return value && *value ? value : otherwise;
}

const char *server_of(const struct options *options)
{
	const char *given = options_value(options, "server");
	return given ? given : environment("CROFT_SERVER", "grpc://127.0.0.1:8980");
}

const char *instance_of(const struct options *options)
{
	const char *given = options_value(options, "instance");
	return given ? given : environment("CROFT_INSTANCE", "");
}

/* A server that refuses the call for reasons of its own is there; what it refuses will be told by the
 * call that matters. */
static bool is_there(struct client *client, bool wait, uint64_t timeout_ms, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__GetCapabilitiesRequest request = REAPI__GET_CAPABILITIES_REQUEST__INIT;
	request.instance_name = (char *)client->instance;
	struct croft_call_options options = {.timeout_ms = timeout_ms, .wait_for_ready = wait};
	struct croft_error failure = CROFT_ERROR_INIT;
	if (croft_unary(client->channel, &options,
		    "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities", &request.base,
		    &reapi__server_capabilities__descriptor, arena, &failure) ||
		(failure.code != CROFT_UNAVAILABLE && failure.code != CROFT_DEADLINE_EXCEEDED))
		return true;
	failure.code = CROFT_UNAVAILABLE;
	if (err)
		*err = failure;
	return croft_error_wrap(err, "%s", client->server);
}

/* The first failure is never the last word: gRPC 1.51 looks at the errno of connect() after other calls,
 * and may take a connection under way for one that failed, with any reason at all. */
static bool wait_for_server(struct client *client, uint64_t patience_ms, struct croft_error *err)
{
	struct croft_error failure = CROFT_ERROR_INIT;
	if (is_there(client, false, 10000, &failure))
		return true;
	if (patience_ms > 0)
		fprintf(stderr, "croft: waiting up to %" PRIu64 " s for the server: %s\n",
			patience_ms / 1000, failure.message);
	uint64_t end_ms =
		croft_now_ns() / 1000000 + (patience_ms > SECOND_TRY_MS ? patience_ms : SECOND_TRY_MS);
	for (uint64_t now_ms; (now_ms = croft_now_ns() / 1000000) < end_ms;) {
		if (is_there(client, true, end_ms - now_ms, NULL))
			return true;
		/* One that is going, or a proxy before one that is away, ends the call at once. */
		nanosleep(&(struct timespec){0, 200 * 1000000}, NULL);
	}
	*err = failure;
	return false;
}

bool client_make(struct client *client, const struct options *options, struct croft_error *err)
{
	*client = (struct client){
		.server = server_of(options),
		.instance = instance_of(options),
	};
	struct croft_tls tls = {
		.certificate_file = options_value(options, "tls-cert"),
		.key_file = options_value(options, "tls-key"),
		.authority_file = options_value(options, "tls-ca"),
	};
	bool wants_tls = tls.certificate_file || tls.key_file || tls.authority_file;
	client->channel = croft_channel_create(client->server, wants_tls ? &tls : NULL, err);
	if (!client->channel)
		return false;
	client->remote = croft_remote_create(client->channel, client->instance);
	return true;
}

bool client_open_patiently(struct client *client, const struct options *options,
	uint64_t patience_ms, struct croft_error *err)
{
	if (!client_make(client, options, err))
		return false;
	if (wait_for_server(client, patience_ms, err))
		return true;
	client_close(client);
	return false;
}

bool client_open(struct client *client, const struct options *options, struct croft_error *err)
{
	return client_open_patiently(client, options, 0, err);
}

void client_close(struct client *client)
{
	croft_remote_destroy(client->remote);
	croft_channel_destroy(client->channel);
	client->remote = NULL;
	client->channel = NULL;
}
