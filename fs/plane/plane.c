/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting, accepting, stopping. */
#include "fs/plane/internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { WORKERS = 6, IDLE_MS = 60000, CONNECTIONS = 4096, BACKLOG = 1024, RECEIVE_BUFFERS = 64 };
enum { AGAIN_MS = 100, TLS_THREADS = 4 };

/* Accepting ------------------------------------------------------------------------------------ */

void plane_accept(struct croft_plane *plane)
{
	if (plane->accepting || plane->stopping || plane->again.set)
		return;
	struct io_uring_sqe *sqe = ring_sqe(plane->ring);
	plane->full = plane->connections >= plane->config.connections;
	if (plane->full)
		io_uring_prep_poll_add(sqe, plane->listen_fd, POLLIN);
	else
		io_uring_prep_accept(sqe, plane->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	io_uring_sqe_set_data(sqe, &plane->accepted);
	plane->accepting = true;
}

static void accept_again(struct ring_timer *timer)
{
	plane_accept(ring_container(timer, struct croft_plane, again));
}

/* For somebody who waits; when nobody is idle, or until there is room again. */
static void make_room(struct croft_plane *plane)
{
	plane_close_an_idle_one(plane);
	ring_timer_set(plane->ring, &plane->again,
		ring_now_ns(plane->ring) + AGAIN_MS * UINT64_C(1000000));
}

static void take(struct croft_plane *plane, int fd)
{
	int on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* Without descriptors for it the client is turned away, as a full listen queue would. */
	if (plane->tls && (fd = tls_relay_begin(plane->tls, fd, NULL, NULL)) < 0)
		return;
	plane_connection_start(plane, fd);
}

static void accepted(struct ring_event *event, int result, uint32_t flags)
{
	struct croft_plane *plane = ring_container(event, struct croft_plane, accepted);
	plane->accepting = false;
	if (plane->stopping) {
		if (result >= 0 && !plane->full)
			close(result);
		if (plane->connections == 0)
			ring_quit(plane->ring);
		return;
	}
	if (plane->full ? plane->connections >= plane->config.connections
					: result == -EMFILE || result == -ENFILE || result == -ENOMEM ||
						  result == -ENOBUFS)
		make_room(plane);
	else if (result >= 0 && !plane->full)
		take(plane, result);
	plane_accept(plane);
}

/* Starting ------------------------------------------------------------------------------------- */

static bool listen_on(struct croft_plane *plane, const struct addrinfo *address,
	struct croft_error *err)
{
	const char *text = plane->config.address;
	int on = 1;
	plane->listen_fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (plane->listen_fd < 0)
		return croft_error_errno(err, errno, "%s: making a socket", text);
	setsockopt(plane->listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(plane->listen_fd, address->ai_addr, address->ai_addrlen) < 0 ||
		listen(plane->listen_fd, BACKLOG) < 0)
		return croft_error_errno(err, errno, "%s: listening", text);
	struct sockaddr_storage bound;
	socklen_t size = sizeof(bound);
	if (getsockname(plane->listen_fd, (struct sockaddr *)&bound, &size) < 0)
		return croft_error_errno(err, errno, "%s: its port", text);
	plane->port = ntohs(bound.ss_family == AF_INET6
							? ((struct sockaddr_in6 *)&bound)->sin6_port
							: ((struct sockaddr_in *)&bound)->sin_port);
	return true;
}

static bool open_listener(struct croft_plane *plane, struct croft_error *err)
{
	char host[256], port[16];
	if (!http_split_address(plane->config.address, host, sizeof(host), port, sizeof(port)))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"'%s' is not an address to listen on, such as 127.0.0.1:8981 or [::]:8981",
			plane->config.address);
	struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *addresses;
	int failure = getaddrinfo(host[0] ? host : NULL, port, &hints, &addresses);
	if (failure)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: %s", plane->config.address,
			gai_strerror(failure));
	bool ok = listen_on(plane, addresses, err);
	freeaddrinfo(addresses);
	return ok;
}

struct starting {
	struct ring_post post;
	struct croft_plane *plane;
	sem_t done;
	bool ok;
	struct croft_error err;
};

static void begin(struct ring_post *post)
{
	struct starting *starting = ring_container(post, struct starting, post);
	struct croft_plane *plane = starting->plane;
	starting->ok = ring_provide_buffers(
		plane->ring, RECEIVE_BUFFERS, PLANE_RECEIVE, &starting->err);
	if (starting->ok)
		plane_accept(plane);
	else
		ring_quit(plane->ring);
	sem_post(&starting->done);
}

static bool start_ring(struct croft_plane *plane, struct croft_error *err)
{
	plane->ring = ring_start("croft-plane", WORKERS, err);
	if (!plane->ring)
		return false;
	struct starting starting = {.post.run = begin, .plane = plane};
	sem_init(&starting.done, 0, 0);
	ring_post(plane->ring, &starting.post);
	while (sem_wait(&starting.done) < 0)
		;
	sem_destroy(&starting.done);
	if (!starting.ok && err)
		*err = starting.err;
	return starting.ok;
}

static void discard(struct croft_plane *plane)
{
	ring_destroy(plane->ring);
	tls_relay_stop(plane->tls);
	plane_kept_close(plane);
	if (plane->listen_fd >= 0)
		close(plane->listen_fd);
	plane_request_free_spares(plane);
	free(plane->instance_name);
	free(plane);
}

static bool start_tls(struct croft_plane *plane, const struct croft_tls *tls, struct croft_error *err)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	plane->config.tls = NULL; /* the relay has read it */
	if (tls)
		plane->tls = tls_relay_start(
			"croft-tls", tls, true, processors < TLS_THREADS ? (unsigned)processors : TLS_THREADS, err);
	return !tls || plane->tls;
}

struct croft_plane *croft_plane_start(const struct croft_plane_config *config,
	struct croft_error *err)
{
	struct croft_plane *plane = croft_zalloc(sizeof(*plane));
	plane->config = *config;
	plane->instance_name = croft_strdup(config->instance_name ? config->instance_name : "");
	plane->config.connections = config->connections ? config->connections : CONNECTIONS;
	plane->idle_ns = (config->idle_ms ? config->idle_ms : IDLE_MS) * UINT64_C(1000000);
	plane->listen_fd = -1;
	plane->config.key = plane->config.full_key = NULL; /* they are in `authorization` and `full_authorization` */
	plane->accepted.run = accepted;
	plane->again.run = accept_again;
	plane->last_turn = &plane->turns;
	bool ok = (http_key_authorization(config->key, plane->authorization) &&
				  http_key_authorization(config->full_key, plane->full_authorization)) ||
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the blob plane's key is longer than %d characters", HTTP_KEY_MAX);
	if (ok && start_tls(plane, config->tls, err) && open_listener(plane, err) && start_ring(plane, err))
		return plane;
	discard(plane);
	return NULL;
}

/* Stopping ------------------------------------------------------------------------------------- */

static void stop(struct ring_post *post)
{
	struct croft_plane *plane = ring_container(post, struct croft_plane, stop);
	plane->stopping = true;
	ring_timer_clear(plane->ring, &plane->timer);
	ring_timer_clear(plane->ring, &plane->stalled);
	ring_timer_clear(plane->ring, &plane->again);
	ring_timer_clear(plane->ring, &plane->forget);
	ring_cancel(plane->ring, plane->listen_fd);
	for (struct plane_connection *next, *at = plane->first; at; at = next) {
		next = at->next;
		plane_connection_close(at);
	}
	if (plane->connections == 0 && !plane->accepting)
		ring_quit(plane->ring);
}

void croft_plane_stop(struct croft_plane *plane)
{
	if (!plane)
		return;
	plane->stop.run = stop;
	ring_post(plane->ring, &plane->stop);
	discard(plane);
}

int croft_plane_port(const struct croft_plane *plane)
{
	return plane->port;
}

void croft_plane_stat(const struct croft_plane *plane, struct croft_plane_stat *stat)
{
	stat->connections = __atomic_load_n(&plane->stat.connections, __ATOMIC_RELAXED);
	stat->requests = __atomic_load_n(&plane->stat.requests, __ATOMIC_RELAXED);
	stat->bytes_sent = __atomic_load_n(&plane->stat.bytes_sent, __ATOMIC_RELAXED);
	stat->bytes_received = __atomic_load_n(&plane->stat.bytes_received, __ATOMIC_RELAXED);
}
