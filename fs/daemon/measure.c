/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files and bytes below input roots. Jobs' roots share most of their subtrees, so what is below a
 * Directory is remembered by its digest.
 */
#include "fs/daemon/internal.h"

#include "proto/base/arena.h"
#include "proto/base/cleanup.h"

#include <pthread.h>

enum {
	KNOWN_LIMIT = 1 << 18, /* Directories remembered: 20 MB; then it starts anew */
	DEPTH_LIMIT = 1024,    /* as croft_tree_walk's */
	FETCH_AT_ONCE = 1024,
};

struct known {
	struct croft_digest digest;
	struct croft_tree_totals totals;
	struct known *next;
};

struct measurer {
	struct croft_store *store;
	struct croft_fetcher *fetcher;
	pthread_mutex_t lock; /* guards: all below; held for one whole measuring */
	struct known **buckets;
	size_t bucket_count, count;
	struct croft_arena *arena;
};

static void forget_all(struct measurer *measurer)
{
	croft_arena_reset(measurer->arena);
	free(measurer->buckets);
	measurer->bucket_count = 1024;
	measurer->buckets = croft_array(measurer->bucket_count, sizeof(*measurer->buckets));
	measurer->count = 0;
}

struct measurer *measurer_create(struct croft_store *store, struct croft_fetcher *fetcher)
{
	struct measurer *measurer = croft_zalloc(sizeof(*measurer));
	measurer->store = store;
	measurer->fetcher = fetcher;
	pthread_mutex_init(&measurer->lock, NULL);
	measurer->arena = croft_arena_create();
	forget_all(measurer);
	return measurer;
}

void measurer_destroy(struct measurer *measurer)
{
	if (!measurer)
		return;
	free(measurer->buckets);
	croft_arena_destroy(measurer->arena);
	pthread_mutex_destroy(&measurer->lock);
	free(measurer);
}

static struct known **bucket_of(struct measurer *measurer, const struct croft_digest *digest)
{
	uint64_t head;
	memcpy(&head, digest->hash, sizeof(head));
	return &measurer->buckets[head & (measurer->bucket_count - 1)];
}

static struct known *find(struct measurer *measurer, const struct croft_digest *digest)
{
	struct known *known = *bucket_of(measurer, digest);
	while (known && !croft_digest_equal(&known->digest, digest))
		known = known->next;
	return known;
}

static void grow(struct measurer *measurer)
{
	struct known **old = measurer->buckets;
	size_t old_count = measurer->bucket_count;
	measurer->bucket_count *= 2;
	measurer->buckets = croft_array(measurer->bucket_count, sizeof(*measurer->buckets));
	for (size_t i = 0; i < old_count; i++)
		for (struct known *known = old[i], *next; known; known = next) {
			next = known->next;
			struct known **bucket = bucket_of(measurer, &known->digest);
			known->next = *bucket;
			*bucket = known;
		}
	free(old);
}

static void remember(struct measurer *measurer, const struct croft_digest *digest,
	const struct croft_tree_totals *totals)
{
	if (measurer->count >= measurer->bucket_count)
		grow(measurer);
	struct known *known = croft_arena_zalloc(measurer->arena, sizeof(*known));
	known->digest = *digest;
	known->totals = *totals;
	struct known **bucket = bucket_of(measurer, digest);
	known->next = *bucket;
	*bucket = known;
	measurer->count++;
}

/* Levels -------------------------------------------------------------------------------------- */

struct level {
	struct croft_digest *digests;
	size_t count, room;
};

static void add_to_level(struct level *level, const struct croft_digest *digest)
{
	if (level->count == level->room) {
		level->room = level->room ? level->room * 2 : 64;
		level->digests = croft_realloc(level->digests, level->room, sizeof(*digest));
	}
	level->digests[level->count++] = *digest;
}

static int compare_digests(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct croft_digest));
}

static void remove_repeats(struct level *level)
{
	size_t kept = 0;
	if (level->count)
		qsort(level->digests, level->count, sizeof(*level->digests), compare_digests);
	for (size_t i = 0; i < level->count; i++)
		if (i == 0 || !croft_digest_equal(&level->digests[i], &level->digests[kept - 1]))
			level->digests[kept++] = level->digests[i];
	level->count = kept;
}

static bool read_directory(struct measurer *measurer, const struct croft_digest *digest,
	struct croft_arena *arena, Reapi__Directory **directory, struct croft_error *err)
{
	struct croft_slice bytes = {"", 0};
	if (!croft_digest_is_empty(digest) &&
		!croft_store_get(measurer->store, digest, arena, &bytes, err)) {
		/* Evicted since it was fetched, or gone bad. */
		if (!measurer->fetcher ||
			(err->code != CROFT_NOT_FOUND && err->code != CROFT_DATA_LOSS) ||
			!croft_fetch_wait(measurer->fetcher, digest, NULL, err) ||
			!croft_store_get(measurer->store, digest, arena, &bytes, err))
			return false;
	}
	*directory = croft_directory_decode(bytes, arena, err);
	return *directory != NULL;
}

/* Fetches those of the level that are not here, and lists what is unknown below them. */
static bool descend(struct measurer *measurer, const struct level *level, struct level *below,
	struct croft_error *err)
{
	for (size_t from = 0; from < level->count; from += FETCH_AT_ONCE) {
		size_t count = level->count - from < FETCH_AT_ONCE ? level->count - from : FETCH_AT_ONCE;
		bool missing[FETCH_AT_ONCE];
		struct croft_digest wanted[FETCH_AT_ONCE];
		size_t wanted_count = 0;
		if (!croft_store_find_missing(measurer->store, level->digests + from, count, missing, err))
			return false;
		for (size_t i = 0; i < count; i++)
			if (missing[i])
				wanted[wanted_count++] = level->digests[from + i];
		if (!gather_all(measurer->fetcher, wanted, wanted_count, true, NULL, err))
			return false;
	}
	for (size_t i = 0; i < level->count; i++) {
		CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
		Reapi__Directory *directory;
		if (!read_directory(measurer, &level->digests[i], arena, &directory, err))
			return false;
		for (size_t j = 0; j < directory->n_directories; j++) {
			struct croft_digest digest;
			if (!croft_digest_from_message(directory->directories[j]->digest, "a directory",
				    &digest, err))
				return false;
			if (!find(measurer, &digest))
				add_to_level(below, &digest);
		}
	}
	remove_repeats(below);
	return true;
}

static bool add_totals(struct croft_tree_totals *to, const struct croft_tree_totals *from)
{
	return !__builtin_add_overflow(to->files, from->files, &to->files) &&
		!__builtin_add_overflow(to->directories, from->directories, &to->directories) &&
		!__builtin_add_overflow(to->symlinks, from->symlinks, &to->symlinks) &&
		!__builtin_add_overflow(to->bytes, from->bytes, &to->bytes);
}

/* Everything is here by now; what is below is known before what is above is added up. */
static bool add_up(struct measurer *measurer, const struct croft_digest *digest, unsigned depth,
	struct croft_tree_totals *totals, struct croft_error *err)
{
	struct known *known = find(measurer, digest);
	if (known) {
		*totals = known->totals;
		return true;
	}
	if (depth == DEPTH_LIMIT)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"directories stand in one another more than %d deep", DEPTH_LIMIT);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__Directory *directory;
	if (!read_directory(measurer, digest, arena, &directory, err))
		return false;
	struct croft_tree_totals sum = {.files = directory->n_files,
		.directories = directory->n_directories, .symlinks = directory->n_symlinks};
	bool fits = true;
	for (size_t i = 0; i < directory->n_files; i++)
		fits = fits && !__builtin_add_overflow(sum.bytes,
				       (uint64_t)directory->files[i]->digest->size_bytes, &sum.bytes);
	for (size_t i = 0; i < directory->n_directories; i++) {
		struct croft_digest child;
		struct croft_tree_totals below = {0};
		if (!croft_digest_from_message(directory->directories[i]->digest, "a directory", &child,
			    err) ||
			!add_up(measurer, &child, depth + 1, &below, err))
			return false;
		fits = fits && add_totals(&sum, &below);
	}
	if (!fits)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the tree claims more than 2^64 files or bytes");
	remember(measurer, digest, &sum);
	*totals = sum;
	return true;
}

bool measurer_measure(struct measurer *measurer, const struct croft_digest *root,
	struct croft_tree_totals *totals, struct croft_error *err)
{
	CROFT_LOCKED(&measurer->lock);
	if (measurer->count > KNOWN_LIMIT)
		forget_all(measurer);
	struct level level = {0}, below = {0};
	bool ok = true;
	if (!find(measurer, root) && !croft_digest_is_empty(root))
		add_to_level(&level, root);
	for (unsigned depth = 0; ok && level.count && depth <= DEPTH_LIMIT; depth++) {
		ok = descend(measurer, &level, &below, err);
		struct level empty = level;
		level = below;
		below = empty;
		below.count = 0;
	}
	free(level.digests);
	free(below.digests);
	return ok && add_up(measurer, root, 0, totals, err);
}
