/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Answers. `produce` fills one buffer on a worker while the other one is on its way to the client;
 * large blobs that lie in a file go by sendfile behind the head.
 */
#include "fs/plane/internal.h"

#include "proto/base/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One turn of a worker, and of the ring's own thread; more would keep others waiting. */
enum { TURN = 4 << 20, TURN_HERE = 2 << 20 };
/* A chunk's size line and its end, and the last chunk. */
enum { CHUNK_LINE = 8, CHUNK_END = 2, LAST_CHUNK = 5, FRAMING = 32 };

struct plane_buffer *plane_buffer_ready(struct plane_request *request, unsigned which)
{
	struct plane_buffer *buffer = &request->buffers[which];
	if (!buffer->data)
		buffer->data = croft_alloc(PLANE_BUFFER);
	return buffer;
}

size_t plane_room(const struct plane_buffer *buffer)
{
	return buffer->end + FRAMING < PLANE_BUFFER ? PLANE_BUFFER - FRAMING - buffer->end : 0;
}

static void print(struct plane_buffer *buffer, const char *format, va_list arguments)
{
	size_t room = PLANE_BUFFER - buffer->end;
	int size = vsnprintf(buffer->data + buffer->end, room, format, arguments);
	if (size > 0)
		buffer->end += (size_t)size < room ? (size_t)size : room - 1;
}

void plane_print(struct plane_buffer *buffer, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	print(buffer, format, arguments);
	va_end(arguments);
}

void plane_head(struct plane_request *request, int status, const char *format, ...)
{
	struct plane_buffer *buffer = plane_buffer_ready(request, request->fill);
	plane_print(buffer, "HTTP/1.1 %d %s\r\n", status, http_reason(status));
	va_list arguments;
	va_start(arguments, format);
	print(buffer, format, arguments);
	va_end(arguments);
	bool old = request->head.minor_version == 0;
	plane_print(buffer, "%s\r\n",
		request->close ? "Connection: close\r\n" : old ? "Connection: keep-alive\r\n" : "");
}

static void go(struct plane_request *request);

static void count_sent(struct plane_request *request, uint64_t size)
{
	__atomic_fetch_add(&request->plane->stat.bytes_sent, size, __ATOMIC_RELAXED);
	plane_touch(request->connection, size);
}

/* Producing ------------------------------------------------------------------------------------ */

/* Calls `produce` and puts a chunk's frame around what it wrote. */
void plane_produce(struct plane_request *request)
{
	struct plane_buffer *buffer = plane_buffer_ready(request, request->fill);
	struct croft_error err = CROFT_ERROR_INIT;
	size_t line = buffer->end;
	if (request->chunked)
		buffer->end += CHUNK_LINE;
	size_t start = buffer->end;
	if (!request->produce(request, buffer, &err)) {
		request->broken = true;
		return;
	}
	if (!request->chunked)
		return;
	if (buffer->end == start) {
		buffer->end = line;
	} else {
		char text[CHUNK_LINE + 1];
		snprintf(text, sizeof(text), "%06zx\r\n", (buffer->end - start) & 0xffffff);
		memcpy(buffer->data + line, text, CHUNK_LINE);
		memcpy(buffer->data + buffer->end, "\r\n", CHUNK_END);
		buffer->end += CHUNK_END;
	}
	if (request->produced) {
		memcpy(buffer->data + buffer->end, "0\r\n\r\n", LAST_CHUNK);
		buffer->end += LAST_CHUNK;
	}
}

/* What was produced, as far as the socket takes it. */
static void send_here(struct plane_request *request)
{
	struct plane_buffer *buffer = &request->buffers[request->fill];
	while (buffer->start < buffer->end) {
		ssize_t done = send(request->connection->fd, buffer->data + buffer->start,
			buffer->end - buffer->start,
			MSG_DONTWAIT | MSG_NOSIGNAL | (request->produced ? 0 : MSG_MORE));
		if (done > 0) {
			buffer->start += (size_t)done;
			request->sent_here += (size_t)done;
		} else if (errno != EINTR) {
			request->broken |= errno != EAGAIN;
			return;
		}
	}
	buffer->start = buffer->end = 0;
}

/* While nothing is on its way, the worker sends what it produces by itself: handing every buffer to
 * the ring's thread and back would cost more than sending it. */
static void produce_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	do {
		plane_produce(request);
		if (request->sends_here && !request->broken)
			send_here(request);
	} while (request->sends_here && !request->broken && !request->produced &&
		request->sent_here < TURN && request->buffers[request->fill].end == 0);
}

static void produced(struct plane_request *request)
{
	if (request->sent_here > 0)
		count_sent(request, request->sent_here);
	if (request->buffers[request->fill].end > 0)
		request->fill ^= 1;
	go(request);
}

static void produce(struct plane_request *request)
{
	request->sent_here = 0;
	request->sends_here = !request->connection->sending && request->fill == request->drain;
	plane_request_work(request, produce_work, produced);
}

/* Files ---------------------------------------------------------------------------------------- */

static bool set_nonblocking(struct plane_request *request, bool on)
{
	int fd = request->connection->fd, flags = fcntl(fd, F_GETFL);
	request->nonblocking = on;
	return flags >= 0 &&
		fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) == 0;
}

bool plane_find_file(struct plane_request *request)
{
	uint64_t offset = 0, size = 0;
	request->file = croft_store_blob_extent(request->blob, request->position, &offset, &size);
	request->file_offset = offset - request->position;
	request->file_end = request->position + size;
	return request->file >= 0;
}

/* Up to where one file goes. */
static uint64_t end_in_file(const struct plane_request *request)
{
	return request->end < request->file_end ? request->end : request->file_end;
}

static void send_some(struct plane_request *request, uint64_t most)
{
	uint64_t end = end_in_file(request);
	if (end - request->position > most)
		end = request->position + most;
	while (request->position < end) {
		off_t at = (off_t)(request->file_offset + request->position);
		ssize_t done = sendfile(request->connection->fd, request->file, &at,
			(size_t)(end - request->position));
		if (done > 0)
			request->position += (uint64_t)done;
		else if (done == 0 || (errno != EINTR && errno != EAGAIN))
			request->broken = true; /* 0: the file is shorter than its blob */
		if (request->broken || (done < 0 && errno == EAGAIN))
			return;
	}
}

/* As much as a turn may, file by file; of each it is checked first what was not yet. */
static void sendfile_work(struct ring_work *work)
{
	struct plane_request *request = plane_request_of(work);
	struct croft_error err = CROFT_ERROR_INIT;
	do {
		if (request->position == request->file_end && !plane_find_file(request))
			request->broken = true;
		else if (!croft_store_blob_check(request->blob, request->position, &err))
			request->broken = true;
		else
			send_some(request, TURN);
	} while (!request->broken && request->position == request->file_end && request->position < request->end &&
		request->position - request->position_before < TURN);
}

/* cachestat(2), of Linux 6.5, which the C library does not know yet. */
struct cache_range {
	uint64_t offset, size;
};
struct cache_state {
	uint64_t cached, dirty, writeback, evicted, recently_evicted;
};
enum { SYSCALL_CACHESTAT = 451 };

/* Is all that one turn would send in the page cache? Then sending does not wait for the disk, and
 * the ring's thread may do it. False also where the kernel cannot say. */
static bool is_cached(const struct plane_request *request)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), size = end_in_file(request) - request->position;
	uint64_t start = request->file_offset + request->position;
	if (size > TURN_HERE)
		size = TURN_HERE;
	struct cache_range range = {start, size};
	struct cache_state state;
	return syscall(SYSCALL_CACHESTAT, request->file, &range, &state, 0) == 0 &&
		state.cached >= (start + size - 1) / page - start / page + 1;
}

/* Bytes go on their way only once they were checked, which reads all of the chunk that they are of. */
static bool is_ready(const struct plane_request *request)
{
	return croft_store_blob_checked(request->blob, request->position) && is_cached(request);
}

static void wait_until_writable(struct plane_request *request)
{
	struct plane_connection *connection = request->connection;
	struct io_uring_sqe *sqe = ring_sqe(connection->plane->ring);
	io_uring_prep_poll_add(sqe, connection->fd, POLLOUT);
	io_uring_sqe_set_data(sqe, &connection->sent);
	connection->sending = true;
	request->polling = true;
}

static void file_was_sent(struct plane_request *request)
{
	count_sent(request, request->position - request->position_before);
	if (!request->broken && request->position < request->end)
		wait_until_writable(request);
	else
		go(request);
}

static void send_file(struct plane_request *request)
{
	request->position_before = request->position;
	if (!request->nonblocking && !set_nonblocking(request, true))
		request->broken = true;
	do {
		if (request->position == request->file_end && !plane_find_file(request))
			request->broken = true;
		if (!request->broken && !is_ready(request)) {
			plane_request_work(request, sendfile_work, file_was_sent);
			return;
		}
		if (!request->broken)
			send_some(request, TURN_HERE);
		/* On with the next file, unless the socket is full or it is others' turn. */
	} while (!request->broken && request->position == request->file_end &&
		request->position < request->end &&
		request->position - request->position_before < TURN_HERE);
	file_was_sent(request);
}

/* Going on ------------------------------------------------------------------------------------- */

static bool is_being_filled(const struct plane_request *request, unsigned which)
{
	return request->working && which == request->fill;
}

static void send_what_is_there(struct plane_request *request)
{
	struct plane_connection *connection = request->connection;
	struct plane_buffer *buffer = &request->buffers[request->drain];
	if (connection->sending || is_being_filled(request, request->drain) ||
		buffer->start == buffer->end)
		return;
	bool more = request->working || !request->produced || request->file >= 0;
	plane_send(connection, buffer->data + buffer->start, buffer->end - buffer->start,
		more ? MSG_MORE : 0);
}

/* What a worker may be writing is not looked at. */
static void go(struct plane_request *request)
{
	struct plane_connection *connection = request->connection;
	if (!request->working && request->broken) {
		plane_connection_close(connection);
		return;
	}
	send_what_is_there(request);
	if (request->working)
		return;
	if (!request->produced) {
		if (request->buffers[request->fill].end == 0)
			produce(request);
		return;
	}
	if (connection->sending)
		return;
	if (request->file >= 0 && request->position < request->end) {
		send_file(request);
		return;
	}
	if (request->nonblocking && !set_nonblocking(request, false))
		request->close = true;
	plane_answered(connection);
}

void plane_answer_begin(struct plane_request *request)
{
	request->connection->phase = PLANE_ANSWER;
	if (request->produced) {
		request->fill ^= 1;
		go(request);
	} else {
		produce(request);
	}
}

void plane_answer_sent(struct plane_request *request, int result)
{
	struct plane_buffer *buffer = &request->buffers[request->drain];
	if (request->polling) {
		request->polling = false;
		send_file(request);
		return;
	}
	if (result < 0 && result != -EINTR && result != -EAGAIN) {
		plane_connection_close(request->connection);
		return;
	}
	if (request->connection->phase == PLANE_BODY) {
		plane_body_continue(request); /* it was the "100 Continue" */
		return;
	}
	if (result > 0) {
		count_sent(request, (uint64_t)result);
		buffer->start += (size_t)result;
	}
	if (buffer->start == buffer->end) {
		buffer->start = buffer->end = 0;
		request->drain ^= 1;
	}
	go(request);
}

/* Answers from memory --------------------------------------------------------------------------- */

static bool produce_value(struct plane_request *request, struct plane_buffer *buffer,
	struct croft_error *err)
{
	size_t size = plane_room(buffer), left = request->value.size - (size_t)request->position;
	if (size > left)
		size = left;
	memcpy(buffer->data + buffer->end, (const char *)request->value.data + request->position, size);
	buffer->end += size;
	request->position += size;
	request->produced = request->position == request->value.size;
	return true;
}

void plane_answer_value(struct plane_request *request, const char *type, const char *fields)
{
	plane_head(request, 200, "Content-Type: %s\r\nContent-Length: %zu\r\n%s", type,
		request->value.size, fields);
	request->produce = produce_value;
	if (request->head.method == HTTP_HEAD || request->value.size == 0)
		request->produced = true;
	plane_answer_begin(request);
}

/* Answers made of a sentence ------------------------------------------------------------------- */

int plane_status_of(const struct croft_error *err)
{
	switch (err->code) {
	case CROFT_INVALID_ARGUMENT: return 400;
	case CROFT_NOT_FOUND:
	case CROFT_DATA_LOSS: return 404; /* the bad copy is out of the way by now */
	case CROFT_FAILED_PRECONDITION: return 409;
	case CROFT_OUT_OF_RANGE: return 413;
	case CROFT_PERMISSION_DENIED: return 403;
	case CROFT_RESOURCE_EXHAUSTED: return 507;
	case CROFT_UNAVAILABLE: return 503;
	default: return 500;
	}
}

void plane_answer_status(struct plane_request *request, int status, const char *format, ...)
{
	char text[600], range[64];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	snprintf(range, sizeof(range), "Content-Range: bytes */%" PRIu64 "\r\n", request->digest.size_bytes);
	request->fill = request->drain = 0;
	request->buffers[0].start = request->buffers[0].end = 0;
	request->buffers[1].start = request->buffers[1].end = 0;
	request->produced = true;
	request->file = -1;
	plane_head(request, status, "Content-Type: text/plain\r\nContent-Length: %zu\r\n%s",
		strlen(text),
		status == 405    ? "Allow: GET, HEAD, PUT, POST\r\n"
		: status == 416 ? range
		: status == 401 ? "WWW-Authenticate: Basic realm=\"croft\"\r\n"
						: "");
	if (request->head.method != HTTP_HEAD)
		plane_print(&request->buffers[0], "%s", text);
	plane_answer_begin(request);
}

void plane_answer_error(struct plane_request *request, const struct croft_error *err)
{
	plane_answer_status(request, plane_status_of(err), "%s\n", err->message);
}
