/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A command's connection to a farm, as its options and the environment say. */
#ifndef CROFT_CLI_CONNECT_H
#define CROFT_CLI_CONNECT_H

#include "cli/options.h"
#include "fs/remote.h"

struct client {
	const char *server;   /* borrowed from the options or the environment */
	const char *instance; /* "" for none */
	struct croft_channel *channel;
	struct croft_remote *remote;
};

/* Does not wait for the connection: the first call finds out. */
bool client_open(struct client *client, const struct options *options, struct croft_error *err);
void client_close(struct client *client);

/* The server's URL by option, environment and default. */
const char *server_of(const struct options *options);

#endif
