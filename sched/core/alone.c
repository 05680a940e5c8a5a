/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tasks that nobody waits for: their clients were killed, or lost their connection and may come back by WaitExecution.
 * One that is still queued after a while is given up, since it would take a slot from those that somebody waits for.
 * One that runs goes on: most of it may be done, and its result is there for whoever asks next.
 */
#include "sched/core/core.h"

#include "proto/base/io.h"

#include <inttypes.h>
#include <stdio.h>

/* So that a queue full of them does not hold up everybody. */
enum { MOST_AT_ONCE = 1024 };

void alone_end(struct croft_sched *sched, struct task *task)
{
	if (task->alone_ns)
		TAILQ_REMOVE(&sched->alone, task, alone_link);
	task->alone_ns = 0;
}

void alone_look(struct croft_sched *sched, struct task *task)
{
	if (task->waiter_count || task->alone_ns || task->state == TASK_COMPLETED)
		return;
	task->alone_ns = croft_now_ns();
	TAILQ_INSERT_TAIL(&sched->alone, task, alone_link);
}

static void give_up(struct croft_sched *sched, struct task *task)
{
	char message[120];
	snprintf(message, sizeof(message), "given up: nobody has waited for it for %" PRIu64 " s, and it was still queued",
		sched->config.abandon_ms / 1000);
	task->abandoned = true;
	task_complete_error(sched, task, CROFT_UNAVAILABLE, message);
}

void alone_tick(struct croft_sched *sched)
{
	uint64_t now_ns = croft_now_ns();
	struct task *task;
	if (sched->config.abandon_ms == UINT64_MAX)
		return;
	for (unsigned i = 0; i < MOST_AT_ONCE && (task = TAILQ_FIRST(&sched->alone)) &&
		now_ns - task->alone_ns >= sched->config.abandon_ms * UINT64_C(1000000);
		i++) {
		alone_end(sched, task); /* one that runs is looked at again should it be queued once more */
		if (task->state == TASK_QUEUED)
			give_up(sched, task);
	}
}
