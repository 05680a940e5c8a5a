/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/memory.h"

#include <malloc.h>
#include <sys/resource.h>

/* A twentieth of a processor: more than heartbeats and the scrub take. A heap is locked while it is looked through, so
 * that is not done beside work. */
enum { QUIET_MS = MEMORY_TURN_SECONDS * 1000 / 20 };

static uint64_t milliseconds(struct timeval time)
{
	return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_usec / 1000;
}

uint64_t memory_processor_ms(void)
{
	struct rusage usage = {0};
	getrusage(RUSAGE_SELF, &usage);
	return milliseconds(usage.ru_utime) + milliseconds(usage.ru_stime);
}

bool memory_turn(struct memory_watch *watch, uint64_t used_ms)
{
	bool is_quiet = used_ms - watch->used_ms <= QUIET_MS, give_back = is_quiet && watch->worked;
	watch->used_ms = used_ms;
	watch->worked = !is_quiet;
	if (give_back)
		malloc_trim(0);
	return give_back;
}
