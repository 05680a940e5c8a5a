/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The jobs of this agent: a thread for each that runs, and the results that the server has not acknowledged.
 * Thread-safe.
 */
#ifndef CROFT_AGENT_JOBS_H
#define CROFT_AGENT_JOBS_H

#include "agent/machine.h"

#include "croft/v1/farm.pb-c.h"

struct croft_jobs;
/* At most `slots` run at once. `machine` outlives it. */
struct croft_jobs *croft_jobs_create(const struct croft_machine *machine, unsigned slots);
/* After croft_jobs_end. */
void croft_jobs_destroy(struct croft_jobs *jobs);

/* Takes the arena that `message` lives in. A job that cannot be taken is refused to the server. */
void croft_jobs_start(struct croft_jobs *jobs, const Farm__Job *message, struct croft_arena *arena);
void croft_jobs_cancel(struct croft_jobs *jobs, const char *lease, const char *reason);
/* The server has the result: the job is forgotten once it has ended. */
void croft_jobs_acknowledge(struct croft_jobs *jobs, const char *lease);
/* Sends every result that was not acknowledged. */
void croft_jobs_resend(struct croft_jobs *jobs);

/* How many hold a slot. */
uint32_t croft_jobs_active(struct croft_jobs *jobs);
/* The leases of all jobs, in the arena. */
size_t croft_jobs_leases(struct croft_jobs *jobs, char ***leases, struct croft_arena *arena);

/* From now on every further job is refused. */
void croft_jobs_close(struct croft_jobs *jobs);
/* Gives what runs back to the queue, for `reason`; it runs on until croft_jobs_end. */
void croft_jobs_give_back(struct croft_jobs *jobs, const char *reason);
/* Cancels what runs, waits for it and forgets all. */
void croft_jobs_end(struct croft_jobs *jobs, const char *reason);

#endif
