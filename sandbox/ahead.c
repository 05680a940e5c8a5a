/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The keeper's cell before its job: namespaces, init, the command that waits, and its root where that is known. */
#include "sandbox/keeper.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

const struct wire_spec ahead_plain;

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

/* The slot's range. Its first id, to which inputs and all else in the root belong, is the job's own id inside, and
 * has changed places with 0: a job of any user owns what it was given, as it does where an ordinary user has but
 * one id. */
static void describe_range(uint32_t base, uint32_t own, char *text, size_t size)
{
	if (own == 0 || own >= IDS_PER_SLOT) /* beyond the range nobody can become that */
		snprintf(text, size, "0 %u %u\n", base, IDS_PER_SLOT);
	else
		snprintf(text, size, "%u %u 1\n0 %u 1\n", own, base, base + own);
	for (int above = 0; own > 0 && own < IDS_PER_SLOT && above < 2; above++) {
		uint32_t first = above ? own + 1 : 1, end = above ? IDS_PER_SLOT : own;
		size_t used = strlen(text);
		if (first < end)
			snprintf(text + used, size - used, "%u %u %u\n", first, base + first, end - first);
	}
}

/* As root a range of 65,536 ids for each slot; otherwise the one id that an ordinary user has. */
static bool map_ids(const struct keeper *keeper, const struct wire_spec *spec,
	struct croft_error *err)
{
	const struct launcher_context *context = keeper->context;
	if (weak(spec, WEAKEN_USER_NAMESPACE))
		return true;
	char users[256], groups[256];
	if (context->privileged) {
		uint32_t base = cell_ids(context, keeper->cell);
		describe_range(base, keeper->uid, users, sizeof(users));
		describe_range(base, keeper->gid, groups, sizeof(groups));
		return write_map(keeper->nursery, "uid_map", users, err) &&
			write_map(keeper->nursery, "gid_map", groups, err);
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
	bool alone = privileged && spec == &ahead_plain;
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
			/* What is special may allocate, and serves one job. */
			.shares = INIT_SHARES && alone,
			.raise_loopback = network && spec->network == CROFT_NETWORK_LOOPBACK,
		};
		int own[] = {births[0], inner[0], keeper->requests, keeper->agent, keeper->host_network,
			keeper->host.mounts, keeper->host.root, keeper->host.own_mounts, keeper->kept.tree, keeper->kept.shape_fd,
			keeper->context->staging_lock};
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
	return cgroups_limit(cgroups, keeper->cell, &ahead_plain, 1, err) &&
		use_network(keeper, spec, err) && clone_nursery(keeper, spec, err) &&
		map_ids(keeper, spec, err) && cgroups_enter(cgroups, keeper->cell, keeper->nursery, err);
}

bool ahead_receive(struct keeper *keeper, int flags)
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
	if (status.kind == STATUS_READY && status.pid_namespace)
		keeper->pid_namespace = status.pid_namespace;
	keeper->end = status;
	return true;
}

bool ahead_order(const struct keeper *keeper, const struct order *order, const int *fds,
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
	do {
		while (poll(fds, 2, -1) < 0 && errno == EINTR)
			;
		if (!ahead_receive(keeper, MSG_DONTWAIT))
			return croft_error_set(err, CROFT_INTERNAL, "init died");
		/* Who was given an order early told that it is ready, too. */
	} while (keeper->end.kind != wanted &&
		(keeper->end.kind == STATUS_CLOSED || keeper->end.kind == STATUS_READY));
	return keeper->end.kind == wanted || croft_error_set(err, CROFT_INTERNAL, "%s", keeper->end.message);
}

/* Of a process: from Linux 6.11 on by its descriptor, without making the names of /proc. */
static int open_namespace(const struct keeper *keeper, unsigned long request, const char *name)
{
	char path[64];
	int fd = ioctl(keeper->init_fd, request, 0);
	if (fd >= 0)
		return fd;
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", keeper->init, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* include/uapi/linux/pidfd.h, which Debian 12 has older. */
#define GET_MOUNTS _IO(0xff, 3) /* PIDFD_GET_MNT_NAMESPACE */
#define GET_PIDS _IO(0xff, 5)   /* PIDFD_GET_PID_NAMESPACE */

static bool look_at_namespaces(struct keeper *keeper, struct croft_error *err)
{
	struct stat st;
	/* The last process in a mount namespace pays for its end; held, it is not init, which is waited for. */
	keeper->init_mounts = open_namespace(keeper, GET_MOUNTS, "mnt");
	/* Else init itself tells. */
	if (!keeper->context->traces)
		return true;
	CROFT_CLEANUP_FD int pids = open_namespace(keeper, GET_PIDS, "pid");
	if (pids < 0 || fstat(pids, &st) < 0)
		return croft_error_errno(err, errno, "opening the namespaces that were made");
	keeper->pid_namespace = st.st_ino;
	return true;
}

/* Has the nursery clone an init, which says when it is ready. */
static bool make_init(struct keeper *keeper, struct croft_error *err)
{
	struct birth birth;
	denials_listen(&keeper->denials, -1);
	if (send(keeper->births, "b", 1, MSG_NOSIGNAL) != 1 ||
		recv(keeper->births, &birth, sizeof(birth), 0) != sizeof(birth)) {
		if (ahead_receive(keeper, MSG_DONTWAIT))
			return croft_error_set(err, CROFT_INTERNAL, "%s", keeper->end.message);
		return croft_error_set(err, CROFT_INTERNAL, "the process that was to make it died");
	}
	if (birth.pid < 0)
		return croft_error_errno(err, birth.failure, "making the namespaces");
	keeper->init = birth.pid;
	keeper->init_fd = (int)syscall(SYS_pidfd_open, birth.pid, 0);
	if (keeper->init_fd < 0)
		return croft_error_errno(err, errno, "opening the process that was made");
	return look_at_namespaces(keeper, err);
}

void ahead_end_init(struct keeper *keeper)
{
	if (keeper->init > 0) {
		kill(keeper->init, SIGKILL);
		waitpid(keeper->init, NULL, 0);
	}
	keeper->init = -1;
	keeper->entered = keeper->shaped = false;
	if (keeper->init_fd >= 0)
		close(keeper->init_fd);
	if (keeper->init_mounts >= 0)
		close(keeper->init_mounts);
	keeper->init_fd = keeper->init_mounts = -1;
}

void ahead_end(struct keeper *keeper)
{
	ahead_end_init(keeper);
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

static bool begin(struct keeper *keeper, const struct wire_spec *spec, struct croft_error *err)
{
	*err = (struct croft_error)CROFT_ERROR_INIT;
	return (keeper->kept.tree >= 0 || root_prepare(keeper->context, keeper->cell, !keeper->placed, err)) &&
		(keeper->nursery > 0 || start_nursery(keeper, spec, err)) && make_init(keeper, err);
}

/* It is ready: what the job changes counts from now on. */
static void take_stock(struct keeper *keeper)
{
	keeper->ready = keeper->placed = true;
	if (!keeper->traces) {
		network_unwatch(&keeper->network);
		network_watch(&keeper->network, keeper->nursery);
		keeper->traces = network_traces(&keeper->network);
	}
	cgroups_count(keeper->context->cgroups, keeper->cell, &keeper->before);
}

void ahead_make(struct keeper *keeper, const struct wire_spec *spec)
{
	struct croft_error *err = &keeper->failure;
	keeper->ready = false;
	if (!begin(keeper, spec, err) || !wait_status(keeper, STATUS_READY, err))
		return;
	take_stock(keeper);
}

bool ahead_drop_root(struct keeper *keeper, struct croft_error *err)
{
	ahead_end_init(keeper);
	while (ahead_receive(keeper, MSG_DONTWAIT))
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
	int shape = kept_shape(kept);
	int fds[] = {tree, shape};
	keeper->shaped = shape >= 0;
	return ahead_order(keeper, &order, fds, keeper->shaped ? 2 : 1, err) &&
		wait_status(keeper, STATUS_ENTERED, err);
}

/* That the root cannot be made is the job's to hear, if it wants it. */
void ahead_make_with_root(struct keeper *keeper)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (!kept_is_expected(&keeper->kept)) {
		ahead_make(keeper, &ahead_plain);
		return;
	}
	keeper->ready = false;
	if (!begin(keeper, &ahead_plain, &keeper->failure))
		return;
	keeper->entered = enter_kept(keeper, &err);
	if (keeper->entered) {
		take_stock(keeper);
		return;
	}
	keeper->kept.alike = 0;
	if (ahead_drop_root(keeper, &keeper->failure))
		ahead_make(keeper, &ahead_plain);
	else
		keeper->ready = false;
}
