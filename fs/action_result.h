/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an ActionResult needs of the store to be of use: every output that it names.
 */
#ifndef CROFT_FS_ACTION_RESULT_H
#define CROFT_FS_ACTION_RESULT_H

#include "fs/store.h"

/* The refs of output files, Trees, output root Directories, stdout and stderr, in the arena; the
 * empty blob is left out, since it is always there. INVALID_ARGUMENT names the output whose digest is
 * missing or malformed. */
bool croft_action_result_refs(const Reapi__ActionResult *result, struct croft_arena *arena,
	struct croft_ref **refs, size_t *count, struct croft_error *err);
/* By ResultsCachePolicy's priority: for each one below 0 what the result names counts as used an hour later than now, in
 * the order of eviction. 0 and above change nothing: another result may name the same. */
void croft_action_result_prefer(struct croft_store *store, int32_t priority,
	const struct croft_ref *refs, size_t count);

#endif
