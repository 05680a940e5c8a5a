/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What every job of this machine shares. All borrowed, and fixed while jobs run.
 */
#ifndef CROFT_AGENT_MACHINE_H
#define CROFT_AGENT_MACHINE_H

#include "fs/daemon.h"
#include "fs/remote.h"
#include "proto/rpc/client.h"
#include "sandbox/sandbox.h"

struct croft_machine {
	struct croft_launcher *launcher;
	struct croft_channel *channel;
	struct croft_uplink *uplink;
	struct croft_daemon *daemon; /* attached at the first Welcome */
	char *plane_address; /* where it serves blobs; NULL: nowhere; owned, fixed once it was attached */
	const char *state;           /* directory for logs of running jobs */
	const char *agent_id;
	bool allow_network;
	const char *nested_server; /* where jobs' own calls go; NULL: they may make none */
	uint32_t owner; /* of what the mount shows */
	struct croft_presence *presence;
	struct croft_listeners *listeners;
	struct croft_peers *peers; /* NULL: nobody is asked */
	const char *root_image; /* as croft_agent_config has it */
};

#endif
