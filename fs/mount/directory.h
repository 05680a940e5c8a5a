/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Directory messages in the form in which they are looked into: immutable, compact, sorted; and a
 * cache of them under a byte budget. What is dropped is read from the store again, which is rare:
 * the kernel keeps what it was told.
 */
#ifndef CROFT_FS_MOUNT_DIRECTORY_H
#define CROFT_FS_MOUNT_DIRECTORY_H

#include "fs/digest.h"
#include "fs/mount/node.h"

struct directory_entry {
	union {
		uint8_t hash[CROFT_HASH_SIZE]; /* file, directory */
		uint32_t target;               /* symlink: offset in the names */
	};
	uint64_t size; /* file, directory: of the blob; symlink: length of the target */
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint32_t name; /* offset in the names; NUL behind it */
	uint16_t name_size;
	uint16_t mode; /* of files and symlinks; a directory's is in its own message */
	uint8_t kind;  /* enum node_kind */
};

struct directory {
	struct croft_digest digest;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint16_t mode;
	uint32_t count, subdirectories;
	const char *names;
	size_t bytes; /* of memory */

	/* The cache's. */
	unsigned users;
	bool cached;
	struct directory *next_in_bucket, *newer, *older;

	struct directory_entry entries[];
};

/* A message that cannot be shown is INVALID_ARGUMENT. */
struct directory *directory_decode(const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err);
void directory_free(struct directory *directory);

/* NULL: no such name. */
const struct directory_entry *directory_find(const struct directory *directory,
	struct croft_slice name);
static inline struct croft_slice directory_name(const struct directory *directory,
	const struct directory_entry *entry)
{
	return CROFT_SLICE(directory->names + entry->name, entry->name_size);
}
/* Of a file or directory. */
static inline struct croft_digest directory_entry_digest(const struct directory_entry *entry)
{
	struct croft_digest digest = {.size_bytes = entry->size};
	memcpy(digest.hash, entry->hash, sizeof(digest.hash));
	return digest;
}
/* What the kernel is to be told of the entry, as far as the parent knows. A symlink's target is
 * borrowed from the directory. */
struct node directory_node(const struct directory *directory, const struct directory_entry *entry);
/* For a place where this directory stands. */
struct node directory_self(const struct directory *directory, uint64_t ino);

struct directory_cache;
struct directory_cache *directory_cache_create(size_t budget_bytes);
void directory_cache_destroy(struct directory_cache *cache);
/* NULL: not there. Give it back with directory_cache_release. */
struct directory *directory_cache_get(struct directory_cache *cache,
	const struct croft_digest *digest);
/* Takes the directory over and returns it, or the one that is there already, in use. */
struct directory *directory_cache_put(struct directory_cache *cache, struct directory *directory);
void directory_cache_release(struct directory_cache *cache, struct directory *directory);

#endif
