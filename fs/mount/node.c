/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/mount/node.h"

#include "proto/base/cleanup.h"

#include <xxhash.h>

enum { BLOCK_NODES = 4096, FIRST_BUCKETS = 4096 };

struct nodes {
	pthread_mutex_t lock; /* guards: all below */
	struct node **blocks; /* of BLOCK_NODES each; they never move */
	size_t block_count;
	uint32_t *buckets; /* ids; 0: empty */
	size_t bucket_count;
	uint32_t free; /* first free node; 0: none */
	uint32_t unused; /* ids from here on were never used */
	size_t count;
};

struct nodes *nodes_create(void)
{
	struct nodes *nodes = croft_zalloc(sizeof(*nodes));
	pthread_mutex_init(&nodes->lock, NULL);
	nodes->bucket_count = FIRST_BUCKETS;
	nodes->buckets = croft_array(FIRST_BUCKETS, sizeof(*nodes->buckets));
	nodes->unused = NODE_ID_BY_DIGEST + 1;
	nodes->blocks = croft_array(1, sizeof(*nodes->blocks));
	nodes->blocks[nodes->block_count++] = croft_array(BLOCK_NODES, sizeof(struct node));
	return nodes;
}

static struct node *at(struct nodes *nodes, uint64_t id)
{
	return &nodes->blocks[id / BLOCK_NODES][id % BLOCK_NODES];
}

static bool has_target(const struct node *node)
{
	return node->kind == NODE_SYMLINK || node->kind == NODE_FOLDER;
}

void nodes_destroy(struct nodes *nodes)
{
	if (!nodes)
		return;
	for (uint32_t id = 0; id < nodes->unused; id++)
		if (has_target(at(nodes, id)))
			free(at(nodes, id)->target);
	for (size_t i = 0; i < nodes->block_count; i++)
		free(nodes->blocks[i]);
	free(nodes->blocks);
	free(nodes->buckets);
	pthread_mutex_destroy(&nodes->lock);
	free(nodes);
}

void nodes_set(struct nodes *nodes, uint64_t id, const struct node *node)
{
	CROFT_LOCKED(&nodes->lock);
	*at(nodes, id) = *node;
	at(nodes, id)->lookups = UINT32_MAX;
	at(nodes, id)->next = 0;
}

static bool same(const struct node *a, const struct node *b)
{
	if (a->ino != b->ino || a->kind != b->kind || a->size != b->size)
		return false;
	if (has_target(a))
		return memcmp(a->target, b->target, a->size) == 0 && a->mtime_s == b->mtime_s &&
			a->mtime_ns == b->mtime_ns;
	/* A directory's mode and times are in its message: the same digest, the same ones. */
	return memcmp(a->hash, b->hash, sizeof(a->hash)) == 0 &&
		(a->kind == NODE_DIRECTORY ||
			(a->mode == b->mode && a->mtime_s == b->mtime_s &&
				a->mtime_ns == b->mtime_ns));
}

static void grow_buckets(struct nodes *nodes)
{
	size_t count = nodes->bucket_count * 2;
	uint32_t *buckets = croft_array(count, sizeof(*buckets));
	for (size_t i = 0; i < nodes->bucket_count; i++)
		for (uint32_t id = nodes->buckets[i], next; id; id = next) {
			struct node *node = at(nodes, id);
			next = node->next;
			node->next = buckets[node->ino & (count - 1)];
			buckets[node->ino & (count - 1)] = id;
		}
	free(nodes->buckets);
	nodes->buckets = buckets;
	nodes->bucket_count = count;
}

static uint32_t take_id(struct nodes *nodes)
{
	uint32_t id = nodes->free;
	if (id) {
		nodes->free = at(nodes, id)->next;
		return id;
	}
	if (nodes->unused == UINT32_MAX)
		abort(); /* 300 GB of nodes: memory ended long before */
	id = nodes->unused++;
	if (id / BLOCK_NODES == nodes->block_count) {
		nodes->blocks = croft_realloc(nodes->blocks, nodes->block_count + 1,
			sizeof(*nodes->blocks));
		nodes->blocks[nodes->block_count++] =
			croft_array(BLOCK_NODES, sizeof(struct node));
	}
	return id;
}

/* `lock` held. */
static void link_node(struct nodes *nodes, uint32_t id)
{
	if (nodes->count >= nodes->bucket_count)
		grow_buckets(nodes);
	struct node *node = at(nodes, id);
	uint32_t *bucket = &nodes->buckets[node->ino & (nodes->bucket_count - 1)];
	node->next = *bucket;
	*bucket = id;
	nodes->count++;
}

uint64_t nodes_intern(struct nodes *nodes, const struct node *wanted)
{
	CROFT_LOCKED(&nodes->lock);
	uint32_t first = nodes->buckets[wanted->ino & (nodes->bucket_count - 1)];
	for (uint32_t id = first; id; id = at(nodes, id)->next) {
		struct node *node = at(nodes, id);
		if (!same(node, wanted))
			continue;
		if (node->lookups != UINT32_MAX)
			node->lookups++;
		return id;
	}
	uint32_t id = take_id(nodes);
	struct node *node = at(nodes, id);
	*node = *wanted;
	if (has_target(node)) {
		node->target = croft_alloc(wanted->size + 1);
		memcpy(node->target, wanted->target, wanted->size);
		node->target[wanted->size] = '\0';
	}
	node->lookups = 1;
	link_node(nodes, id);
	return id;
}

bool nodes_get(struct nodes *nodes, uint64_t id, struct node *copy)
{
	CROFT_LOCKED(&nodes->lock);
	if (id == 0 || id >= nodes->unused || at(nodes, id)->kind == NODE_FREE)
		return false;
	*copy = *at(nodes, id);
	return true;
}

void nodes_forget(struct nodes *nodes, uint64_t id, uint64_t lookups)
{
	CROFT_LOCKED(&nodes->lock);
	if (id == 0 || id >= nodes->unused || at(nodes, id)->kind == NODE_FREE)
		return;
	struct node *node = at(nodes, id);
	if (node->lookups == UINT32_MAX)
		return;
	if (node->lookups > lookups) {
		node->lookups -= (uint32_t)lookups;
		return;
	}
	uint32_t *link = &nodes->buckets[node->ino & (nodes->bucket_count - 1)];
	while (*link != id)
		link = &at(nodes, *link)->next;
	*link = node->next;
	if (has_target(node))
		free(node->target);
	*node = (struct node){.kind = NODE_FREE, .next = nodes->free};
	nodes->free = (uint32_t)id;
	nodes->count--;
}

size_t nodes_count(struct nodes *nodes)
{
	CROFT_LOCKED(&nodes->lock);
	return nodes->count;
}

bool nodes_next(struct nodes *nodes, uint64_t *id, struct node *copy)
{
	CROFT_LOCKED(&nodes->lock);
	while (++*id < nodes->unused)
		if (at(nodes, *id)->kind != NODE_FREE) {
			*copy = *at(nodes, *id);
			return true;
		}
	return false;
}

static bool is_fixed(uint64_t id)
{
	return id == NODE_ID_ROOT || id == NODE_ID_BY_DIGEST;
}

bool nodes_restore(struct nodes *nodes, uint64_t id, const struct node *node)
{
	CROFT_LOCKED(&nodes->lock);
	if (id == 0 || id >= UINT32_MAX || node->kind == NODE_FREE || node->kind > NODE_SYMLINK)
		return false;
	while (id / BLOCK_NODES >= nodes->block_count) {
		nodes->blocks = croft_realloc(nodes->blocks, nodes->block_count + 1,
			sizeof(*nodes->blocks));
		nodes->blocks[nodes->block_count++] =
			croft_array(BLOCK_NODES, sizeof(struct node));
	}
	struct node *to = at(nodes, id);
	if (to->kind != NODE_FREE && !is_fixed(id))
		return false;
	*to = *node;
	to->next = 0;
	if (node->kind == NODE_SYMLINK) {
		to->target = croft_alloc(node->size + 1);
		memcpy(to->target, node->target, node->size);
		to->target[node->size] = '\0';
	}
	if (id >= nodes->unused)
		nodes->unused = (uint32_t)id + 1;
	if (!is_fixed(id))
		link_node(nodes, (uint32_t)id);
	return true;
}

void nodes_restored(struct nodes *nodes)
{
	CROFT_LOCKED(&nodes->lock);
	nodes->free = 0;
	for (uint32_t id = nodes->unused - 1; id > NODE_ID_BY_DIGEST; id--)
		if (at(nodes, id)->kind == NODE_FREE) {
			at(nodes, id)->next = nodes->free;
			nodes->free = id;
		}
}

/* 0 means "no such entry" in FUSE, 1 is the root's. */
static uint64_t usable(uint64_t ino)
{
	return ino > NODE_ID_BY_DIGEST ? ino : ino + 0x9e3779b97f4a7c15;
}

uint64_t node_file_ino(const struct node *node)
{
	struct {
		uint8_t hash[CROFT_HASH_SIZE];
		uint64_t size;
		int64_t mtime_s;
		uint32_t mtime_ns, mode;
	} identity = {.size = node->size, .mtime_s = node->mtime_s, .mtime_ns = node->mtime_ns,
		.mode = node->mode};
	memcpy(identity.hash, node->hash, sizeof(identity.hash));
	return usable(XXH3_64bits_withSeed(&identity, sizeof(identity), NODE_FILE));
}

uint64_t node_symlink_ino(const struct node *node)
{
	uint64_t times = XXH3_64bits_withSeed(&node->mtime_s, sizeof(node->mtime_s),
		node->mtime_ns);
	return usable(XXH3_64bits_withSeed(node->target, node->size, times + NODE_SYMLINK));
}

uint64_t node_folder_ino(const struct node *node)
{
	return usable(XXH3_64bits_withSeed(node->target, node->size, NODE_FOLDER));
}

uint64_t node_directory_ino(uint64_t parent_ino, struct croft_slice name,
	const struct croft_digest *digest)
{
	uint64_t place = XXH3_64bits_withSeed(name.data, name.size, parent_ino);
	return usable(XXH3_64bits_withSeed(digest->hash, sizeof(digest->hash),
		place + NODE_DIRECTORY));
}

struct croft_digest node_digest(const struct node *node)
{
	struct croft_digest digest = {
		.size_bytes = node->kind == NODE_DIRECTORY ? node->message_size : node->size};
	memcpy(digest.hash, node->hash, sizeof(digest.hash));
	return digest;
}
