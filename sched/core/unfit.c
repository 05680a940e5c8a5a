/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs that no agent of the farm could run, by what their platform asks for: they wait a while, since the
 * agents may just be starting, and then end with the reason. A farm without any agent is taken to be
 * starting: there they wait.
 */
#include "sched/core/core.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <string.h>

enum { MOST_TOLD = 8 };

static bool has_fit(struct croft_sched *sched, const struct task_class *class)
{
	const struct agent *agent;
	LIST_FOREACH (agent, &sched->agents, link)
		if (class_matches(class, agent))
			return true;
	return LIST_EMPTY(&sched->agents);
}

static const char *what_is_asked(const struct task_class *class, struct croft_arena *arena)
{
	const char *text = "";
	for (size_t i = 0; i < class->requirement_count; i++)
		text = croft_arena_printf(arena, "%s%s%s", text, *text ? ", " : "", class->requirements[i]);
	return text;
}

/* Values that agents do offer for the names that are asked for. */
static const char *what_is_there(struct croft_sched *sched, const struct task_class *class,
	struct croft_arena *arena)
{
	const char *text = "";
	unsigned told = 0;
	const struct agent *agent;
	LIST_FOREACH (agent, &sched->agents, link) {
		for (size_t i = 0; i < agent->property_count && told < MOST_TOLD; i++) {
			const char *property = agent->properties[i];
			size_t name = strcspn(property, "=") + 1;
			bool asked = false;
			for (size_t j = 0; j < class->requirement_count; j++)
				asked |= strncmp(property, class->requirements[j], name) == 0;
			if (!asked || strstr(text, property))
				continue;
			text = croft_arena_printf(arena, "%s%s%s", text, *text ? ", " : "", property);
			told++;
		}
	}
	return *text ? croft_arena_printf(arena, "there is %s", text)
		     : "none names such a property (croft agent --property NAME=VALUE)";
}

static void end_waiting(struct croft_sched *sched, struct task_class *class)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char *why = croft_arena_printf(arena,
		"no agent offers what the job's platform asks for: %s; %s", what_is_asked(class, arena),
		what_is_there(sched, class, arena));
	struct task *task = TAILQ_FIRST(&sched->queue), *next;
	for (; task && class->queued > 0; task = next) {
		next = TAILQ_NEXT(task, queue_link);
		if (task->class == class)
			task_complete_error(sched, task, CROFT_FAILED_PRECONDITION, why);
	}
}

void unfit_tick(struct croft_sched *sched)
{
	uint64_t now_ns = croft_now_ns();
	struct task_class *class;
	LIST_FOREACH (class, &sched->classes, link) {
		if (class->queued == 0)
			continue;
		if (has_fit(sched, class))
			class->unfit_ns = 0;
		else if (class->unfit_ns == 0)
			class->unfit_ns = now_ns;
		else if (now_ns - class->unfit_ns >= sched->config.unfit_ms * 1000000ull)
			end_waiting(sched, class);
	}
}
