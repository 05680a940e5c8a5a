/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A handful of croft processes under one roof: started, their logs passed on line by line, started
 * again when they die, ended in order. One thread, one loop.
 */
#ifndef CROFT_CLI_CHILDREN_H
#define CROFT_CLI_CHILDREN_H

#include "proto/base/error.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct children;

/* Blocks SIGINT, SIGTERM and SIGCHLD: call before there are threads. */
struct children *children_create(struct croft_error *err);
/* Ends those that still run. */
void children_destroy(struct children *children);

/* `name` goes in front of its log lines; name and arguments are borrowed for the object's life. */
bool children_start(struct children *children, const char *name, char *const *arguments,
	struct croft_error *err);
/* The same, and waits until the child has written a line to its descriptor 3, which is returned in
 * `line`. False when it ended before, when a signal came, or after timeout_ms. */
bool children_start_ready(struct children *children, const char *name, char *const *arguments,
	unsigned timeout_ms, char *line, size_t room, struct croft_error *err);
/* What a child that died is started with from now on. */
void children_change(struct children *children, const char *name, char *const *arguments);

/* Until SIGINT or SIGTERM (true), or a child dies faster than it makes sense to start it again. */
bool children_watch(struct children *children, struct croft_error *err);
/* SIGTERM to all, the last started first, each given grace_ms before SIGKILL. */
void children_end(struct children *children, unsigned grace_ms);

#endif
