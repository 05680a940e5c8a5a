/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/remote/internal.h"

#include "proto/base/cleanup.h"

/* Directory messages that are kept; with more than that it starts anew. */
enum { CACHE_BYTES = 256 << 20, LEVEL_DIRECTORIES = 4096 };

struct cached {
	size_t size;
	char bytes[];
};

void remote_tree_forget(struct croft_remote *remote)
{
	size_t position = 0;
	for (void *cached; (cached = croft_digest_map_next(remote->directories, &position));)
		free(cached);
	croft_digest_map_destroy(remote->directories);
	remote->directories = croft_digest_map_create();
	remote->directory_bytes = 0;
}

/* True when it was new. */
static bool keep(struct croft_remote *remote, const struct croft_digest *digest,
	struct croft_slice bytes)
{
	CROFT_LOCKED(&remote->lock);
	if (croft_digest_map_get(remote->directories, digest))
		return false;
	if (remote->directory_bytes + bytes.size > CACHE_BYTES)
		remote_tree_forget(remote);
	struct cached *cached = croft_alloc(sizeof(*cached) + bytes.size);
	cached->size = bytes.size;
	memcpy(cached->bytes, bytes.data, bytes.size);
	*croft_digest_map_at(remote->directories, digest) = cached;
	remote->directory_bytes += sizeof(*cached) + bytes.size;
	return true;
}

static bool look_up(struct croft_remote *remote, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_slice *bytes)
{
	CROFT_LOCKED(&remote->lock);
	const struct cached *cached = croft_digest_map_get(remote->directories, digest);
	if (!cached)
		return false;
	*bytes = CROFT_SLICE(croft_arena_copy(arena, cached->bytes, cached->size), cached->size);
	return true;
}

static bool read_directory(void *user, const struct croft_digest *digest,
	struct croft_arena *arena, struct croft_slice *bytes, struct croft_error *err)
{
	struct croft_remote *remote = user;
	if (look_up(remote, digest, arena, bytes))
		return true;
	if (!croft_remote_read(remote, digest, arena, bytes, err))
		return false;
	if (bytes->size > 0)
		keep(remote, digest, *bytes);
	return true;
}

struct croft_tree_source croft_remote_tree_source(struct croft_remote *remote)
{
	return (struct croft_tree_source){read_directory, remote};
}

/* By GetTree ----------------------------------------------------------------------------------- */

/* The messages of one stream; they are verified by being kept under the digest that they have. */
static bool take_stream(struct croft_remote *remote, struct croft_stream *stream,
	struct croft_arena *arena, char **next_token, size_t *added, struct croft_error *err)
{
	void *message;
	int got;
	while ((got = croft_stream_read(stream, arena, &message, err)) > 0) {
		const Reapi__GetTreeResponse *page = message;
		for (size_t i = 0; i < page->n_directories; i++) {
			struct croft_slice bytes = croft_message_encode(&page->directories[i]->base, arena);
			struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
			if (bytes.size > 0 && keep(remote, &digest, bytes))
				++*added;
		}
		free(*next_token);
		*next_token = croft_strdup(page->next_page_token);
		croft_arena_reset(arena);
	}
	return got == 0;
}

static bool get_pages(struct croft_remote *remote, const struct croft_digest *root, char **token,
	size_t *added, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Reapi__GetTreeRequest request = REAPI__GET_TREE_REQUEST__INIT;
	request.instance_name = remote->instance_name;
	request.root_digest = croft_digest_to_message(root, arena);
	request.page_token = croft_arena_strdup(arena, *token);
	struct croft_stream *stream = croft_stream_open(
		remote->channel, NULL, REMOTE_CAS "GetTree", &reapi__get_tree_response__descriptor, err);
	if (!stream)
		return false;
	bool ok = croft_stream_write(stream, &request.base, err) &&
		croft_stream_close_write(stream, err);
	if (ok)
		ok = take_stream(remote, stream, arena, token, added, err);
	croft_stream_destroy(stream);
	return ok;
}

/* Servers may end a stream before the last page; the token then says where to go on. */
static bool get_tree(struct croft_remote *remote, const struct croft_digest *root,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *token = croft_strdup("");
	struct remote_retry retry = {.remote = remote};
	for (;;) {
		struct croft_error failure = CROFT_ERROR_INIT;
		size_t added = 0;
		bool ok = get_pages(remote, root, &token, &added, &failure);
		if (ok && (token[0] == '\0' || added == 0))
			return true;
		if (added > 0)
			remote_retry_reset(&retry);
		if (!ok && !remote_retry(&retry, &failure))
			return croft_error_set(err, failure.code, "%s", failure.message);
	}
}

/* By levels ------------------------------------------------------------------------------------ */

struct level {
	struct croft_digest *digests;
	size_t count, room;
};

static void level_add(struct level *level, struct croft_digest_map *seen,
	const struct croft_digest *digest)
{
	void **place = croft_digest_map_at(seen, digest);
	if (*place)
		return;
	*place = seen;
	if (croft_digest_is_empty(digest))
		return;
	if (level->count == level->room) {
		level->room = level->room ? level->room * 2 : 64;
		level->digests = croft_realloc(level->digests, level->room, sizeof(*level->digests));
	}
	level->digests[level->count++] = *digest;
}

/* A part of a level: reads what is not kept yet and gathers what stands below. */
static bool read_level(struct croft_remote *remote, const struct croft_digest *digests, size_t count,
	struct croft_digest_map *seen, struct level *below, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_digest *wanted = croft_arena_array(arena, count, sizeof(*wanted));
	struct croft_slice *data = croft_arena_array(arena, count, sizeof(*data));
	struct croft_slice *known = croft_arena_array(arena, count, sizeof(*known));
	size_t wanted_count = 0, known_count = 0;
	for (size_t i = 0; i < count; i++)
		if (look_up(remote, &digests[i], arena, &known[known_count]))
			known_count++;
		else
			wanted[wanted_count++] = digests[i];
	if (!croft_remote_read_many(remote, wanted, wanted_count, arena, data, err))
		return false;
	for (size_t i = 0; i < wanted_count; i++) {
		if (!data[i].data)
			return remote_not_found(&wanted[i], err);
		keep(remote, &wanted[i], data[i]);
	}
	for (size_t i = 0; i < known_count + wanted_count; i++) {
		const Reapi__Directory *directory = croft_directory_decode(
			i < known_count ? known[i] : data[i - known_count], arena, err);
		if (!directory)
			return false;
		for (size_t child = 0; child < directory->n_directories; child++) {
			struct croft_digest digest;
			if (!croft_digest_from_message(directory->directories[child]->digest,
					directory->directories[child]->name, &digest, err))
				return false;
			level_add(below, seen, &digest);
		}
	}
	return true;
}

static bool walk_levels(struct croft_remote *remote, const struct croft_digest *root,
	struct croft_error *err)
{
	struct croft_digest_map *seen = croft_digest_map_create();
	struct level level = {0};
	bool ok = true;
	level_add(&level, seen, root);
	while (ok && level.count > 0) {
		struct level below = {0};
		for (size_t at = 0; ok && at < level.count; at += LEVEL_DIRECTORIES) {
			size_t left = level.count - at;
			ok = read_level(remote, level.digests + at,
				left < LEVEL_DIRECTORIES ? left : LEVEL_DIRECTORIES, seen, &below, err);
		}
		free(level.digests);
		level = below;
	}
	free(level.digests);
	croft_digest_map_destroy(seen);
	return ok;
}

bool croft_remote_prefetch_tree(struct croft_remote *remote, const struct croft_digest *root,
	struct croft_error *err)
{
	struct croft_error failure = CROFT_ERROR_INIT;
	if (croft_digest_is_empty(root))
		return true;
	pthread_mutex_lock(&remote->lock);
	bool known = croft_digest_map_get(remote->directories, root) != NULL;
	pthread_mutex_unlock(&remote->lock);
	if (!known && !get_tree(remote, root, &failure) && failure.code == CROFT_UNAVAILABLE)
		return croft_error_set(err, failure.code, "%s", failure.message);
	/* Finds what GetTree left out (a server may lack it, or leave out what is missing, or encode
	 * messages otherwise than they were uploaded), and costs no call when that is nothing. */
	return walk_levels(remote, root, err);
}
