/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/verdict.h"

static const char *how_it_ended(enum croft_end end)
{
	switch (end) {
	case CROFT_END_WALL_CLOCK:
		return "it ran into its timeout";
	case CROFT_END_MEMORY:
		return "it ran out of memory";
	case CROFT_END_DISK:
		return "it wrote more than its share of disk";
	case CROFT_END_LOG:
		return "it printed more than the log may hold";
	default:
		return "";
	}
}

bool croft_verdict(const struct croft_sandbox_result *ended, struct croft_error *err)
{
	const char *why = ended->message[0] ? ended->message : how_it_ended(ended->end);
	switch (ended->end) {
	case CROFT_END_WALL_CLOCK:
		return croft_error_set(err, CROFT_DEADLINE_EXCEEDED, "%s", why);
	case CROFT_END_KILLED:
		return croft_error_set(err, CROFT_CANCELLED, "%s", why);
	case CROFT_END_MEMORY:
	case CROFT_END_DISK:
	case CROFT_END_LOG:
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED, "%s", why);
	default:
		return true;
	}
}
