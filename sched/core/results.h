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

struct result_source {
	struct croft_digest action;
	char *instance_name;
	bool do_not_cache, cancelled;
	struct croft_upstream *upstream; /* is told, too; or NULL */
};

/* The encoded ExecuteResponse, malloc'ed. Successful results go to the action cache, others are
 * remembered as failures. *failed: it was no success. */
struct croft_slice result_store(struct croft_store *store, const struct result_source *source,
	const Farm__JobDone *done, bool *failed);

#endif
