/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/peers.h"

#include "proto/base/cleanup.h"
#include "proto/base/log.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

/* Where this machine is ------------------------------------------------------------------------- */

/* What stands behind the scheme of "grpc://HOST:PORT", or the whole. */
static const char *place_of(const char *server)
{
	const char *scheme = strstr(server, "://");
	return scheme ? scheme + 3 : server;
}

/* "HOST" or "[HOST]" of "HOST:PORT"; its size. */
static size_t host_size(const char *place)
{
	const char *end = strrchr(place, ':');
	return end && !strchr(end, ']') ? (size_t)(end - place) : strlen(place);
}

/* A datagram socket that is connected has its own address, and nothing is sent. */
static bool own_address(const struct addrinfo *to, struct sockaddr_storage *address, socklen_t *size)
{
	CROFT_CLEANUP_FD int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	*size = sizeof(*address);
	return fd >= 0 && connect(fd, to->ai_addr, to->ai_addrlen) == 0 &&
		getsockname(fd, (struct sockaddr *)address, size) == 0;
}

const char *croft_peers_own_host(const char *server, struct croft_arena *arena)
{
	if (strncmp(server, "unix:", 5) == 0)
		return "127.0.0.1";
	const char *place = place_of(server);
	size_t size = host_size(place);
	bool brackets = size > 1 && place[0] == '[' && place[size - 1] == ']';
	char *host = brackets ? croft_arena_strndup(arena, place + 1, size - 2)
						  : croft_arena_strndup(arena, place, size);
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *found;
	/* Any port will do: the route is what counts. */
	if (getaddrinfo(host, "9", &hints, &found) != 0)
		return NULL;
	struct sockaddr_storage address;
	socklen_t address_size;
	char text[NI_MAXHOST];
	bool ok = false;
	for (struct addrinfo *at = found; at && !ok; at = at->ai_next)
		ok = own_address(at, &address, &address_size) &&
			getnameinfo((struct sockaddr *)&address, address_size, text, sizeof(text), NULL, 0,
				NI_NUMERICHOST) == 0;
	freeaddrinfo(found);
	return !ok ? NULL : croft_arena_printf(arena, strchr(text, ':') ? "[%s]" : "%s", text);
}

const char *croft_peers_own_url(const char *listening, int port, const char *server,
	struct croft_arena *arena)
{
	static const char *const wildcards[] = {"", "*", "0.0.0.0", "[::]"};
	const char *host = croft_arena_strndup(arena, listening, host_size(listening));
	for (size_t i = 0; i < sizeof(wildcards) / sizeof(*wildcards); i++)
		if (strcmp(host, wildcards[i]) == 0) {
			host = croft_peers_own_host(server, arena);
			break;
		}
	return host ? croft_arena_printf(arena, "%s:%d", host, port) : "";
}

/* Whom to ask ----------------------------------------------------------------------------------- */

struct peer {
	char *name;
	unsigned jobs;
};

struct croft_peers {
	pthread_mutex_t lock; /* guards: all below; held while the daemon is told, so that the last word
						   * is the newest list */
	struct peer *list;
	size_t count, room;
	bool told; /* the daemon has some */
};

struct croft_peers *croft_peers_create(void)
{
	struct croft_peers *peers = croft_zalloc(sizeof(*peers));
	pthread_mutex_init(&peers->lock, NULL);
	return peers;
}

void croft_peers_destroy(struct croft_peers *peers)
{
	if (!peers)
		return;
	for (size_t i = 0; i < peers->count; i++)
		free(peers->list[i].name);
	free(peers->list);
	pthread_mutex_destroy(&peers->lock);
	free(peers);
}

static struct peer *find(struct croft_peers *peers, const char *name)
{
	for (size_t i = 0; i < peers->count; i++)
		if (strcmp(peers->list[i].name, name) == 0)
			return &peers->list[i];
	return NULL;
}

static void add(struct croft_peers *peers, const char *name)
{
	struct peer *peer = find(peers, name);
	if (!peer) {
		if (peers->count == peers->room) {
			peers->room = peers->room ? 2 * peers->room : 16;
			peers->list = croft_realloc(peers->list, peers->room, sizeof(*peers->list));
		}
		peer = &peers->list[peers->count++];
		*peer = (struct peer){.name = croft_strdup(name)};
	}
	peer->jobs++;
}

static void tell(struct croft_peers *peers, struct croft_daemon *daemon)
{
	CROFT_CLEANUP_FREE const char **names = croft_array(peers->count + 1, sizeof(*names));
	struct croft_error err = CROFT_ERROR_INIT;
	for (size_t i = 0; i < peers->count; i++)
		names[i] = peers->list[i].name;
	if (!croft_daemon_set_peers(daemon, names, peers->count, &err))
		croft_log(CROFT_LOG_WARNING, "no peers are asked for blobs: %s", err.message);
	peers->told = peers->count > 0;
}

void croft_peers_begin(struct croft_peers *peers, struct croft_daemon *daemon, const Farm__Job *job)
{
	CROFT_LOCKED(&peers->lock);
	for (size_t i = 0; i < job->n_peers; i++)
		add(peers, job->peers[i]);
	if (job->n_peers > 0 || peers->told)
		tell(peers, daemon);
}

void croft_peers_end(struct croft_peers *peers, const Farm__Job *job)
{
	CROFT_LOCKED(&peers->lock);
	for (size_t i = 0; i < job->n_peers; i++) {
		struct peer *peer = find(peers, job->peers[i]);
		if (!peer || --peer->jobs > 0)
			continue;
		free(peer->name);
		*peer = peers->list[--peers->count];
	}
}
