/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An upstream that speaks the Remote Execution API. */
#include "fs/upstream/internal.h"

#include "proto/rpc/client.h"

#include "google/bytestream/bytestream.pb-c.h"
#include "google/rpc/status.pb-c.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>

#define CAS "/build.bazel.remote.execution.v2.ContentAddressableStorage/"
#define ACTION_CACHE "/build.bazel.remote.execution.v2.ActionCache/"

enum { FIND_MOST = 10000, CHUNK = 1 << 20, SLOWEST_BYTES_PER_MS = 100 };

struct link {
	struct croft_upstream *upstream;
	struct croft_channel *channel;
	char *instance_name; /* in front of the clients' */
};

static struct croft_call_options patience(const struct link *link, uint64_t bytes)
{
	return (struct croft_call_options){
		.timeout_ms = link->upstream->timeout_ms + bytes / SLOWEST_BYTES_PER_MS};
}

static void *call(struct link *link, const char *path, uint64_t bytes,
	const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
	struct croft_arena *arena, struct croft_error *err)
{
	struct croft_call_options options = patience(link, bytes);
	return croft_unary(link->channel, &options, path, request, response, arena, err);
}

/* Finding -------------------------------------------------------------------------------------- */

static bool find_part(struct link *link, const struct croft_digest *digests, size_t count,
	bool *there, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__FindMissingBlobsRequest request = REAPI__FIND_MISSING_BLOBS_REQUEST__INIT;
	request.instance_name = link->instance_name;
	request.n_blob_digests = count;
	request.blob_digests = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++)
		request.blob_digests[i] = croft_digest_to_message(&digests[i], arena);
	const Reapi__FindMissingBlobsResponse *response = call(link, CAS "FindMissingBlobs", 0,
		&request.base, &reapi__find_missing_blobs_response__descriptor, arena, err);
	if (!response)
		return false;
	struct croft_digest_map *missing = croft_digest_map_create();
	for (size_t i = 0; i < response->n_missing_blob_digests; i++) {
		struct croft_digest digest;
		if (croft_digest_from_message(response->missing_blob_digests[i], "a blob", &digest, NULL))
			*croft_digest_map_at(missing, &digest) = missing;
	}
	for (size_t i = 0; i < count; i++)
		there[i] = !croft_digest_map_get(missing, &digests[i]);
	croft_digest_map_destroy(missing);
	return true;
}

static bool find(void *user, const struct croft_digest *digests, size_t count, bool *there,
	struct croft_error *err)
{
	for (size_t at = 0; at < count; at += FIND_MOST) {
		size_t part = count - at < FIND_MOST ? count - at : FIND_MOST;
		if (!find_part(user, digests + at, part, there + at, err))
			return false;
	}
	return true;
}

/* Fetching ------------------------------------------------------------------------------------- */

static const char *resource(struct link *link, const char *upload, const struct croft_digest *digest,
	struct croft_arena *arena)
{
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '/', text);
	return croft_arena_printf(arena, "%s%s%sblobs/%s", link->instance_name,
		link->instance_name[0] ? "/" : "", upload, text);
}

/* 1: all of it is with the writer; 0: no such blob; -1: failed. */
static int read_stream(struct link *link, const struct croft_digest *digest,
	struct croft_store_writer *writer, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_call_options options = patience(link, digest->size_bytes);
	Bytestream__ReadRequest request = BYTESTREAM__READ_REQUEST__INIT;
	request.resource_name = (char *)resource(link, "", digest, arena);
	struct croft_stream *stream = croft_stream_open(link->channel, &options,
		"/google.bytestream.ByteStream/Read", &bytestream__read_response__descriptor, err);
	if (!stream)
		return -1;
	int got = -1;
	bool ours = true; /* is what came in order, as far as we are concerned? */
	if (croft_stream_write(stream, &request.base, err) && croft_stream_close_write(stream, err)) {
		void *message;
		CROFT_CLEANUP_ARENA struct croft_arena *chunk = croft_arena_create();
		while (ours && (got = croft_stream_read(stream, chunk, &message, err)) > 0) {
			const Bytestream__ReadResponse *response = message;
			ours = croft_store_writer_append(writer, response->data.data, response->data.len, NULL);
			croft_arena_reset(chunk);
		}
	}
	croft_stream_destroy(stream);
	if (!ours)
		return 0;
	return got == 0 ? 1 : err->code == CROFT_NOT_FOUND ? 0 : -1;
}

static bool fetch_large(struct link *link, const struct croft_digest *digest,
	struct croft_error *err)
{
	struct croft_store_writer *writer = upstream_write(link->upstream, digest);
	if (!writer)
		return true;
	int got = read_stream(link, digest, writer, err);
	if (got == 1)
		upstream_written(link->upstream, writer, digest);
	else
		croft_store_writer_abort(writer);
	return got >= 0;
}

static bool fetch(void *user, const struct croft_digest *digests, size_t count,
	struct croft_error *err)
{
	struct link *link = user;
	if (count == 1 && digests[0].size_bytes > UPSTREAM_SMALL)
		return fetch_large(link, digests, err);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__BatchReadBlobsRequest request = REAPI__BATCH_READ_BLOBS_REQUEST__INIT;
	request.instance_name = link->instance_name;
	request.n_digests = count;
	request.digests = croft_arena_array(arena, count, sizeof(void *));
	uint64_t bytes = 0;
	for (size_t i = 0; i < count; i++) {
		request.digests[i] = croft_digest_to_message(&digests[i], arena);
		bytes += digests[i].size_bytes;
	}
	const Reapi__BatchReadBlobsResponse *response = call(link, CAS "BatchReadBlobs", bytes, &request.base,
		&reapi__batch_read_blobs_response__descriptor, arena, err);
	if (!response)
		return false;
	size_t answers = response->n_responses, good = 0;
	struct croft_digest *found = croft_arena_array(arena, answers + 1, sizeof(*found));
	struct croft_slice *data = croft_arena_array(arena, answers + 1, sizeof(*data));
	for (size_t i = 0; i < answers; i++) {
		const Reapi__BatchReadBlobsResponse__Response *one = response->responses[i];
		if ((one->status && one->status->code != CROFT_OK) ||
			one->compressor != REAPI__COMPRESSOR__VALUE__IDENTITY ||
			!croft_digest_from_message(one->digest, "a blob", &found[good], NULL))
			continue;
		data[good++] = CROFT_SLICE(one->data.data, one->data.len);
	}
	upstream_store(link->upstream, found, data, good);
	return true;
}

/* Sending -------------------------------------------------------------------------------------- */

static void make_uuid(char text[37])
{
	uint8_t bytes[16];
	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		abort();
	bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40);
	bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
	for (int i = 0, at = 0; i < 16; i++)
		at += sprintf(text + at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", bytes[i]);
}

/* False: the stream is over, or our own copy could not be read (then *ours is false). */
static bool send_chunks(struct croft_stream *stream, struct croft_store_blob *blob, uint64_t size,
	const char *name, bool *ours, struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(CHUNK);
	for (uint64_t at = 0; at < size;) {
		ssize_t got = croft_store_blob_read(blob, buffer, CHUNK, at, NULL);
		if (got <= 0) {
			*ours = false;
			return false;
		}
		Bytestream__WriteRequest request = BYTESTREAM__WRITE_REQUEST__INIT;
		if (at == 0)
			request.resource_name = (char *)name;
		request.write_offset = (int64_t)at;
		request.data = (ProtobufCBinaryData){(size_t)got, (uint8_t *)buffer};
		at += (uint64_t)got;
		request.finish_write = at == size;
		if (!croft_stream_write(stream, &request.base, err))
			return false;
	}
	return croft_stream_close_write(stream, err);
}

static bool write_stream(struct link *link, const struct croft_digest *digest,
	struct croft_store_blob *blob, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_call_options options = patience(link, digest->size_bytes);
	char uuid[37];
	make_uuid(uuid);
	const char *upload = croft_arena_printf(arena, "uploads/%s/", uuid);
	struct croft_stream *stream = croft_stream_open(link->channel, &options,
		"/google.bytestream.ByteStream/Write", &bytestream__write_response__descriptor, err);
	if (!stream)
		return false;
	bool ours = true;
	void *message;
	bool sent = send_chunks(stream, blob, digest->size_bytes,
		resource(link, upload, digest, arena), &ours, err);
	/* One that has the blob already answers before all was sent. */
	int got = ours ? croft_stream_read(stream, arena, &message, sent ? err : NULL) : 0;
	croft_stream_destroy(stream);
	if (!ours)
		return true; /* damaged here; there is nothing to send */
	if (got > 0 && ((Bytestream__WriteResponse *)message)->committed_size >= 0) {
		upstream_count(link->upstream, sent_blobs, 1);
		upstream_count(link->upstream, sent_bytes, digest->size_bytes);
		return true;
	}
	return got < 0 ? false : croft_error_set(err, CROFT_INTERNAL, "ByteStream.Write gave no answer");
}

static bool send_large(struct link *link, const struct croft_digest *digest, struct croft_error *err)
{
	struct croft_store_blob *blob = croft_store_open_blob(link->upstream->store, digest, NULL);
	if (!blob)
		return true; /* evicted: nobody wants it here, either */
	bool ok = write_stream(link, digest, blob, err);
	croft_store_blob_close(blob);
	return ok;
}

static bool check(struct link *link, const Reapi__BatchUpdateBlobsResponse *response,
	struct croft_error *err)
{
	for (size_t i = 0; i < response->n_responses; i++) {
		const Reapi__BatchUpdateBlobsResponse__Response *one = response->responses[i];
		if (one->status && one->status->code != CROFT_OK)
			return croft_error_set(err, (enum croft_code)one->status->code, "blob %s: %s",
				one->digest ? one->digest->hash : "?", one->status->message);
		upstream_count(link->upstream, sent_blobs, 1);
		upstream_count(link->upstream, sent_bytes,
			one->digest ? (uint64_t)one->digest->size_bytes : 0);
	}
	return true;
}

static bool send_blobs(void *user, const struct croft_digest *digests, size_t count,
	struct croft_error *err)
{
	struct link *link = user;
	if (count == 1 && digests[0].size_bytes > UPSTREAM_SMALL)
		return send_large(link, digests, err);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__BatchUpdateBlobsRequest request = REAPI__BATCH_UPDATE_BLOBS_REQUEST__INIT;
	request.instance_name = link->instance_name;
	request.requests = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++) {
		struct croft_slice data;
		if (!croft_store_get(link->upstream->store, &digests[i], arena, &data, NULL))
			continue;
		Reapi__BatchUpdateBlobsRequest__Request *one = croft_arena_alloc(arena, sizeof(*one));
		reapi__batch_update_blobs_request__request__init(one);
		one->digest = croft_digest_to_message(&digests[i], arena);
		one->data = (ProtobufCBinaryData){data.size, (uint8_t *)data.data};
		request.requests[request.n_requests++] = one;
	}
	if (request.n_requests == 0)
		return true;
	const Reapi__BatchUpdateBlobsResponse *response = call(link, CAS "BatchUpdateBlobs",
		UPSTREAM_GROUP_BYTES, &request.base, &reapi__batch_update_blobs_response__descriptor,
		arena, err);
	return response && check(link, response, err);
}

/* Results -------------------------------------------------------------------------------------- */

/* Tenants that are apart here are apart there. */
static char *instance_of(const struct link *link, const char *instance_name,
	struct croft_arena *arena)
{
	const char *slash = link->instance_name[0] && instance_name[0] ? "/" : "";
	return (char *)croft_arena_printf(arena, "%s%s%s", link->instance_name, slash, instance_name);
}

static bool get_result(void *user, const char *instance_name, const struct croft_digest *action,
	struct croft_arena *arena, struct croft_slice *value, struct croft_error *err)
{
	struct link *link = user;
	Reapi__GetActionResultRequest request = REAPI__GET_ACTION_RESULT_REQUEST__INIT;
	request.instance_name = instance_of(link, instance_name, arena);
	request.action_digest = croft_digest_to_message(action, arena);
	const Reapi__ActionResult *result = call(link, ACTION_CACHE "GetActionResult", 0, &request.base,
		&reapi__action_result__descriptor, arena, err);
	*value = CROFT_SLICE(NULL, 0);
	if (result)
		*value = croft_message_encode(&result->base, arena);
	return result || err->code == CROFT_NOT_FOUND;
}

static bool put_result(void *user, const char *instance_name, const struct croft_digest *action,
	struct croft_slice value, struct croft_error *err)
{
	struct link *link = user;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__UpdateActionResultRequest request = REAPI__UPDATE_ACTION_RESULT_REQUEST__INIT;
	struct croft_digest known = *action;
	if (known.size_bytes == 0 &&
		!croft_store_find_hash(link->upstream->store, action->hash, &known, NULL))
		return true; /* put by hash alone: there is no name for it there */
	request.instance_name = instance_of(link, instance_name, arena);
	request.action_digest = croft_digest_to_message(&known, arena);
	request.action_result =
		croft_message_decode(&reapi__action_result__descriptor, value, arena, NULL, NULL);
	return !request.action_result ||
		call(link, ACTION_CACHE "UpdateActionResult", 0, &request.base,
			&reapi__action_result__descriptor, arena, err);
}

/* ---------------------------------------------------------------------------------------------- */

static void destroy(void *user)
{
	struct link *link = user;
	croft_channel_destroy(link->channel);
	free(link->instance_name);
	free(link);
}

/* grpc://HOST:PORT[/INSTANCE]; a socket's path has no instance. */
static void *create(struct croft_upstream *upstream, const char *url, struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *target = croft_strdup(url);
	const char *scheme = strstr(target, "://");
	char *slash = scheme ? strchr(scheme + 3, '/') : NULL;
	if (slash)
		*slash++ = '\0';
	size_t size = slash ? strlen(slash) : 0;
	while (size > 0 && slash[size - 1] == '/')
		slash[--size] = '\0';
	struct link *link = croft_zalloc(sizeof(*link));
	link->upstream = upstream;
	link->instance_name = croft_strdup(slash ? slash : "");
	const struct croft_tls tls = {.authority_file = upstream->authority_file};
	bool secret = strncmp(url, "grpcs://", 8) == 0;
	link->channel = croft_channel_create(target, secret ? &tls : NULL, err);
	if (link->channel)
		return link;
	destroy(link);
	return NULL;
}

const struct upstream_kind upstream_grpc = {
	.create = create,
	.destroy = destroy,
	.find = find,
	.fetch = fetch,
	.send = send_blobs,
	.get_result = get_result,
	.put_result = put_result,
};
