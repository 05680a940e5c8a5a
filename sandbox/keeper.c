/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keeps one cell, on the host's side: makes a sandbox ahead, waits for a job, mounts its root, lives until
 * everything inside is dead, and removes what it left. Its mounts go with it.
 */
#include "sandbox/keeper.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* A job ------------------------------------------------------------------------------------------- */

static void report(const struct keeper *keeper, const struct report *message)
{
	/* Without an agent there is nobody to tell, and the poll loop sees that. */
	if (send(keeper->control, message, sizeof(*message), MSG_NOSIGNAL) < 0)
		return;
}

static void report_failure(const struct keeper *keeper, const char *why)
{
	struct report message = {.kind = REPORT_FAILED};
	snprintf(message.message, sizeof(message.message), "%s", why);
	report(keeper, &message);
}

/* The namespaces and what is in them depend on it. An ordinary user's job mounts its layers itself, and
 * must see the host as it is now. */
static bool is_special(const struct keeper *keeper, const struct wire_spec *spec)
{
	return spec->weaken || spec->network == CROFT_NETWORK_HOST || !keeper->context->privileged;
}

/* Whom inputs belong to is said by the user namespace. */
static bool is_of_another_user(const struct keeper *keeper, const struct wire_spec *spec)
{
	return keeper->uid != spec->uid || keeper->gid != spec->gid;
}

static bool is_alive(const struct keeper *keeper)
{
	struct pollfd init = {keeper->init_fd, POLLIN, 0};
	return keeper->ready && keeper->init > 0 && waitpid(keeper->nursery, NULL, WNOHANG) == 0 &&
		poll(&init, 1, 0) == 0;
}

/* A job is not to fail for its account. */
static void watch(const struct keeper *keeper, int fanotify, int tree, const char *path)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (fanotify >= 0 && !root_watch(fanotify, tree, path, &err))
		fprintf(stderr, "croft: what a job reads will not be known: %s\n", err.message);
}

/* What the command mounts: the root, or, when it is in it, the input; -1 when there is none. */
static bool make_tree(struct keeper *keeper, int fanotify, int *tree, struct croft_error *err)
{
	const struct launcher_context *context = keeper->context;
	const struct wire_spec *spec = keeper->spec;
	char path[4096];
	*tree = -1;
	if (!context->privileged)
		return true;
	if (!keeper->entered) {
		cell_root(context, keeper->cell, path, sizeof(path));
		*tree = root_make(context, keeper->cell, path, &keeper->host, spec, &keeper->rest, err);
		if (*tree >= 0)
			watch(keeper, fanotify, *tree, spec->input_root ? wire_text(spec, spec->input_target) + 1 : ".");
		return *tree >= 0;
	}
	if (!spec->input_root) {
		watch(keeper, fanotify, keeper->kept.tree, ".");
		if (fanotify >= 0)
			kept_spoil(&keeper->kept);
		return true;
	}
	*tree = root_make_input(context, keeper->cell, &keeper->host, spec, &keeper->rest, err);
	if (*tree >= 0)
		watch(keeper, fanotify, *tree, ".");
	return *tree >= 0;
}

static bool begin(struct keeper *keeper, const int request[REQUEST_FDS], struct croft_error *err)
{
	const struct launcher_context *context = keeper->context;
	const struct wire_spec *spec = keeper->spec;
	bool special = is_special(keeper, spec), anew = special || is_of_another_user(keeper, spec);
	struct stat st;
	if (keeper->kept.tree >= 0 &&
		(anew || !keeper->entered || !is_alive(keeper) ||
			!kept_fits(&keeper->kept, keeper->shaped, &keeper->host, spec)) &&
		!ahead_drop_root(keeper, err))
		return false;
	/* While it waited it may have died, for want of memory. */
	if (anew || !is_alive(keeper)) {
		keeper->uid = spec->uid;
		keeper->gid = spec->gid;
		if (anew || keeper->nursery < 0 || waitpid(keeper->nursery, NULL, WNOHANG) != 0)
			ahead_end(keeper);
		else
			ahead_end_init(keeper);
		ahead_make(keeper, special ? spec : &ahead_plain);
	}
	if (!keeper->ready)
		return croft_error_set(err, keeper->failure.code, "%s", keeper->failure.message);
	if (!special && fstat(request[0], &st) == 0)
		kept_remember(&keeper->kept, spec, (size_t)st.st_size);
	/* Of processes that wait in it: the nursery. */
	if (!cgroups_limit(context->cgroups, keeper->cell, spec, 1, err))
		return false;
	CROFT_CLEANUP_FD int tree;
	if (!make_tree(keeper, request[4], &tree, err))
		return false;
	int fds[] = {request[0], request[2], request[3], tree};
	struct order order = {.wait = keeper->pid_namespace != spec->pid_namespace};
	return ahead_order(keeper, &order, fds, tree < 0 ? 3 : 4, err);
}

static void on_control(struct keeper *keeper)
{
	struct command command;
	ssize_t got = recv(keeper->control, &command, sizeof(command), 0);
	if (got == (ssize_t)sizeof(command) && command.kind == COMMAND_GO) {
		if (send(keeper->inner, "g", 1, MSG_NOSIGNAL) < 0)
			kill(keeper->init, SIGKILL);
	} else if (got == (ssize_t)sizeof(command) && command.kind == COMMAND_TERMINATE) {
		kill(keeper->init, SIGTERM);
	} else if (got <= 0 && weak(keeper->spec, WEAKEN_AGENT_LOSS)) {
		keeper->agent_gone = true;
	} else if (!(got < 0 && errno == EINTR)) {
		/* Told to, or the agent is gone. */
		keeper->killed = true;
		kill(keeper->init, SIGKILL);
		keeper->agent_gone = got <= 0;
	}
}

/* False: there is none. */
static bool on_status(struct keeper *keeper)
{
	struct status before = keeper->end;
	if (!ahead_receive(keeper, MSG_DONTWAIT))
		return false;
	keeper->taken |= keeper->end.kind != STATUS_ENDED;
	if (before.kind == STATUS_FAILED) {
		keeper->end = before; /* what comes after is of no account */
	} else if (keeper->end.kind == STATUS_STARTED) {
		struct report message = {.kind = REPORT_STARTED, .pid_namespace = keeper->pid_namespace};
		report(keeper, &message);
	} else if (keeper->end.kind == STATUS_ENDED && before.kind == STATUS_EXEC) {
		keeper->end = before; /* that says more */
	}
	return true;
}

/* As soon as its filter is there. */
static void answer(struct keeper *keeper)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (!keeper->spec->sorted || keeper->denials.listener < 0 ||
		answers_start(&keeper->answers, &keeper->denials, &err))
		return;
	keeper->end.kind = STATUS_FAILED;
	snprintf(keeper->end.message, sizeof(keeper->end.message), "%s", err.message);
	kill(keeper->init, SIGKILL);
}

static void wait_end(struct keeper *keeper)
{
	for (;;) {
		answer(keeper);
		bool deaf = keeper->agent_gone;
		struct pollfd fds[] = {{keeper->init_fd, POLLIN, 0}, {keeper->inner, POLLIN, 0},
			{deaf ? -1 : keeper->control, POLLIN, 0}, {deaf ? -1 : keeper->agent, POLLIN, 0},
			{deaf ? -1 : keeper->requests, 0, 0}, {keeper->denials.listener, POLLIN, 0}};
		if (poll(fds, 6, -1) < 0)
			continue;
		if (fds[5].revents & POLLIN)
			denials_hear(&keeper->denials);
		else if (fds[5].revents)
			denials_end(&keeper->denials);
		if (fds[1].revents)
			on_status(keeper);
		if (fds[2].revents)
			on_control(keeper);
		if (fds[3].revents || fds[4].revents) {
			if (!weak(keeper->spec, WEAKEN_AGENT_LOSS))
				kill(keeper->init, SIGKILL);
			keeper->agent_gone = true;
		}
		if (fds[0].revents) {
			while (on_status(keeper))
				;
			return;
		}
	}
}

static uint64_t timeval_ns(const struct timeval *time)
{
	return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_usec * 1000u;
}

static void finish(struct keeper *keeper)
{
	struct report message = {.kind = REPORT_ENDED, .wait_status = -1};
	struct rusage usage = {0};
	while (wait4(keeper->init, NULL, 0, &usage) < 0 && errno == EINTR)
		;
	keeper->init = -1;
	message.user_ns = timeval_ns(&usage.ru_utime);
	message.system_ns = timeval_ns(&usage.ru_stime);
	message.peak_memory_bytes = (uint64_t)usage.ru_maxrss * 1024;
	if (keeper->end.kind == STATUS_ENDED) {
		message.wait_status = keeper->end.number;
	} else if (keeper->end.kind == STATUS_EXEC) {
		message.wait_status = 127 << 8;
		message.exec_errno = keeper->end.number;
	} else if (keeper->end.kind == STATUS_FAILED && !keeper->killed) {
		message.kind = REPORT_FAILED;
		snprintf(message.message, sizeof(message.message), "%s", keeper->end.message);
	}
	message.read_bytes = (uint64_t)usage.ru_inblock * 512;
	message.written_bytes = (uint64_t)usage.ru_oublock * 512;
	answers_end(&keeper->answers, &keeper->denials);
	message.denied_count = keeper->denials.count;
	memcpy(message.denied, keeper->denials.calls, sizeof(message.denied));
	denials_end(&keeper->denials);
	cgroups_measure(keeper->context->cgroups, keeper->cell, &keeper->before, &message);
	report(keeper, &message);
}

/* Afterwards ---------------------------------------------------------------------------------------- */

/* Until the agent has taken the outputs, or is gone. */
static void wait_leave(struct keeper *keeper)
{
	struct command ignored;
	while (!keeper->agent_gone) {
		struct pollfd fds[] = {
			{keeper->control, POLLIN, 0}, {keeper->agent, POLLIN, 0}, {keeper->requests, 0, 0}};
		if (poll(fds, 3, -1) < 0)
			continue;
		keeper->agent_gone = fds[1].revents || fds[2].revents;
		if (fds[0].revents && recv(keeper->control, &ignored, sizeof(ignored), 0) <= 0 &&
			errno != EINTR)
			return;
	}
}

/* Whether nothing of the job is left that another could find. Files are gone already, processes dead. */
static bool is_clean(struct keeper *keeper)
{
	if (!keeper->ready || !keeper->taken || is_special(keeper, keeper->spec) || !keeper->traces ||
		waitpid(keeper->nursery, NULL, WNOHANG) != 0)
		return false;
	while (ahead_receive(keeper, MSG_DONTWAIT))
		;
	CROFT_CLEANUP_FREE char *traces = network_traces(&keeper->network);
	return traces && strcmp(traces, keeper->traces) == 0 &&
		cgroups_reusable(keeper->context->cgroups, keeper->cell, &keeper->before);
}

/* Removes what the job wrote, and the root unless it is for the next one. True: the cell can have one. */
static bool clear_up(struct keeper *keeper, bool begun)
{
	struct croft_error err = CROFT_ERROR_INIT;
	bool kept = begun && kept_is_untouched(&keeper->kept, keeper->context, keeper->cell);
	if (!kept)
		kept_drop(&keeper->kept);
	bool removed = root_remove(keeper->context, keeper->cell, kept, &err);
	bool clean = removed && begun && is_clean(keeper);
	if (kept && !clean) {
		kept_drop(&keeper->kept);
		removed = root_remove(keeper->context, keeper->cell, false, &err);
	}
	if (!removed)
		fprintf(stderr, "croft: leaving the files of a sandbox behind: %s\n", err.message);
	return clean;
}

/* Runs one job; true: the cell can have another. */
static bool serve(struct keeper *keeper, const int fds[REQUEST_FDS])
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct wire_spec *spec = wire_spec_read(fds[0], NULL);
	keeper->spec = spec;
	keeper->control = fds[1];
	keeper->killed = keeper->taken = false;
	if (!keeper->spec)
		return false;
	bool begun = begin(keeper, fds, &err);
	root_close_sources(keeper->rest);
	keeper->rest = NULL;
	for (int i = 2; i < REQUEST_FDS; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (begun) {
		wait_end(keeper);
		finish(keeper);
	} else {
		ahead_end(keeper);
		report_failure(keeper, err.message);
	}
	wait_leave(keeper);
	ahead_end_init(keeper);
	/* A dead agent's successor may use the directory already; it empties it first. */
	bool clean = !keeper->agent_gone && clear_up(keeper, begun);
	free(spec);
	close(fds[0]);
	close(fds[1]);
	return clean;
}

/* How long a root that nobody uses may keep the host from taking its layers away, such as a disk. */
enum { HOLD_MS = 1000 };

static bool tell_ready(const struct keeper *keeper)
{
	struct ready ready = {keeper->pid_namespace};
	return send(keeper->requests, &ready, sizeof(ready), MSG_NOSIGNAL) == sizeof(ready);
}

/* False: the agent is gone. */
static bool wait_request(struct keeper *keeper)
{
	struct pollfd ready[] = {{keeper->requests, POLLIN, 0}, {keeper->agent, POLLIN, 0}};
	for (;;) {
		int count = poll(ready, 2, keeper->kept.tree >= 0 ? HOLD_MS : -1);
		if (count > 0)
			return !ready[1].revents;
		if (count < 0)
			continue;
		keeper->kept.alike = 0;
		if (ahead_drop_root(keeper, &keeper->failure))
			ahead_make(keeper, &ahead_plain);
		else
			keeper->ready = false;
		if (!tell_ready(keeper))
			return false;
	}
}

static bool receive_request(struct keeper *keeper, int fds[REQUEST_FDS])
{
	char byte;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(REQUEST_FDS * sizeof(int))];
	} control;
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space)};
	if (!wait_request(keeper) || recvmsg(keeper->requests, &message, MSG_CMSG_CLOEXEC) != 1)
		return false;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	size_t count = header && header->cmsg_len == CMSG_LEN((REQUEST_FDS - 1) * sizeof(int))
		? REQUEST_FDS - 1 : REQUEST_FDS;
	if (!header || header->cmsg_len != CMSG_LEN(count * sizeof(int)))
		return false;
	fds[REQUEST_FDS - 1] = -1;
	memcpy(fds, CMSG_DATA(header), count * sizeof(int));
	return true;
}

/* Namespaces of its own, as far as it may have any. */
static bool settle(struct keeper *keeper, struct croft_error *err)
{
	if (!keeper->context->privileged)
		return true;
	keeper->host_network = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	keeper->host.mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	keeper->host.root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (keeper->host_network < 0 || keeper->host.mounts < 0 || keeper->host.root < 0)
		return croft_error_errno(err, errno, "opening the host's namespaces");
	if (!mounts_own(keeper->context, err))
		return false;
	keeper->host.own_mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (keeper->host.own_mounts < 0)
		return croft_error_errno(err, errno, "opening the mount namespace");
	if (unshare(CLONE_NEWNET) < 0)
		return croft_error_errno(err, errno, "making a network namespace");
	return network_raise_loopback(err);
}

void keeper_main(const struct launcher_context *context, unsigned cell, int requests, int agent)
{
	struct keeper keeper = {.context = context, .cell = cell, .requests = requests, .agent = agent,
		.host_network = -1, .host = {-1, -1, -1}, .nursery = -1, .births = -1, .inner = -1, .init = -1,
		.init_fd = -1, .init_mounts = -1, .network = NETWORK_UNWATCHED, .kept = {.tree = -1, .shape_fd = -1},
		.denials = {.listener = -1}, .failure = CROFT_ERROR_INIT};
	int fds[REQUEST_FDS];
	prctl(PR_SET_NAME, "croft-sandbox");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	struct croft_error err = CROFT_ERROR_INIT;
	/* From the beginning, so that a keeper has as many descriptors whatever its jobs were like. */
	keeper.kept.shape_fd = memfd_create("croft-shape", MFD_CLOEXEC);
	bool settled = settle(&keeper, &err);
	do {
		if (settled)
			ahead_make_with_root(&keeper);
		else
			keeper.failure = err;
		if (!tell_ready(&keeper) || !receive_request(&keeper, fds))
			break;
	} while (serve(&keeper, fds));
	ahead_end(&keeper);
	_exit(0);
}
