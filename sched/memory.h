/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sched/serve.c: the memory of a server's heaps. While there is work, what is freed is kept for what
 * comes next: giving pages back and taking new ones cost a tenth of a large upload. When the work is over, it goes
 * back to the system.
 *
 *	memory_set_up();
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

/* For the process: before its threads start. */
void memory_set_up(void);
/* Of processor, all that the process has used. */
uint64_t memory_processor_ms(void);
/* Whether memory was given back: once, in the first quiet turn behind work. */
bool memory_turn(struct memory_watch *watch, uint64_t used_ms);

#endif
