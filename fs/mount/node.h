/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of what the kernel knows: one node per file content, symlink and place of a directory.
 *
 * A file's identity is its digest, mode and mtime, so a blob that stands in a thousand trees is one
 * node with one page cache. A directory cannot be shared like that: Linux gives a directory inode
 * one dentry only, and a second place would move the first one away from under whoever uses it
 * (d_splice_alias). Its identity is therefore its parent's, its name and its digest. Identities are
 * 64-bit hashes that are also the inode numbers shown, the same in every mount and after every restart.
 *
 * A node id is an index into the table. A million nodes take 72 MB and the index over them 4 to 8.
 */
#ifndef CROFT_FS_MOUNT_NODE_H
#define CROFT_FS_MOUNT_NODE_H

#include "fs/digest.h"

#include <pthread.h>
#include <sys/stat.h>

enum node_kind {
	NODE_FREE,
	NODE_ROOT,      /* what by-digest stands in */
	NODE_BY_DIGEST, /* every Directory, by name of its digest */
	NODE_DIRECTORY,
	NODE_FILE,
	NODE_SYMLINK,
	NODE_FOLDER,    /* of a view */
};

enum { NODE_ID_ROOT = 1 /* FUSE_ROOT_ID */, NODE_ID_BY_DIGEST = 2 };

struct node {
	union {
		uint8_t hash[CROFT_HASH_SIZE]; /* file, directory */
		char *target;                  /* symlink; a folder's path from the mount's root. Owned by the table */
	};
	union {
		uint64_t size; /* file: bytes; symlink, folder: length of the target */
		struct {       /* directory */
			uint32_t message_size, links;
		};
	};
	uint64_t ino;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint32_t lookups; /* that the kernel has not taken back; UINT32_MAX: never freed any more */
	uint32_t next;    /* in its bucket, or in the list of free nodes */
	uint16_t mode;    /* permissions; of a directory whose message was not read yet: 0 */
	uint8_t kind;
};

struct nodes;

struct nodes *nodes_create(void);
void nodes_destroy(struct nodes *nodes);

/* Puts what the mount starts from at NODE_ID_ROOT or NODE_ID_BY_DIGEST; never freed. */
void nodes_set(struct nodes *nodes, uint64_t id, const struct node *node);

/* The node like `wanted` (with ino set by one of the functions below), made when there is none; one
 * lookup is added. A symlink's target is copied. Returns its id. */
uint64_t nodes_intern(struct nodes *nodes, const struct node *wanted);
/* A copy; false for an id that is not in use. A symlink's target stays valid until the kernel forgets
 * the node, which it does not while a request about it is under way. */
bool nodes_get(struct nodes *nodes, uint64_t id, struct node *copy);
void nodes_forget(struct nodes *nodes, uint64_t id, uint64_t lookups);
size_t nodes_count(struct nodes *nodes);

/* For a successor (saved.c). The next node from *id on (0 at first), which is then past it; the copy's target is
 * the table's. */
bool nodes_next(struct nodes *nodes, uint64_t *id, struct node *copy);
/* Puts a node back under its id, with its lookups; a target is copied. False: no such table ever had it. */
bool nodes_restore(struct nodes *nodes, uint64_t id, const struct node *node);
/* After the last of them. */
void nodes_restored(struct nodes *nodes);

uint64_t node_file_ino(const struct node *node);
uint64_t node_symlink_ino(const struct node *node);
uint64_t node_folder_ino(const struct node *node);
uint64_t node_directory_ino(uint64_t parent_ino, struct croft_slice name,
	const struct croft_digest *digest);

struct croft_digest node_digest(const struct node *node);

/* What a directory is said to take: whole blocks, as on a disk, by the size of its message. */
static inline uint64_t node_directory_size(uint64_t message_size)
{
	return message_size ? (message_size + 4095) & ~(uint64_t)4095 : 4096;
}

#endif
