/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The Directory messages below a root that somebody looks into for the first time, a level of the tree in as few
 * round trips as there can be, so that whoever walks on later pays for none. It is a request that nobody sent: it
 * waits for a level like others for a blob, then asks for the next.
 */
#include "fs/mount/internal.h"

#include <stdlib.h>

enum {
	DIRECTORIES_MOST = 4096,
	BYTES_MOST = 512 << 10,
	MESSAGE_MOST = 64 << 10, /* a larger one is fetched when it is looked into */
};

struct ahead {
	struct croft_digest *level;
	size_t count, room;
	size_t directories_left;
	uint64_t bytes_left;
};

void ahead_destroy(struct ahead *ahead)
{
	if (!ahead)
		return;
	free(ahead->level);
	free(ahead);
}

static void add(struct ahead *ahead, const struct croft_digest *digest)
{
	if (digest->size_bytes == 0 || digest->size_bytes > MESSAGE_MOST || ahead->directories_left == 0 ||
		digest->size_bytes > ahead->bytes_left)
		return;
	ahead->directories_left--;
	ahead->bytes_left -= digest->size_bytes;
	if (ahead->count == ahead->room) {
		ahead->room = ahead->room ? ahead->room * 2 : 64;
		ahead->level = croft_realloc(ahead->level, ahead->room, sizeof(*digest));
	}
	ahead->level[ahead->count++] = *digest;
}

static void add_children(struct croft_mount *mount, struct ahead *ahead, const struct croft_digest *digest)
{
	struct directory *directory;
	struct croft_error err;
	/* What did not come, or is no Directory, is for those to hear of who look into it. */
	if (mount_load_directory(mount, digest, &directory, &err) != LOADED)
		return;
	for (size_t i = 0; i < directory->count; i++) {
		const struct directory_entry *entry = &directory->entries[i];
		struct croft_digest child = directory_entry_digest(entry);
		if (entry->kind == NODE_DIRECTORY)
			add(ahead, &child);
	}
	directory_cache_release(mount->directories, directory);
}

/* A level has come. */
static bool run(struct request *request)
{
	struct ahead *ahead = request->ahead;
	struct croft_digest *above = ahead->level;
	size_t count = ahead->count;
	ahead->level = NULL;
	ahead->count = ahead->room = 0;
	for (size_t i = 0; i < count; i++)
		add_children(request->mount, ahead, &above[i]);
	free(above);
	return ahead->count == 0 || !request_wait_ahead(request, ahead->level, ahead->count);
}

void ahead_begin(struct croft_mount *mount, const struct croft_digest *root, uint64_t group)
{
	if (!mount->fetcher)
		return;
	struct ahead *ahead = croft_zalloc(sizeof(*ahead));
	*ahead = (struct ahead){.directories_left = DIRECTORIES_MOST, .bytes_left = BYTES_MOST};
	add(ahead, root);
	if (ahead->count == 0) {
		ahead_destroy(ahead);
		return;
	}
	struct request *request = croft_zalloc(sizeof(*request));
	*request = (struct request){.mount = mount, .run = run, .ahead = ahead, .group = group};
	if (!request_wait_ahead(request, ahead->level, ahead->count))
		request_free(request);
}
