/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Other agents: where they find this one's blobs, and which of them the jobs that run here were told to
 * ask for theirs.
 */
#ifndef CROFT_AGENT_PEERS_H
#define CROFT_AGENT_PEERS_H

#include "fs/daemon.h"

#include "croft/v1/farm.pb-c.h"

/* The address of this machine that packets to the server (a gRPC target) leave from, in the arena and
 * in brackets if it is an IPv6 one: others of its farm reach this machine there, too. "127.0.0.1" for a
 * server on a unix socket; NULL: it cannot be told. */
const char *croft_peers_own_host(const char *server, struct croft_arena *arena);

/* "HOST:PORT" for others, of a plane that listens at `listening` on that port: a wildcard is this
 * machine's address towards the server. */
const char *croft_peers_own_url(const char *listening, int port, const char *server,
	struct croft_arena *arena);

/* The peers of all jobs that run here, told to the filesystem daemon. Thread-safe. */
struct croft_peers;
struct croft_peers *croft_peers_create(void);
void croft_peers_destroy(struct croft_peers *peers);
/* Around each job's run, with the same message. `daemon` is told at the beginning only: peers of jobs
 * that are over do no harm. */
void croft_peers_begin(struct croft_peers *peers, struct croft_daemon *daemon, const Farm__Job *job);
void croft_peers_end(struct croft_peers *peers, const Farm__Job *job);

#endif
