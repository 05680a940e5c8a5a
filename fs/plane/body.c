/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A request's body: received into one buffer while `take` works at the other one. It is framing-free
 * by then: chunks are put together in place.
 */
#include "fs/plane/internal.h"

#include "proto/base/arena.h"

#include <errno.h>
#include <stdio.h>

static void fail(struct plane_request *request, int status, const char *why)
{
	request->failure_status = status;
	croft_error_set(&request->failure, CROFT_INVALID_ARGUMENT, "%s", why);
}

/* Puts the data among the bytes to the front of the buffer; says how many bytes it used. */
static size_t unframe(struct plane_request *request, struct croft_slice bytes,
	struct plane_buffer *buffer)
{
	struct croft_slice in = bytes, piece;
	enum http_step step;
	while ((step = http_body_next(&request->body, &in, &piece)) == HTTP_DATA) {
		memmove(buffer->data + buffer->end, piece.data, piece.size);
		buffer->end += piece.size;
	}
	request->body_ended = step == HTTP_END;
	if (step == HTTP_BAD)
		fail(request, 400, "the chunks are malformed");
	return bytes.size - in.size;
}

static bool is_over(const struct plane_request *request)
{
	return request->body_ended || request->failure_status != 0;
}

/* From what came behind the head. */
static void feed(struct plane_request *request, struct plane_buffer *buffer)
{
	struct plane_connection *connection = request->connection;
	size_t size = connection->in_end - connection->in_start;
	if (size > PLANE_BUFFER)
		size = PLANE_BUFFER;
	plane_used(connection,
		unframe(request, CROFT_SLICE(size ? connection->in + connection->in_start : "", size),
			buffer));
}

static void receive(struct plane_request *request, struct plane_buffer *buffer)
{
	size_t size = PLANE_BUFFER;
	/* Never far past the end, which with chunks is not known before. */
	if (request->body.chunked)
		size = PLANE_RECEIVE;
	else if (request->body.left < size)
		size = (size_t)request->body.left;
	plane_receive(request->connection, buffer->data, size);
}

static void take_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	struct plane_buffer *buffer = &request->buffers[request->drain];
	request->failed_taking =
		!request->take(request, CROFT_SLICE(buffer->data, buffer->end), &request->failure);
}

static void taken(struct plane_request *request)
{
	if (request->failed_taking && request->failure_status == 0)
		request->failure_status = plane_status_of(&request->failure);
	request->buffers[request->drain].end = 0;
	request->drain ^= 1;
	plane_body_continue(request);
}

/* Into the buffer whose turn it is, as far as there is anything without waiting. */
static void fill(struct plane_request *request)
{
	struct plane_connection *connection = request->connection;
	while (!is_over(request) && !connection->receiving) {
		struct plane_buffer *buffer = plane_buffer_ready(request, request->fill);
		if (buffer->end > 0)
			return;
		if (connection->in || request->body.left == 0)
			feed(request, buffer);
		if (buffer->end > 0)
			request->fill ^= 1;
		else if (!is_over(request) && !connection->in)
			receive(request, buffer);
	}
}

static void drain(struct plane_request *request)
{
	struct plane_connection *connection = request->connection;
	while (!request->working && request->failure_status == 0) {
		struct plane_buffer *buffer = &request->buffers[request->drain];
		bool being_filled = connection->receiving && request->drain == request->fill;
		if (being_filled || buffer->end == 0)
			return;
		if (request->take && request->take_blocks) {
			plane_request_work(request, take_work, taken);
			return;
		}
		if (request->take &&
			!request->take(request, CROFT_SLICE(buffer->data, buffer->end), &request->failure))
			request->failure_status = plane_status_of(&request->failure);
		buffer->end = 0;
		request->drain ^= 1;
	}
}

void plane_body_continue(struct plane_request *request)
{
	struct plane_connection *connection = request->connection;
	fill(request);
	drain(request);
	if (!request->working)
		fill(request);
	if (request->working || connection->receiving || connection->sending)
		return;
	if (request->failure_status != 0) {
		request->close |= !request->body_ended;
		plane_answer_status(request, request->failure_status, "%s\n", request->failure.message);
	} else if (request->body_ended) {
		request->fill = request->drain = 0;
		request->finish(request);
	}
}

void plane_body_received(struct plane_request *request, int result)
{
	struct plane_connection *connection = request->connection;
	struct plane_buffer *buffer = &request->buffers[request->fill];
	if (result > 0) {
		plane_touch(connection, (size_t)result);
		size_t used =
			unframe(request, CROFT_SLICE(buffer->data, (size_t)result), buffer);
		plane_keep(connection, buffer->data + used, (size_t)result - used);
		if (buffer->end > 0)
			request->fill ^= 1;
	} else if (result != -EINTR && result != -EAGAIN) {
		plane_connection_close(connection);
		return;
	}
	plane_body_continue(request);
}

bool plane_collect(struct plane_request *request, struct croft_slice data, struct croft_error *err)
{
	struct croft_plane *plane = request->plane;
	size_t size = request->collected_size + data.size;
	if (size > PLANE_COLLECT)
		return croft_error_set(err, CROFT_OUT_OF_RANGE, "the body is over 64 MiB");
	if (size > request->collected_room) {
		size_t room = 2 * size < PLANE_COLLECT ? 2 * size : PLANE_COLLECT;
		if (room - request->collected_room > PLANE_COLLECT_ALL - plane->collected)
			return croft_error_set(err, CROFT_UNAVAILABLE, "too much is being sent at once");
		plane->collected += room - request->collected_room;
		request->collected_room = room;
		request->collected = croft_realloc(request->collected, request->collected_room, 1);
	}
	memcpy(request->collected + request->collected_size, data.data, data.size);
	request->collected_size = size;
	return true;
}

void plane_body_begin(struct plane_request *request)
{
	struct plane_connection *connection = request->connection;
	static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
	connection->phase = PLANE_BODY;
	http_body_init_request(&request->body, &request->head);
	if (request->head.expect_continue && !connection->in)
		plane_send(connection, go_on, sizeof(go_on) - 1, 0);
	plane_body_continue(request);
}
