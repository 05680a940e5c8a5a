/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to fs/store: directories that were found complete. Such a node is the keys of its files and its
 * subdirectories' nodes. As long as its lease lasts, or somebody holds it, nothing below it can have gone, so that it
 * need not be looked at again.
 */
#ifndef CROFT_FS_STORE_NODE_H
#define CROFT_FS_STORE_NODE_H

#include "fs/store/internal.h"

/* Of blobs. */
struct keys {
	uint64_t *items;
	size_t count, room;
};

struct node {
	struct node *next; /* in its bucket */
	struct croft_digest digest;
	enum croft_ref_kind kind;
	uint64_t until_ms;
	uint64_t damage; /* the store's count when it was found complete */
	unsigned holds;  /* while there are some, it has a pin on each key and a hold on each sub */
	unsigned refs;   /* of the table, of parents and of those who hold it */
	struct keys keys;
	struct node **subs;
	size_t sub_count;
};

struct nodes {
	struct node **items;
	size_t count, room;
};

void nodes_append(struct nodes *nodes, struct node *node);
void keys_append(struct keys *keys, const struct croft_digest *digest);

/* With the store's lock held. */
void node_hold(struct croft_store *store, struct node *node);
void node_release(struct croft_store *store, struct node *node);
void node_lease(struct croft_store *store, struct node *node, uint64_t until_ms);
/* All below it counts as used then, if not later. */
void node_use(struct croft_store *store, const struct node *node, uint64_t used_ms);
/* Enters a node that was just found complete and is held once by its maker; one that someone else
 * entered meanwhile is taken instead. */
struct node *node_enter(struct croft_store *store, struct node *node);

/* Without it. One that is complete still, with a hold for the caller; or NULL. */
struct node *node_known(struct croft_store *store, enum croft_ref_kind kind, const struct croft_digest *digest);
/* What was held or pinned is not any more, and forgotten here. */
void nodes_release(struct croft_store *store, struct nodes *nodes);
void keys_unpin(struct croft_store *store, struct keys *keys);

#endif
