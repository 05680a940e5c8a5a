/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The time that a job waits for its inputs does not use up its timeout, up to a cap: whenever the timeout is over, it
 * is put off by what the job waited meanwhile.
 */
#ifndef CROFT_AGENT_STALL_H
#define CROFT_AGENT_STALL_H

#include <stdint.h>

/* By how many milliseconds more: `stalled_ns` is all that the job waited so far, *granted_ms all that it was given. */
static inline uint64_t croft_stall_grant(uint64_t stalled_ns, uint64_t cap_ms, uint64_t *granted_ms)
{
	uint64_t due_ms = stalled_ns / 1000000;
	if (due_ms > cap_ms)
		due_ms = cap_ms;
	uint64_t more_ms = due_ms > *granted_ms ? due_ms - *granted_ms : 0;
	*granted_ms += more_ms;
	return more_ms;
}

#endif
