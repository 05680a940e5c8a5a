/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sched/core: the operation log, a line for each run that ended, from which `croft bench locality`
 * makes a trace. The lines are described in docs/locality.md.
 *
 * It promises nothing and costs little: lines are written together, after everybody was told, and not synced. One
 * that cannot be written is lost, which is told once. At half the size the file becomes the older one, in place of
 * the one before.
 *
 * One thread at a time.
 */
#ifndef CROFT_SCHED_CORE_OPLOG_H
#define CROFT_SCHED_CORE_OPLOG_H

#include "proto/base/error.h"
#include "sched/placement.h"

#include "croft/v1/farm.pb-c.h"

/* A run as the scheduler knows it; what its agent says is in JobDone. */
struct oplog_run {
	const char *operation, *agent_id;
	unsigned slots; /* of the agent */
	unsigned attempt; /* 1: it was given to no agent before */
	int64_t queued_unix_ns, leased_unix_ns; /* 0: not known, since a restart */
	int32_t priority;
	struct croft_placement_job_info info; /* tenant, kind and family of it */
};

struct oplog;
/* `most_bytes` of the two files together. */
struct oplog *oplog_open(const char *path, uint64_t most_bytes);
void oplog_add(struct oplog *log, const struct oplog_run *run, const Farm__JobDone *done, double run_seconds);
/* Writes what was added. */
void oplog_flush(struct oplog *log);
void oplog_close(struct oplog *log);

#endif
