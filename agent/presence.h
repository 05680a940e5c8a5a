/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the farm is told of this machine's cache: how much of each heavy root that jobs named is there.
 * Thread-safe.
 */
#ifndef CROFT_AGENT_PRESENCE_H
#define CROFT_AGENT_PRESENCE_H

#include "fs/daemon.h"

#include "croft/v1/farm.pb-c.h"

struct croft_presence;
struct croft_presence *croft_presence_create(void);
void croft_presence_destroy(struct croft_presence *presence);

/* After a job: looks how much of its roots is there now, if it fetched anything (else as known), and
 * says so in `done`. */
void croft_presence_of_job(struct croft_presence *presence, struct croft_daemon *daemon,
	const Farm__Job *job, bool fetched, Farm__JobDone *done, struct croft_arena *arena);

/* All that is known, as the first delta of a new epoch; in the arena. */
Farm__PresenceDelta *croft_presence_snapshot(struct croft_presence *presence,
	struct croft_arena *arena);
/* Looks again at the roots of jobs that fetched since the last time, and at the next few others, since eviction tells
 * nobody. NULL: nothing has changed. */
Farm__PresenceDelta *croft_presence_refresh(struct croft_presence *presence,
	struct croft_daemon *daemon, size_t count, struct croft_arena *arena);

#endif
