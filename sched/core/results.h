/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sched/core: from an agent's JobDone to the ExecuteResponse that clients get, with the
 * result put where later Execute calls find it.
 */
#ifndef CROFT_SCHED_RESULTS_H
#define CROFT_SCHED_RESULTS_H

#include "fs/store.h"
#include "fs/upstream.h"

#include "croft/v1/farm.pb-c.h"
#include "croft/v1/journal.pb-c.h"

struct result_source {
	struct croft_digest action, input_root;
	const char *instance_name;
	const char *reason; /* why it was placed where it ran */
	bool do_not_cache, cancelled;
	int32_t keep_priority;
	struct croft_store *store;
	struct croft_upstream *upstream; /* is told, too; or NULL */
};

/* What became of a run. */
struct result {
	struct croft_arena *arena;   /* the record's parts */
	struct croft_record record;  /* the action's, or of its failure */
	bool to_keep;                /* there is one */
	struct croft_late_record *late; /* the same, made ready for the store; owned */
	struct croft_slice response; /* malloc'ed: the encoded ExecuteResponse */
	bool ran;                    /* there is one, of a success or a failure of its own */
	bool failed;                 /* it was no success */
};
void result_make(
	struct result *result, const struct result_source *source, const Farm__JobDone *done);
/* After the record was made ready, or was not: the response says so where that matters. */
void result_kept(struct result *result, const struct result_source *source);
/* Where it goes when it is published. */
Journal__TaskRecord__Kept result_table(const struct result *result);

/* Results that the journal has and the store may have lost by a crash. */
struct results_lost;
struct results_lost *results_lost_create(struct croft_store *store);
void results_lost_destroy(struct results_lost *lost);
/* True: it is missing, and is known here until it is put. */
bool results_lost_see(struct results_lost *lost, const Journal__TaskRecord *record);
/* Puts what is missing, but for those that name what is not there. False: for some there was no room, say; they
 * are kept for another try. */
bool results_lost_put(struct results_lost *lost, struct croft_error *err);

#endif
