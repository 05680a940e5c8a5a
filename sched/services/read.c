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

static bool read_part(struct croft_store_blob *blob, void *buffer, size_t size, uint64_t offset,
	struct croft_error *err)
{
	ssize_t got = croft_store_blob_read(blob, buffer, size, offset, err);
	if (got >= 0 && (size_t)got != size)
		return croft_error_set(err, CROFT_DATA_LOSS, "the stored blob ends at byte %" PRIu64,
			offset + (uint64_t)got);
	return got >= 0;
}

static size_t part_size(uint64_t offset, uint64_t end)
{
	return end - offset < STREAM_CHUNK_BYTES ? (size_t)(end - offset) : STREAM_CHUNK_BYTES;
}

/* Bytes [offset, end) of the blob as they are: read to where they are sent from, the next part while the
 * one before is on its way. */
static bool send_plain(struct croft_call *call, struct croft_store_blob *blob, uint64_t offset,
	uint64_t end, struct croft_error *err)
{
	enum { DATA_FIELD = 10 }; /* ReadResponse.data */
	size_t room = part_size(offset, end);
	while (offset < end) {
		size_t size = croft_store_blob_run(blob, offset, part_size(offset, end));
		if (!read_part(blob, croft_call_payload(call, room), size, offset, err))
			return false;
		offset += size;
		if (!croft_call_write_payload(call, DATA_FIELD, size, offset == end, err))
			return false;
	}
	return true;
}

static bool send_compressed(struct croft_call *call, struct croft_store_blob *blob, uint64_t offset,
	uint64_t end, struct croft_error *err)
{
	struct zstd_encoder *encoder = zstd_encoder_create();
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(part_size(offset, end) + 1);
	/* A compressed nothing is a frame without content. */
	bool ok = offset < end || zstd_encoder_feed(encoder, CROFT_SLICE("", 0), true, send, call, err);
	while (ok && offset < end) {
		size_t size = part_size(offset, end);
		ok = read_part(blob, buffer, size, offset, err);
		offset += size;
		ok = ok && zstd_encoder_feed(encoder, CROFT_SLICE(buffer, size), offset == end, send, call, err);
	}
	zstd_encoder_destroy(encoder);
	return ok;
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
	if (!croft_store_check_visible(services->store, croft_tenant(services->private_blobs, resource.instance),
			&resource.digest, err) ||
		(size > 0 && !(blob = open_blob(services, &resource.digest, err))))
		return false;
	if (offset > size) {
		croft_store_blob_close(blob);
		return croft_error_set(err, CROFT_OUT_OF_RANGE,
			"read_offset %" PRIu64 " is past the blob's %" PRIu64 " bytes", offset, size);
	}
	uint64_t end = size;
	if (request->read_limit > 0 && (uint64_t)request->read_limit < size - offset)
		end = offset + (uint64_t)request->read_limit;
	bool ok = (resource.zstd ? send_compressed : send_plain)(call, blob, offset, end, err);
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
