/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ByteStream.Read: blobs, plain and compressed, and the logs of running operations. */
#include "sched/services/byte_stream.h"
#include "sched/services/internal.h"
#include "sched/services/resource.h"
#include "sched/services/zstd.h"

#include "proto/base/cleanup.h"

#include "google/bytestream/bytestream.pb-c.h"

#include <inttypes.h>

/* How long a reader of a log waits at a time before it looks whether its client is still there. */
enum { LOG_WAIT_MS = 1000 };

bool byte_stream_check_header(struct croft_call *call, const char *resource_name,
	struct croft_error *err)
{
	struct croft_slice header =
		croft_call_header(call, "build.bazel.remote.execution.v2.resource-name");
	return !header.data || croft_slice_equal(header, croft_slice_str(resource_name)) ||
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the header build.bazel.remote.execution.v2.resource-name and the request's "
			"resource_name '%.200s' differ", resource_name);
}

static bool send(void *user, const void *data, size_t size, struct croft_error *err)
{
	Bytestream__ReadResponse response = BYTESTREAM__READ_RESPONSE__INIT;
	response.data = (ProtobufCBinaryData){size, (uint8_t *)data};
	return croft_call_write(user, &response.base, err);
}

/* Bytes [offset, end) of the blob, as they are or compressed. */
static bool send_blob(struct croft_call *call, struct croft_store_blob *blob, uint64_t offset,
	uint64_t end, struct zstd_encoder *encoder, struct croft_error *err)
{
	size_t most = end - offset < STREAM_CHUNK_BYTES ? (size_t)(end - offset) : STREAM_CHUNK_BYTES;
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(most + 1);
	while (offset < end) {
		size_t wanted = end - offset < most ? (size_t)(end - offset) : most;
		ssize_t got = croft_store_blob_read(blob, buffer, wanted, offset, err);
		if (got < 0)
			return false;
		if ((size_t)got != wanted)
			return croft_error_set(
				err, CROFT_DATA_LOSS, "the stored blob ends at byte %" PRIu64, offset + (size_t)got);
		offset += wanted;
		bool sent = encoder ? zstd_encoder_feed(encoder, CROFT_SLICE(buffer, wanted),
								  offset == end, send, call, err)
							: send(call, buffer, wanted, err);
		if (!sent)
			return false;
	}
	return true;
}

static bool check_range(const Bytestream__ReadRequest *request, struct croft_error *err)
{
	if (request->read_offset < 0)
		return croft_error_set(err, CROFT_OUT_OF_RANGE, "read_offset %" PRId64 " is negative",
			request->read_offset);
	if (request->read_limit < 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "read_limit %" PRId64 " is negative",
			request->read_limit);
	return true;
}

static struct croft_store_blob *open_blob(struct croft_services *services,
	const struct croft_digest *digest, struct croft_error *err)
{
	struct croft_store_blob *blob = croft_store_open_blob(services->store, digest, err);
	if (blob || !services->upstream || (err->code != CROFT_NOT_FOUND && err->code != CROFT_DATA_LOSS))
		return blob;
	croft_upstream_bring(services->upstream, digest, 1);
	*err = CROFT_ERROR_INIT;
	return croft_store_open_blob(services->store, digest, err);
}

static bool read_blob(struct croft_services *services, struct croft_call *call,
	const Bytestream__ReadRequest *request, struct croft_error *err)
{
	struct resource resource;
	if (!resource_parse_read(croft_slice_str(request->resource_name), &resource, err))
		return false;
	uint64_t size = resource.digest.size_bytes, offset = (uint64_t)request->read_offset;
	if (resource.zstd && request->read_limit != 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"read_limit must be 0 when compressed data is read");
	struct croft_store_blob *blob = NULL;
	if (size > 0 && !(blob = open_blob(services, &resource.digest, err)))
		return false;
	if (offset > size) {
		croft_store_blob_close(blob);
		return croft_error_set(err, CROFT_OUT_OF_RANGE,
			"read_offset %" PRIu64 " is past the blob's %" PRIu64 " bytes", offset, size);
	}
	uint64_t end = size;
	if (request->read_limit > 0 && (uint64_t)request->read_limit < size - offset)
		end = offset + (uint64_t)request->read_limit;
	struct zstd_encoder *encoder = resource.zstd ? zstd_encoder_create() : NULL;
	/* A compressed nothing is a frame without content. */
	bool ok = encoder && offset == end
		? zstd_encoder_feed(encoder, CROFT_SLICE("", 0), true, send, call, err)
		: send_blob(call, blob, offset, end, encoder, err);
	zstd_encoder_destroy(encoder);
	if (blob)
		croft_store_blob_close(blob);
	return ok;
}

static bool read_log(struct croft_services *services, struct croft_call *call,
	const Bytestream__ReadRequest *request, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	uint64_t offset = (uint64_t)request->read_offset;
	uint64_t left = request->read_limit ? (uint64_t)request->read_limit : UINT64_MAX;
	bool finished = false;
	if (!services->sched)
		return croft_error_set(err, CROFT_NOT_FOUND, "%.200s: nothing is executed here",
			request->resource_name);
	while (left > 0 && !finished) {
		struct croft_slice data = {NULL, 0};
		croft_arena_reset(arena);
		if (!croft_sched_read_log(services->sched, request->resource_name, offset, arena, &data,
				&finished, LOG_WAIT_MS, err))
			return false;
		if (croft_call_cancelled(call))
			return croft_error_set(err, CROFT_CANCELLED, "the client is gone");
		for (size_t at = 0; at < data.size && left > 0;) {
			size_t size = data.size - at < STREAM_CHUNK_BYTES ? data.size - at : STREAM_CHUNK_BYTES;
			size = size < left ? size : (size_t)left;
			if (!send(call, (const char *)data.data + at, size, err))
				return false;
			at += size;
			offset += size;
			left -= size;
		}
	}
	return true;
}

static bool read_resource(struct croft_call *call, void *user, struct croft_error *err)
{
	const Bytestream__ReadRequest *request = croft_call_request(call);
	if (!byte_stream_check_header(call, request->resource_name, err) || !check_range(request, err))
		return false;
	if (resource_is_log(croft_slice_str(request->resource_name)))
		return read_log(user, call, request, err);
	return read_blob(user, call, request, err);
}

static const struct croft_rpc_method methods[] = {
	{"/google.bytestream.ByteStream/Read", CROFT_RPC_SERVER_STREAM,
		&bytestream__read_request__descriptor, &bytestream__read_response__descriptor,
		read_resource, false},
};

void serve_byte_stream_read(struct croft_services *services, struct croft_server *server)
{
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), services);
}
