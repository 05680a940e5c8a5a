/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal of versions that kept it in LMDB. */
#ifndef CROFT_SCHED_JOURNAL_OLD_H
#define CROFT_SCHED_JOURNAL_OLD_H

#include "proto/base/error.h"
#include "proto/base/slice.h"

/* All its records, if there is one. */
bool journal_old_read(const char *path, void (*record)(void *user, struct croft_slice key, struct croft_slice value),
	void *user, struct croft_error *err);
bool journal_old_remove(const char *path, struct croft_error *err);

#endif
