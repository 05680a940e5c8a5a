/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to sandbox/: an overlay seen from the host, by its layers, after it was unmounted. What lies
 * in the upper layer is what the job changed.
 */
#ifndef CROFT_SANDBOX_VIEW_H
#define CROFT_SANDBOX_VIEW_H

#include "sandbox/internal.h"

#include <sys/stat.h>

enum { VIEW_DEEPEST = 2000 }; /* directories in each other; each holds a descriptor of every layer */

/* A directory of the merged view: its descriptor in each layer that has it, -1 in those that do not. */
struct view_directory {
	int upper;
	int lowers[MAX_ROOTS];
};

struct view {
	struct view_directory root;
	size_t lower_count;
	const char *opaque; /* the attribute that the overlay had for directories that hide others */
};

bool view_open(struct view *view, bool privileged, const char *upper, const char *const *lowers,
	struct croft_error *err);
void view_close(struct view *view);
/* As croft_sandbox_capture says. */
bool view_capture(struct view *view, const char *path, bool special,
	bool (*entry)(void *user, const struct croft_capture_entry *entry, struct croft_error *err),
	void *user, struct croft_error *err);
/* Adds what lies below a directory of the host, if there is one. Before the job has `ended` what vanishes is
 * passed over, and directories whose owner may not open them; afterwards these are opened by force. */
bool view_usage(const char *path, bool ended, uint64_t *bytes, uint64_t *inodes, struct croft_error *err);
/* Adds files that lie nowhere any more, and that processes of the namespace have open or mapped (held.c). */
bool view_held(const char *upper, uint64_t pid_namespace, uint64_t *bytes, uint64_t *inodes,
	struct croft_error *err);

/* Steps of the walk, used by capture.c. */
/* 1: the name is there; 0: it is not; -1: that cannot be said. */
int view_look(const struct view *view, const struct view_directory *directory, const char *name,
	struct stat *st, int *dirfd, bool *in_upper, struct croft_error *err);
/* Into a directory, in each layer that has a part in it. */
bool view_descend(const struct view *view, const struct view_directory *directory,
	const char *name, struct view_directory *child, struct croft_error *err);
void view_leave(const struct view *view, struct view_directory *directory);

#endif
