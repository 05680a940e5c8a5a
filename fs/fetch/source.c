/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where blobs come from: addresses, and how far each source is trusted to answer. */
#include "fs/fetch/internal.h"

#include "proto/base/arena.h"
#include "proto/base/log.h"

#include <netdb.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { BACKOFF_MS = 50, BACKOFF_DOUBLINGS = 6 };

/* Names ---------------------------------------------------------------------------------------- */

static void resolve_work(struct ring_work *work)
{
	struct fetch_source *source = ring_container(work, struct fetch_source, resolve);
	char host[256], port[16];
	source->found = NULL;
	source->resolve_error = CROFT_ERROR_INIT;
	if (!http_split_address(source->name, host, sizeof(host), port, sizeof(port)) || !host[0]) {
		croft_error_set(&source->resolve_error, CROFT_INVALID_ARGUMENT,
			"'%s' is no address of a blob plane (host:port)", source->name);
		return;
	}
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	int failure = getaddrinfo(host, port, &hints, &source->found);
	if (failure)
		croft_error_set(&source->resolve_error, CROFT_UNAVAILABLE, "%s: %s", source->name,
			gai_strerror(failure));
}

static void take_addresses(struct fetch_source *source)
{
	source->next_address = 0;
	source->address_count = 0;
	for (struct addrinfo *at = source->found; at; at = at->ai_next) {
		if (source->address_count == FETCH_ADDRESSES)
			break;
		memcpy(&source->addresses[source->address_count], at->ai_addr, at->ai_addrlen);
		source->address_sizes[source->address_count++] = at->ai_addrlen;
	}
}

static void resolved(struct ring_work *work)
{
	struct fetch_source *source = ring_container(work, struct fetch_source, resolve);
	struct croft_fetcher *fetcher = source->fetcher;
	source->resolving = false;
	fetcher->works--;
	if (source->index == 0 && fetcher->moved_origin)
		fetch_origin_move(fetcher);
	else if (source->resolve_error.code == CROFT_OK)
		take_addresses(source);
	else
		fetch_source_failed(source, &source->resolve_error);
	if (source->found)
		freeaddrinfo(source->found);
	source->found = NULL;
	fetch_pump(fetcher);
	fetch_settle(fetcher);
}

void fetch_source_resolve(struct fetch_source *source)
{
	if (source->resolving || source->fetcher->stopping)
		return;
	source->resolving = true;
	source->fetcher->works++;
	source->resolve.work = resolve_work;
	source->resolve.done = resolved;
	ring_work(source->fetcher->ring, &source->resolve);
}

void fetch_origin_move(struct croft_fetcher *fetcher)
{
	struct fetch_source *origin = &fetcher->sources[0];
	if (origin->resolving || fetcher->stopping)
		return;
	char *name = fetcher->moved_origin;
	fetcher->moved_origin = NULL;
	if (strcmp(name, origin->name) == 0) {
		free(name);
		return;
	}
	free(origin->name);
	origin->name = name;
	origin->address_count = origin->next_address = 0;
	origin->failures = 0;
	origin->ready_ns = 0;
	origin->no_batch = false;
	__atomic_store_n(&fetcher->answer_ns, 0, __ATOMIC_RELAXED);
	fetcher->dark_ns = 0;
	fetch_forgive(fetcher, origin);
	for (struct fetch_connection *next, *at = origin->connections; at; at = next) {
		next = at->next;
		fetch_connection_close(at, NULL);
	}
}

/* Trust ---------------------------------------------------------------------------------------- */

static void see_whether_any_answers(struct croft_fetcher *fetcher)
{
	for (unsigned i = 0; i < FETCH_SOURCES; i++) {
		const struct fetch_source *source = &fetcher->sources[i];
		if (source->used && source->listed && !source->bad && source->failures == 0) {
			fetcher->dark_ns = 0;
			return;
		}
	}
	if (fetcher->dark_ns == 0)
		fetcher->dark_ns = ring_now_ns(fetcher->ring);
}

void fetch_source_worked(struct fetch_source *source)
{
	source->failures = 0;
	source->fetcher->dark_ns = 0;
}

void fetch_source_failed(struct fetch_source *source, const struct croft_error *err)
{
	struct croft_fetcher *fetcher = source->fetcher;
	unsigned doublings =
		source->failures < BACKOFF_DOUBLINGS ? source->failures : BACKOFF_DOUBLINGS;
	source->failures++;
	source->last_error = *err;
	source->ready_ns =
		ring_now_ns(fetcher->ring) + ((uint64_t)BACKOFF_MS << doublings) * 1000000;
	/* The name may stand for another machine by now. */
	if (source->failures % 4 == 0)
		source->address_count = 0;
	see_whether_any_answers(fetcher);
	fetch_wake(fetcher, source->ready_ns);
}

void fetch_source_lied(struct fetch_source *source)
{
	struct croft_error err = CROFT_ERROR_INIT;
	croft_error_set(&err, CROFT_DATA_LOSS, "%s sent wrong bytes", source->name);
	/* Without the origin nothing goes on, so it is only given time. */
	source->bad = source->index != 0;
	croft_log(CROFT_LOG_WARNING, source->bad ? "%s; it is not asked any more" : "%s", err.message);
	fetch_source_failed(source, &err);
}

bool fetch_source_usable(const struct fetch_source *source)
{
	return source->used && source->listed && !source->bad && !source->resolving &&
		source->ready_ns <= ring_now_ns(source->fetcher->ring);
}

bool fetch_source_has_room(const struct fetch_source *source, bool background)
{
	unsigned most = source->fetcher->connections;
	/* One is kept for the foreground. */
	unsigned most_background = most > 1 ? most - 1 : 1;
	return source->busy < most && (!background || source->busy_background < most_background);
}

/* The list ------------------------------------------------------------------------------------- */

void fetch_source_add(struct croft_fetcher *fetcher, unsigned index, const char *name)
{
	struct fetch_source *source = &fetcher->sources[index];
	*source = (struct fetch_source){
		.fetcher = fetcher, .name = croft_strdup(name), .index = index, .used = true, .listed = true};
}

struct fetch_peers {
	size_t count;
	char *names[FETCH_SOURCES - 1];
};

struct fetch_peers *fetch_peers_create(const char *const *names, size_t count)
{
	struct fetch_peers *peers = croft_zalloc(sizeof(*peers));
	peers->count = count < FETCH_SOURCES - 1 ? count : FETCH_SOURCES - 1;
	for (size_t i = 0; i < peers->count; i++)
		peers->names[i] = croft_strdup(names[i]);
	return peers;
}

void fetch_peers_destroy(struct fetch_peers *peers)
{
	if (!peers)
		return;
	for (size_t i = 0; i < peers->count; i++)
		free(peers->names[i]);
	free(peers);
}

/* A free place, or that of a source that is of no use any more; liars are remembered longest. */
static struct fetch_source *place_for(struct croft_fetcher *fetcher)
{
	struct fetch_source *best = NULL;
	for (unsigned i = 1; i < FETCH_SOURCES; i++) {
		struct fetch_source *source = &fetcher->sources[i];
		if (!source->used)
			return source;
		bool free_again = !source->listed && source->connection_count == 0 && !source->resolving;
		if (free_again && (!best || (best->bad && !source->bad)))
			best = source;
	}
	return best;
}

static void list(struct croft_fetcher *fetcher, const char *name)
{
	for (unsigned i = 0; i < FETCH_SOURCES; i++) {
		struct fetch_source *source = &fetcher->sources[i];
		if (source->used && strcmp(source->name, name) == 0) {
			source->listed = true;
			return;
		}
	}
	struct fetch_source *source = place_for(fetcher);
	if (!source)
		return;
	free(source->name);
	fetch_source_add(fetcher, (unsigned)(source - fetcher->sources), name);
}

/* Connections to peers that are not listed any more end when they are idle. */
void fetch_peers_apply(struct croft_fetcher *fetcher, struct fetch_peers *peers)
{
	for (unsigned i = 1; i < FETCH_SOURCES; i++)
		fetcher->sources[i].listed = false;
	for (size_t i = 0; i < peers->count; i++)
		list(fetcher, peers->names[i]);
	for (unsigned i = 1; i < FETCH_SOURCES; i++) {
		struct fetch_source *source = &fetcher->sources[i];
		for (struct fetch_connection *next, *at = source->connections; at; at = next) {
			next = at->next;
			if (!source->listed && at->stage == FETCH_IDLE)
				fetch_connection_close(at, NULL);
		}
	}
	see_whether_any_answers(fetcher);
	fetch_peers_destroy(peers);
}
