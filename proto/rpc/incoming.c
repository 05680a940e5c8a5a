/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the client of a stream sends, for a handler that reads it.
 *
 * A client-streaming call comes with its first message (or the end): the core waits for that, and no
 * thread does. The queue's thread receives ahead of the handler, so that of a short stream all is there when
 * the handler asks; at most MOST_INCOMING messages wait: that is the flow control. A bidirectional call is
 * read only when the handler asks, since it may be parked instead.
 *
 * A half-close and a lost client look alike: no message. The core knows which it was, from the moment at which
 * the stream's end was read; the watch's event may come before or after.
 */
#include "proto/rpc/call.h"

#include <stdlib.h>

/* Whether to begin another receive; the caller does, without the lock. The lock is held. */
static bool want_next(struct croft_call *call)
{
	if (call->incoming.busy || call->incoming.ended || call->incoming.count == MOST_INCOMING)
		return false;
	call->incoming.busy = true;
	return true;
}

static void begin_receive(struct croft_call *call)
{
	grpc_op op = {
		.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->incoming.arriving};
	call->incoming.arriving = NULL;
	if (!call_start_batch(call, &op, 1, &call->incoming.event))
		abort(); /* one at a time: the core has no reason to refuse */
}

/* The lock is held. */
static void put(struct croft_call *call, grpc_byte_buffer *message)
{
	call->incoming.waiting[(call->incoming.first + call->incoming.count++) % MOST_INCOMING] = message;
}

static bool reads_ahead(const struct croft_call *call)
{
	return call->method->kind == CROFT_RPC_CLIENT_STREAM;
}

/* On the queue's thread. */
static void received(struct event *event, bool ok)
{
	struct croft_call *call =
		(struct croft_call *)((char *)event - offsetof(struct croft_call, incoming.event));
	pthread_mutex_lock(&call->lock);
	call->incoming.busy = false;
	if (call->incoming.arriving) {
		put(call, call->incoming.arriving);
	} else {
		call->incoming.ended = true;
		call->incoming.lost = !ok || grpc_call_failed_before_recv_message(call->core);
	}
	bool next = reads_ahead(call) && want_next(call);
	pthread_cond_broadcast(&call->changed);
	pthread_mutex_unlock(&call->lock);
	if (next)
		begin_receive(call);
	croft_call_unref(call);
}

void incoming_begin(struct croft_call *call)
{
	call->incoming.event.complete = received;
	if (!call->method || !reads_ahead(call))
		return;
	/* Where there was none, the next receive tells why. */
	if (call->payload)
		put(call, call->payload);
	call->payload = NULL;
	call->incoming.busy = true;
	begin_receive(call);
}

/* Waits until there is a message, or the end is known. The lock is held; it is not meanwhile. */
static void await_message(struct croft_call *call)
{
	struct croft_workers *workers = server_workers(call->server);
	pthread_mutex_unlock(&call->lock);
	croft_workers_begin_wait(workers);
	pthread_mutex_lock(&call->lock);
	while (call->incoming.count == 0 && !call->incoming.ended)
		pthread_cond_wait(&call->changed, &call->lock);
	pthread_mutex_unlock(&call->lock);
	croft_workers_end_wait(workers);
	pthread_mutex_lock(&call->lock);
}

/* The next message; NULL at the end. */
static grpc_byte_buffer *take(struct croft_call *call)
{
	pthread_mutex_lock(&call->lock);
	if (call->incoming.count == 0 && want_next(call)) {
		pthread_mutex_unlock(&call->lock);
		begin_receive(call);
		pthread_mutex_lock(&call->lock);
	}
	if (call->incoming.count == 0 && !call->incoming.ended)
		await_message(call);
	grpc_byte_buffer *message = NULL;
	if (call->incoming.count > 0) {
		message = call->incoming.waiting[call->incoming.first];
		call->incoming.first = (call->incoming.first + 1) % MOST_INCOMING;
		call->incoming.count--;
	}
	bool next = reads_ahead(call) && want_next(call);
	pthread_mutex_unlock(&call->lock);
	if (next)
		begin_receive(call);
	return message;
}

/* As croft_call_read; the message as it came. */
static int next(struct croft_call *call, grpc_byte_buffer **buffer, struct croft_error *err)
{
	received_destroy(call->incoming.lent);
	call->incoming.lent = NULL;
	*buffer = take(call);
	if (*buffer)
		return 1;
	if (!call->incoming.lost)
		return 0;
	call_lost(call, err);
	return -1;
}

int croft_call_read(struct croft_call *call, struct croft_arena *arena, void **message,
	struct croft_error *err)
{
	grpc_byte_buffer *buffer;
	int got = next(call, &buffer, err);
	if (got <= 0)
		return got;
	struct croft_slice bytes = croft_core_bytes(buffer, arena);
	grpc_byte_buffer_destroy(buffer);
	*message = croft_message_decode(
		call->method->request, bytes, arena, server_limits(call->server), err);
	return *message ? 1 : -1;
}

int croft_call_read_pieces(struct croft_call *call, struct croft_arena *arena, unsigned field,
	void **message, struct croft_pieces *bytes, struct croft_error *err)
{
	grpc_byte_buffer *buffer;
	int got = next(call, &buffer, err);
	if (got <= 0)
		return got;
	struct croft_slice rest;
	call->incoming.lent = received_split(buffer, field, arena, &rest, bytes);
	if (!call->incoming.lent) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "a malformed %s", call->method->request->name);
		return -1;
	}
	*message = croft_message_decode(
		call->method->request, rest, arena, server_limits(call->server), err);
	return *message ? 1 : -1;
}

void incoming_destroy(struct croft_call *call)
{
	received_destroy(call->incoming.lent);
	for (; call->incoming.count > 0; call->incoming.count--) {
		grpc_byte_buffer_destroy(call->incoming.waiting[call->incoming.first]);
		call->incoming.first = (call->incoming.first + 1) % MOST_INCOMING;
	}
}
