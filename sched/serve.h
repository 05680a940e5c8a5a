/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The whole server in one process: store, scheduler, services, blob plane.
 */
#ifndef CROFT_SCHED_SERVE_H
#define CROFT_SCHED_SERVE_H

#include "proto/rpc/server.h"
#include "sched/sched.h"

struct croft_serve_config {
	const char *state;         /* directory: store/ and journal/ below it */
	const char *address;       /* gRPC; NULL: "127.0.0.1:8980" */
	const char *plane_address; /* blob plane; NULL: the same host, port 8981 */
	/* File with the key that it asks for. NULL: STATE/plane-key where clients need certificates, else no key. */
	const char *plane_key_file;
	const struct croft_tls *tls; /* or NULL */
	/* What a client did not put itself, or what was not made for its instance, is not there for it (fs/private.h).
	 * Agents must know the key in STATE/agent-key, which is made if it is not there. Not with an upstream. */
	bool private_blobs;
	const char *policy;
	uint64_t unfit_ms, abandon_ms; /* as sched.h */
	uint64_t queue_limit, build_limit; /* operations that wait, in all and of one build; 0: as sched.h */
	const char *upstream_url, *upstream_authority_file; /* see fs/upstream.h; NULL: none */
	const char *const *asset_origins; /* see sched/services.h */
	size_t asset_origin_count;
	uint64_t scrub_bytes_per_second; /* see fs/store.h */
	uint64_t log_bytes; /* of STATE/operations.log, with the older one; 0: none is kept */
	uint64_t budget_bytes;
	/* Called once both ports are bound (tests and `croft farm` need the ports). */
	void (*ready)(void *user, int port, int plane_port);
	void *user;
};

/* Serves until SIGTERM or SIGINT, then shuts down cleanly. */
bool croft_serve_run(const struct croft_serve_config *config, struct croft_error *err);

#endif
