/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pieces of blobs on their way out. The core is given the very memory that the handler filled; when it
 * has let go of it, it serves for a later piece of the same call: fresh memory costs more (page by page,
 * zeroed) than the bytes that are copied into it.
 *
 * The call's queue sends them, one when the other has gone: whoever starts an operation of the core also
 * does its copying into the socket, and the handler is to fill the next piece meanwhile.
 */
#include "proto/rpc/call.h"

#include "proto/base/cleanup.h"

#include <string.h>

/* The key and the length of the message's field stand right before its bytes. A handler that found the most waiting
 * goes on when few are left: else it and the queue's thread take turns with each piece, and each turn is two changes of
 * threads. */
enum { HEAD_BYTES = 16, MOST_WAITING = 4, FEW_WAITING = 1 };

struct payload {
	struct payload_pool *pool;
	struct payload *next; /* in the pool */
	size_t room;
	uint8_t head[HEAD_BYTES];
	uint8_t bytes[];
};

/* Outlives the call when the core still has a piece. */
struct payload_pool {
	pthread_mutex_t lock; /* guards: all */
	struct payload *idle;
	size_t references; /* the call and what the core has */
};

static void unref_pool(struct payload_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	bool last = --pool->references == 0;
	pthread_mutex_unlock(&pool->lock);
	if (!last)
		return;
	for (struct payload *next, *at = pool->idle; at; at = next) {
		next = at->next;
		free(at);
	}
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

static void put_back(void *user)
{
	struct payload *payload = user;
	struct payload_pool *pool = payload->pool;
	pthread_mutex_lock(&pool->lock);
	payload->next = pool->idle;
	pool->idle = payload;
	pthread_mutex_unlock(&pool->lock);
	unref_pool(pool);
}

static struct payload *take_idle(struct payload_pool *pool, size_t size)
{
	CROFT_LOCKED(&pool->lock);
	for (struct payload **at = &pool->idle; *at; at = &(*at)->next)
		if ((*at)->room >= size) {
			struct payload *payload = *at;
			*at = payload->next;
			return payload;
		}
	return NULL;
}

unsigned char *croft_call_payload(struct croft_call *call, size_t size)
{
	if (!call->payloads) {
		call->payloads = croft_zalloc(sizeof(*call->payloads));
		call->payloads->references = 1;
		pthread_mutex_init(&call->payloads->lock, NULL);
	}
	struct payload *payload = call->filling;
	if (payload && payload->room < size) {
		free(payload);
		payload = NULL;
	}
	if (!payload)
		payload = take_idle(call->payloads, size);
	if (!payload) {
		payload = croft_alloc(sizeof(*payload) + size);
		payload->pool = call->payloads;
		payload->room = size;
	}
	call->filling = payload;
	return payload->bytes;
}

static grpc_byte_buffer *message_of(struct payload *payload, unsigned field, size_t size)
{
	uint8_t head[HEAD_BYTES];
	size_t used = 0;
	for (uint64_t key = (uint64_t)field << 3 | 2; key || used == 0; key >>= 7)
		head[used++] = (uint8_t)((key & 0x7f) | (key > 0x7f ? 0x80 : 0));
	for (uint64_t left = size, first = 1; left || first; left >>= 7, first = 0)
		head[used++] = (uint8_t)((left & 0x7f) | (left > 0x7f ? 0x80 : 0));
	uint8_t *start = payload->bytes - used;
	memcpy(start, head, used);
	pthread_mutex_lock(&payload->pool->lock);
	payload->pool->references++;
	pthread_mutex_unlock(&payload->pool->lock);
	grpc_slice slice = grpc_slice_new_with_user_data(start, used + size, put_back, payload);
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
	grpc_slice_unref(slice);
	return buffer;
}

/* The next to be sent; NULL: there is none, or it would be in vain. The lock is held. */
static grpc_byte_buffer *next_message(struct croft_call *call)
{
	while (call->outgoing.count > 0) {
		grpc_byte_buffer *message = call->outgoing.waiting[call->outgoing.first];
		call->outgoing.first = (call->outgoing.first + 1) % MOST_WAITING;
		call->outgoing.count--;
		if (!call->outgoing.failed)
			return message;
		grpc_byte_buffer_destroy(message);
	}
	return NULL;
}

static bool start(struct croft_call *call, grpc_byte_buffer *message)
{
	grpc_op ops[2];
	size_t count = call_initial_op(call, &ops[0]);
	ops[count++] =
		(grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message};
	return call_start_batch(call, ops, count, &call->outgoing.event);
}

/* On the queue's thread: one was sent, or the first is there. */
static void sent(struct event *event, bool ok)
{
	struct croft_call *call =
		(struct croft_call *)((char *)event - offsetof(struct croft_call, outgoing.event));
	pthread_mutex_lock(&call->lock);
	if (call->outgoing.sending)
		grpc_byte_buffer_destroy(call->outgoing.sending);
	call->outgoing.failed |= !ok;
	for (;;) {
		grpc_byte_buffer *message = call->outgoing.sending = next_message(call);
		call->outgoing.busy = message != NULL;
		if (!message || call->outgoing.count <= FEW_WAITING)
			pthread_cond_broadcast(&call->changed);
		pthread_mutex_unlock(&call->lock);
		if (!message || start(call, message))
			break;
		grpc_byte_buffer_destroy(message);
		pthread_mutex_lock(&call->lock);
		call->outgoing.failed = true;
	}
	croft_call_unref(call);
}

void payloads_init(struct croft_call *call)
{
	call->outgoing.event.complete = sent;
}

/* Until there is room for more, or all have gone. The lock is held; it is not meanwhile. */
static void wait_outgoing(struct croft_call *call, bool all)
{
	if (all ? !call->outgoing.busy : call->outgoing.count < MOST_WAITING)
		return;
	struct croft_workers *workers = server_workers(call->server);
	pthread_mutex_unlock(&call->lock);
	croft_workers_begin_wait(workers);
	pthread_mutex_lock(&call->lock);
	while (all ? call->outgoing.busy : call->outgoing.count > FEW_WAITING)
		pthread_cond_wait(&call->changed, &call->lock);
	pthread_mutex_unlock(&call->lock);
	croft_workers_end_wait(workers);
	pthread_mutex_lock(&call->lock);
}

static bool put_out(struct croft_call *call, grpc_byte_buffer *message)
{
	pthread_mutex_lock(&call->lock);
	wait_outgoing(call, false);
	bool failed = call->outgoing.failed, idle = !call->outgoing.busy;
	if (!failed) {
		unsigned last = (call->outgoing.first + call->outgoing.count++) % MOST_WAITING;
		call->outgoing.waiting[last] = message;
		call->outgoing.busy = true;
	}
	pthread_mutex_unlock(&call->lock);
	if (failed)
		grpc_byte_buffer_destroy(message);
	else if (idle && !call_start_batch(call, NULL, 0, &call->outgoing.event))
		abort(); /* a batch of nothing, which only wakes the queue */
	return !failed;
}

bool payloads_flush(struct croft_call *call)
{
	if (!call->payloads)
		return true;
	CROFT_LOCKED(&call->lock);
	wait_outgoing(call, true);
	return !call->outgoing.failed;
}

bool croft_call_write_payload(struct croft_call *call, unsigned field, size_t size, bool last,
	struct croft_error *err)
{
	grpc_byte_buffer *message = message_of(call->filling, field, size);
	call->filling = NULL;
	if (last) {
		call->reply = message;
		return true;
	}
	return put_out(call, message) || call_lost(call, err);
}

void payloads_destroy(struct croft_call *call)
{
	free(call->filling);
	if (call->payloads)
		unref_pool(call->payloads);
}
