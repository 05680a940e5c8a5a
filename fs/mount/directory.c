/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/mount/directory.h"

#include "fs/tree.h"
#include "proto/base/cleanup.h"

#include <limits.h>

/* Names that the kernel's callers can hold, and a link that readlink() can return. */
enum { NAME_LIMIT = NAME_MAX, TARGET_LIMIT = PATH_MAX - 1 };

static void set_mtime(const Reapi__NodeProperties *properties, int64_t *seconds, uint32_t *nanoseconds)
{
	struct timespec mtime = croft_tree_mtime(properties);
	*seconds = mtime.tv_sec;
	*nanoseconds = (uint32_t)mtime.tv_nsec;
}

/* The entries of all three lists in name order. */
struct cursor {
	const Reapi__Directory *message;
	size_t file, directory, symlink;
};

static bool next(struct cursor *cursor, enum node_kind *kind, size_t *index, const char **name)
{
	const Reapi__Directory *message = cursor->message;
	*name = NULL;
	if (cursor->file < message->n_files) {
		*kind = NODE_FILE;
		*name = message->files[cursor->file]->name;
	}
	if (cursor->directory < message->n_directories) {
		const char *other = message->directories[cursor->directory]->name;
		if (!*name || strcmp(other, *name) < 0) {
			*kind = NODE_DIRECTORY;
			*name = other;
		}
	}
	if (cursor->symlink < message->n_symlinks) {
		const char *other = message->symlinks[cursor->symlink]->name;
		if (!*name || strcmp(other, *name) < 0) {
			*kind = NODE_SYMLINK;
			*name = other;
		}
	}
	if (!*name)
		return false;
	*index = *kind == NODE_FILE ? cursor->file++
		: *kind == NODE_DIRECTORY ? cursor->directory++ : cursor->symlink++;
	return true;
}

/* How many bytes the names and targets take, each with a NUL. */
static bool measure_names(const Reapi__Directory *message, size_t *size, struct croft_error *err)
{
	struct cursor cursor = {.message = message};
	enum node_kind kind;
	size_t index;
	*size = 0;
	for (const char *name; next(&cursor, &kind, &index, &name);) {
		size_t length = strlen(name);
		if (length > NAME_LIMIT)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"Directory: \"%.60s…\" is %zu bytes, more than a name may have", name,
				length);
		*size += length + 1;
		if (kind == NODE_SYMLINK) {
			length = strlen(message->symlinks[index]->target);
			if (length > TARGET_LIMIT)
				return croft_error_set(err, CROFT_INVALID_ARGUMENT,
					"Directory: the target of \"%.200s\" is %zu bytes, more than a "
					"symlink may have",
					name, length);
			*size += length + 1;
		}
	}
	if (*size > UINT32_MAX)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "Directory: %zu bytes of names",
			*size);
	return true;
}

static uint32_t add_name(char *names, size_t *used, const char *text, size_t size)
{
	uint32_t offset = (uint32_t)*used;
	memcpy(names + *used, text, size + 1);
	*used += size + 1;
	return offset;
}

static bool fill_digest(struct directory_entry *entry, const Reapi__Digest *message, const char *name,
	struct croft_error *err)
{
	struct croft_digest digest;
	if (!croft_digest_from_message(message, name, &digest, err))
		return false;
	memcpy(entry->hash, digest.hash, sizeof(entry->hash));
	entry->size = digest.size_bytes;
	if (entry->size <= (entry->kind == NODE_DIRECTORY ? (uint64_t)INT32_MAX : (uint64_t)INT64_MAX))
		return true;
	return croft_error_set(err, CROFT_INVALID_ARGUMENT,
		"Directory: \"%.200s\" claims %llu bytes", name, (unsigned long long)entry->size);
}

static bool fill_entry(struct directory_entry *entry, const Reapi__Directory *message, size_t index,
	const char *name, char *names, size_t *used, struct croft_error *err)
{
	entry->name_size = (uint16_t)strlen(name);
	entry->name = add_name(names, used, name, entry->name_size);
	if (entry->kind == NODE_DIRECTORY)
		return fill_digest(entry, message->directories[index]->digest, name, err);
	if (entry->kind == NODE_FILE) {
		const Reapi__FileNode *file = message->files[index];
		set_mtime(file->node_properties, &entry->mtime_s, &entry->mtime_ns);
		entry->mode = (uint16_t)croft_tree_mode(CROFT_ENTRY_FILE, file->is_executable, file->node_properties);
		return fill_digest(entry, file->digest, name, err);
	}
	const Reapi__SymlinkNode *symlink = message->symlinks[index];
	set_mtime(symlink->node_properties, &entry->mtime_s, &entry->mtime_ns);
	entry->mode = (uint16_t)croft_tree_mode(CROFT_ENTRY_SYMLINK, false, NULL);
	entry->size = strlen(symlink->target);
	entry->target = add_name(names, used, symlink->target, entry->size);
	return true;
}

struct directory *directory_decode(const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const Reapi__Directory *message = croft_directory_decode(bytes, arena, err);
	size_t names_size;
	if (!message || !measure_names(message, &names_size, err))
		return NULL;
	/* Each entry took bytes of the message, which is in memory: no overflow. */
	size_t count = message->n_files + message->n_directories + message->n_symlinks;
	size_t entries_size = count * sizeof(struct directory_entry);
	size_t size = sizeof(struct directory) + entries_size + names_size;
	struct directory *directory = croft_zalloc(size);
	char *names = (char *)directory->entries + entries_size;
	directory->digest = *digest;
	directory->bytes = size;
	directory->names = names;
	directory->subdirectories = (uint32_t)message->n_directories;
	directory->mode = (uint16_t)croft_tree_mode(CROFT_ENTRY_DIRECTORY, false, message->node_properties);
	set_mtime(message->node_properties, &directory->mtime_s, &directory->mtime_ns);

	struct cursor cursor = {.message = message};
	enum node_kind kind;
	size_t index, used = 0;
	for (const char *name; next(&cursor, &kind, &index, &name);) {
		struct directory_entry *entry = &directory->entries[directory->count++];
		entry->kind = (uint8_t)kind;
		if (!fill_entry(entry, message, index, name, names, &used, err)) {
			free(directory);
			return NULL;
		}
	}
	return directory;
}

void directory_free(struct directory *directory)
{
	free(directory);
}

const struct directory_entry *directory_find(const struct directory *directory,
	struct croft_slice name)
{
	size_t low = 0, high = directory->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct directory_entry *entry = &directory->entries[middle];
		int order = croft_slice_compare(name, directory_name(directory, entry));
		if (order == 0)
			return entry;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

struct node directory_node(const struct directory *directory, const struct directory_entry *entry)
{
	struct node node = {.kind = entry->kind, .size = entry->size, .mode = entry->mode,
		.mtime_s = entry->mtime_s, .mtime_ns = entry->mtime_ns};
	if (entry->kind == NODE_SYMLINK) {
		node.target = (char *)directory->names + entry->target;
		node.ino = node_symlink_ino(&node);
	} else {
		memcpy(node.hash, entry->hash, sizeof(node.hash));
		node.ino = node_file_ino(&node);
	}
	return node;
}

struct node directory_self(const struct directory *directory, uint64_t ino)
{
	struct node node = {.kind = NODE_DIRECTORY, .ino = ino, .mode = directory->mode,
		.mtime_s = directory->mtime_s, .mtime_ns = directory->mtime_ns};
	node.message_size = (uint32_t)directory->digest.size_bytes;
	node.links = directory->subdirectories + 2;
	memcpy(node.hash, directory->digest.hash, sizeof(node.hash));
	return node;
}

/* The cache ----------------------------------------------------------------------------------- */

enum { CACHE_BUCKETS = 8192 };

struct directory_cache {
	pthread_mutex_t lock; /* guards: all below, and the cache's fields of each directory */
	struct directory *buckets[CACHE_BUCKETS];
	struct directory *newest, *oldest;
	size_t bytes, budget_bytes;
};

struct directory_cache *directory_cache_create(size_t budget_bytes)
{
	struct directory_cache *cache = croft_zalloc(sizeof(*cache));
	pthread_mutex_init(&cache->lock, NULL);
	cache->budget_bytes = budget_bytes;
	return cache;
}

void directory_cache_destroy(struct directory_cache *cache)
{
	if (!cache)
		return;
	for (struct directory *directory = cache->newest, *older; directory; directory = older) {
		older = directory->older;
		directory_free(directory);
	}
	pthread_mutex_destroy(&cache->lock);
	free(cache);
}

static struct directory **bucket_of(struct directory_cache *cache, const struct croft_digest *digest)
{
	uint32_t head;
	memcpy(&head, digest->hash, sizeof(head));
	return &cache->buckets[head % CACHE_BUCKETS];
}

static struct directory *find(struct directory_cache *cache, const struct croft_digest *digest)
{
	struct directory *directory = *bucket_of(cache, digest);
	while (directory && !croft_digest_equal(&directory->digest, digest))
		directory = directory->next_in_bucket;
	return directory;
}

static void unlink_age(struct directory_cache *cache, struct directory *directory)
{
	*(directory->newer ? &directory->newer->older : &cache->newest) = directory->older;
	*(directory->older ? &directory->older->newer : &cache->oldest) = directory->newer;
}

static void link_newest(struct directory_cache *cache, struct directory *directory)
{
	directory->newer = NULL;
	directory->older = cache->newest;
	*(cache->newest ? &cache->newest->newer : &cache->oldest) = directory;
	cache->newest = directory;
}

static void drop(struct directory_cache *cache, struct directory *directory)
{
	struct directory **link = bucket_of(cache, &directory->digest);
	while (*link != directory)
		link = &(*link)->next_in_bucket;
	*link = directory->next_in_bucket;
	unlink_age(cache, directory);
	cache->bytes -= directory->bytes;
	directory->cached = false;
	if (directory->users == 0)
		directory_free(directory);
}

struct directory *directory_cache_get(struct directory_cache *cache,
	const struct croft_digest *digest)
{
	CROFT_LOCKED(&cache->lock);
	struct directory *directory = find(cache, digest);
	if (!directory)
		return NULL;
	directory->users++;
	unlink_age(cache, directory);
	link_newest(cache, directory);
	return directory;
}

struct directory *directory_cache_put(struct directory_cache *cache, struct directory *directory)
{
	CROFT_LOCKED(&cache->lock);
	struct directory *there = find(cache, &directory->digest);
	if (there) {
		directory_free(directory);
		there->users++;
		return there;
	}
	directory->users = 1;
	directory->cached = true;
	directory->next_in_bucket = *bucket_of(cache, &directory->digest);
	*bucket_of(cache, &directory->digest) = directory;
	link_newest(cache, directory);
	cache->bytes += directory->bytes;
	/* One that is larger than the whole budget stays until another comes. */
	while (cache->bytes > cache->budget_bytes && cache->oldest != directory)
		drop(cache, cache->oldest);
	return directory;
}

void directory_cache_release(struct directory_cache *cache, struct directory *directory)
{
	CROFT_LOCKED(&cache->lock);
	if (--directory->users == 0 && !directory->cached)
		directory_free(directory);
}
