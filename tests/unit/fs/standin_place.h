/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether there can be stand-ins where tests have their folders. Where there cannot, trees get none, and there is nothing
 * of them to be tested. */
#ifndef CROFT_TESTS_UNIT_FS_STANDIN_PLACE_H
#define CROFT_TESTS_UNIT_FS_STANDIN_PLACE_H

#include "fs/daemon/internal.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

static inline bool standins_can_be_here(void)
{
	char path[4096];
	const char *base = getenv("TMPDIR");
	struct croft_error err = CROFT_ERROR_INIT;
	snprintf(path, sizeof(path), "%s/croft-standin-XXXXXX", base ? base : "/tmp");
	assert_non_null(mkdtemp(path));
	CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool can = standin_can_be(fd, &err);
	assert_true(can || err.code == CROFT_UNIMPLEMENTED);
	if (!can)
		printf("skipped: there can be no stand-ins here: %s\n", err.message);
	err = (struct croft_error)CROFT_ERROR_INIT;
	assert_ok(croft_remove_tree(AT_FDCWD, path, &err), err);
	return can;
}

#endif
