/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench/locality/events.h"

#include "proto/base/arena.h"

#include <stdlib.h>

static bool before(const struct sim_event *a, const struct sim_event *b)
{
	return a->time != b->time ? a->time < b->time : a->order < b->order;
}

void events_add(struct events *events, double time, uint32_t kind, uint32_t subject, uint64_t version)
{
	if (events->count == events->room) {
		events->room = events->room * 2 + 256;
		events->heap = croft_realloc(events->heap, events->room, sizeof(*events->heap));
	}
	struct sim_event event = {time, events->next_order++, kind, subject, version};
	size_t at = events->count++;
	while (at > 0 && before(&event, &events->heap[(at - 1) / 2])) {
		events->heap[at] = events->heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	events->heap[at] = event;
}

bool events_next(struct events *events, struct sim_event *event)
{
	if (events->count == 0)
		return false;
	*event = events->heap[0];
	struct sim_event last = events->heap[--events->count];
	size_t at = 0;
	for (;;) {
		size_t child = at * 2 + 1;
		if (child >= events->count)
			break;
		if (child + 1 < events->count && before(&events->heap[child + 1], &events->heap[child]))
			child++;
		if (!before(&events->heap[child], &last))
			break;
		events->heap[at] = events->heap[child];
		at = child;
	}
	if (events->count > 0)
		events->heap[at] = last;
	return true;
}

void events_finish(struct events *events)
{
	free(events->heap);
}
