/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

extern char **environ;

static void set_attributes(posix_spawnattr_t *attributes, const struct spawn *spawn)
{
	sigset_t none, all;
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(attributes);
	posix_spawnattr_setsigmask(attributes, &none);
	posix_spawnattr_setsigdefault(attributes, &all);
	posix_spawnattr_setpgroup(attributes, 0);
	short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
	if (spawn->new_session)
		flags |= POSIX_SPAWN_SETSID;
	else if (spawn->new_group)
		flags |= POSIX_SPAWN_SETPGROUP;
	posix_spawnattr_setflags(attributes, flags);
}

pid_t spawn_self(const struct spawn *spawn, struct croft_error *err)
{
	posix_spawnattr_t attributes;
	posix_spawn_file_actions_t actions;
	set_attributes(&attributes, spawn);
	posix_spawn_file_actions_init(&actions);
	if (spawn->new_session || spawn->new_group)
		posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	if (spawn->output_fd)
		posix_spawn_file_actions_adddup2(&actions, spawn->output_fd, STDOUT_FILENO);
	if (spawn->error_fd)
		posix_spawn_file_actions_adddup2(&actions, spawn->error_fd, STDERR_FILENO);
	/* dup2 onto itself also clears close-on-exec here (glibc 2.29). */
	if (spawn->keep_as)
		posix_spawn_file_actions_adddup2(&actions, spawn->keep_fd, spawn->keep_as);
	pid_t child;
	int failure = posix_spawn(&child, "/proc/self/exe", &actions, &attributes, spawn->arguments,
		environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	if (failure == 0)
		return child;
	croft_error_errno(err, failure, "starting %s %s", spawn->arguments[0], spawn->arguments[1]);
	return -1;
}

bool follow_parent(const char *parent, struct croft_error *err)
{
	if (!parent || !*parent)
		return true;
	if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0)
		return croft_error_errno(err, errno, "asking to end with process %s", parent);
	return getppid() == atoi(parent) ||
		croft_error_set(err, CROFT_CANCELLED, "process %s, which this was part of, is gone", parent);
}
