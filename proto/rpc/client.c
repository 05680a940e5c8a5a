/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/rpc/client.h"

#include "proto/base/cleanup.h"
#include "proto/rpc/channel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { UNARY_TIMEOUT_MS = 60000 };

static const struct croft_message_limits answer_limits = {64u << 20, 512u << 20, 32};

/* Calls -------------------------------------------------------------------------------------- */

/* What is received of a call, beside its messages. */
struct answer {
	grpc_metadata_array initial, trailing;
	grpc_status_code status;
	grpc_slice message;
};

static void answer_init(struct answer *answer)
{
	grpc_metadata_array_init(&answer->initial);
	grpc_metadata_array_init(&answer->trailing);
	answer->message = grpc_empty_slice();
	answer->status = GRPC_STATUS_UNKNOWN;
}

static void answer_finish(struct answer *answer)
{
	grpc_metadata_array_destroy(&answer->initial);
	grpc_metadata_array_destroy(&answer->trailing);
	grpc_slice_unref(answer->message);
}

/* False with err unless the status is OK. A call that was cancelled, and not by us, was given up by a
 * server that is going: to be tried again, as when it is gone. */
static bool answer_check(const struct answer *answer, const char *path, bool by_us,
	struct croft_error *err)
{
	if (answer->status == GRPC_STATUS_OK)
		return true;
	if (answer->status == GRPC_STATUS_CANCELLED && !by_us)
		return croft_error_set(err, CROFT_UNAVAILABLE, "%s was given up by the server", path);
	struct croft_slice message = croft_core_slice(&answer->message);
	if (message.size > 0)
		return croft_error_set(err, (enum croft_code)answer->status, "%.*s", (int)message.size,
			(const char *)message.data);
	return croft_error_set(err, (enum croft_code)answer->status, "%s ended with %s", path,
		croft_code_name((enum croft_code)answer->status));
}

static void give_details(const struct answer *answer, struct croft_arena *arena,
	struct croft_slice *details)
{
	if (!arena || !details)
		return;
	struct croft_slice bytes = croft_core_metadata(&answer->trailing, "grpc-status-details-bin");
	*details = bytes.data ? CROFT_SLICE(croft_arena_copy(arena, bytes.data, bytes.size), bytes.size)
						  : CROFT_SLICE(NULL, 0);
}

static void release_metadata(grpc_metadata *metadata, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		grpc_slice_unref(metadata[i].key);
		grpc_slice_unref(metadata[i].value);
	}
	free(metadata);
}

static bool core_metadata(const struct croft_call_options *options, grpc_metadata **metadata,
	struct croft_error *err)
{
	bool legal = true;
	grpc_metadata *all = croft_array(options->metadata_count, sizeof(*all));
	for (size_t i = 0; i < options->metadata_count; i++) {
		const struct croft_metadata *pair = &options->metadata[i];
		all[i].key = grpc_slice_from_copied_string(pair->name);
		all[i].value = croft_core_copy(pair->value);
		if (!grpc_header_key_is_legal(all[i].key) ||
			(!grpc_is_binary_header(all[i].key) && !grpc_header_nonbin_value_is_legal(all[i].value)))
			legal = croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"header '%s' has characters that cannot be sent", pair->name);
	}
	*metadata = all;
	if (!legal)
		release_metadata(all, options->metadata_count);
	return legal;
}

static grpc_op initial_op(const struct croft_call_options *options, grpc_metadata *metadata)
{
	return (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA,
		.flags = options->wait_for_ready ? GRPC_INITIAL_METADATA_WAIT_FOR_READY |
					GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET
										 : 0,
		.data.send_initial_metadata = {options->metadata_count, metadata}};
}

static grpc_op receive_initial_op(struct answer *answer)
{
	return (grpc_op){.op = GRPC_OP_RECV_INITIAL_METADATA,
		.data.recv_initial_metadata.recv_initial_metadata = &answer->initial};
}

static grpc_op status_op(struct answer *answer)
{
	return (grpc_op){.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
		.data.recv_status_on_client = {.trailing_metadata = &answer->trailing,
			.status = &answer->status,
			.status_details = &answer->message}};
}

static grpc_call *create_call(struct croft_channel *channel, grpc_completion_queue *queue,
	const char *path, uint64_t timeout_ms)
{
	grpc_slice method = grpc_slice_from_copied_string(path);
	grpc_call *call = grpc_channel_create_call(channel->core, NULL, GRPC_PROPAGATE_DEFAULTS, queue,
		method, NULL, croft_core_deadline(timeout_ms ? timeout_ms : UINT64_MAX), NULL);
	grpc_slice_unref(method);
	return call;
}

static bool pluck(grpc_completion_queue *queue, void *tag)
{
	grpc_event event =
		grpc_completion_queue_pluck(queue, tag, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	return event.type == GRPC_OP_COMPLETE && event.success;
}

static void destroy_queue(grpc_completion_queue *queue)
{
	grpc_completion_queue_shutdown(queue);
	grpc_completion_queue_destroy(queue);
}

static void *decode_answer(const ProtobufCMessageDescriptor *type, grpc_byte_buffer *buffer,
	const char *path, struct croft_arena *arena, struct croft_error *err)
{
	struct croft_slice bytes = croft_core_bytes(buffer, arena);
	void *message = croft_message_decode(type, bytes, arena, &answer_limits, err);
	if (!message)
		croft_error_wrap(err, "answer of %s", path);
	return message;
}

/* Unary -------------------------------------------------------------------------------------- */

/* All of the call in one batch: one wait. The answer's message, or NULL with the answer's status. */
static grpc_byte_buffer *run_unary(grpc_call *call, grpc_completion_queue *queue,
	const struct croft_call_options *options, grpc_metadata *metadata,
	const ProtobufCMessage *request, struct answer *answer)
{
	grpc_byte_buffer *sent = croft_core_encode(request), *got = NULL;
	grpc_op ops[] = {
		initial_op(options, metadata),
		{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = sent},
		{.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
		receive_initial_op(answer),
		{.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &got},
		status_op(answer),
	};
	if (grpc_call_start_batch(call, ops, sizeof(ops) / sizeof(ops[0]), call, NULL) != GRPC_CALL_OK)
		abort(); /* the metadata is legal and the call is new: the core has nothing to refuse */
	pluck(queue, call);
	grpc_byte_buffer_destroy(sent);
	return got;
}

void *croft_unary(struct croft_channel *channel, const struct croft_call_options *options,
	const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, struct croft_arena *arena,
	struct croft_error *err)
{
	static const struct croft_call_options defaults;
	grpc_metadata *metadata;
	if (!options)
		options = &defaults;
	if (!core_metadata(options, &metadata, err))
		return NULL;
	grpc_completion_queue *queue = grpc_completion_queue_create_for_pluck(NULL);
	grpc_call *call = create_call(
		channel, queue, path, options->timeout_ms ? options->timeout_ms : UNARY_TIMEOUT_MS);
	struct answer answer;
	answer_init(&answer);
	grpc_byte_buffer *buffer = run_unary(call, queue, options, metadata, request, &answer);
	void *message = NULL;
	give_details(&answer, options->details_arena, options->details);
	if (answer_check(&answer, path, false, err)) {
		if (buffer)
			message = decode_answer(response, buffer, path, arena, err);
		else
			croft_error_set(err, CROFT_INTERNAL, "%s answered nothing", path);
	}
	if (buffer)
		grpc_byte_buffer_destroy(buffer);
	answer_finish(&answer);
	release_metadata(metadata, options->metadata_count);
	grpc_call_unref(call);
	destroy_queue(queue);
	return message;
}

/* Streams ------------------------------------------------------------------------------------ */

/* A message that came while its reader was away. */
struct kept {
	struct kept *next;
	grpc_byte_buffer *buffer;
};

/* Tags of a stream's operations on its own completion queue: addresses in this object. */
struct croft_stream {
	grpc_call *call;
	grpc_completion_queue *queue;
	const ProtobufCMessageDescriptor *response;
	char *path;
	struct answer answer;
	char open_tag, read_tag, write_tag, status_tag;

	struct croft_arena *details_arena;
	struct croft_slice *details;

	pthread_mutex_t reading; /* guards: the one receive that the core allows at a time; kept */
	struct kept *first, **last;

	pthread_mutex_t lock; /* guards: ended, and the first look at the status */
	bool ended;
	atomic_bool cancelled; /* by us */
};

static bool run(struct croft_stream *stream, const grpc_op *ops, size_t count, void *tag)
{
	return grpc_call_start_batch(stream->call, ops, count, tag, NULL) == GRPC_CALL_OK &&
		pluck(stream->queue, tag);
}

static void start_call(struct croft_stream *stream, const struct croft_call_options *options,
	grpc_metadata *metadata)
{
	grpc_op open[] = {initial_op(options, metadata), receive_initial_op(&stream->answer)};
	grpc_op status = status_op(&stream->answer);
	/* The call's first: not refused, as the metadata is legal. */
	if (grpc_call_start_batch(stream->call, open, 2, &stream->open_tag, NULL) != GRPC_CALL_OK ||
		grpc_call_start_batch(stream->call, &status, 1, &stream->status_tag, NULL) != GRPC_CALL_OK)
		abort();
}

struct croft_stream *croft_stream_open(struct croft_channel *channel,
	const struct croft_call_options *options, const char *path,
	const ProtobufCMessageDescriptor *response, struct croft_error *err)
{
	static const struct croft_call_options defaults;
	grpc_metadata *metadata;
	if (!options)
		options = &defaults;
	if (!core_metadata(options, &metadata, err))
		return NULL;
	struct croft_stream *stream = croft_zalloc(sizeof(*stream));
	stream->queue = grpc_completion_queue_create_for_pluck(NULL);
	stream->call = create_call(channel, stream->queue, path, options->timeout_ms);
	stream->response = response;
	stream->path = croft_strdup(path);
	stream->details_arena = options->details_arena;
	stream->details = options->details;
	stream->last = &stream->first;
	pthread_mutex_init(&stream->lock, NULL);
	pthread_mutex_init(&stream->reading, NULL);
	answer_init(&stream->answer);
	start_call(stream, options, metadata);
	release_metadata(metadata, options->metadata_count);
	return stream;
}

/* The status with which the call ended, waiting for it. */
static bool take_status(struct croft_stream *stream, struct croft_error *err)
{
	CROFT_LOCKED(&stream->lock);
	if (!stream->ended) {
		pluck(stream->queue, &stream->status_tag);
		stream->ended = true;
		give_details(&stream->answer, stream->details_arena, stream->details);
	}
	return answer_check(&stream->answer, stream->path, atomic_load(&stream->cancelled), err);
}

static void cancel(struct croft_stream *stream)
{
	atomic_store(&stream->cancelled, true);
	grpc_call_cancel(stream->call, NULL);
}

/* The next message; NULL at the end. `reading` is held. */
static grpc_byte_buffer *receive(struct croft_stream *stream)
{
	grpc_byte_buffer *buffer = NULL;
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &buffer};
	return run(stream, &op, 1, &stream->read_tag) ? buffer : NULL;
}

/* The core gives the status only after the last message was read. Whoever wants the status of a call
 * that is over, and is not its reader, keeps for the reader what came before. */
static void keep_messages(struct croft_stream *stream)
{
	/* A reader that is at it will see the end itself. */
	if (pthread_mutex_trylock(&stream->reading) != 0)
		return;
	for (grpc_byte_buffer *buffer; (buffer = receive(stream));) {
		struct kept *kept = croft_zalloc(sizeof(*kept));
		kept->buffer = buffer;
		*stream->last = kept;
		stream->last = &kept->next;
	}
	pthread_mutex_unlock(&stream->reading);
}

static grpc_byte_buffer *take_message(struct croft_stream *stream)
{
	CROFT_LOCKED(&stream->reading);
	struct kept *kept = stream->first;
	if (!kept)
		return receive(stream);
	grpc_byte_buffer *buffer = kept->buffer;
	stream->first = kept->next;
	if (!stream->first)
		stream->last = &stream->first;
	free(kept);
	return buffer;
}

bool croft_stream_write(struct croft_stream *stream, const ProtobufCMessage *message,
	struct croft_error *err)
{
	grpc_byte_buffer *buffer = croft_core_encode(message);
	grpc_op op = {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buffer};
	bool sent = run(stream, &op, 1, &stream->write_tag);
	grpc_byte_buffer_destroy(buffer);
	if (sent)
		return true;
	/* Only a call that is over refuses a message. */
	keep_messages(stream);
	if (take_status(stream, err))
		croft_error_set(err, CROFT_CANCELLED, "%s ended before all was sent", stream->path);
	return false;
}

bool croft_stream_close_write(struct croft_stream *stream, struct croft_error *err)
{
	grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
	if (run(stream, &op, 1, &stream->write_tag))
		return true;
	keep_messages(stream);
	return take_status(stream, err);
}

int croft_stream_read(struct croft_stream *stream, struct croft_arena *arena, void **message,
	struct croft_error *err)
{
	grpc_byte_buffer *buffer = take_message(stream);
	if (!buffer)
		return take_status(stream, err) ? 0 : -1;
	*message = decode_answer(stream->response, buffer, stream->path, arena, err);
	grpc_byte_buffer_destroy(buffer);
	if (*message)
		return 1;
	cancel(stream);
	return -1;
}

void croft_stream_cancel(struct croft_stream *stream)
{
	cancel(stream);
}

void croft_stream_destroy(struct croft_stream *stream)
{
	if (!stream)
		return;
	if (!stream->ended)
		cancel(stream);
	pluck(stream->queue, &stream->open_tag);
	take_status(stream, NULL);
	while (stream->first)
		grpc_byte_buffer_destroy(take_message(stream));
	grpc_call_unref(stream->call);
	destroy_queue(stream->queue);
	answer_finish(&stream->answer);
	pthread_mutex_destroy(&stream->lock);
	pthread_mutex_destroy(&stream->reading);
	free(stream->path);
	free(stream);
}
