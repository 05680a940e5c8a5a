/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What client.c and calls.c share. */
#ifndef CROFT_FS_DAEMON_CLIENT_H
#define CROFT_FS_DAEMON_CLIENT_H

#include "fs/daemon/internal.h"

#include <pthread.h>

enum { IDLE_AT_MOST = 16 };

struct croft_daemon {
	struct croft_arena *arena; /* of the config's strings */
	struct croft_daemon_config config;
	char mountpoint[PATH_MAX];
	char program[PATH_MAX]; /* where this one was when it attached */
	int plane_port;
	uint32_t staging; /* as the daemon does it */
	uint32_t standins; /* whether it has some */

	pthread_mutex_t lock; /* guards: idle, generation */
	int idle[IDLE_AT_MOST];
	unsigned idle_count, generation; /* of connections: one for each daemon that came */

	pthread_mutex_t starting; /* guards: child, pid, attached; held while a daemon is started */
	bool attached;            /* once */
	pid_t child;              /* that this process started and has not reaped; 0 */
	pid_t pid;                /* of the daemon */
};

/* Sends the request, with a descriptor if that is not -1, and takes the answer. Starts a daemon that has died again. */
bool daemon_call(struct croft_daemon *daemon, struct daemon_request *request, int passed_fd,
	struct daemon_answer *answer, struct croft_error *err);
/* When it returns true a daemon with this config runs. */
bool daemon_ensure_running(struct croft_daemon *daemon, struct croft_error *err);

#endif
