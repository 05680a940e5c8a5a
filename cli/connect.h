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

/* Asks the server once whether it is there, so that a wrong address is told at once: the calls that
 * follow are patient with a server that restarts. */
bool client_open(struct client *client, const struct options *options, struct croft_error *err);
/* The same, but a server that is away has so long to come (told on standard error). */
bool client_open_patiently(struct client *client, const struct options *options,
	uint64_t patience_ms, struct croft_error *err);
/* The same, without asking: it connects when it is first used. */
bool client_make(struct client *client, const struct options *options, struct croft_error *err);
void client_close(struct client *client);

/* The server's URL by option, environment and default. */
const char *server_of(const struct options *options);
const char *instance_of(const struct options *options); /* "" by default */

#endif
