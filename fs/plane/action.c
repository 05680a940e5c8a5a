/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* GET, HEAD and PUT /ac/<sha256 of an Action>: ActionResults; other values are blobs. */
#include "fs/plane/internal.h"

#include "fs/action_value.h"
#include "proto/base/arena.h"

/* GET ---------------------------------------------------------------------------------------- */

static bool look(struct plane_request *request)
{
	struct croft_plane *plane = request->plane;
	request->failure = CROFT_ERROR_INIT;
	return croft_action_value_get(plane->config.store, plane_instance(request), plane_tenant(request),
		request->digest.hash,
		request->arena, &request->value, &request->digest, &request->failure);
}

static void get_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	struct croft_plane *plane = request->plane;
	if (look(request) || !plane->config.upstream || request->failure.code != CROFT_NOT_FOUND)
		return;
	croft_upstream_bring_result(plane->config.upstream, plane_instance(request), &request->digest);
	look(request);
}

static void got(struct plane_request *request)
{
	if (request->failure.code != CROFT_OK) {
		char hash[CROFT_HASH_TEXT];
		croft_hash_format(request->digest.hash, hash);
		croft_error_wrap(&request->failure, "/ac/%s", hash);
		plane_answer_error(request, &request->failure);
		return;
	}
	if (!request->value.data) {
		plane_get_found(request);
		return;
	}
	plane_answer_value(request, "application/octet-stream", "");
}

void plane_action_get(struct plane_request *request)
{
	request->arena = croft_arena_create();
	plane_request_work(request, get_work, got);
}

/* PUT ---------------------------------------------------------------------------------------- */

static void put_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	struct croft_plane *plane = request->plane;
	struct croft_slice value = {
		request->collected ? request->collected : "", request->collected_size};
	if (croft_action_value_put(plane->config.store, plane_instance(request), plane_tenant(request),
			request->digest.hash, value, &request->failure))
		croft_upstream_send_result(
			plane->config.upstream, plane_instance(request), &request->digest, value);
}

static void put_is_done(struct plane_request *request)
{
	if (request->failure.code != CROFT_OK) {
		plane_answer_error(request, &request->failure);
		return;
	}
	plane_head(request, 200, "Content-Length: 0\r\n");
	request->produced = true;
	plane_answer_begin(request);
}

static void put(struct plane_request *request)
{
	plane_request_work(request, put_work, put_is_done);
}

void plane_action_put(struct plane_request *request)
{
	const struct http_head *head = &request->head;
	request->take = plane_collect;
	request->finish = put;
	if (head->is_zstd || head->unknown_coding) {
		request->close = true;
		plane_answer_status(request, 415, "no Content-Encoding is taken here\n");
	} else if (!head->has_length && !head->chunked) {
		request->close = true;
		plane_answer_status(request, 411, "Content-Length is needed\n");
	} else {
		plane_body_begin(request);
	}
}
