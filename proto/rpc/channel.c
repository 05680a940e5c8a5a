/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/channel.h"

#include "proto/rpc/tls.h"

#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>

struct address {
	const char *name; /* for the core */
	bool secure;
};

static bool parse_target(const char *target, const struct croft_tls *tls, struct address *address,
	struct croft_error *err)
{
	static const struct {
		const char *scheme;
		bool secure;
	} schemes[] = {{"grpc://", false}, {"grpcs://", true}, {"http://", false}, {"https://", true}};
	address->name = NULL;
	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
		size_t length = strlen(schemes[i].scheme);
		if (strncmp(target, schemes[i].scheme, length) == 0)
			*address = (struct address){target + length, schemes[i].secure};
	}
	if (!address->name && strstr(target, "://"))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"server address '%s': only grpc:// and grpcs:// are known", target);
	if (!address->name)
		*address = (struct address){target, tls != NULL};
	if (tls && !address->secure)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"server address '%s' asks for no encryption, but TLS files were given: say grpcs://",
			target);
	if (*address->name == '\0')
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "server address '%s' names no host", target);
	return true;
}

/* A proxy from the environment cannot know this machine's own addresses. */
static bool is_local(const char *name)
{
	static const char *const local[] = {"127.", "localhost:", "[::1]", "unix:"};
	for (size_t i = 0; i < sizeof(local) / sizeof(local[0]); i++)
		if (strncmp(name, local[i], strlen(local[i])) == 0)
			return true;
	return false;
}

static grpc_channel *open_channel(const struct address *address, const struct croft_tls *tls,
	struct croft_error *err)
{
	grpc_arg arguments[] = {
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, {.integer = 64 << 20}},
		/* Other servers may send longer trailers than ours. */
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_MAX_METADATA_SIZE, {.integer = 1 << 20}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, {.integer = 4000}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, {.integer = 100}},
		/* How long an attempt may take, to the server's first word; until then calls wait. One that is refused
		 * ends at once, and the next comes after the backoff. */
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, {.integer = 10000}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_KEEPALIVE_TIME_MS, {.integer = 15000}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_KEEPALIVE_TIMEOUT_MS, {.integer = 10000}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, {.integer = 0}},
		/* Two channels to one server are two connections: one slow stream does not hold up others. */
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, {.integer = 1}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_ENABLE_RETRIES, {.integer = 0}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_ENABLE_HTTP_PROXY, {.integer = !is_local(address->name)}},
	};
	grpc_channel_args list = {sizeof(arguments) / sizeof(arguments[0]), arguments};
	grpc_channel_credentials *credentials =
		address->secure ? croft_tls_channel(tls, err) : grpc_insecure_credentials_create();
	if (!credentials)
		return NULL;
	grpc_channel *channel = grpc_channel_create(address->name, credentials, &list);
	grpc_channel_credentials_release(credentials);
	if (!channel)
		croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "no channel can be made to '%s'", address->name);
	return channel;
}

struct croft_channel *croft_channel_create(const char *target, const struct croft_tls *tls,
	struct croft_error *err)
{
	croft_core_init();
	struct address address;
	if (!parse_target(target, tls, &address, err))
		return NULL;
	grpc_channel *core = open_channel(&address, tls, err);
	if (!core) {
		croft_error_wrap(err, "%s", target);
		return NULL;
	}
	struct croft_channel *channel = croft_zalloc(sizeof(*channel));
	channel->core = core;
	channel->target = croft_strdup(target);
	return channel;
}

void croft_channel_destroy(struct croft_channel *channel)
{
	if (!channel)
		return;
	grpc_channel_destroy(channel->core);
	free(channel->target);
	free(channel);
}

const char *croft_channel_target(const struct croft_channel *channel)
{
	return channel->target;
}
