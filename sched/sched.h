/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server's half of a farm: operations, the queue, placement, and the agents' sessions.
 *
 *	struct croft_sched *sched = croft_sched_open(&config, &err);
 *	croft_sched_serve(sched, server);   // Execution, Operations, Agents, Farm
 *
 * Operation life: QUEUED, LEASED, RUNNING, COMPLETED. Every transition is on disk before anyone hears
 * of it.
 */
#ifndef CROFT_SCHED_H
#define CROFT_SCHED_H

#include "fs/store.h"
#include "fs/upstream.h"
#include "proto/rpc/server.h"

struct croft_sched;

struct croft_sched_config {
	const char *path;           /* directory of the journal */
	const char *log_path;       /* operation log, a line for each run; NULL: none */
	uint64_t log_bytes;         /* the most that it may take, with the older one beside it */
	struct croft_store *store;  /* borrowed */
	struct croft_upstream *upstream; /* borrowed; NULL: none */
	const char *blob_url;       /* told to agents: ":PORT" or "host:PORT", or these behind "https://" */
	const char *blob_key;       /* told likewise: what blob planes ask for; NULL: nothing */
	bool private_blobs;         /* see fs/private.h; not with an upstream */
	/* That agents must know; they are told this one as what blob planes ask for, and see all. NULL: whoever can
	 * connect may be an agent. */
	const char *agent_key;
	const char *policy;         /* "locality" (the default, also for NULL), "random", "least-loaded", … */
	uint64_t default_timeout_ms, max_timeout_ms; /* 0: none */
	uint64_t stall_cap_ms; /* by which waiting for lazy fetches may stretch a timeout; 0: 10 minutes */
	unsigned max_attempts;      /* of a job whose agents were lost; 0: 3 */
	unsigned heartbeat_ms;      /* 0: 2000; an agent is lost after 5 without a word */
	unsigned reconnect_ms;      /* that an agent may take to come back when its stream closed; 0: 3 heartbeats */
	size_t queue_limit;         /* operations that wait, in all; 0: 1,000,000 */
	uint64_t unfit_ms; /* how long jobs wait that no agent fits; 0: a minute */
	uint64_t abandon_ms; /* how long jobs stay queued that nobody waits for; 0: five minutes; UINT64_MAX: for ever */
	size_t tenant_limit;        /* of one build (instance and invocation), with those that run; 0: 500,000 */
};

struct croft_sched *croft_sched_open(const struct croft_sched_config *config,
	struct croft_error *err);
/* Adds the services Execution, Operations, croft.v1.Agents and croft.v1.Farm. */
void croft_sched_serve(struct croft_sched *sched, struct croft_server *server);
/* Logs of running operations, for ByteStream.Read of "operations/NAME/stdout|stderr" (the names are
 * in ExecuteOperationMetadata's stdout_stream_name and stderr_stream_name). Bytes from offset on,
 * waiting up to wait_ms for more; 0 bytes and *finished at its end. */
bool croft_sched_read_log(struct croft_sched *sched, const char *resource_name, uint64_t offset,
	struct croft_arena *arena, struct croft_slice *data, bool *finished, unsigned wait_ms,
	struct croft_error *err);
void croft_sched_close(struct croft_sched *sched);

#endif
