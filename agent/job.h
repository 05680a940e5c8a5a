/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One job on this machine: from the scheduler's Job message to the JobDone message.
 */
#ifndef CROFT_AGENT_JOB_H
#define CROFT_AGENT_JOB_H

#include "agent/machine.h"

#include "croft/v1/farm.pb-c.h"

struct croft_job;

/* Takes the arena that `message` lives in. */
struct croft_job *croft_job_create(const struct croft_machine *machine, const Farm__Job *message,
	struct croft_arena *arena);
const char *croft_job_lease(const struct croft_job *job);
/* Runs it to its end on the calling thread. Always leaves a JobDone to be had. */
void croft_job_run(struct croft_job *job);
/* From any thread: ends the job with this reason; its result is CANCELLED. */
void croft_job_cancel(struct croft_job *job, const char *reason);
/* After the run: what to report; lives as long as the job. */
const Farm__AgentMessage *croft_job_report(const struct croft_job *job);
void croft_job_destroy(struct croft_job *job);

#endif
