/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/connect.h"

#include <stdlib.h>

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

bool client_open(struct client *client, const struct options *options, struct croft_error *err)
{
	const char *instance = options_value(options, "instance");
	*client = (struct client){
		.server = server_of(options),
		.instance = instance ? instance : environment("CROFT_INSTANCE", ""),
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

void client_close(struct client *client)
{
	croft_remote_destroy(client->remote);
	croft_channel_destroy(client->channel);
	client->remote = NULL;
	client->channel = NULL;
}
