/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ByteStream.Write and QueryWriteStatus.
 *
 * Offsets. The first message's write_offset may be anything up to what was taken before (what comes
 * again is skipped: the digest is checked over the whole at the end); each later one's must be the
 * first's plus the bytes sent since. For compressed uploads the first is an offset in the blob, and
 * the later ones add compressed bytes to it, as the specification has it.
 */
#include "sched/services/byte_stream.h"
#include "sched/services/internal.h"
#include "sched/services/resource.h"
#include "sched/services/uploads.h"
#include "sched/services/zstd.h"

#include "proto/base/cleanup.h"

#include "google/bytestream/bytestream.pb-c.h"

#include <inttypes.h>

enum { DATA_FIELD = 10 }; /* WriteRequest.data */

struct write {
	struct croft_services *services;
	struct croft_call *call;
	struct resource resource;
	char *name; /* of the first message; resource borrows from it */
	struct upload *upload;
	struct zstd_decoder *decoder;
	uint64_t taken;     /* of the blob, by this stream or those before */
	uint64_t at;        /* where in the blob the next (decoded) byte belongs */
	int64_t expected;   /* next write_offset */
	bool finished;
	struct croft_pieces data; /* of the message that was read last */
};

/* 1: the next message, without its data; 0: there is none; -1: failed. */
static int read_message(struct write *write, struct croft_arena *arena,
	Bytestream__WriteRequest **message, struct croft_error *err)
{
	return croft_call_read_pieces(
		write->call, arena, DATA_FIELD, (void **)message, &write->data, err);
}

static bool take(void *user, const void *data, size_t size, struct croft_error *err)
{
	struct write *write = user;
	uint64_t known = write->taken > write->at ? write->taken - write->at : 0;
	size_t skip = known < size ? (size_t)known : size;
	write->at += size;
	if (skip == size)
		return true;
	write->taken += size - skip;
	return upload_append(write->upload, (const char *)data + skip, size - skip, err);
}

static bool take_message(struct write *write, const Bytestream__WriteRequest *message,
	struct croft_error *err)
{
	if (write->finished)
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "a message after the one that set finish_write");
	if (message->resource_name[0] && strcmp(message->resource_name, write->name) != 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"resource_name changed within the stream, from '%.150s' to '%.150s'", write->name,
			message->resource_name);
	if (message->write_offset != write->expected)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"write_offset is %" PRId64 ", expected is %" PRId64, message->write_offset,
			write->expected);
	if (__builtin_add_overflow(write->expected, (int64_t)write->data.size, &write->expected))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "write_offset is too large");
	write->finished = message->finish_write;
	for (size_t i = 0; i < write->data.count; i++) {
		struct croft_slice piece = write->data.pieces[i];
		if (!(write->decoder ? zstd_decoder_feed(write->decoder, piece, take, write, err)
							 : take(write, piece.data, piece.size, err)))
			return false;
	}
	return true;
}

static struct croft_slice joined(const struct croft_pieces *data, struct croft_arena *arena)
{
	if (data->count == 1)
		return data->pieces[0];
	char *bytes = croft_arena_alloc(arena, data->size + 1);
	size_t used = 0;
	for (size_t i = 0; i < data->count; used += data->pieces[i++].size)
		memcpy(bytes + used, data->pieces[i].data, data->pieces[i].size);
	return CROFT_SLICE(bytes, used);
}

/* Most blobs come whole in their only message: these need no upload to resume. 1: stored; 0: this is
 * no such message; -1: failed. */
static int store_whole(struct write *write, const Bytestream__WriteRequest *message,
	struct croft_arena *arena, struct croft_error *err)
{
	const struct resource *resource = &write->resource;
	if (resource->zstd || !message->finish_write || message->write_offset != 0 ||
		write->data.size != resource->digest.size_bytes)
		return 0;
	write->expected = (int64_t)write->data.size;
	write->finished = true;
	return croft_store_put(write->services->store, &resource->digest,
			   joined(&write->data, arena), err)
		? 1
		: -1;
}

/* With the instance's name, which stands before the UUID: nobody goes on with somebody else's. */
static struct croft_slice upload_name(const struct write *write)
{
	const struct resource *resource = &write->resource;
	const char *end = (const char *)resource->uuid.data + resource->uuid.size;
	const char *start = resource->instance.size ? resource->instance.data : resource->uuid.data;
	return CROFT_SLICE(start, (size_t)(end - start));
}

static bool begin(struct write *write, const Bytestream__WriteRequest *message,
	struct croft_error *err)
{
	write->upload = uploads_open(write->services->uploads, upload_name(write),
		&write->resource.digest, &write->taken, err);
	if (!write->upload)
		return false;
	if (message->write_offset < 0 || (uint64_t)message->write_offset > write->taken)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"write_offset is %" PRId64 ", but %" PRIu64 " bytes were committed",
			message->write_offset, write->taken);
	write->at = (uint64_t)message->write_offset;
	write->expected = message->write_offset;
	if (write->resource.zstd)
		write->decoder = zstd_decoder_create();
	return true;
}

static bool finish(struct write *write, struct croft_error *err)
{
	if (write->decoder && !zstd_decoder_at_end(write->decoder)) {
		upload_drop(write->upload);
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "the zstd stream ends in the middle of a frame");
	}
	if (write->at < write->taken) {
		upload_drop(write->upload);
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the write was finished after %" PRIu64 " bytes, the digest says %" PRIu64, write->at,
			write->resource.digest.size_bytes);
	}
	return upload_commit(write->upload, err);
}

/* 1: the blob is in the store; 0: the client stopped before the end; -1: failed. */
static int take_all(struct write *write, Bytestream__WriteRequest *message,
	struct croft_arena *arena, struct croft_error *err)
{
	int got = 1;
	if (!begin(write, message, err))
		return -1;
	while (got > 0) {
		if (!take_message(write, message, err) || (write->finished && !finish(write, err)))
			return -1;
		if (write->finished)
			return 1;
		croft_arena_reset(arena);
		got = read_message(write, arena, &message, err);
	}
	return got;
}

static struct croft_slice tenant(const struct write *write)
{
	return croft_tenant(write->services->private_blobs, write->resource.instance);
}

static bool is_there(struct write *write, bool *there, struct croft_error *err)
{
	bool missing = false, visible = false;
	if (!croft_store_visible(write->services->store, tenant(write), &write->resource.digest, 1, &visible, err) ||
		!croft_store_find_missing(write->services->store, &write->resource.digest, 1, &missing, err))
		return false;
	missing |= !visible;
	*there = !missing;
	return true;
}

static bool answer(struct write *write, int64_t committed, struct croft_error *err)
{
	Bytestream__WriteResponse response = BYTESTREAM__WRITE_RESPONSE__INIT;
	response.committed_size = committed;
	return croft_call_write(write->call, &response.base, err);
}

/* Nothing may follow the message that finished the write. */
static bool expect_end(struct write *write, struct croft_arena *arena, struct croft_error *err)
{
	Bytestream__WriteRequest *message;
	croft_arena_reset(arena);
	int got = read_message(write, arena, &message, err);
	return got == 0 || (got > 0 && take_message(write, message, err));
}

static bool run(struct write *write, struct croft_arena *arena, struct croft_error *err)
{
	Bytestream__WriteRequest *message;
	bool there = false;
	int got = read_message(write, arena, &message, err);
	if (got == 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "a write without any message");
	if (got < 0)
		return false;
	write->name = croft_arena_strdup(croft_call_arena(write->call), message->resource_name);
	if (!byte_stream_check_header(write->call, write->name, err) ||
		!resource_parse_write(croft_slice_str(write->name), &write->resource, err) ||
		!is_there(write, &there, err))
		return false;
	/* Somebody else has stored it: the client need not send the rest. */
	if (there)
		return answer(write,
			write->resource.zstd ? -1 : (int64_t)write->resource.digest.size_bytes, err);
	int stored = store_whole(write, message, arena, err);
	if (stored == 0)
		stored = take_all(write, message, arena, err);
	if (stored < 0 || (stored > 0 && !expect_end(write, arena, err)) ||
		(stored > 0 && !croft_store_grant(
						   write->services->store, tenant(write), &write->resource.digest, 1, err)))
		return false;
	if (stored > 0)
		croft_upstream_send(write->services->upstream, &write->resource.digest, 1);
	return answer(write, write->resource.zstd && stored == 0 ? (int64_t)write->taken
															 : write->expected, err);
}

static bool write_resource(struct croft_call *call, void *user, struct croft_error *err)
{
	struct write write = {.services = user, .call = call};
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	bool ok = run(&write, arena, err);
	zstd_decoder_destroy(write.decoder);
	upload_close(write.upload);
	return ok;
}

static bool query_write_status(struct croft_call *call, void *user, struct croft_error *err)
{
	const Bytestream__QueryWriteStatusRequest *request = croft_call_request(call);
	struct write write = {.services = user, .call = call};
	Bytestream__QueryWriteStatusResponse response = BYTESTREAM__QUERY_WRITE_STATUS_RESPONSE__INIT;
	uint64_t committed = 0;
	bool there = false;
	if (!byte_stream_check_header(call, request->resource_name, err) ||
		!resource_parse_write(croft_slice_str(request->resource_name), &write.resource, err) ||
		!is_there(&write, &there, err))
		return false;
	/* bytestream.proto has NOT_FOUND for a write that never began. Bazel asks after a server was restarted in
	 * mid-upload, and gives its build up at any error; that nothing is committed yet is as true. */
	if (!there)
		uploads_query(write.services->uploads, upload_name(&write), &write.resource.digest, &committed);
	response.committed_size = (int64_t)(there ? write.resource.digest.size_bytes : committed);
	response.complete = there;
	return croft_call_write(call, &response.base, err);
}

static const struct croft_rpc_method methods[] = {
	{"/google.bytestream.ByteStream/Write", CROFT_RPC_CLIENT_STREAM,
		&bytestream__write_request__descriptor, &bytestream__write_response__descriptor,
		write_resource, false},
	{"/google.bytestream.ByteStream/QueryWriteStatus", CROFT_RPC_UNARY,
		&bytestream__query_write_status_request__descriptor,
		&bytestream__query_write_status_response__descriptor, query_write_status, false},
};

void serve_byte_stream_write(struct croft_services *services, struct croft_server *server)
{
	croft_server_add(server, methods, sizeof(methods) / sizeof(methods[0]), services);
}
