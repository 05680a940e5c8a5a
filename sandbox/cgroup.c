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

/* Opens a file of a cell's group, or finds it among those that this process keeps open; `keep` is NULL where
 * it does not, and the caller closes. */
static int open_file(struct cgroups *cgroups, const char *root, unsigned cell, const char *file, int mode,
	struct kept **keep)
{
	char path[4096];
	*keep = NULL;
	bool keeping = cgroups->keeping && cell == cgroups->kept_cell;
	for (unsigned i = 0; keeping && i < cgroups->kept_count; i++)
		if (cgroups->kept[i].root == root && cgroups->kept[i].mode == mode &&
			strcmp(cgroups->kept[i].file, file) == 0) {
			*keep = &cgroups->kept[i];
			return cgroups->kept[i].fd;
		}
	snprintf(path, sizeof(path), "%s/%s/%u/%s", root, cgroups->name, cell, file);
	int fd = open(path, mode | O_CLOEXEC);
	if (fd >= 0 && keeping && cgroups->kept_count < KEPT_MOST) {
		*keep = &cgroups->kept[cgroups->kept_count++];
		**keep = (struct kept){.root = root, .file = file, .mode = mode, .fd = fd};
	}
	return fd;
}

/* A limit stays what it is until it is written, since nobody else may: it need not be written again. */
enum writing { WRITE_ALWAYS, WRITE_CHANGES };

static bool write_value(struct cgroups *cgroups, const char *root, unsigned cell, const char *file,
	const char *value, enum writing writing)
{
	struct kept *kept;
	int fd = open_file(cgroups, root, cell, file, O_WRONLY, &kept);
	if (fd < 0)
		return false;
	bool ok = (writing == WRITE_CHANGES && kept && strcmp(kept->written, value) == 0) ||
		pwrite(fd, value, strlen(value), 0) >= 0;
	if (kept)
		snprintf(kept->written, sizeof(kept->written), "%s", ok ? value : "");
	else
		close(fd);
	return ok;
}

static bool write_limit(struct cgroups *cgroups, const char *root, unsigned cell, const char *file,
	const char *value)
{
	return write_value(cgroups, root, cell, file, value, WRITE_CHANGES);
}

static bool write_number(struct cgroups *cgroups, const char *root, unsigned cell, const char *file,
	uint64_t value, const char *unlimited)
{
	char text[32];
	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return write_limit(cgroups, root, cell, file, value ? text : unlimited);
}

static ssize_t read_text(struct cgroups *cgroups, const char *root, unsigned cell, const char *file,
	char *text, size_t size)
{
	struct kept *kept;
	int fd = open_file(cgroups, root, cell, file, O_RDONLY, &kept);
	ssize_t got = fd < 0 ? -1 : pread(fd, text, size - 1, 0);
	if (fd >= 0 && !kept)
		close(fd);
	text[got > 0 ? got : 0] = '\0';
	return got;
}

/* The number behind `key` in a file of "key number" lines, or the file's only number for key NULL. */
static uint64_t read_number(struct cgroups *cgroups, const char *root, unsigned cell, const char *file,
	const char *key)
{
	char text[4096];
	if (read_text(cgroups, root, cell, file, text, sizeof(text)) <= 0)
		return 0;
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
	uint64_t processes = spec->processes ? spec->processes + others : 0;
	bool ok = true;
	if (cgroups->v2) {
		const char *root = cgroups->roots[0];
		char quota[64];
		snprintf(quota, sizeof(quota), "%llu 100000", (unsigned long long)spec->cpu_millis * 100);
		ok = write_number(cgroups, root, cell, "memory.max", spec->memory_bytes, "max") &&
			write_number(cgroups, root, cell, "pids.max", processes, "max") &&
			write_limit(cgroups, root, cell, "cpu.max", spec->cpu_millis ? quota : "max");
		write_limit(cgroups, root, cell, "memory.swap.max", "0");
		write_limit(cgroups, root, cell, "memory.oom.group", "1");
	} else {
		if (cgroups->roots[V1_MEMORY]) {
			ok = write_number(cgroups, cgroups->roots[V1_MEMORY], cell, "memory.limit_in_bytes",
				spec->memory_bytes, "-1");
			write_value(cgroups, cgroups->roots[V1_MEMORY], cell, "memory.max_usage_in_bytes", "0",
				WRITE_ALWAYS);
		}
		if (ok && cgroups->roots[V1_PIDS])
			ok = write_number(cgroups, cgroups->roots[V1_PIDS], cell, "pids.max", processes, "max");
		if (ok && cgroups->roots[V1_CPU])
			ok = write_number(cgroups, cgroups->roots[V1_CPU], cell, "cpu.cfs_quota_us",
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
			!write_value(cgroups, cgroups->roots[i], cell, "cgroup.procs", text, WRITE_ALWAYS))
			return croft_error_errno(err, errno, "entering the cgroup of cell %u", cell);
	return true;
}

void cgroups_forget(struct cgroups *cgroups)
{
	for (unsigned i = 0; i < cgroups->kept_count; i++)
		close(cgroups->kept[i].fd);
	cgroups->kept_count = 0;
	cgroups->keeping = false;
}

void cgroups_keep(struct cgroups *cgroups, unsigned cell)
{
	cgroups->keeping = true;
	cgroups->kept_cell = cell;
}

/* Over all devices. Lines are "8:0 rbytes=1 wbytes=2 …" (v2) or "8:0 Read 1" (v1). */
static void read_traffic(struct cgroups *cgroups, unsigned cell, struct cgroup_counters *counters)
{
	char text[16384];
	const char *root = cgroups->roots[cgroups->v2 ? 0 : V1_BLKIO];
	if (!root)
		return;
	if (read_text(cgroups, root, cell, cgroups->v2 ? "io.stat" : "blkio.throttle.io_service_bytes", text,
			sizeof(text)) < 0)
		return; /* version 2 without the io controller */
	counters->traffic = true;
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

uint64_t cgroups_cpu_ns(struct cgroups *cgroups, unsigned cell)
{
	if (cgroups->v2)
		return read_number(cgroups, cgroups->roots[0], cell, "cpu.stat", "usage_usec") * 1000;
	return cgroups->roots[V1_CPUACCT]
		? read_number(cgroups, cgroups->roots[V1_CPUACCT], cell, "cpuacct.usage", NULL)
		: 0;
}

void cgroups_count(struct cgroups *cgroups, unsigned cell, struct cgroup_counters *counters)
{
	*counters = (struct cgroup_counters){.cpu_ns = cgroups_cpu_ns(cgroups, cell)};
	if (cgroups->v2) {
		const char *root = cgroups->roots[0];
		counters->kills = read_number(cgroups, root, cell, "memory.events", "oom_kill");
		counters->user_ns = read_number(cgroups, root, cell, "cpu.stat", "user_usec") * 1000;
		counters->system_ns = read_number(cgroups, root, cell, "cpu.stat", "system_usec") * 1000;
	} else if (cgroups->roots[V1_MEMORY]) {
		const char *root = cgroups->roots[V1_MEMORY];
		counters->kills = read_number(cgroups, root, cell, "memory.oom_control", "oom_kill");
		counters->memory_bytes = read_number(cgroups, root, cell, "memory.usage_in_bytes", NULL);
	}
	if (cgroups->roots[0])
		counters->peak_bytes = read_number(cgroups, cgroups->roots[0], cell,
			cgroups->v2 ? "memory.peak" : "memory.max_usage_in_bytes", NULL);
	int pids = cgroups->v2 ? 0 : V1_PIDS;
	if (cgroups->roots[pids])
		counters->refusals = read_number(cgroups, cgroups->roots[pids], cell, "pids.events", "max");
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
		report->peak_memory_bytes = now.peak_bytes;
		report->memory_exceeded = now.kills > before->kills;
		report->memory_measured = 1;
	}
	report->processes_exceeded = now.refusals > before->refusals;
	if (now.traffic) {
		report->read_bytes = now.read_bytes - before->read_bytes;
		report->written_bytes = now.written_bytes - before->written_bytes;
	}
}

bool cgroups_reusable(struct cgroups *cgroups, unsigned cell,
	const struct cgroup_counters *before)
{
	/* A version 2 group's peak stays what it was. */
	if (cgroups->v2)
		return false;
	const char *root = cgroups->roots[V1_MEMORY];
	uint64_t left = root ? read_number(cgroups, root, cell, "memory.usage_in_bytes", NULL) : 0;
	return left <= before->memory_bytes + (1 << 20);
}
