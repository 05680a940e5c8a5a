/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What placement learned of jobs, in a file: written now and then and at the end, read at the start. It
 * makes placement better and is never needed: one that is damaged is told of and left alone.
 */
#ifndef CROFT_SCHED_CORE_LEARNED_H
#define CROFT_SCHED_CORE_LEARNED_H

#include "sched/placement.h"

#include <sys/types.h>

/* As it stands in the file. */
struct learned;
/* Short, for it is done under the scheduler's lock; the writing is not. */
struct learned *learned_of(const struct croft_placement *placement);
bool learned_write(struct learned *learned, const char *folder, struct croft_error *err);
void learned_free(struct learned *learned);

/* The number of records; -1: there is a file, and it is damaged or cannot be read. */
ssize_t learned_read(struct croft_placement *placement, const char *folder, struct croft_error *err);

#endif
