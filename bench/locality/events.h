/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A queue of what happens when; ties in the order of adding. */
#ifndef CROFT_BENCH_LOCALITY_EVENTS_H
#define CROFT_BENCH_LOCALITY_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim_event {
	double time;
	uint64_t order;
	uint32_t kind, subject;
	uint64_t version;
};

struct events {
	struct sim_event *heap;
	size_t count, room;
	uint64_t next_order;
};

void events_add(struct events *events, double time, uint32_t kind, uint32_t subject,
	uint64_t version);
bool events_next(struct events *events, struct sim_event *event);
void events_finish(struct events *events);

#endif
