/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The complete stdout and stderr of a running job, kept on disk until they are uploaded.
 */
#ifndef CROFT_AGENT_LOGS_H
#define CROFT_AGENT_LOGS_H

#include "fs/remote.h"

/* Of stdout and stderr each; a job that prints more is ended. */
enum { CROFT_JOB_LOG_BYTES = 256 << 20 };

struct croft_job_logs;

bool croft_job_logs_open(const char *folder, const char *lease, struct croft_job_logs **logs,
	struct croft_error *err);
/* stream 1 or 2. A failed write is told by finish. One thread at a time. */
void croft_job_logs_append(struct croft_job_logs *logs, int stream, struct croft_slice data);
/* How much was appended. */
uint64_t croft_job_logs_size(const struct croft_job_logs *logs, int stream);
/* The last bytes (1 MiB at the most), in the arena, for a server that was restarted. */
struct croft_slice croft_job_logs_tail(const struct croft_job_logs *logs, int stream,
	struct croft_arena *arena);
/* Queues both for upload and names them in the result. */
bool croft_job_logs_finish(struct croft_job_logs *logs, struct croft_upload *upload,
	Reapi__ActionResult *result, struct croft_arena *arena, struct croft_error *err);
/* Removes the files; the upload must have been flushed. NULL is fine. */
void croft_job_logs_destroy(struct croft_job_logs *logs);

#endif
