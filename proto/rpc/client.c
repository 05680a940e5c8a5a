/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/client.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/rpc/core.h"

#include <fcntl.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <pthread.h>
#include <string.h>

enum { UNARY_TIMEOUT_MS = 60000, MAX_PEM_BYTES = 1 << 20 };

struct croft_channel {
	grpc_channel *channel;
	char *target;
};

/* Channels ----------------------------------------------------------------------------------- */

static char *read_pem(const char *path, struct croft_error *err)
{
	char *text = NULL;
	size_t size;
	return croft_read_file(AT_FDCWD, path, MAX_PEM_BYTES, &text, &size, err) ? text : NULL;
}

static grpc_channel_credentials *tls_credentials(const struct croft_tls *tls,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *roots = NULL;
	CROFT_CLEANUP_FREE char *certificate = NULL;
	CROFT_CLEANUP_FREE char *key = NULL;
	if (tls && tls->authority_file && !(roots = read_pem(tls->authority_file, err)))
		return NULL;
	if (tls && tls->certificate_file &&
		(!(certificate = read_pem(tls->certificate_file, err)) ||
			!(key = read_pem(tls->key_file, err))))
		return NULL;
	grpc_ssl_pem_key_cert_pair pair = {key, certificate};
	return grpc_ssl_credentials_create(roots, certificate ? &pair : NULL, NULL, NULL);
}

static grpc_channel *open_channel(const char *address, bool secure, const struct croft_tls *tls,
	struct croft_error *err)
{
	grpc_arg arguments[] = {
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, {.integer = 64 << 20}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, {.integer = 2000}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, {.integer = 1000}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, {.integer = 100}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_KEEPALIVE_TIME_MS, {.integer = 15000}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_KEEPALIVE_TIMEOUT_MS, {.integer = 10000}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, {.integer = 0}},
		/* Two channels to one server are two connections: one slow stream does not hold up others. */
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, {.integer = 1}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_ENABLE_RETRIES, {.integer = 0}},
	};
	grpc_channel_args list = {sizeof(arguments) / sizeof(arguments[0]), arguments};
	grpc_channel_credentials *credentials =
		secure ? tls_credentials(tls, err) : grpc_insecure_credentials_create();
	if (!credentials)
		return NULL;
	grpc_channel *channel = grpc_channel_create(address, credentials, &list);
	grpc_channel_credentials_release(credentials);
	if (!channel)
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "no channel can be made to '%s'", address);
	return channel;
}

struct croft_channel *croft_channel_create(const char *target, const struct croft_tls *tls,
	struct croft_error *err)
{
	croft_core_init();
	bool secure = strncmp(target, "grpcs://", 8) == 0 || strncmp(target, "https://", 8) == 0;
	const char *address = target;
	const char *scheme_end = strstr(target, "://");
	if (scheme_end && !secure && strncmp(target, "grpc://", 7) != 0 &&
		strncmp(target, "http://", 7) != 0) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"server address '%s': only grpc:// and grpcs:// are known", target);
		return NULL;
	}
	if (scheme_end)
		address = scheme_end + 3;
	if (*address == '\0') {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "server address '%s' names no host", target);
		return NULL;
	}
	grpc_channel *core = open_channel(address, secure, tls, err);
	if (!core)
		return NULL;
	struct croft_channel *channel = croft_zalloc(sizeof(*channel));
	channel->channel = core;
	channel->target = croft_strdup(target);
	return channel;
}

void croft_channel_destroy(struct croft_channel *channel)
{
	if (!channel)
		return;
	grpc_channel_destroy(channel->channel);
	free(channel->target);
	free(channel);
}

const char *croft_channel_target(const struct croft_channel *channel)
{
	return channel->target;
}

/* Streams ------------------------------------------------------------------------------------ */

/* Tags of a stream's operations on its own completion queue: addresses in this object. */
struct croft_stream {
	grpc_call *call;
	grpc_completion_queue *queue;
	const ProtobufCMessageDescriptor *response;
	char *path;
	grpc_metadata_array initial, trailing;
	grpc_status_code status;
	grpc_slice status_message;
	char open_tag, read_tag, write_tag, status_tag;

	struct croft_arena *details_arena;
	struct croft_slice *details;

	pthread_mutex_t lock; /* guards: ended, and the first look at the status */
	bool ended;
};

static bool wait_for(struct croft_stream *stream, void *tag)
{
	grpc_event event = grpc_completion_queue_pluck(
		stream->queue, tag, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	return event.type == GRPC_OP_COMPLETE && event.success;
}

static bool start(struct croft_stream *stream, const grpc_op *ops, size_t count, void *tag)
{
	return grpc_call_start_batch(stream->call, ops, count, tag, NULL) == GRPC_CALL_OK;
}

static grpc_metadata *core_metadata(const struct croft_call_options *options)
{
	grpc_metadata *metadata = croft_array(options->metadata_count, sizeof(*metadata));
	for (size_t i = 0; i < options->metadata_count; i++) {
		metadata[i].key = grpc_slice_from_copied_string(options->metadata[i].name);
		metadata[i].value = croft_core_copy(options->metadata[i].value);
	}
	return metadata;
}

static void release_metadata(grpc_metadata *metadata, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		grpc_slice_unref(metadata[i].key);
		grpc_slice_unref(metadata[i].value);
	}
	free(metadata);
}

static void start_call(struct croft_stream *stream, const struct croft_call_options *options)
{
	grpc_metadata *metadata = core_metadata(options);
	grpc_op open[] = {
		{.op = GRPC_OP_SEND_INITIAL_METADATA,
			.flags = options->wait_for_ready ? GRPC_INITIAL_METADATA_WAIT_FOR_READY |
						GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET
											 : 0,
			.data.send_initial_metadata = {options->metadata_count, metadata}},
		{.op = GRPC_OP_RECV_INITIAL_METADATA,
			.data.recv_initial_metadata.recv_initial_metadata = &stream->initial},
	};
	grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
		.data.recv_status_on_client = {.trailing_metadata = &stream->trailing,
			.status = &stream->status,
			.status_details = &stream->status_message}};
	/* These two cannot be refused: they are the call's first. */
	if (!start(stream, open, 2, &stream->open_tag) ||
		!start(stream, &status, 1, &stream->status_tag))
		abort();
	release_metadata(metadata, options->metadata_count);
}

struct croft_stream *croft_stream_open(struct croft_channel *channel,
	const struct croft_call_options *options, const char *path,
	const ProtobufCMessageDescriptor *response, struct croft_error *err)
{
	static const struct croft_call_options defaults;
	if (!options)
		options = &defaults;
	struct croft_stream *stream = croft_zalloc(sizeof(*stream));
	stream->queue = grpc_completion_queue_create_for_pluck(NULL);
	grpc_slice method = grpc_slice_from_copied_string(path);
	stream->call = grpc_channel_create_call(channel->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
		stream->queue, method, NULL,
		croft_core_deadline(options->timeout_ms ? options->timeout_ms : UINT64_MAX), NULL);
	grpc_slice_unref(method);
	stream->response = response;
	stream->path = croft_strdup(path);
	stream->details_arena = options->details_arena;
	stream->details = options->details;
	stream->status_message = grpc_empty_slice();
	pthread_mutex_init(&stream->lock, NULL);
	grpc_metadata_array_init(&stream->initial);
	grpc_metadata_array_init(&stream->trailing);
	start_call(stream, options);
	return stream;
}

/* The status with which the call ended, waiting for it. */
static bool take_status(struct croft_stream *stream, struct croft_error *err)
{
	CROFT_LOCKED(&stream->lock);
	if (!stream->ended) {
		wait_for(stream, &stream->status_tag);
		stream->ended = true;
		struct croft_slice details =
			croft_core_metadata(&stream->trailing, "grpc-status-details-bin");
		if (stream->details && stream->details_arena)
			*stream->details = details.data
				? CROFT_SLICE(croft_arena_copy(stream->details_arena, details.data, details.size),
					  details.size)
				: CROFT_SLICE(NULL, 0);
	}
	if (stream->status == GRPC_STATUS_OK)
		return true;
	struct croft_slice message = croft_core_slice(&stream->status_message);
	if (message.size > 0)
		return croft_error_set(err, (enum croft_code)stream->status, "%.*s", (int)message.size,
			(const char *)message.data);
	return croft_error_set(err, (enum croft_code)stream->status, "%s ended with %s", stream->path,
		croft_code_name((enum croft_code)stream->status));
}

bool croft_stream_write(struct croft_stream *stream, const ProtobufCMessage *message,
	struct croft_error *err)
{
	grpc_byte_buffer *buffer = croft_core_encode(message);
	grpc_op op = {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buffer};
	bool sent = start(stream, &op, 1, &stream->write_tag) && wait_for(stream, &stream->write_tag);
	grpc_byte_buffer_destroy(buffer);
	if (sent)
		return true;
	/* Only a call that is over refuses a message; an OK end before all was sent is still no success. */
	if (take_status(stream, err))
		croft_error_set(err, CROFT_CANCELLED, "%s ended before all was sent", stream->path);
	return false;
}

bool croft_stream_close_write(struct croft_stream *stream, struct croft_error *err)
{
	grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
	if (start(stream, &op, 1, &stream->write_tag) && wait_for(stream, &stream->write_tag))
		return true;
	return take_status(stream, err);
}

int croft_stream_read(struct croft_stream *stream, struct croft_arena *arena, void **message,
	struct croft_error *err)
{
	static const struct croft_message_limits limits = {64u << 20, 512u << 20, 32};
	grpc_byte_buffer *buffer = NULL;
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &buffer};
	bool got = start(stream, &op, 1, &stream->read_tag) && wait_for(stream, &stream->read_tag);
	if (!got || !buffer)
		return take_status(stream, err) ? 0 : -1;
	struct croft_slice bytes = croft_core_bytes(buffer, arena);
	grpc_byte_buffer_destroy(buffer);
	*message = croft_message_decode(stream->response, bytes, arena, &limits, err);
	if (*message)
		return 1;
	grpc_call_cancel(stream->call, NULL);
	croft_error_wrap(err, "answer of %s", stream->path);
	return -1;
}

void croft_stream_cancel(struct croft_stream *stream)
{
	grpc_call_cancel(stream->call, NULL);
}

void croft_stream_destroy(struct croft_stream *stream)
{
	if (!stream)
		return;
	if (!stream->ended)
		grpc_call_cancel(stream->call, NULL);
	wait_for(stream, &stream->open_tag);
	take_status(stream, NULL);
	grpc_call_unref(stream->call);
	grpc_completion_queue_shutdown(stream->queue);
	grpc_completion_queue_destroy(stream->queue);
	grpc_metadata_array_destroy(&stream->initial);
	grpc_metadata_array_destroy(&stream->trailing);
	grpc_slice_unref(stream->status_message);
	pthread_mutex_destroy(&stream->lock);
	free(stream->path);
	free(stream);
}

/* Unary calls are streams of one message each way. */
void *croft_unary(struct croft_channel *channel, const struct croft_call_options *options,
	const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, struct croft_arena *arena,
	struct croft_error *err)
{
	struct croft_call_options with_timeout = options ? *options : (struct croft_call_options){0};
	if (with_timeout.timeout_ms == 0)
		with_timeout.timeout_ms = UNARY_TIMEOUT_MS;
	struct croft_stream *stream = croft_stream_open(channel, &with_timeout, path, response, err);
	void *message = NULL, *another;
	int got = -1;
	if (croft_stream_write(stream, request, err) && croft_stream_close_write(stream, err))
		got = croft_stream_read(stream, arena, &message, err);
	if (got == 0)
		croft_error_set(err, CROFT_INTERNAL, "%s answered nothing", path);
	/* The message counts only once the call has ended well. */
	if (got == 1 && croft_stream_read(stream, arena, &another, err) != 0)
		message = NULL;
	croft_stream_destroy(stream);
	return got == 1 ? message : NULL;
}
