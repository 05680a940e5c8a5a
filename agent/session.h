/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's stream to the scheduler: says hello, takes jobs, reports on them, connects again after
 * a loss. Jobs go on while it is down; their results wait until the server acknowledged them.
 */
#ifndef CROFT_AGENT_SESSION_H
#define CROFT_AGENT_SESSION_H

#include "agent/agent.h"
#include "agent/machine.h"

struct croft_session;

struct croft_session *croft_session_create(const struct croft_agent_config *config,
	struct croft_machine *machine);
/* Runs until croft_session_stop. False only when the agent can never work (its filesystem daemon
 * does not start). */
bool croft_session_run(struct croft_session *session, struct croft_error *err);
/* From any thread: gives running jobs back to the queue and ends the run. */
void croft_session_stop(struct croft_session *session);
void croft_session_destroy(struct croft_session *session);

#endif
