/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SplitBlob and SpliceBlob: how blobs are made of chunks. */
#include "sched/services/internal.h"

#include "fs/chunker.h"

/* As the store cuts. One that was spliced from other pieces keeps those. */
static Reapi__ChunkingFunction__Value function_of(const struct croft_digest *chunks, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (chunks[i].size_bytes > CROFT_CHUNK_MOST ||
			(i + 1 < count && chunks[i].size_bytes < CROFT_CHUNK_LEAST))
			return REAPI__CHUNKING_FUNCTION__VALUE__UNKNOWN;
	return REAPI__CHUNKING_FUNCTION__VALUE__FAST_CDC_2020;
}

/* A small one is its own only chunk. */
static bool chunks_of(struct croft_services *services, struct croft_slice tenant, struct croft_digest *digest,
	struct croft_arena *arena, struct croft_digest **chunks, size_t *count, struct croft_error *err)
{
	bool missing;
	if (!croft_store_check_visible(services->store, tenant, digest, err) ||
		!croft_upstream_find_missing(services->upstream, services->store, digest, 1, &missing, err))
		return false;
	*chunks = digest;
	*count = !croft_digest_is_empty(digest);
	if (*count == 0 ||
		croft_store_get_recipe(services->store, digest, arena, chunks, count, err))
		return true;
	if (err->code != CROFT_FAILED_PRECONDITION)
		return false;
	*err = CROFT_ERROR_INIT;
	if (digest->size_bytes <= CROFT_CHUNK_MOST)
		return true;
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '/', text);
	return croft_error_set(err, CROFT_NOT_FOUND, "blob %s is kept in one piece", text);
}

static bool split(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_services *services = user;
	struct croft_arena *arena = croft_call_arena(call);
	const Reapi__SplitBlobRequest *request = croft_call_request(call);
	struct croft_digest digest, *chunks;
	size_t count;
	if (!digest_function_check(request->digest_function, err) ||
		!digest_read(request->blob_digest, "blob_digest", &digest, err) ||
		!chunks_of(services, tenant_of(services, request->instance_name), &digest, arena, &chunks, &count, err))
		return false;
	Reapi__SplitBlobResponse response = REAPI__SPLIT_BLOB_RESPONSE__INIT;
	response.chunking_function = function_of(chunks, count);
	response.n_chunk_digests = count;
	response.chunk_digests = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++)
		response.chunk_digests[i] = croft_digest_to_message(&chunks[i], arena);
	return croft_call_write(call, &response.base, err);
}

static bool splice(struct croft_call *call, void *user, struct croft_error *err)
{
	struct croft_services *services = user;
	struct croft_arena *arena = croft_call_arena(call);
	const Reapi__SpliceBlobRequest *request = croft_call_request(call);
	struct croft_digest digest;
	if (!digest_function_check(request->digest_function, err) ||
		!digest_read(request->blob_digest, "blob_digest", &digest, err))
		return false;
	size_t count = 0;
	struct croft_digest *chunks =
		croft_arena_array(arena, request->n_chunk_digests, sizeof(*chunks));
	for (size_t i = 0; i < request->n_chunk_digests; i++) {
		if (!digest_read(request->chunk_digests[i], "chunk_digests", &chunks[count], err))
			return false;
		count += !croft_digest_is_empty(&chunks[count]);
	}
	if (services->upstream) {
		bool *missing = croft_arena_array(arena, count, sizeof(*missing));
		croft_upstream_find_missing(
			services->upstream, services->store, chunks, count, missing, NULL);
	}
	struct croft_slice tenant = tenant_of(services, request->instance_name);
	for (size_t i = 0; tenant.data && i < count; i++)
		if (!croft_store_check_visible(services->store, tenant, &chunks[i], err))
			return false;
	if (!croft_digest_is_empty(&digest)) {
		if (!croft_store_put_recipe(services->store, &digest, chunks, count, err) ||
			!croft_store_grant(services->store, tenant, &digest, 1, err))
			return false;
		croft_upstream_send(services->upstream, &digest, 1);
	}
	Reapi__SpliceBlobResponse response = REAPI__SPLICE_BLOB_RESPONSE__INIT;
	response.blob_digest = request->blob_digest;
	return croft_call_write(call, &response.base, err);
}

#define CAS "/build.bazel.remote.execution.v2.ContentAddressableStorage/"

static const struct croft_rpc_method methods[] = {
	{CAS "SplitBlob", CROFT_RPC_UNARY, &reapi__split_blob_request__descriptor,
		&reapi__split_blob_response__descriptor, split, false},
	{CAS "SpliceBlob", CROFT_RPC_UNARY, &reapi__splice_blob_request__descriptor,
		&reapi__splice_blob_response__descriptor, splice, false},
};

void serve_chunks(struct croft_services *services, struct croft_server *server)
{
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), services);
}
