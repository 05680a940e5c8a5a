/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One large blob over ByteStream, in either direction. */
#include "fs/remote/internal.h"

#include "proto/base/cleanup.h"

#include "google/bytestream/bytestream.pb-c.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>

enum { CHUNK_BYTES = 1 << 20, UUID_TEXT = 37 };

/* Reading -------------------------------------------------------------------------------------- */

struct reading {
	struct croft_remote *remote;
	const struct croft_digest *digest;
	remote_sink *sink;
	void *user;
	struct croft_hasher *hasher;
	uint64_t received;
	bool stopped; /* the failure is the receiver's, not the server's */
};

static bool take(struct reading *reading, const Bytestream__ReadResponse *response,
	struct croft_error *err)
{
	if (response->data.len > reading->digest->size_bytes - reading->received) {
		reading->stopped = true;
		return croft_error_set(err, CROFT_DATA_LOSS,
			"the server sent more than the blob's %" PRIu64 " bytes",
			reading->digest->size_bytes);
	}
	croft_hasher_update(reading->hasher, response->data.data, response->data.len);
	reading->received += response->data.len;
	if (reading->sink(reading->user, response->data.data, response->data.len, err))
		return true;
	reading->stopped = true;
	return false;
}

/* One stream, from what has been received on. */
static bool read_on(struct reading *reading, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(reading->digest, '/', text);
	Bytestream__ReadRequest request = BYTESTREAM__READ_REQUEST__INIT;
	request.resource_name =
		croft_arena_printf(arena, "%sblobs/%s", remote_prefix(reading->remote, arena), text);
	request.read_offset = (int64_t)reading->received;
	struct croft_stream *stream = croft_stream_open(reading->remote->channel, NULL,
		"/google.bytestream.ByteStream/Read", &bytestream__read_response__descriptor, err);
	if (!stream)
		return false;
	int got = -1;
	if (croft_stream_write(stream, &request.base, err) && croft_stream_close_write(stream, err)) {
		void *response;
		do {
			croft_arena_reset(arena);
			got = croft_stream_read(stream, arena, &response, err);
			if (got > 0 && !take(reading, response, err))
				got = -1;
		} while (got > 0);
	}
	croft_stream_destroy(stream);
	return got == 0;
}

static bool verify(struct reading *reading, struct croft_error *err)
{
	struct croft_digest digest = croft_hasher_finish(reading->hasher);
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(reading->digest, '/', text);
	return croft_digest_equal(&digest, reading->digest) ||
		croft_error_set(err, CROFT_DATA_LOSS,
			"blob %s: what the server sent (%" PRIu64 " bytes) has another digest", text,
			digest.size_bytes);
}

bool remote_stream_read(struct croft_remote *remote, const struct croft_digest *digest,
	remote_sink *sink, void *user, struct croft_error *err)
{
	struct reading reading = {.remote = remote, .digest = digest, .sink = sink, .user = user};
	struct remote_retry retry = {.remote = remote};
	struct croft_error failure = CROFT_ERROR_INIT;
	reading.hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	bool ok;
	for (uint64_t before = 0;; before = reading.received) {
		failure = CROFT_ERROR_INIT;
		ok = read_on(&reading, &failure);
		if (reading.received > before)
			remote_retry_reset(&retry);
		if (ok || reading.stopped || !remote_retry(&retry, &failure))
			break;
	}
	ok = ok && verify(&reading, &failure);
	croft_hasher_destroy(reading.hasher);
	if (ok)
		return true;
	if (failure.code == CROFT_NOT_FOUND && !reading.stopped)
		return remote_not_found(digest, err);
	if (err)
		*err = failure;
	return false;
}

/* Writing -------------------------------------------------------------------------------------- */

struct writing {
	struct croft_remote *remote;
	const struct croft_digest *digest;
	remote_reader *read;
	void *user;
	const char *resource_name;
	char *buffer;
	uint64_t offset; /* where the next stream begins */
	bool stopped;    /* the source failed */
};

static void make_uuid(char text[UUID_TEXT])
{
	uint8_t bytes[16];
	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		abort();
	bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40);
	bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
	char *at = text;
	for (int i = 0; i < 16; i++) {
		at += sprintf(at, "%02x", bytes[i]);
		if (i == 3 || i == 5 || i == 7 || i == 9)
			*at++ = '-';
	}
}

/* False: the stream is over, for good or ill; its status says which. */
static bool send_all(struct writing *writing, struct croft_stream *stream, struct croft_error *err)
{
	uint64_t size = writing->digest->size_bytes;
	for (uint64_t at = writing->offset; at < size;) {
		Bytestream__WriteRequest request = BYTESTREAM__WRITE_REQUEST__INIT;
		size_t count = size - at < CHUNK_BYTES ? (size_t)(size - at) : CHUNK_BYTES;
		if (!writing->read(writing->user, writing->buffer, count, at, err)) {
			writing->stopped = true;
			return false;
		}
		if (at == writing->offset)
			request.resource_name = (char *)writing->resource_name;
		request.write_offset = (int64_t)at;
		request.data = (ProtobufCBinaryData){count, (uint8_t *)writing->buffer};
		at += count;
		request.finish_write = at == size;
		if (!croft_stream_write(stream, &request.base, err))
			return false;
	}
	return croft_stream_close_write(stream, err);
}

static bool write_on(struct writing *writing, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_stream *stream = croft_stream_open(writing->remote->channel, NULL,
		"/google.bytestream.ByteStream/Write", &bytestream__write_response__descriptor, err);
	if (!stream)
		return false;
	void *message;
	int got = -1;
	bool sent = send_all(writing, stream, err);
	/* A server that has the blob already answers before all was sent: then sending fails, and the
	 * answer is there all the same. */
	if (!writing->stopped)
		got = croft_stream_read(stream, arena, &message, sent ? err : NULL);
	croft_stream_destroy(stream);
	if (got < 0)
		return false;
	if (got == 0)
		return croft_error_set(err, CROFT_INTERNAL, "ByteStream.Write ended without an answer");
	int64_t committed = ((Bytestream__WriteResponse *)message)->committed_size;
	return committed == (int64_t)writing->digest->size_bytes ||
		croft_error_set(err, CROFT_INTERNAL,
			"the server committed %" PRId64 " of %" PRIu64 " bytes", committed,
			writing->digest->size_bytes);
}

/* Where to go on after a failure; true when nothing is left to be sent. */
static bool ask_status(struct writing *writing)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Bytestream__QueryWriteStatusRequest request = BYTESTREAM__QUERY_WRITE_STATUS_REQUEST__INIT;
	request.resource_name = (char *)writing->resource_name;
	const Bytestream__QueryWriteStatusResponse *status = croft_unary(writing->remote->channel, NULL,
		"/google.bytestream.ByteStream/QueryWriteStatus", &request.base,
		&bytestream__query_write_status_response__descriptor, arena, NULL);
	writing->offset = 0;
	if (!status)
		return false; /* forgotten there, or not served: from the start */
	/* The last message carries finish_write, so there is always one left to be sent. */
	if (status->committed_size > 0 &&
		(uint64_t)status->committed_size < writing->digest->size_bytes)
		writing->offset = (uint64_t)status->committed_size;
	return status->complete;
}

bool remote_stream_write(struct croft_remote *remote, const struct croft_digest *digest,
	remote_reader *read, void *user, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(CHUNK_BYTES);
	struct writing writing = {
		.remote = remote, .digest = digest, .read = read, .user = user, .buffer = buffer};
	char uuid[UUID_TEXT], text[CROFT_DIGEST_TEXT];
	make_uuid(uuid);
	croft_digest_format(digest, '/', text);
	writing.resource_name = croft_arena_printf(
		arena, "%suploads/%s/blobs/%s", remote_prefix(remote, arena), uuid, text);
	struct remote_retry retry = {.remote = remote};
	struct croft_error failure;
	for (uint64_t before = 0;; before = writing.offset) {
		failure = CROFT_ERROR_INIT;
		if (write_on(&writing, &failure))
			return true;
		if (writing.stopped || !remote_retry(&retry, &failure))
			break;
		if (ask_status(&writing))
			return true;
		if (writing.offset > before)
			remote_retry_reset(&retry);
	}
	if (err)
		*err = failure;
	return croft_error_wrap(err, "uploading blob %s", text);
}
