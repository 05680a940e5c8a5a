/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How much of a tree is in the cache. Nothing is fetched, and nothing counts as used.
 */
#include "fs/daemon/internal.h"

#include "fs/digest_map.h"
#include "proto/base/cleanup.h"

enum { DEPTH_LIMIT = 1024, AT_ONCE = 256 };

struct counting {
	struct croft_store *store;
	struct croft_digest_map *known; /* Directories: to what is there below, in the arena */
	struct croft_arena *arena;
};

static bool count_files(struct counting *counting, const Reapi__Directory *directory,
	uint64_t *bytes, struct croft_error *err)
{
	struct croft_digest digests[AT_ONCE];
	bool there[AT_ONCE];
	for (size_t from = 0; from < directory->n_files; from += AT_ONCE) {
		size_t count = directory->n_files - from < AT_ONCE ? directory->n_files - from : AT_ONCE;
		for (size_t i = 0; i < count; i++)
			if (!croft_digest_from_message(
					directory->files[from + i]->digest, "a file", &digests[i], err))
				return false;
		if (!croft_store_has(counting->store, digests, count, there, err))
			return false;
		for (size_t i = 0; i < count; i++)
			*bytes += there[i] ? digests[i].size_bytes : 0;
	}
	return true;
}

static bool count_tree(struct counting *counting, const struct croft_digest *digest, unsigned depth,
	uint64_t *bytes, struct croft_error *err)
{
	const uint64_t *known = croft_digest_map_get(counting->known, digest);
	if (known || depth == DEPTH_LIMIT) {
		*bytes = known ? *known : 0;
		return true;
	}
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	uint64_t *sum = croft_arena_zalloc(counting->arena, sizeof(*sum));
	struct croft_slice data = CROFT_SLICE("", 0);
	bool there = croft_digest_is_empty(digest);
	if (!there && !croft_store_has(counting->store, digest, 1, &there, err))
		return false;
	/* One that goes just now, or has gone bad, is not there. */
	const Reapi__Directory *directory = NULL;
	if (there && (croft_digest_is_empty(digest) ||
					 croft_store_get(counting->store, digest, arena, &data, NULL)))
		directory = croft_directory_decode(data, arena, NULL);
	if (directory && !count_files(counting, directory, sum, err))
		return false;
	for (size_t i = 0; directory && i < directory->n_directories; i++) {
		struct croft_digest child;
		uint64_t below = 0;
		if (!croft_digest_from_message(
				directory->directories[i]->digest, "a directory", &child, err) ||
			!count_tree(counting, &child, depth + 1, &below, err))
			return false;
		*sum += below;
	}
	*croft_digest_map_at(counting->known, digest) = sum;
	*bytes = *sum;
	return true;
}

bool present_bytes(struct croft_store *store, const struct croft_digest *root, bool directory,
	uint64_t *bytes, struct croft_error *err)
{
	*bytes = 0;
	if (!directory) {
		bool there;
		if (!croft_store_has(store, root, 1, &there, err))
			return false;
		*bytes = there ? root->size_bytes : 0;
		return true;
	}
	struct counting counting = {store, croft_digest_map_create(), croft_arena_create()};
	bool ok = count_tree(&counting, root, 0, bytes, err);
	croft_digest_map_destroy(counting.known);
	croft_arena_destroy(counting.arena);
	return ok;
}
