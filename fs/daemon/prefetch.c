/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fetching ahead what a job is expected to read, and finding out what it opened.
 *
 * A few blobs are asked for at a time, in the background, so that one job's prediction neither fills
 * the queue nor goes on for long when the job is over.
 */
#include "fs/daemon/internal.h"

#include "fs/digest_map.h"
#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <pthread.h>
#include <sys/stat.h>

enum {
	BLOBS_AT_ONCE = 64,
	BYTES_AT_ONCE = 8 << 20,
	DIGESTS_AT_MOST = 1 << 16,
	PATHS_AT_MOST = 64 << 20, /* bytes */
	DEPTH_AT_MOST = 1024,
};

struct prefetch {
	uint64_t group;
	struct croft_digest *digests;
	uint64_t *moved; /* bytes, of each */
	size_t count, next, pending;
	bool ended; /* the job is over: freed when nothing is under way */
	struct prefetch *link;
};

struct prefetcher {
	struct croft_store *store;
	struct croft_fetcher *fetcher;
	pthread_mutex_t lock; /* guards: all below */
	struct prefetch *first;
};

struct prefetcher *prefetcher_create(struct croft_store *store, struct croft_fetcher *fetcher)
{
	struct prefetcher *prefetcher = croft_zalloc(sizeof(*prefetcher));
	prefetcher->store = store;
	prefetcher->fetcher = fetcher;
	pthread_mutex_init(&prefetcher->lock, NULL);
	return prefetcher;
}

static void free_prefetch(struct prefetch *prefetch)
{
	free(prefetch->digests);
	free(prefetch->moved);
	free(prefetch);
}

void prefetcher_destroy(struct prefetcher *prefetcher)
{
	if (!prefetcher)
		return;
	for (struct prefetch *prefetch = prefetcher->first, *next; prefetch; prefetch = next) {
		next = prefetch->link;
		free_prefetch(prefetch);
	}
	pthread_mutex_destroy(&prefetcher->lock);
	free(prefetcher);
}

/* Fetching ------------------------------------------------------------------------------------ */

/* One blob under way. */
struct flight {
	struct prefetcher *prefetcher;
	struct prefetch *prefetch;
	size_t index;
};

static void go_on(struct prefetcher *prefetcher, struct prefetch *prefetch);

/* `lock` held. */
static void unlink_prefetch(struct prefetcher *prefetcher, struct prefetch *prefetch)
{
	struct prefetch **link = &prefetcher->first;
	while (*link != prefetch)
		link = &(*link)->link;
	*link = prefetch->link;
}

static void landed(void *user, const struct croft_digest *digest, uint64_t moved_bytes,
	const struct croft_error *err)
{
	struct flight flight = *(struct flight *)user;
	struct prefetcher *prefetcher = flight.prefetcher;
	struct prefetch *prefetch = flight.prefetch;
	free(user);
	pthread_mutex_lock(&prefetcher->lock);
	prefetch->moved[flight.index] = moved_bytes;
	bool idle = prefetch->pending == 1;
	/* The fetcher is at its end. */
	bool over = prefetch->ended || (err && err->code == CROFT_CANCELLED);
	if (over)
		prefetch->next = prefetch->count;
	if (!idle)
		prefetch->pending--; /* the last keeps it until the next are asked for */
	pthread_mutex_unlock(&prefetcher->lock);
	if (idle)
		go_on(prefetcher, prefetch);
}

/* Asks for the next few; only one thread at a time does, since nothing of it is under way. */
static void go_on(struct prefetcher *prefetcher, struct prefetch *prefetch)
{
	struct croft_fetch_request requests[BLOBS_AT_ONCE];
	bool missing[BLOBS_AT_ONCE];
	size_t count = 0;
	pthread_mutex_lock(&prefetcher->lock);
	while (!prefetch->ended && count == 0 && prefetch->next < prefetch->count) {
		const struct croft_digest *digests = prefetch->digests + prefetch->next;
		size_t looked = prefetch->count - prefetch->next;
		looked = looked < BLOBS_AT_ONCE ? looked : BLOBS_AT_ONCE;
		if (!croft_store_find_missing(prefetcher->store, digests, looked, missing, NULL))
			break;
		uint64_t bytes = 0;
		size_t i = 0;
		for (; i < looked && bytes < BYTES_AT_ONCE; i++) {
			if (!missing[i])
				continue;
			struct flight *flight = croft_alloc(sizeof(*flight));
			*flight = (struct flight){prefetcher, prefetch, prefetch->next + i};
			requests[count++] = (struct croft_fetch_request){
				.digest = digests[i], .background = true, .done = landed, .user = flight};
			bytes += digests[i].size_bytes;
		}
		prefetch->next += i;
	}
	prefetch->pending = count;
	bool last = count == 0 && prefetch->ended;
	if (last)
		unlink_prefetch(prefetcher, prefetch);
	pthread_mutex_unlock(&prefetcher->lock);
	if (last)
		free_prefetch(prefetch);
	if (count)
		croft_fetch_many(prefetcher->fetcher, requests, count);
}

bool prefetch_begin(struct prefetcher *prefetcher, uint64_t group, int digests_fd,
	struct croft_error *err)
{
	struct stat st;
	if (digests_fd < 0 || fstat(digests_fd, &st) < 0 ||
		(size_t)st.st_size > DIGESTS_AT_MOST * sizeof(struct croft_digest))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "no list of blobs was passed");
	if (!prefetcher->fetcher)
		return true;
	size_t count = (size_t)st.st_size / sizeof(struct croft_digest);
	struct prefetch *prefetch = croft_zalloc(sizeof(*prefetch));
	prefetch->group = group;
	prefetch->count = count;
	prefetch->digests = croft_array(count, sizeof(*prefetch->digests));
	prefetch->moved = croft_array(count, sizeof(*prefetch->moved));
	if (!croft_pread_all(digests_fd, prefetch->digests, count * sizeof(*prefetch->digests), 0,
		    "the list of blobs", err)) {
		free_prefetch(prefetch);
		return false;
	}
	pthread_mutex_lock(&prefetcher->lock);
	prefetch->link = prefetcher->first;
	prefetcher->first = prefetch;
	prefetch->pending++; /* ours, until the first are asked for */
	pthread_mutex_unlock(&prefetcher->lock);
	go_on(prefetcher, prefetch);
	return true;
}

/* What was opened ------------------------------------------------------------------------------ */

struct finder {
	struct croft_store *store;
	struct croft_arena *arena;
	struct croft_digest_map *directories; /* decoded; those that are not here stand for the empty one */
	Reapi__Directory empty;
};

static const Reapi__Directory *directory_of(struct finder *finder, const struct croft_digest *digest)
{
	void **place = croft_digest_map_at(finder->directories, digest);
	struct croft_slice bytes = {"", 0};
	if (*place)
		return *place;
	if (!croft_digest_is_empty(digest) &&
		croft_store_get(finder->store, digest, finder->arena, &bytes, NULL))
		*place = croft_directory_decode(bytes, finder->arena, NULL);
	if (!*place)
		*place = &finder->empty;
	return *place;
}

static int compare_name(const char *name, size_t size, const char *other)
{
	size_t other_size = strlen(other);
	int order = memcmp(name, other, size < other_size ? size : other_size);
	return order ? order : (size > other_size) - (size < other_size);
}

/* Names stand in order: croft_directory_decode saw to it. */
#define FIND(nodes, count, wanted, size, found)                                                    \
	for (size_t low = 0, high = (count); !(found) && low < high;) {                            \
		size_t middle = low + (high - low) / 2;                                            \
		int order = compare_name((wanted), (size), (nodes)[middle]->name);                   \
		if (order == 0)                                                                    \
			(found) = (nodes)[middle]->digest;                                         \
		else if (order < 0)                                                                \
			high = middle;                                                             \
		else                                                                               \
			low = middle + 1;                                                          \
	}

static bool find_file(struct finder *finder, const struct croft_digest *root, const char *path,
	struct croft_digest *digest)
{
	struct croft_digest at = *root;
	for (unsigned depth = 0; depth < DEPTH_AT_MOST; depth++) {
		const Reapi__Directory *directory = directory_of(finder, &at);
		size_t size = strcspn(path, "/");
		bool is_last = path[size] == '\0';
		const Reapi__Digest *found = NULL;
		if (is_last) {
			FIND(directory->files, directory->n_files, path, size, found)
		} else {
			FIND(directory->directories, directory->n_directories, path, size, found)
		}
		if (!found || !croft_digest_from_message(found, "an entry", &at, NULL))
			return false;
		if (is_last) {
			*digest = at;
			return true;
		}
		path += size + 1;
	}
	return false;
}

static void resolve(struct croft_store *store, const struct croft_digest *root, const char *paths,
	size_t size, struct croft_digest *digests, size_t count)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct finder finder = {store, arena, croft_digest_map_create(), REAPI__DIRECTORY__INIT};
	for (size_t i = 0; i < count; i++, paths += strlen(paths) + 1)
		if (!find_file(&finder, root, paths, &digests[i]))
			digests[i] = (struct croft_digest){.size_bytes = UINT64_MAX};
	croft_digest_map_destroy(finder.directories);
}

/* Takes the group's prefetches to their end. */
static void settle(struct prefetcher *prefetcher, uint64_t group, struct croft_digest_map *opened,
	struct croft_prefetch_account *account)
{
	struct prefetch *unused = NULL;
	pthread_mutex_lock(&prefetcher->lock);
	for (struct prefetch **link = &prefetcher->first, *prefetch; (prefetch = *link);) {
		if (prefetch->group != group || prefetch->ended) {
			link = &prefetch->link;
			continue;
		}
		prefetch->ended = true;
		for (size_t i = 0; i < prefetch->count; i++) {
			account->files += prefetch->moved[i] > 0;
			account->bytes += prefetch->moved[i];
			if (!croft_digest_map_get(opened, &prefetch->digests[i]))
				account->wasted_bytes += prefetch->moved[i];
		}
		if (prefetch->pending) {
			link = &prefetch->link;
			continue;
		}
		*link = prefetch->link;
		prefetch->link = unused;
		unused = prefetch;
	}
	pthread_mutex_unlock(&prefetcher->lock);
	for (struct prefetch *next; unused; unused = next) {
		next = unused->link;
		free_prefetch(unused);
	}
}

bool prefetch_end(struct prefetcher *prefetcher, uint64_t group, const struct croft_digest *root,
	int paths_fd, size_t size, struct croft_prefetch_account *account, struct croft_error *err)
{
	if (paths_fd < 0 || size > PATHS_AT_MOST)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "no list of paths was passed");
	CROFT_CLEANUP_FREE char *paths = croft_alloc(size + 1);
	paths[size] = '\0';
	if (!croft_pread_all(paths_fd, paths, size, 0, "the list of paths", err))
		return false;
	size_t count = 0;
	for (size_t i = 0; i < size; i++)
		count += paths[i] == '\0';
	CROFT_CLEANUP_FREE struct croft_digest *digests = croft_array(count, sizeof(*digests));
	resolve(prefetcher->store, root, paths, size, digests, count);
	struct croft_digest_map *opened = croft_digest_map_create();
	for (size_t i = 0; i < count; i++)
		*croft_digest_map_at(opened, &digests[i]) = opened;
	settle(prefetcher, group, opened, account);
	croft_digest_map_destroy(opened);
	return croft_pwrite_all(paths_fd, digests, count * sizeof(*digests), size,
		"the digests of the paths", err);
}
