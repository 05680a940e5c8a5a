/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/tree/internal.h"

#include <sys/stat.h>

enum {
	MODE_DIRECTORY = 0755,
	MODE_FILE = 0644,
	MODE_EXECUTABLE = 0755,
	MODE_SYMLINK = 0777,
	MODE_BITS = 07777,
	EXECUTE_BITS = 0111,
	DEFAULT_MTIME_S = 1321009871,
};

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

uint32_t croft_tree_mode(enum croft_entry_kind kind, bool executable, const Reapi__NodeProperties *properties)
{
	if (kind == CROFT_ENTRY_SYMLINK)
		return MODE_SYMLINK;
	if (!properties || !properties->unix_mode)
		return kind == CROFT_ENTRY_DIRECTORY ? MODE_DIRECTORY : executable ? MODE_EXECUTABLE : MODE_FILE;
	uint32_t mode = properties->unix_mode->value & MODE_BITS;
	return executable && !(mode & EXECUTE_BITS) ? mode | EXECUTE_BITS : mode;
}

struct timespec croft_tree_mtime(const Reapi__NodeProperties *properties)
{
	if (!properties || !properties->mtime)
		return (struct timespec){.tv_sec = DEFAULT_MTIME_S};
	int32_t nanos = properties->mtime->nanos;
	return (struct timespec){properties->mtime->seconds, nanos >= 0 && nanos < 1000000000 ? nanos : 0};
}

bool croft_tree_root_properties(const struct croft_tree_source *source, const struct croft_digest *root,
	struct croft_arena *arena, const Reapi__NodeProperties **properties, struct croft_error *err)
{
	const Reapi__Directory *directory = tree_read(source, root, arena, err);
	*properties = directory ? directory->node_properties : NULL;
	return directory != NULL;
}
