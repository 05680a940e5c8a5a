/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The key that the blob plane asks for, where calls are for clients with certificates only: agents and clients
 * are told it in calls, others read it from the file.
 */
#ifndef CROFT_SCHED_PLANE_KEY_H
#define CROFT_SCHED_PLANE_KEY_H

#include "proto/base/arena.h"
#include "proto/base/error.h"

/* In the arena. A file that is not there is made, with a random key, for its owner alone. */
const char *plane_key_read(const char *path, struct croft_arena *arena, struct croft_error *err);

#endif
