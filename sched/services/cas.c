/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/internal.h"

#include "proto/base/cleanup.h"
#include "sched/services/zstd.h"

#include <inttypes.h>

/* FindMissingBlobs --------------------------------------------------------------------------- */

bool find_missing_for(struct croft_services *services, struct croft_slice tenant,
	const struct croft_digest *digests, size_t count, bool *missing, struct croft_error *err)
{
	if (!tenant.data)
		return croft_upstream_find_missing(
			services->upstream, services->store, digests, count, missing, err);
	CROFT_CLEANUP_FREE bool *visible = croft_array(count + 1, sizeof(*visible));
	if (!croft_store_find_missing(services->store, digests, count, missing, err) ||
		!croft_store_visible(services->store, tenant, digests, count, visible, err))
		return false;
	for (size_t i = 0; i < count; i++)
		missing[i] |= !visible[i];
	return true;
}

static bool find_missing(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_services *services = user;
	struct croft_arena *arena = croft_call_arena(call);
	const Reapi__FindMissingBlobsRequest *request = croft_call_request(call);
	if (!digest_function_check(request->digest_function, err))
		return false;
	size_t count = request->n_blob_digests;
	struct croft_digest *digests = croft_arena_array(arena, count, sizeof(*digests));
	bool *missing = croft_arena_array(arena, count, sizeof(*missing));
	for (size_t i = 0; i < count; i++)
		if (!digest_read(request->blob_digests[i], "blob_digests", &digests[i], err))
			return false;
	if (!find_missing_for(services, tenant_of(services, request->instance_name), digests, count, missing, err))
		return false;
	Reapi__FindMissingBlobsResponse response = REAPI__FIND_MISSING_BLOBS_RESPONSE__INIT;
	response.missing_blob_digests = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++)
		if (missing[i])
			response.missing_blob_digests[response.n_missing_blob_digests++] =
				request->blob_digests[i];
	return croft_call_write(call, &response.base, err);
}

/* BatchUpdateBlobs ---------------------------------------------------------------------------- */

typedef Reapi__BatchUpdateBlobsRequest__Request update_request;

static bool check_total(uint64_t total, struct croft_error *err)
{
	return total <= BATCH_BYTES ||
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"a batch of %" PRIu64 " bytes: more than the limit of %d "
			"(max_batch_total_size_bytes); ByteStream takes larger blobs", total, BATCH_BYTES);
}

/* The blob's bytes, if they can be the digest's. The hash is checked by the store. */
static bool update_data(const update_request *request, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_slice *data, struct croft_error *err)
{
	*data = CROFT_SLICE(request->data.data, request->data.len);
	switch (request->compressor) {
	case REAPI__COMPRESSOR__VALUE__IDENTITY:
		break;
	case REAPI__COMPRESSOR__VALUE__ZSTD:
		if (!zstd_decode(*data, digest->size_bytes, arena, data, err))
			return croft_error_wrap(err, "blob %s", request->digest->hash);
		break;
	default:
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"blob %s: compressor %d is not supported: IDENTITY (0) and ZSTD (1) are",
			request->digest->hash, (int)request->compressor);
	}
	return data->size == digest->size_bytes ||
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"blob %s: its digest says %" PRIu64 " bytes, %zu were sent", request->digest->hash,
			digest->size_bytes, data->size);
}

static bool digests_of_update(const Reapi__BatchUpdateBlobsRequest *request,
	struct croft_digest *digests, struct croft_error *errors, struct croft_error *err)
{
	uint64_t total = 0, sent = 0;
	for (size_t i = 0; i < request->n_requests; i++) {
		sent += request->requests[i]->data.len;
		if (!digest_read(request->requests[i]->digest, "requests", &digests[i], &errors[i]))
			continue;
		if (__builtin_add_overflow(total, digests[i].size_bytes, &total))
			total = UINT64_MAX;
	}
	return check_total(total > sent ? total : sent, err);
}

/* Those that were stored, or that were there and are what was sent. */
static void grant_stored(struct croft_services *services, struct croft_slice tenant,
	const struct croft_digest *digests, size_t count, struct croft_error *errors)
{
	if (!tenant.data)
		return;
	CROFT_CLEANUP_FREE struct croft_digest *stored = croft_array(count + 1, sizeof(*stored));
	struct croft_error failure = CROFT_ERROR_INIT;
	size_t good = 0;
	for (size_t i = 0; i < count; i++)
		if (errors[i].code == CROFT_OK)
			stored[good++] = digests[i];
	bool ok = croft_store_grant(services->store, tenant, stored, good, &failure);
	for (size_t i = 0; !ok && i < count; i++)
		if (errors[i].code == CROFT_OK)
			errors[i] = failure;
}

static bool batch_update(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_services *services = user;
	struct croft_arena *arena = croft_call_arena(call);
	const Reapi__BatchUpdateBlobsRequest *request = croft_call_request(call);
	size_t count = request->n_requests, good = 0;
	struct croft_digest *digests = croft_arena_array(arena, count, sizeof(*digests));
	struct croft_error *errors = croft_arena_array(arena, count, sizeof(*errors));
	struct croft_slice *data = croft_arena_array(arena, count, sizeof(*data));
	size_t *places = croft_arena_array(arena, count, sizeof(*places));
	if (!digest_function_check(request->digest_function, err) ||
		!digests_of_update(request, digests, errors, err))
		return false;
	/* Those that are well formed move to the front and are stored in one commit. */
	for (size_t i = 0; i < count; i++) {
		if (errors[i].code != CROFT_OK ||
			!update_data(request->requests[i], &digests[i], arena, &data[good], &errors[i]))
			continue;
		digests[good] = digests[i];
		places[good++] = i;
	}
	struct croft_error *stored = croft_arena_array(arena, good, sizeof(*stored));
	croft_store_put_many(services->store, digests, data, good, stored);
	grant_stored(services, tenant_of(services, request->instance_name), digests, good, stored);
	for (size_t i = 0; i < good; i++) {
		errors[places[i]] = stored[i];
		if (stored[i].code == CROFT_OK)
			croft_upstream_send(services->upstream, &digests[i], 1);
	}

	Reapi__BatchUpdateBlobsResponse response = REAPI__BATCH_UPDATE_BLOBS_RESPONSE__INIT;
	response.n_responses = count;
	response.responses = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++) {
		Reapi__BatchUpdateBlobsResponse__Response *one = croft_arena_alloc(arena, sizeof(*one));
		reapi__batch_update_blobs_response__response__init(one);
		one->digest = request->requests[i]->digest;
		one->status = status_message(errors[i].code ? &errors[i] : NULL, arena);
		response.responses[i] = one;
	}
	return croft_call_write(call, &response.base, err);
}

/* BatchReadBlobs ------------------------------------------------------------------------------ */

static bool accepts_zstd(const Reapi__BatchReadBlobsRequest *request)
{
	for (size_t i = 0; i < request->n_acceptable_compressors; i++)
		if (request->acceptable_compressors[i] == REAPI__COMPRESSOR__VALUE__ZSTD)
			return true;
	return false;
}

static Reapi__BatchReadBlobsResponse__Response *read_answer(Reapi__Digest *message,
	struct croft_slice data, const struct croft_error *err, bool zstd, struct croft_arena *arena)
{
	Reapi__BatchReadBlobsResponse__Response *one = croft_arena_alloc(arena, sizeof(*one));
	reapi__batch_read_blobs_response__response__init(one);
	one->digest = message;
	bool ok = err->code == CROFT_OK;
	one->status = status_message(ok ? NULL : err, arena);
	if (ok && zstd && zstd_encode(data, arena, &data))
		one->compressor = REAPI__COMPRESSOR__VALUE__ZSTD;
	if (ok)
		one->data = (ProtobufCBinaryData){data.size, (uint8_t *)data.data};
	return one;
}

/* What turned out to be damaged is brought as what is missing is. */
static void bring_damaged(struct croft_services *services, const struct croft_digest *digests, size_t count,
	struct croft_arena *arena, struct croft_slice *data, struct croft_error *errors)
{
	for (size_t i = 0; services->upstream && i < count; i++) {
		if (errors[i].code != CROFT_DATA_LOSS)
			continue;
		croft_upstream_bring(services->upstream, &digests[i], 1);
		errors[i] = CROFT_ERROR_INIT;
		croft_store_get(services->store, &digests[i], arena, &data[i], &errors[i]);
	}
}

/* What the tenant may not know of was not found, whatever became of reading it. */
static bool hide(struct croft_services *services, struct croft_slice tenant, const struct croft_digest *digests,
	size_t count, struct croft_error *errors, struct croft_error *err)
{
	CROFT_CLEANUP_FREE bool *visible = croft_array(count + 1, sizeof(*visible));
	if (!croft_store_visible(services->store, tenant, digests, count, visible, err))
		return false;
	for (size_t i = 0; i < count; i++)
		if (!visible[i])
			croft_store_not_found(&digests[i], &errors[i]);
	return true;
}

static bool batch_read(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_services *services = user;
	struct croft_arena *arena = croft_call_arena(call);
	const Reapi__BatchReadBlobsRequest *request = croft_call_request(call);
	size_t count = request->n_digests;
	struct croft_digest *digests = croft_arena_array(arena, count, sizeof(*digests));
	uint64_t total = 0;
	if (!digest_function_check(request->digest_function, err))
		return false;
	for (size_t i = 0; i < count; i++) {
		if (!digest_read(request->digests[i], "digests", &digests[i], err))
			return false;
		if (__builtin_add_overflow(total, digests[i].size_bytes, &total))
			total = UINT64_MAX;
	}
	if (!check_total(total, err))
		return false;
	if (services->upstream) {
		bool *missing = croft_arena_array(arena, count, sizeof(*missing));
		croft_upstream_find_missing(
			services->upstream, services->store, digests, count, missing, NULL);
	}
	bool zstd = accepts_zstd(request);
	Reapi__BatchReadBlobsResponse response = REAPI__BATCH_READ_BLOBS_RESPONSE__INIT;
	response.n_responses = count;
	response.responses = croft_arena_array(arena, count, sizeof(void *));
	struct croft_slice *data = croft_arena_array(arena, count, sizeof(*data));
	struct croft_error *errors = croft_arena_array(arena, count, sizeof(*errors));
	croft_store_get_many(services->store, digests, count, arena, data, errors);
	bring_damaged(services, digests, count, arena, data, errors);
	if (!hide(services, tenant_of(services, request->instance_name), digests, count, errors, err))
		return false;
	for (size_t i = 0; i < count; i++)
		response.responses[i] =
			read_answer(request->digests[i], data[i], &errors[i], zstd, arena);
	return croft_call_write_in_place(call, &response.base, err);
}

#define CAS "/build.bazel.remote.execution.v2.ContentAddressableStorage/"

static const struct croft_rpc_method methods[] = {
	{CAS "FindMissingBlobs", CROFT_RPC_UNARY, &reapi__find_missing_blobs_request__descriptor,
		&reapi__find_missing_blobs_response__descriptor, find_missing, false},
	{CAS "BatchUpdateBlobs", CROFT_RPC_UNARY, &reapi__batch_update_blobs_request__descriptor,
		&reapi__batch_update_blobs_response__descriptor, batch_update, false},
	{CAS "BatchReadBlobs", CROFT_RPC_UNARY, &reapi__batch_read_blobs_request__descriptor,
		&reapi__batch_read_blobs_response__descriptor, batch_read, false},
};

void serve_cas(struct croft_services *services, struct croft_server *server)
{
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), services);
}
