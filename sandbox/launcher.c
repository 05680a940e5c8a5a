/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The launcher: a single-threaded process that forks the keepers. A threaded process may not fork and
 * go on working in the child; this one may.
 */
#include "sandbox/internal.h"

#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct launcher {
	struct launcher_context *context;
	const struct launcher_sockets *sockets;
	int agent; /* its pidfd */
	pid_t *keepers; /* one for each cell; 0: there is none */
};

static void heard(int number)
{
}

static bool keep(struct launcher *launcher, unsigned cell)
{
	pid_t pid = fork();
	if (pid < 0)
		return false;
	if (pid == 0) {
		close(launcher->sockets->agent);
		for (unsigned other = 0; other < launcher_cells(launcher->context); other++)
			if (other != cell)
				close(launcher->sockets->cells[other]);
		keeper_main(launcher->context, cell, launcher->sockets->cells[cell], launcher->agent);
	}
	launcher->keepers[cell] = pid;
	return true;
}

static void bury(struct launcher *launcher)
{
	pid_t dead;
	while ((dead = waitpid(-1, NULL, WNOHANG)) > 0)
		for (unsigned cell = 0; cell < launcher_cells(launcher->context); cell++)
			if (launcher->keepers[cell] == dead)
				launcher->keepers[cell] = 0;
}

void launcher_main(struct launcher_context *context, const struct launcher_sockets *sockets)
{
	struct launcher launcher = {.context = context, .sockets = sockets};
	sigset_t child, before;
	prctl(PR_SET_NAME, "croft-launcher");
	struct sigaction action = {.sa_handler = heard, .sa_flags = SA_NOCLDSTOP};
	sigaction(SIGCHLD, &action, NULL);
	/* Heard only while it waits. */
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, &before);
	sigdelset(&before, SIGCHLD);
	/* Ctrl-C on the agent's terminal is the agent's to handle: it ends us by closing the socket. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	launcher.agent = (int)syscall(SYS_pidfd_open, getppid(), 0);
	launcher.keepers = croft_array(launcher_cells(context), sizeof(pid_t));
	for (;;) {
		bool all = true;
		bury(&launcher);
		for (unsigned cell = 0; cell < launcher_cells(context); cell++)
			if (!launcher.keepers[cell] && !keep(&launcher, cell))
				all = false;
		struct pollfd fds[] = {{sockets->agent, POLLIN, 0}, {launcher.agent, POLLIN, 0}};
		struct timespec soon = {0, 100000000}; /* no process could be forked: perhaps later */
		if (ppoll(fds, 2, all ? NULL : &soon, &before) > 0)
			break;
	}
	/* They see it too, and clear up. */
	while (wait(NULL) > 0 || errno == EINTR)
		;
	_exit(0);
}

/* A user namespace that nobody lives in, for mapping owners on mounts; -1: not to be had. */
int launcher_user_namespace(const struct launcher_context *context, uint32_t base)
{
	int ready[2], done[2];
	if (pipe2(ready, O_CLOEXEC) < 0)
		return -1;
	if (pipe2(done, O_CLOEXEC) < 0) {
		close(ready[0]);
		close(ready[1]);
		return -1;
	}
	/* Not fork(): the thread sanitizer would start a thread in the child, and a user namespace is for a
	 * process with one. */
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
	if (pid == 0) {
		char byte = mounts_own(context, NULL) && unshare(CLONE_NEWUSER) == 0 ? 'y' : 'n';
		close(done[1]); /* else our own copy keeps the read below from ending */
		if (write(ready[1], &byte, 1) == 1 && read(done[0], &byte, 1) < 0)
			_exit(1);
		_exit(0);
	}
	close(ready[1]);
	close(done[0]);
	char byte = 'n', path[64], map[64];
	int fd = -1;
	if (pid > 0 && read(ready[0], &byte, 1) == 1 && byte == 'y') {
		snprintf(map, sizeof(map), "0 %u %u\n", base, IDS_PER_SLOT);
		for (int i = 0; i < 2; i++) {
			snprintf(path, sizeof(path), "/proc/%d/%s", pid, i ? "gid_map" : "uid_map");
			int map_fd = open(path, O_WRONLY | O_CLOEXEC);
			if (map_fd >= 0 && write(map_fd, map, strlen(map)) < 0)
				byte = 'n';
			if (map_fd >= 0)
				close(map_fd);
		}
		snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
		if (byte == 'y')
			fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	close(ready[0]);
	close(done[1]);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return fd;
}
