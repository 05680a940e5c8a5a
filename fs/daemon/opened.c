/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which content stands at the paths that a job opened. Jobs' roots share most of their subtrees, and what they open lies in
 * the same ones: what was decoded for one is kept for the next.
 */
#include "fs/daemon/internal.h"

#include "fs/digest_map.h"
#include "proto/base/cleanup.h"

#include <pthread.h>

enum {
	DEPTH_AT_MOST = 1024,
	KNOWN_BYTES = 8 << 20, /* of Directory messages, which take about three times that; then it starts anew */
};

struct opened {
	struct croft_store *store;
	pthread_mutex_t lock; /* guards: all below; held for all of a job's paths */
	struct croft_arena *arena;
	struct croft_digest_map *directories; /* decoded */
	size_t bytes;
};

struct opened *opened_create(struct croft_store *store)
{
	struct opened *opened = croft_zalloc(sizeof(*opened));
	opened->store = store;
	pthread_mutex_init(&opened->lock, NULL);
	opened->arena = croft_arena_create();
	opened->directories = croft_digest_map_create();
	return opened;
}

void opened_destroy(struct opened *opened)
{
	if (!opened)
		return;
	croft_digest_map_destroy(opened->directories);
	croft_arena_destroy(opened->arena);
	pthread_mutex_destroy(&opened->lock);
	free(opened);
}

static void start_anew(struct opened *opened)
{
	croft_digest_map_destroy(opened->directories);
	opened->directories = croft_digest_map_create();
	croft_arena_reset(opened->arena);
	opened->bytes = 0;
}

/* Borrowed until the next call; NULL: it is not here. */
static const Reapi__Directory *directory_of(struct opened *opened, const struct croft_digest *digest)
{
	Reapi__Directory *directory = croft_digest_map_get(opened->directories, digest);
	struct croft_slice bytes = {"", 0};
	if (directory)
		return directory;
	if (opened->bytes > KNOWN_BYTES)
		start_anew(opened);
	if (!croft_digest_is_empty(digest) &&
		!croft_store_get(opened->store, digest, opened->arena, &bytes, NULL))
		return NULL;
	opened->bytes += bytes.size;
	directory = croft_directory_decode(bytes, opened->arena, NULL);
	if (directory)
		*croft_digest_map_at(opened->directories, digest) = directory;
	return directory;
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

static bool find_file(struct opened *opened, const struct croft_digest *root, const char *path,
	struct croft_digest *digest)
{
	struct croft_digest at = *root;
	for (unsigned depth = 0; depth < DEPTH_AT_MOST; depth++) {
		const Reapi__Directory *directory = directory_of(opened, &at);
		if (!directory)
			return false;
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

void opened_resolve(struct opened *opened, const struct croft_digest *root, const char *paths,
	size_t size, struct croft_digest *digests, size_t count)
{
	CROFT_LOCKED(&opened->lock);
	for (size_t i = 0; i < count; i++, paths += strlen(paths) + 1)
		if (!find_file(opened, root, paths, &digests[i]))
			digests[i] = (struct croft_digest){.size_bytes = UINT64_MAX};
}
