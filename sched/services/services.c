/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/internal.h"

#include "sched/services/origin.h"
#include "sched/services/uploads.h"

#include <stdlib.h>

struct croft_services *croft_services_create(const struct croft_services_config *config,
	struct croft_error *err)
{
	struct origins *origins = origins_create(
		config->asset_origins, config->asset_origin_count, config->folder, err);
	if (!origins)
		return NULL;
	struct croft_services *services = croft_zalloc(sizeof(*services));
	services->origins = origins;
	services->folder = croft_strdup(config->folder ? config->folder : "/var/tmp");
	services->store = config->store;
	services->sched = config->sched;
	services->upstream = config->upstream;
	services->private_blobs = config->private_blobs;
	services->uploads = uploads_create(config->store);
	services->watchers = watchers_create();
	services->reflection = reflection_create(config->sched != NULL);
	return services;
}

void croft_services_serve(struct croft_services *services, struct croft_server *server)
{
	serve_capabilities(services, server);
	serve_cas(services, server);
	serve_chunks(services, server);
	serve_get_tree(services, server);
	serve_byte_stream_read(services, server);
	serve_byte_stream_write(services, server);
	serve_action_cache(services, server);
	serve_assets(services, server);
	serve_names(services, server);
	serve_health(services, server);
	serve_reflection(services, server);
}

void croft_services_stop(struct croft_services *services)
{
	watchers_stop(services->watchers);
}

void croft_services_destroy(struct croft_services *services)
{
	if (!services)
		return;
	uploads_destroy(services->uploads);
	origins_destroy(services->origins);
	watchers_destroy(services->watchers);
	reflection_destroy(services->reflection);
	free(services->folder);
	free(services);
}
