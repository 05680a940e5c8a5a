/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The farm's calls for a job that asks for them (platform property remoteApisSocketPath, as BuildBox has it): a
 * socket that is mounted into its sandbox, and leads to the agent's own server, byte for byte.
 *
 *	struct croft_nested *nested = croft_nested_start("/state/jobs/LEASE.sock", "grpc://farm:8980", &err);
 *	mounts[0] = (struct croft_sandbox_mount){.source = "/state/jobs/LEASE.sock", .target = "/run/farm.sock"};
 *	…
 *	croft_nested_stop(nested);
 */
#ifndef CROFT_AGENT_NESTED_H
#define CROFT_AGENT_NESTED_H

#include "proto/base/error.h"

struct croft_nested;

/* `server` is "grpc://HOST:PORT", "HOST:PORT" or "unix:/PATH". Its threads live until the stop. */
struct croft_nested *croft_nested_start(const char *path, const char *server, struct croft_error *err);
/* Cuts the connections and removes the socket. NULL is fine. */
void croft_nested_stop(struct croft_nested *nested);

#endif
