/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pid 1 inside: enters the root, starts the command with nothing it does not need, and reaps. When it
 * ends, the kernel kills whatever is left.
 */
#include "sandbox/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
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

static void tell(const struct init_context *context, const struct init_status *status)
{
	/* Nobody is left to hear of a failure here; the supervisor takes a missing word as a kill. */
	if (write(context->status, status, sizeof(*status)) < 0)
		_exit(1);
}

static int fail(const struct init_context *context, const struct croft_error *err)
{
	struct init_status status = {.wait_status = -1};
	snprintf(status.failed, sizeof(status.failed), "%s", err->message);
	tell(context, &status);
	return 1;
}

static bool raise_loopback(struct croft_error *err)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {.ifr_name = "lo"};
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return croft_error_errno(err, errno, "bringing up the loopback interface");
	close(fd);
	return true;
}

static bool set_names(const struct wire_spec *spec, struct croft_error *err)
{
	const char *hostname = wire_text(spec, spec->hostname);
	if (weak(spec, WEAKEN_UTS_NAMESPACE))
		return true;
	if (sethostname(hostname, strlen(hostname)) < 0 || setdomainname("", 0) < 0)
		return croft_error_errno(err, errno, "setting the host name");
	return true;
}

/* The command --------------------------------------------------------------------------------------- */

static bool limit(int resource, rlim_t value, struct croft_error *err)
{
	struct rlimit now;
	if (getrlimit(resource, &now) == 0 && now.rlim_max < value)
		value = now.rlim_max;
	struct rlimit wanted = {value, value};
	return setrlimit(resource, &wanted) == 0 ||
		croft_error_errno(err, errno, "setting resource limit %d", resource);
}

static bool set_limits(const struct init_context *context, struct croft_error *err)
{
	const struct wire_spec *spec = context->spec;
	/* Where a cgroup limits processes, it shall be what refuses, since it counts that. */
	bool counted = cgroups_limit_processes(context->launcher->cgroups);
	if (weak(spec, WEAKEN_RLIMITS))
		return true;
	return limit(RLIMIT_CORE, 0, err) && limit(RLIMIT_NOFILE, 65536, err) &&
		limit(RLIMIT_MEMLOCK, 64 << 10, err) && limit(RLIMIT_MSGQUEUE, 819200, err) &&
		/* For one process, where no cgroup counts for all. */
		(!spec->cpu_ms || limit(RLIMIT_CPU, (spec->cpu_ms + 999) / 1000, err)) &&
		(!spec->file_bytes || limit(RLIMIT_FSIZE, spec->file_bytes, err)) &&
		limit(RLIMIT_NPROC, spec->processes && !counted ? spec->processes : 16384, err);
}

static bool drop_capabilities(struct croft_error *err)
{
	for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 && errno != EINVAL)
			return croft_error_errno(err, errno, "dropping capability %d", capability);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct none[2] = {{0}};
	if (syscall(SYS_capset, &header, none) < 0)
		return croft_error_errno(err, errno, "dropping capabilities");
	return true;
}

static bool become_user(const struct init_context *context, struct croft_error *err)
{
	const struct wire_spec *spec = context->spec;
	uint32_t base = weak(spec, WEAKEN_USER_NAMESPACE)
		? context->launcher->uid_base + spec->slot * IDS_PER_SLOT
		: 0;
	/* An ordinary user's namespace has one id and may not call setgroups. */
	if (context->launcher->privileged && syscall(SYS_setgroups, 0, NULL) < 0)
		return croft_error_errno(err, errno, "dropping supplementary groups");
	/* Root keeps no power over exec either. */
	if (!weak(spec, WEAKEN_CAPABILITIES) &&
		prctl(PR_SET_SECUREBITS,
			SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
				SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
				SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
			0, 0, 0) < 0)
		return croft_error_errno(err, errno, "locking the secure bits");
	if (!set_groups(base + spec->gid) || !set_users(base + spec->uid))
		return croft_error_errno(
			err, errno, "becoming user %u, group %u", spec->uid, spec->gid);
	/* Tests weaken one or the other, never both: that would be the host's root. */
	return (weak(spec, WEAKEN_CAPABILITIES) && !base) || drop_capabilities(err);
}

static bool set_streams(const struct init_context *context, struct croft_error *err)
{
	int in = context->spec->terminal ? context->out : open("/dev/null", O_RDONLY);
	if (weak(context->spec, WEAKEN_STREAMS))
		in = 0;
	if (in < 0 || dup2(in, 0) < 0 || dup2(context->out, 1) < 0 || dup2(context->errors, 2) < 0)
		return croft_error_errno(err, errno, "connecting stdin, stdout and stderr");
	if (context->spec->terminal && ioctl(0, TIOCSCTTY, 0) < 0)
		return croft_error_errno(err, errno, "taking the terminal");
	return true;
}

static void reset_signals(void)
{
	struct sigaction plain = {.sa_handler = SIG_DFL};
	for (int number = 1; number < NSIG; number++)
		sigaction(number, &plain, NULL);
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

static bool load_seccomp(const struct init_context *context, struct croft_error *err)
{
	const struct sock_fprog *program = &context->launcher->seccomp[context->spec->seccomp];
	bool privileges = weak(context->spec, WEAKEN_NEW_PRIVILEGES);
	if ((!privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) ||
		(!privileges && !weak(context->spec, WEAKEN_SECCOMP) &&
			prctl(PR_SET_SECCOMP, 2 /* filter */, program, 0, 0) < 0))
		return croft_error_errno(err, errno, "loading the seccomp filter");
	return true;
}

static void command_main(const struct init_context *context, int failed)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct init_status status = {.wait_status = -1};
	const struct wire_spec *spec = context->spec;
	const char **arguments = wire_list(spec, spec->arguments);
	const char **environment = wire_list(spec, spec->environment);
	setsid();
	umask(022);
	bool ok = set_streams(context, &err) && set_limits(context, &err) && become_user(context, &err);
	if (ok && chdir(wire_text(spec, spec->working_directory)) < 0)
		ok = croft_error_errno(&err, errno, "entering the working directory %s",
			wire_text(spec, spec->working_directory));
	/* Nothing of ours stays open in the command; `failed` closes by itself when it is executed. */
	if (ok && weak(spec, WEAKEN_DESCRIPTORS))
		ok = fcntl(failed, F_SETFD, FD_CLOEXEC) == 0;
	else if (ok && (dup3(failed, 3, O_CLOEXEC) < 0 || syscall(SYS_close_range, 4, ~0u, 0) < 0))
		ok = croft_error_errno(&err, errno, "closing descriptors");
	else if (ok)
		failed = 3;
	reset_signals();
	if (ok && load_seccomp(context, &err))
		status.exec_errno = execute(arguments,
			weak(spec, WEAKEN_ENVIRONMENT) ? (const char **)environ : environment);
	else
		snprintf(status.failed, sizeof(status.failed), "%s", err.message);
	if (write(failed, &status, sizeof(status)) < 0)
		_exit(126);
	_exit(127);
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

static bool wait_go(int fd)
{
	char byte;
	ssize_t got;
	while ((got = read(fd, &byte, 1)) < 0 && errno == EINTR)
		;
	return got == 1;
}

static bool build(const struct init_context *context, struct croft_error *err)
{
	if (!set_groups(0) || !set_users(0)) {
		/* An ordinary user's namespace has only the id that the job will have. */
		if (context->launcher->privileged)
			return croft_error_errno(err, errno, "becoming root of the namespace");
	}
	if (!context->launcher->privileged &&
		!root_mount_layers(context->launcher, context->spec, err))
		return false;
	/* Only now is this process in the slot's cgroup, which becomes what is seen as the root. */
	if (!weak(context->spec, WEAKEN_CGROUP_NAMESPACE) && unshare(CLONE_NEWCGROUP) < 0)
		return croft_error_errno(err, errno, "making the cgroup namespace");
	return set_names(context->spec, err) &&
		(context->spec->network != CROFT_NETWORK_LOOPBACK || raise_loopback(err)) &&
		root_enter(context->launcher, context->spec, err);
}

int init_main(const struct init_context *context)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct init_status status = {0};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* The command may have our uid: it must not trace us. */
	bool dumpable = weak(context->spec, WEAKEN_DUMPABLE);
	prctl(PR_SET_DUMPABLE, dumpable);
	sigset_t blocked;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigaddset(&blocked, SIGTERM);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	if (!wait_go(context->go))
		return 1;
	if (!build(context, &err))
		return fail(context, &err);
	prctl(PR_SET_DUMPABLE, dumpable);
	/* Ready: the agent hears of the namespace before the command's first instruction. */
	tell(context, &status);
	int failed[2];
	if (!wait_go(context->go) || pipe2(failed, O_CLOEXEC) < 0)
		return 1;
	pid_t command = fork();
	if (command < 0) {
		croft_error_errno(&err, errno, "starting the command");
		return fail(context, &err);
	}
	if (command == 0)
		command_main(context, failed[1]);
	close(failed[1]);
	close(context->out);
	if (context->errors != context->out)
		close(context->errors);
	if (read(failed[0], &status, sizeof(status)) == sizeof(status) && status.failed[0]) {
		tell(context, &status);
		return 1;
	}
	status.wait_status = reap_until(command);
	tell(context, &status);
	return 0;
}
