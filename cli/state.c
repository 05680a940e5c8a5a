/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/state.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <stdlib.h>

static char *default_path(const char *part, struct croft_error *err)
{
	const char *base = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char *path = NULL;
	int size;
	if (base && *base == '/') {
		size = asprintf(&path, "%s/croft/%s", base, part);
	} else if (home && *home == '/') {
		size = asprintf(&path, "%s/.local/state/croft/%s", home, part);
	} else {
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"neither $HOME nor $XDG_STATE_HOME is set: --state must say where to keep things");
		return NULL;
	}
	if (size < 0)
		abort();
	return path;
}

char *state_path(const struct options *options, const char *part, struct croft_error *err)
{
	const char *given = options_value(options, "state");
	return given ? croft_strdup(given) : default_path(part, err);
}

char *state_directory(const struct options *options, const char *part, struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *path = state_path(options, part, err);
	if (!path || !croft_make_directories(path, err))
		return NULL;
	char *absolute = realpath(path, NULL);
	if (!absolute)
		croft_error_errno(err, errno, "resolving %s", path);
	return absolute;
}
