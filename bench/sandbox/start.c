/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a sandbox costs: a static /bin/true in the full sandbox, under bwrap on the same root, and
 * spawned plainly. Runs are interleaved, so that a machine that is busy now and then is unfair to none.
 */
#include "proto/base/io.h"
#include "sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CONCURRENT = 4 };

static char folder[64], root[80], program[96];
static struct croft_launcher *launcher;

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "bench-sandbox: %s: %s\n", what, why);
	exit(1);
}

static void make_root(const char *binary)
{
	static const char *const places[] = {"", "/bin", "/proc", "/dev", "/tmp"};
	char *data = NULL, path[128];
	size_t size;
	struct croft_error err = CROFT_ERROR_INIT;
	strcpy(folder, "/var/tmp/croft-bench-XXXXXX");
	if (!mkdtemp(folder) || chmod(folder, 0755) < 0)
		fail(folder, strerror(errno));
	snprintf(root, sizeof(root), "%s/root", folder);
	snprintf(program, sizeof(program), "%s/bin/true", root);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", root, places[i]);
		if (mkdir(path, 0755) < 0)
			fail(path, strerror(errno));
	}
	if (!croft_read_file(AT_FDCWD, binary, 16 << 20, &data, &size, &err) ||
		!croft_write_file(AT_FDCWD, program, data, size, 0755, &err))
		fail(program, err.message);
	free(data);
}

/* One run each ------------------------------------------------------------------------------------ */

struct sample {
	uint64_t whole_ns; /* from the request until the end is known */
	uint64_t exec_ns;  /* until the first instruction */
};

static void on_output(void *user, int stream, struct croft_slice data)
{
	if (data.size == sizeof(uint64_t))
		memcpy(user, data.data, sizeof(uint64_t));
}

static void run_croft(struct sample *sample, const char *argument)
{
	static const char *const none[] = {NULL};
	const char *const arguments[] = {"/bin/true", argument, NULL};
	const char *const roots[] = {root};
	uint64_t first = 0;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_sandbox_result result;
	struct croft_sandbox_spec spec = {.roots = roots,
		.root_count = 1,
		.root_writable = true,
		.arguments = arguments,
		.environment = none,
		.working_directory = "/",
		.memory_bytes = 1 << 30,
		.processes = 100,
		.wall_ms = 60000,
		.output = on_output,
		.user = &first};
	uint64_t start = croft_now_ns();
	struct croft_sandbox *sandbox = croft_sandbox_prepare(launcher, &spec, &err);
	if (!sandbox || !croft_sandbox_start(sandbox, &err) ||
		!croft_sandbox_wait(sandbox, &result, &err) || result.exit_code != 0)
		fail("a sandbox", err.message);
	croft_sandbox_destroy(sandbox);
	sample->whole_ns = croft_now_ns() - start;
	sample->exec_ns = first - start;
}

static void spawn(const char *const *arguments, struct sample *sample)
{
	static char *none[] = {NULL};
	int ends[2], status;
	pid_t pid;
	posix_spawn_file_actions_t actions;
	uint64_t start = croft_now_ns(), first = 0;
	if (pipe2(ends, O_CLOEXEC) < 0)
		fail("a pipe", strerror(errno));
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
	if (posix_spawn(&pid, arguments[0], &actions, NULL, (char **)arguments, none) != 0 ||
		waitpid(pid, &status, 0) != pid || status != 0)
		fail(arguments[0], "did not run");
	sample->whole_ns = croft_now_ns() - start;
	close(ends[1]);
	if (read(ends[0], &first, sizeof(first)) == sizeof(first))
		sample->exec_ns = first - start;
	close(ends[0]);
	posix_spawn_file_actions_destroy(&actions);
}

static void run_plain(struct sample *sample, const char *argument)
{
	const char *const arguments[] = {program, argument, NULL};
	spawn(arguments, sample);
}

static void run_bwrap(struct sample *sample, const char *argument)
{
	const char *const arguments[] = {"/usr/bin/bwrap", "--unshare-all", "--ro-bind", root, "/",
		"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/bin/true", argument,
		NULL};
	spawn(arguments, sample);
}

/* Medians ----------------------------------------------------------------------------------------- */

struct kind {
	const char *name;
	void (*run)(struct sample *sample, const char *argument);
	uint64_t *whole, *exec;
};

static int compare(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
	return (left > right) - (left < right);
}

static double at(uint64_t *list, unsigned count, double part)
{
	qsort(list, count, sizeof(*list), compare);
	return (double)list[(unsigned)(part * (count - 1))] / 1e6;
}

/* Several at once ---------------------------------------------------------------------------------- */

struct crowd {
	void (*run)(struct sample *sample, const char *argument);
	uint64_t until_ns;
	unsigned count;
};

static void *keep_running(void *user)
{
	struct crowd *crowd = user;
	struct sample sample;
	for (; croft_now_ns() < crowd->until_ns; crowd->count++)
		crowd->run(&sample, NULL);
	return NULL;
}

static double per_second(const struct kind *kind, unsigned seconds)
{
	pthread_t threads[CONCURRENT];
	struct crowd crowds[CONCURRENT];
	unsigned sum = 0;
	uint64_t start = croft_now_ns();
	for (int i = 0; i < CONCURRENT; i++) {
		crowds[i] = (struct crowd){kind->run, start + seconds * 1000000000ull, 0};
		if (pthread_create(&threads[i], NULL, keep_running, &crowds[i]) != 0)
			fail("a thread", "none to be had");
	}
	for (int i = 0; i < CONCURRENT; i++) {
		pthread_join(threads[i], NULL);
		sum += crowds[i].count;
	}
	return sum / ((double)(croft_now_ns() - start) / 1e9);
}

static void bar(const char *name, const char *where, double value, double goal, bool least)
{
	bool ok = least ? value >= goal : value <= goal;
	printf("BAR %s%s %.2f %s%.2f %s\n", name, where, value, least ? ">=" : "<=", goal, ok ? "ok" : "short");
}

/* Jobs that leave something to remove. bwrap's write to memory: its root is read-only. */
static void measure_writing(const char *argument, const char *what, unsigned runs)
{
	uint64_t *whole[2];
	void (*const run[])(struct sample *sample, const char *argument) = {run_croft, run_bwrap};
	for (int i = 0; i < 2; i++)
		whole[i] = calloc(runs, sizeof(uint64_t));
	for (unsigned k = 0; k < runs; k++) {
		for (int i = 0; i < 2; i++) {
			struct sample sample = {0};
			run[i](&sample, argument);
			whole[i][k] = sample.whole_ns;
		}
	}
	printf("%s: croft %.3f (p99 %.2f), bwrap in memory %.3f (p99 %.2f) ms\n", what, at(whole[0], runs, 0.5),
		at(whole[0], runs, 0.99), at(whole[1], runs, 0.5), at(whole[1], runs, 0.99));
	free(whole[0]);
	free(whole[1]);
}

/* With upper layers below `parent`. */
static void measure(const char *parent, const char *where, unsigned runs, unsigned seconds)
{
	struct kind kinds[] = {
		{"croft", run_croft, NULL, NULL}, {"spawn", run_plain, NULL, NULL}, {"bwrap", run_bwrap, NULL, NULL}};
	double whole[3], first[3], rate[3] = {0};
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	const char *limits = "";
	char state[64];
	snprintf(state, sizeof(state), "%s/croft-bench-XXXXXX", parent);
	if (!mkdtemp(state))
		fail(state, strerror(errno));
	launcher = croft_launcher_start(
		&(struct croft_launcher_config){.state = state, .slots = CONCURRENT}, arena, &limits, &err);
	if (!launcher)
		fail("the launcher", err.message);
	printf("\nupper layers in %s; ", parent);
	printf("not enforced here: %s\n", *limits ? limits : "nothing is missing");
	for (int i = 0; i < 3; i++) {
		kinds[i].whole = calloc(runs, sizeof(uint64_t));
		kinds[i].exec = calloc(runs, sizeof(uint64_t));
	}
	for (unsigned run = 0; run < runs; run++) {
		for (int i = 0; i < 3; i++) {
			struct sample sample = {0};
			kinds[i].run(&sample, "time");
			kinds[i].exec[run] = sample.exec_ns;
			kinds[i].run(&sample, NULL);
			kinds[i].whole[run] = sample.whole_ns;
		}
	}
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < 3; i++)
			rate[i] += per_second(&kinds[i], seconds) / 3;
	printf("%-8s %22s %22s %12s\n", "", "start to end, ms", "to first code, ms", "4 at once");
	for (int i = 0; i < 3; i++) {
		whole[i] = at(kinds[i].whole, runs, 0.5);
		first[i] = at(kinds[i].exec, runs, 0.5);
		printf("%-8s %10.3f (p99 %5.2f) %10.3f (p99 %5.2f) %8.0f /s\n", kinds[i].name, whole[i],
			at(kinds[i].whole, runs, 0.99), first[i], at(kinds[i].exec, runs, 0.99), rate[i]);
		free(kinds[i].whole);
		free(kinds[i].exec);
	}
	measure_writing("write", "20 files of 4 KiB", runs / 2);
	measure_writing("sync", "each on the disk", runs / 2);
	bar("start-to-end-of-bwrap", where, whole[0] / whole[2], 0.35, false);
	bar("request-to-exec-of-spawn", where, first[0] / first[1], 1.5, false);
	bar("per-second-of-bwrap", where, rate[0] / rate[2], 3, true);
	croft_launcher_stop(launcher);
	croft_arena_destroy(arena);
	if (!croft_remove_tree(AT_FDCWD, state, &err))
		fail(state, err.message);
}

int main(int argc, char **argv)
{
	unsigned runs = argc > 2 ? (unsigned)atoi(argv[2]) : 400;
	unsigned seconds = argc > 3 ? (unsigned)atoi(argv[3]) : 4;
	struct croft_error err = CROFT_ERROR_INIT;
	if (argc < 2 || runs == 0)
		fail("usage", "bench-sandbox STATIC-TRUE [RUNS [SECONDS]]");
	make_root(argv[1]);
	measure("/var/tmp", "", runs, seconds);
	/* As bwrap's own --tmpfs. */
	measure("/dev/shm", "-in-memory", runs, seconds);
	if (!croft_remove_tree(AT_FDCWD, folder, &err))
		fail(folder, err.message);
	return 0;
}
