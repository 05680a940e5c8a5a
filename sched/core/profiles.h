/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Access profiles: what jobs of a kind read of their inputs, merged over runs, kept in the store. Jobs are
 * learned from on a thread of its own; when it falls behind, runs are left out.
 */
#ifndef CROFT_SCHED_CORE_PROFILES_H
#define CROFT_SCHED_CORE_PROFILES_H

#include "croft/v1/farm.pb-c.h"
#include "fs/store.h"

struct profiles;

/* The store is borrowed. */
struct profiles *profiles_open(struct croft_store *store);
/* What was learned and not yet written is. */
void profiles_close(struct profiles *profiles);

/* What a job is expected to read, in that order, in the arena; `kinds` from the exact to the coarse, of
 * which the first that is known counts. NULL: nothing is known, or predictions went wrong lately. Reads the
 * store. */
Farm__AccessProfile *profiles_predict(struct profiles *profiles, const char *const *kinds,
	size_t count, struct croft_arena *arena);
/* What a run read, under all its kinds. Does not block. */
void profiles_learn(struct profiles *profiles, const char *const *kinds, size_t count,
	const Farm__JobDone *done);

#endif
