/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to proto/rpc: a pool of threads that grows with the work and shrinks when idle.
 */
#ifndef CROFT_RPC_WORKERS_H
#define CROFT_RPC_WORKERS_H

struct croft_workers;

/* Embedded in what is to be run; `run` may free it. */
struct croft_work {
	struct croft_work *next;
	void (*run)(struct croft_work *work);
};

struct croft_workers *croft_workers_create(unsigned most);
/* In order of submission; the work waits for a free thread when `most` are busy. */
void croft_workers_submit(struct croft_workers *workers, struct croft_work *work);
/* Around a worker's wait for a peer, which may take for ever: such a thread does not count, so that
 * clients which do nothing hold up nobody else. At most 4096 of them. */
void croft_workers_begin_wait(struct croft_workers *workers);
void croft_workers_end_wait(struct croft_workers *workers);
/* Runs all that was submitted, then ends the threads. */
void croft_workers_destroy(struct croft_workers *workers);

#endif
