/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the load generator share. Each side is one thread, so that the load costs little. */
#ifndef CROFT_BENCH_SCHED_LOAD_H
#define CROFT_BENCH_SCHED_LOAD_H

#include "bench/store/core.h"
#include "fs/digest.h"

struct load {
	const char *target;       /* host:port */
	unsigned agents, clients; /* clients: operations at a time */
	unsigned operations;
	unsigned rate;            /* operations per second; 0: as fast as they end */
	const struct croft_digest *actions;
	float *latencies;         /* milliseconds, of each operation, from when it was due */
	float *late;              /* of these, until it was begun: the load's own share */
	unsigned failures;
};

/* Executes all; how many seconds that took. */
double clients_run(struct load *load);
/* Agents that are done with their jobs at once; they never end. Returns when all are connected. */
void agents_start(const struct load *load);
/* Whether an encoded Operation is done. */
bool operation_is_done(struct croft_slice bytes);

#endif
