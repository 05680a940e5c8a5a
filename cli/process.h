/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting croft again as a process of its own. */
#ifndef CROFT_CLI_PROCESS_H
#define CROFT_CLI_PROCESS_H

#include "proto/base/error.h"

#include <sys/types.h>

struct spawn {
	char *const *arguments; /* argv, ended by NULL */
	int keep_fd, keep_as;   /* a descriptor to pass on, and its number there; keep_as 0: none */
	int output_fd, error_fd; /* 0: as here */
	bool new_session;       /* out of reach of this terminal's signals, without standard input */
	bool new_group;         /* Ctrl-C does not reach it by itself */
};

/* The pid, or -1. Signals are unblocked in it and at their defaults. */
pid_t spawn_self(const struct spawn *spawn, struct croft_error *err);

/* Ends this process by SIGTERM when the process `parent` (which started it) is gone; "" or NULL: not.
 * False: it is gone already. */
bool follow_parent(const char *parent, struct croft_error *err);

#endif
