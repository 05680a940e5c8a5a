/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs that follow each other in one cell with one root, which is made ahead of them and used again. */
#define FIXTURE_FOLDER "/var/tmp/croft-test-XXXXXX" /* on a disk */
#define FIXTURE_SLOTS 1
#include "tests/unit/sandbox/sandbox_fixture.h"

#include <dirent.h>

/* More than it takes to have one made ahead, in each of a slot's cells. */
enum { ROUNDS = 12 };

static size_t denied;

static void run(const struct croft_sandbox_spec *base, const char *script)
{
	const char *const arguments[] = {"busybox", "sh", "-c", script, NULL};
	const char *const roots[] = {root};
	struct croft_sandbox_spec spec = *base;
	struct croft_sandbox_result result;
	spec.roots = roots;
	spec.root_count = 1;
	spec.root_writable = true;
	spec.arguments = arguments;
	spec.environment = environment;
	spec.output = keep_output;
	croft_sandbox_destroy(run_spec(&spec, &result));
	denied = result.denied_count;
	if (result.exit_code != 0)
		fail_msg("status %d of: %s: %s%s", result.exit_code, script, printed, result.message);
}

static const struct croft_sandbox_spec plain;

static void a_layer_is_seen_as_it_is_now(void **unused)
{
	for (int round = 0; round < ROUNDS; round++) {
		char expected[64];
		run_host("echo %d >%s/new && mv %s/new %s/etc/input && rm -f %s/etc/is-* && echo >%s/etc/is-%d", round,
			root, root, root, root, root, round);
		run(&plain, "busybox cat /etc/input; echo /etc/is-*; [ ! -e /etc/gone ]");
		snprintf(expected, sizeof(expected), "%d\n/etc/is-%d\n", round, round);
		assert_string_equal(printed, expected);
	}
	/* Neither is one that was not there remembered. */
	run_host("echo >%s/etc/gone", root);
	for (int cell = 0; cell < 2; cell++)
		run(&plain, "[ -e /etc/gone ]");
	run_host("rm %s/etc/gone", root);
}

static void a_layer_is_the_one_that_has_the_name_now(void **unused)
{
	for (int round = 0; round < ROUNDS; round++)
		run(&plain, "[ ! -e /etc/other ]");
	run_host("cp -a %s %s/other && echo >%s/other/etc/other && mv %s %s/first && mv %s/other %s", root, folder,
		folder, root, folder, folder, root);
	for (int cell = 0; cell < 2; cell++)
		run(&plain, "[ -e /etc/other ]");
	run_host("rm -r %s && mv %s/first %s", root, folder, root);
}

/* Whatever one does, the next finds a root like the first's. */
static void jobs_leave_each_other_nothing(void **unused)
{
	static const char *const deeds[] = {"true", "echo >/left", "echo >/left; busybox rm /left",
		"busybox chmod 700 /", "busybox mkdir /tmp/left", "echo >/etc/input", "busybox rm /etc/input",
		"busybox touch -t 200001010000 /", "busybox mknod /etc/left p",
		"busybox ls / >/dev/null", "true"};
	char script[512];
	for (int round = 0; round < ROUNDS; round++)
		run(&plain, "true");
	for (size_t i = 0; i < 3 * sizeof(deeds) / sizeof(deeds[0]); i++) {
		snprintf(script, sizeof(script),
			"busybox stat -c '%%a %%u %%g' / /tmp; echo /* /tmp/* /etc/*; [ -s /etc/input ]; echo $?; "
			"[ $(busybox stat -c %%Y /) -gt 1000000000 ] && echo now; %s",
			deeds[i % (sizeof(deeds) / sizeof(deeds[0]))]);
		run(&plain, script);
		char *etc = strstr(printed, "/etc/is-");
		if (etc)
			memmove(etc, strchr(etc, '\n'), strlen(strchr(etc, '\n')) + 1);
		assert_string_equal(
			printed, "755 0 0\n1777 0 0\n/bin /dev /etc /proc /tmp /tmp/* /etc/input \n0\nnow\n");
	}
}

static void an_image_is_ready_for_any_input(void **unused)
{
	char inputs[2][160];
	const char *const writable[] = {"/work/in/out"};
	for (int i = 0; i < 2; i++) {
		snprintf(inputs[i], sizeof(inputs[i]), "%s/input-%d", folder, i);
		run_host("mkdir %s && echo %d >%s/number", inputs[i], i, inputs[i]);
	}
	for (int round = 0; round < 2 * ROUNDS; round++) {
		char expected[16];
		struct croft_sandbox_spec spec = {.input_root = inputs[round / 2 % 2],
			.input_target = "/work/in",
			.writable_directories = writable,
			.writable_count = 1,
			.working_directory = "/work/in"};
		run(&spec, "busybox cat number; echo /work/in/out/* /tmp/*; echo >out/left; echo >number; "
				   "[ -e /etc/input ] && echo >/tmp/left");
		snprintf(expected, sizeof(expected), "%d\n", round / 2 % 2);
		assert_int_equal(strncmp(printed, expected, 2), 0);
		assert_string_equal(printed + 2, "/work/in/out/* /tmp/*\n");
	}
}

/* One who wants another root than is ready, or more than the root. */
static void others_get_what_they_ask_for(void **unused)
{
	const char *const writable[] = {"/made/by/us"};
	struct croft_sandbox_spec special = {.writable_directories = writable, .writable_count = 1};
	struct croft_sandbox_spec host = {.network = CROFT_NETWORK_HOST};
	for (int round = 0; round < ROUNDS; round++)
		run(&plain, "[ ! -e /made ]");
	run(&special, "echo >/made/by/us/file");
	for (int round = 0; round < ROUNDS; round++)
		run(&plain, "[ ! -e /made ]");
	run(&host, "[ ! -e /made ]");
	run(&plain, "[ ! -e /made ]");
}

/* However alike those before it were. */
static void a_job_is_as_it_asks_to_be(void **unused)
{
	static const struct {
		struct croft_sandbox_spec spec;
		const char *expected;
	} kinds[] = {
		{{.working_directory = "/"}, "0 0 croft 0022 / unlimited\n"},
		{{.uid = 7, .gid = 8}, "7 8 croft 0022 / unlimited\n"},
		{{.hostname = "other"}, "0 0 other 0022 / unlimited\n"},
		{{.umask_given = true, .umask = 077}, "0 0 croft 0077 / unlimited\n"},
		{{.working_directory = "/etc"}, "0 0 croft 0022 /etc unlimited\n"},
		{{.working_directory = "/new/place"}, "0 0 croft 0022 /new/place unlimited\n"},
		{{.file_bytes = 1 << 20}, "0 0 croft 0022 / 2048\n"},
		{{.seccomp = CROFT_SECCOMP_COMPAT}, "0 0 croft 0022 / unlimited\n"},
	};
	for (size_t i = 0; i < ROUNDS * sizeof(kinds) / sizeof(kinds[0]); i++) {
		size_t kind = i / ROUNDS;
		run(&kinds[kind].spec, "echo $(busybox id -u) $(busybox id -g) $(busybox hostname) $(umask) $PWD "
							   "$(ulimit -f)");
		assert_string_equal(printed, kinds[kind].expected);
	}
}

/* Nobody who was ready for one job tells the next what that was denied. */
static void each_job_hears_of_its_own_denied_calls(void **unused)
{
	for (int round = 0; round < 2 * ROUNDS; round++) {
		run(&plain, round % 3 ? "true" : "busybox unshare -U true || true");
		assert_int_equal(denied, round % 3 ? 0 : 1);
	}
}

/* Those behind a filter that was made ahead have somebody who answers, too. */
static void each_job_has_its_own_answers(void **unused)
{
	struct croft_sandbox_spec sorted = {.sorted_directories = true};
	for (int round = 0; round < 2 * ROUNDS; round++) {
		run(&sorted, "cd /tmp; for i in q b z a m y c x; do : >$i; done; busybox find . | busybox tr -d '\\n'");
		assert_string_equal(printed, "../a./b./c./m./q./x./y./z");
	}
	run(&plain, "busybox find /etc >/dev/null");
}

/* Memory of processes that jobs never see, and which serve many ------------------------------------------------ */

static bool is_ours(int pid)
{
	for (int parent = pid; parent > 1;) {
		char path[64], text[512] = "";
		snprintf(path, sizeof(path), "/proc/%d/stat", parent);
		FILE *file = fopen(path, "re");
		if (!file)
			return false;
		size_t size = fread(text, 1, sizeof(text) - 1, file);
		fclose(file);
		text[size] = '\0';
		char *rest = strrchr(text, ')');
		if (!rest || sscanf(rest + 1, " %*c %d", &parent) != 1)
			return false;
		if (parent == getpid())
			return true;
	}
	return false;
}

enum { LARGEST = 64 << 20 }; /* sanitizers map more than there is */

/* How often the text stands in memory that the process writes to, and how much that is, if more than `bytes`. */
static unsigned count_in_memory(int pid, const char *text, uint64_t *bytes)
{
	char path[64], line[512];
	unsigned found = 0;
	uint64_t sum = 0;
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	FILE *maps = fopen(path, "re");
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	CROFT_CLEANUP_FD int memory = open(path, O_RDONLY | O_CLOEXEC);
	while (maps && memory >= 0 && fgets(line, sizeof(line), maps)) {
		unsigned long from, to;
		char access[5];
		if (sscanf(line, "%lx-%lx %4s", &from, &to, access) != 3 || access[0] != 'r' || access[1] != 'w' ||
			to - from > LARGEST)
			continue;
		sum += to - from;
		CROFT_CLEANUP_FREE char *copy = croft_alloc(to - from);
		ssize_t got = pread(memory, copy, to - from, (off_t)from);
		for (char *at = copy; got > 0 && (at = memmem(at, (size_t)(copy + got - at), text, strlen(text))); at++)
			found++;
	}
	if (maps)
		fclose(maps);
	*bytes = sum > *bytes ? sum : *bytes;
	return found;
}

/* In all nurseries of this test, and what shares their memory: how many there are. */
static unsigned look_through_nurseries(const char *text, unsigned *found, uint64_t *bytes)
{
	unsigned nurseries = 0;
	DIR *dir = opendir("/proc");
	assert_non_null(dir);
	for (struct dirent *entry; (entry = readdir(dir));) {
		char path[300], name[32] = "";
		int pid = atoi(entry->d_name);
		snprintf(path, sizeof(path), "/proc/%d/comm", pid);
		FILE *file = pid > 0 ? fopen(path, "re") : NULL;
		if (file && fgets(name, sizeof(name), file) && strcmp(name, "croft-ready\n") == 0 && is_ours(pid)) {
			*found += count_in_memory(pid, text, bytes);
			nurseries++;
		}
		if (file)
			fclose(file);
	}
	closedir(dir);
	return nurseries;
}

static void nothing_of_a_job_stays_in_memory(void **unused)
{
	/* Not a text that was there when the first of them was forked. */
	char secret[64], path[96], middling[20000], large[1 << 17];
	snprintf(secret, sizeof(secret), "secret-of-%d", getpid());
	snprintf(path, sizeof(path), "PATH=/%s:/bin", secret);
	/* Where the next jobs, which are told less, do not write. */
	memset(middling, 'x', sizeof(middling));
	memset(large, 'x', sizeof(large));
	strcpy(middling + sizeof(middling) - sizeof(secret), secret);
	strcpy(large + sizeof(large) - sizeof(secret), secret);
	const char *const environments[][3] = {{path, middling, NULL}, {path, large, NULL}};
	unsigned found = 0;
	uint64_t before = 0, after = 0;
	for (int round = 0; round < ROUNDS; round++)
		run(&plain, "true");
	assert_in_range(look_through_nurseries("nothing of the kind", &found, &before), 1, 6);
	for (int round = 0; round < 4 * ROUNDS; round++) {
		const char *const arguments[] = {round % 3 ? "busybox" : "there-is-no-such-command", "true", secret, NULL};
		struct croft_sandbox_spec spec = spec_of(arguments);
		struct croft_sandbox_result result;
		spec.environment = environments[round % 2];
		croft_sandbox_destroy(run_spec(&spec, &result));
	}
	/* Each cell has made the next one since. */
	for (int round = 0; round < ROUNDS; round++)
		run(&plain, "true");
	look_through_nurseries(secret, &found, &after);
	assert_int_equal(found, 0);
	assert_in_range(after, 0, before + before / 4);
}

/* Once the clock has gone on what a job wrote is told by times alone. */
static void what_is_written_later_is_seen_as_well(void **unused)
{
	static const char *const deeds[] = {
		"echo >/left", "echo >/left; busybox rm /left", "busybox chmod 700 /", "busybox mkdir /tmp/left"};
	for (size_t i = 0; i < sizeof(deeds) / sizeof(deeds[0]); i++) {
		for (int cell = 0; cell < 2; cell++)
			run(&plain, "busybox usleep 110000");
		for (int cell = 0; cell < 2; cell++)
			run(&plain, deeds[i]);
		for (int cell = 0; cell < 4; cell++) {
			run(&plain, "busybox stat -c '%a %u %g' / /tmp; echo /* /tmp/*; "
						"[ $(busybox stat -c %Y /) -gt 1000000000 ] && echo now");
			assert_string_equal(printed, "755 0 0\n1777 0 0\n/bin /dev /etc /proc /tmp /tmp/*\nnow\n");
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_layer_is_seen_as_it_is_now),
		cmocka_unit_test(a_layer_is_the_one_that_has_the_name_now),
		cmocka_unit_test(jobs_leave_each_other_nothing),
		cmocka_unit_test(an_image_is_ready_for_any_input),
		cmocka_unit_test(others_get_what_they_ask_for),
		cmocka_unit_test(a_job_is_as_it_asks_to_be),
		cmocka_unit_test(each_job_hears_of_its_own_denied_calls),
		cmocka_unit_test(each_job_has_its_own_answers),
		cmocka_unit_test(what_is_written_later_is_seen_as_well),
		cmocka_unit_test(nothing_of_a_job_stays_in_memory),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
