/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/tree/internal.h"

#include <sys/stat.h>

enum { MODE_BITS = 07777 };

const Reapi__NodeProperties *croft_tree_properties(struct croft_tree_keep keep, uint32_t mode,
	const struct timespec *mtime, struct croft_arena *arena)
{
	bool keep_mode = keep.modes && !S_ISLNK(mode); /* a link's says nothing */
	bool keep_mtime = keep.mtimes && mtime;
	if (!keep_mode && !keep_mtime)
		return NULL;
	Reapi__NodeProperties *properties = croft_arena_alloc(arena, sizeof(*properties));
	reapi__node_properties__init(properties);
	if (keep_mtime) {
		properties->mtime = croft_arena_alloc(arena, sizeof(*properties->mtime));
		google__protobuf__timestamp__init(properties->mtime);
		properties->mtime->seconds = mtime->tv_sec;
		properties->mtime->nanos = (int32_t)mtime->tv_nsec;
	}
	if (keep_mode) {
		properties->unix_mode = croft_arena_alloc(arena, sizeof(*properties->unix_mode));
		google__protobuf__uint32_value__init(properties->unix_mode);
		properties->unix_mode->value = mode & MODE_BITS;
	}
	return properties;
}
