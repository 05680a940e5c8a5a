/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/daemon.h"

#include <string.h>

static const char *const names[] = {
	[CROFT_STAGING_AUTO] = "auto",
	[CROFT_STAGING_FUSE] = "fuse",
	[CROFT_STAGING_REFLINK] = "reflink",
	[CROFT_STAGING_HARDLINK] = "hardlink",
	[CROFT_STAGING_COPY] = "copy",
};

const char *croft_staging_name(enum croft_staging staging)
{
	return names[staging];
}

bool croft_staging_parse(const char *name, enum croft_staging *staging, struct croft_error *err)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (strcmp(name, names[i]) == 0) {
			*staging = (enum croft_staging)i;
			return true;
		}
	return croft_error_set(err, CROFT_INVALID_ARGUMENT,
		"\"%s\" is no way of staging: auto, fuse, reflink, hardlink or copy", name);
}
