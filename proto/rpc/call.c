/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/call.h"

#include "proto/base/cleanup.h"

#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <string.h>

/* Life --------------------------------------------------------------------------------------- */

static void operation_complete(struct event *event, bool ok)
{
	struct operation *operation = (struct operation *)event;
	struct croft_call *call = operation->call;
	pthread_mutex_lock(&call->lock);
	operation->done = true;
	operation->ok = ok;
	pthread_cond_broadcast(&call->changed);
	pthread_mutex_unlock(&call->lock);
	croft_call_unref(call);
}

static void over_complete(struct event *event, bool ok)
{
	struct croft_call *call = ((struct operation *)event)->call;
	pthread_mutex_lock(&call->lock);
	call->over.done = true;
	/* Not ok or cancelled: the peer is gone or gave up. Otherwise our status was sent. */
	call->cancelled = !ok || call->cancelled_by_peer;
	bool parked = call->parked != NULL;
	pthread_cond_broadcast(&call->changed);
	pthread_mutex_unlock(&call->lock);
	if (parked)
		parked_over(call);
	croft_call_unref(call);
}

static void status_complete(struct event *event, bool ok)
{
	struct croft_call *call =
		(struct croft_call *)((char *)event - offsetof(struct croft_call, finished));
	croft_call_unref(call);
}

struct croft_call *call_create(struct croft_server *server, const struct croft_rpc_method *method,
	void *user, grpc_call *core, gpr_timespec deadline, grpc_metadata_array *metadata,
	grpc_byte_buffer *payload)
{
	struct croft_call *call = croft_zalloc(sizeof(*call));
	call->server = server;
	call->method = method;
	call->user = user;
	call->core = core;
	call->deadline = deadline;
	call->metadata = *metadata;
	call->payload = payload;
	call->references = 1;
	call->write.event.complete = operation_complete;
	call->over.event.complete = over_complete;
	call->finished.complete = status_complete;
	payloads_init(call);
	call->write.call = call->over.call = call;
	pthread_mutex_init(&call->lock, NULL);
	pthread_cond_init(&call->changed, NULL);
	return call;
}

struct croft_call *croft_call_ref(struct croft_call *call)
{
	atomic_fetch_add_explicit(&call->references, 1, memory_order_relaxed);
	return call;
}

void croft_call_unref(struct croft_call *call)
{
	if (!call || atomic_fetch_sub_explicit(&call->references, 1, memory_order_acq_rel) > 1)
		return;
	grpc_call_unref(call->core);
	grpc_metadata_array_destroy(&call->metadata);
	if (call->payload)
		grpc_byte_buffer_destroy(call->payload);
	if (call->reply)
		grpc_byte_buffer_destroy(call->reply);
	for (size_t i = 0; i < call->trailer_count; i++) {
		grpc_slice_unref(call->trailers[i].key);
		grpc_slice_unref(call->trailers[i].value);
	}
	free(call->trailers);
	parked_destroy(call);
	incoming_destroy(call);
	payloads_destroy(call);
	if (call->held)
		held_arena_unref(call->held);
	else
		croft_arena_destroy(call->arena);
	free(call->path);
	gpr_free(call->peer);
	free(call->identity);
	pthread_mutex_destroy(&call->lock);
	pthread_cond_destroy(&call->changed);
	free(call);
}

bool call_start_batch(struct croft_call *call, const grpc_op *ops, size_t count,
	struct event *event)
{
	croft_call_ref(call);
	if (grpc_call_start_batch(call->core, ops, count, event_hand(event), NULL) == GRPC_CALL_OK)
		return true;
	croft_call_unref(call);
	return false;
}

/* The handler --------------------------------------------------------------------------------- */

static bool decode_request(struct croft_call *call, struct croft_error *err)
{
	if (call->method->kind != CROFT_RPC_UNARY && call->method->kind != CROFT_RPC_SERVER_STREAM)
		return true;
	if (!call->payload)
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "%s was called without a request", call->method->path);
	call->request_bytes = croft_core_bytes(call->payload, call->arena);
	grpc_byte_buffer_destroy(call->payload);
	call->payload = NULL;
	call->request = croft_message_decode(call->method->request, call->request_bytes, call->arena,
		server_limits(call->server), err);
	return call->request != NULL;
}

static bool wait_done(struct croft_call *call, struct operation *operation)
{
	struct croft_workers *workers = server_workers(call->server);
	pthread_mutex_lock(&call->lock);
	bool done = operation->done, ok = operation->ok;
	pthread_mutex_unlock(&call->lock);
	if (done)
		return ok;
	croft_workers_begin_wait(workers);
	pthread_mutex_lock(&call->lock);
	while (!operation->done)
		pthread_cond_wait(&call->changed, &call->lock);
	ok = operation->ok;
	pthread_mutex_unlock(&call->lock);
	croft_workers_end_wait(workers);
	return ok;
}

bool call_lost(struct croft_call *call, struct croft_error *err)
{
	if (gpr_time_cmp(gpr_now(call->deadline.clock_type), call->deadline) >= 0)
		return croft_error_set(err, CROFT_DEADLINE_EXCEEDED, "the client's deadline has passed");
	return croft_error_set(err, CROFT_CANCELLED, "the client is gone");
}

static bool answers_once(const struct croft_call *call)
{
	return call->method->kind == CROFT_RPC_UNARY || call->method->kind == CROFT_RPC_CLIENT_STREAM;
}

static bool run_method(struct croft_call *call, struct croft_error *err)
{
	if (!call->method)
		return croft_error_set(
			err, CROFT_UNIMPLEMENTED, "this server has no method %s", call->path);
	if (!decode_request(call, err) || !call->method->handler(call, call->user, err))
		return false;
	if (!call->parked && answers_once(call) && !call->reply)
		return croft_error_set(err, CROFT_INTERNAL, "%s made no answer", call->method->path);
	return payloads_flush(call) || call_lost(call, err);
}

/* Hundreds of thousands of calls may be parked: they keep nothing of their request. What parked.c needs
 * has its own reference. */
static void forget_request(struct croft_call *call)
{
	pthread_mutex_lock(&call->lock);
	struct croft_arena *arena = call->arena;
	call->arena = NULL;
	call->request = NULL;
	call->request_bytes = CROFT_SLICE(NULL, 0);
	call->details = NULL;
	pthread_mutex_unlock(&call->lock);
	croft_arena_destroy(arena);
}

static void run_handler(struct croft_work *work)
{
	struct croft_call *call = (struct croft_call *)((char *)work - offsetof(struct croft_call, work));
	struct croft_error err = CROFT_ERROR_INIT;
	call->arena = croft_arena_create();
	bool ok = run_method(call, &err);
	payloads_flush(call);
	if (!ok && err.code == CROFT_OK)
		croft_error_set(&err, CROFT_UNKNOWN, "failed without saying why");
	if (call->parked) {
		if (!ok)
			croft_call_finish(call, &err);
		forget_request(call);
		croft_call_unref(call);
		return;
	}
	call_send_status(call, ok ? NULL : &err);
	server_call_ended(call->server);
	croft_call_unref(call);
}

void call_begin(struct croft_call *call)
{
	grpc_op over = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
		.data.recv_close_on_server.cancelled = &call->cancelled_by_peer};
	if (!call_start_batch(call, &over, 1, &call->over.event))
		abort();
	incoming_begin(call);
	call->work.run = run_handler;
	if (call->method && call->method->immediate)
		run_handler(&call->work);
	else
		croft_workers_submit(server_workers(call->server), &call->work);
}

size_t call_initial_op(struct croft_call *call, grpc_op *op)
{
	if (call->sent_initial)
		return 0;
	call->sent_initial = true;
	*op = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
	return 1;
}

/* For handlers -------------------------------------------------------------------------------- */

const void *croft_call_request(struct croft_call *call)
{
	return call->request;
}

struct croft_slice croft_call_request_bytes(struct croft_call *call)
{
	return call->request_bytes;
}

bool croft_call_write(struct croft_call *call, const ProtobufCMessage *message,
	struct croft_error *err)
{
	if (answers_once(call)) {
		if (call->reply)
			grpc_byte_buffer_destroy(call->reply);
		call->reply = croft_core_encode(message);
		return true;
	}
	if (!payloads_flush(call))
		return call_lost(call, err);
	grpc_byte_buffer *buffer = croft_core_encode(message);
	grpc_op ops[2];
	size_t count = call_initial_op(call, &ops[0]);
	ops[count++] =
		(grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buffer};
	call->write.done = false;
	bool ok = call_start_batch(call, ops, count, &call->write.event) && wait_done(call, &call->write);
	grpc_byte_buffer_destroy(buffer);
	return ok || call_lost(call, err);
}

struct croft_arena *croft_call_arena(struct croft_call *call)
{
	return call->arena;
}

const char *croft_call_peer(struct croft_call *call)
{
	if (!call->peer)
		call->peer = grpc_call_get_peer(call->core);
	return call->peer;
}

const char *croft_call_identity(struct croft_call *call)
{
	grpc_auth_context *context = grpc_call_auth_context(call->core);
	if (!call->identity && context && grpc_auth_context_peer_is_authenticated(context)) {
		/* What the core takes for the identity is an alternative name if there is any: often an address. */
		grpc_auth_property_iterator names =
			grpc_auth_context_find_properties_by_name(context, GRPC_X509_CN_PROPERTY_NAME);
		const grpc_auth_property *name = grpc_auth_property_iterator_next(&names);
		if (!name) {
			names = grpc_auth_context_peer_identity(context);
			name = grpc_auth_property_iterator_next(&names);
		}
		if (name)
			call->identity = strndup(name->value, name->value_length);
	}
	grpc_auth_context_release(context);
	return call->identity;
}

struct croft_slice croft_call_header(struct croft_call *call, const char *name)
{
	return croft_core_metadata(&call->metadata, name);
}

uint64_t croft_call_time_left_ms(struct croft_call *call)
{
	if (gpr_time_cmp(call->deadline, gpr_inf_future(call->deadline.clock_type)) == 0)
		return UINT64_MAX;
	gpr_timespec left = gpr_time_sub(call->deadline, gpr_now(call->deadline.clock_type));
	int32_t milliseconds = gpr_time_to_millis(left);
	return milliseconds > 0 ? (uint64_t)milliseconds : 0;
}

bool croft_call_cancelled(struct croft_call *call)
{
	CROFT_LOCKED(&call->lock);
	return call->cancelled;
}
