/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A gRPC server over the C core. A handler is one plain function on a worker thread; it may block.
 *
 *	static bool check(struct croft_call *call, void *user, struct croft_error *err)
 *	{
 *		const Health__HealthCheckRequest *request = croft_call_request(call);
 *		Health__HealthCheckResponse response = HEALTH__HEALTH_CHECK_RESPONSE__INIT;
 *		response.status = …;
 *		return croft_call_write(call, &response.base, err);
 *	}
 *	static const struct croft_rpc_method methods[] = {
 *		{"/grpc.health.v1.Health/Check", CROFT_RPC_UNARY, &health__health_check_request__descriptor,
 *			&health__health_check_response__descriptor, check},
 *	};
 *
 * Threads: completion-queue threads carry bytes only. Handlers run on a pool that grows with the
 * calls in flight, up to `workers`; past that, calls wait. A handler is called when its client's first message
 * has come (of a bidirectional stream: when the call has), and what follows is received ahead of it. Calls that live
 * for long while nothing happens (an Execute stream, an agent's session) are parked: the handler returns, the
 * call goes on without a thread, and anyone may post to it.
 */
#ifndef CROFT_RPC_SERVER_H
#define CROFT_RPC_SERVER_H

#include "proto/rpc/message.h"

#include <stdint.h>

struct croft_server;
struct croft_call;

enum croft_rpc_kind {
	CROFT_RPC_UNARY,
	CROFT_RPC_CLIENT_STREAM,
	CROFT_RPC_SERVER_STREAM,
	CROFT_RPC_BIDI_STREAM,
};

/* True: the call ends OK. False: it ends with err's code and message, and the details attached. A
 * unary or client-streaming handler writes exactly one message before it returns true. */
typedef bool croft_rpc_handler(struct croft_call *call, void *user, struct croft_error *err);

struct croft_rpc_method {
	const char *path; /* "/package.Service/Method" */
	enum croft_rpc_kind kind;
	const ProtobufCMessageDescriptor *request;
	const ProtobufCMessageDescriptor *response;
	croft_rpc_handler *handler;
	/* Run on the completion-queue thread itself: only for handlers that never block and are short. */
	bool immediate;
};

struct croft_tls {
	const char *certificate_file; /* PEM; NULL: no TLS (server) or no client certificate */
	const char *key_file;
	const char *authority_file; /* server: require client certificates signed by it; client: roots */
};

struct croft_server_config {
	const char *address;        /* "127.0.0.1:0", "[::]:8980", "unix:/path" */
	const struct croft_tls *tls; /* NULL: plain */
	unsigned queue_threads;     /* 0: one per CPU that the process may run on, at most 4 */
	unsigned workers;           /* 0: 256 */
	struct croft_message_limits limits; /* zeros: the defaults */
};

/* Method tables are borrowed for the server's life; several services are added before start. */
struct croft_server *croft_server_create(const struct croft_server_config *config,
	struct croft_error *err);
void croft_server_add(struct croft_server *server, const struct croft_rpc_method *methods,
	size_t count, void *user);
bool croft_server_start(struct croft_server *server, struct croft_error *err);
int croft_server_port(const struct croft_server *server); /* the bound one; 0 for unix sockets */
/* New calls get UNAVAILABLE at once; running ones have grace_ms to end, then are cancelled. Blocks
 * until all handlers have returned and all parked calls are closed. */
void croft_server_shutdown(struct croft_server *server, unsigned grace_ms);
void croft_server_destroy(struct croft_server *server);

/* In a handler, from its own thread ---------------------------------------------------------- */

/* Unary and server-streaming: the decoded request, in the call's arena. */
const void *croft_call_request(struct croft_call *call);
/* The encoded form of the same, for digests and for storing; borrowed for the call's life. */
struct croft_slice croft_call_request_bytes(struct croft_call *call);

/* Client-streaming and bidirectional: 1 with the next message, decoded in `arena` (which the caller
 * resets between messages); 0 when the client has half-closed; -1 with CANCELLED,
 * DEADLINE_EXCEEDED or a bad message. */
int croft_call_read(struct croft_call *call, struct croft_arena *arena, void **message,
	struct croft_error *err);

/* Bytes that stand in several places, in their order. */
struct croft_pieces {
	const struct croft_slice *pieces;
	size_t count;
	size_t size; /* of all */
};

/* The same for messages whose field number `field` is long and of bytes: these are handed out where they were
 * received, good until the next read, and the field of the decoded message is empty. */
int croft_call_read_pieces(struct croft_call *call, struct croft_arena *arena, unsigned field,
	void **message, struct croft_pieces *bytes, struct croft_error *err);

/* Returns once the transport has taken the message (flow control): at most one message is in
 * flight. The message is only borrowed. */
bool croft_call_write(struct croft_call *call, const ProtobufCMessage *message,
	struct croft_error *err);

/* The same for a message that stands in the call's arena with all that it points at: long fields of the
 * answer to a unary call are then sent without being copied. */
bool croft_call_write_in_place(struct croft_call *call, const ProtobufCMessage *message,
	struct croft_error *err);

/*
 * For messages that are one long field of bytes: the handler fills `size` bytes in place and they are sent
 * from there, without a copy. Returns while the message is on its way, so that the next can be made
 * meanwhile; that it failed is told by the next write or by the call's end. `last`: it goes out together
 * with the status, when the handler has returned true.
 */
unsigned char *croft_call_payload(struct croft_call *call, size_t size);
bool croft_call_write_payload(struct croft_call *call, unsigned field, size_t size, bool last,
	struct croft_error *err);

/* Attached to the google.rpc.Status in grpc-status-details-bin if the call fails. */
void croft_call_add_detail(struct croft_call *call, const ProtobufCMessage *detail);

struct croft_arena *croft_call_arena(struct croft_call *call);
const char *croft_call_peer(struct croft_call *call); /* "ipv4:127.0.0.1:4711" */
/* The common name in the client's certificate, else its first alternative name; NULL: it showed none. */
const char *croft_call_identity(struct croft_call *call);
/* Value of a request header; for names that end in "-bin", decoded bytes. Data NULL: not sent. */
struct croft_slice croft_call_header(struct croft_call *call, const char *name);
/* Added to the trailing metadata; bytes are copied. */
void croft_call_set_trailer(struct croft_call *call, const char *name, struct croft_slice value);
/* Milliseconds left; UINT64_MAX when the client set no deadline. */
uint64_t croft_call_time_left_ms(struct croft_call *call);
/* Becomes true when the client cancelled, went away or its deadline passed. */
bool croft_call_cancelled(struct croft_call *call);

/* Parked calls --------------------------------------------------------------------------- */

/*
 * After croft_call_park the handler returns true at once and the call stays open. From then on:
 * - on_message (bidirectional only): one at a time, on a worker thread, or on the completion queue's own
 *   if `immediate` says that it is short and never blocks. The message stands in *arena and dies with the
 *   callback, unless that takes the arena and leaves NULL. The next is read only after it returned: that
 *   is the flow control.
 * - on_closed: exactly once, the last callback: the client half-closed or cancelled, or the
 *   connection is gone, or the call was finished from here. The call is freed after it.
 * - croft_call_post: from any thread, never blocks, copies. False once the call is closed or when
 *   more than `queue_limit` bytes wait (the call is then cancelled: the peer does not read).
 * - croft_call_finish: from any thread; posts what is queued, then ends the call with the error's
 *   code (NULL: OK).
 * A poster must hold a reference: croft_call_ref / croft_call_unref.
 */
struct croft_parked {
	void (*on_message)(void *user, void *message, struct croft_arena **arena);
	void (*on_closed)(void *user);
	void *user;
	size_t queue_limit; /* 0: 64 MiB */
	bool immediate;
};

void croft_call_park(struct croft_call *call, const struct croft_parked *parked);
bool croft_call_post(struct croft_call *call, const ProtobufCMessage *message);
void croft_call_finish(struct croft_call *call, const struct croft_error *err);
/* Both in one: the message goes out together with the status. */
void croft_call_post_last(struct croft_call *call, const ProtobufCMessage *message);
struct croft_call *croft_call_ref(struct croft_call *call);
void croft_call_unref(struct croft_call *call);

#endif
