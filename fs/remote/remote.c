/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/remote/internal.h"

#include "fs/chunker.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <stdatomic.h>
#include <time.h>

enum {
	/* Batches of our own stay below gRPC's usual limit of 4 MiB for a message. */
	BATCH_BYTES = 4000000,
	FIND_DIGESTS = 10000,
	THREADS = 4,
	FIRST_PAUSE_MS = 50,
	LONGEST_PAUSE_MS = 2000,
};
/* A server that is started anew is back within this time. */
#define RETRY_NS (UINT64_C(30) * 1000000000)

struct croft_remote *croft_remote_create(struct croft_channel *channel, const char *instance_name)
{
	struct croft_remote *remote = croft_zalloc(sizeof(*remote));
	remote->channel = channel;
	remote->instance_name = croft_strdup(instance_name);
	remote->directories = croft_digest_map_create();
	pthread_mutex_init(&remote->lock, NULL);
	return remote;
}

void croft_remote_destroy(struct croft_remote *remote)
{
	if (!remote)
		return;
	remote_tree_forget(remote);
	croft_digest_map_destroy(remote->directories);
	pthread_mutex_destroy(&remote->lock);
	free(remote->instance_name);
	free(remote);
}

void croft_remote_set_patience(struct croft_remote *remote, uint64_t patience_ms)
{
	remote->patience_ms = patience_ms;
}

bool remote_not_found(const struct croft_digest *digest, struct croft_error *err)
{
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '/', text);
	return croft_error_set(err, CROFT_NOT_FOUND, "blob %s is not on the server", text);
}

const char *remote_prefix(struct croft_remote *remote, struct croft_arena *arena)
{
	return remote->instance_name[0] ? croft_arena_printf(arena, "%s/", remote->instance_name) : "";
}

/* Retries -------------------------------------------------------------------------------------- */

void remote_retry_reset(struct remote_retry *retry)
{
	*retry = (struct remote_retry){.remote = retry->remote};
}

bool remote_retry(struct remote_retry *retry, const struct croft_error *err)
{
	if (err->code != CROFT_UNAVAILABLE)
		return false;
	if (retry->started_ns == 0) {
		retry->started_ns = croft_now_ns();
		retry->pause_ms = FIRST_PAUSE_MS;
	} else {
		uint64_t patience_ms = retry->remote->patience_ms;
		if (croft_now_ns() - retry->started_ns > (patience_ms ? patience_ms * 1000000 : RETRY_NS))
			return false;
	}
	struct timespec pause = {retry->pause_ms / 1000, (long)(retry->pause_ms % 1000) * 1000000};
	nanosleep(&pause, NULL);
	retry->pause_ms *= 2;
	if (retry->pause_ms > LONGEST_PAUSE_MS)
		retry->pause_ms = LONGEST_PAUSE_MS;
	return true;
}

void *croft_remote_call(struct croft_remote *remote, const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, struct croft_arena *arena,
	struct croft_error *err)
{
	struct remote_retry retry = {.remote = remote};
	const struct croft_call_options options = {.timeout_ms = remote->patience_ms};
	struct croft_error failure;
	do {
		failure = CROFT_ERROR_INIT;
		void *message =
			croft_unary(remote->channel, &options, path, request, response, arena, &failure);
		if (message)
			return message;
	} while (remote_retry(&retry, &failure));
	croft_error_set(err, failure.code, "%s", failure.message);
	return NULL;
}

/* Capabilities ----------------------------------------------------------------------------------- */

static bool cuts_as_we_do(const Reapi__CacheCapabilities *cache)
{
	const Reapi__FastCdc2020Params *params = cache->fast_cdc_2020_params;
	return cache->split_blob_support && cache->splice_blob_support && params &&
		params->avg_chunk_size_bytes == CROFT_CHUNK_AVERAGE && params->seed == 0;
}

static bool ask_abilities(struct croft_remote *remote, struct remote_abilities *abilities,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__GetCapabilitiesRequest request = REAPI__GET_CAPABILITIES_REQUEST__INIT;
	request.instance_name = remote->instance_name;
	struct croft_error failure = CROFT_ERROR_INIT;
	const Reapi__ServerCapabilities *capabilities = croft_remote_call(remote,
		"/build.bazel.remote.execution.v2.Capabilities/GetCapabilities", &request.base,
		&reapi__server_capabilities__descriptor, arena, &failure);
	*abilities = (struct remote_abilities){.batch_bytes = BATCH_BYTES};
	/* A bare CAS need not have the service. */
	if (!capabilities && failure.code == CROFT_UNIMPLEMENTED)
		return true;
	if (!capabilities)
		return croft_error_set(
			err, failure.code, "asking for capabilities: %s", failure.message);
	const Reapi__CacheCapabilities *cache = capabilities->cache_capabilities;
	if (cache && cache->max_batch_total_size_bytes > 0 &&
		cache->max_batch_total_size_bytes < BATCH_BYTES)
		abilities->batch_bytes = (uint64_t)cache->max_batch_total_size_bytes;
	abilities->splices = cache && cuts_as_we_do(cache) &&
		abilities->batch_bytes >= CROFT_CHUNK_MOST + REMOTE_ENTRY_BYTES;
	return true;
}

bool remote_abilities(struct croft_remote *remote, struct remote_abilities *abilities,
	struct croft_error *err)
{
	pthread_mutex_lock(&remote->lock);
	*abilities = remote->abilities;
	pthread_mutex_unlock(&remote->lock);
	/* Two threads that ask at once get the same answer. */
	if (abilities->batch_bytes == 0 && !ask_abilities(remote, abilities, err))
		return false;
	pthread_mutex_lock(&remote->lock);
	remote->abilities = *abilities;
	pthread_mutex_unlock(&remote->lock);
	return true;
}

bool remote_batch_bytes(struct croft_remote *remote, uint64_t *bytes, struct croft_error *err)
{
	struct remote_abilities abilities;
	bool ok = remote_abilities(remote, &abilities, err);
	*bytes = abilities.batch_bytes;
	return ok;
}

/* Threads -------------------------------------------------------------------------------------- */

struct parallel {
	bool (*job)(void *user, size_t index, struct croft_error *err);
	void *user;
	size_t count;
	atomic_size_t next;
	pthread_mutex_t lock; /* guards: err */
	struct croft_error err;
};

static void *parallel_thread(void *user)
{
	struct parallel *parallel = user;
	size_t index;
	while ((index = atomic_fetch_add(&parallel->next, 1)) < parallel->count) {
		struct croft_error err = CROFT_ERROR_INIT;
		if (parallel->job(parallel->user, index, &err))
			continue;
		CROFT_LOCKED(&parallel->lock);
		if (parallel->err.code == CROFT_OK)
			parallel->err = err;
		atomic_store(&parallel->next, parallel->count);
	}
	return NULL;
}

bool remote_parallel(size_t count, bool (*job)(void *user, size_t index, struct croft_error *err),
	void *user, struct croft_error *err)
{
	if (count == 0)
		return true;
	if (count == 1)
		return job(user, 0, err);
	struct parallel parallel = {.job = job, .user = user, .count = count};
	pthread_t threads[THREADS];
	size_t started = 0;
	pthread_mutex_init(&parallel.lock, NULL);
	/* This thread is one of them; should no other start, it does all the work. */
	while (started < THREADS - 1 && started + 1 < count &&
		pthread_create(&threads[started], NULL, parallel_thread, &parallel) == 0)
		started++;
	parallel_thread(&parallel);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	pthread_mutex_destroy(&parallel.lock);
	if (parallel.err.code != CROFT_OK && err)
		*err = parallel.err;
	return parallel.err.code == CROFT_OK;
}

/* FindMissingBlobs ----------------------------------------------------------------------------- */

struct finding {
	struct croft_remote *remote;
	const struct croft_digest *digests;
	size_t count;
	bool *missing;
};

/* One request's part of the digests. The answer lists those that are missing, in any order. */
static bool find_part(void *user, size_t index, struct croft_error *err)
{
	struct finding *finding = user;
	size_t start = index * FIND_DIGESTS;
	size_t end = finding->count - start < FIND_DIGESTS ? finding->count : start + FIND_DIGESTS;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__FindMissingBlobsRequest request = REAPI__FIND_MISSING_BLOBS_REQUEST__INIT;
	request.instance_name = finding->remote->instance_name;
	request.blob_digests = croft_arena_array(arena, end - start, sizeof(void *));
	for (size_t i = start; i < end; i++)
		if (!croft_digest_is_empty(&finding->digests[i]))
			request.blob_digests[request.n_blob_digests++] =
				croft_digest_to_message(&finding->digests[i], arena);
	if (request.n_blob_digests == 0)
		return true;
	const Reapi__FindMissingBlobsResponse *response =
		croft_remote_call(finding->remote, REMOTE_CAS "FindMissingBlobs", &request.base,
			&reapi__find_missing_blobs_response__descriptor, arena, err);
	if (!response)
		return croft_error_wrap(err, "asking for missing blobs");
	struct croft_digest_map *named = croft_digest_map_create();
	bool ok = true;
	for (size_t i = 0; ok && i < response->n_missing_blob_digests; i++) {
		struct croft_digest digest;
		ok = croft_digest_from_message(
			response->missing_blob_digests[i], "FindMissingBlobs' answer", &digest, err);
		if (ok)
			*croft_digest_map_at(named, &digest) = named;
	}
	for (size_t i = start; ok && i < end; i++)
		finding->missing[i] = croft_digest_map_get(named, &finding->digests[i]) != NULL;
	croft_digest_map_destroy(named);
	return ok;
}

bool croft_remote_find_missing(struct croft_remote *remote, const struct croft_digest *digests,
	size_t count, bool *missing, struct croft_error *err)
{
	struct finding finding = {remote, digests, count, missing};
	memset(missing, 0, count * sizeof(*missing));
	return remote_parallel((count + FIND_DIGESTS - 1) / FIND_DIGESTS, find_part, &finding, err);
}
