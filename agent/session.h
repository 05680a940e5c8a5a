/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's stream to the scheduler: says hello, takes jobs, reports on them, connects again after
 * a loss. Jobs go on while it is down; their results wait until the server acknowledged them.
 */
#ifndef CROFT_AGENT_SESSION_H
#define CROFT_AGENT_SESSION_H

#include "agent/agent.h"
#include "fs/daemon.h"
#include "fs/remote.h"
#include "proto/rpc/client.h"
#include "sandbox/sandbox.h"

#include "croft/v1/farm.pb-c.h"

/* What every job of this machine shares. All borrowed, and fixed while jobs run. */
struct croft_machine {
	struct croft_launcher *launcher;
	struct croft_channel *channel;
	struct croft_daemon *daemon; /* attached at the first Welcome */
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

struct croft_session;

struct croft_session *croft_session_create(const struct croft_agent_config *config,
	struct croft_machine *machine);
/* Runs until croft_session_stop. False only when the agent can never work (its filesystem daemon
 * does not start). */
bool croft_session_run(struct croft_session *session, struct croft_error *err);
/* From any thread: gives running jobs back to the queue and ends the run. */
void croft_session_stop(struct croft_session *session);
/* The filesystem daemon goes on as the program that now stands where this one was started from; jobs notice
 * nothing. Any thread. */
void croft_session_renew_daemon(struct croft_session *session);
void croft_session_destroy(struct croft_session *session);

/* How many connections there were up to now; 0: none yet. */
uint64_t croft_session_connection(struct croft_session *session);
/* For jobs, from their threads. Sending while there is no connection does nothing. */
void croft_session_send(struct croft_session *session, const Farm__AgentMessage *message);

#endif
