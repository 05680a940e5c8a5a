/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sched/core: what agents say of runs that ended, on its way into the action cache and then to
 * the runs' waiters.
 */
#ifndef CROFT_SCHED_CORE_FINISH_H
#define CROFT_SCHED_CORE_FINISH_H

#include "sched/core/core.h"

void finisher_open(struct croft_sched *sched);
/* Ends what waits, then its thread. */
void finisher_close(struct croft_sched *sched);
/* Takes all JobDone of the message, and its arena; returns at once. The scheduler's lock is held. */
void finish(struct croft_sched *sched, const char *agent_id, const Farm__AgentMessage *message,
	struct croft_arena *arena);

#endif
