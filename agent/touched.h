/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a job opened of its inputs, for its account, for its kind's profile, and for people. */
#ifndef CROFT_AGENT_TOUCHED_H
#define CROFT_AGENT_TOUCHED_H

#include "agent/opens.h"
#include "fs/daemon.h"

#include "croft/v1/farm.pb-c.h"

struct croft_touched {
	Farm__AccessProfile *profile; /* NULL: it is not known what was opened */
	/* What InputAccount.opened names, to be uploaded; none when not all of it is known. */
	bool has_list;
	struct croft_slice list;
	struct croft_digest list_digest;
};

/* After the job's end, once. `opens` may be NULL. `place` is where in its root the inputs stand ("" for
 * the root). Fills the counts of `inputs`; all is in the arena. */
bool croft_touched_find(struct croft_daemon *daemon, struct croft_opens *opens, const char *place,
	const struct croft_digest *input_root, uint64_t pid_namespace, struct croft_arena *arena,
	Farm__InputAccount *inputs, struct croft_touched *touched, struct croft_error *err);

/* The list of `count` paths: sorted by their bytes, each with a NUL behind it, compressed. */
struct croft_slice croft_touched_list(const char *const *paths, size_t count, struct croft_arena *arena);

#endif
