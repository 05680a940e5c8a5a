/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes: reaching those outside, and not going when told. The argument is the victim's pid. */
#include "tests/escape/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Only ids of the tests' own range are ever signalled by all. */
static bool kernel_id_is_ours(void)
{
	const char *map = read_text("/proc/self/uid_map");
	unsigned inside, outside = 0, count;
	if (!map || sscanf(map, "%u %u %u", &inside, &outside, &count) != 3)
		return false;
	return (outside == 0 ? getuid() : outside) >= 0x10000000;
}

static enum verdict kill_everybody(const char *unused)
{
	if (!kernel_id_is_ours())
		return say(BROKEN, "this would hit others");
	signal(SIGUSR1, SIG_IGN);
	kill(-1, SIGUSR1);
	return say(CONTAINED, "sent to all; the victim is looked at from outside");
}

static enum verdict kill_victim(const char *pid)
{
	return judge(kill(atoi(pid), 0) == 0, "signalling a process outside");
}

static enum verdict trace_victim(const char *pid)
{
	long result = ptrace(PTRACE_SEIZE, atoi(pid), NULL, NULL);
	if (result == 0)
		ptrace(PTRACE_DETACH, atoi(pid), NULL, NULL);
	return judge(result == 0, "tracing a process outside");
}

static enum verdict read_victim(const char *argument)
{
	char text[32] = "", *end;
	pid_t pid = (pid_t)strtol(argument, &end, 10);
	struct iovec here = {text, 18}, there = {(void *)strtoull(end, NULL, 16), 18};
	ssize_t got = syscall(SYS_process_vm_readv, pid, &here, 1, &there, 1, 0);
	return judge(got == 18 && strcmp(text, "secret of the host") == 0, "reading another's memory");
}

static enum verdict take_victims_descriptor(const char *pid)
{
	int fd = (int)syscall(SYS_pidfd_open, atoi(pid), 0);
	if (fd < 0)
		return say(CONTAINED, "opening a process outside: %m");
	return judge(syscall(SYS_pidfd_getfd, fd, 0, 0) >= 0, "taking another's descriptor");
}

static enum verdict victims_memory_file(const char *pid)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/mem", atoi(pid));
	return judge_open(path, O_RDWR);
}

static enum verdict victims_environment(const char *pid)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/environ", atoi(pid));
	return judge_open(path, O_RDONLY);
}

static enum verdict memory_of_pid_one(const char *unused)
{
	return judge_open("/proc/1/mem", O_RDWR);
}

static enum verdict command_line_of_pid_one(const char *unused)
{
	const char *text = read_text("/proc/1/cmdline");
	return judge(text && *text, "reading the agent's command line");
}

static enum verdict trace_pid_one(const char *unused)
{
	return judge(ptrace(PTRACE_SEIZE, 1, NULL, NULL) == 0, "tracing pid 1");
}

static enum verdict kill_pid_one(const char *unused)
{
	kill(1, SIGKILL);
	kill(1, SIGSTOP);
	kill(1, SIGUSR1);
	return say(CONTAINED, "pid 1 lives, as the job's own end shows");
}

/* A double fork out of every session and group; the outside looks whether it lives on. */
static enum verdict daemon_left_behind(const char *unused)
{
	if (fork() == 0) {
		setsid();
		if (fork() == 0) {
			signal(SIGTERM, SIG_IGN);
			signal(SIGHUP, SIG_IGN);
			close(0);
			close(1);
			close(2);
			for (int i = 0; i < 3000; i++)
				usleep(100000);
		}
		_exit(0);
	}
	wait(NULL);
	return say(CONTAINED, "a daemon was left");
}

static enum verdict output_held_open(const char *unused)
{
	if (fork() == 0) {
		setsid();
		for (int i = 0; i < 3000; i++)
			usleep(100000);
	}
	return say(CONTAINED, "a child holds the output open");
}

/* Until killed: the driver sets a time limit, or its agent dies. Bounded, in case neither works. */
static enum verdict ignore_termination(const char *tenths)
{
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_IGN);
	if (fork() == 0)
		signal(SIGTERM, SIG_IGN);
	say(CONTAINED, "ignoring all signals");
	for (int i = 0; i < atoi(tenths); i++)
		usleep(100000);
	return say(ESCAPED, "nothing ended it");
}

static enum verdict real_time_scheduling(const char *unused)
{
	struct sched_param highest = {.sched_priority = 99};
	return judge(sched_setscheduler(0, SCHED_FIFO, &highest) == 0, "real-time scheduling");
}

static enum verdict raised_priority(const char *unused)
{
	errno = 0;
	return judge(setpriority(PRIO_PROCESS, 0, -20) == 0, "a raised priority");
}

static enum verdict out_of_memory_score(const char *unused)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);
	return judge(fd >= 0 && write(fd, "-1000", 5) == 5, "escaping the out-of-memory killer");
}

static enum verdict core_dump(const char *unused)
{
	struct rlimit core;
	getrlimit(RLIMIT_CORE, &core);
	struct rlimit most = {RLIM_INFINITY, RLIM_INFINITY};
	if (core.rlim_max > 0 || setrlimit(RLIMIT_CORE, &most) == 0)
		return say(ESCAPED, "cores may be dumped, through the host's core_pattern");
	return say(CONTAINED, "no cores");
}

static enum verdict capabilities_left(const char *unused)
{
	const char *status = read_text("/proc/self/status");
	static const char *const sets[] = {"CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"};
	for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
		const char *at = status ? strstr(status, sets[i]) : NULL;
		if (!at)
			return say(BROKEN, "reading the capabilities: ");
		if (strtoull(at + 7, NULL, 16))
			return say(ESCAPED, "capabilities are left in %s", sets[i]);
	}
	return say(CONTAINED, "no capability in any set");
}

static enum verdict kernel_user_id(const char *unused)
{
	return kernel_id_is_ours() ? say(CONTAINED, "the kernel's id is the slot's own")
							   : say(ESCAPED, "the kernel's id is one of the host's");
}

#define PROBE(name) {#name, name}
const struct probe process_probes[] = {PROBE(kill_everybody), PROBE(kill_victim),
	PROBE(trace_victim), PROBE(read_victim), PROBE(take_victims_descriptor),
	PROBE(victims_memory_file), PROBE(victims_environment), PROBE(memory_of_pid_one),
	PROBE(command_line_of_pid_one), PROBE(trace_pid_one), PROBE(kill_pid_one),
	PROBE(daemon_left_behind), PROBE(output_held_open), PROBE(ignore_termination),
	PROBE(real_time_scheduling), PROBE(raised_priority), PROBE(out_of_memory_score),
	PROBE(core_dump), PROBE(capabilities_left), PROBE(kernel_user_id), {0}};
