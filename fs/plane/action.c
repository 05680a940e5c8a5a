/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* GET, HEAD and PUT /ac/<sha256 of an Action>: ActionResults. */
#include "fs/plane/internal.h"

#include "fs/action_result.h"
#include "proto/base/arena.h"
#include "proto/rpc/message.h"

static struct croft_slice record_key(struct plane_request *request)
{
	const char *name = request->plane->instance_name;
	char hash[CROFT_HASH_TEXT];
	croft_hash_format(request->digest.hash, hash);
	size_t name_size = strlen(name), size = name_size + 1 + CROFT_HASH_TEXT - 1;
	char *key = croft_arena_alloc(request->arena, size);
	memcpy(key, name, name_size + 1);
	memcpy(key + name_size + 1, hash, CROFT_HASH_TEXT - 1);
	return CROFT_SLICE(key, size);
}

/* GET ---------------------------------------------------------------------------------------- */

static bool produce(struct plane_request *request, struct plane_buffer *buffer,
	struct croft_error *err)
{
	size_t size = plane_room(buffer), left = request->value.size - (size_t)request->position;
	if (size > left)
		size = left;
	memcpy(buffer->data + buffer->end, (const char *)request->value.data + request->position, size);
	buffer->end += size;
	request->position += size;
	request->produced = request->position == request->value.size;
	return true;
}

static void get_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	croft_store_record_get(request->plane->config.store, CROFT_RECORD_ACTION, record_key(request),
		request->arena, &request->value, &request->failure);
}

static void got(struct plane_request *request)
{
	if (request->failure.code != CROFT_OK) {
		plane_answer_error(request, &request->failure);
		return;
	}
	plane_head(request, 200, "Content-Type: application/octet-stream\r\nContent-Length: %zu\r\n",
		request->value.size);
	request->produce = produce;
	if (request->head.method == HTTP_HEAD || request->value.size == 0)
		request->produced = true;
	plane_answer_begin(request);
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
	struct croft_error *err = &request->failure;
	struct croft_slice value = {
		request->collected ? request->collected : "", request->collected_size};
	struct croft_ref *refs;
	size_t count;
	Reapi__ActionResult *result = croft_message_decode(
		&reapi__action_result__descriptor, value, request->arena, NULL, err);
	if (!result) {
		err->code = CROFT_INVALID_ARGUMENT; /* over a limit of the decoder: the same to the client */
		return;
	}
	if (croft_action_result_refs(result, request->arena, &refs, &count, err))
		croft_store_record_put(request->plane->config.store, CROFT_RECORD_ACTION,
			record_key(request), value, refs, count, 0, err);
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
	request->arena = croft_arena_create();
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
