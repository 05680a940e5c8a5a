/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PUT /cas/<sha256>: nothing is stored but what has that hash. */
#include "fs/plane/internal.h"

static bool append(struct plane_request *request, struct croft_slice data, struct croft_error *err)
{
	return croft_store_writer_append(request->writer, data.data, data.size, err);
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
		request->digest.size_bytes = request->collected_size;
		croft_store_put(store, &request->digest,
			CROFT_SLICE(request->collected ? request->collected : "", request->collected_size),
			&request->failure);
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
	if (head->is_zstd || head->unknown_coding) {
		request->close = true;
		plane_answer_status(request, 415, "no Content-Encoding is taken here\n");
	} else if (head->has_length) {
		request->digest.size_bytes = head->length;
		plane_request_work(request, begin_work, begun);
	} else if (head->chunked) {
		/* Of unknown size: small ones only. */
		request->take = plane_collect;
		plane_body_begin(request);
	} else {
		request->close = true;
		plane_answer_status(request, 411, "Content-Length is needed\n");
	}
}
