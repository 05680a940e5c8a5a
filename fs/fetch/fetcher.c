/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The public side: starting, asking, stopping. */
#include "fs/fetch/internal.h"

#include "proto/base/cleanup.h"

#include <stdio.h>
#include <stdlib.h>

enum { CONNECTIONS = 4, DEADLINE_MS = 60000, STALL_MS_MOST = 10000, WORKERS = 4 };

/* On the ring's thread ------------------------------------------------------------------------- */

static void check_deadlines(struct ring_timer *timer)
{
	struct croft_fetcher *fetcher = ring_container(timer, struct croft_fetcher, timer);
	fetch_check_deadlines(fetcher);
	uint64_t next = fetcher->deadline_ns / 8;
	if (next > UINT64_C(1000000000))
		next = UINT64_C(1000000000);
	if (croft_digest_map_count(fetcher->wanted) + croft_digest_map_count(fetcher->recipes) > 0)
		ring_timer_set(fetcher->ring, timer, ring_now_ns(fetcher->ring) + next);
}

static void try_again(struct ring_timer *timer)
{
	fetch_pump(ring_container(timer, struct croft_fetcher, retry));
}

/* Requests, peers and the origin's place that came in from other threads. */
static void woken(struct ring_post *post)
{
	struct croft_fetcher *fetcher = ring_container(post, struct croft_fetcher, wake);
	pthread_mutex_lock(&fetcher->lock);
	fetcher->woken = false;
	struct fetch_waiter *waiter = fetcher->incoming;
	struct fetch_peers *peers = fetcher->peers;
	fetcher->incoming = NULL;
	fetcher->last_incoming = &fetcher->incoming;
	fetcher->peers = NULL;
	char *origin = fetcher->new_origin;
	fetcher->new_origin = NULL;
	pthread_mutex_unlock(&fetcher->lock);
	if (origin) {
		free(fetcher->moved_origin);
		fetcher->moved_origin = origin;
		fetch_origin_move(fetcher);
	}
	if (peers)
		fetch_peers_apply(fetcher, peers);
	while (waiter) {
		struct fetch_waiter *next = waiter->next;
		(waiter->recipe.done ? fetch_recipe_want : fetch_want)(fetcher, waiter);
		waiter = next;
	}
	if (!fetcher->timer.set && !fetcher->stopping)
		check_deadlines(&fetcher->timer);
	fetch_pump(fetcher);
}

/* With the lock held. */
static void wake(struct croft_fetcher *fetcher)
{
	if (fetcher->woken)
		return;
	fetcher->woken = true;
	ring_post(fetcher->ring, &fetcher->wake);
}

static void empty_queues(struct croft_fetcher *fetcher)
{
	struct croft_error err = CROFT_ERROR_INIT;
	croft_error_set(&err, CROFT_CANCELLED, "fetching ended");
	for (int i = 0; i < 4; i++) {
		struct fetch_queue *queue = &fetcher->queues[i / 2][i % 2];
		while (queue->first) {
			struct fetch_wanted *wanted = queue->first;
			fetch_dequeue(fetcher, wanted);
			fetch_finish(fetcher, wanted, &err);
		}
	}
}

static void stop(struct ring_post *post)
{
	struct croft_fetcher *fetcher = ring_container(post, struct croft_fetcher, stop);
	fetcher->stopping = true;
	ring_timer_clear(fetcher->ring, &fetcher->timer);
	ring_timer_clear(fetcher->ring, &fetcher->retry);
	empty_queues(fetcher);
	fetch_recipes_end(fetcher, UINT64_MAX);
	for (unsigned i = 0; i < FETCH_SOURCES; i++)
		for (struct fetch_connection *next, *at = fetcher->sources[i].connections; at; at = next) {
			next = at->next;
			fetch_connection_close(at, NULL);
		}
	fetch_settle(fetcher);
}

/* What came in too late. */
static void cancel_incoming(struct croft_fetcher *fetcher)
{
	struct croft_error err = CROFT_ERROR_INIT;
	croft_error_set(&err, CROFT_CANCELLED, "fetching ended");
	for (struct fetch_waiter *next, *at = fetcher->incoming; at; at = next) {
		next = at->next;
		if (at->recipe.done)
			at->recipe.done(at->recipe.user, &at->recipe.digest, &(struct croft_recipe){.count = 0});
		else
			at->request.done(at->request.user, &at->request.digest, 0, &err);
		free(at);
	}
}

/* Starting, stopping --------------------------------------------------------------------------- */

static void discard(struct croft_fetcher *fetcher)
{
	ring_destroy(fetcher->ring);
	cancel_incoming(fetcher);
	for (unsigned i = 0; i < FETCH_SOURCES; i++)
		free(fetcher->sources[i].name);
	fetch_peers_destroy(fetcher->peers);
	free(fetcher->new_origin);
	free(fetcher->moved_origin);
	croft_digest_map_destroy(fetcher->wanted);
	croft_digest_map_destroy(fetcher->recipes);
	pthread_mutex_destroy(&fetcher->lock);
	tls_relay_stop(fetcher->tls);
	free(fetcher->prefix);
	free(fetcher);
}

static bool cut_scheme(const char **origin)
{
	static const char scheme[] = "https://";
	bool secure = *origin && strncmp(*origin, scheme, sizeof(scheme) - 1) == 0;
	*origin += secure ? sizeof(scheme) - 1 : 0;
	return secure;
}

static bool is_address(const char *origin, struct croft_error *err)
{
	char host[256], port[16];
	return (http_split_address(origin, host, sizeof(host), port, sizeof(port)) && host[0]) ||
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "'%s' is no address of a blob plane (host:port)",
			origin ? origin : "");
}

struct croft_fetcher *croft_fetcher_start(const struct croft_fetcher_config *config,
	struct croft_error *err)
{
	const char *origin = config->origin;
	bool secure = cut_scheme(&origin);
	if (!is_address(origin, err))
		return NULL;
	struct tls_relay *tls = secure ? tls_relay_start("croft-tls", config->tls, false, 1, err) : NULL;
	if (secure && !tls)
		return NULL;
	char authorization[HTTP_AUTHORIZATION];
	if (!http_key_authorization(config->key, authorization)) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the key of the blob plane is longer than %d characters", HTTP_KEY_MAX);
		tls_relay_stop(tls);
		return NULL;
	}
	struct croft_fetcher *fetcher = croft_zalloc(sizeof(*fetcher));
	if (authorization[0])
		snprintf(fetcher->authorization, sizeof(fetcher->authorization), "Authorization: %s\r\n",
			authorization);
	bool named = config->instance && *config->instance;
	if (asprintf(&fetcher->prefix, "%s%s", named ? "/" : "", named ? config->instance : "") < 0)
		abort();
	fetcher->tls = tls;
	fetcher->store = config->store;
	fetcher->connections = config->connections ? config->connections : CONNECTIONS;
	uint64_t deadline_ms = config->deadline_ms ? config->deadline_ms : DEADLINE_MS;
	uint64_t stall_ms = deadline_ms / 4 < STALL_MS_MOST ? deadline_ms / 4 : STALL_MS_MOST;
	fetcher->deadline_ns = deadline_ms * 1000000;
	fetcher->stall_ns = stall_ms * 1000000;
	fetcher->hedge_ns = config->hedge_ms * UINT64_C(1000000);
	fetcher->wake.run = woken;
	fetcher->stop.run = stop;
	fetcher->timer.run = check_deadlines;
	fetcher->retry.run = try_again;
	fetcher->wanted = croft_digest_map_create();
	fetcher->recipes = croft_digest_map_create();
	fetcher->last_incoming = &fetcher->incoming;
	fetcher->stored_last = &fetcher->stored_first;
	pthread_mutex_init(&fetcher->lock, NULL);
	for (unsigned i = 0; i < FETCH_SOURCES; i++)
		fetcher->sources[i] = (struct fetch_source){.fetcher = fetcher, .index = i};
	fetch_source_add(fetcher, 0, origin);
	fetcher->ring = ring_start("croft-fetch", WORKERS, err);
	if (fetcher->ring)
		return fetcher;
	croft_error_wrap(err, "starting the fetcher");
	discard(fetcher);
	return NULL;
}

void croft_fetcher_stop(struct croft_fetcher *fetcher)
{
	if (!fetcher)
		return;
	ring_post(fetcher->ring, &fetcher->stop);
	discard(fetcher);
}

/* Asking --------------------------------------------------------------------------------------- */

static struct fetch_waiter *waiter_for(const struct croft_fetch_request *request)
{
	struct fetch_waiter *waiter = croft_zalloc(sizeof(*waiter));
	waiter->request = *request;
	return waiter;
}

/* `last`: where its list ends. */
static void come_in(struct croft_fetcher *fetcher, struct fetch_waiter *first,
	struct fetch_waiter **last)
{
	CROFT_LOCKED(&fetcher->lock);
	*fetcher->last_incoming = first;
	fetcher->last_incoming = last;
	wake(fetcher);
}

void croft_fetch_recipe(struct croft_fetcher *fetcher, const struct croft_recipe_request *request)
{
	struct fetch_waiter *waiter = croft_zalloc(sizeof(*waiter));
	waiter->recipe = *request;
	if (request->size > CROFT_RECIPE_PIECE)
		waiter->recipe.size = 0;
	come_in(fetcher, waiter, &waiter->next);
}

void croft_fetch_many(struct croft_fetcher *fetcher, const struct croft_fetch_request *requests,
	size_t count)
{
	CROFT_CLEANUP_FREE struct croft_digest *digests = croft_array(count + 1, sizeof(*digests));
	CROFT_CLEANUP_FREE bool *missing = croft_array(count + 1, sizeof(*missing));
	struct croft_error err = CROFT_ERROR_INIT;
	struct fetch_waiter *first = NULL, **last = &first;
	for (size_t i = 0; i < count; i++)
		digests[i] = requests[i].digest;
	bool ok = croft_store_find_missing(fetcher->store, digests, count, missing, &err);
	for (size_t i = 0; i < count; i++) {
		if (!ok || !missing[i]) {
			requests[i].done(requests[i].user, &requests[i].digest, 0, ok ? NULL : &err);
			continue;
		}
		*last = waiter_for(&requests[i]);
		last = &(*last)->next;
	}
	if (first)
		come_in(fetcher, first, last);
}

void croft_fetch(struct croft_fetcher *fetcher, const struct croft_fetch_request *request)
{
	croft_fetch_many(fetcher, request, 1);
}

struct waiting {
	pthread_mutex_t lock; /* guards: all below */
	pthread_cond_t change;
	bool done;
	uint64_t moved_bytes;
	struct croft_error err;
};

static void waited_for(void *user, const struct croft_digest *digest, uint64_t moved_bytes,
	const struct croft_error *err)
{
	struct waiting *waiting = user;
	CROFT_LOCKED(&waiting->lock);
	waiting->done = true;
	waiting->moved_bytes = moved_bytes;
	if (err)
		waiting->err = *err;
	pthread_cond_signal(&waiting->change);
}

bool croft_fetch_wait(struct croft_fetcher *fetcher, const struct croft_digest *digest,
	uint64_t *moved_bytes, struct croft_error *err)
{
	struct waiting waiting = {.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};
	croft_fetch(fetcher, &(struct croft_fetch_request){
		.digest = *digest, .done = waited_for, .user = &waiting});
	pthread_mutex_lock(&waiting.lock);
	while (!waiting.done)
		pthread_cond_wait(&waiting.change, &waiting.lock);
	pthread_mutex_unlock(&waiting.lock);
	if (moved_bytes)
		*moved_bytes = waiting.moved_bytes;
	if (waiting.err.code != CROFT_OK && err)
		*err = waiting.err;
	return waiting.err.code == CROFT_OK;
}

bool croft_fetcher_set_origin(struct croft_fetcher *fetcher, const char *origin, struct croft_error *err)
{
	if (cut_scheme(&origin) != (fetcher->tls != NULL))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%s: a fetcher goes on with TLS if it began with it, else without", origin);
	if (!is_address(origin, err))
		return false;
	CROFT_LOCKED(&fetcher->lock);
	free(fetcher->new_origin);
	fetcher->new_origin = croft_strdup(origin);
	wake(fetcher);
	return true;
}

void croft_fetcher_set_peers(struct croft_fetcher *fetcher, const char *const *peers, size_t count)
{
	struct fetch_peers *list = fetch_peers_create(peers, count);
	CROFT_LOCKED(&fetcher->lock);
	fetch_peers_destroy(fetcher->peers);
	fetcher->peers = list;
	wake(fetcher);
}

uint64_t croft_fetch_round_trip_ns(const struct croft_fetcher *fetcher)
{
	return __atomic_load_n(&fetcher->answer_ns, __ATOMIC_RELAXED);
}

void croft_fetch_stat(const struct croft_fetcher *fetcher, struct croft_fetch_stat *stat)
{
	const struct croft_fetch_stat *from = &fetcher->stat;
	stat->blobs = __atomic_load_n(&from->blobs, __ATOMIC_RELAXED);
	stat->bytes = __atomic_load_n(&from->bytes, __ATOMIC_RELAXED);
	stat->from_peers_bytes = __atomic_load_n(&from->from_peers_bytes, __ATOMIC_RELAXED);
	stat->background_bytes = __atomic_load_n(&from->background_bytes, __ATOMIC_RELAXED);
	stat->retries = __atomic_load_n(&from->retries, __ATOMIC_RELAXED);
	stat->failures = __atomic_load_n(&from->failures, __ATOMIC_RELAXED);
	stat->hedges = __atomic_load_n(&from->hedges, __ATOMIC_RELAXED);
	stat->fetching_blobs = __atomic_load_n(&from->fetching_blobs, __ATOMIC_RELAXED);
	stat->fetching_bytes = __atomic_load_n(&from->fetching_bytes, __ATOMIC_RELAXED);
	stat->bad_bytes = __atomic_load_n(&from->bad_bytes, __ATOMIC_RELAXED);
}
