/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to proto/rpc: what the server's queues (server.c), the handler's side of a call (call.c)
 * and parked calls (parked.c) share.
 *
 * Life of a call: created by its queue's thread when it arrives; referenced by its handler, by the
 * watch for its end (every call has one: it completes when the call is over, for whatever reason) and
 * by every batch under way. Freed with the last reference.
 */
#ifndef CROFT_RPC_CALL_H
#define CROFT_RPC_CALL_H

#include "proto/rpc/core.h"
#include "proto/rpc/server.h"
#include "proto/rpc/workers.h"

#include <pthread.h>
#include <stdatomic.h>

/* A tag of the core's: what to do when it completes. What was written before the core got it is seen by
 * whoever completes it; `handed` says so to the thread sanitizer, which cannot look into the core. */
struct event {
	void (*complete)(struct event *event, bool ok);
	atomic_bool handed;
};

static inline struct event *event_hand(struct event *event)
{
	atomic_store_explicit(&event->handed, true, memory_order_release);
	return event;
}

static inline void event_complete(struct event *event, bool ok)
{
	(void)atomic_load_explicit(&event->handed, memory_order_acquire);
	event->complete(event, ok);
}

struct operation {
	struct event event;
	struct croft_call *call;
	bool done, ok;
};

enum { MOST_INCOMING = 2 };

struct parked_state; /* parked.c */
struct held_arena; /* gather.c */
struct payload_pool;
struct received; /* pieces.c */
struct payload;

struct croft_call {
	struct croft_server *server;
	const struct croft_rpc_method *method; /* NULL: there is none of that name */
	void *user;
	grpc_call *core;
	gpr_timespec deadline;
	grpc_metadata_array metadata;
	char *path; /* when method is NULL */
	char *peer, *identity;

	atomic_uint references;
	struct croft_arena *arena;
	struct held_arena *held; /* NULL: the arena is the call's alone */
	grpc_byte_buffer *payload;
	struct croft_slice request_bytes;
	void *request;

	struct croft_work work;
	struct operation write, over;
	struct event finished;
	int cancelled_by_peer; /* written by the core until `over` completes */

	/* guards: done and ok of write and over; cancelled; parked's state; incoming; outgoing */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool cancelled;
	bool sent_initial;   /* the initial metadata; by whoever sends first */
	bool status_sent;
	grpc_byte_buffer *reply; /* the last message: sent together with the status */

	struct { /* incoming.c */
		struct event event;
		grpc_byte_buffer *arriving, *waiting[MOST_INCOMING];
		unsigned first, count; /* of waiting */
		bool busy;             /* a receive is under way */
		bool ended, lost;      /* nothing more comes; lost: though the client had not said so */
		struct received *lent; /* what the handler reads from until its next read */
	} incoming;

	struct payload_pool *payloads; /* payload.c */
	struct payload *filling;
	struct {
		struct event event;
		grpc_byte_buffer *waiting[4] /* as MOST_WAITING */, *sending;
		unsigned first, count; /* of waiting */
		bool busy, failed;
	} outgoing;

	grpc_metadata *trailers;
	size_t trailer_count;
	struct detail *details; /* status.c */
	size_t detail_bytes;

	struct parked_state *parked;
};

struct croft_call *call_create(struct croft_server *server, const struct croft_rpc_method *method,
	void *user, grpc_call *core, gpr_timespec deadline, grpc_metadata_array *metadata,
	grpc_byte_buffer *payload);
/* Starts the watch for the call's end, then the handler, on a worker or at once. */
void call_begin(struct croft_call *call);
/* With a reference that the event's completion gives back. */
bool call_start_batch(struct croft_call *call, const grpc_op *ops, size_t count,
	struct event *event);
/* Sends the reply (if any), the trailers and the status; to be called once. For a parked call the lock
 * is held. */
void call_send_status(struct croft_call *call, const struct croft_error *err /* NULL: OK */);
/* Adds the op that sends initial metadata unless that was done; returns the number of ops added. */
size_t call_initial_op(struct croft_call *call, grpc_op *op);
/* Takes the first message of a client's stream, and begins to receive the next. */
void incoming_begin(struct croft_call *call);
void incoming_destroy(struct croft_call *call);
/* A message where it was received; takes the buffer over. The bytes of its field `field` are in *bytes, all
 * else in *rest, in the arena. NULL: it is malformed. */
struct received *received_split(grpc_byte_buffer *buffer, unsigned field, struct croft_arena *arena,
	struct croft_slice *rest, struct croft_pieces *bytes);
void received_destroy(struct received *received); /* NULL is fine */
void held_arena_unref(struct held_arena *held);
/* False, with the reason why the client cannot be reached. */
bool call_lost(struct croft_call *call, struct croft_error *err);
void payloads_init(struct croft_call *call);
/* Waits until all are sent; false: they were not. */
bool payloads_flush(struct croft_call *call);
void payloads_destroy(struct croft_call *call);
/* Told by call.c, for a call that is parked. */
void parked_over(struct croft_call *call);
void parked_destroy(struct croft_call *call);
/* The call is over and nobody will be called for it again (server.c counts these). */
void server_call_ended(struct croft_server *server);
struct croft_workers *server_workers(struct croft_server *server);
const struct croft_message_limits *server_limits(struct croft_server *server);

#endif
