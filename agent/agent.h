/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One machine's part of a farm: takes jobs from the scheduler, runs them over the lazy filesystem,
 * uploads what they made.
 */
#ifndef CROFT_AGENT_H
#define CROFT_AGENT_H

#include "fs/daemon.h" /* enum croft_staging */
#include "proto/base/error.h"
#include "proto/rpc/server.h" /* struct croft_tls */

#include <stddef.h>

struct croft_agent_config {
	const char *server;   /* gRPC target */
	const char *state;    /* directory: id, fs/ (cache, mount), sandboxes/ */
	const char *name;     /* NULL: host name */
	unsigned slots;       /* 0: one per CPU */
	const char *const *properties; /* "key=value"; OSFamily and ISA are added */
	size_t property_count;
	/* For jobs whose input root is no "/": an absolute directory, or the digest or name of a tree in the
	 * farm; or NULL. */
	const char *root_image;
	const char *plane_address; /* where to serve the cache to other agents; NULL: where they find us */
	bool no_peers;             /* neither serve them nor ask them */
	uint64_t cache_bytes;
	bool classic_fuse; /* /dev/fuse even where io_uring is offered (fs/daemon.h) */
	enum croft_staging staging; /* how inputs come to jobs */
	bool allow_nested;  /* jobs that ask for remoteApisSocketPath get at the farm's calls */
	bool allow_network; /* jobs that ask for network=on get this machine's network */
	const struct croft_tls *tls; /* or NULL */
	const char *key_file; /* with what the server asks of its agents; or NULL */
};

/* Runs until SIGTERM or SIGINT: then takes no more jobs, ends the running ones and leaves. At SIGUSR2 the filesystem
 * daemon is replaced by the program that now stands where this one was started from. Reconnects by itself for as
 * long as it lives. Must be called before the process has threads. */
bool croft_agent_run(const struct croft_agent_config *config, struct croft_error *err);

#endif
