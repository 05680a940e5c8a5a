/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fetching assets from where they come from, over http and https, of URLs that begin with one of the
 * configured prefixes, after every redirect too: without any, nothing is ever fetched.
 */
#ifndef CROFT_SCHED_SERVICES_ORIGIN_H
#define CROFT_SCHED_SERVICES_ORIGIN_H

#include "fs/store.h"
#include "proto/rpc/server.h"

struct origins;

/* Each prefix is a URL that ends with a slash. What is being fetched is kept in a nameless file in `folder`. */
struct origins *origins_create(const char *const *prefixes, size_t count, const char *folder,
	struct croft_error *err);
void origins_destroy(struct origins *origins); /* NULL is fine */

bool origins_allow(const struct origins *origins, const char *uri);

struct origin_request {
	const char *uri;
	const char *integrity; /* as W3C's Subresource Integrity has it, "sha256-<base64>"; NULL: any bytes */
	uint64_t timeout_ms;   /* 0: none but that it must go on */
};
/* Into the store. NOT_FOUND; PERMISSION_DENIED: not allowed, or redirected to what is not; ABORTED: not what
 * `integrity` says; UNAVAILABLE and DEADLINE_EXCEEDED: the origin's fault. Ends early with the call. */
bool origin_fetch(const struct origins *origins, struct croft_store *store, struct croft_call *call,
	const struct origin_request *request, struct croft_digest *digest, struct croft_error *err);

#endif
