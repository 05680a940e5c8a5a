/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to cgroup.c and cgroup_tree.c. */
#ifndef CROFT_SANDBOX_CGROUP_H
#define CROFT_SANDBOX_CGROUP_H

#include "sandbox/internal.h"

enum { V1_MEMORY, V1_PIDS, V1_CPU, V1_CPUACCT, V1_BLKIO, V1_COUNT };
enum { KEPT_MOST = 24 };

struct cgroups {
	bool v2;
	char *roots[V1_COUNT]; /* v2: only the first; NULL: not to be had */
	int locks[V1_COUNT];   /* held on ROOT/croft-PID for as long as somebody uses it; -1: none */
	char name[64];
	char leaf[64]; /* v2: below the root, where the agent's own processes went; "": they stayed */
	unsigned cells;
	/* Files of one cell, in its keeper, for which opening them is a good part of a job's cost. */
	bool keeping;
	unsigned kept_cell, kept_count;
	struct kept {
		const char *root, *file;
		int mode, fd;
		char written[40];
	} kept[KEPT_MOST];
};

#endif
