/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a job read and made, as placement learns from it which jobs wait for others. */
#ifndef CROFT_SCHED_CORE_HANDED_H
#define CROFT_SCHED_CORE_HANDED_H

#include "croft/v1/farm.pb-c.h"
#include "fs/store.h"
#include "sched/placement.h"

/* In the arena. Reads the store: some of the Directories that the job left. */
struct croft_handed handed_of(struct croft_store *store, const Farm__JobDone *done, struct croft_arena *arena);

#endif
