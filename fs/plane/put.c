/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PUT /cas/<sha256>: nothing is stored but what has that hash. */
#include "fs/plane/internal.h"

#include "proto/base/arena.h"
#include "proto/base/cleanup.h"

#include <stdlib.h>
#include <zstd.h>

static bool append(struct plane_request *request, struct croft_slice data, struct croft_error *err)
{
	return croft_store_writer_append(request->writer, data.data, data.size, err);
}

/* What was collected, unpacked; as much of it as may be kept in memory. */
static bool unpack(struct plane_request *request, char **bytes, size_t *size, struct croft_error *err)
{
	enum { WINDOW_LOG_MAX = 23 }; /* 8 MiB: what RFC 8878 (3.1.1.1.2) asks every decoder to support */
	ZSTD_DCtx *context = ZSTD_createDCtx();
	if (!context || ZSTD_isError(ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)))
		abort();
	ZSTD_inBuffer in = {request->collected, request->collected_size, 0};
	ZSTD_outBuffer out = {croft_alloc(PLANE_BUFFER), PLANE_BUFFER, 0};
	size_t wants = 0;
	bool full = false;
	while ((in.pos < in.size || full) && !ZSTD_isError(wants) && out.pos <= PLANE_COLLECT) {
		if (out.pos == out.size)
			out.dst = croft_realloc(out.dst, out.size *= 2, 1);
		wants = ZSTD_decompressStream(context, &out, &in);
		full = out.pos == out.size;
	}
	ZSTD_freeDCtx(context);
	*bytes = out.dst;
	*size = out.pos;
	if (ZSTD_isError(wants))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "the zstd data is broken: %s", ZSTD_getErrorName(wants));
	if (out.pos > PLANE_COLLECT)
		return croft_error_set(err, CROFT_OUT_OF_RANGE,
			"the zstd data is over 64 MiB when it is unpacked: such a blob is to be sent as it is");
	return wants == 0 ||
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "the zstd data ends in the middle of a frame");
}

static void put_collected(struct plane_request *request)
{
	CROFT_CLEANUP_FREE char *unpacked = NULL;
	struct croft_slice bytes = {request->collected ? request->collected : "", request->collected_size};
	if (request->head.is_zstd) {
		size_t size;
		if (!unpack(request, &unpacked, &size, &request->failure))
			return;
		bytes = CROFT_SLICE(unpacked, size);
	}
	request->digest.size_bytes = bytes.size;
	croft_store_put(request->plane->config.store, &request->digest, bytes, &request->failure);
}

static void commit_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	struct croft_store *store = request->plane->config.store;
	request->failure = CROFT_ERROR_INIT;
	if (request->writer) {
		struct croft_store_writer *writer = request->writer;
		request->writer = NULL;
		croft_store_writer_commit(writer, &request->failure);
	} else if (request->take == plane_collect) {
		put_collected(request);
	} else {
		return;
	}
	if (request->failure.code == CROFT_OK)
		croft_store_grant(store, plane_tenant(request), &request->digest, 1, &request->failure);
}

static void committed(struct plane_request *request)
{
	if (request->failure.code != CROFT_OK) {
		plane_answer_error(request, &request->failure);
		return;
	}
	croft_upstream_send(request->plane->config.upstream, &request->digest, 1);
	plane_head(request, 200, "Content-Length: 0\r\n");
	request->produced = true;
	plane_answer_begin(request);
}

static void commit(struct plane_request *request)
{
	plane_request_work(request, commit_work, committed);
}

static void begin_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	struct croft_store *store = request->plane->config.store;
	bool missing = true, visible = false;
	if (!croft_store_visible(store, plane_tenant(request), &request->digest, 1, &visible, &request->failure) ||
		!croft_store_find_missing(store, &request->digest, 1, &missing, &request->failure))
		return;
	if (missing || !visible)
		request->writer = croft_store_write(store, &request->digest, &request->failure);
}

static void begun(struct plane_request *request)
{
	if (request->failure.code != CROFT_OK) {
		request->close = true;
		plane_answer_error(request, &request->failure);
		return;
	}
	if (request->writer) {
		request->take = append;
		request->take_blocks = true;
	} else if (request->head.expect_continue) {
		/* It is there: the client is spared sending it. */
		request->close = true;
		committed(request);
		return;
	}
	plane_body_begin(request);
}

void plane_put(struct plane_request *request)
{
	const struct http_head *head = &request->head;
	request->finish = commit;
	if (head->unknown_coding) {
		request->close = true;
		plane_answer_status(request, 415, "no Content-Encoding but zstd is taken here\n");
	} else if (head->has_length && !head->is_zstd) {
		request->digest.size_bytes = head->length;
		plane_request_work(request, begin_work, begun);
	} else if (head->chunked || head->has_length) {
		/* Of unknown size: small ones only. */
		request->take = plane_collect;
		plane_body_begin(request);
	} else {
		request->close = true;
		plane_answer_status(request, 411, "Content-Length is needed\n");
	}
}
