/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to keeper.c and ahead.c. */
#ifndef CROFT_SANDBOX_KEEPER_H
#define CROFT_SANDBOX_KEEPER_H

#include "sandbox/answers.h"

struct keeper {
	const struct launcher_context *context;
	unsigned cell;
	int requests, agent;
	int host_network; /* -1: none */
	struct host_view host;
	uint32_t uid, gid; /* inside, of the user for whom the namespace is made: the last job's */
	pid_t nursery;
	int births, inner;
	struct network_watch network;
	char *traces; /* of its network namespace as it was made */
	pid_t init;
	int init_fd, init_mounts;
	uint64_t pid_namespace;
	struct croft_error failure; /* why no sandbox is ready, if none is */
	bool ready;
	bool placed; /* its directories that outlive jobs are there */
	struct kept_root kept;
	bool entered; /* the command that waits is in the root that is kept */
	bool shaped; /* and has taken the last job's shape */
	struct cgroup_counters before;
	/* Of the job: */
	const struct wire_spec *spec;
	int control;
	struct sources *rest;
	struct status end; /* the last that was told */
	bool taken; /* the command has it: no order waits for whoever comes next */
	bool killed, agent_gone;
	struct denials denials;
	struct answers answers; /* none but of jobs that ask for it */
};

/* What a sandbox of the pool is like. */
extern const struct wire_spec ahead_plain;

/* A sandbox that waits for a job, in `ready`; else `failure` says why there is none. Of the pool, or what is
 * special about it. */
void ahead_make(struct keeper *keeper, const struct wire_spec *spec);
/* One of the pool, in the root that the next job is expected to have. */
void ahead_make_with_root(struct keeper *keeper);
/* The root that is kept, and who is in it. */
bool ahead_drop_root(struct keeper *keeper, struct croft_error *err);
void ahead_end_init(struct keeper *keeper);
void ahead_end(struct keeper *keeper);
/* What a process inside says next, in `end`. False: nothing. */
bool ahead_receive(struct keeper *keeper, int flags);
bool ahead_order(const struct keeper *keeper, const struct order *order, const int *fds, size_t count,
	struct croft_error *err);

#endif
