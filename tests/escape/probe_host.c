/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host's state: settings, devices, what is inherited, what tells about it. */
#include "tests/escape/probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/utsname.h>
#include <unistd.h>

/* Opened, never written. */
static enum verdict core_pattern(const char *unused)
{
	return judge_open("/proc/sys/kernel/core_pattern", O_WRONLY);
}

static enum verdict kernel_settings(const char *unused)
{
	/* The job's own namespaces own these: what stops it is that they are read-only. */
	return judge_open("/proc/sys/kernel/msgmax", O_WRONLY);
}

static enum verdict magic_keys(const char *unused)
{
	return judge_open("/proc/sysrq-trigger", O_WRONLY);
}

static enum verdict hidden(const char *path)
{
	char byte;
	struct stat st;
	if (stat(path, &st) < 0)
		return say(CONTAINED, "%s is not there", path);
	/* The kernel's own are empty too where it tells nothing to this user. */
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct statfs fs;
	if (fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC && read(fd, &byte, 1) == 0 &&
		open(path, O_WRONLY | O_CLOEXEC) < 0)
		return say(CONTAINED, "%s is empty", path);
	return say(ESCAPED, "%s is there", path);
}

static enum verdict kernel_memory(const char *unused)
{
	return hidden("/proc/kcore");
}

static enum verdict kernel_symbols(const char *unused)
{
	return hidden("/proc/kallsyms");
}

static enum verdict kernel_keys(const char *unused)
{
	return hidden("/proc/keys");
}

static enum verdict kernel_log(const char *unused)
{
	return hidden("/dev/kmsg");
}

static enum verdict devices(const char *unused)
{
	static const char *const known[] = {"null", "zero", "full", "random", "urandom", "tty", "fd",
		"stdin", "stdout", "stderr", "ptmx", "pts", "shm", ".", ".."};
	DIR *dir = opendir("/dev");
	if (!dir)
		return say(BROKEN, "opening /dev: ");
	for (struct dirent *entry; (entry = readdir(dir));) {
		bool found = false;
		for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
			found |= strcmp(entry->d_name, known[i]) == 0;
		if (!found)
			return say(ESCAPED, "/dev/%s is there", entry->d_name);
	}
	return say(CONTAINED, "only the devices that builds need");
}

static enum verdict terminals(const char *unused)
{
	DIR *dir = opendir("/dev/pts");
	if (!dir)
		return say(BROKEN, "opening /dev/pts: ");
	for (struct dirent *entry; (entry = readdir(dir));)
		if (entry->d_name[0] != '.' && strcmp(entry->d_name, "ptmx") != 0)
			return say(ESCAPED, "terminal %s of the host is seen", entry->d_name);
	return say(CONTAINED, "no terminals of the host");
}

static enum verdict system_folder(const char *unused)
{
	return judge(access("/sys/kernel", F_OK) == 0 || access("/sys/fs/cgroup", F_OK) == 0,
		"seeing /sys");
}

static enum verdict control_groups(const char *unused)
{
	const char *text = read_text("/proc/self/cgroup");
	if (!text)
		return say(BROKEN, "reading the cgroups: ");
	return judge(strstr(text, "croft") != NULL, "seeing where its cgroup is on the host");
}

static enum verdict host_name(const char *name)
{
	struct utsname names;
	uname(&names);
	return strcmp(names.nodename, name) == 0 ? say(ESCAPED, "the host's name is seen")
											 : say(CONTAINED, "the name is %s", names.nodename);
}

static enum verdict inherited_descriptors(const char *unused)
{
	for (int fd = 3; fd < 1024; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			return say(ESCAPED, "descriptor %d is open", fd);
	return say(CONTAINED, "no descriptor but 0, 1 and 2");
}

static enum verdict inherited_input(const char *unused)
{
	struct stat st;
	if (fstat(0, &st) < 0)
		return say(BROKEN, "standard input: ");
	return S_ISCHR(st.st_mode) ? say(CONTAINED, "standard input is /dev/null")
							   : say(ESCAPED, "standard input is the agent's");
}

static enum verdict inherited_environment(const char *unused)
{
	return judge(getenv("CROFT_ESCAPE_SECRET") != NULL, "seeing the agent's environment");
}

static enum verdict processes_seen(const char *unused)
{
	DIR *dir = opendir("/proc");
	int count = 0;
	if (!dir)
		return say(BROKEN, "opening /proc: ");
	for (struct dirent *entry; (entry = readdir(dir));)
		count += entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && atoi(entry->d_name) != getpid();
	return count > 0 ? say(ESCAPED, "%d other processes are seen", count)
					 : say(CONTAINED, "only itself is seen");
}

static enum verdict paths_of_the_host(const char *folder)
{
	const char *text = read_text("/proc/self/mountinfo");
	if (!text)
		return say(BROKEN, "reading the mounts: ");
	return judge(strstr(text, folder) != NULL, "seeing paths of the host in the mounts");
}

#define PROBE(name) {#name, name}
const struct probe host_probes[] = {PROBE(core_pattern), PROBE(kernel_settings),
	PROBE(magic_keys), PROBE(kernel_memory), PROBE(kernel_symbols), PROBE(kernel_keys),
	PROBE(kernel_log), PROBE(devices), PROBE(terminals), PROBE(system_folder),
	PROBE(control_groups), PROBE(host_name), PROBE(inherited_descriptors), PROBE(inherited_input),
	PROBE(inherited_environment), PROBE(processes_seen), PROBE(paths_of_the_host), {0}};
