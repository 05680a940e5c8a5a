/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of sched/services share. */
#ifndef CROFT_SCHED_SERVICES_INTERNAL_H
#define CROFT_SCHED_SERVICES_INTERNAL_H

#include "fs/private.h"
#include "sched/services.h"

#include "google/rpc/status.pb-c.h"

/* Of the blobs in one batch call. Below gRPC's usual limit of 4 MiB for a message, so that a client
 * that keeps to that limit can read an answer with its digests and statuses. */
enum { BATCH_BYTES = 4000000 };

/* Data in one message of a stream. */
enum { STREAM_CHUNK_BYTES = 1 << 20 };

struct origins;
struct reflection;
struct uploads;
struct watchers;

struct croft_services {
	struct croft_store *store;
	struct croft_sched *sched;
	struct croft_upstream *upstream;
	bool private_blobs;
	struct uploads *uploads;
	struct origins *origins;
	char *folder; /* for what is being unpacked */
	struct watchers *watchers;
	struct reflection *reflection;
};

void serve_capabilities(struct croft_services *services, struct croft_server *server);
void serve_cas(struct croft_services *services, struct croft_server *server);
void serve_chunks(struct croft_services *services, struct croft_server *server);
void serve_get_tree(struct croft_services *services, struct croft_server *server);
void serve_byte_stream_read(struct croft_services *services, struct croft_server *server);
void serve_byte_stream_write(struct croft_services *services, struct croft_server *server);
void serve_action_cache(struct croft_services *services, struct croft_server *server);
void serve_assets(struct croft_services *services, struct croft_server *server);
void serve_names(struct croft_services *services, struct croft_server *server);
void serve_health(struct croft_services *services, struct croft_server *server);
void serve_reflection(struct croft_services *services, struct croft_server *server);

struct reflection *reflection_create(bool executes);
void reflection_destroy(struct reflection *reflection);

struct watchers *watchers_create(void);
/* Tells every Health.Watch that the server is going, and ends it. */
void watchers_stop(struct watchers *watchers);
void watchers_destroy(struct watchers *watchers);

/* Who asks, where that decides about what blobs there are: CROFT_EVERYTHING where blobs are not private. */
static inline struct croft_slice tenant_of(const struct croft_services *services, const char *instance_name)
{
	return croft_tenant(services->private_blobs, croft_slice_str(instance_name));
}
/* As croft_upstream_find_missing, and what the tenant may not know of is missing. */
bool find_missing_for(struct croft_services *services, struct croft_slice tenant,
	const struct croft_digest *digests, size_t count, bool *missing, struct croft_error *err);

/* Common to all (common.c) --------------------------------------------------------------------- */

/* The field that says how digests were computed: unset means SHA-256, the only one that is served. */
bool digest_function_check(Reapi__DigestFunction__Value function, struct croft_error *err);
/* As croft_digest_from_message, and a size of 0 goes with the empty blob's hash only. */
bool digest_read(const Reapi__Digest *message, const char *what, struct croft_digest *digest,
	struct croft_error *err);
bool digest_check_empty(const struct croft_digest *digest, const char *what,
	struct croft_error *err);
/* NULL: OK. */
GoogleRpc__Status *status_message(const struct croft_error *err, struct croft_arena *arena);
/* FAILED_PRECONDITION that names the first one, with a PreconditionFailure of type MISSING for each,
 * which clients understand as "upload these again". */
bool fail_missing(struct croft_call *call, const char *what, const struct croft_digest *missing,
	size_t count, struct croft_error *err);

#endif
