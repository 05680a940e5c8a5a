/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is captured of what real jobs leave. */
#include "tests/unit/sandbox/sandbox_fixture.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>

static char captured[4096];

static bool keep_entry(void *user, const struct croft_capture_entry *entry, struct croft_error *err)
{
	size_t used = strlen(captured);
	snprintf(captured + used, sizeof(captured) - used, "%.*s%s%s%s%.*s\n", (int)entry->path.size,
		(const char *)entry->path.data, S_ISDIR(entry->mode) ? "/" : "",
		entry->changed ? "*" : "", entry->target.size ? "->" : "", (int)entry->target.size,
		entry->target.size ? (const char *)entry->target.data : "");
	return true;
}

static bool keep_bytes(void *user, const struct croft_capture_entry *entry, struct croft_error *err)
{
	if (!S_ISREG(entry->mode))
		return true;
	int fd = openat(entry->dirfd, entry->name, O_RDONLY | O_CLOEXEC);
	ssize_t got = read(fd, user, 63);
	close(fd);
	return got >= 0;
}

static void outputs_are_captured_with_what_was_there(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c",
		"cd /bin; busybox rm sh; echo n >new; busybox ln -s new link; busybox mkdir -p d/e; echo x >d/e/f",
		NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_sandbox_result result;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_sandbox *sandbox = run_spec(&spec, &result);
	assert_int_equal(result.exit_code, 0);
	captured[0] = '\0';
	assert_ok(croft_sandbox_capture(sandbox, "/bin", keep_entry, NULL, &err), err);
	assert_string_equal(captured, "/*\nbusybox\nd/*\nd/e/*\nd/e/f*\nlink*->new\nnew*\n");
	captured[0] = '\0';
	assert_ok(croft_sandbox_capture(sandbox, "/etc", keep_entry, NULL, &err), err);
	assert_string_equal(captured, "/\n");
	assert_false(croft_sandbox_capture(sandbox, "/none", keep_entry, NULL, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	croft_sandbox_destroy(sandbox);
}

/* What the job saw and what is captured of it are one. */
static void sees_and_leaves(const char *above, const char *seen, const char *left)
{
	const char *const arguments[] = {"busybox", "sh", "-c", "cd /hidden; echo >own; echo * */*", NULL};
	const char *const roots[] = {above, root};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_sandbox_result result;
	struct croft_error err = CROFT_ERROR_INIT;
	spec.roots = roots;
	spec.root_count = 2;
	struct croft_sandbox *sandbox = run_spec(&spec, &result);
	assert_int_equal(result.exit_code, 0);
	assert_string_equal(printed, seen);
	captured[0] = '\0';
	assert_ok(croft_sandbox_capture(sandbox, "/hidden", keep_entry, NULL, &err), err);
	assert_string_equal(captured, left);
	croft_sandbox_destroy(sandbox);
}

static void what_a_layer_hides_is_not_captured(void **unused)
{
	static const char *const names[] = {"user.overlay.opaque", "trusted.overlay.opaque"};
	bool privileged = geteuid() == 0;
	char above[160], path[256];
	snprintf(above, sizeof(above), "%s/above", folder);
	snprintf(path, sizeof(path), "%s/hidden", above);
	run_host("mkdir -p %s/hidden/below %s/hidden/in %s/hidden/in && echo >%s/hidden/below/file && "
			 "echo >%s/hidden/in/lower && echo >%s/hidden/in/upper",
		root, root, above, root, root, above);
	assert_int_equal(setxattr(path, names[privileged], "y", 1, 0), 0);
	sees_and_leaves(above, "in own in/upper\n", "/*\nin/\nown*\n");
	assert_int_equal(removexattr(path, names[privileged]), 0);
	/* The other kind of overlay's says nothing here. */
	if (privileged)
		setxattr(path, names[0], "y", 1, 0); /* not every file system has it */
	sees_and_leaves(above, "below in own below/file in/lower in/upper\n", "/*\nbelow/\nin/\nown*\n");
	run_host("rm -rf %s/hidden %s", root, above);
}

/* Hard links are files like others, holes are zeros, names are bytes. */
static void outputs_of_every_kind_are_captured(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c",
		"mkdir /out; cd /out; echo x >one; ln one two; truncate -s 1G sparse; echo >\"$(printf 'odd\\377\\nname')\"; "
		"echo s >tool; chmod 755 tool; echo h >hidden; chmod 0 hidden; mkdir shut; echo i >shut/in; chmod 0 shut; "
		"ln -s / outside",
		NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_sandbox_result result;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_sandbox *sandbox = run_spec(&spec, &result);
	assert_int_equal(result.exit_code, 0);
	captured[0] = '\0';
	assert_ok(croft_sandbox_capture(sandbox, "/out", keep_entry, NULL, &err), err);
	assert_string_equal(captured,
		"/*\nhidden*\nodd\377\nname*\none*\noutside*->/\nshut/*\nshut/in*\nsparse*\ntool*\ntwo*\n");
	croft_sandbox_destroy(sandbox);
}

/* Where the kernel's default is to copy up an input's metadata alone, its bytes would not be in the layer. */
static void outputs_are_whole_whatever_overlays_do_by_default(void **unused)
{
	static const char metacopy[] = "/sys/module/overlay/parameters/metacopy";
	const char *const arguments[] = {"busybox", "sh", "-c",
		"mkdir -p /data/in; chmod 755 /etc/input; mv /etc /moved && ls /moved", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_sandbox_result result;
	struct croft_error err = CROFT_ERROR_INIT;
	char *before = NULL, bytes[64] = "";
	size_t size;
	bool switched = geteuid() == 0 && croft_read_file(AT_FDCWD, metacopy, 16, &before, &size, NULL) &&
		before[0] == 'N' && system("echo Y >/sys/module/overlay/parameters/metacopy") == 0 &&
		system("echo Y >/sys/module/overlay/parameters/redirect_dir") == 0;
	struct croft_sandbox *sandbox = run_spec(&spec, &result);
	if (switched)
		run_host("echo N >/sys/module/overlay/parameters/redirect_dir; "
				 "echo N >/sys/module/overlay/parameters/metacopy");
	free(before);
	captured[0] = '\0';
	assert_ok(croft_sandbox_capture(sandbox, "/moved", keep_bytes, bytes, &err), err);
	assert_string_equal(bytes, "secret\n");
	croft_sandbox_destroy(sandbox);
}

static void special_files_are_handed_out_on_demand(void **unused)
{
	const char *const arguments[] = {
		"busybox", "sh", "-c", "mkdir /out; mkfifo /out/pipe; echo >/out/file", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_sandbox_result result;
	struct croft_error err = CROFT_ERROR_INIT;
	spec.special_outputs = true;
	struct croft_sandbox *sandbox = run_spec(&spec, &result);
	captured[0] = '\0';
	assert_ok(croft_sandbox_capture(sandbox, "/out", keep_entry, NULL, &err), err);
	assert_string_equal(captured, "/*\nfile*\npipe*\n");
	assert_string_equal(croft_capture_kind(S_IFIFO), "fifo");
	croft_sandbox_destroy(sandbox);
}

/* A tree that lacks something is worse than none. */
static void an_input_that_cannot_be_looked_at_is_not_passed_over(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c", "echo new >/etc/new", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_sandbox_result result;
	struct croft_error err = CROFT_ERROR_INIT;
	struct rlimit limit, few;
	struct croft_sandbox *sandbox = run_spec(&spec, &result);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	few = limit;
	few.rlim_cur = (rlim_t)dup(0) + 3; /* the writable layer, the root, and the upper half of /etc */
	close((int)few.rlim_cur - 3);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	captured[0] = '\0';
	bool ok = croft_sandbox_capture(sandbox, "/etc", keep_entry, NULL, &err);
	setrlimit(RLIMIT_NOFILE, &limit);
	assert_false(ok);
	assert_int_equal(err.code, CROFT_RESOURCE_EXHAUSTED);
	croft_sandbox_destroy(sandbox);
}

static void a_fifo_is_no_output(void **unused)
{
	const char *const arguments[] = {"busybox", "mkfifo", "/out", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	struct croft_sandbox_result result;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_sandbox *sandbox = run_spec(&spec, &result);
	assert_int_equal(result.exit_code, 0);
	assert_false(croft_sandbox_capture(sandbox, "/out", keep_entry, NULL, &err));
	assert_int_equal(err.code, CROFT_FAILED_PRECONDITION);
	croft_sandbox_destroy(sandbox);
}

static void outputs_have_a_size_limit_that_holes_count_towards(void **unused)
{
	const char *const arguments[] = {"busybox", "truncate", "-s", "1000G", "/out", NULL};
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.capture_bytes = 1 << 30;
	struct croft_sandbox_result result;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_sandbox *sandbox = run_spec(&spec, &result);
	assert_int_equal(result.exit_code, 0);
	assert_false(croft_sandbox_capture(sandbox, "/out", keep_entry, NULL, &err));
	assert_int_equal(err.code, CROFT_RESOURCE_EXHAUSTED);
	croft_sandbox_destroy(sandbox);
}

static void an_input_root_can_stand_over_an_image(void **unused)
{
	const char *const arguments[] = {"busybox", "sh", "-c",
		"busybox pwd; busybox cat src; echo made >out/result", NULL};
	const char *const writable[] = {"/croft/root", "/croft/root/out"};
	char input[160];
	snprintf(input, sizeof(input), "%s/input", folder);
	run_host("mkdir -p %s && echo source >%s/src", input, input);
	struct croft_sandbox_spec spec = spec_of(arguments);
	spec.input_root = input;
	spec.input_target = "/croft/root";
	spec.working_directory = "/croft/root";
	spec.writable_directories = writable;
	spec.writable_count = 2;
	struct croft_sandbox_result result;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_sandbox *sandbox = run_spec(&spec, &result);
	assert_string_equal(printed, "/croft/root\nsource\n");
	captured[0] = '\0';
	assert_ok(croft_sandbox_capture(sandbox, "/croft/root/out", keep_entry, NULL, &err), err);
	assert_string_equal(captured, "/*\nresult*\n");
	croft_sandbox_destroy(sandbox);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(outputs_are_captured_with_what_was_there),
		cmocka_unit_test(what_a_layer_hides_is_not_captured),
		cmocka_unit_test(outputs_of_every_kind_are_captured),
		cmocka_unit_test(outputs_are_whole_whatever_overlays_do_by_default),
		cmocka_unit_test(special_files_are_handed_out_on_demand),
		cmocka_unit_test(an_input_that_cannot_be_looked_at_is_not_passed_over),
		cmocka_unit_test(a_fifo_is_no_output),
		cmocka_unit_test(outputs_have_a_size_limit_that_holes_count_towards),
		cmocka_unit_test(an_input_root_can_stand_over_an_image),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
