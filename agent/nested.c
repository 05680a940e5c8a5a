/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/nested.h"

#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* A gRPC client has one connection, or a few. What a job opens beyond that waits in the socket's queue. */
enum { CONNECTIONS = 32, PIECE = 64 * 1024 };

struct pair {
	struct croft_nested *nested;
	int job, farm;
	bool used;
};

struct croft_nested {
	char *path, *server;
	int listener;
	pthread_t accepter;
	pthread_mutex_t lock; /* guards: pairs, open, stopping */
	pthread_cond_t changed;
	struct pair pairs[CONNECTIONS];
	unsigned open;
	bool stopping;
};

/* The way to the server -------------------------------------------------------------------------- */

static int dial_path(const char *path, struct croft_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(address.sun_path)) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: too long for a socket", path);
		return -1;
	}
	strcpy(address.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	croft_error_errno(err, errno, "connecting to %s", path);
	if (fd >= 0)
		close(fd);
	return -1;
}

static int dial_address(const char *server, struct croft_error *err)
{
	char host[256];
	const char *colon = strrchr(server, ':');
	bool brackets = server[0] == '[' && colon && colon > server && colon[-1] == ']';
	size_t size = colon ? (size_t)(colon - server) - 2 * brackets : sizeof(host);
	if (size >= sizeof(host)) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s is not HOST:PORT", server);
		return -1;
	}
	memcpy(host, server + brackets, size);
	host[size] = '\0';
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	int failed = getaddrinfo(host, colon + 1, &hints, &found), fd = -1;
	if (failed) {
		croft_error_set(err, CROFT_UNAVAILABLE, "%s: %s", server, gai_strerror(failed));
		return -1;
	}
	for (struct addrinfo *at = found; at && fd < 0; at = at->ai_next) {
		fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) == 0)
			break;
		croft_error_errno(err, errno, "connecting to %s", server);
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	if (fd >= 0)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	return fd;
}

static int dial(const char *server, struct croft_error *err)
{
	const char *scheme = strstr(server, "://");
	if (strncmp(server, "unix:", 5) == 0)
		return dial_path(server + 5, err);
	return dial_address(scheme ? scheme + 3 : server, err);
}

/* One connection ----------------------------------------------------------------------------------- */

/* Until one side has no more to say; the other hears of that. */
static void pump(int from, int to)
{
	CROFT_CLEANUP_FREE char *piece = croft_alloc(PIECE);
	for (;;) {
		ssize_t got = recv(from, piece, PIECE, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		for (ssize_t sent, at = 0; at < got; at += sent) {
			sent = send(to, piece + at, (size_t)(got - at), MSG_NOSIGNAL);
			if (sent < 0 && errno == EINTR)
				sent = 0;
			if (sent < 0) {
				shutdown(from, SHUT_RD);
				return;
			}
		}
	}
	shutdown(to, SHUT_WR);
}

static void *answers_thread(void *user)
{
	struct pair *pair = user;
	pump(pair->farm, pair->job);
	return NULL;
}

static void *pair_thread(void *user)
{
	struct pair *pair = user;
	struct croft_nested *nested = pair->nested;
	pthread_t answers;
	if (pthread_create(&answers, NULL, answers_thread, pair) == 0) {
		pump(pair->job, pair->farm);
		pthread_join(answers, NULL);
	}
	CROFT_LOCKED(&nested->lock);
	close(pair->job);
	close(pair->farm);
	pair->used = false;
	nested->open--;
	pthread_cond_broadcast(&nested->changed);
	return NULL;
}

static struct pair *free_pair(struct croft_nested *nested)
{
	while (nested->open == CONNECTIONS && !nested->stopping)
		pthread_cond_wait(&nested->changed, &nested->lock);
	for (unsigned i = 0; i < CONNECTIONS && !nested->stopping; i++)
		if (!nested->pairs[i].used)
			return &nested->pairs[i];
	return NULL;
}

/* Takes both descriptors. */
static void join(struct croft_nested *nested, int job, int farm)
{
	pthread_attr_t detached;
	pthread_t thread;
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	CROFT_LOCKED(&nested->lock);
	struct pair *pair = free_pair(nested);
	if (pair) {
		*pair = (struct pair){.nested = nested, .job = job, .farm = farm, .used = true};
		nested->open++;
	}
	if (!pair || pthread_create(&thread, &detached, pair_thread, pair) != 0) {
		close(job);
		close(farm);
		if (pair) {
			pair->used = false;
			nested->open--;
		}
	}
	pthread_attr_destroy(&detached);
}

static void *accept_thread(void *user)
{
	struct croft_nested *nested = user;
	for (;;) {
		struct croft_error err = CROFT_ERROR_INIT;
		int job = accept4(nested->listener, NULL, NULL, SOCK_CLOEXEC);
		if (job < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (job < 0)
			return NULL; /* stopped, or out of descriptors: what the job asks next is refused */
		int farm = dial(nested->server, &err);
		if (farm >= 0) {
			join(nested, job, farm);
			continue;
		}
		/* The job's client sees the connection end, and may try again. */
		croft_log(CROFT_LOG_WARNING, "a job's call to the farm: %s", err.message);
		close(job);
	}
}

/* ------------------------------------------------------------------------------------------------ */

static bool listen_on(struct croft_nested *nested, struct croft_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(nested->path) >= sizeof(address.sun_path))
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"%s: too long for a socket: give the agent a shorter --state", nested->path);
	strcpy(address.sun_path, nested->path);
	unlink(nested->path);
	nested->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* The job is another user. Only its sandbox, and who may look into the agent's state, gets at the socket. */
	if (nested->listener < 0 ||
		bind(nested->listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
		chmod(nested->path, 0666) != 0 || listen(nested->listener, CONNECTIONS) != 0)
		return croft_error_errno(err, errno, "listening on %s", nested->path);
	return true;
}

static void discard(struct croft_nested *nested)
{
	if (nested->listener >= 0)
		close(nested->listener);
	unlink(nested->path);
	pthread_cond_destroy(&nested->changed);
	pthread_mutex_destroy(&nested->lock);
	free(nested->path);
	free(nested->server);
	free(nested);
}

struct croft_nested *croft_nested_start(const char *path, const char *server, struct croft_error *err)
{
	struct croft_nested *nested = croft_zalloc(sizeof(*nested));
	nested->path = croft_strdup(path);
	nested->server = croft_strdup(server);
	nested->listener = -1;
	pthread_mutex_init(&nested->lock, NULL);
	pthread_cond_init(&nested->changed, NULL);
	int failed = 0;
	if (listen_on(nested, err) &&
		(failed = pthread_create(&nested->accepter, NULL, accept_thread, nested)) == 0)
		return nested;
	if (failed)
		croft_error_errno(err, failed, "starting a thread for a job's calls");
	discard(nested);
	return NULL;
}

void croft_nested_stop(struct croft_nested *nested)
{
	if (!nested)
		return;
	pthread_mutex_lock(&nested->lock);
	nested->stopping = true;
	pthread_cond_broadcast(&nested->changed);
	pthread_mutex_unlock(&nested->lock);
	shutdown(nested->listener, SHUT_RDWR); /* ends accept4 */
	pthread_join(nested->accepter, NULL);
	pthread_mutex_lock(&nested->lock);
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		if (!nested->pairs[i].used)
			continue;
		shutdown(nested->pairs[i].job, SHUT_RDWR);
		shutdown(nested->pairs[i].farm, SHUT_RDWR);
	}
	while (nested->open > 0)
		pthread_cond_wait(&nested->changed, &nested->lock);
	pthread_mutex_unlock(&nested->lock);
	discard(nested);
}
