/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A gRPC client over the C core: blocking calls on channels that any thread may use.
 *
 *	struct croft_channel *channel = croft_channel_create("grpc://farm:8980", NULL, &err);
 *	Reapi__ServerCapabilities *capabilities = croft_unary(channel, NULL,
 *		"/build.bazel.remote.execution.v2.Capabilities/GetCapabilities", &request.base,
 *		&reapi__server_capabilities__descriptor, arena, &err);
 */
#ifndef CROFT_RPC_CLIENT_H
#define CROFT_RPC_CLIENT_H

#include "proto/rpc/message.h"
#include "proto/rpc/server.h" /* struct croft_tls */

struct croft_channel;
struct croft_stream;

/* target: "host:port", "grpc://host:port", "grpcs://host:port" or "unix:/path". TLS with grpcs://, or
 * when `tls` is given and no scheme; without an authority file, the system's roots count. Connects
 * lazily and again after failures, with backoff of a few seconds at most; a connection has 10 s to come about,
 * for which calls wait. Keepalive finds a dead peer within 30 s. */
struct croft_channel *croft_channel_create(const char *target, const struct croft_tls *tls,
	struct croft_error *err);
void croft_channel_destroy(struct croft_channel *channel);
const char *croft_channel_target(const struct croft_channel *channel);

struct croft_call_options {
	uint64_t timeout_ms; /* 0: 60 s for unary calls, none for streams */
	bool wait_for_ready; /* wait for a server that is away instead of failing with UNAVAILABLE */
	/* RequestMetadata and the like; names in lower case, pairs are borrowed for the call's start. Values
	 * of names that end in "-bin" are any bytes, others printable ASCII. */
	const struct croft_metadata {
		const char *name;
		struct croft_slice value;
	} *metadata;
	size_t metadata_count;
	/* When set and the call fails: google.rpc.Status as it stood in the trailers, in this arena. */
	struct croft_arena *details_arena;
	struct croft_slice *details;
};

/* The response in the arena, or NULL. options NULL: the defaults. */
void *croft_unary(struct croft_channel *channel, const struct croft_call_options *options,
	const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, struct croft_arena *arena,
	struct croft_error *err);

/* Any of the streaming kinds. One thread may read while another writes. NULL: the options' metadata
 * cannot be sent. */
struct croft_stream *croft_stream_open(struct croft_channel *channel,
	const struct croft_call_options *options, const char *path,
	const ProtobufCMessageDescriptor *response, struct croft_error *err);
/* Returns once the transport has taken the message. False: the call is over, err has its status. When
 * the server ended it with OK before it had read everything (a blob that is there already), that is
 * CANCELLED, and its answer can still be read. */
bool croft_stream_write(struct croft_stream *stream, const ProtobufCMessage *message,
	struct croft_error *err);
bool croft_stream_close_write(struct croft_stream *stream, struct croft_error *err);
/* 1: a message, decoded in arena. 0: the server ended the stream with OK. -1: it failed. */
int croft_stream_read(struct croft_stream *stream, struct croft_arena *arena, void **message,
	struct croft_error *err);
/* From any thread: pending and later reads and writes fail with CANCELLED. */
void croft_stream_cancel(struct croft_stream *stream);
/* Cancels if it is still open. */
void croft_stream_destroy(struct croft_stream *stream);

#endif
