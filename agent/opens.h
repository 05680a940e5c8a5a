/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which of its inputs a job opens, in the order of the first time, by fanotify on its overlay: a file
 * that is warm in the page cache is seen like any other. What it does not tell: how much of a file was
 * read, and files that were only looked at (stat, access, readlink).
 */
#ifndef CROFT_AGENT_OPENS_H
#define CROFT_AGENT_OPENS_H

#include "proto/base/error.h"
#include "proto/base/slice.h"

#include <stdbool.h>
#include <stddef.h>

struct croft_opens;

/* Groups of fanotify for one job after the other: to end one takes the kernel longer than to run a short job. */
struct croft_listeners;
struct croft_listeners *croft_listeners_create(void);
/* When no job uses one of them. */
void croft_listeners_destroy(struct croft_listeners *listeners);

/* NULL where the kernel has none, or this is no root of the host. */
struct croft_opens *croft_opens_start(struct croft_listeners *listeners);
/* For croft_sandbox_spec; borrowed. */
int croft_opens_fd(const struct croft_opens *opens);
/* After the job's end: the paths that stand below `prefix` ("" for all), relative to it, each with a
 * NUL behind it. They live as long as `opens`. */
struct croft_slice croft_opens_finish(struct croft_opens *opens, const char *prefix, size_t *count);
/* Then: nothing was lost, for want of descriptors or since it was too much. */
bool croft_opens_complete(const struct croft_opens *opens);
/* The job's processes are gone by then. */
void croft_opens_destroy(struct croft_opens *opens);

#endif
