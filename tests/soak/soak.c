/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Thousands of jobs in a row, a third of them killed or misbehaving: afterwards no process, mount, cgroup,
 * descriptor or byte may be left, and nothing may have grown.
 *
 *	soak JOB [COUNT]
 */
#include "proto/base/io.h"
#include "sandbox/sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLOTS = 3 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool memory_is_telling = false; /* sanitizers keep what was freed */
#else
static const bool memory_is_telling = true;
#endif

static char folder[64], root[80], state[80];
static struct croft_launcher *launcher;
static bool limits_work;

static void fail(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fprintf(stderr, "soak: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, "\n");
	exit(1);
}

static void make_root(const char *job)
{
	static const char *const places[] = {"", "/bin", "/soak"};
	char path[128], *data;
	size_t size;
	struct croft_error err = CROFT_ERROR_INIT;
	strcpy(folder, "/tmp/croft-soak-XXXXXX");
	if (!mkdtemp(folder) || chmod(folder, 0755) < 0)
		fail("%s: %s", folder, strerror(errno));
	snprintf(root, sizeof(root), "%s/root", folder);
	snprintf(state, sizeof(state), "%s/state", folder);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", root, places[i]);
		if (mkdir(path, 0755) < 0)
			fail("%s: %s", path, strerror(errno));
	}
	snprintf(path, sizeof(path), "%s/bin/job", root);
	if (mkdir(state, 0755) < 0 || !croft_read_file(AT_FDCWD, job, 64 << 20, &data, &size, &err) ||
		!croft_write_file(AT_FDCWD, path, data, size, 0755, &err))
		fail("%s", err.message);
	free(data);
}

/* Jobs --------------------------------------------------------------------------------------------------- */

struct kind {
	const char *argument;
	enum croft_end end;
	bool killed, needs_cgroups;
};
/* Two of three are well-behaved. */
static const struct kind odd_ones[] = {
	{"wait", CROFT_END_KILLED, .killed = true},
	{"wait", CROFT_END_WALL_CLOCK},
	{"memory", CROFT_END_MEMORY, .needs_cgroups = true},
	{"daemon", CROFT_END_EXIT},
	{"fork", CROFT_END_PROCESSES, .needs_cgroups = true},
	{"flood", CROFT_END_LOG},
	{"talk", CROFT_END_EXIT},
	{"ipc", CROFT_END_EXIT},
	{"closed", CROFT_END_EXIT},
	{"crash", CROFT_END_SIGNAL},
	{"good", CROFT_END_EXIT, .killed = true}, /* at any moment */
};
static const struct kind good = {"good", CROFT_END_EXIT};

struct killer {
	struct croft_sandbox *sandbox;
	unsigned after_us;
};

static void *kill_soon(void *user)
{
	struct killer *killer = user;
	usleep(killer->after_us);
	croft_sandbox_kill(killer->sandbox, "killed by the soak");
	return NULL;
}

static bool is_expected(const struct kind *kind, const struct croft_sandbox_result *result)
{
	if (kind->killed && kind->end == CROFT_END_EXIT)
		return result->end == CROFT_END_KILLED || result->end == CROFT_END_EXIT;
	return result->end == kind->end &&
		(kind->end != CROFT_END_EXIT || result->exit_code == 0);
}

static void run_job(unsigned number)
{
	static const char *const none[] = {NULL};
	const struct kind *kind =
		number % 3 ? &good : &odd_ones[number / 3 % (sizeof(odd_ones) / sizeof(odd_ones[0]))];
	if (kind->needs_cgroups && !limits_work)
		kind = &good;
	const char *const arguments[] = {"/bin/job", kind->argument, NULL};
	const char *const roots[] = {root};
	struct croft_sandbox_spec spec = {
		.roots = roots,
		.root_count = 1,
		.root_writable = true,
		.arguments = arguments,
		.environment = none,
		.working_directory = "/",
		.processes = kind->end == CROFT_END_PROCESSES ? 50 : 0,
		.memory_bytes = kind->end == CROFT_END_MEMORY ? 32 << 20 : 0,
		.wall_ms = kind->end == CROFT_END_WALL_CLOCK ? 20 : 120000,
		.grace_ms = 20,
		.output_log_bytes = 1 << 20,
	};
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_sandbox_result result;
	struct killer killer = {croft_sandbox_prepare(launcher, &spec, &err), number * 37 % 4000};
	pthread_t thread;
	if (!killer.sandbox || !croft_sandbox_start(killer.sandbox, &err))
		fail("job %u (%s): %s", number, kind->argument, err.message);
	if (kind->killed && pthread_create(&thread, NULL, kill_soon, &killer) != 0)
		fail("no thread");
	if (!croft_sandbox_wait(killer.sandbox, &result, &err))
		fail("job %u (%s): %s", number, kind->argument, err.message);
	if (kind->killed)
		pthread_join(thread, NULL);
	if (!is_expected(kind, &result))
		fail("job %u (%s) ended as %s, status %d: %s", number, kind->argument,
			croft_end_name(result.end), result.exit_code, result.message);
	croft_sandbox_destroy(killer.sandbox);
}

struct row {
	unsigned from, to, step;
};

static void *run_row(void *user)
{
	struct row *row = user;
	for (unsigned number = row->from; number < row->to; number += row->step)
		run_job(number);
	return NULL;
}

static void run_jobs(unsigned from, unsigned to)
{
	pthread_t threads[SLOTS];
	struct row rows[SLOTS];
	for (unsigned i = 0; i < SLOTS; i++) {
		rows[i] = (struct row){from + i, to, SLOTS};
		if (pthread_create(&threads[i], NULL, run_row, &rows[i]) != 0)
			fail("no thread");
	}
	for (unsigned i = 0; i < SLOTS; i++)
		pthread_join(threads[i], NULL);
}

/* Counting ----------------------------------------------------------------------------------------------- */

struct census {
	unsigned processes, descriptors, mounts, cgroups, files;
	uint64_t memory_bytes; /* of this process */
};

/* All mounts that a sandbox sees; elsewhere only ours: others come and go on the host. */
static unsigned count_mounts(const char *process)
{
	unsigned count = 0;
	char path[128], line[4096], name[32] = "";
	snprintf(path, sizeof(path), "/proc/%s/comm", process);
	FILE *file = fopen(path, "re");
	bool all = file && fgets(name, sizeof(name), file) && strcmp(name, "croft-ready\n") == 0;
	if (file)
		fclose(file);
	snprintf(path, sizeof(path), "/proc/%s/mountinfo", process);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		count += all || strstr(line, " - overlay croft ") || strstr(line, folder);
	if (file)
		fclose(file);
	return count;
}

static unsigned count_entries(const char *path)
{
	unsigned count = 0;
	DIR *dir = opendir(path);
	while (dir && readdir(dir))
		count++;
	if (dir)
		closedir(dir);
	return count;
}

static unsigned count_glob(const char *pattern)
{
	glob_t found;
	unsigned count = glob(pattern, 0, NULL, &found) == 0 ? (unsigned)found.gl_pathc : 0;
	globfree(&found);
	return count;
}

static pid_t parent_of(pid_t pid)
{
	char path[64], text[512];
	int parent = 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	FILE *file = fopen(path, "re");
	size_t got = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
	text[got] = '\0';
	char *after = strrchr(text, ')');
	if (after)
		sscanf(after + 1, " %*c %d", &parent);
	if (file)
		fclose(file);
	return parent;
}

static bool descends_from_us(pid_t pid)
{
	for (int i = 0; pid > 1 && i < 16; i++)
		if ((pid = parent_of(pid)) == getpid())
			return true;
	return false;
}

static struct census take_census(void)
{
	struct census census = {.mounts = count_mounts("self"),
		.descriptors = count_entries("/proc/self/fd")};
	char path[128];
	DIR *dir = opendir("/proc");
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		pid_t pid = atoi(entry->d_name);
		if (pid <= 1 || !descends_from_us(pid))
			continue;
		census.processes++;
		snprintf(path, sizeof(path), "/proc/%d/fd", pid);
		census.descriptors += count_entries(path);
		census.mounts += count_mounts(entry->d_name);
	}
	if (dir)
		closedir(dir);
	snprintf(path, sizeof(path), "/sys/fs/cgroup/*/croft-%d/*/cgroup.procs", getpid());
	census.cgroups = count_glob(path);
	snprintf(path, sizeof(path), "/sys/fs/cgroup/croft-%d/*/cgroup.procs", getpid());
	census.cgroups += count_glob(path);
	snprintf(path, sizeof(path), "%s/*/*/*", state);
	census.files = count_glob(path);
	char line[256];
	FILE *status = fopen("/proc/self/status", "re");
	while (status && fgets(line, sizeof(line), status))
		if (strncmp(line, "RssAnon:", 8) == 0)
			census.memory_bytes = strtoull(line + 8, NULL, 10) * 1024;
	if (status)
		fclose(status);
	return census;
}

static bool same(const struct census *a, const struct census *b)
{
	return a->processes == b->processes && a->descriptors == b->descriptors &&
		a->mounts == b->mounts && a->cgroups == b->cgroups && a->files == b->files;
}

/* Cells make themselves ready after a job: until nothing changes any more, or is as wanted. */
static struct census settled(const struct census *wanted)
{
	struct census last = take_census();
	for (int i = 0, still = 0; i < 600; i++) {
		usleep(100000);
		struct census now = take_census();
		still = same(&now, &last) ? still + 1 : 0;
		last = now;
		if (wanted ? same(&now, wanted) : still >= 20)
			break;
	}
	return last;
}

static void print(const char *when, const struct census *census)
{
	printf("%-12s %u processes, %u descriptors, %u mounts, %u cgroups, %u files, %llu KiB\n", when,
		census->processes, census->descriptors, census->mounts, census->cgroups, census->files,
		(unsigned long long)census->memory_bytes / 1024);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	unsigned count = argc > 2 ? (unsigned)atoi(argv[2]) : 300;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_arena *arena = croft_arena_create();
	const char *limits = "";
	if (argc < 2)
		fail("usage: soak JOB [COUNT]");
	if (geteuid() != 0) {
		fprintf(stderr, "skipped: root is needed\n");
		return 77;
	}
	make_root(argv[1]);
	struct census before = take_census();
	launcher = croft_launcher_start(
		&(struct croft_launcher_config){.state = state, .slots = SLOTS}, arena, &limits, &err);
	if (!launcher)
		fail("%s", err.message);
	limits_work = !strstr(limits, "memory");
	run_jobs(0, 100);
	struct census early = settled(NULL);
	print("after 100", &early);
	run_jobs(100, count);
	struct census late = settled(&early);
	print("at the end", &late);
	if (!same(&early, &late))
		fail("something was left behind or is missing");
	if (memory_is_telling && late.memory_bytes > early.memory_bytes + (1 << 20))
		fail("memory grew");
	croft_launcher_stop(launcher);
	struct census after = settled(&before);
	print("afterwards", &after);
	if (!same(&before, &after))
		fail("the launcher left something behind");
	croft_arena_destroy(arena);
	if (!croft_remove_tree(AT_FDCWD, folder, &err))
		fail("%s", err.message);
	return 0;
}
