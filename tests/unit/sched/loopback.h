/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A store in a temporary folder behind the services on a loopback port, and a channel to it. */
#ifndef CROFT_TESTS_UNIT_SCHED_LOOPBACK_H
#define CROFT_TESTS_UNIT_SCHED_LOOPBACK_H

#include "proto/base/io.h"
#include "proto/rpc/client.h"
#include "sched/services.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

struct loopback {
	char folder[64];
	struct croft_store *store;
	struct croft_services *services;
	struct croft_server *server;
	struct croft_channel *channel;
	struct croft_arena *arena;
	const char *const *origins; /* to be set before the start */
	size_t origin_count;
	bool private_blobs;
	bool in_files; /* what is over 64 KiB, so that each can be evicted by itself */
	uint64_t lease_ms;
};

static inline void loopback_start(struct loopback *loopback)
{
	struct croft_error err = CROFT_ERROR_INIT;
	const char *base = getenv("TMPDIR");
	snprintf(loopback->folder, sizeof(loopback->folder), "%s/croft-test-XXXXXX",
		base && strlen(base) < 40 ? base : "/tmp");
	assert_non_null(mkdtemp(loopback->folder));
	loopback->arena = croft_arena_create();
	loopback->store = croft_store_open(
		&(struct croft_store_config){.path = loopback->folder, .budget_bytes = 1 << 30, .chunked = !loopback->in_files,
			.lease_ms = loopback->lease_ms}, &err);
	assert_ok(loopback->store, err);
	loopback->services = croft_services_create(
		&(struct croft_services_config){.store = loopback->store,
			.asset_origins = loopback->origins, .asset_origin_count = loopback->origin_count,
			.private_blobs = loopback->private_blobs,
			.folder = loopback->folder}, &err);
	assert_ok(loopback->services, err);
	loopback->server =
		croft_server_create(&(struct croft_server_config){.address = "127.0.0.1:0"}, &err);
	assert_ok(loopback->server, err);
	croft_services_serve(loopback->services, loopback->server);
	assert_ok(croft_server_start(loopback->server, &err), err);
	char target[32];
	snprintf(target, sizeof(target), "127.0.0.1:%d", croft_server_port(loopback->server));
	loopback->channel = croft_channel_create(target, NULL, &err);
	assert_ok(loopback->channel, err);
}

static inline void loopback_stop(struct loopback *loopback)
{
	croft_channel_destroy(loopback->channel);
	croft_services_stop(loopback->services);
	croft_server_shutdown(loopback->server, 1000);
	croft_server_destroy(loopback->server);
	croft_services_destroy(loopback->services);
	croft_store_close(loopback->store);
	croft_arena_destroy(loopback->arena);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_remove_tree(AT_FDCWD, loopback->folder, &err), err);
}

/* Stores the bytes behind the services' back. */
static inline struct croft_digest loopback_put(struct loopback *loopback, const void *data, size_t size)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest digest = croft_digest_of(data, size);
	assert_ok(croft_store_put(loopback->store, &digest, CROFT_SLICE(data, size), &err), err);
	return digest;
}

#endif
