/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which content stands at the paths that a job opened. */
#include "fs/daemon/internal.h"

#include "fs/digest_map.h"
#include "proto/base/cleanup.h"

enum { DEPTH_AT_MOST = 1024 };

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

void opened_resolve(struct croft_store *store, const struct croft_digest *root, const char *paths,
	size_t size, struct croft_digest *digests, size_t count)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct finder finder = {store, arena, croft_digest_map_create(), REAPI__DIRECTORY__INIT};
	for (size_t i = 0; i < count; i++, paths += strlen(paths) + 1)
		if (!find_file(&finder, root, paths, &digests[i]))
			digests[i] = (struct croft_digest){.size_bytes = UINT64_MAX};
	croft_digest_map_destroy(finder.directories);
}
