/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where in the journal's log the newest record of each key stands. Of one thread. */
#ifndef CROFT_SCHED_JOURNAL_KEYS_H
#define CROFT_SCHED_JOURNAL_KEYS_H

#include "sched/core/wal.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

struct journal_key {
	struct journal_key *next;          /* of its bucket */
	LIST_ENTRY(journal_key) link;      /* of its segment */
	struct wal_place place;            /* of the value */
	uint32_t size;                     /* of the value */
	uint32_t sum;                      /* of it: a copy is made only of what is still right */
	uint32_t key_size;
	uint8_t bytes[];                   /* the key */
};

static inline struct croft_slice journal_key_slice(const struct journal_key *key)
{
	return CROFT_SLICE(key->bytes, key->key_size);
}

struct journal_keys;

struct journal_keys *journal_keys_create(void);
void journal_keys_destroy(struct journal_keys *keys);
void journal_keys_put(struct journal_keys *keys, struct croft_slice key, const struct wal_place *place,
	struct croft_slice value);
void journal_keys_remove(struct journal_keys *keys, struct croft_slice key);
/* What all of them take in the log. */
uint64_t journal_keys_bytes(const struct journal_keys *keys);
/* One of the segment, then (`after`) another; NULL: no more. */
const struct journal_key *journal_keys_next(const struct journal_keys *keys, uint32_t segment,
	const struct journal_key *after);
/* All by their keys; malloc'ed. */
const struct journal_key **journal_keys_sorted(const struct journal_keys *keys, size_t *count);
/* DATA_LOSS: this is not the value that was put. */
bool journal_key_check(const struct journal_key *key, const void *value, struct croft_error *err);

#endif
