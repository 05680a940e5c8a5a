/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fetching ahead what a job is expected to read.
 *
 * A few blobs are under way at a time, in the background, so that one job's prediction neither fills
 * the queue nor goes on for long when the job is over; more are asked for once half of them have come, so that the
 * link does not run dry. Large files come as the chunks that hold what is
 * expected to be read, so that a fetch is shared with the mount, which reads them in parts.
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
	RECIPES_AHEAD = 64, /* wishes that are looked at for large ones, so that nothing waits for a recipe */
	WISHES_AT_MOST = 1 << 16,
	PATHS_AT_MOST = 64 << 20, /* bytes */
	RANGES_AT_MOST = 64, /* of one file */
};

enum wish_state { WISH_NEW, WISH_ASKED /* for its recipe */, WISH_CHUNKS, WISH_WHOLE };

struct wish {
	struct croft_prefetch_wish is;
	enum wish_state state;
	uint64_t moved; /* bytes */
	struct croft_digest *chunks; /* WISH_CHUNKS */
	size_t chunk_count, next_chunk;
};

struct prefetch {
	uint64_t group;
	struct wish *wishes;
	size_t count, next;
	size_t pending;         /* under way, and who is about to ask for more */
	size_t blobs;           /* of these, blobs, */
	uint64_t pending_bytes; /* which have so many bytes */
	bool ended; /* the job is over: freed when nothing is under way */
	struct prefetch *link;
};

struct prefetcher {
	struct croft_store *store;
	struct croft_fetcher *fetcher;
	struct croft_mount *mount;
	struct standins *standins;
	struct opened *opened;
	pthread_mutex_t lock; /* guards: all below */
	struct prefetch *first;
};

struct prefetcher *prefetcher_create(struct croft_store *store, struct croft_fetcher *fetcher,
	struct croft_mount *mount, struct standins *standins)
{
	struct prefetcher *prefetcher = croft_zalloc(sizeof(*prefetcher));
	prefetcher->store = store;
	prefetcher->fetcher = fetcher;
	prefetcher->mount = mount;
	prefetcher->standins = standins;
	prefetcher->opened = opened_create(store);
	pthread_mutex_init(&prefetcher->lock, NULL);
	return prefetcher;
}

static void free_prefetch(struct prefetch *prefetch)
{
	for (size_t i = 0; i < prefetch->count; i++)
		free(prefetch->wishes[i].chunks);
	free(prefetch->wishes);
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
	opened_destroy(prefetcher->opened);
	pthread_mutex_destroy(&prefetcher->lock);
	free(prefetcher);
}

/* Coming in ------------------------------------------------------------------------------------ */

/* One blob, or one recipe, under way. */
struct flight {
	struct prefetcher *prefetcher;
	struct prefetch *prefetch;
	size_t index;
};

/* Asks for more, in place of something that was pending until now. */
static void go_on(struct prefetcher *prefetcher, struct prefetch *prefetch);

static struct flight *flight_of(struct prefetcher *prefetcher, struct prefetch *prefetch, size_t index)
{
	struct flight *flight = croft_alloc(sizeof(*flight));
	*flight = (struct flight){prefetcher, prefetch, index};
	return flight;
}

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
	struct prefetch *prefetch = flight.prefetch;
	free(user);
	pthread_mutex_lock(&flight.prefetcher->lock);
	prefetch->wishes[flight.index].moved += moved_bytes;
	prefetch->blobs--;
	prefetch->pending_bytes -= digest->size_bytes;
	if (err && err->code == CROFT_CANCELLED) /* the fetcher is at its end */
		prefetch->next = prefetch->count;
	pthread_mutex_unlock(&flight.prefetcher->lock);
	go_on(flight.prefetcher, prefetch);
}

/* `lock` held. */
static void choose_chunks(struct wish *wish, const struct croft_digest *chunks, size_t count)
{
	uint64_t start = 0, end;
	if (__builtin_add_overflow(wish->is.offset, wish->is.length, &end))
		end = UINT64_MAX;
	wish->state = WISH_CHUNKS;
	wish->chunks = croft_array(count, sizeof(*chunks));
	for (size_t i = 0; i < count; start += chunks[i++].size_bytes)
		if (wish->is.length == 0 ||
			(start < end && start + chunks[i].size_bytes > wish->is.offset))
			wish->chunks[wish->chunk_count++] = chunks[i];
}

static void recipe_came(void *user, const struct croft_digest *digest,
	const struct croft_recipe *recipe)
{
	struct flight flight = *(struct flight *)user;
	struct prefetcher *prefetcher = flight.prefetcher;
	struct wish *wish = &flight.prefetch->wishes[flight.index];
	free(user);
	/* Whoever reads it meanwhile need not ask, too. */
	if (prefetcher->mount)
		croft_mount_learn_chunks(prefetcher->mount, digest, recipe->chunks, recipe->count);
	pthread_mutex_lock(&prefetcher->lock);
	wish->state = WISH_WHOLE;
	if (recipe->count > 0)
		choose_chunks(wish, recipe->chunks, recipe->count);
	pthread_mutex_unlock(&prefetcher->lock);
	go_on(prefetcher, flight.prefetch);
}

/* Asking --------------------------------------------------------------------------------------- */

/* What is asked for together. */
struct round {
	struct croft_fetch_request requests[BLOBS_AT_ONCE];
	size_t count;
	struct flight *recipes[RECIPES_AHEAD];
	struct croft_digest files[RECIPES_AHEAD];
	size_t recipe_count;
};

static bool is_large(const struct wish *wish)
{
	return wish->is.digest.size_bytes >= CROFT_MOUNT_PARTS_FROM;
}

static bool is_missing(struct prefetcher *prefetcher, const struct croft_digest *digest)
{
	bool missing;
	return croft_store_find_missing(prefetcher->store, digest, 1, &missing, NULL) && missing;
}

/* `lock` held. */
static void ask_recipes(struct prefetcher *prefetcher, struct prefetch *prefetch, struct round *round)
{
	for (size_t i = prefetch->next; i < prefetch->count && i < prefetch->next + RECIPES_AHEAD; i++) {
		struct wish *wish = &prefetch->wishes[i];
		if (wish->state != WISH_NEW || !is_large(wish))
			continue;
		if (round->recipe_count == RECIPES_AHEAD)
			return;
		wish->state = is_missing(prefetcher, &wish->is.digest) ? WISH_ASKED : WISH_WHOLE;
		if (wish->state == WISH_WHOLE)
			continue;
		round->files[round->recipe_count] = wish->is.digest;
		round->recipes[round->recipe_count++] = flight_of(prefetcher, prefetch, i);
	}
}

/* True: there is room for more. `lock` held. */
static bool add(struct prefetcher *prefetcher, struct prefetch *prefetch, struct round *round,
	const struct croft_digest *digest)
{
	if (!is_missing(prefetcher, digest))
		return true;
	round->requests[round->count++] = (struct croft_fetch_request){
		.digest = *digest, .background = true, .done = landed,
		.user = flight_of(prefetcher, prefetch, prefetch->next)};
	prefetch->blobs++;
	prefetch->pending_bytes += digest->size_bytes;
	return prefetch->blobs < BLOBS_AT_ONCE && prefetch->pending_bytes < BYTES_AT_ONCE;
}

/* In the order in which they are wished for. `lock` held. */
static void fill(struct prefetcher *prefetcher, struct prefetch *prefetch, struct round *round)
{
	bool room = true;
	while (room && prefetch->next < prefetch->count) {
		struct wish *wish = &prefetch->wishes[prefetch->next];
		if (wish->state == WISH_NEW && is_large(wish))
			ask_recipes(prefetcher, prefetch, round);
		/* Either it is asked for, or others are, which go on here when they have come. */
		if (wish->state == WISH_ASKED || (wish->state == WISH_NEW && is_large(wish)))
			return;
		if (wish->state != WISH_CHUNKS)
			room = add(prefetcher, prefetch, round, &wish->is.digest);
		while (room && wish->next_chunk < wish->chunk_count)
			room = add(prefetcher, prefetch, round, &wish->chunks[wish->next_chunk++]);
		if (wish->next_chunk == wish->chunk_count)
			prefetch->next++;
	}
}

static void go_on(struct prefetcher *prefetcher, struct prefetch *prefetch)
{
	struct round round = {.count = 0};
	pthread_mutex_lock(&prefetcher->lock);
	if (prefetch->ended)
		prefetch->next = prefetch->count;
	if (prefetch->blobs <= BLOBS_AT_ONCE / 2 && prefetch->pending_bytes <= BYTES_AT_ONCE / 2) {
		ask_recipes(prefetcher, prefetch, &round);
		fill(prefetcher, prefetch, &round);
	}
	prefetch->pending--;
	prefetch->pending += round.count + round.recipe_count;
	bool last = prefetch->pending == 0 && prefetch->ended;
	if (last)
		unlink_prefetch(prefetcher, prefetch);
	pthread_mutex_unlock(&prefetcher->lock);
	if (last)
		free_prefetch(prefetch);
	for (size_t i = 0; i < round.recipe_count; i++)
		croft_fetch_recipe(prefetcher->fetcher, &(struct croft_recipe_request){.digest = round.files[i],
			.background = true, .done = recipe_came, .user = round.recipes[i]});
	if (round.count)
		croft_fetch_many(prefetcher->fetcher, round.requests, round.count);
}

bool prefetch_begin(struct prefetcher *prefetcher, uint64_t group, int wishes_fd,
	struct croft_error *err)
{
	struct stat st;
	if (wishes_fd < 0 || fstat(wishes_fd, &st) < 0 ||
		(size_t)st.st_size > WISHES_AT_MOST * sizeof(struct croft_prefetch_wish))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "no list of blobs was passed");
	if (!prefetcher->fetcher)
		return true;
	size_t count = (size_t)st.st_size / sizeof(struct croft_prefetch_wish);
	CROFT_CLEANUP_FREE struct croft_prefetch_wish *wishes = croft_array(count + 1, sizeof(*wishes));
	if (!croft_pread_all(
			wishes_fd, wishes, count * sizeof(*wishes), 0, "the list of blobs", err))
		return false;
	struct prefetch *prefetch = croft_zalloc(sizeof(*prefetch));
	prefetch->group = group;
	prefetch->count = count;
	prefetch->wishes = croft_array(count + 1, sizeof(*prefetch->wishes));
	for (size_t i = 0; i < count; i++)
		prefetch->wishes[i] = (struct wish){.is = wishes[i]};
	pthread_mutex_lock(&prefetcher->lock);
	prefetch->link = prefetcher->first;
	prefetcher->first = prefetch;
	prefetch->pending++; /* ours, until the first are asked for */
	pthread_mutex_unlock(&prefetcher->lock);
	go_on(prefetcher, prefetch);
	return true;
}

/* What became of it ---------------------------------------------------------------------------- */

/* Bytes that came ahead for nothing. A large file that is read in parts is known by what was read of it. */
static uint64_t wasted(struct prefetcher *prefetcher, const struct wish *wish, uint64_t moved,
	const struct croft_digest_map *opened)
{
	struct croft_mount_range ranges[RANGES_AT_MOST];
	uint64_t read = 0;
	if (moved == 0 || !croft_digest_map_get(opened, &wish->is.digest))
		return moved;
	if (wish->state != WISH_CHUNKS || !prefetcher->mount)
		return 0;
	size_t count =
		croft_mount_read_ranges(prefetcher->mount, &wish->is.digest, ranges, RANGES_AT_MOST);
	for (size_t i = 0; i < count; i++)
		read += ranges[i].length;
	return count > 0 && moved > read ? moved - read : 0;
}

/* Wishes for several parts of a file stand in a row. */
static void add_up(struct prefetcher *prefetcher, const struct prefetch *prefetch,
	const struct croft_digest_map *opened, struct croft_prefetch_account *account)
{
	uint64_t moved = 0;
	for (size_t i = 0; i < prefetch->count; i++) {
		const struct wish *wish = &prefetch->wishes[i];
		moved += wish->moved;
		if (i + 1 < prefetch->count && croft_digest_equal(&wish[1].is.digest, &wish->is.digest))
			continue;
		account->files += moved > 0;
		account->bytes += moved;
		account->wasted_bytes += wasted(prefetcher, wish, moved, opened);
		moved = 0;
	}
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
		add_up(prefetcher, prefetch, opened, account);
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

/* What was read of the opened files that are read in parts, as far as the mount knows: malloc'ed. */
static struct croft_read_range *find_ranges(struct prefetcher *prefetcher,
	const struct croft_digest *digests, size_t count, size_t *found)
{
	struct croft_read_range *all = NULL;
	*found = 0;
	for (size_t i = 0; prefetcher->mount && i < count; i++) {
		struct croft_mount_range ranges[RANGES_AT_MOST];
		if (digests[i].size_bytes < CROFT_MOUNT_PARTS_FROM || digests[i].size_bytes == UINT64_MAX)
			continue;
		size_t more =
			croft_mount_read_ranges(prefetcher->mount, &digests[i], ranges, RANGES_AT_MOST);
		if (more == 0)
			continue;
		all = croft_realloc(all, *found + more, sizeof(*all));
		for (size_t at = 0; at < more; at++)
			all[(*found)++] = (struct croft_read_range){i, ranges[at].offset, ranges[at].length};
	}
	return all;
}

bool prefetch_end(struct prefetcher *prefetcher, uint64_t group, const struct croft_digest *root,
	int paths_fd, size_t size, struct croft_prefetch_account *account, size_t *range_count,
	struct croft_error *err)
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
	CROFT_CLEANUP_FREE struct croft_digest *digests = croft_array(count + 1, sizeof(*digests));
	opened_resolve(prefetcher->opened, root, paths, size, digests, count);
	standins_note(prefetcher->standins, root, paths, digests, count);
	struct croft_digest_map *opened = croft_digest_map_create();
	for (size_t i = 0; i < count; i++)
		*croft_digest_map_at(opened, &digests[i]) = opened;
	settle(prefetcher, group, opened, account);
	croft_digest_map_destroy(opened);
	CROFT_CLEANUP_FREE struct croft_read_range *ranges =
		find_ranges(prefetcher, digests, count, range_count);
	size_t digests_size = count * sizeof(*digests);
	return croft_pwrite_all(paths_fd, digests, digests_size, size, "the digests of the paths", err) &&
		croft_pwrite_all(paths_fd, ranges, *range_count * sizeof(*ranges), size + digests_size,
			"what was read of large files", err);
}
