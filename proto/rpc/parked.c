/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls without a thread: a queue of messages out, one message in at a time.
 */
#include "proto/rpc/call.h"

#include "proto/base/cleanup.h"

#include <string.h>

enum { QUEUE_LIMIT = 64 << 20 };

struct outgoing {
	struct outgoing *next;
	grpc_byte_buffer *buffer;
	size_t size;
};

struct parked_state {
	struct croft_parked parked;
	struct croft_call *call;
	struct event sent, received;
	struct croft_work message_work, closed_work;
	grpc_byte_buffer *incoming;

	/* guarded by the call's lock */
	struct outgoing *first, **last;
	size_t queued_bytes;
	bool sending, finishing, over;
	bool delivering; /* on_message runs, or a read is under way whose message it will get */
	bool closed_told;
	struct croft_error end;
};

static void sent_complete(struct event *event, bool ok);
static void received_complete(struct event *event, bool ok);
static void deliver_message(struct croft_work *work);
static void deliver_closed(struct croft_work *work);
static void read_next(struct parked_state *state);

#define STATE_OF(member_pointer, member)                                                           \
	((struct parked_state *)((char *)(member_pointer)-offsetof(struct parked_state, member)))

/* The lock is held. */
static void tell_closed_if_over(struct parked_state *state)
{
	if (!state->over || state->delivering || state->closed_told)
		return;
	state->closed_told = true;
	croft_call_ref(state->call);
	croft_workers_submit(server_workers(state->call->server), &state->closed_work);
}

/* Outbound ----------------------------------------------------------------------------------- */

static void drop_queue(struct parked_state *state)
{
	while (state->first) {
		struct outgoing *outgoing = state->first;
		state->first = outgoing->next;
		if (outgoing->buffer)
			grpc_byte_buffer_destroy(outgoing->buffer);
		free(outgoing);
	}
	state->last = &state->first;
	state->queued_bytes = 0;
}

/* Starts the next send, or the end of the call when all is sent. The lock is held. */
static void pump(struct parked_state *state)
{
	struct croft_call *call = state->call;
	if (state->sending || state->over || call->status_sent)
		return;
	/* With an error the core would not send the message that goes with the status. */
	if (state->first && state->finishing && !state->first->next && state->end.code == CROFT_OK) {
		struct outgoing *last = state->first;
		call->reply = last->buffer;
		last->buffer = NULL;
		drop_queue(state);
		call->status_sent = true;
		call_send_status(call, state->end.code == CROFT_OK ? NULL : &state->end);
	} else if (state->first) {
		grpc_op ops[2];
		size_t count = call_initial_op(call, &ops[0]);
		ops[count++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE,
			.data.send_message.send_message = state->first->buffer};
		state->sending = true;
		croft_call_ref(call);
		if (grpc_call_start_batch(call->core, ops, count, event_hand(&state->sent), NULL) != GRPC_CALL_OK)
			abort(); /* one send at a time, none after the status: the core has no reason to refuse */
	} else if (state->finishing) {
		call->status_sent = true;
		call_send_status(call, state->end.code == CROFT_OK ? NULL : &state->end);
	}
}

static void sent_complete(struct event *event, bool ok)
{
	struct parked_state *state = STATE_OF(event, sent);
	struct croft_call *call = state->call;
	pthread_mutex_lock(&call->lock);
	struct outgoing *outgoing = state->first;
	state->first = outgoing->next;
	if (!state->first)
		state->last = &state->first;
	state->queued_bytes -= outgoing->size;
	state->sending = false;
	if (ok)
		pump(state);
	else
		drop_queue(state); /* the call is over; its watch says so to the owner */
	pthread_mutex_unlock(&call->lock);
	grpc_byte_buffer_destroy(outgoing->buffer);
	free(outgoing);
	croft_call_unref(call);
}

static bool post(struct croft_call *call, const ProtobufCMessage *message, bool last)
{
	grpc_byte_buffer *buffer = croft_core_encode(message);
	size_t size = grpc_byte_buffer_length(buffer);
	CROFT_LOCKED(&call->lock);
	struct parked_state *state = call->parked;
	bool full = state->queued_bytes + size > state->parked.queue_limit && state->first;
	if (full && !state->over)
		grpc_call_cancel_with_status(call->core, GRPC_STATUS_RESOURCE_EXHAUSTED,
			"the client does not read what it asked for", NULL);
	if (state->over || state->finishing || full) {
		grpc_byte_buffer_destroy(buffer);
		return false;
	}
	struct outgoing *outgoing = croft_zalloc(sizeof(*outgoing));
	outgoing->buffer = buffer;
	outgoing->size = size;
	*state->last = outgoing;
	state->last = &outgoing->next;
	state->queued_bytes += size;
	state->finishing = last;
	pump(state);
	return true;
}

bool croft_call_post(struct croft_call *call, const ProtobufCMessage *message)
{
	return post(call, message, false);
}

void croft_call_post_last(struct croft_call *call, const ProtobufCMessage *message)
{
	post(call, message, true);
}

void croft_call_finish(struct croft_call *call, const struct croft_error *err)
{
	CROFT_LOCKED(&call->lock);
	struct parked_state *state = call->parked;
	if (state->finishing)
		return;
	state->finishing = true;
	if (err)
		state->end = *err;
	pump(state);
}

/* Inbound ------------------------------------------------------------------------------------ */

/* The lock is held. */
static void read_next(struct parked_state *state)
{
	grpc_op op = {
		.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &state->incoming};
	state->delivering = true;
	croft_call_ref(state->call);
	if (grpc_call_start_batch(state->call->core, &op, 1, event_hand(&state->received), NULL) == GRPC_CALL_OK)
		return;
	state->delivering = false;
	croft_call_unref(state->call);
}

static void received_complete(struct event *event, bool ok)
{
	struct parked_state *state = STATE_OF(event, received);
	if (ok && state->incoming) {
		/* The reference goes on with it. */
		if (state->parked.immediate)
			deliver_message(&state->message_work);
		else
			croft_workers_submit(server_workers(state->call->server), &state->message_work);
		return;
	}
	/* Half-closed or gone. Ending our side makes the watch complete, whichever it was. */
	struct croft_call *call = state->call;
	croft_call_finish(call, NULL);
	pthread_mutex_lock(&call->lock);
	state->delivering = false;
	tell_closed_if_over(state);
	pthread_mutex_unlock(&call->lock);
	croft_call_unref(call);
}

static void deliver_message(struct croft_work *work)
{
	struct parked_state *state = STATE_OF(work, message_work);
	struct croft_call *call = state->call;
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice bytes = croft_core_bytes(state->incoming, arena);
	grpc_byte_buffer_destroy(state->incoming);
	state->incoming = NULL;
	void *message = croft_message_decode(
		call->method->request, bytes, arena, server_limits(call->server), &err);
	if (message)
		state->parked.on_message(state->parked.user, message, &arena);
	else
		croft_call_finish(call, &err);
	croft_arena_destroy(arena);
	pthread_mutex_lock(&call->lock);
	state->delivering = false;
	if (!state->over && message)
		read_next(state);
	tell_closed_if_over(state);
	pthread_mutex_unlock(&call->lock);
	croft_call_unref(call);
}

/* Beginning and end --------------------------------------------------------------------------- */

void croft_call_park(struct croft_call *call, const struct croft_parked *parked)
{
	struct parked_state *state = croft_zalloc(sizeof(*state));
	state->parked = *parked;
	if (state->parked.queue_limit == 0)
		state->parked.queue_limit = QUEUE_LIMIT;
	state->call = call;
	state->sent.complete = sent_complete;
	state->received.complete = received_complete;
	state->message_work.run = deliver_message;
	state->closed_work.run = deliver_closed;
	state->last = &state->first;
	CROFT_LOCKED(&call->lock);
	call->parked = state;
	state->over = call->over.done;
	croft_call_ref(call); /* until on_closed */
	if (call->method->kind == CROFT_RPC_BIDI_STREAM && parked->on_message)
		read_next(state);
	tell_closed_if_over(state);
}

void parked_over(struct croft_call *call)
{
	CROFT_LOCKED(&call->lock);
	struct parked_state *state = call->parked;
	state->over = true;
	if (!state->sending)
		drop_queue(state);
	tell_closed_if_over(state);
}

static void deliver_closed(struct croft_work *work)
{
	struct parked_state *state = STATE_OF(work, closed_work);
	struct croft_call *call = state->call;
	state->parked.on_closed(state->parked.user);
	server_call_ended(call->server);
	croft_call_unref(call); /* taken by tell_closed_if_over */
	croft_call_unref(call); /* taken by croft_call_park */
}

void parked_destroy(struct croft_call *call)
{
	struct parked_state *state = call->parked;
	if (!state)
		return;
	drop_queue(state);
	if (state->incoming)
		grpc_byte_buffer_destroy(state->incoming);
	free(state);
}
