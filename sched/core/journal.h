/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The scheduler's memory on disk: one small record per task, and announcements that wait for it.
 *
 * One thread gathers what was put meanwhile, commits it as a whole, and only then calls what was to be
 * announced, in the order of the puts. Nobody hears of a transition that a crash could undo.
 */
#ifndef CROFT_SCHED_JOURNAL_H
#define CROFT_SCHED_JOURNAL_H

#include "proto/base/error.h"
#include "proto/base/slice.h"

struct croft_journal;

struct croft_journal *croft_journal_open(const char *path, struct croft_error *err);
/* Commits what waits, calls its announcements, ends the thread. */
void croft_journal_close(struct croft_journal *journal);

/* Called on the journal's thread around the announcements of each commit; to be set before the first put. */
void croft_journal_around(struct croft_journal *journal, void (*begin)(void *user),
	void (*end)(void *user), void *user);

/* Replaces the record (value.data NULL: deletes it). `announce` may be NULL; it runs on the journal's
 * thread with no lock held: `failed` is NULL, or why the record could not be written (a full disk) when
 * `may_fail` was set. Without may_fail it is tried again until it works. Copies key and value. */
void croft_journal_put(struct croft_journal *journal, struct croft_slice key,
	struct croft_slice value, bool may_fail,
	void (*announce)(void *user, const struct croft_error *failed), void *user);

/* All records, in key order; to be called before the first put. */
bool croft_journal_each(struct croft_journal *journal,
	bool (*record)(void *user, struct croft_slice key, struct croft_slice value,
		struct croft_error *err),
	void *user, struct croft_error *err);

#endif
