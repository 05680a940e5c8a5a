/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pid 1 inside, and its child, which makes the root its own, drops what it does not need and becomes the
 * command. Both wait ready for the job to come. When pid 1 ends, the kernel kills whatever is left.
 */
#include "sandbox/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* By system call: libc's versions wait for all threads that it knows of, and init was cloned past libc,
 * out of a process that may have had some. */
static bool set_groups(uint32_t gid)
{
	return syscall(SYS_setresgid, gid, gid, gid) == 0;
}

static bool set_users(uint32_t uid)
{
	return syscall(SYS_setresuid, uid, uid, uid) == 0;
}

bool status_tell(int inner, const struct status *status)
{
	return send(inner, status, sizeof(*status), MSG_NOSIGNAL) == sizeof(*status);
}

static void tell_failure(int inner, const struct croft_error *err)
{
	struct status status = {.kind = STATUS_FAILED};
	snprintf(status.message, sizeof(status.message), "%s", err->message);
	/* Nobody is left to hear of a failure here; the keeper sees that the process is gone. */
	if (!status_tell(inner, &status))
		_exit(1);
}

/* A job, as the command has it. */
struct job {
	const struct nursery *nursery;
	const struct wire_spec *spec;
	struct wire_spec *told; /* the same */
	int inner, spec_fd, out, errors;
	int root; /* or, when it is in it, the input */
	bool wait, entered;
	bool shaped; /* all is done but what the job's arguments, environment and streams are for */
};

/* The command --------------------------------------------------------------------------------------- */

static bool set_names(const struct wire_spec *spec, struct croft_error *err)
{
	const char *hostname = wire_text(spec, spec->hostname);
	if (weak(spec, WEAKEN_UTS_NAMESPACE))
		return true;
	if (sethostname(hostname, strlen(hostname)) < 0 || setdomainname("", 0) < 0)
		return croft_error_errno(err, errno, "setting the host name");
	return true;
}

enum { CPU_GRACE_SECONDS = 2 };

static bool limit(int resource, rlim_t value, struct croft_error *err)
{
	struct rlimit now;
	/* At the soft limit of processor time comes SIGXCPU, which tells why; SIGKILL, at the hard one, does
	 * not. */
	rlim_t most = resource == RLIMIT_CPU ? value + CPU_GRACE_SECONDS : value;
	if (getrlimit(resource, &now) == 0 && now.rlim_max < most)
		most = now.rlim_max;
	struct rlimit wanted = {value < most ? value : most, most};
	return setrlimit(resource, &wanted) == 0 ||
		croft_error_errno(err, errno, "setting resource limit %d", resource);
}

static bool set_limits(const struct job *job, struct croft_error *err)
{
	const struct wire_spec *spec = job->spec;
	/* Where a cgroup limits processes, it shall be what refuses, since it counts that. Here those count
	 * that wait in both cells of the slot. */
	bool counted = cgroups_limit_processes(job->nursery->context->cgroups);
	if (weak(spec, WEAKEN_RLIMITS))
		return true;
	/* For one process, where no cgroup counts for all. */
	return (!spec->cpu_ms || limit(RLIMIT_CPU, (spec->cpu_ms + 999) / 1000, err)) &&
		(!spec->file_bytes || limit(RLIMIT_FSIZE, spec->file_bytes, err)) &&
		limit(RLIMIT_NPROC, spec->processes && !counted ? spec->processes + 5 : 16384, err);
}

/* What is left for init and the command is needed to mount and to become the job's user. */
static bool drop_bounds(struct croft_error *err)
{
	/* Root keeps no power over exec. */
	if (prctl(PR_SET_SECUREBITS,
			SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
				SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
				SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
			0, 0, 0) < 0)
		return croft_error_errno(err, errno, "locking the secure bits");
	for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 && errno != EINVAL)
			return croft_error_errno(err, errno, "dropping capability %d", capability);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return true;
}

bool init_drop_early(const struct nursery *nursery, struct croft_error *err)
{
	const struct wire_spec *spec = nursery->spec;
	/* An ordinary user's namespace has one id and may not call setgroups. */
	if (nursery->context->privileged && syscall(SYS_setgroups, 0, NULL) < 0)
		return croft_error_errno(err, errno, "dropping supplementary groups");
	umask(022);
	return (weak(spec, WEAKEN_RLIMITS) ||
			   (limit(RLIMIT_CORE, 0, err) && limit(RLIMIT_NOFILE, 65536, err) &&
				   limit(RLIMIT_MEMLOCK, 64 << 10, err) && limit(RLIMIT_MSGQUEUE, 819200, err))) &&
		(weak(spec, WEAKEN_CAPABILITIES) || drop_bounds(err));
}

static bool become_user(const struct job *job, struct croft_error *err)
{
	const struct wire_spec *spec = job->spec;
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct none[2] = {{0}};
	uint32_t base = weak(spec, WEAKEN_USER_NAMESPACE)
		? cell_ids(job->nursery->context, job->nursery->cell)
		: 0;
	if (!set_groups(base + spec->gid) || !set_users(base + spec->uid))
		return croft_error_errno(
			err, errno, "becoming user %u, group %u", spec->uid, spec->gid);
	/* Tests weaken one or the other, never both: that would be the host's root. */
	if ((!weak(spec, WEAKEN_CAPABILITIES) || base) && syscall(SYS_capset, &header, none) < 0)
		return croft_error_errno(err, errno, "dropping capabilities");
	return true;
}

static bool send_with(int to, const void *bytes, size_t size, int fd, const char *what,
	struct croft_error *err)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec data = {(void *)bytes, size};
	struct msghdr message = {.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space)};
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	return sendmsg(to, &message, MSG_NOSIGNAL) == (ssize_t)size || croft_error_errno(err, errno, "%s", what);
}

/* In the job's own /dev/pts, so that tty(1) finds it. Whoever controls it is the other end of what came as
 * stdout. */
static bool make_terminal(struct job *job, struct croft_error *err)
{
	int unlocked = 0;
	CROFT_CLEANUP_FD int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) < 0)
		return croft_error_errno(err, errno, "making a terminal");
	int terminal = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (terminal < 0 || fchown(terminal, job->spec->uid, job->spec->gid) < 0)
		return croft_error_errno(err, errno, "opening the terminal");
	if (!send_with(job->out, "t", 1, master, "passing on the terminal", err))
		return false;
	job->out = job->errors = terminal;
	return true;
}

static bool set_streams(struct job *job, struct croft_error *err)
{
	if (job->spec->terminal && !make_terminal(job, err))
		return false;
	int in = job->spec->terminal ? job->out : open("/dev/null", O_RDONLY);
	if (weak(job->spec, WEAKEN_STREAMS))
		in = 0;
	if (in < 0 || dup2(in, 0) < 0 || dup2(job->out, 1) < 0 || dup2(job->errors, 2) < 0)
		return croft_error_errno(err, errno, "connecting stdin, stdout and stderr");
	if (job->spec->terminal && ioctl(0, TIOCSCTTY, 0) < 0)
		return croft_error_errno(err, errno, "taking the terminal");
	return true;
}

static void unblock_signals(void)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Looks the command up in PATH, as a shell would, and executes it; returns errno. */
static int execute(const char **arguments, const char **environment)
{
	const char *path = "/usr/local/bin:/usr/bin:/bin";
	if (strchr(arguments[0], '/')) {
		execve(arguments[0], (char **)arguments, (char **)environment);
		return errno;
	}
	for (size_t i = 0; environment[i]; i++)
		if (strncmp(environment[i], "PATH=", 5) == 0)
			path = environment[i] + 5;
	int failure = ENOENT;
	for (const char *part = path; *part;) {
		size_t size = strcspn(part, ":");
		char name[8192];
		if ((size_t)snprintf(name, sizeof(name), "%.*s/%s", size ? (int)size : 1, size ? part : ".",
				arguments[0]) < sizeof(name)) {
			execve(name, (char **)arguments, (char **)environment);
			if (errno != ENOENT && errno != ENOTDIR)
				failure = errno;
		}
		part += size;
		part += *part == ':';
	}
	return failure;
}

/* The filter's listener goes to the keeper: whoever held it in here could answer for the kernel. */
static bool tell_with_listener(int inner, const struct status *status, int listener, struct croft_error *err)
{
	if (listener < 0)
		return status_tell(inner, status) || croft_error_errno(err, errno, "telling the keeper");
	bool ok = send_with(inner, status, sizeof(*status), listener, "passing on what is denied", err);
	close(listener);
	return ok;
}

static bool close_off(const struct job *job, int *listener, struct croft_error *err)
{
	*listener = -1;
	if (weak(job->spec, WEAKEN_NEW_PRIVILEGES))
		return true;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return croft_error_errno(err, errno, "giving up new privileges");
	if (job->nursery->context->landlock && !weak(job->spec, WEAKEN_LANDLOCK) &&
		!landlock_confine(job->nursery->context->landlock, err))
		return false;
	if (weak(job->spec, WEAKEN_SECCOMP))
		return true;
	const struct launcher_context *context = job->nursery->context;
	const struct sock_fprog *programs = job->spec->sorted ? context->sorted : context->seccomp;
	return seccomp_install(&programs[job->spec->seccomp], job->spec->sorted, listener, err);
}

/* Waits for an order. Its descriptors are -1 from where there are no more. False: none will come. */
static bool receive_order(const struct job *job, struct order *order, int fds[4])
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec data = {order, sizeof(*order)};
	struct msghdr message = {.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space)};
	ssize_t got = recvmsg(job->inner, &message, MSG_CMSG_CLOEXEC);
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	for (int i = 0; i < 4; i++)
		fds[i] = -1;
	if (got != sizeof(*order) || !header)
		return false;
	memcpy(fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
	return true;
}

static bool mount_input(const struct job *job, struct croft_error *err)
{
	const char *target = wire_text(job->spec, job->spec->input_target);
	return job->root < 0 || move_mount(job->root, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) == 0 ||
		croft_error_errno(err, errno, "mounting the input on %s", target);
}

static bool make_root(const struct job *job, struct croft_error *err)
{
	static const struct host_view here = {-1, -1, -1};
	const struct nursery *nursery = job->nursery;
	int root = job->root;
	if (!nursery->context->privileged) {
		char path[256];
		snprintf(path, sizeof(path), "%s/root", nursery->skeleton.at);
		struct sources *rest;
		root = root_make(nursery->context, nursery->cell, path, &here, job->spec, &rest, err);
		root_close_sources(rest);
		if (root < 0)
			return false;
		if (chdir("/") < 0)
			return croft_error_errno(err, errno, "entering /");
	}
	/* A namespace without any interface is nobody else's. */
	if (job->spec->network == CROFT_NETWORK_NONE && unshare(CLONE_NEWNET) < 0)
		return croft_error_errno(err, errno, "making a network namespace");
	return set_names(job->spec, err) &&
		(job->entered ? mount_input(job, err) : inside_enter(&nursery->skeleton, root, job->spec, err));
}

/* Inside already, where links lead nowhere else. */
static bool make_working_directory(const struct job *job, struct croft_error *err)
{
	const char *directory = wire_text(job->spec, job->spec->working_directory);
	if (access(directory, F_OK) == 0 || errno != ENOENT)
		return true;
	return (croft_make_directories(directory, err) &&
			   (chown(directory, job->spec->uid, job->spec->gid) == 0 ||
				   croft_error_errno(err, errno, "giving it to the job's user"))) ||
		croft_error_wrap(err, "making the working directory");
}

/* The first of those that the agent may use, from a place that differs among cells. */
static bool choose_cpus(const struct job *job, struct croft_error *err)
{
	cpu_set_t usable, chosen;
	CPU_ZERO(&chosen);
	if (sched_getaffinity(0, sizeof(usable), &usable) < 0)
		return croft_error_errno(err, errno, "asking for the usable CPUs");
	uint32_t count = (uint32_t)CPU_COUNT(&usable), wanted = job->spec->cpus;
	if (wanted >= count)
		return wanted == count ||
			croft_error_set(err, CROFT_FAILED_PRECONDITION,
				"the job is to see %u CPUs, and this machine has %u", wanted, count);
	uint32_t skip = job->nursery->cell / CELLS_PER_SLOT * wanted % count;
	for (uint32_t cpu = 0, left = wanted; left > 0; cpu = (cpu + 1) % CPU_SETSIZE) {
		if (!CPU_ISSET(cpu, &usable))
			continue;
		if (skip > 0) {
			skip--;
			continue;
		}
		CPU_SET(cpu, &chosen);
		left--;
	}
	return sched_setaffinity(0, sizeof(chosen), &chosen) == 0 ||
		croft_error_errno(err, errno, "choosing CPUs");
}

static bool make_alike(const struct job *job, struct croft_error *err)
{
	const struct wire_spec *spec = job->spec;
	umask(spec->umask);
	if (spec->fixed_addresses && personality(ADDR_NO_RANDOMIZE) < 0)
		return croft_error_errno(err, errno, "fixing addresses");
	return !spec->cpus || choose_cpus(job, err);
}

static bool take_on(struct job *job, struct croft_error *err)
{
	const char *directory = wire_text(job->spec, job->spec->working_directory);
	if (!set_limits(job, err) || !make_alike(job, err) || !become_user(job, err))
		return false;
	return chdir(directory) == 0 ||
		croft_error_errno(err, errno, "entering the working directory %s", directory);
}

static bool prepare(struct job *job, struct croft_error *err)
{
	if (job->shaped)
		return set_streams(job, err);
	return make_root(job, err) && make_working_directory(job, err) && set_streams(job, err) && take_on(job, err);
}

/* Nothing of ours stays open in the command; the inner socket closes by itself when it is executed. */
static bool close_all(struct job *job, struct croft_error *err)
{
	if (weak(job->spec, WEAKEN_DESCRIPTORS))
		return true;
	if ((job->inner != 3 && dup3(job->inner, 3, O_CLOEXEC) < 0) || syscall(SYS_close_range, 4, ~0u, 0) < 0)
		return croft_error_errno(err, errno, "closing descriptors");
	job->inner = 3;
	return true;
}

static bool take_shape(struct job *job, int *listener, struct croft_error *err)
{
	return make_root(job, err) && make_working_directory(job, err) && take_on(job, err) &&
		close_all(job, err) && close_off(job, listener, err);
}

static bool close_now(struct job *job, struct croft_error *err)
{
	struct status status = {.kind = STATUS_CLOSED};
	int listener;
	return close_all(job, err) &&
		(job->shaped ||
			(close_off(job, &listener, err) &&
				(listener < 0 || tell_with_listener(job->inner, &status, listener, err))));
}

/* Before the job is known: into its root and, where the spec of one like it came along, behind its filter. */
static bool enter_ahead(struct job *job, int root, int shape)
{
	static const struct wire_spec common = {.root_writable = true};
	struct croft_error err = CROFT_ERROR_INIT;
	struct status status = {.kind = STATUS_ENTERED};
	int listener = -1;
	job->root = -1;
	job->entered = inside_enter(&job->nursery->skeleton, root, &common, &err);
	close(root);
	bool ok = job->entered;
	if (ok && shape >= 0) {
		job->spec = job->told = wire_spec_read(shape, scratch_spec(job->nursery->scratch));
		ok = job->spec ? take_shape(job, &listener, &err)
			       : croft_error_errno(&err, errno, "reading what the job is like");
		job->shaped = ok;
	}
	if (ok && tell_with_listener(job->inner, &status, listener, &err))
		return true;
	tell_failure(job->inner, &err);
	return false;
}

static bool receive_job(struct job *job)
{
	struct order order;
	int fds[4];
	do {
		if (!receive_order(job, &order, fds) || (order.ahead && !enter_ahead(job, fds[0], fds[1])))
			return false;
	} while (order.ahead);
	job->wait = order.wait;
	job->spec_fd = fds[0];
	job->out = fds[1];
	job->errors = fds[2];
	job->root = fds[3];
	if (job->errors >= 0)
		job->told = wire_spec_read(job->spec_fd, scratch_spec(job->nursery->scratch));
	job->spec = job->errors < 0 ? NULL : job->told;
	return job->spec != NULL;
}

static int command_main(void *user)
{
	const struct nursery *nursery = user;
	struct croft_error err = CROFT_ERROR_INIT;
	struct job job = {.nursery = nursery, .inner = nursery->inner};
	struct status status = {.kind = STATUS_STARTED};
	char byte;
	setsid();
	if (!receive_job(&job))
		_exit(1);
	const char **arguments = wire_list_in_place(job.told, job.spec->arguments);
	const char **environment = wire_list_in_place(job.told, job.spec->environment);
	bool ok = prepare(&job, &err);
	if (ok && (!status_tell(job.inner, &status) || (job.wait && recv(job.inner, &byte, 1, 0) != 1)))
		_exit(1);
	unblock_signals();
	if (ok && close_now(&job, &err)) {
		status.kind = STATUS_EXEC;
		status.number = execute(arguments,
			weak(job.spec, WEAKEN_ENVIRONMENT) ? (const char **)environ : environment);
		status_tell(job.inner, &status);
		_exit(127);
	}
	tell_failure(job.inner, &err);
	_exit(126);
}

/* The command uses init's memory until it is executed: there is nothing to copy, and nothing to let go of
 * while it is waited for. Init keeps still meanwhile. */
static pid_t start_command(struct nursery *nursery)
{
	return clone(command_main, scratch_command_stack(nursery->scratch),
		(COMMAND_SHARES ? CLONE_VM : 0) | SIGCHLD, nursery);
}

/* Pid 1 -------------------------------------------------------------------------------------------- */

/* Waits for the command while burying everybody else's orphans. A SIGTERM from outside is for all. */
static int reap_until(pid_t command)
{
	sigset_t wanted;
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGCHLD);
	sigaddset(&wanted, SIGTERM);
	for (;;) {
		int status;
		pid_t dead;
		while ((dead = waitpid(-1, &status, WNOHANG)) > 0)
			if (dead == command)
				return status;
		/* As any other process than pid 1 this would reach beyond the sandbox. */
		if (sigwaitinfo(&wanted, NULL) == SIGTERM && getpid() == 1)
			kill(-1, SIGTERM);
	}
}

/* For a keeper that may not look. */
static uint64_t own_namespace(const struct nursery *nursery)
{
	char path[256];
	struct stat st;
	if (nursery->context->traces)
		return 0;
	snprintf(path, sizeof(path), "%s/proc/self/ns/pid", nursery->skeleton.at);
	return stat(path, &st) == 0 ? st.st_ino : 0;
}

int init_main(struct nursery *nursery)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct status status = {.kind = STATUS_READY};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!inside_mount_own(&nursery->skeleton, nursery->spec, &err)) {
		tell_failure(nursery->inner, &err);
		return 1;
	}
	pid_t command = start_command(nursery);
	if (command < 0) {
		croft_error_errno(&err, errno, "starting the command");
		tell_failure(nursery->inner, &err);
		return 1;
	}
	status.pid_namespace = own_namespace(nursery);
	if (!status_tell(nursery->inner, &status))
		return 1;
	status.kind = STATUS_ENDED;
	status.number = reap_until(command);
	return !status_tell(nursery->inner, &status);
}
