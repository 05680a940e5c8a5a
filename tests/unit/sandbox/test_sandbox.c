/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Real sandboxes over a root of nothing but busybox. */
#include "tests/unit/sandbox/sandbox_fixture.h"

#include <sys/file.h>

static struct croft_sandbox_result shell(const char *script)
{
	const char *const arguments[] = {"busybox", "sh", "-c", script, NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	return result;
}

static void a_command_runs_and_its_output_comes(void **unused)
{
	struct croft_sandbox_result result = shell("echo out; echo err >&2; exit 7");
	assert_int_equal(result.end, CROFT_END_EXIT);
	assert_int_equal(result.exit_code, 7);
	assert_non_null(strstr(printed, "out\n"));
	assert_non_null(strstr(printed, "err\n"));
	assert_true(started_namespace > 0);
}

static void it_sees_nothing_of_the_host(void **unused)
{
	struct croft_sandbox_result result =
		shell("set -- /proc/[0-9]*; echo processes $#; "
			  "for f in /root /home /usr /sys/kernel /dev/sda /dev/fuse /dev/kmsg; do "
			  "[ -e $f ] && echo SEES $f; done; "
			  "busybox cat /proc/mounts | busybox grep -c /tmp/croft-test; busybox id -u; busybox hostname");
	assert_int_equal(result.exit_code, 0);
	assert_null(strstr(printed, "SEES"));
	assert_non_null(strstr(printed, "\n0\n"));
	assert_non_null(strstr(printed, "\ncroft\n"));
}

static void a_read_only_root_can_be_written_only_where_declared(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c",
		"echo x >/out/made && echo y >/etc/input || echo denied", NULL};
	const char *const writable[] = {"/out"};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.root_writable = false;
	spec.writable_directories = writable;
	spec.writable_count = 1;
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_non_null(strstr(printed, "denied"));
	run_host("grep -qx secret %s/etc/input", root);
}

static void inputs_belong_to_the_jobs_root_and_stay_as_they_are(void **unused)
{
	struct croft_sandbox_result result =
		shell("busybox stat -c %u /etc/input; echo new >/etc/input; echo more >/etc/other; "
			  "busybox cat /etc/input");
	assert_int_equal(result.exit_code, 0);
	assert_string_equal(printed, "0\nnew\n");
	run_host("grep -qx secret %s/etc/input && test ! -e %s/etc/other", root, root);
}

static void a_timeout_ends_all_of_it(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c",
		"trap '' TERM; (trap '' TERM; busybox sleep 1000) & echo up; while :; do busybox sleep 1; done",
		NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.wall_ms = 300;
	spec.grace_ms = 200;
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_int_equal(result.end, CROFT_END_WALL_CLOCK);
	assert_non_null(strstr(result.message, "timeout"));
}

static void a_memory_bomb_is_told_as_such(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c",
		"x=x; n=0; while [ $n -lt 27 ]; do x=$x$x; n=$((n + 1)); done", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.memory_bytes = 64 << 20;
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	if (!result.memory_measured) {
		/* Where nothing limits it, that is what is said. */
		assert_false(result.enforced & CROFT_ENFORCED_MEMORY);
		assert_int_equal(result.end, CROFT_END_EXIT);
		return;
	}
	assert_true(result.enforced & CROFT_ENFORCED_MEMORY);
	assert_int_equal(result.end, CROFT_END_MEMORY);
}

static void processor_time_that_is_used_up_ends_it(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c", "while :; do :; done", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.cpu_ms = 300;
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_int_equal(result.end, CROFT_END_CPU);
	assert_non_null(strstr(result.message, "processor time"));
	assert_true(result.user_ns + result.system_ns >= 300000000);
}

static void a_file_that_grows_too_large_is_told_as_such(void **unused)
{
	const char *const arguments[] = {
		"busybox", "sh", "-c", "busybox dd if=/dev/zero of=/f bs=64k count=64", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.file_bytes = 1 << 20;
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_int_equal(result.end, CROFT_END_FILE_SIZE);
	assert_string_equal(croft_end_name(result.end), "file-size");
}

static void too_many_processes_are_told_as_such(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c",
		"i=0; while [ $i -lt 200 ]; do busybox sleep 1000 & i=$((i + 1)); done", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.processes = 20;
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_int_not_equal(result.exit_code, 0);
	/* Without a cgroup nobody counts refusals. */
	if (result.memory_measured)
		assert_int_equal(result.end, CROFT_END_PROCESSES);
}

static void a_quick_job_does_not_get_away_with_too_many_files(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c",
		"i=0; while [ $i -lt 50 ]; do echo >/f$i; i=$((i + 1)); done", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.disk_inodes = 40;
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_int_equal(result.end, CROFT_END_DISK);
	assert_non_null(strstr(result.message, "40 files"));
}

static void a_directory_that_is_shut_hides_nothing_from_the_limit(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c",
		"mkdir /shut; dd if=/dev/urandom of=/shut/f bs=64k count=16 2>/dev/null; chmod 0 /shut", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.disk_bytes = 512 << 10;
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_int_equal(result.end, CROFT_END_DISK);
}

static void what_is_too_deep_to_be_measured_is_too_much(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c",
		"i=0; while [ $i -lt 2100 ]; do mkdir d && cd -P d || exit 1; i=$((i + 1)); done", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.disk_bytes = 1ull << 40;
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_int_equal(result.end, CROFT_END_DISK);
	assert_non_null(strstr(result.message, "cannot be measured"));
}

static void a_flood_of_output_ends_it_and_is_cut(void **unused)
{
	const char *const arguments[] = {"busybox", "yes", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.output_log_bytes = 10000;
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_int_equal(result.end, CROFT_END_LOG);
	assert_int_equal(printed_size, 10000);
}

static void a_daemon_left_behind_dies_and_holds_nothing_up(void **unused)
{
	struct croft_sandbox_result result = shell("busybox setsid busybox sleep 1000 & echo left");
	assert_int_equal(result.end, CROFT_END_EXIT);
	assert_int_equal(result.exit_code, 0);
	assert_true(result.wall_ns < 20ull * 1000000000);
}

static void what_was_denied_is_told_with_what_allows_it(void **unused)
{
	char hint[512];
	struct croft_sandbox_result result = shell("hostname x; unshare -u true; hostname y; exit 1");
	assert_int_equal(result.denied_count, 2);
	assert_string_equal(result.denied[0].call, "sethostname");
	assert_int_equal(result.denied[0].times, 2);
	assert_null(result.denied[0].allowed_by);
	assert_true(croft_sandbox_hint(&result, "--seccomp=", hint, sizeof(hint)));
	assert_string_equal(
		hint, "it called sethostname, which no sandbox allows; unshare, which no sandbox allows");

	const char *const arguments[] = {"busybox", "ionice", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.seccomp = CROFT_SECCOMP_STRICT;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_true(result.denied_count > 0);
	assert_string_equal(result.denied[0].call, "ioprio_get");
	assert_string_equal(result.denied[0].allowed_by, "default");

	result = shell("true");
	assert_int_equal(result.denied_count, 0);
	assert_false(croft_sandbox_hint(&result, "", hint, sizeof(hint)));
}

static void whoever_goes_on_asking_is_not_listened_to_for_ever(void **unused)
{
	struct croft_sandbox_result result =
		shell("i=0; while [ $i -lt 3000 ]; do hostname x; hostname y; i=$((i + 1)); done 2>/dev/null; hostname x");
	assert_int_equal(result.denied_count, 1);
	assert_in_range(result.denied[0].times, 4096, 4096);
	assert_non_null(strstr(printed, "Function not implemented"));
}

/* A killed agent's groups. Those that somebody holds stay. */
static void abandoned_cgroups_are_removed_by_the_next_start(void **unused)
{
	static const char *const places[] = {"/sys/fs/cgroup/pids", "/sys/fs/cgroup"};
	struct croft_error err = CROFT_ERROR_INIT;
	char abandoned[96], held[96], other[160];
	const char *place = access(places[0], W_OK) == 0 ? places[0] : places[1];
	snprintf(abandoned, sizeof(abandoned), "%s/croft-abandoned%d/0", place, getpid());
	snprintf(held, sizeof(held), "%s/croft-held%d/0", place, getpid());
	if (geteuid() != 0 || !croft_make_directories(abandoned, &err) || !croft_make_directories(held, &err))
		return; /* where there are none, none are left */
	*strrchr(abandoned, '/') = '\0';
	*strrchr(held, '/') = '\0';
	int lock = open(held, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(lock, LOCK_EX), 0);
	snprintf(other, sizeof(other), "%s/other", folder);
	run_host("mkdir %s", other);
	struct croft_launcher *next = croft_launcher_start(
		&(struct croft_launcher_config){.state = other, .slots = 1}, arena, NULL, &err);
	assert_ok(next != NULL, err);
	croft_launcher_stop(next);
	/* Not where this process was handed a group of its own, in which no abandoned one was made. */
	char ours[96];
	snprintf(ours, sizeof(ours), "%s/croft-%d", place, getpid());
	bool cgroups = access(ours, F_OK) == 0;
	bool gone = access(abandoned, F_OK) < 0, stays = access(held, F_OK) == 0;
	close(lock);
	run_host("rmdir %s/0 %s; rmdir %s/0 %s 2>/dev/null; true", held, held, abandoned, abandoned);
	assert_true(stays);
	assert_true(gone || !cgroups);
}

static void abandoned_places_for_roots_are_removed_by_the_next_start(void **unused)
{
	struct croft_error err = CROFT_ERROR_INIT;
	const char *place = access("/run", W_OK) == 0 ? "/run" : "/tmp";
	char abandoned[96], held[96], other[160];
	if (geteuid() != 0)
		return; /* theirs lie in the state directory */
	snprintf(abandoned, sizeof(abandoned), "%s/croft-roots-abandoned%d", place, getpid());
	snprintf(held, sizeof(held), "%s/croft-roots-held%d", place, getpid());
	snprintf(other, sizeof(other), "%s/third", folder);
	run_host("mkdir -p %s/0 %s/1 %s/0 %s", abandoned, abandoned, held, other);
	int lock = open(held, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(lock, LOCK_SH), 0);
	struct croft_launcher *next = croft_launcher_start(
		&(struct croft_launcher_config){.state = other, .slots = 1}, arena, NULL, &err);
	assert_ok(next != NULL, err);
	croft_launcher_stop(next);
	bool gone = access(abandoned, F_OK) < 0, stays = access(held, F_OK) == 0;
	close(lock);
	run_host("rmdir %s/0 %s; rmdir %s/* %s 2>/dev/null; true", held, held, abandoned, abandoned);
	assert_true(gone);
	assert_true(stays);
	/* Nor were ours, which are in use. */
	assert_int_equal(shell("true").exit_code, 0);
}

static void a_second_launcher_of_a_process_enforces_as_much(void **unused)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_launcher *first = launcher;
	char other[160];
	uint32_t enforced = shell("true").enforced;
	snprintf(other, sizeof(other), "%s/second", folder);
	run_host("mkdir %s", other);
	launcher = croft_launcher_start(
		&(struct croft_launcher_config){.state = other, .slots = 1}, arena, NULL, &err);
	assert_ok(launcher != NULL, err);
	struct croft_sandbox_result result = shell("true");
	croft_launcher_stop(launcher);
	launcher = first;
	assert_int_equal(result.enforced, enforced);
	/* Nor did it take anything from the first. */
	assert_int_equal(shell("true").enforced, enforced);
}

static void what_is_enforced_is_told(void **unused)
{
	struct croft_sandbox_result result = shell("true");
	assert_true(geteuid() != 0 || result.enforced & CROFT_ENFORCED_USER_IDS);
	for (int bit = 0; bit < CROFT_ENFORCED_COUNT; bit++)
		assert_non_null(croft_enforced_name((enum croft_enforced)(1 << bit)));
}

static void a_missing_command_is_127(void **unused)
{
	const char *const arguments[] = {"no-such-command", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_sandbox_result result;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_int_equal(result.end, CROFT_END_EXEC);
	assert_int_equal(result.exit_code, 127);
}

static void runs_can_be_made_alike(void **unused)
{
	const char *const script[] = {"sh", "-c",
		"umask; hostname; grep -c . /proc/cpuinfo >/dev/null; nproc; grep stack /proc/self/maps", NULL};
	char first[sizeof(printed)];
	for (int i = 0; i < 2; i++) {
		struct croft_sandbox_spec spec = spec_of(script);
		struct croft_sandbox_result result;
		spec.umask_given = true;
		spec.umask = 077;
		spec.hostname = "alike";
		spec.fixed_addresses = true;
		spec.cpus = 1;
		croft_sandbox_destroy(run_spec(&spec, &result));
		assert_int_equal(result.exit_code, 0);
		if (i == 0)
			strcpy(first, printed);
		else
			assert_string_equal(first, printed);
	}
	assert_memory_equal(printed, "0077\nalike\n1\n", 13);
}

static void a_missing_working_directory_is_made(void **unused)
{
	const char *const script[] = {"sh", "-c", "pwd; echo x >made; stat -c %u .", NULL};
	struct croft_sandbox_spec spec = spec_of(script);
	struct croft_sandbox_result result;
	spec.working_directory = "/new/place";
	spec.uid = spec.gid = 1000;
	croft_sandbox_destroy(run_spec(&spec, &result));
	assert_int_equal(result.exit_code, 0);
	assert_string_equal(printed, "/new/place\n1000\n");
}

/* One after another in the same cells, and each twice, so that one finds what was made for it or for another. The
 * numbers are the ends of a slot's range and of what is left of it on either side. */
/* More of them than there are sandboxes ready; without their being given back the last would wait for ever. */
static void what_was_prepared_and_not_started_serves_the_next(void **unused)
{
	const char *const arguments[] = {"sh", "-c", "echo served", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_error err = CROFT_ERROR_INIT;
	alarm(60);
	for (int i = 0; i < 20; i++) {
		struct croft_sandbox *sandbox = croft_sandbox_prepare(launcher, &spec, &err);
		assert_ok(sandbox != NULL, err);
		croft_sandbox_destroy(sandbox);
	}
	for (int i = 0; i < 6; i++) {
		struct croft_sandbox_result result;
		croft_sandbox_destroy(run_spec(&spec, &result));
		assert_string_equal(printed, "served\n");
	}
	alarm(0);
}

static void inputs_belong_to_whichever_user_the_job_is(void **unused)
{
	static const struct {
		uint32_t uid, gid;
	} users[] = {{1000, 1001}, {0, 0}, {1, 1}, {65534, 2}, {0, 7}, {65535, 65535}};
	const char *const script[] = {"sh", "-c",
		"stat -c %u:%g / /etc /etc/input /tmp && stat -c %u:%g /proc/self/ && echo more >>/etc/input && "
		"echo new >/etc/new && mv /etc/new /etc/input && mkdir /etc/made && stat -c %u:%g /etc/made", NULL};
	for (size_t i = 0; i < 4 * sizeof(users) / sizeof(users[0]); i++) {
		struct croft_sandbox_spec spec = spec_of(script);
		struct croft_sandbox_result result;
		char expected[256] = "", owner[32];
		spec.uid = users[i / 4].uid;
		spec.gid = users[i / 4].gid;
		snprintf(owner, sizeof(owner), "%u:%u\n", spec.uid, spec.gid);
		for (int line = 0; line < 6; line++)
			strcat(expected, owner);
		croft_sandbox_destroy(run_spec(&spec, &result));
		assert_string_equal(printed, expected);
		assert_int_equal(result.exit_code, 0);
	}
}

static void many_sandboxes_leave_nothing_behind(void **unused)
{
	for (int i = 0; i < 30; i++)
		assert_int_equal(shell("echo left >/tmp/left; exit 3").exit_code, 3);
	run_host("! grep -q %s /proc/mounts", folder);
	struct croft_error err = CROFT_ERROR_INIT;
	croft_launcher_stop(launcher);
	run_host("test -z \"$(find %s -mindepth 1)\"", state);
	launcher = croft_launcher_start(
		&(struct croft_launcher_config){.state = state, .slots = 2}, arena, NULL, &err);
	assert_ok(launcher != NULL, err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_command_runs_and_its_output_comes),
		cmocka_unit_test(it_sees_nothing_of_the_host),
		cmocka_unit_test(a_read_only_root_can_be_written_only_where_declared),
		cmocka_unit_test(inputs_belong_to_the_jobs_root_and_stay_as_they_are),
		cmocka_unit_test(a_timeout_ends_all_of_it),
		cmocka_unit_test(a_memory_bomb_is_told_as_such),
		cmocka_unit_test(processor_time_that_is_used_up_ends_it),
		cmocka_unit_test(a_file_that_grows_too_large_is_told_as_such),
		cmocka_unit_test(too_many_processes_are_told_as_such),
		cmocka_unit_test(a_quick_job_does_not_get_away_with_too_many_files),
		cmocka_unit_test(a_flood_of_output_ends_it_and_is_cut),
		cmocka_unit_test(a_daemon_left_behind_dies_and_holds_nothing_up),
		cmocka_unit_test(what_was_denied_is_told_with_what_allows_it),
		cmocka_unit_test(whoever_goes_on_asking_is_not_listened_to_for_ever),
		cmocka_unit_test(abandoned_cgroups_are_removed_by_the_next_start),
		cmocka_unit_test(abandoned_places_for_roots_are_removed_by_the_next_start),
		cmocka_unit_test(a_second_launcher_of_a_process_enforces_as_much),
		cmocka_unit_test(what_is_enforced_is_told),
		cmocka_unit_test(a_missing_command_is_127),
		cmocka_unit_test(a_directory_that_is_shut_hides_nothing_from_the_limit),
		cmocka_unit_test(what_is_too_deep_to_be_measured_is_too_much),
		cmocka_unit_test(runs_can_be_made_alike),
		cmocka_unit_test(a_missing_working_directory_is_made),
		cmocka_unit_test(what_was_prepared_and_not_started_serves_the_next),
		cmocka_unit_test(inputs_belong_to_whichever_user_the_job_is),
		cmocka_unit_test(many_sandboxes_leave_nothing_behind),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
