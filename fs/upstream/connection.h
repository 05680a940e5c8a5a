/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to fs/upstream: requests to an HTTP server, each on the thread that asks, over connections
 * that are kept for the next ones.
 */
#ifndef CROFT_FS_UPSTREAM_CONNECTION_H
#define CROFT_FS_UPSTREAM_CONNECTION_H

#include "proto/base/error.h"
#include "proto/base/slice.h"
#include "proto/rpc/server.h" /* struct croft_tls */

#include <stdint.h>
#include <sys/types.h>

struct upstream_host;

/* "host", "host:port", "[v6]:port". `tls`: its certificate must be for that name, and of the authorities (NULL in it:
 * the system's); NULL: in clear text. */
struct upstream_host *upstream_host_create(const char *address, const struct croft_tls *tls, unsigned timeout_ms,
	struct croft_error *err);
void upstream_host_destroy(struct upstream_host *host);
/* For the Host field. Borrowed. */
const char *upstream_host_address(const struct upstream_host *host);

struct upstream_answer {
	int status;
	bool has_length;
	uint64_t length;
	bool is_coded; /* in a Content-Encoding */
};

struct upstream_request {
	const char *method, *path;
	const char *fields; /* more lines of the head, each with its end; NULL: none */
	/* The request's body: exactly the bytes at the offset, or fewer; ≤ 0: there are none. */
	ssize_t (*give)(void *user, void *buffer, size_t size, uint64_t offset);
	uint64_t body_size;
	/* The answer's. False from either: the rest is not wanted. NULL: none of it is. */
	bool (*begin)(void *user, const struct upstream_answer *answer);
	bool (*take)(void *user, struct croft_slice piece);
	void *user;
	bool complete; /* set: the whole body was taken */
};

/* False: there was no whole answer (UNAVAILABLE). */
bool upstream_ask(struct upstream_host *host, struct upstream_request *request, int *status,
	struct croft_error *err);

#endif
