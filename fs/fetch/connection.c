/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One connection to a source: one request at a time, and a timer for when nothing comes. */
#include "fs/fetch/internal.h"

#include "proto/base/arena.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Bytes that count as being alive. */
enum { PROGRESS = 4096 };
/* Idle ones are ended before the other side's idle time, lest a request meets the end. */
enum { IDLE_MS = 30000 };

/* The end -------------------------------------------------------------------------------------- */

void fetch_settle(struct croft_fetcher *fetcher)
{
	if (fetcher->stopping && fetcher->connection_count == 0 && fetcher->works == 0)
		ring_quit(fetcher->ring);
}

static void settle(struct fetch_connection *connection)
{
	struct fetch_source *source = connection->source;
	if (!connection->closing || connection->sending || connection->receiving ||
		connection->connecting || connection->in_use)
		return;
	struct fetch_connection **at = &source->connections;
	while (*at != connection)
		at = &(*at)->next;
	*at = connection->next;
	source->connection_count--;
	source->fetcher->connection_count--;
	close(connection->fd);
	free(connection->request);
	free(connection->in);
	free(connection);
	fetch_settle(source->fetcher);
}

static void not_busy(struct fetch_connection *connection)
{
	if (!connection->busy)
		return;
	connection->busy = false;
	connection->source->busy--;
	connection->source->busy_background -= connection->background;
}

/* What was asked for and has not come goes back to its queue. */
static void give_back(struct fetch_connection *connection, const struct croft_error *err)
{
	struct fetch_source *source = connection->source;
	for (size_t i = connection->asked_count; i-- > 0;) {
		struct fetch_wanted *wanted = connection->asked[i];
		connection->asked[i] = NULL;
		if (!wanted)
			continue;
		if (wanted->intake)
			wanted->intake->connection = NULL;
		/* Where nothing came, the trouble is as old as the question. */
		if (err && wanted->trouble_ns == 0 && !connection->answered)
			wanted->trouble_ns = connection->asked_ns;
		if (err)
			fetch_failed(wanted, source, err);
		else
			fetch_enqueue(source->fetcher, wanted, true);
	}
	connection->asked_count = connection->asked_at = 0;
	struct fetch_recipe *recipe = connection->recipe;
	connection->recipe = NULL;
	if (recipe)
		fetch_recipe_again(recipe);
}

void fetch_connection_close(struct fetch_connection *connection, const struct croft_error *err)
{
	struct fetch_source *source = connection->source;
	if (connection->closing)
		return;
	connection->closing = true;
	ring_timer_clear(source->fetcher->ring, &connection->stall);
	fetch_hedge_end(connection);
	not_busy(connection);
	if (err)
		fetch_source_failed(source, err);
	give_back(connection, err);
	shutdown(connection->fd, SHUT_RDWR);
	ring_cancel(source->fetcher->ring, connection->fd);
	settle(connection);
	fetch_pump(source->fetcher);
}

static void broke(struct fetch_connection *connection, int failure, const char *what)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (failure)
		croft_error_errno(&err, failure, "%s: %s", connection->source->name, what);
	else
		croft_error_set(&err, CROFT_UNAVAILABLE, "%s: %s", connection->source->name, what);
	err.code = CROFT_UNAVAILABLE;
	fetch_connection_close(connection, &err);
}

/* The other side ended it. */
static void ended(struct fetch_connection *connection, int failure, const char *what)
{
	/* An old connection that ends when it is asked for something was ended by the idle time. */
	if (connection->reused && !connection->answered)
		fetch_connection_close(connection, NULL);
	else
		broke(connection, failure, what);
}

/* The stall timer ------------------------------------------------------------------------------ */

static void watch(struct fetch_connection *connection);

static void stalled(struct ring_timer *timer)
{
	struct fetch_connection *connection = ring_container(timer, struct fetch_connection, stall);
	if (connection->stage == FETCH_IDLE)
		fetch_connection_close(connection, NULL);
	else if (connection->connecting)
		broke(connection, 0, "no answer to connecting");
	else if (connection->sending || connection->receiving)
		broke(connection, 0, "it stalls");
	else
		watch(connection); /* it is our own disk that is slow */
}

static void watch(struct fetch_connection *connection)
{
	struct croft_fetcher *fetcher = connection->source->fetcher;
	connection->progress = 0;
	ring_timer_set(fetcher->ring, &connection->stall,
		ring_now_ns(fetcher->ring) +
			(connection->stage == FETCH_IDLE ? IDLE_MS * UINT64_C(1000000) : fetcher->stall_ns));
}

/* Receiving ------------------------------------------------------------------------------------ */

static void receive(struct fetch_connection *connection, void *place, size_t size)
{
	struct io_uring_sqe *sqe = ring_sqe(connection->source->fetcher->ring);
	io_uring_prep_recv(sqe, connection->fd, place, size, 0);
	io_uring_sqe_set_data(sqe, &connection->received);
	connection->receiving = true;
}

/* Plain bytes of a large blob need not pass through `in`. */
static bool can_go_direct(const struct fetch_connection *connection)
{
	return connection->stage == FETCH_BODY && !connection->recipe &&
		connection->asked_count == 1 && connection->asked_at == 0 && connection->skip == 0 &&
		!connection->body.chunked && !connection->body.until_close &&
		fetch_is_large(connection->asked[0]);
}

static void receive_more(struct fetch_connection *connection)
{
	size_t room;
	if (can_go_direct(connection)) {
		struct fetch_intake *intake = connection->asked[0]->intake;
		char *place = fetch_intake_room(intake, &room);
		if (room > connection->body.left)
			room = (size_t)connection->body.left;
		if (room == 0)
			return; /* the worker has to catch up */
		intake->receiving = true;
		connection->direct = intake;
		receive(connection, place, room);
		return;
	}
	size_t used = connection->in_end - connection->in_start;
	if (connection->in_start > 0)
		memmove(connection->in, connection->in + connection->in_start, used);
	connection->in_start = 0;
	connection->in_end = used;
	if (used < FETCH_BUFFER)
		receive(connection, connection->in + used, FETCH_BUFFER - used);
}

/* All that can be done without waiting, then waits. */
void fetch_connection_go(struct fetch_connection *connection)
{
	struct croft_fetcher *fetcher = connection->source->fetcher;
	if (connection->closing || connection->receiving)
		return;
	connection->in_use = true;
	while (fetch_answer_use(connection))
		;
	connection->in_use = false;
	if (!connection->closing && !connection->receiving && connection->stage >= FETCH_HEAD)
		receive_more(connection);
	settle(connection);
	fetch_store_go(fetcher);
	fetch_pump(fetcher);
}

/* Into the intake that the receive was for, which may have been abandoned meanwhile. */
static void received_direct(struct fetch_connection *connection, int result)
{
	struct fetch_intake *intake = connection->direct;
	connection->direct = NULL;
	if (result > 0 && intake->wanted && !connection->closing) {
		size_t room;
		struct croft_slice in = {fetch_intake_room(intake, &room), (size_t)result}, piece;
		http_body_next(&connection->body, &in, &piece); /* counts: all of it is data */
		intake->receiving = false;
		fetch_answer_large(connection, (size_t)result);
	} else {
		fetch_intake_left(intake);
	}
}

static void received_end(struct fetch_connection *connection, int result)
{
	struct croft_fetcher *fetcher = connection->source->fetcher;
	if (result == 0 && connection->stage == FETCH_BODY && connection->body.until_close) {
		connection->keep = false;
		fetch_answer_finished(connection);
		fetch_store_go(fetcher);
	} else {
		ended(connection, -result, result ? "receiving" : "it closed the connection");
	}
}

static void received(struct ring_event *event, int result, uint32_t flags)
{
	struct fetch_connection *connection = ring_container(event, struct fetch_connection, received);
	struct croft_fetcher *fetcher = connection->source->fetcher;
	connection->receiving = false;
	if (connection->direct)
		received_direct(connection, result);
	else if (result > 0)
		connection->in_end += (size_t)result;
	if (connection->closing) {
		settle(connection);
		fetch_pump(fetcher);
		return;
	}
	if (result <= 0 && result != -EINTR && result != -EAGAIN) {
		received_end(connection, result);
		return;
	}
	if (result > 0) {
		fetch_hedge_received(connection, (size_t)result, !connection->answered);
		connection->answered = true;
		connection->progress += (size_t)result;
		if (connection->progress >= PROGRESS)
			watch(connection);
	}
	fetch_connection_go(connection);
}

/* Sending -------------------------------------------------------------------------------------- */

static void send_rest(struct fetch_connection *connection)
{
	struct io_uring_sqe *sqe = ring_sqe(connection->source->fetcher->ring);
	io_uring_prep_send(sqe, connection->fd, connection->request + connection->request_sent,
		connection->request_size - connection->request_sent, MSG_NOSIGNAL);
	io_uring_sqe_set_data(sqe, &connection->sent);
	connection->sending = true;
}

static void sent(struct ring_event *event, int result, uint32_t flags)
{
	struct fetch_connection *connection = ring_container(event, struct fetch_connection, sent);
	connection->sending = false;
	if (connection->closing) {
		settle(connection);
		return;
	}
	if (result < 0 && result != -EINTR && result != -EAGAIN) {
		ended(connection, -result, "sending");
		return;
	}
	connection->request_sent += result > 0 ? (size_t)result : 0;
	if (connection->request_sent < connection->request_size)
		send_rest(connection);
	else
		fetch_connection_go(connection);
}

static void write_request(struct fetch_connection *connection)
{
	const char *host = connection->source->name;
	struct fetch_wanted *first = connection->asked[0];
	const char *authorization = connection->source->fetcher->authorization;
	const char *prefix = connection->source->fetcher->prefix;
	size_t room = 640 + strlen(host) + strlen(prefix) + strlen(authorization) +
		connection->asked_count * CROFT_DIGEST_TEXT, size;
	if (connection->request_room < room) {
		free(connection->request);
		connection->request = croft_alloc(room);
		connection->request_room = room;
	}
	char *text = connection->request;
	if (connection->recipe) {
		size = (size_t)fetch_recipe_write(connection->recipe, text, room);
	} else if (!connection->batch) {
		char hash[CROFT_HASH_TEXT], range[64] = "";
		croft_hash_format(first->digest.hash, hash);
		if (first->intake && first->intake->received > 0)
			snprintf(range, sizeof(range), "Range: bytes=%" PRIu64 "-\r\n", first->intake->received);
		size = (size_t)snprintf(
			text, room, "GET %s/cas/%s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n", prefix, hash, host,
			authorization, range);
	} else {
		size_t body = 0;
		for (size_t i = 0; i < connection->asked_count; i++) {
			char digest[CROFT_DIGEST_TEXT];
			croft_digest_format(&connection->asked[i]->digest, '-', digest);
			body += strlen(digest) + 1;
		}
		size = (size_t)snprintf(text, room,
			"POST %s/batch HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %zu\r\n\r\n", prefix, host,
			authorization, body);
		for (size_t i = 0; i < connection->asked_count; i++) {
			croft_digest_format(&connection->asked[i]->digest, '-', text + size);
			size += strlen(text + size);
			text[size++] = '\n';
		}
	}
	connection->request_size = size;
	connection->request_sent = 0;
}

void fetch_connection_ask(struct fetch_connection *connection)
{
	struct fetch_source *source = connection->source;
	struct fetch_wanted *first = connection->recipe ? NULL : connection->asked[0];
	connection->busy = true;
	connection->background =
		connection->recipe ? fetch_recipe_is_background(connection->recipe) : first->background;
	source->busy++;
	source->busy_background += connection->background;
	connection->batch = connection->asked_count > 1;
	connection->asked_at = 0;
	connection->line_size = connection->looked = 0;
	connection->skip = connection->got = 0;
	connection->in_blob = connection->answered = false;
	if (first && first->intake)
		first->intake->connection = connection;
	write_request(connection);
	if (connection->stage == FETCH_IDLE) {
		connection->stage = FETCH_HEAD;
		send_rest(connection);
	}
	watch(connection);
	fetch_hedge_begin(connection);
}

void fetch_connection_idle(struct fetch_connection *connection)
{
	connection->asked_count = connection->asked_at = 0;
	fetch_hedge_end(connection);
	not_busy(connection);
	/* Bytes that nobody asked for would be taken for the next answer. */
	if (!connection->keep || connection->in_start < connection->in_end ||
		!connection->source->listed || connection->source->fetcher->stopping) {
		fetch_connection_close(connection, NULL);
		return;
	}
	connection->stage = FETCH_IDLE;
	connection->reused = true;
	watch(connection);
	fetch_pump(connection->source->fetcher);
}

/* Connecting ----------------------------------------------------------------------------------- */

/* The origin must be whom its name says; of peers it is enough to be of the farm, whose authorities signed them. */
static bool begin_tls(struct fetch_connection *connection)
{
	struct fetch_source *source = connection->source;
	char host[256], port[16];
	struct croft_error err = CROFT_ERROR_INIT;
	if (!source->fetcher->tls)
		return true;
	if (!http_split_address(source->name, host, sizeof(host), port, sizeof(port)))
		host[0] = '\0';
	connection->fd =
		tls_relay_begin(source->fetcher->tls, connection->fd, source->index == 0 ? host : NULL, &err);
	if (connection->fd < 0)
		broke(connection, 0, err.message);
	return connection->fd >= 0;
}

static void connected(struct ring_event *event, int result, uint32_t flags)
{
	struct fetch_connection *connection = ring_container(event, struct fetch_connection, connected);
	connection->connecting = false;
	if (connection->closing) {
		settle(connection);
	} else if (result < 0) {
		connection->source->next_address++;
		broke(connection, -result, "connecting");
	} else if (begin_tls(connection)) {
		connection->stage = FETCH_HEAD;
		send_rest(connection);
		watch(connection);
	}
}

static struct fetch_connection *dial(struct fetch_source *source)
{
	struct croft_fetcher *fetcher = source->fetcher;
	unsigned address = source->next_address % source->address_count;
	int on = 1, fd = socket(source->addresses[address].ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		struct croft_error err = CROFT_ERROR_INIT;
		croft_error_errno(&err, errno, "%s: making a socket", source->name);
		fetch_source_failed(source, &err);
		return NULL;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	struct fetch_connection *connection = croft_zalloc(sizeof(*connection));
	connection->source = source;
	connection->fd = fd;
	connection->in = croft_alloc(FETCH_BUFFER);
	connection->address = source->addresses[address];
	connection->address_size = source->address_sizes[address];
	connection->connected.run = connected;
	connection->sent.run = sent;
	connection->received.run = received;
	connection->stall.run = stalled;
	connection->next = source->connections;
	source->connections = connection;
	source->connection_count++;
	fetcher->connection_count++;
	struct io_uring_sqe *sqe = ring_sqe(fetcher->ring);
	io_uring_prep_connect(
		sqe, fd, (struct sockaddr *)&connection->address, connection->address_size);
	io_uring_sqe_set_data(sqe, &connection->connected);
	connection->connecting = true;
	connection->stage = FETCH_CONNECTING;
	return connection;
}

static bool is_alive(const struct fetch_connection *connection)
{
	char byte;
	return recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

struct fetch_connection *fetch_connection_get(struct fetch_source *source)
{
	for (struct fetch_connection *next, *at = source->connections; at; at = next) {
		next = at->next;
		if (at->closing || at->stage != FETCH_IDLE)
			continue;
		if (is_alive(at))
			return at;
		fetch_connection_close(at, NULL);
	}
	return dial(source);
}
