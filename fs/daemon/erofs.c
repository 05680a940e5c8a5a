/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes the names and attributes of a tree, and the data of those files that the caller wants there, as an EROFS
 * image (the format is described in the kernel's fs/erofs/erofs_fs.h). Any other file has no data there: it says by
 * overlayfs's attributes at which path of the layers below it is to be read, which is its own.
 *
 * The image shows what the mount shows, to the size of directories (node_directory_size): their names are spread
 * over as many blocks as that takes. What cannot be shown so is UNIMPLEMENTED.
 *
 * Inodes follow the superblock, a directory's entries in a row; names and what else takes whole blocks stand behind
 * a hole, so that neither has to know how long the other becomes.
 */
#include "fs/daemon/internal.h"

#include "fs/mount/directory.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <endian.h>
#include <errno.h>
#include <linux/limits.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	BLOCK = 4096,
	BLOCK_BITS = 12,
	SLOT = 32, /* what inodes are numbered by */
	MAGIC = 0xE0F5E1E2,
	SUPERBLOCK_AT = 1024,
	CHUNKED_FILES = 4,          /* a feature of the format */
	CHUNK_BITS_MOST = 31,       /* beyond those of a block: one chunk is the whole file */
	EXTENDED = 1,               /* inodes, of 64 bytes */
	PLAIN = 0 << 1, INLINE = 2 << 1, CHUNKED = 4 << 1, /* where an inode's data are */
	TRUSTED = 4,                /* the prefix "trusted." of an attribute */
	TYPE_FILE = 1, TYPE_DIRECTORY = 2, TYPE_SYMLINK = 7,
	DEPTH_LIMIT = 1024,
	PIECE_BYTES = 1 << 18, /* of inodes, that are written at once */
};
static const uint64_t blocks_from = 1ull << 34;

struct superblock {
	uint32_t magic, checksum, compatible;
	uint8_t block_bits, slots;
	uint16_t root;
	uint64_t inodes, made_s;
	uint32_t made_ns, blocks, inodes_block, attributes_block;
	uint8_t uuid[16], name[16];
	uint32_t incompatible;
	uint8_t rest[44];
};
_Static_assert(sizeof(struct superblock) == 128, "as the format has it");

struct inode {
	uint16_t format, attributes, mode, unused;
	uint64_t size;
	uint32_t data; /* block, or format of chunks */
	uint32_t number, uid, gid;
	uint64_t mtime_s;
	uint32_t mtime_ns, links;
	uint8_t reserved[16];
};
_Static_assert(sizeof(struct inode) == 64, "as the format has it");

struct name {
	uint64_t inode;
	uint16_t at;
	uint8_t type, reserved;
} __attribute__((packed));

struct attribute {
	uint8_t name_size, prefix;
	uint16_t value_size;
};
enum { ATTRIBUTES_HEAD = 12 };
static const char metacopy[] = "overlay.metacopy", redirect[] = "overlay.redirect";

struct image {
	const struct erofs_source *source;
	int fd;
	uint64_t inodes_end, blocks_end; /* bytes */
	uint64_t reserved;
	uint64_t count;
	char path[PATH_MAX]; /* of the directory, with a '/' behind it */
	size_t path_size;
	char piece[PIECE_BYTES];
};

/* An entry and its place. */
struct placed {
	struct croft_slice name;
	uint64_t at, end; /* of its inode, and what stands with it */
	uint64_t blocks;  /* its target or data; 0: they stand with it, or nowhere */
	uint8_t type;
	bool has_data;    /* a file */
};

static uint64_t up(uint64_t value, uint64_t to)
{
	return (value + to - 1) / to * to;
}

/* Of the disk. */
static uint64_t bytes_of(const struct image *image)
{
	return up(image->inodes_end, BLOCK) + image->blocks_end - blocks_from;
}

/* Inodes and data are counted before they are written; a directory's names, which are no larger than its message, after. */
static bool within_bounds(struct image *image, struct croft_error *err)
{
	const struct erofs_source *source = image->source;
	uint64_t bytes = bytes_of(image);
	if (image->count > source->entries_at_most || image->inodes_end > blocks_from)
		return croft_error_set(err, CROFT_UNIMPLEMENTED, "the tree is too large");
	if (bytes > source->bytes_at_most)
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED, "its names take more than %llu bytes",
			(unsigned long long)source->bytes_at_most);
	if (bytes <= image->reserved)
		return true;
	uint64_t more = bytes - image->reserved;
	image->reserved = bytes;
	return source->reserve(source->user, more, err);
}

/* Of a file's inode ------------------------------------------------------------------------------ */

static size_t attribute_size(size_t value_size)
{
	return up(sizeof(struct attribute) + sizeof(metacopy) - 1 + value_size, 4);
}

static size_t attributes_size(const struct image *image, size_t name_size)
{
	return ATTRIBUTES_HEAD + attribute_size(0) + attribute_size(image->path_size + name_size);
}

static char *put_attribute(char *to, const char *name, const char *path, size_t path_size,
	struct croft_slice rest)
{
	struct attribute head = {sizeof(metacopy) - 1, TRUSTED, htole16((uint16_t)(path_size + rest.size))};
	memcpy(to, &head, sizeof(head));
	char *value = to + sizeof(head) + head.name_size;
	memcpy(to + sizeof(head), name, head.name_size);
	memcpy(value, path, path_size);
	memcpy(value + path_size, rest.data, rest.size);
	return to + attribute_size(path_size + rest.size);
}

static struct inode inode_of(const struct image *image, mode_t mode, int64_t mtime_s, uint32_t mtime_ns)
{
	return (struct inode){
		.mode = htole16((uint16_t)mode),
		.uid = htole32(image->source->uid),
		.gid = htole32(image->source->gid),
		.mtime_s = htole64((uint64_t)mtime_s),
		.mtime_ns = htole32(mtime_ns),
		.links = htole32(1),
	};
}

/* The data are read at this path. */
static void put_redirect(const struct image *image, struct croft_slice name, struct inode *inode, char *behind)
{
	uint32_t hole = UINT32_MAX;
	inode->format = htole16(EXTENDED | CHUNKED);
	inode->data = htole32(CHUNK_BITS_MOST);
	inode->attributes = htole16((uint16_t)((attributes_size(image, name.size) - ATTRIBUTES_HEAD) / 4 + 1));
	behind = put_attribute(behind + ATTRIBUTES_HEAD, metacopy, "", 0, CROFT_SLICE("", 0));
	behind = put_attribute(behind, redirect, image->path, image->path_size, name);
	memcpy(behind, &hole, sizeof(hole));
}

/* The data stand in the image. */
static bool put_data(struct image *image, const struct directory_entry *entry, uint64_t blocks,
	struct inode *inode, char *behind, struct croft_error *err)
{
	struct croft_digest digest = directory_entry_digest(entry);
	inode->format = htole16(EXTENDED | (blocks ? PLAIN : INLINE));
	inode->data = htole32((uint32_t)(blocks / BLOCK));
	if (!blocks)
		return image->source->read_data(image->source->user, &digest, behind, err);
	CROFT_CLEANUP_FREE char *data = croft_alloc(entry->size);
	return image->source->read_data(image->source->user, &digest, data, err) &&
		croft_pwrite_all(image->fd, data, entry->size, blocks, "an image of names", err);
}

static bool put_file(struct image *image, const struct directory_entry *entry, const struct placed *placed,
	char *to, struct croft_error *err)
{
	struct inode inode = inode_of(image, S_IFREG | entry->mode, entry->mtime_s, entry->mtime_ns);
	inode.format = htole16(EXTENDED | PLAIN);
	inode.size = htole64(entry->size);
	if (placed->has_data && !put_data(image, entry, placed->blocks, &inode, to + sizeof(inode), err))
		return false;
	if (entry->size && !placed->has_data)
		put_redirect(image, placed->name, &inode, to + sizeof(inode));
	memcpy(to, &inode, sizeof(inode));
	return true;
}

static bool put_symlink(struct image *image, const struct directory_entry *entry, const char *target,
	uint64_t blocks, char *to, struct croft_error *err)
{
	struct inode inode = inode_of(image, S_IFLNK | entry->mode, entry->mtime_s, entry->mtime_ns);
	inode.format = htole16(EXTENDED | (blocks ? PLAIN : INLINE));
	inode.size = htole64(entry->size);
	inode.data = htole32((uint32_t)(blocks / BLOCK));
	memcpy(to, &inode, sizeof(inode));
	if (blocks)
		return croft_pwrite_all(image->fd, target, entry->size, blocks, "an image of names", err);
	memcpy(to + sizeof(inode), target, entry->size);
	return true;
}

/* Of a directory ------------------------------------------------------------------------------- */

static uint8_t type_of(const struct directory_entry *entry)
{
	return entry->kind == NODE_FILE ? TYPE_FILE : entry->kind == NODE_SYMLINK ? TYPE_SYMLINK : TYPE_DIRECTORY;
}

static bool has_data(struct image *image, const struct directory *directory,
	const struct directory_entry *entry)
{
	const struct erofs_source *source = image->source;
	if (entry->kind != NODE_FILE || entry->size == 0 || entry->size > source->data_size_most)
		return false;
	struct croft_digest digest = directory_entry_digest(entry);
	memcpy(image->path + image->path_size, directory->names + entry->name, entry->name_size);
	return source->has_data(source->user, &digest,
		CROFT_SLICE(image->path + 1, image->path_size - 1 + entry->name_size));
}

/* What fits in a block behind its inode stands there. */
static void place_content(struct image *image, uint64_t size, struct placed *placed)
{
	if (sizeof(struct inode) + size > BLOCK) {
		placed->blocks = image->blocks_end;
		image->blocks_end += up(size, BLOCK);
		return;
	}
	if (placed->at % BLOCK + sizeof(struct inode) + size > BLOCK)
		placed->at = up(placed->at, BLOCK);
	placed->end = placed->at + sizeof(struct inode) + size;
}

static struct placed place(struct image *image, const struct directory *directory,
	const struct directory_entry *entry)
{
	uint64_t at = up(image->inodes_end, SLOT);
	struct placed placed = {
		.name = directory_name(directory, entry),
		.at = at,
		.end = at + sizeof(struct inode),
		.type = type_of(entry),
		.has_data = has_data(image, directory, entry),
	};
	if (placed.has_data || entry->kind == NODE_SYMLINK)
		place_content(image, entry->size, &placed);
	else if (entry->kind == NODE_FILE && entry->size)
		placed.end += attributes_size(image, entry->name_size) + sizeof(uint32_t);
	image->inodes_end = placed.end;
	return placed;
}

static int by_name(const void *one, const void *other)
{
	const struct placed *a = one, *b = other;
	return croft_slice_compare(a->name, b->name);
}

/* One block with as many names as fit, but for one each for the `others` that come. */
static size_t fill_block(const struct placed *names, size_t count, size_t others, char *block)
{
	size_t taken = 0, used = 0;
	while (taken < count && count - taken > others &&
		used + sizeof(struct name) + names[taken].name.size <= BLOCK)
		used += sizeof(struct name) + names[taken++].name.size;
	size_t at = taken * sizeof(struct name);
	for (size_t i = 0; i < taken; i++) {
		struct name name = {htole64(names[i].at / SLOT), htole16((uint16_t)at), names[i].type, 0};
		memcpy(block + i * sizeof(name), &name, sizeof(name));
		memcpy(block + at, names[i].name.data, names[i].name.size);
		at += names[i].name.size;
	}
	return taken;
}

static bool put_names(struct image *image, const struct placed *names, size_t count, uint64_t size,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *blocks = croft_array(size, 1);
	size_t done = 0;
	for (uint64_t at = 0; at < size; at += BLOCK) {
		size_t taken = fill_block(names + done, count - done, (size - at) / BLOCK - 1, blocks + at);
		if (taken == 0)
			break;
		done += taken;
		if (at + BLOCK == size && done == count) {
			uint64_t to = image->blocks_end;
			image->blocks_end += size;
			return croft_pwrite_all(image->fd, blocks, size, to, "an image of names", err);
		}
	}
	return croft_error_set(err, CROFT_UNIMPLEMENTED,
		"a directory's %zu names cannot be spread over %llu bytes", count, (unsigned long long)size);
}

static bool put_self(struct image *image, const struct directory *directory, uint64_t at,
	uint64_t size, struct croft_error *err)
{
	struct inode inode =
		inode_of(image, S_IFDIR | directory->mode, directory->mtime_s, directory->mtime_ns);
	inode.format = htole16(EXTENDED | PLAIN);
	inode.size = htole64(size);
	inode.data = htole32((uint32_t)(image->blocks_end / BLOCK));
	inode.links = htole32(directory->subdirectories + 2);
	return croft_pwrite_all(image->fd, &inode, sizeof(inode), at, "an image of names", err);
}

static bool put_inode(struct image *image, const struct directory *directory,
	const struct directory_entry *entry, const struct placed *placed, char *to, struct croft_error *err)
{
	if (entry->kind == NODE_SYMLINK)
		return put_symlink(image, entry, directory->names + entry->target, placed->blocks, to, err);
	if (entry->kind == NODE_FILE)
		return put_file(image, entry, placed, to, err);
	return true; /* each directory puts its own */
}

/* They can be far larger than the message, for each file says its whole path: a piece at a time. */
static bool put_inodes(struct image *image, const struct directory *directory,
	const struct placed *entries, struct croft_error *err)
{
	for (uint32_t done = 0, i; done < directory->count; done = i) {
		uint64_t from = entries[done].at, end = from;
		for (i = done; i < directory->count && entries[i].end - from <= PIECE_BYTES; i++)
			end = entries[i].end;
		memset(image->piece, 0, end - from);
		for (uint32_t next = done; next < i; next++)
			if (!put_inode(image, directory, &directory->entries[next], &entries[next],
					image->piece + (entries[next].at - from), err))
				return false;
		if (!croft_pwrite_all(image->fd, image->piece, end - from, from, "an image of names", err))
			return false;
	}
	return true;
}

static bool put_directory(struct image *image, const struct croft_digest *digest, uint64_t at,
	uint64_t parent_at, unsigned depth, struct croft_error *err);

/* A directory that is yet to be put: what is above it is not kept meanwhile. */
struct below {
	struct croft_digest digest;
	uint64_t at;
	uint32_t name;
	uint16_t name_size;
};

struct level {
	struct below *below;
	size_t count;
	char *names;
};

static struct level level_below(const struct directory *directory, const struct placed *entries)
{
	struct level level = {.below = croft_array(directory->subdirectories + 1, sizeof(*level.below))};
	size_t size = 0, used = 0;
	for (uint32_t i = 0; i < directory->count; i++)
		size += directory->entries[i].kind == NODE_DIRECTORY ? directory->entries[i].name_size : 0;
	level.names = croft_alloc(size + 1);
	for (uint32_t i = 0; i < directory->count; i++) {
		const struct directory_entry *entry = &directory->entries[i];
		if (entry->kind != NODE_DIRECTORY)
			continue;
		level.below[level.count++] = (struct below){directory_entry_digest(entry), entries[i].at,
			(uint32_t)used, entry->name_size};
		memcpy(level.names + used, entries[i].name.data, entry->name_size);
		used += entry->name_size;
	}
	return level;
}

static bool put_below(struct image *image, const struct level *level, uint64_t at, unsigned depth,
	struct croft_error *err)
{
	size_t path_size = image->path_size;
	bool ok = true;
	for (size_t i = 0; ok && i < level->count; i++) {
		const struct below *below = &level->below[i];
		memcpy(image->path + path_size, level->names + below->name, below->name_size);
		image->path_size = path_size + below->name_size + 1;
		image->path[image->path_size - 1] = '/';
		ok = put_directory(image, &below->digest, below->at, at, depth + 1, err);
	}
	image->path_size = path_size;
	return ok;
}

static bool place_all(struct image *image, const struct directory *directory, struct placed *entries,
	struct croft_error *err)
{
	image->count += directory->count;
	for (uint32_t i = 0; i < directory->count; i++) {
		const struct directory_entry *entry = &directory->entries[i];
		if (image->path_size + entry->name_size + 1 > sizeof(image->path))
			return croft_error_set(err, CROFT_UNIMPLEMENTED, "a path of the tree is too long");
		/* The kernel would count less than no blocks. */
		if (entry->size > INT64_MAX - BLOCK)
			return croft_error_set(err, CROFT_UNIMPLEMENTED, "a file of the tree is too large");
		entries[i] = place(image, directory, entry);
	}
	return within_bounds(image, err);
}

/* `entries` has room for two more, and is in the order of the names then. */
static bool put_entries(struct image *image, const struct directory *directory, struct placed *entries,
	uint64_t at, uint64_t parent_at, struct croft_error *err)
{
	size_t count = directory->count;
	uint64_t size = node_directory_size(directory->digest.size_bytes);
	if (!put_inodes(image, directory, entries, err) || !put_self(image, directory, at, size, err))
		return false;
	entries[count] = (struct placed){.name = CROFT_SLICE(".", 1), .at = at, .type = TYPE_DIRECTORY};
	entries[count + 1] = (struct placed){.name = CROFT_SLICE("..", 2), .at = parent_at, .type = TYPE_DIRECTORY};
	qsort(entries, count + 2, sizeof(*entries), by_name);
	return put_names(image, entries, count + 2, size, err) && within_bounds(image, err);
}

static bool put_one(struct image *image, const struct croft_digest *digest, uint64_t at,
	uint64_t parent_at, struct level *level, struct croft_error *err)
{
	struct directory *directory = image->source->read(image->source->user, digest, err);
	if (!directory)
		return false;
	struct placed *entries = croft_array((size_t)directory->count + 2, sizeof(*entries));
	bool ok = place_all(image, directory, entries, err);
	if (ok)
		*level = level_below(directory, entries);
	ok = ok && put_entries(image, directory, entries, at, parent_at, err);
	free(entries);
	directory_free(directory);
	return ok;
}

static bool put_directory(struct image *image, const struct croft_digest *digest, uint64_t at,
	uint64_t parent_at, unsigned depth, struct croft_error *err)
{
	struct level level = {0};
	if (depth == DEPTH_LIMIT)
		return croft_error_set(err, CROFT_UNIMPLEMENTED, "the tree is too deep");
	bool ok = put_one(image, digest, at, parent_at, &level, err) &&
		put_below(image, &level, at, depth, err);
	free(level.below);
	free(level.names);
	return ok;
}

bool erofs_write(int fd, const struct croft_digest *root, const struct erofs_source *source,
	struct croft_error *err)
{
	struct image *image = croft_zalloc(sizeof(*image));
	CROFT_CLEANUP_FREE void *owned = image;
	image->source = source;
	image->fd = fd;
	image->inodes_end = BLOCK + sizeof(struct inode);
	image->blocks_end = blocks_from;
	image->path[image->path_size++] = '/';
	if (!put_directory(image, root, BLOCK, BLOCK, 0, err))
		return false;
	struct superblock superblock = {
		.magic = htole32(MAGIC),
		.block_bits = BLOCK_BITS,
		.root = htole16(BLOCK / SLOT),
		.inodes = htole64(image->count + 1),
		.blocks = htole32((uint32_t)(image->blocks_end / BLOCK)),
		.incompatible = htole32(CHUNKED_FILES),
	};
	return croft_pwrite_all(fd, &superblock, sizeof(superblock), SUPERBLOCK_AT, "an image of names", err) &&
		(ftruncate(fd, (off_t)image->blocks_end) == 0 ||
			croft_error_errno(err, errno, "sizing an image of names"));
}
