/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One cgroup per slot, in whichever of the three worlds this machine has: version 2 with its
 * controllers, the version 1 hierarchies, or none.
 */
#include "sandbox/internal.h"

#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { V1_MEMORY, V1_PIDS, V1_CPU, V1_CPUACCT, V1_BLKIO, V1_COUNT };

struct cgroups {
	bool v2;
	char *roots[V1_COUNT]; /* v2: only the first; NULL: not to be had */
	char name[64];
	unsigned slots;
};

static bool write_value(const char *root, const char *name, unsigned slot, const char *file,
	const char *value)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/%s/%u/%s", root, name, slot, file);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool ok = write(fd, value, strlen(value)) >= 0;
	close(fd);
	return ok;
}

static bool write_number(const char *root, const char *name, unsigned slot, const char *file,
	uint64_t value, const char *unlimited)
{
	char text[32];
	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return write_value(root, name, slot, file, value ? text : unlimited);
}

/* The number behind `key` in a file of "key number" lines, or the file's only number for key NULL. */
static uint64_t read_number(const char *root, const char *name, unsigned slot, const char *file,
	const char *key)
{
	char path[4096], text[4096];
	snprintf(path, sizeof(path), "%s/%s/%u/%s", root, name, slot, file);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return 0;
	text[got] = '\0';
	if (!key)
		return strtoull(text, NULL, 10);
	size_t size = strlen(key);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (strncmp(line, key, size) == 0 && line[size] == ' ')
			return strtoull(line + size + 1, NULL, 10);
	return 0;
}

static char *make_root(const char *root, struct cgroups *cgroups)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/%s", root, cgroups->name);
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return NULL;
	for (unsigned slot = 0; slot < cgroups->slots; slot++) {
		snprintf(path, sizeof(path), "%s/%s/%u", root, cgroups->name, slot);
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return NULL;
	}
	return croft_strdup(root);
}

static bool enable(const char *directory, const char *controllers)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", directory);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool ok = write(fd, controllers, strlen(controllers)) >= 0;
	close(fd);
	return ok;
}

/* Version 2: the controllers must be handed down from the root, or from where we are delegated. */
static bool open_v2(struct cgroups *cgroups)
{
	const char *root = "/sys/fs/cgroup";
	if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) < 0)
		return false;
	char path[4096];
	enable(root, "+memory +pids +cpu");
	snprintf(path, sizeof(path), "%s/%s", root, cgroups->name);
	if ((mkdir(path, 0755) < 0 && errno != EEXIST) || !enable(path, "+memory +pids +cpu"))
		return false;
	cgroups->roots[0] = make_root(root, cgroups);
	cgroups->v2 = cgroups->roots[0] != NULL;
	return cgroups->v2;
}

static void open_v1(struct cgroups *cgroups)
{
	static const char *const roots[V1_COUNT] = {
		"/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/cpu",
		"/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/blkio"};
	for (int i = 0; i < V1_COUNT; i++)
		if (access(roots[i], W_OK) == 0)
			cgroups->roots[i] = make_root(roots[i], cgroups);
}

struct cgroups *cgroups_open(unsigned slots, struct croft_arena *arena, const char **limits)
{
	struct cgroups *cgroups = croft_zalloc(sizeof(*cgroups));
	cgroups->slots = slots;
	snprintf(cgroups->name, sizeof(cgroups->name), "croft-%d", getpid());
	if (!open_v2(cgroups))
		open_v1(cgroups);
	if (!cgroups->roots[0] && limits)
		*limits = croft_arena_printf(arena,
			"%smemory, process and CPU limits (no cgroup can be made here): a job's memory is not "
			"limited, its peak is that of its largest process\n",
			*limits ? *limits : "");
	return cgroups;
}

bool cgroups_begin(struct cgroups *cgroups, const struct wire_spec *spec, struct croft_error *err)
{
	unsigned slot = spec->slot;
	const char *name = cgroups->name;
	bool ok = true;
	if (cgroups->v2) {
		const char *root = cgroups->roots[0];
		char quota[64];
		snprintf(quota, sizeof(quota), "%llu 100000", (unsigned long long)spec->cpu_millis * 100);
		ok = write_number(root, name, slot, "memory.max", spec->memory_bytes, "max") &&
			write_number(root, name, slot, "pids.max", spec->processes, "max") &&
			write_value(root, name, slot, "cpu.max", spec->cpu_millis ? quota : "max");
		write_value(root, name, slot, "memory.swap.max", "0");
		write_value(root, name, slot, "memory.oom.group", "1");
		write_value(root, name, slot, "memory.peak", "0");
	} else {
		if (cgroups->roots[V1_MEMORY]) {
			ok = write_number(cgroups->roots[V1_MEMORY], name, slot, "memory.limit_in_bytes",
				spec->memory_bytes, "-1");
			write_value(cgroups->roots[V1_MEMORY], name, slot, "memory.max_usage_in_bytes", "0");
		}
		if (ok && cgroups->roots[V1_PIDS])
			ok = write_number(cgroups->roots[V1_PIDS], name, slot, "pids.max", spec->processes, "max");
		if (ok && cgroups->roots[V1_CPU])
			ok = write_number(cgroups->roots[V1_CPU], name, slot, "cpu.cfs_quota_us",
				spec->cpu_millis * 100, "-1");
	}
	return ok || croft_error_errno(err, errno, "setting the limits of slot %u", slot);
}

bool cgroups_enter(struct cgroups *cgroups, unsigned slot, pid_t pid, struct croft_error *err)
{
	char text[32];
	snprintf(text, sizeof(text), "%d", pid);
	for (int i = 0; i < V1_COUNT; i++)
		if (cgroups->roots[i] &&
			!write_value(cgroups->roots[i], cgroups->name, slot, "cgroup.procs", text))
			return croft_error_errno(err, errno, "entering the cgroup of slot %u", slot);
	return true;
}

/* Counts of kills since the cgroup was made: the supervisor reports whether they grew. A slot runs one
 * job at a time, and a fresh cgroup for each resets what cannot be written. */
static void renew(struct cgroups *cgroups, unsigned slot)
{
	char path[4096];
	for (int i = 0; i < V1_COUNT; i++) {
		if (!cgroups->roots[i])
			continue;
		snprintf(path, sizeof(path), "%s/%s/%u", cgroups->roots[i], cgroups->name, slot);
		if (rmdir(path) == 0)
			mkdir(path, 0755);
	}
}

/* Over all devices. Lines are "8:0 rbytes=1 wbytes=2 …" (v2) or "8:0 Read 1" (v1). */
static void read_traffic(const struct cgroups *cgroups, unsigned slot, struct report *report)
{
	char path[4096], text[16384];
	const char *root = cgroups->roots[cgroups->v2 ? 0 : V1_BLKIO];
	if (!root)
		return;
	snprintf(path, sizeof(path), "%s/%s/%u/%s", root, cgroups->name, slot,
		cgroups->v2 ? "io.stat" : "blkio.throttle.io_service_bytes");
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (got < 0)
		return;
	text[got] = '\0';
	report->read_bytes = report->written_bytes = 0;
	for (char *at = text; (at = strpbrk(at, "Rrw")); at++) {
		char *digits = at + strcspn(at, "0123456789\n");
		if (strncmp(at, "rbytes=", 7) == 0 || strncmp(at, "Read ", 5) == 0)
			report->read_bytes += strtoull(digits, NULL, 10);
		else if (strncmp(at, "wbytes=", 7) == 0)
			report->written_bytes += strtoull(digits, NULL, 10);
	}
	for (char *at = text; (at = strstr(at, "Write ")); at++)
		report->written_bytes += strtoull(at + 6, NULL, 10);
}

bool cgroups_limit_processes(const struct cgroups *cgroups)
{
	return cgroups->roots[cgroups->v2 ? 0 : V1_PIDS] != NULL;
}

uint64_t cgroups_cpu_ns(const struct cgroups *cgroups, unsigned slot)
{
	if (cgroups->v2)
		return read_number(cgroups->roots[0], cgroups->name, slot, "cpu.stat", "usage_usec") * 1000;
	return cgroups->roots[V1_CPUACCT]
		? read_number(cgroups->roots[V1_CPUACCT], cgroups->name, slot, "cpuacct.usage", NULL)
		: 0;
}

void cgroups_measure(struct cgroups *cgroups, unsigned slot, struct report *report)
{
	const char *root = cgroups->roots[0], *name = cgroups->name;
	if (cgroups->v2) {
		report->peak_memory_bytes = read_number(root, name, slot, "memory.peak", NULL);
		report->memory_exceeded = read_number(root, name, slot, "memory.events", "oom_kill") > 0;
		report->memory_measured = 1;
		report->user_ns = read_number(root, name, slot, "cpu.stat", "user_usec") * 1000;
		report->system_ns = read_number(root, name, slot, "cpu.stat", "system_usec") * 1000;
	} else if (root) {
		/* The whole is exact; how it divides is as the kernel's clock ticks. */
		uint64_t both = cgroups_cpu_ns(cgroups, slot);
		uint64_t sum = report->user_ns + report->system_ns;
		if (both > 0) {
			report->user_ns = sum ? (uint64_t)((double)both * (double)report->user_ns / (double)sum) : both;
			report->system_ns = both - report->user_ns;
		}
		report->peak_memory_bytes =
			read_number(root, name, slot, "memory.max_usage_in_bytes", NULL);
		report->memory_exceeded =
			read_number(root, name, slot, "memory.oom_control", "oom_kill") > 0;
		report->memory_measured = 1;
	}
	int pids = cgroups->v2 ? 0 : V1_PIDS;
	if (cgroups->roots[pids])
		report->processes_exceeded =
			read_number(cgroups->roots[pids], name, slot, "pids.events", "max") > 0;
	read_traffic(cgroups, slot, report);
}

void cgroups_end(struct cgroups *cgroups, unsigned slot)
{
	renew(cgroups, slot);
}

void cgroups_close(struct cgroups *cgroups)
{
	char path[4096];
	for (int i = 0; cgroups && i < V1_COUNT; i++) {
		if (!cgroups->roots[i])
			continue;
		for (unsigned slot = 0; slot < cgroups->slots; slot++) {
			snprintf(path, sizeof(path), "%s/%s/%u", cgroups->roots[i], cgroups->name, slot);
			rmdir(path);
		}
		snprintf(path, sizeof(path), "%s/%s", cgroups->roots[i], cgroups->name);
		rmdir(path);
		free(cgroups->roots[i]);
	}
	free(cgroups);
}
