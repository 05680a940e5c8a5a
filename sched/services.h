/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The services that clients call for content: Capabilities, ContentAddressableStorage, ByteStream,
 * ActionCache, Remote Asset, health and reflection, over one store.
 */
#ifndef CROFT_SCHED_SERVICES_H
#define CROFT_SCHED_SERVICES_H

#include "fs/store.h"
#include "fs/upstream.h"
#include "proto/rpc/server.h"
#include "sched/sched.h"

struct croft_services;

struct croft_services_config {
	struct croft_store *store; /* borrowed */
	struct croft_sched *sched; /* borrowed; NULL: no execution (Capabilities say so) */
	struct croft_upstream *upstream; /* borrowed; NULL: none */
	/* URLs, ending with a slash, below which assets are fetched that nobody pushed; none: nothing is. */
	const char *const *asset_origins;
	size_t asset_origin_count;
	bool private_blobs; /* see fs/private.h; not with an upstream */
	const char *folder; /* for what is being fetched; NULL: /var/tmp */
};

struct croft_services *croft_services_create(const struct croft_services_config *config,
	struct croft_error *err);
void croft_services_serve(struct croft_services *services, struct croft_server *server);
/* Before the server's shutdown: ends the calls that would otherwise wait for it (Health.Watch). */
void croft_services_stop(struct croft_services *services);
/* After the server is gone. */
void croft_services_destroy(struct croft_services *services);

#endif
