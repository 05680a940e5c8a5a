/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hash table from digests to pointers.
 *
 *	void **place = croft_digest_map_at(map, &digest);
 *	if (!*place)
 *		*place = make_value();
 *
 * Not thread-safe. Digests come from peers, so the hash is seeded per table.
 */
#ifndef CROFT_FS_DIGEST_MAP_H
#define CROFT_FS_DIGEST_MAP_H

#include "fs/digest.h"

struct croft_digest_map;

struct croft_digest_map *croft_digest_map_create(void);
void croft_digest_map_destroy(struct croft_digest_map *map); /* not what its values point to */
/* The digest's value, to be read and set; NULL in it when the digest is new, and it must not be left
 * so. The place is borrowed until the next call. */
void **croft_digest_map_at(struct croft_digest_map *map, const struct croft_digest *digest);
/* NULL when it is not there. */
void *croft_digest_map_get(const struct croft_digest_map *map, const struct croft_digest *digest);
void croft_digest_map_remove(struct croft_digest_map *map, const struct croft_digest *digest);
size_t croft_digest_map_count(const struct croft_digest_map *map);
/* Goes through all values, in no order: start with *position 0; NULL at the end. */
void *croft_digest_map_next(const struct croft_digest_map *map, size_t *position);

#endif
