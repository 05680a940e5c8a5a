/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sched/core: a run that ended, from its agent's word to its task's end.
 */
#ifndef CROFT_SCHED_CORE_FINISH_H
#define CROFT_SCHED_CORE_FINISH_H

#include "sched/core/core.h"
#include "sched/core/results.h"

struct finished {
	struct finished *next;
	char lease[NAME_TEXT];
	struct result_source source; /* its instance_name is owned */
	struct result result;
	double run_seconds;
	uint64_t peak_memory_bytes;
	struct croft_placement_touch *touched; /* owned */
	size_t touched_count;
};

void finisher_open(struct croft_sched *sched);
/* Ends what waits, then its thread. */
void finisher_close(struct croft_sched *sched);
/* Takes it over; returns at once. */
void finish(struct croft_sched *sched, struct finished *finished);

#endif
