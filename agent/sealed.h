/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * BuildBox's property of directories, SubtreeReadOnly: "true" on a root that its job may not write to but below
 * those directories that say "false" (BuildStream's builds write to their build and their install folder alone).
 */
#ifndef CROFT_AGENT_SEALED_H
#define CROFT_AGENT_SEALED_H

#include "agent/paths.h"

#include "fs/digest.h"
#include "fs/tree.h"

/* The property of one Directory: 1 read-only, 0 not, -1 unsaid. */
int croft_sealed_says(const Reapi__Directory *directory);

/* Whether the job's root is sealed; if it is, the layout's writable directories are those on the way to its
 * outputs that say so. An output whose way is read-only all along may be made all the same. */
bool croft_sealed_root(const struct croft_tree_source *source, const struct croft_digest *root,
	struct croft_layout *layout, struct croft_arena *arena, bool *sealed, struct croft_error *err);

#endif
