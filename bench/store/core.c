/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench/store/core.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc_security.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct connection {
	grpc_channel *channel;
};

struct stream {
	grpc_call *call;
	grpc_completion_queue *queue;
	grpc_metadata_array initial, trailing;
	grpc_status_code status;
	grpc_slice message;
	char open_tag, send_tag, receive_tag, status_tag;
	bool over;
};

void core_fail(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	fputs("bench-store: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	_exit(1);
}

double seconds_now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Messages --------------------------------------------------------------------------------------- */

grpc_byte_buffer *core_encode(const ProtobufCMessage *message)
{
	grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));
	protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
	grpc_slice_unref(slice);
	return buffer;
}

struct croft_slice core_bytes(grpc_byte_buffer *buffer, struct croft_arena *arena)
{
	size_t size = grpc_byte_buffer_length(buffer), used = 0;
	uint8_t *bytes = croft_arena_alloc(arena, size);
	grpc_byte_buffer_reader reader;
	if (!grpc_byte_buffer_reader_init(&reader, buffer))
		core_fail("an answer that cannot be read");
	for (grpc_slice *slice; grpc_byte_buffer_reader_peek(&reader, &slice);) {
		memcpy(bytes + used, GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
		used += GRPC_SLICE_LENGTH(*slice);
	}
	grpc_byte_buffer_reader_destroy(&reader);
	grpc_byte_buffer_destroy(buffer);
	return CROFT_SLICE(bytes, used);
}

uint64_t core_payload_size(grpc_byte_buffer *buffer)
{
	/* One byte of key, then as many of length as it takes: what is left must be that long. */
	uint64_t left = grpc_byte_buffer_length(buffer);
	if (left == 0)
		return 0;
	for (uint64_t head = 2; head < 12 && head <= left; head++)
		if (left - head < (uint64_t)1 << (7 * (head - 1)))
			return left - head;
	core_fail("an answer of %llu bytes that is no piece of a blob", (unsigned long long)left);
}

/* Calls ------------------------------------------------------------------------------------------ */

struct connection *connection_open(const char *target)
{
	/* Otherwise channels to one address share a connection. */
	grpc_arg arguments[] = {
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, {.integer = 1}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, {.integer = -1}},
	};
	grpc_channel_args list = {2, arguments};
	grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
	struct connection *connection = malloc(sizeof(*connection));
	if (!connection)
		abort();
	connection->channel = grpc_channel_create(target, credentials, &list);
	grpc_channel_credentials_release(credentials);
	grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
	for (grpc_connectivity_state state;
		 (state = grpc_channel_check_connectivity_state(connection->channel, 1)) !=
		 GRPC_CHANNEL_READY;) {
		gpr_timespec until = gpr_time_add(
			gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(10, GPR_TIMESPAN));
		grpc_channel_watch_connectivity_state(connection->channel, state, until, queue, NULL);
		if (!grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).success)
			core_fail("%s does not answer", target);
	}
	grpc_completion_queue_shutdown(queue);
	grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	grpc_completion_queue_destroy(queue);
	return connection;
}

void connection_close(struct connection *connection)
{
	grpc_channel_destroy(connection->channel);
	free(connection);
}

grpc_channel *connection_channel(const struct connection *connection)
{
	return connection->channel;
}

static bool finished(struct stream *stream, void *tag)
{
	return grpc_completion_queue_pluck(
		stream->queue, tag, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).success;
}

static bool run(struct stream *stream, const grpc_op *op, void *tag)
{
	return grpc_call_start_batch(stream->call, op, 1, tag, NULL) == GRPC_CALL_OK &&
		finished(stream, tag);
}

struct stream *stream_open(struct connection *connection, const char *path)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	if (!stream)
		abort();
	stream->queue = grpc_completion_queue_create_for_pluck(NULL);
	grpc_metadata_array_init(&stream->initial);
	grpc_metadata_array_init(&stream->trailing);
	stream->message = grpc_empty_slice();
	stream->call = grpc_channel_create_call(connection->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
		stream->queue, grpc_slice_from_copied_string(path), NULL,
		gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	grpc_op open[] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
		{.op = GRPC_OP_RECV_INITIAL_METADATA,
			.data.recv_initial_metadata.recv_initial_metadata = &stream->initial}};
	grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
		.data.recv_status_on_client = {.trailing_metadata = &stream->trailing,
			.status = &stream->status,
			.status_details = &stream->message}};
	if (grpc_call_start_batch(stream->call, open, 2, &stream->open_tag, NULL) != GRPC_CALL_OK ||
		grpc_call_start_batch(stream->call, &status, 1, &stream->status_tag, NULL) != GRPC_CALL_OK)
		abort();
	return stream;
}

void stream_send(struct stream *stream, grpc_byte_buffer *message)
{
	grpc_op op = {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message};
	stream->over = stream->over || !run(stream, &op, &stream->send_tag);
}

bool stream_is_over(const struct stream *stream)
{
	return stream->over;
}

void stream_half_close(struct stream *stream)
{
	grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
	stream->over = stream->over || !run(stream, &op, &stream->send_tag);
}

grpc_byte_buffer *stream_receive(struct stream *stream)
{
	grpc_byte_buffer *buffer = NULL;
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &buffer};
	return run(stream, &op, &stream->receive_tag) ? buffer : NULL;
}

void stream_end(struct stream *stream)
{
	finished(stream, &stream->open_tag);
	finished(stream, &stream->status_tag);
	if (stream->status != GRPC_STATUS_OK)
		core_fail("the call failed with %d: %.*s", (int)stream->status,
			(int)GRPC_SLICE_LENGTH(stream->message),
			(const char *)GRPC_SLICE_START_PTR(stream->message));
	grpc_call_unref(stream->call);
	grpc_completion_queue_shutdown(stream->queue);
	grpc_completion_queue_destroy(stream->queue);
	grpc_metadata_array_destroy(&stream->initial);
	grpc_metadata_array_destroy(&stream->trailing);
	grpc_slice_unref(stream->message);
	free(stream);
}

grpc_byte_buffer *connection_unary(struct connection *connection, const char *path,
	grpc_byte_buffer *request)
{
	struct stream *stream = stream_open(connection, path);
	/* The core empties what it sends. */
	grpc_byte_buffer *copy = grpc_byte_buffer_copy(request);
	stream_send(stream, copy);
	grpc_byte_buffer_destroy(copy);
	stream_half_close(stream);
	grpc_byte_buffer *answer = stream_receive(stream);
	stream_end(stream);
	if (!answer)
		core_fail("%s: no answer", path);
	return answer;
}

/* Many at a time ---------------------------------------------------------------------------------- */

struct running {
	struct stream stream; /* without a queue of its own */
	grpc_byte_buffer *sent, *got;
	size_t index;
	bool received, ended;
};

static void begin_call(struct running *running, struct connection *connection, const char *path,
	grpc_completion_queue *queue, grpc_byte_buffer *request)
{
	struct stream *stream = &running->stream;
	grpc_metadata_array_init(&stream->initial);
	grpc_metadata_array_init(&stream->trailing);
	stream->message = grpc_empty_slice();
	stream->call = grpc_channel_create_call(connection->channel, NULL, GRPC_PROPAGATE_DEFAULTS, queue,
		grpc_slice_from_copied_string(path), NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	running->sent = grpc_byte_buffer_copy(request);
	running->received = running->ended = false;
	grpc_op ops[] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
		{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = running->sent},
		{.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
		{.op = GRPC_OP_RECV_INITIAL_METADATA,
			.data.recv_initial_metadata.recv_initial_metadata = &stream->initial},
		{.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &running->got}};
	grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
		.data.recv_status_on_client = {.trailing_metadata = &stream->trailing,
			.status = &stream->status,
			.status_details = &stream->message}};
	if (grpc_call_start_batch(stream->call, ops, 5, &running->received, NULL) != GRPC_CALL_OK ||
		grpc_call_start_batch(stream->call, &status, 1, &running->ended, NULL) != GRPC_CALL_OK)
		abort();
}

static void end_call(struct running *running)
{
	struct stream *stream = &running->stream;
	if (stream->status != GRPC_STATUS_OK)
		core_fail("a call failed with %d: %.*s", (int)stream->status,
			(int)GRPC_SLICE_LENGTH(stream->message),
			(const char *)GRPC_SLICE_START_PTR(stream->message));
	grpc_byte_buffer_destroy(running->sent);
	grpc_call_unref(stream->call);
	grpc_metadata_array_destroy(&stream->initial);
	grpc_metadata_array_destroy(&stream->trailing);
	grpc_slice_unref(stream->message);
}

/* What the tag of an event says; a message makes place for the next. */
static void take_event(struct running *running, bool *tag, uint64_t *payloads)
{
	if (tag == &running->ended || !running->got) {
		*tag = true;
		return;
	}
	if (payloads)
		payloads[running->index] += core_payload_size(running->got);
	grpc_byte_buffer_destroy(running->got);
	running->got = NULL;
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &running->got};
	if (grpc_call_start_batch(running->stream.call, &op, 1, tag, NULL) != GRPC_CALL_OK)
		abort();
}

void call_at_once(struct connection *const *connections, unsigned connection_count, const char *path,
	grpc_byte_buffer *const *requests, size_t count, unsigned at_once, uint64_t *payloads)
{
	grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
	struct running *calls = calloc(at_once, sizeof(*calls));
	size_t next = 0, done = 0;
	if (!calls)
		abort();
	for (; next < at_once && next < count; next++) {
		calls[next].index = next;
		begin_call(&calls[next], connections[next % connection_count], path, queue, requests[next]);
	}
	while (done < count) {
		bool *tag =
			grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).tag;
		size_t which = (size_t)((char *)tag - (char *)calls) / sizeof(*calls);
		struct running *running = &calls[which];
		take_event(running, tag, payloads);
		if (!running->received || !running->ended)
			continue;
		end_call(running);
		done++;
		if (next < count) {
			running->index = next;
			begin_call(running, connections[which % connection_count], path, queue, requests[next++]);
		}
	}
	free(calls);
	grpc_completion_queue_shutdown(queue);
	grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	grpc_completion_queue_destroy(queue);
}

/* The empty handlers -------------------------------------------------------------------------------- */

/* ByteStream with nothing behind it, on one thread: what is left is the core's own work. Read sends the same bytes over
 * and over, as many as the name of the blob says; Write takes what comes and says that it was so much. */
enum { EMPTY_PIECE = 1 << 20, EMPTY_HEAD = 5 };

static bool step(grpc_call *call, grpc_completion_queue *queue, grpc_op op)
{
	return grpc_call_start_batch(call, &op, 1, NULL, NULL) == GRPC_CALL_OK &&
		grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).success;
}

static grpc_byte_buffer *receive_one(grpc_call *call, grpc_completion_queue *queue)
{
	grpc_byte_buffer *got = NULL;
	step(call, queue, (grpc_op){.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &got});
	return got;
}

static bool send_one(grpc_call *call, grpc_completion_queue *queue, grpc_slice slice)
{
	grpc_byte_buffer *message = grpc_raw_byte_buffer_create(&slice, 1);
	bool ok = step(call, queue, (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message});
	grpc_byte_buffer_destroy(message);
	return ok;
}

/* Of the blob that the message names, "…blobs/HASH/SIZE"; it is destroyed. */
static uint64_t size_named(grpc_byte_buffer *message, struct croft_arena *arena)
{
	enum { NAME = 6 + 64 + 1 };
	struct croft_slice bytes = message ? core_bytes(message, arena) : CROFT_SLICE("", 0);
	const char *name = memmem(bytes.data, bytes.size, "blobs/", 6), *end = (const char *)bytes.data + bytes.size;
	uint64_t size = 0;
	for (const char *at = name ? name + NAME : end; at < end && *at >= '0' && *at <= '9'; at++)
		size = 10 * size + (uint64_t)(*at - '0');
	return size;
}

static void answer_read(grpc_call *call, grpc_completion_queue *queue, grpc_slice zeros, struct croft_arena *arena)
{
	uint64_t left = size_named(receive_one(call, queue), arena);
	bool ok = true;
	while (ok && left > 0) {
		size_t piece = left < EMPTY_PIECE ? (size_t)left : EMPTY_PIECE, size = 0;
		uint8_t head[EMPTY_HEAD] = {0x52}; /* field 10, wire type 2 */
		for (size_t rest = piece; rest || size == 0; rest >>= 7)
			head[++size] = (uint8_t)((rest & 0x7f) | (rest >> 7 ? 0x80 : 0));
		grpc_slice parts[] = {grpc_slice_from_copied_buffer((char *)head, size + 1),
			grpc_slice_sub(zeros, 0, piece)};
		grpc_byte_buffer *message = grpc_raw_byte_buffer_create(parts, 2);
		ok = step(call, queue, (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message});
		grpc_byte_buffer_destroy(message);
		grpc_slice_unref(parts[0]);
		grpc_slice_unref(parts[1]);
		left -= piece;
	}
}

static void answer_write(grpc_call *call, grpc_completion_queue *queue, struct croft_arena *arena)
{
	uint64_t size = size_named(receive_one(call, queue), arena);
	for (grpc_byte_buffer *message; (message = receive_one(call, queue));)
		grpc_byte_buffer_destroy(message);
	uint8_t answer[11] = {0x08}; /* field 1, a number */
	size_t used = 1;
	for (; size >= 0x80; size >>= 7)
		answer[used++] = (uint8_t)(size | 0x80);
	answer[used++] = (uint8_t)size;
	grpc_slice slice = grpc_slice_from_copied_buffer((char *)answer, used);
	send_one(call, queue, slice);
	grpc_slice_unref(slice);
}

static void serve_calls(grpc_server *server, grpc_completion_queue *queue)
{
	grpc_slice zeros = grpc_slice_malloc(EMPTY_PIECE);
	memset(GRPC_SLICE_START_PTR(zeros), 0x5a, EMPTY_PIECE);
	struct croft_arena *arena = croft_arena_create();
	for (;;) {
		grpc_call *call;
		grpc_call_details details;
		grpc_metadata_array metadata;
		grpc_call_details_init(&details);
		grpc_metadata_array_init(&metadata);
		grpc_server_request_call(server, &call, &details, &metadata, queue, queue, NULL);
		if (!grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).success)
			return;
		step(call, queue, (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA});
		if (grpc_slice_str_cmp(details.method, "/google.bytestream.ByteStream/Write") == 0)
			answer_write(call, queue, arena);
		else
			answer_read(call, queue, zeros, arena);
		step(call, queue, (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
			.data.send_status_from_server.status = GRPC_STATUS_OK});
		croft_arena_reset(arena);
		grpc_call_unref(call);
		grpc_call_details_destroy(&details);
		grpc_metadata_array_destroy(&metadata);
	}
}

int serve_empty(void)
{
	grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
	grpc_arg most = {GRPC_ARG_INTEGER, (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, {.integer = -1}};
	grpc_server *server = grpc_server_create(&(grpc_channel_args){1, &most}, NULL);
	grpc_server_register_completion_queue(server, queue, NULL);
	grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
	int port = grpc_server_add_http2_port(server, "127.0.0.1:0", credentials);
	if (port <= 0)
		core_fail("no port to serve on");
	grpc_server_start(server);
	printf("%d\n", port);
	fflush(stdout);
	serve_calls(server, queue);
	return 0;
}
