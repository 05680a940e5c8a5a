/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The launcher: a single-threaded process that forks supervisors. A threaded process may not fork and
 * go on working in the child; this one may.
 */
#include "sandbox/internal.h"

#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PASSED_FDS = 4 }; /* spec, control, stdout, stderr */

/* One request: any byte, with the four descriptors. False: the agent is gone. */
static bool receive(int socket, int fds[PASSED_FDS])
{
	char byte;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(PASSED_FDS * sizeof(int))];
	} control;
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space)};
	ssize_t got;
	while ((got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
		;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (got != 1 || !header || header->cmsg_len != CMSG_LEN(PASSED_FDS * sizeof(int)))
		return false;
	memcpy(fds, CMSG_DATA(header), PASSED_FDS * sizeof(int));
	return true;
}

static void bury(int number)
{
	int saved = errno;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	errno = saved;
}

void launcher_main(struct launcher_context *context, int socket)
{
	prctl(PR_SET_NAME, "croft-launcher");
	struct sigaction action = {.sa_handler = bury, .sa_flags = SA_NOCLDSTOP | SA_RESTART};
	sigaction(SIGCHLD, &action, NULL);
	/* Ctrl-C on the agent's terminal is the agent's to handle: it ends us by closing the socket. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	int fds[PASSED_FDS];
	while (receive(socket, fds)) {
		pid_t pid = fork();
		if (pid == 0) {
			signal(SIGCHLD, SIG_DFL);
			close(socket);
			const struct wire_spec *spec = wire_spec_map(fds[0]);
			if (!spec)
				_exit(1);
			supervisor_main(context, spec, fds[1], fds[2], fds[3]);
		}
		/* When the fork failed the control socket closes without a word, which is an error there. */
		for (int i = 0; i < PASSED_FDS; i++)
			close(fds[i]);
	}
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
