/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One sandbox's process on the host's side: builds its root in a mount namespace of its own, clones
 * init, and lives until all inside is dead. Its mounts go with it.
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
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct supervisor {
	const struct launcher_context *context;
	const struct wire_spec *spec;
	int control;
	int go, status; /* pipes to and from init */
	pid_t init;
	int init_fd;
	struct init_status end; /* the last that init told */
	bool ended;             /* it told how the command ended */
};

static void report(const struct supervisor *supervisor, const struct report *message)
{
	/* Without an agent there is nobody to tell, and the poll loop sees that. */
	if (send(supervisor->control, message, sizeof(*message), MSG_NOSIGNAL) < 0)
		return;
}

static void report_failure(const struct supervisor *supervisor, const struct croft_error *err)
{
	struct report message = {.kind = REPORT_FAILED};
	snprintf(message.message, sizeof(message.message), "%s", err->message);
	report(supervisor, &message);
}

static bool write_map(pid_t pid, const char *file, const char *text, struct croft_error *err)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	int failure = errno;
	if (fd >= 0)
		close(fd);
	return ok || croft_error_errno(err, failure, "writing %s", path);
}

/* As root a range of 65,536 ids for each slot; otherwise the one id that an ordinary user has. */
static bool map_ids(const struct supervisor *supervisor, struct croft_error *err)
{
	const struct launcher_context *context = supervisor->context;
	const struct wire_spec *spec = supervisor->spec;
	if (weak(spec, WEAKEN_USER_NAMESPACE))
		return true;
	char users[64], groups[64];
	if (context->privileged) {
		snprintf(users, sizeof(users), "0 %u %u\n",
			slot_ids(context, spec->slot), IDS_PER_SLOT);
		return write_map(supervisor->init, "uid_map", users, err) &&
			write_map(supervisor->init, "gid_map", users, err);
	}
	snprintf(users, sizeof(users), "%u %u 1\n", spec->uid, geteuid());
	snprintf(groups, sizeof(groups), "%u %u 1\n", spec->gid, getegid());
	return write_map(supervisor->init, "setgroups", "deny", err) &&
		write_map(supervisor->init, "uid_map", users, err) &&
		write_map(supervisor->init, "gid_map", groups, err);
}

static unsigned long clone_flags(const struct wire_spec *spec)
{
	unsigned long flags = CLONE_NEWNS | CLONE_PIDFD | SIGCHLD;
	if (spec->network != CROFT_NETWORK_HOST)
		flags |= CLONE_NEWNET;
	if (!weak(spec, WEAKEN_USER_NAMESPACE))
		flags |= CLONE_NEWUSER;
	if (!weak(spec, WEAKEN_PID_NAMESPACE))
		flags |= CLONE_NEWPID;
	if (!weak(spec, WEAKEN_IPC_NAMESPACE))
		flags |= CLONE_NEWIPC;
	if (!weak(spec, WEAKEN_UTS_NAMESPACE))
		flags |= CLONE_NEWUTS;
	return flags;
}

static bool clone_init(struct supervisor *supervisor, int out, int errors, struct croft_error *err)
{
	int go[2], status[2];
	if (pipe2(go, O_CLOEXEC) < 0 || pipe2(status, O_CLOEXEC) < 0)
		return croft_error_errno(err, errno, "making pipes");
	pid_t pid = (pid_t)syscall(SYS_clone, clone_flags(supervisor->spec), NULL, &supervisor->init_fd, NULL, 0);
	if (pid < 0)
		return croft_error_errno(err, errno, "making the namespaces");
	if (pid == 0) {
		close(go[1]);
		close(status[0]);
		close(supervisor->control);
		struct init_context context = {
			.launcher = supervisor->context,
			.spec = supervisor->spec,
			.go = go[0],
			.status = status[1],
			.out = out,
			.errors = errors,
		};
		_exit(init_main(&context));
	}
	supervisor->init = pid;
	supervisor->go = go[1];
	supervisor->status = status[0];
	close(go[0]);
	close(status[1]);
	close(out);
	if (errors != out)
		close(errors);
	return true;
}

static bool let_go(const struct supervisor *supervisor)
{
	return write(supervisor->go, "g", 1) == 1;
}

static uint64_t pid_namespace_of(pid_t pid)
{
	char path[64];
	struct stat st;
	/* The link itself is init's; what a process inside finds under /proc/self/ns/pid is the same. */
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	return stat(path, &st) == 0 ? st.st_ino : 0;
}

static bool begin(struct supervisor *supervisor, int out, int errors, struct croft_error *err)
{
	const struct launcher_context *context = supervisor->context;
	if (context->privileged) {
		if (!mounts_own(context, err) || !root_mount_layers(context, supervisor->spec, err))
			return false;
	}
	return cgroups_begin(context->cgroups, supervisor->spec, err) &&
		clone_init(supervisor, out, errors, err) && map_ids(supervisor, err) &&
		cgroups_enter(context->cgroups, supervisor->spec->slot, supervisor->init, err);
}

/* Waits for init to have built the root, and tells the agent. A layer that hangs must not keep this
 * process: a word or the loss of the agent ends it. */
static bool start(struct supervisor *supervisor, struct croft_error *err)
{
	struct init_status ready;
	struct pollfd fds[] = {
		{supervisor->status, POLLIN, 0}, {supervisor->control, POLLIN, 0}};
	if (!let_go(supervisor))
		return croft_error_errno(err, errno, "starting init");
	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	if (fds[1].revents)
		return croft_error_set(err, CROFT_CANCELLED, "killed before it started");
	if (!croft_read_all(supervisor->status, &ready, sizeof(ready), "init's word", err))
		return croft_error_wrap(err, "starting init");
	if (ready.failed[0])
		return croft_error_set(err, CROFT_INTERNAL, "%s", ready.failed);
	struct report message = {
		.kind = REPORT_STARTED, .pid_namespace = pid_namespace_of(supervisor->init)};
	report(supervisor, &message);
	return true;
}

static void on_control(struct supervisor *supervisor)
{
	struct command command;
	ssize_t got = recv(supervisor->control, &command, sizeof(command), 0);
	if (got == (ssize_t)sizeof(command) && command.kind == COMMAND_GO) {
		let_go(supervisor);
	} else if (got == (ssize_t)sizeof(command) && command.kind == COMMAND_TERMINATE) {
		kill(supervisor->init, SIGTERM);
	} else if (got <= 0 && weak(supervisor->spec, WEAKEN_AGENT_LOSS)) {
		supervisor->control = -1;
	} else if (!(got < 0 && errno == EINTR)) {
		/* Told to, or the agent is gone. */
		kill(supervisor->init, SIGKILL);
		supervisor->control = got <= 0 ? -1 : supervisor->control;
	}
}

static void on_status(struct supervisor *supervisor)
{
	struct init_status status;
	if (read(supervisor->status, &status, sizeof(status)) == sizeof(status)) {
		supervisor->end = status;
		supervisor->ended = true;
	} else {
		close(supervisor->status);
		supervisor->status = -1;
	}
}

static void wait_end(struct supervisor *supervisor)
{
	for (;;) {
		struct pollfd fds[] = {{supervisor->init_fd, POLLIN, 0}, {supervisor->status, POLLIN, 0},
			{supervisor->control, POLLIN, 0}};
		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			break;
		if (fds[1].revents)
			on_status(supervisor);
		if (fds[2].revents)
			on_control(supervisor);
		if (fds[0].revents) {
			if (supervisor->status >= 0 && !supervisor->ended)
				on_status(supervisor);
			return;
		}
	}
}

static uint64_t timeval_ns(const struct timeval *time)
{
	return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_usec * 1000u;
}

static void finish(struct supervisor *supervisor)
{
	struct report message = {.kind = REPORT_ENDED, .wait_status = -1};
	struct rusage usage = {0};
	while (wait4(supervisor->init, NULL, 0, &usage) < 0 && errno == EINTR)
		;
	message.user_ns = timeval_ns(&usage.ru_utime);
	message.system_ns = timeval_ns(&usage.ru_stime);
	message.peak_memory_bytes = (uint64_t)usage.ru_maxrss * 1024;
	if (supervisor->ended) {
		message.wait_status = supervisor->end.wait_status;
		message.exec_errno = supervisor->end.exec_errno;
		if (supervisor->end.failed[0]) {
			message.kind = REPORT_FAILED;
			snprintf(message.message, sizeof(message.message), "%s", supervisor->end.failed);
		}
	}
	message.read_bytes = (uint64_t)usage.ru_inblock * 512;
	message.written_bytes = (uint64_t)usage.ru_oublock * 512;
	cgroups_measure(supervisor->context->cgroups, supervisor->spec->slot, &message);
	report(supervisor, &message);
	/* Who waits for the result need not wait for this. */
	cgroups_end(supervisor->context->cgroups, supervisor->spec->slot);
}

void supervisor_main(const struct launcher_context *context, const struct wire_spec *spec,
	int control, int out, int errors)
{
	struct supervisor supervisor = {.context = context, .spec = spec, .control = control,
		.init = -1, .init_fd = -1, .go = -1, .status = -1};
	struct croft_error err = CROFT_ERROR_INIT;
	prctl(PR_SET_NAME, "croft-sandbox");
	signal(SIGPIPE, SIG_IGN);
	if (begin(&supervisor, out, errors, &err) && start(&supervisor, &err)) {
		wait_end(&supervisor);
		finish(&supervisor);
		_exit(0);
	}
	if (supervisor.init > 0) {
		kill(supervisor.init, SIGKILL);
		waitpid(supervisor.init, NULL, 0);
	}
	cgroups_end(context->cgroups, spec->slot);
	report_failure(&supervisor, &err);
	_exit(1);
}
