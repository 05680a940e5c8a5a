/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Limits and counters of the cells' cgroups, of both versions.
 */
#include "sandbox/cgroup.h"

#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static bool write_value(const char *root, const char *name, unsigned cell, const char *file,
	const char *value)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/%s/%u/%s", root, name, cell, file);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool ok = write(fd, value, strlen(value)) >= 0;
	close(fd);
	return ok;
}

static bool write_number(const char *root, const char *name, unsigned cell, const char *file,
	uint64_t value, const char *unlimited)
{
	char text[32];
	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return write_value(root, name, cell, file, value ? text : unlimited);
}

/* The number behind `key` in a file of "key number" lines, or the file's only number for key NULL. */
static uint64_t read_number(const char *root, const char *name, unsigned cell, const char *file,
	const char *key)
{
	char path[4096], text[4096];
	snprintf(path, sizeof(path), "%s/%s/%u/%s", root, name, cell, file);
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

bool cgroups_limit(struct cgroups *cgroups, unsigned cell, const struct wire_spec *spec,
	unsigned others, struct croft_error *err)
{
	const char *name = cgroups->name;
	uint64_t processes = spec->processes ? spec->processes + others : 0;
	bool ok = true;
	if (cgroups->v2) {
		const char *root = cgroups->roots[0];
		char quota[64];
		snprintf(quota, sizeof(quota), "%llu 100000", (unsigned long long)spec->cpu_millis * 100);
		ok = write_number(root, name, cell, "memory.max", spec->memory_bytes, "max") &&
			write_number(root, name, cell, "pids.max", processes, "max") &&
			write_value(root, name, cell, "cpu.max", spec->cpu_millis ? quota : "max");
		write_value(root, name, cell, "memory.swap.max", "0");
		write_value(root, name, cell, "memory.oom.group", "1");
	} else {
		if (cgroups->roots[V1_MEMORY]) {
			ok = write_number(cgroups->roots[V1_MEMORY], name, cell, "memory.limit_in_bytes",
				spec->memory_bytes, "-1");
			write_value(cgroups->roots[V1_MEMORY], name, cell, "memory.max_usage_in_bytes", "0");
		}
		if (ok && cgroups->roots[V1_PIDS])
			ok = write_number(cgroups->roots[V1_PIDS], name, cell, "pids.max", processes, "max");
		if (ok && cgroups->roots[V1_CPU])
			ok = write_number(cgroups->roots[V1_CPU], name, cell, "cpu.cfs_quota_us",
				spec->cpu_millis * 100, "-1");
	}
	return ok || croft_error_errno(err, errno, "setting the limits of cell %u", cell);
}

bool cgroups_enter(struct cgroups *cgroups, unsigned cell, pid_t pid, struct croft_error *err)
{
	char text[32];
	snprintf(text, sizeof(text), "%d", pid);
	for (int i = 0; i < V1_COUNT; i++)
		if (cgroups->roots[i] &&
			!write_value(cgroups->roots[i], cgroups->name, cell, "cgroup.procs", text))
			return croft_error_errno(err, errno, "entering the cgroup of cell %u", cell);
	return true;
}

/* Over all devices. Lines are "8:0 rbytes=1 wbytes=2 …" (v2) or "8:0 Read 1" (v1). */
static void read_traffic(const struct cgroups *cgroups, unsigned cell, struct cgroup_counters *counters)
{
	char path[4096], text[16384];
	const char *root = cgroups->roots[cgroups->v2 ? 0 : V1_BLKIO];
	if (!root)
		return;
	snprintf(path, sizeof(path), "%s/%s/%u/%s", root, cgroups->name, cell,
		cgroups->v2 ? "io.stat" : "blkio.throttle.io_service_bytes");
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (got < 0)
		return; /* version 2 without the io controller */
	counters->traffic = true;
	text[got] = '\0';
	for (char *at = text; (at = strpbrk(at, "Rrw")); at++) {
		char *digits = at + strcspn(at, "0123456789\n");
		if (strncmp(at, "rbytes=", 7) == 0 || strncmp(at, "Read ", 5) == 0)
			counters->read_bytes += strtoull(digits, NULL, 10);
		else if (strncmp(at, "wbytes=", 7) == 0)
			counters->written_bytes += strtoull(digits, NULL, 10);
	}
	for (char *at = text; (at = strstr(at, "Write ")); at++)
		counters->written_bytes += strtoull(at + 6, NULL, 10);
}

uint32_t cgroups_enforce(const struct cgroups *cgroups)
{
	if (cgroups->v2)
		return CROFT_ENFORCED_MEMORY | CROFT_ENFORCED_PROCESSES | CROFT_ENFORCED_CPU;
	return (cgroups->roots[V1_MEMORY] ? CROFT_ENFORCED_MEMORY : 0) |
		(cgroups->roots[V1_PIDS] ? CROFT_ENFORCED_PROCESSES : 0) |
		(cgroups->roots[V1_CPU] && cgroups->roots[V1_CPUACCT] ? CROFT_ENFORCED_CPU : 0);
}

bool cgroups_limit_processes(const struct cgroups *cgroups)
{
	return cgroups->roots[cgroups->v2 ? 0 : V1_PIDS] != NULL;
}

uint64_t cgroups_cpu_ns(const struct cgroups *cgroups, unsigned cell)
{
	if (cgroups->v2)
		return read_number(cgroups->roots[0], cgroups->name, cell, "cpu.stat", "usage_usec") * 1000;
	return cgroups->roots[V1_CPUACCT]
		? read_number(cgroups->roots[V1_CPUACCT], cgroups->name, cell, "cpuacct.usage", NULL)
		: 0;
}

void cgroups_count(const struct cgroups *cgroups, unsigned cell, struct cgroup_counters *counters)
{
	const char *name = cgroups->name;
	*counters = (struct cgroup_counters){.cpu_ns = cgroups_cpu_ns(cgroups, cell)};
	if (cgroups->v2) {
		const char *root = cgroups->roots[0];
		counters->kills = read_number(root, name, cell, "memory.events", "oom_kill");
		counters->user_ns = read_number(root, name, cell, "cpu.stat", "user_usec") * 1000;
		counters->system_ns = read_number(root, name, cell, "cpu.stat", "system_usec") * 1000;
	} else if (cgroups->roots[V1_MEMORY]) {
		const char *root = cgroups->roots[V1_MEMORY];
		counters->kills = read_number(root, name, cell, "memory.oom_control", "oom_kill");
		counters->memory_bytes = read_number(root, name, cell, "memory.usage_in_bytes", NULL);
	}
	int pids = cgroups->v2 ? 0 : V1_PIDS;
	if (cgroups->roots[pids])
		counters->refusals = read_number(cgroups->roots[pids], name, cell, "pids.events", "max");
	read_traffic(cgroups, cell, counters);
}

void cgroups_measure(struct cgroups *cgroups, unsigned cell, const struct cgroup_counters *before,
	struct report *report)
{
	struct cgroup_counters now;
	cgroups_count(cgroups, cell, &now);
	if (cgroups->v2) {
		report->user_ns = now.user_ns - before->user_ns;
		report->system_ns = now.system_ns - before->system_ns;
	} else if (now.cpu_ns > before->cpu_ns) {
		/* The whole is exact; how it divides is as the kernel's clock ticks. */
		uint64_t both = now.cpu_ns - before->cpu_ns, sum = report->user_ns + report->system_ns;
		report->user_ns = sum ? (uint64_t)((double)both * (double)report->user_ns / (double)sum) : both;
		report->system_ns = both - report->user_ns;
	}
	if (cgroups->roots[0]) {
		report->peak_memory_bytes = read_number(cgroups->roots[0], cgroups->name, cell,
			cgroups->v2 ? "memory.peak" : "memory.max_usage_in_bytes", NULL);
		report->memory_exceeded = now.kills > before->kills;
		report->memory_measured = 1;
	}
	report->processes_exceeded = now.refusals > before->refusals;
	if (now.traffic) {
		report->read_bytes = now.read_bytes - before->read_bytes;
		report->written_bytes = now.written_bytes - before->written_bytes;
	}
}

bool cgroups_reusable(const struct cgroups *cgroups, unsigned cell,
	const struct cgroup_counters *before)
{
	/* A version 2 group's peak stays what it was. */
	if (cgroups->v2)
		return false;
	const char *root = cgroups->roots[V1_MEMORY];
	uint64_t left = root ? read_number(root, cgroups->name, cell, "memory.usage_in_bytes", NULL) : 0;
	return left <= before->memory_bytes + (1 << 20);
}
