/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blob plane: HTTP/1.1 on one io_uring thread, straight from a store.
 *
 *	GET, HEAD /cas/<sha256>           Range, keep-alive, pipelining; zstd when accepted
 *	GET, HEAD /chunks/<sha256>        how a large blob is made of chunks: "<sha256>-<size>" lines
 *	PUT       /cas/<sha256>           verified before it is stored; Expect: 100-continue
 *	GET, HEAD, PUT  /ac/<sha256>      ActionResults, as Bazel's HTTP cache does, and any other
 *	                                  value, as ccache does
 *	POST      /batch                  many small blobs in one round trip; see docs/blob-plane.md
 *
 * Each may have an instance name before it (/INSTANCE/ac/<sha256>), which tells whose action cache is
 * meant; blobs are the same to all.
 *
 * /batch: the body is the wanted digests, one "<sha256>-<size>\n" each. The answer holds, in the
 * order asked, for each one the line "<sha256>-<size> <status>\n" (status 200 or 404) and, for 200,
 * exactly <size> raw bytes. It is sent as it is read (chunked transfer).
 *
 * What a client can make it hold is bounded: header bytes, requests in flight, idle time.
 */
#ifndef CROFT_FS_PLANE_H
#define CROFT_FS_PLANE_H

#include "fs/store.h"
#include "fs/upstream.h"
#include "proto/rpc/server.h" /* struct croft_tls */

struct croft_plane;

struct croft_plane_config {
	const char *address;      /* "127.0.0.1:0", "[::]:8981" */
	struct croft_store *store; /* borrowed */
	const char *instance_name; /* whose action cache a bare /ac/ is; "" by default */
	bool writable;             /* PUT allowed; agents serve read-only */
	/* HTTPS, and nothing else; with authorities for clients with certificates of theirs only. NULL: HTTP. */
	const struct croft_tls *tls;
	/* What tenants (the instance names of paths, and instance_name for paths without one) may not know of is not
	 * there: fs/private.h. Who has full_key sees all. */
	bool private_blobs;
	const char *full_key;
	const char *key; /* that clients must know (user "croft", Basic); NULL: whoever can connect may ask */
	struct croft_upstream *upstream; /* borrowed; NULL: none */
	unsigned idle_ms;          /* 0: 60 s */
	unsigned connections;      /* 0: 4096 */
};

/* Starts its thread. */
struct croft_plane *croft_plane_start(const struct croft_plane_config *config,
	struct croft_error *err);
int croft_plane_port(const struct croft_plane *plane);
struct croft_plane_stat {
	uint64_t connections, requests, bytes_sent, bytes_received;
};
void croft_plane_stat(const struct croft_plane *plane, struct croft_plane_stat *stat);
void croft_plane_stop(struct croft_plane *plane);

#endif
