/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sched/serve.c: what a server's heaps hold free goes back to the system when the work is over. The C
 * library by itself keeps much of it for ever.
 *
 *	struct memory_watch watch = {0};
 *	for (;;) // every MEMORY_TURN_SECONDS
 *		memory_turn(&watch, processor_ms());
 */
#ifndef CROFT_SCHED_MEMORY_H
#define CROFT_SCHED_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

enum { MEMORY_TURN_SECONDS = 10 };

struct memory_watch {
	uint64_t used_ms; /* of processor, at the last turn */
	bool worked;      /* since memory was given back */
};

/* Of processor, all that the process has used. */
uint64_t memory_processor_ms(void);
/* Whether memory was given back: once, in the first quiet turn behind work. */
bool memory_turn(struct memory_watch *watch, uint64_t used_ms);

#endif
