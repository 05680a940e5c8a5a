/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to fs/ring: the threads for calls that block. They start when there is work for them.
 */
#ifndef CROFT_FS_RING_WORKERS_H
#define CROFT_FS_RING_WORKERS_H

#include "fs/ring/ring.h"

struct ring_workers;

struct ring_workers *ring_workers_create(const char *name, unsigned most, struct croft_error *err);
void ring_workers_submit(struct ring_workers *workers, struct ring_work *work);
/* Everything submitted is run first. NULL is fine. */
void ring_workers_destroy(struct ring_workers *workers);

#endif
