/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An archive of somebody else's into a tree of Directory messages. */
#ifndef CROFT_SCHED_SERVICES_UNPACK_H
#define CROFT_SCHED_SERVICES_UNPACK_H

#include "fs/store.h"
#include "proto/rpc/server.h"

/* What fs/unpack.h reads, of a blob of the store; what it holds is put there, too, and
 * is leased as puts are. INVALID_ARGUMENT: no such archive, a damaged one, a name that leads outside, something that no tree can
 * hold; RESOURCE_EXHAUSTED: more than the bounds in unpack.c. Ends early with the call. `folder` is for large files
 * on their way. */
bool unpack(struct croft_store *store, struct croft_call *call, const char *folder,
	const struct croft_digest *archive, struct croft_digest *root, struct croft_error *err);

#endif
