/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Answers on the daemon's socket: a thread per connection, of which an agent has few. */
#include "fs/daemon/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum { CONNECTIONS_AT_MOST = 256, COPY_BYTES = 1 << 20 };

struct connection {
	struct server *server;
	int socket;
	pthread_t thread;
	bool ended;
	struct connection *next;
};

struct server {
	struct server_config config;
	int listen_fd, wake_fd;
	pthread_t thread;
	pthread_mutex_t lock; /* guards: connections and their `ended`, origin, all below */
	char *origin; /* where it went since the daemon started; NULL: nowhere else */
	struct connection *connections;
	unsigned count;
	int successor;     /* the socket of the process that wants to take over; -1 */
	uint64_t idle_ns;  /* since when there is no connection */
	bool ending;       /* server_end was called */
};

/* Operations ---------------------------------------------------------------------------------- */

static void say_hello(struct server *server, struct daemon_answer *answer)
{
	const struct server_config *config = &server->config;
	answer->hello.pid = getpid();
	answer->hello.plane_port = config->plane ? croft_plane_port(config->plane) : -1;
	answer->hello.staging =
		config->stager ? stager_staging(config->stager) : CROFT_STAGING_FUSE;
	answer->hello.standins = config->standins != NULL;
	snprintf(answer->hello.mountpoint, sizeof(answer->hello.mountpoint), "%s", config->mountpoint);
	daemon_build_text(answer->hello.build);
	CROFT_LOCKED(&server->lock);
	struct croft_daemon_config current = *config->config;
	if (server->origin)
		current.origin = server->origin;
	if (!server->ending)
		daemon_config_text(&current, answer->hello.config);
}

static bool adopt(struct server *server, const struct croft_digest *digest, int fd,
	struct croft_error *err)
{
	bool missing;
	if (!croft_store_find_missing(server->config.store, digest, 1, &missing, err))
		return false;
	if (!missing)
		return true;
	if (fd < 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "no file to adopt was passed");
	struct croft_store_writer *writer = croft_store_write(server->config.store, digest, err);
	if (!writer)
		return false;
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(COPY_BYTES);
	for (uint64_t offset = 0;;) {
		ssize_t got = pread(fd, buffer, COPY_BYTES, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			croft_error_errno(err, errno, "reading the file to adopt");
		if (got == 0)
			return croft_store_writer_commit(writer, err);
		if (got < 0 || !croft_store_writer_append(writer, buffer, (size_t)got, err))
			break;
		offset += (uint64_t)got;
	}
	croft_store_writer_abort(writer);
	return false;
}

static bool set_peers(struct server *server, const struct daemon_request *request,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	size_t count = 0, at = 0;
	if (request->peer_count > request->text_size)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "malformed list of peers");
	const char **peers = croft_arena_array(arena, request->peer_count + 1, sizeof(*peers));
	for (; count < request->peer_count && at < request->text_size; count++) {
		size_t size = strnlen(request->text + at, request->text_size - at);
		peers[count] = croft_arena_strndup(arena, request->text + at, size);
		at += size + 1;
	}
	if (count != request->peer_count)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "malformed list of peers");
	if (server->config.fetcher)
		croft_fetcher_set_peers(server->config.fetcher, peers, count);
	return true;
}

static bool set_origin(struct server *server, const struct daemon_request *request,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char *origin = croft_arena_strndup(arena, request->text, request->text_size);
	if (!server->config.fetcher)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION, "nothing is fetched from anywhere");
	if (!croft_fetcher_set_origin(server->config.fetcher, origin, err))
		return false;
	CROFT_LOCKED(&server->lock);
	free(server->origin);
	server->origin = croft_strdup(origin);
	return true;
}

static bool stage(struct server *server, const struct croft_digest *root,
	struct daemon_answer *answer, struct croft_error *err)
{
	struct gathered gathered = {0};
	if (!server->config.stager) {
		if (!standins_find(server->config.standins, root, answer->staged.path))
			answer->staged.path[0] = '\0';
		return true;
	}
	bool ok = stager_stage(server->config.stager, root, answer->staged.path, &gathered, err);
	answer->staged.fetched_files = gathered.files;
	answer->staged.fetched_bytes = gathered.bytes;
	return ok;
}

static bool no_account(struct croft_error *err)
{
	return croft_error_set(err, CROFT_NOT_FOUND, "no account was begun for this pid namespace");
}

/* Without a mount no read of a job's causes a fetch. */
static bool account(struct server *server, const struct daemon_request *request,
	struct daemon_answer *answer, struct croft_error *err)
{
	struct croft_mount *mount = server->config.mount;
	bool ok = true;
	if (!mount)
		return true;
	if (request->op == OP_ACCOUNT_BEGIN)
		croft_mount_account_begin(mount, request->pid_namespace);
	else if (request->op == OP_ACCOUNT_READ)
		ok = croft_mount_account_read(mount, request->pid_namespace, &answer->account);
	else
		ok = croft_mount_account_end(mount, request->pid_namespace, &answer->account);
	return ok || no_account(err);
}

static bool perform(struct server *server, const struct daemon_request *request, int passed_fd,
	struct daemon_answer *answer, struct croft_error *err)
{
	const struct server_config *config = &server->config;
	switch (request->op) {
	case OP_STOP:
		return true; /* once it is answered */
	case OP_HELLO:
		say_hello(server, answer);
		return true;
	case OP_ACCOUNT_BEGIN:
	case OP_ACCOUNT_READ:
	case OP_ACCOUNT_END:
		return account(server, request, answer, err);
	case OP_STAGE:
		return stage(server, &request->digest, answer, err);
	case OP_ADOPT:
		return adopt(server, &request->digest, passed_fd, err);
	case OP_SET_PEERS:
		return set_peers(server, request, err);
	case OP_SET_ORIGIN:
		return set_origin(server, request, err);
	case OP_MEASURE:
		return measurer_measure(config->measurer, &request->digest, &answer->totals, err);
	case OP_PRESENT:
		return present_bytes(config->store, &request->digest, request->is_directory,
			&answer->present_bytes, err);
	case OP_PREFETCH:
		return prefetch_begin(config->prefetcher, request->pid_namespace, passed_fd, err);
	case OP_TOUCHED:
		return prefetch_end(config->prefetcher, request->pid_namespace, &request->digest,
			passed_fd, request->list_size, &answer->touched.prefetch,
			&answer->touched.range_count, err);
	case OP_STAT:
		croft_store_stat(config->store, &answer->stat.store);
		if (config->fetcher)
			croft_fetch_stat(config->fetcher, &answer->stat.fetch);
		if (config->plane) {
			struct croft_plane_stat plane;
			croft_plane_stat(config->plane, &plane);
			answer->stat.served_bytes = plane.bytes_sent;
		}
		return true;
	default:
		return croft_error_set(err, CROFT_UNIMPLEMENTED, "no such operation: %u", request->op);
	}
}

/* The connection becomes the successor's; no answer is given yet. False when that cannot be: it is refused. */
static bool take_successor(struct connection *connection)
{
	struct server *server = connection->server;
	const char *reason = server->config.mount ? NULL : "it has no mount";
	pthread_mutex_lock(&server->lock);
	if (!reason && server->ending)
		reason = "it is ending";
	if (!reason && server->successor >= 0)
		reason = "it is handing over to another already";
	if (!reason)
		reason = croft_mount_bound(server->config.mount);
	if (!reason) {
		server->successor = connection->socket;
		connection->socket = -1;
	}
	pthread_mutex_unlock(&server->lock);
	if (reason)
		hand_over_refuse(connection->socket, reason);
	else
		eventfd_write(server->config.stop_fd, 1);
	return !reason;
}

/* False: the connection is at its end. */
static bool serve_one(struct connection *connection, struct daemon_request *request,
	struct daemon_answer *answer)
{
	struct croft_error err = CROFT_ERROR_INIT;
	CROFT_CLEANUP_FD int passed_fd = -1;
	if (!daemon_receive_request(connection->socket, request, &passed_fd, &err)) {
		if (err.code == CROFT_INVALID_ARGUMENT)
			croft_log(CROFT_LOG_WARNING, "an agent sent %s", err.message);
		return false;
	}
	if (request->op == OP_HAND_OVER)
		return !take_successor(connection);
	memset(answer, 0, sizeof(*answer));
	answer->version = DAEMON_VERSION;
	if (request->version != DAEMON_VERSION && request->op != OP_STOP)
		croft_error_set(&answer->error, CROFT_FAILED_PRECONDITION,
			"the filesystem daemon is of version %d", DAEMON_VERSION);
	else if (!perform(connection->server, request, passed_fd, answer, &err))
		answer->error = err;
	/* Its fetcher was stopped: another daemon may do it. */
	if (answer->error.code == CROFT_CANCELLED)
		answer->error.code = CROFT_UNAVAILABLE;
	bool ok = daemon_send_answer(connection->socket, answer, NULL);
	if (request->op == OP_STOP)
		eventfd_write(connection->server->config.stop_fd, 1);
	return ok;
}

static void *serve(void *user)
{
	struct connection *connection = user;
	struct server *server = connection->server;
	struct daemon_request *request = croft_alloc(sizeof(*request));
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	while (serve_one(connection, request, answer))
		;
	free(request);
	free(answer);
	pthread_mutex_lock(&server->lock);
	connection->ended = true;
	pthread_mutex_unlock(&server->lock);
	eventfd_write(server->wake_fd, 1);
	return NULL;
}

/* Connections --------------------------------------------------------------------------------- */

/* Takes those that ended (or all, waiting for their end) out of the list and joins them. */
static void join_connections(struct server *server, bool all, bool keep_open)
{
	struct connection *ended = NULL;
	pthread_mutex_lock(&server->lock);
	for (struct connection **link = &server->connections, *connection; (connection = *link);) {
		if (!connection->ended && !all) {
			link = &connection->next;
			continue;
		}
		*link = connection->next;
		connection->next = ended;
		ended = connection;
		server->count--;
	}
	if (ended && !server->connections)
		server->idle_ns = croft_now_ns();
	pthread_mutex_unlock(&server->lock);
	for (struct connection *connection = ended, *next; connection; connection = next) {
		next = connection->next;
		/* What is being done is still answered. */
		if (connection->socket >= 0)
			shutdown(connection->socket, SHUT_RD);
		pthread_join(connection->thread, NULL);
		if (!keep_open && connection->socket >= 0)
			close(connection->socket);
		free(connection);
	}
}

static bool is_allowed(int socket)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);
	return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
		(peer.uid == 0 || peer.uid == geteuid());
}

static void accept_connection(struct server *server)
{
	int socket = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (socket < 0)
		return;
	if (server->count >= CONNECTIONS_AT_MOST || !is_allowed(socket)) {
		close(socket);
		return;
	}
	struct connection *connection = croft_zalloc(sizeof(*connection));
	connection->server = server;
	connection->socket = socket;
	pthread_mutex_lock(&server->lock);
	int result = pthread_create(&connection->thread, NULL, serve, connection);
	if (result == 0) {
		pthread_setname_np(connection->thread, "fs-agent");
		connection->next = server->connections;
		server->connections = connection;
		server->count++;
	}
	pthread_mutex_unlock(&server->lock);
	if (result != 0) {
		croft_log(CROFT_LOG_ERROR, "starting a thread for an agent: %s", strerror(result));
		close(socket);
		free(connection);
	}
}

static void *accept_all(void *user)
{
	struct server *server = user;
	struct pollfd polled[] = {
		{.fd = server->listen_fd, .events = POLLIN},
		{.fd = server->wake_fd, .events = POLLIN},
	};
	for (;;) {
		if (poll(polled, 2, -1) < 0)
			continue;
		if (polled[1].revents) {
			eventfd_t value;
			eventfd_read(server->wake_fd, &value);
			if (value >= UINT32_MAX)
				return NULL;
			join_connections(server, false, false);
		}
		if (polled[0].revents)
			accept_connection(server);
	}
}

struct server *server_start(const struct server_config *config, int listen_fd,
	struct croft_error *err)
{
	struct server *server = croft_zalloc(sizeof(*server));
	server->config = *config;
	server->listen_fd = listen_fd;
	server->successor = -1;
	server->idle_ns = croft_now_ns();
	pthread_mutex_init(&server->lock, NULL);
	server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int result = server->wake_fd < 0
		? errno : pthread_create(&server->thread, NULL, accept_all, server);
	if (result == 0) {
		pthread_setname_np(server->thread, "fs-accept");
		return server;
	}
	croft_error_errno(err, result, "starting to listen");
	if (server->wake_fd >= 0)
		close(server->wake_fd);
	pthread_mutex_destroy(&server->lock);
	free(server);
	return NULL;
}

void server_stop(struct server *server, bool keep_open)
{
	if (!server)
		return;
	eventfd_write(server->wake_fd, UINT32_MAX);
	pthread_join(server->thread, NULL);
	join_connections(server, true, keep_open);
	close(server->wake_fd);
	pthread_mutex_destroy(&server->lock);
	free(server->origin);
	free(server);
}

uint64_t server_idle_ms(struct server *server)
{
	CROFT_LOCKED(&server->lock);
	return server->connections ? 0 : (croft_now_ns() - server->idle_ns) / 1000000;
}

int server_successor(struct server *server)
{
	CROFT_LOCKED(&server->lock);
	int socket = server->successor;
	server->successor = -1;
	return socket;
}

void server_end(struct server *server)
{
	CROFT_LOCKED(&server->lock);
	server->ending = true;
}
