/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* GET and HEAD /cas/<sha256>. */
#include "fs/plane/internal.h"

#include "proto/base/arena.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <zstd.h>

enum { ZSTD_WORTH = 1024, ZSTD_LEVEL = 1, ZSTD_PIECE = 64 * 1024 };

static bool produce_plain(struct plane_request *request, struct plane_buffer *buffer,
	struct croft_error *err)
{
	size_t size = plane_room(buffer);
	if (size > request->end - request->position)
		size = (size_t)(request->end - request->position);
	ssize_t got = croft_store_blob_read(
		request->blob, buffer->data + buffer->end, size, request->position, err);
	if (got < 0)
		return false;
	if ((size_t)got < size)
		return croft_error_set(err, CROFT_DATA_LOSS, "the blob ends before its size");
	buffer->end += size;
	request->position += size;
	request->produced = request->position == request->end;
	return true;
}

static bool next_piece(struct plane_request *request, struct croft_error *err)
{
	uint64_t left = request->end - request->position;
	ssize_t got = croft_store_blob_read(request->blob, request->zstd_in,
		left < ZSTD_PIECE ? (size_t)left : ZSTD_PIECE, request->position, err);
	if (got < 0)
		return false;
	if (got == 0 && left > 0)
		return croft_error_set(err, CROFT_DATA_LOSS, "the blob ends before its size");
	request->position += (uint64_t)got;
	request->zstd_start = 0;
	request->zstd_end = (size_t)got;
	return true;
}

static bool produce_zstd(struct plane_request *request, struct plane_buffer *buffer,
	struct croft_error *err)
{
	ZSTD_outBuffer out = {buffer->data + buffer->end, plane_room(buffer), 0};
	while (out.pos < out.size && !request->produced) {
		if (request->zstd_start == request->zstd_end && request->position < request->end &&
			!next_piece(request, err))
			return false;
		bool last = request->position == request->end;
		ZSTD_inBuffer in = {request->zstd_in, request->zstd_end, request->zstd_start};
		size_t left = ZSTD_compressStream2(
			request->zstd, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
		if (ZSTD_isError(left))
			return croft_error_set(err, CROFT_INTERNAL, "zstd: %s", ZSTD_getErrorName(left));
		request->zstd_start = in.pos;
		request->produced = last && left == 0;
	}
	buffer->end += out.pos;
	return true;
}

static void begin_zstd(struct plane_request *request)
{
	request->plane->compressing++;
	request->zstd = ZSTD_createCCtx();
	request->zstd_in = croft_alloc(ZSTD_PIECE);
	if (!request->zstd || ZSTD_isError(ZSTD_CCtx_setParameter(request->zstd,
			ZSTD_c_compressionLevel, ZSTD_LEVEL)) ||
		ZSTD_isError(ZSTD_CCtx_setPledgedSrcSize(request->zstd, request->digest.size_bytes)))
		abort();
	request->chunked = true;
	request->produce = produce_zstd;
}

static bool wants_zstd(const struct plane_request *request)
{
	return request->head.accepts_zstd && !request->range.there &&
		request->digest.size_bytes >= ZSTD_WORTH && request->head.method == HTTP_GET &&
		request->head.minor_version == 1 && request->plane->compressing < PLANE_ZSTD;
}

static void write_head(struct plane_request *request)
{
	char hash[CROFT_HASH_TEXT], range[96] = "";
	uint64_t size = request->digest.size_bytes;
	croft_hash_format(request->digest.hash, hash);
	if (request->zstd) {
		plane_head(request, 200,
			"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n"
			"Content-Encoding: zstd\r\nVary: Accept-Encoding\r\nETag: \"%s-zstd\"\r\n", hash);
		return;
	}
	if (request->range.there)
		snprintf(range, sizeof(range), "Content-Range: bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64
			"\r\n", request->position, request->end - 1, size);
	plane_head(request, request->range.there ? 206 : 200,
		"Content-Type: application/octet-stream\r\nContent-Length: %" PRIu64 "\r\n"
		"Accept-Ranges: bytes\r\n%s%sETag: \"%s\"\r\n", request->end - request->position, range,
		size >= ZSTD_WORTH ? "Vary: Accept-Encoding\r\n" : "", hash);
}

static void answer(struct plane_request *request)
{
	if (!request->blob) {
		plane_answer_error(request, &request->failure);
		return;
	}
	uint64_t left = request->end - request->position;
	if (wants_zstd(request))
		begin_zstd(request);
	else
		request->produce = produce_plain;
	write_head(request);
	if (!request->zstd && left > PLANE_SMALL)
		plane_find_file(request);
	if (request->file >= 0)
		request->produced = true;
	else if (!request->zstd && left <= PLANE_SMALL)
		plane_produce(request);
	plane_answer_begin(request);
}

static void open_blob(struct plane_request *request)
{
	request->blob =
		croft_store_open_blob(request->plane->config.store, &request->digest, &request->failure);
}

/* What is sent first is checked before the answer says that it comes. */
static void open_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	if (!request->blob)
		open_blob(request);
	if (!request->blob || croft_store_blob_check(request->blob, request->position, &request->failure))
		return;
	croft_store_blob_close(request->blob);
	request->blob = NULL;
}

static void answer_head(struct plane_request *request)
{
	write_head(request);
	request->produced = true;
	plane_answer_begin(request);
}

/* Of what is kept as chunks that it is known does not say that all of it is there. */
static void look_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	bool there = false;
	if (croft_store_has(request->plane->config.store, &request->digest, 1, &there, &request->failure) && !there)
		croft_store_not_found(&request->digest, &request->failure);
}

static void looked(struct plane_request *request)
{
	if (request->failure.code == CROFT_OK)
		answer_head(request);
	else
		plane_answer_error(request, &request->failure);
}

void plane_get_found(struct plane_request *request)
{
	uint64_t size = request->digest.size_bytes;
	if (!http_range_resolve(&request->range, size, &request->position, &request->end)) {
		plane_answer_status(request, 416, "the blob has %" PRIu64 " bytes\n", size);
		return;
	}
	if (request->head.method == HTTP_HEAD && size <= PLANE_SMALL) {
		answer_head(request);
	} else if (request->head.method == HTTP_HEAD) {
		plane_request_work(request, look_work, looked);
	} else if (size <= PLANE_SMALL) {
		/* One short read; going through a worker would cost more. */
		open_blob(request);
		answer(request);
	} else if ((request->blob = plane_kept_take(request->plane, &request->digest)) &&
		croft_store_blob_checked(request->blob, request->position)) {
		answer(request);
	} else {
		plane_request_work(request, open_work, answer);
	}
}

/* The size comes with it. */
static bool find(struct plane_request *request)
{
	request->failure = CROFT_ERROR_INIT;
	struct croft_store *store = request->plane->config.store;
	return croft_store_check_visible(store, plane_tenant(request), &request->digest, &request->failure) &&
		croft_store_find_hash(store, request->digest.hash, &request->digest, &request->failure);
}

static void bring_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	croft_upstream_bring_hash(request->plane->config.upstream, request->digest.hash);
	find(request);
}

static void brought(struct plane_request *request)
{
	if (request->failure.code == CROFT_OK)
		plane_get_found(request);
	else
		plane_answer_error(request, &request->failure);
}

void plane_get(struct plane_request *request)
{
	bool found = find(request);
	if (!found && request->plane->config.upstream && request->failure.code == CROFT_NOT_FOUND)
		plane_request_work(request, bring_work, brought);
	else
		brought(request);
}
