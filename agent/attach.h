/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The filesystem daemon of this machine, started and told where the farm's blobs are as the server's Welcome says.
 */
#ifndef CROFT_AGENT_ATTACH_H
#define CROFT_AGENT_ATTACH_H

#include "agent/agent.h"
#include "agent/machine.h"

#include "croft/v1/farm.pb-c.h"

/* At each Welcome: the first starts the daemon, later ones tell it what changed. False: this agent cannot work. */
bool croft_attach_daemon(struct croft_machine *machine, const struct croft_agent_config *config,
	const Farm__Welcome *welcome, struct croft_error *err);
/* The daemon goes on as the program that now stands where this one was started from; jobs notice nothing.
 * Any thread. */
void croft_renew_daemon(struct croft_machine *machine);
/* Where peers find this agent's blobs, as `server` (a gRPC target) is reached from here: "" before the daemon
 * runs, and when it serves none. */
const char *croft_own_blob_url(const struct croft_machine *machine, const char *server,
	struct croft_arena *arena);

#endif
