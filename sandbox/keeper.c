/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keeps one cell, on the host's side: makes a sandbox ahead, waits for a job, mounts its root, lives until
 * everything inside is dead, and removes what it left. Its mounts go with it.
 */
#include "sandbox/internal.h"

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
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a sandbox of the pool is like. */
static const struct wire_spec plain;

struct keeper {
	const struct launcher_context *context;
	unsigned cell;
	int requests, agent;
	int host_network; /* -1: none */
	struct host_view host;
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
	struct cgroup_counters before;
	/* Of the job: */
	const struct wire_spec *spec;
	int control;
	struct sources *rest;
	struct status end; /* the last that was told */
	bool taken; /* the command has it: no order waits for whoever comes next */
	bool killed, agent_gone;
	struct denials denials;
};

/* A sandbox ahead ---------------------------------------------------------------------------------- */

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
static bool map_ids(const struct keeper *keeper, const struct wire_spec *spec,
	struct croft_error *err)
{
	const struct launcher_context *context = keeper->context;
	if (weak(spec, WEAKEN_USER_NAMESPACE))
		return true;
	char users[64], groups[64];
	if (context->privileged) {
		snprintf(users, sizeof(users), "0 %u %u\n", cell_ids(context, keeper->cell), IDS_PER_SLOT);
		return write_map(keeper->nursery, "uid_map", users, err) &&
			write_map(keeper->nursery, "gid_map", users, err);
	}
	snprintf(users, sizeof(users), "%u %u 1\n", spec->uid, geteuid());
	snprintf(groups, sizeof(groups), "%u %u 1\n", spec->gid, getegid());
	return write_map(keeper->nursery, "setgroups", "deny", err) &&
		write_map(keeper->nursery, "uid_map", users, err) &&
		write_map(keeper->nursery, "gid_map", groups, err);
}

static unsigned long init_namespaces(const struct wire_spec *spec)
{
	unsigned long flags = CLONE_NEWNS;
	if (!weak(spec, WEAKEN_PID_NAMESPACE))
		flags |= CLONE_NEWPID;
	if (!weak(spec, WEAKEN_IPC_NAMESPACE))
		flags |= CLONE_NEWIPC;
	if (!weak(spec, WEAKEN_UTS_NAMESPACE))
		flags |= CLONE_NEWUTS;
	if (!weak(spec, WEAKEN_CGROUP_NAMESPACE))
		flags |= CLONE_NEWCGROUP;
	return flags;
}

/* As root the network namespace is the keeper's: nobody inside has any power over it. */
static bool use_network(struct keeper *keeper, const struct wire_spec *spec, struct croft_error *err)
{
	if (!keeper->context->privileged || spec->network != CROFT_NETWORK_HOST)
		return true;
	return setns(keeper->host_network, CLONE_NEWNET) == 0 ||
		croft_error_errno(err, errno, "joining the host's network");
}

static bool clone_nursery(struct keeper *keeper, const struct wire_spec *spec, struct croft_error *err)
{
	int births[2], inner[2];
	bool privileged = keeper->context->privileged;
	/* Only as root there is one that nobody inside owns. */
	bool network = (!privileged || weak(spec, WEAKEN_CAPABILITIES)) &&
		spec->network != CROFT_NETWORK_HOST;
	bool alone = privileged && spec == &plain;
	CROFT_CLEANUP_FD int dev = alone ? inside_make_dev() : -1;
	unsigned long flags = CLONE_NEWNS | SIGCHLD | (network ? CLONE_NEWNET : 0);
	if (!weak(spec, WEAKEN_USER_NAMESPACE))
		flags |= CLONE_NEWUSER;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, births) < 0)
		return croft_error_errno(err, errno, "making sockets");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, inner) < 0) {
		close(births[0]);
		close(births[1]);
		return croft_error_errno(err, errno, "making sockets");
	}
	pid_t pid = (pid_t)syscall(SYS_clone, flags, NULL, NULL, NULL, 0);
	int failure = errno;
	if (pid == 0) {
		struct nursery nursery = {
			.context = keeper->context,
			.cell = keeper->cell,
			.spec = spec,
			.births = births[1],
			.inner = inner[1],
			.dev = dev,
			.namespaces = init_namespaces(spec),
			.alone = alone,
			.raise_loopback = network && spec->network == CROFT_NETWORK_LOOPBACK,
		};
		int own[] = {births[0], inner[0], keeper->requests, keeper->agent, keeper->host_network,
			keeper->host.mounts, keeper->host.root, keeper->host.own_mounts};
		for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
			if (own[i] >= 0)
				close(own[i]);
		cgroups_forget(keeper->context->cgroups);
		network_unwatch(&keeper->network);
		nursery_main(&nursery);
	}
	close(births[1]);
	close(inner[1]);
	keeper->births = births[0];
	keeper->inner = inner[0];
	if (pid < 0)
		return croft_error_errno(err, failure, "making the namespaces");
	keeper->nursery = pid;
	return true;
}

static bool start_nursery(struct keeper *keeper, const struct wire_spec *spec,
	struct croft_error *err)
{
	struct cgroups *cgroups = keeper->context->cgroups;
	cgroups_renew(cgroups, keeper->cell);
	return cgroups_limit(cgroups, keeper->cell, &plain, 1, err) &&
		use_network(keeper, spec, err) && clone_nursery(keeper, spec, err) &&
		map_ids(keeper, spec, err) && cgroups_enter(cgroups, keeper->cell, keeper->nursery, err);
}

static bool receive_status(struct keeper *keeper, int flags)
{
	struct status status;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec data = {&status, sizeof(status)};
	struct msghdr message = {.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space)};
	ssize_t got;
	while ((got = recvmsg(keeper->inner, &message, flags | MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
		;
	if (got != sizeof(status))
		return false;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_len == CMSG_LEN(sizeof(int))) {
		int listener;
		memcpy(&listener, CMSG_DATA(header), sizeof(listener));
		denials_listen(&keeper->denials, listener);
	}
	keeper->end = status;
	return true;
}

static bool send_order(const struct keeper *keeper, const struct order *order, const int *fds,
	size_t count, struct croft_error *err)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control = {0};
	struct iovec data = {(void *)order, sizeof(*order)};
	struct msghdr message = {.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = CMSG_SPACE(count * sizeof(int))};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(header), fds, count * sizeof(int));
	return sendmsg(keeper->inner, &message, MSG_NOSIGNAL) == sizeof(*order) ||
		croft_error_errno(err, errno, "giving the sandbox its job");
}

static bool wait_status(struct keeper *keeper, enum status_kind wanted, struct croft_error *err)
{
	struct pollfd fds[] = {{keeper->inner, POLLIN, 0}, {keeper->init_fd, POLLIN, 0}};
	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	if (!receive_status(keeper, MSG_DONTWAIT))
		return croft_error_set(err, CROFT_INTERNAL, "init died");
	return keeper->end.kind == wanted || croft_error_set(err, CROFT_INTERNAL, "%s", keeper->end.message);
}

/* Has the nursery clone an init, and waits until it is ready. */
static bool make_init(struct keeper *keeper, struct croft_error *err)
{
	struct birth birth;
	char path[64];
	if (send(keeper->births, "b", 1, MSG_NOSIGNAL) != 1 ||
		recv(keeper->births, &birth, sizeof(birth), 0) != sizeof(birth)) {
		if (receive_status(keeper, MSG_DONTWAIT))
			return croft_error_set(err, CROFT_INTERNAL, "%s", keeper->end.message);
		return croft_error_set(err, CROFT_INTERNAL, "the process that was to make it died");
	}
	if (birth.pid < 0)
		return croft_error_errno(err, birth.failure, "making the namespaces");
	keeper->init = birth.pid;
	keeper->init_fd = (int)syscall(SYS_pidfd_open, birth.pid, 0);
	if (keeper->init_fd < 0)
		return croft_error_errno(err, errno, "opening the process that was made");
	if (!wait_status(keeper, STATUS_READY, err))
		return false;
	keeper->pid_namespace = keeper->end.pid_namespace;
	/* The last process in a mount namespace pays for its end; held, it is not init, which is waited for. */
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", keeper->init);
	keeper->init_mounts = open(path, O_RDONLY | O_CLOEXEC);
	return true;
}

static void end_init(struct keeper *keeper)
{
	if (keeper->init > 0) {
		kill(keeper->init, SIGKILL);
		waitpid(keeper->init, NULL, 0);
	}
	keeper->init = -1;
	keeper->entered = false;
	if (keeper->init_fd >= 0)
		close(keeper->init_fd);
	if (keeper->init_mounts >= 0)
		close(keeper->init_mounts);
	keeper->init_fd = keeper->init_mounts = -1;
}

static void end_nursery(struct keeper *keeper)
{
	end_init(keeper);
	keeper->ready = false;
	if (keeper->nursery > 0) {
		kill(keeper->nursery, SIGKILL);
		waitpid(keeper->nursery, NULL, 0);
	}
	keeper->nursery = -1;
	if (keeper->births >= 0)
		close(keeper->births);
	if (keeper->inner >= 0)
		close(keeper->inner);
	keeper->births = keeper->inner = -1;
}

static void make_ready(struct keeper *keeper, const struct wire_spec *spec)
{
	const struct launcher_context *context = keeper->context;
	struct croft_error *err = &keeper->failure;
	*err = (struct croft_error)CROFT_ERROR_INIT;
	keeper->ready =
		(keeper->kept.tree >= 0 || root_prepare(context, keeper->cell, !keeper->placed, err)) &&
		(keeper->nursery > 0 || start_nursery(keeper, spec, err)) && make_init(keeper, err);
	if (!keeper->ready)
		return;
	keeper->placed = true;
	if (!keeper->traces) {
		network_unwatch(&keeper->network);
		network_watch(&keeper->network, keeper->nursery);
		keeper->traces = network_traces(&keeper->network);
	}
	cgroups_count(context->cgroups, keeper->cell, &keeper->before);
}

/* The root that is kept, and who is in it. */
static bool let_go_of_root(struct keeper *keeper, struct croft_error *err)
{
	end_init(keeper);
	while (receive_status(keeper, MSG_DONTWAIT))
		;
	kept_drop(&keeper->kept);
	return root_remove(keeper->context, keeper->cell, false, err);
}

static bool enter_kept(struct keeper *keeper, struct croft_error *err)
{
	struct kept_root *kept = &keeper->kept;
	struct order order = {.ahead = true};
	if (kept->tree < 0 && !kept_make(kept, keeper->context, keeper->cell, &keeper->host, err))
		return false;
	CROFT_CLEANUP_FD int tree = kept_mount(kept);
	if (tree < 0)
		return croft_error_errno(err, errno, "copying the mount of a root");
	return send_order(keeper, &order, &tree, 1, err) && wait_status(keeper, STATUS_ENTERED, err);
}

/* With the root that the next job is expected to have. That it cannot be made is the job's to hear, if it wants it. */
static void make_ready_ahead(struct keeper *keeper)
{
	struct croft_error err = CROFT_ERROR_INIT;
	make_ready(keeper, &plain);
	if (!keeper->ready || !kept_is_expected(&keeper->kept))
		return;
	keeper->entered = enter_kept(keeper, &err);
	if (keeper->entered)
		return;
	keeper->kept.alike = 0;
	if (let_go_of_root(keeper, &keeper->failure))
		make_ready(keeper, &plain);
	else
		keeper->ready = false;
}

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
	bool special = is_special(keeper, spec);
	struct stat st;
	if (keeper->kept.tree >= 0 &&
		(special || !keeper->entered || !is_alive(keeper) ||
			!kept_fits(&keeper->kept, &keeper->host, spec)) &&
		!let_go_of_root(keeper, err))
		return false;
	/* While it waited it may have died, for want of memory. */
	if (special || !is_alive(keeper)) {
		if (special || keeper->nursery < 0 || waitpid(keeper->nursery, NULL, WNOHANG) != 0)
			end_nursery(keeper);
		else
			end_init(keeper);
		make_ready(keeper, special ? spec : &plain);
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
	return send_order(keeper, &order, fds, tree < 0 ? 3 : 4, err);
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
	if (!receive_status(keeper, MSG_DONTWAIT))
		return false;
	keeper->taken |= keeper->end.kind != STATUS_ENDED;
	if (keeper->end.kind == STATUS_STARTED) {
		struct report message = {.kind = REPORT_STARTED, .pid_namespace = keeper->pid_namespace};
		report(keeper, &message);
	} else if (keeper->end.kind == STATUS_ENDED &&
		(before.kind == STATUS_EXEC || before.kind == STATUS_FAILED)) {
		keeper->end = before; /* that says more */
	}
	return true;
}

static void wait_end(struct keeper *keeper)
{
	for (;;) {
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
	while (receive_status(keeper, MSG_DONTWAIT))
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
	keeper->spec = wire_spec_map(fds[0]);
	keeper->control = fds[1];
	keeper->killed = keeper->taken = false;
	denials_listen(&keeper->denials, -1);
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
		end_nursery(keeper);
		report_failure(keeper, err.message);
	}
	wait_leave(keeper);
	end_init(keeper);
	/* A dead agent's successor may use the directory already; it empties it first. */
	bool clean = !keeper->agent_gone && clear_up(keeper, begun);
	wire_spec_unmap(keeper->spec, fds[0]);
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
		if (let_go_of_root(keeper, &keeper->failure))
			make_ready(keeper, &plain);
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
		.init_fd = -1, .init_mounts = -1, .network = NETWORK_UNWATCHED, .kept = {.tree = -1}, .denials = {.listener = -1}, .failure = CROFT_ERROR_INIT};
	int fds[REQUEST_FDS];
	prctl(PR_SET_NAME, "croft-sandbox");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	struct croft_error err = CROFT_ERROR_INIT;
	bool settled = settle(&keeper, &err);
	do {
		if (settled)
			make_ready_ahead(&keeper);
		else
			keeper.failure = err;
		if (!tell_ready(&keeper) || !receive_request(&keeper, fds))
			break;
	} while (serve(&keeper, fds));
	end_nursery(&keeper);
	_exit(0);
}
