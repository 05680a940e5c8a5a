/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One client: reading heads, waiting, closing. */
#include "fs/plane/internal.h"

#include "proto/base/arena.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SWALLOW_MAX = 1 << 20 };
/* Of the idle time: who has brought nothing for that long is cut when others wait. */
enum { STALLED_PART = 12 };

static void watch_stalled(struct croft_plane *plane);
static void next_turn(struct croft_plane *plane);

/* Deadlines ------------------------------------------------------------------------------------ */

/* Every deadline is one idle time from when it was set, so appending keeps the list in order. */
static void append(struct plane_connection *connection)
{
	struct croft_plane *plane = connection->plane;
	connection->previous = plane->last;
	connection->next = NULL;
	*(plane->last ? &plane->last->next : &plane->first) = connection;
	plane->last = connection;
}

static void unlink_from_list(struct plane_connection *connection)
{
	struct croft_plane *plane = connection->plane;
	*(connection->previous ? &connection->previous->next : &plane->first) = connection->next;
	*(connection->next ? &connection->next->previous : &plane->last) = connection->previous;
}

static void set_deadline(struct plane_connection *connection)
{
	struct croft_plane *plane = connection->plane;
	connection->progress = 0;
	connection->deadline_ns = ring_now_ns(plane->ring) + plane->idle_ns;
	if (plane->last == connection)
		return;
	unlink_from_list(connection);
	append(connection);
	plane_set_timer(plane);
}

/* A byte now and then is no progress: a client has to keep up some rate. */
void plane_touch(struct plane_connection *connection, size_t progress)
{
	connection->progress += progress;
	if (connection->progress >= PLANE_PROGRESS)
		set_deadline(connection);
}

static bool is_ours_to_move(const struct plane_connection *connection)
{
	return connection->phase == PLANE_TURN || (connection->request && connection->request->working);
}

static void check_deadlines(struct croft_plane *plane)
{
	uint64_t now = ring_now_ns(plane->ring);
	while (plane->first && plane->first->deadline_ns <= now) {
		struct plane_connection *connection = plane->first;
		if (connection->closing || is_ours_to_move(connection)) {
			connection->deadline_ns = now + plane->idle_ns;
			if (plane->last != connection) {
				unlink_from_list(connection);
				append(connection);
			}
		} else {
			plane_connection_close(connection);
		}
	}
}

static void run_timer(struct ring_timer *timer)
{
	struct croft_plane *plane = ring_container(timer, struct croft_plane, timer);
	check_deadlines(plane);
	plane_set_timer(plane);
}

void plane_set_timer(struct croft_plane *plane)
{
	plane->timer.run = run_timer;
	if (!plane->timer.set && plane->first)
		ring_timer_set(plane->ring, &plane->timer, plane->first->deadline_ns);
}

bool plane_close_an_idle_one(struct croft_plane *plane)
{
	for (struct plane_connection *at = plane->first; at; at = at->next)
		if (!at->closing && at->phase == PLANE_HEAD && !at->in) {
			plane_connection_close(at);
			return true;
		}
	return false;
}

/* Those who have a request and neither send nor take anything give their places to those who wait for their turn: otherwise
 * a few hundred of them would keep everybody out for an idle time. As many as there are waiting. */
static struct plane_connection *first_stalled(const struct croft_plane *plane)
{
	uint64_t since = ring_now_ns(plane->ring) + plane->idle_ns - plane->idle_ns / STALLED_PART;
	for (struct plane_connection *at = plane->first; at && at->deadline_ns <= since; at = at->next)
		if (at->request && !at->closing && !is_ours_to_move(at))
			return at;
	return NULL;
}

static void cut_stalled(struct ring_timer *timer)
{
	struct croft_plane *plane = ring_container(timer, struct croft_plane, stalled);
	struct plane_connection *stalled;
	size_t waiting = 0;
	for (struct plane_connection *at = plane->turns; at; at = at->next_turn)
		waiting++;
	for (; waiting > 0 && (stalled = first_stalled(plane)); waiting--)
		plane_connection_close(stalled);
	watch_stalled(plane);
}

static void watch_stalled(struct croft_plane *plane)
{
	plane->stalled.run = cut_stalled;
	if (plane->turns && !plane->stalled.set && !plane->stopping)
		ring_timer_set(plane->ring, &plane->stalled, ring_now_ns(plane->ring) + plane->idle_ns / STALLED_PART / 2);
}

/* Closing -------------------------------------------------------------------------------------- */

static void leave_turns(struct plane_connection *connection)
{
	struct croft_plane *plane = connection->plane;
	struct plane_connection **at = &plane->turns;
	while (*at != connection)
		at = &(*at)->next_turn;
	*at = connection->next_turn;
	if (!*at)
		plane->last_turn = at;
}

void plane_settle(struct plane_connection *connection)
{
	struct croft_plane *plane = connection->plane;
	struct plane_request *request = connection->request;
	if (!connection->closing || connection->receiving || connection->sending ||
		(request && request->working))
		return;
	unlink_from_list(connection);
	if (request)
		plane_request_free(request);
	close(connection->fd);
	free(connection->in);
	free(connection);
	plane->connections--;
	if (plane->stopping && plane->connections == 0 && !plane->accepting) {
		ring_quit(plane->ring);
	} else if (!plane->stopping && plane->again.set) {
		ring_timer_clear(plane->ring, &plane->again);
		plane_accept(plane);
	}
	if (request)
		next_turn(plane);
}

void plane_connection_close(struct plane_connection *connection)
{
	if (connection->closing)
		return;
	connection->closing = true;
	if (connection->phase == PLANE_TURN)
		leave_turns(connection);
	/* Ends what is under way on it. */
	shutdown(connection->fd, SHUT_RDWR);
	ring_cancel(connection->plane->ring, connection->fd);
	plane_settle(connection);
}

/* Sending and receiving ------------------------------------------------------------------------ */

void plane_send(struct plane_connection *connection, const void *data, size_t size, int flags)
{
	struct io_uring_sqe *sqe = ring_sqe(connection->plane->ring);
	io_uring_prep_send(sqe, connection->fd, data, size, flags | MSG_NOSIGNAL);
	io_uring_sqe_set_data(sqe, &connection->sent);
	connection->sending = true;
}

void plane_receive(struct plane_connection *connection, void *buffer, size_t size)
{
	struct io_uring_sqe *sqe = ring_sqe(connection->plane->ring);
	io_uring_prep_recv(sqe, connection->fd, buffer, size, 0);
	io_uring_sqe_set_data(sqe, &connection->received);
	connection->receiving = true;
	connection->reading_ahead = false;
}

static void read_ahead(struct plane_connection *connection)
{
	struct io_uring_sqe *sqe = ring_sqe(connection->plane->ring);
	io_uring_prep_recv(sqe, connection->fd, NULL, PLANE_RECEIVE, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = 0;
	io_uring_sqe_set_data(sqe, &connection->received);
	connection->receiving = true;
	connection->reading_ahead = true;
}

void plane_keep(struct plane_connection *connection, const void *data, size_t size)
{
	if (size == 0)
		return;
	size_t used = connection->in_end - connection->in_start;
	if (connection->in_start > 0)
		memmove(connection->in, connection->in + connection->in_start, used);
	connection->in_start = 0;
	connection->in_end = used + size;
	if (connection->in_room < used + size) {
		connection->in_room = used + size < 1024 ? 1024 : used + size;
		connection->in = croft_realloc(connection->in, connection->in_room, 1);
	}
	memcpy(connection->in + used, data, size);
}

void plane_used(struct plane_connection *connection, size_t size)
{
	connection->in_start += size;
	if (connection->in_start < connection->in_end)
		return;
	free(connection->in);
	connection->in = NULL;
	connection->in_start = connection->in_end = connection->in_room = 0;
}

/* Heads ---------------------------------------------------------------------------------------- */

static void look_for_head(struct plane_connection *connection)
{
	struct croft_plane *plane = connection->plane;
	struct croft_slice in = {connection->in ? connection->in + connection->in_start : "",
		connection->in_end - connection->in_start};
	ssize_t size = http_head_size(in, &connection->looked);
	if (size == 0) {
		connection->phase = PLANE_HEAD;
		read_ahead(connection);
	} else if (size < 0) {
		bool long_one = in.size >= HTTP_HEAD_MAX;
		plane_request_refuse(connection, long_one ? 431 : 400,
			long_one ? "the head is over 8 KiB" : "the head is malformed");
	} else if (plane->requests >= PLANE_REQUESTS) {
		connection->phase = PLANE_TURN;
		connection->next_turn = NULL;
		*plane->last_turn = connection;
		plane->last_turn = &connection->next_turn;
		watch_stalled(plane);
	} else {
		connection->looked = 0;
		plane_request_begin(connection, CROFT_SLICE(in.data, (size_t)size));
	}
}

static void next_turn(struct croft_plane *plane)
{
	struct plane_connection *connection = plane->turns;
	if (!connection || plane->requests >= PLANE_REQUESTS || plane->stopping)
		return;
	leave_turns(connection);
	connection->looked = 0;
	look_for_head(connection);
}

/* Closing at once could destroy the answer on its way (by a reset, when there are bytes that we have
 * not read): so end our side only, and wait for the client to end its. */
static void linger(struct plane_connection *connection)
{
	connection->phase = PLANE_LINGER;
	plane_used(connection, connection->in_end - connection->in_start);
	shutdown(connection->fd, SHUT_WR);
	read_ahead(connection);
}

void plane_answered(struct plane_connection *connection)
{
	struct plane_request *request = connection->request;
	bool last = request->close || connection->plane->stopping;
	connection->request = NULL;
	plane_request_free(request);
	set_deadline(connection);
	if (last)
		linger(connection);
	else
		look_for_head(connection);
	next_turn(connection->plane);
}

static void received_ahead(struct plane_connection *connection, int result, uint32_t flags)
{
	struct croft_plane *plane = connection->plane;
	bool first = !connection->in;
	if (result > 0 && !connection->closing && connection->phase == PLANE_HEAD)
		plane_keep(connection, ring_buffer(plane->ring, flags), (size_t)result);
	if (flags & IORING_CQE_F_BUFFER)
		ring_buffer_return(plane->ring, flags);
	if (connection->closing) {
		plane_settle(connection);
	} else if (result == -ENOBUFS || result == -EINTR || result == -EAGAIN) {
		read_ahead(connection); /* by then the buffers are back */
	} else if (result <= 0) {
		plane_connection_close(connection);
	} else if (connection->phase == PLANE_LINGER) {
		connection->swallowed += (uint64_t)result;
		if (connection->swallowed > SWALLOW_MAX)
			plane_connection_close(connection);
		else
			read_ahead(connection);
	} else {
		/* From its first byte on, the whole head has one idle time to arrive. */
		if (first)
			set_deadline(connection);
		look_for_head(connection);
	}
}

static void received(struct ring_event *event, int result, uint32_t flags)
{
	struct plane_connection *connection =
		ring_container(event, struct plane_connection, received);
	connection->receiving = false;
	if (result > 0)
		__atomic_fetch_add(
			&connection->plane->stat.bytes_received, (uint64_t)result, __ATOMIC_RELAXED);
	if (connection->reading_ahead)
		received_ahead(connection, result, flags);
	else if (connection->closing)
		plane_settle(connection);
	else
		plane_body_received(connection->request, result);
}

static void sent(struct ring_event *event, int result, uint32_t flags)
{
	struct plane_connection *connection = ring_container(event, struct plane_connection, sent);
	connection->sending = false;
	if (connection->closing)
		plane_settle(connection);
	else
		plane_answer_sent(connection->request, result);
}

void plane_connection_start(struct croft_plane *plane, int fd)
{
	struct plane_connection *connection = croft_zalloc(sizeof(*connection));
	connection->plane = plane;
	connection->fd = fd;
	connection->received.run = received;
	connection->sent.run = sent;
	connection->deadline_ns = ring_now_ns(plane->ring) + plane->idle_ns;
	append(connection);
	plane_set_timer(plane);
	plane->connections++;
	__atomic_fetch_add(&plane->stat.connections, 1, __ATOMIC_RELAXED);
	look_for_head(connection);
}
