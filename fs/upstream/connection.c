/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/upstream/connection.h"

#include "fs/http/http.h"
#include "fs/tls/relay.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>

enum { BUFFER = 64 * 1024, IDLE = 16, DRAIN_MOST = 64 * 1024, TLS_THREADS = 2 };

struct connection {
	struct connection *next;
	int fd;
	bool used; /* it has answered before */
	bool keep; /* for another request */
	size_t start, end; /* of what is in the buffer */
	char buffer[BUFFER];
};

struct upstream_host {
	char address[300]; /* for the Host field */
	char name[256], port[16];
	unsigned timeout_ms;
	struct tls_relay *tls; /* NULL: in clear text */
	pthread_mutex_t lock; /* guards: idle, idle_count */
	struct connection *idle;
	unsigned idle_count;
};

static bool fail(const struct upstream_host *host, int number, const char *what,
	struct croft_error *err)
{
	if (number == EAGAIN || number == EINPROGRESS)
		return croft_error_set(
			err, CROFT_UNAVAILABLE, "%s: %s took too long", host->address, what);
	if (number)
		croft_error_errno(err, number, "%s: %s", host->address, what);
	else
		croft_error_set(err, CROFT_UNAVAILABLE, "%s: %s", host->address, what);
	err->code = CROFT_UNAVAILABLE;
	return false;
}

/* Connections ---------------------------------------------------------------------------------- */

static void connection_close(struct connection *connection)
{
	close(connection->fd);
	free(connection);
}

/* The send timeout is connect's, too. */
static void bound_waits(const struct upstream_host *host, int fd)
{
	struct timeval timeout = {host->timeout_ms / 1000, (long)(host->timeout_ms % 1000) * 1000};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
}

static int dial_one(struct upstream_host *host, const struct addrinfo *address)
{
	int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	if (fd < 0)
		return -1;
	bound_waits(host, fd);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, address->ai_addr, address->ai_addrlen) == 0)
		return fd;
	int failure = errno;
	close(fd);
	errno = failure;
	return -1;
}

static struct connection *dial(struct upstream_host *host, struct croft_error *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *addresses;
	int fd = -1, failure = getaddrinfo(host->name, host->port, &hints, &addresses);
	if (failure) {
		croft_error_set(err, CROFT_UNAVAILABLE, "%s: %s", host->address, gai_strerror(failure));
		return NULL;
	}
	for (struct addrinfo *at = addresses; at && fd < 0; at = at->ai_next)
		fd = dial_one(host, at);
	failure = errno;
	freeaddrinfo(addresses);
	if (fd < 0) {
		fail(host, failure, "connecting", err);
		return NULL;
	}
	if (host->tls) {
		fd = tls_relay_begin(host->tls, fd, host->name, err);
		if (fd < 0)
			return NULL;
		bound_waits(host, fd);
	}
	struct connection *connection = croft_alloc(sizeof(*connection));
	connection->next = NULL;
	connection->fd = fd;
	connection->used = false;
	connection->start = connection->end = 0;
	return connection;
}

static struct connection *take_idle(struct upstream_host *host)
{
	for (;;) {
		pthread_mutex_lock(&host->lock);
		struct connection *connection = host->idle;
		if (connection) {
			host->idle = connection->next;
			host->idle_count--;
		}
		pthread_mutex_unlock(&host->lock);
		char byte;
		if (!connection || (recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
							   errno == EAGAIN))
			return connection;
		connection_close(connection); /* the other side has ended it */
	}
}

static void give_back(struct upstream_host *host, struct connection *connection)
{
	connection->used = true;
	CROFT_LOCKED(&host->lock);
	if (!connection->keep || connection->start < connection->end || host->idle_count == IDLE) {
		connection_close(connection);
		return;
	}
	connection->next = host->idle;
	host->idle = connection;
	host->idle_count++;
}

struct upstream_host *upstream_host_create(const char *address, const struct croft_tls *tls, unsigned timeout_ms,
	struct croft_error *err)
{
	struct upstream_host *host = croft_zalloc(sizeof(*host));
	char with_port[300];
	snprintf(host->address, sizeof(host->address), "%s", address);
	host->timeout_ms = timeout_ms;
	pthread_mutex_init(&host->lock, NULL);
	const char *colon = strrchr(address, ':');
	bool has_port = colon && !strchr(colon, ']');
	snprintf(with_port, sizeof(with_port), "%s%s", address, has_port ? "" : tls ? ":443" : ":80");
	if (strlen(address) >= sizeof(with_port) - 5 || strchr(address, '@') ||
		!http_split_address(
			with_port, host->name, sizeof(host->name), host->port, sizeof(host->port)) ||
		!host->name[0])
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "'%s' is no HOST:PORT", address);
	else if (!tls || (host->tls = tls_relay_start("upstream-tls", tls, false, TLS_THREADS, err)))
		return host;
	upstream_host_destroy(host);
	return NULL;
}

void upstream_host_destroy(struct upstream_host *host)
{
	if (!host)
		return;
	while (host->idle) {
		struct connection *connection = host->idle;
		host->idle = connection->next;
		connection_close(connection);
	}
	tls_relay_stop(host->tls);
	pthread_mutex_destroy(&host->lock);
	free(host);
}

const char *upstream_host_address(const struct upstream_host *host)
{
	return host->address;
}

/* Requests ------------------------------------------------------------------------------------- */

static bool send_all(struct upstream_host *host, struct connection *connection, const void *data,
	size_t size, int flags, struct croft_error *err)
{
	for (size_t at = 0; at < size;) {
		ssize_t done = send(
			connection->fd, (const char *)data + at, size - at, MSG_NOSIGNAL | flags);
		if (done >= 0)
			at += (size_t)done;
		else if (errno != EINTR)
			return fail(host, errno, "sending", err);
	}
	return true;
}

static bool send_request(struct upstream_host *host, struct connection *connection,
	const struct upstream_request *request, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char *length = request->give
		? croft_arena_printf(arena, "Content-Length: %" PRIu64 "\r\n"
			"Content-Type: application/octet-stream\r\n", request->body_size) : "";
	const char *head = croft_arena_printf(arena, "%s %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n",
		request->method, request->path, host->address, length, request->fields ? request->fields : "");
	if (!send_all(host, connection, head, strlen(head), request->give ? MSG_MORE : 0, err))
		return false;
	if (!request->give)
		return true;
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(BUFFER);
	for (uint64_t at = 0; at < request->body_size;) {
		uint64_t left = request->body_size - at;
		ssize_t size =
			request->give(request->user, buffer, left < BUFFER ? (size_t)left : BUFFER, at);
		if (size <= 0)
			return fail(host, 0, "the body to be sent cannot be read", err);
		if (!send_all(host, connection, buffer, (size_t)size, 0, err))
			return false;
		at += (uint64_t)size;
	}
	return true;
}

/* 1: more bytes; 0: the other side has ended; -1: failed. */
static int receive(struct upstream_host *host, struct connection *connection,
	struct croft_error *err)
{
	if (connection->start > 0) {
		memmove(connection->buffer, connection->buffer + connection->start,
			connection->end - connection->start);
		connection->end -= connection->start;
		connection->start = 0;
	}
	for (;;) {
		ssize_t size =
			recv(connection->fd, connection->buffer + connection->end, BUFFER - connection->end, 0);
		if (size > 0) {
			connection->end += (size_t)size;
			return 1;
		}
		if (size == 0)
			return 0;
		if (errno != EINTR) {
			fail(host, errno, "receiving", err);
			return -1;
		}
	}
}

static bool read_head(struct upstream_host *host, struct connection *connection,
	struct http_head *head, struct croft_error *err)
{
	size_t looked = 0;
	for (;;) {
		struct croft_slice in = {
			connection->buffer + connection->start, connection->end - connection->start};
		ssize_t size = http_head_size(in, &looked);
		if (size < 0 || (size > 0 && !http_parse_answer(CROFT_SLICE(in.data, (size_t)size), head)))
			return fail(host, 0, "a malformed answer", err);
		connection->start += (size_t)size;
		if (size > 0 && head->status >= 200)
			return true;
		if (size > 0)
			looked = 0; /* "100 Continue" */
		else
			switch (receive(host, connection, err)) {
			case 0: return fail(host, 0, "it ended the connection", err);
			case -1: return false;
			}
	}
}

/* False: failed. What is not wanted is swallowed, if it is little. */
static bool read_body(struct upstream_host *host, struct connection *connection,
	struct http_body *body, struct upstream_request *request, bool wanted, struct croft_error *err)
{
	uint64_t swallowed = 0;
	for (;;) {
		struct croft_slice in = {
			connection->buffer + connection->start, connection->end - connection->start}, piece;
		enum http_step step = http_body_next(body, &in, &piece);
		connection->start = connection->end - in.size;
		if (step == HTTP_END) {
			request->complete = wanted;
			return true;
		}
		if (step == HTTP_BAD)
			return fail(host, 0, "malformed chunks", err);
		if (step == HTTP_DATA && wanted)
			wanted = request->take(request->user, piece);
		else if (step == HTTP_DATA)
			swallowed += piece.size;
		if (swallowed > DRAIN_MOST) {
			connection->keep = false;
			return true;
		}
		if (step != HTTP_MORE)
			continue;
		int got = receive(host, connection, err);
		if (got < 0)
			return false;
		if (got == 0 && !body->until_close)
			return fail(host, 0, "the answer ends early", err);
		if (got == 0) {
			connection->keep = false;
			request->complete = wanted;
			return true;
		}
	}
}

static bool read_answer(struct upstream_host *host, struct connection *connection,
	struct upstream_request *request, int *status, struct croft_error *err)
{
	struct http_head head;
	struct http_body body;
	if (!read_head(host, connection, &head, err))
		return false;
	*status = head.status;
	connection->keep = head.keep_alive;
	http_body_init_answer(&body, &head, strcmp(request->method, "HEAD") == 0);
	struct upstream_answer answer = {
		head.status, head.has_length, head.length, head.is_zstd || head.unknown_coding};
	bool wanted = request->begin && request->begin(request->user, &answer);
	return read_body(host, connection, &body, request, wanted, err);
}

/* An old connection may have been ended by the other side just as it was to be used again; then
 * nothing has come, and a new one is worth a try. */
bool upstream_ask(struct upstream_host *host, struct upstream_request *request, int *status,
	struct croft_error *err)
{
	for (;;) {
		struct connection *connection = take_idle(host);
		if (!connection && !(connection = dial(host, err)))
			return false;
		*err = CROFT_ERROR_INIT;
		request->complete = false;
		*status = 0;
		/* One that refuses a body says so without having read it all. */
		bool sent = send_request(host, connection, request, err);
		if ((sent || connection->end > connection->start || request->give) &&
			read_answer(host, connection, request, status, sent ? err : &(struct croft_error){0})) {
			connection->keep &= sent;
			give_back(host, connection);
			return true;
		}
		bool again = connection->used && *status == 0;
		connection_close(connection);
		if (!again)
			return false;
	}
}
