/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls on the bare gRPC core, for a client that costs little. Failures end the program. */
#ifndef CROFT_BENCH_STORE_CORE_H
#define CROFT_BENCH_STORE_CORE_H

#include "proto/base/arena.h"
#include "proto/base/slice.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

__attribute__((noreturn, format(printf, 1, 2))) void core_fail(const char *format, ...);
double seconds_now(void);

grpc_byte_buffer *core_encode(const ProtobufCMessage *message);
/* In the arena; the buffer is destroyed. */
struct croft_slice core_bytes(grpc_byte_buffer *buffer, struct croft_arena *arena);
/* Of a message whose only field is a long one of bytes. */
uint64_t core_payload_size(grpc_byte_buffer *buffer);

/* Each is a TCP connection of its own; it is there when this returns. */
struct connection;
struct connection *connection_open(const char *target);
void connection_close(struct connection *connection);
grpc_channel *connection_channel(const struct connection *connection);
/* The request stays the caller's. */
grpc_byte_buffer *connection_unary(struct connection *connection, const char *path,
	grpc_byte_buffer *request);

/* One stream, of one thread. */
struct stream;
struct stream *stream_open(struct connection *connection, const char *path);
/* Empties the message. */
void stream_send(struct stream *stream, grpc_byte_buffer *message);
bool stream_is_over(const struct stream *stream);
void stream_half_close(struct stream *stream);
grpc_byte_buffer *stream_receive(struct stream *stream); /* NULL: the end */
void stream_end(struct stream *stream);

/* That many calls of one message each at a time, driven by one thread so that the client costs little;
 * payloads[i] becomes the bytes that came in answer to requests[i]. NULL: the answers are no payloads. */
void call_at_once(struct connection *const *connections, unsigned connection_count, const char *path,
	grpc_byte_buffer *const *requests, size_t count, unsigned at_once, uint64_t *payloads);

/* Serves until it is killed. */
int serve_empty(void);

#endif
