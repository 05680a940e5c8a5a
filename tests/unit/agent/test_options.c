/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/image.h"
#include "agent/options.h"

#include "tests/unit/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool read_one(const char *name, const char *value, struct croft_job_options *options,
	struct croft_error *err)
{
	Reapi__Platform__Property property = REAPI__PLATFORM__PROPERTY__INIT;
	Reapi__Platform__Property *properties[] = {&property};
	property.name = (char *)name;
	property.value = (char *)value;
	Reapi__Platform platform = REAPI__PLATFORM__INIT;
	platform.n_properties = 1;
	platform.properties = properties;
	Reapi__Action action = REAPI__ACTION__INIT;
	Reapi__Command command = REAPI__COMMAND__INIT;
	Farm__Job job = FARM__JOB__INIT;
	action.platform = &platform;
	job.action = &action;
	job.command = &command;
	return croft_job_options_read(options, &job, err);
}

static void a_job_that_says_nothing_leaves_its_root_to_the_agent(void **state)
{
	struct croft_job_options options;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(read_one("OSFamily", "linux", &options, &err), err);
	assert_int_equal(options.root, CROFT_ROOT_UNSAID);
	assert_null(options.root_image);
}

static void a_job_chooses_its_root(void **state)
{
	struct croft_job_options options;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(read_one("croft-root", "input", &options, &err), err);
	assert_int_equal(options.root, CROFT_ROOT_INPUT);
	assert_ok(read_one("croft-root", "image", &options, &err), err);
	assert_int_equal(options.root, CROFT_ROOT_IMAGE);
	assert_ok(read_one("croft-root-image", "debian/12", &options, &err), err);
	assert_int_equal(options.root, CROFT_ROOT_IMAGE);
	assert_string_equal(options.root_image, "debian/12");
}

static void a_job_sets_its_limits(void **state)
{
	struct croft_job_options options;
	struct croft_error err = CROFT_ERROR_INIT;
	const struct {
		const char *name;
		const uint64_t *number;
	} limits[] = {{"croft-memory-bytes", &options.memory_bytes}, {"croft-processes", &options.processes},
		{"croft-disk-bytes", &options.disk_bytes}, {"croft-disk-files", &options.disk_inodes},
		{"croft-file-bytes", &options.file_bytes}, {"croft-output-bytes", &options.capture_bytes},
		{"croft-cpu-seconds", &options.cpu_seconds}};
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		assert_ok(read_one(limits[i].name, "4711", &options, &err), err);
		assert_int_equal(*limits[i].number, 4711);
		assert_false(read_one(limits[i].name, "many", &options, &err));
		assert_non_null(strstr(err.message, limits[i].name));
		err = (struct croft_error)CROFT_ERROR_INIT;
	}
}

static void a_job_asks_for_what_makes_runs_alike(void **state)
{
	static const char *const wrong[][2] = {{"croft-umask", "888"}, {"croft-umask", "1777"},
		{"croft-umask", ""}, {"croft-cpus", "-1"}, {"croft-hostname", "a b"},
		{"croft-address-randomization", "no"}, {"croft-seccomp", "none"},
		{"croft-special-outputs", "keep"}, {"croft-directory-order", "by-size"}};
	struct croft_job_options options;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(read_one("croft-umask", "077", &options, &err), err);
	assert_true(options.umask_given && options.umask == 077);
	assert_ok(read_one("croft-cpus", "2", &options, &err), err);
	assert_int_equal(options.cpus, 2);
	assert_ok(read_one("croft-address-randomization", "off", &options, &err), err);
	assert_true(options.fixed_addresses);
	assert_ok(read_one("croft-time-zone", "UTC", &options, &err), err);
	assert_string_equal(options.time_zone, "UTC");
	assert_ok(read_one("croft-directory-order", "sorted", &options, &err), err);
	assert_true(options.sorted_directories);
	assert_ok(read_one("croft-directory-order", "any", &options, &err), err);
	assert_false(options.sorted_directories);
	assert_ok(read_one("croft-special-outputs", "skip", &options, &err), err);
	assert_true(options.skip_special);
	assert_ok(read_one("croft-special-outputs", "refuse", &options, &err), err);
	assert_false(options.skip_special);
	assert_ok(read_one("croft-seccomp", "compat", &options, &err), err);
	assert_int_equal(options.seccomp, CROFT_SECCOMP_COMPAT);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_false(read_one(wrong[i][0], wrong[i][1], &options, &err));
}

static void what_a_sandbox_cannot_do_is_refused(void **state)
{
	struct croft_job_options options;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(read_one("croft-clock", "2020-01-01", &options, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	assert_non_null(strstr(err.message, "libfaketime"));
	err = (struct croft_error)CROFT_ERROR_INIT;
	assert_false(read_one("croft-timezone", "UTC", &options, &err));
	assert_non_null(strstr(err.message, "croft-timezone"));
	err = (struct croft_error)CROFT_ERROR_INIT;
	/* These are asked of agents. */
	assert_ok(read_one("croft-resource-gpu", "1", &options, &err), err);
	assert_ok(read_one("gcc", "12", &options, &err), err);
}

static void a_job_cannot_name_a_directory_of_the_agent(void **state)
{
	static const char *const refused[] = {"/", "/etc", ".", "../x", ""};
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		struct croft_job_options options;
		struct croft_error err = CROFT_ERROR_INIT;
		assert_false(read_one("croft-root-image", refused[i], &options, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	}
}

static void a_root_image_may_not_hold_the_agents_state(void **state)
{
	char folder[] = "/tmp/croft-test-XXXXXX", image[64], inner[80];
	assert_non_null(mkdtemp(folder));
	snprintf(image, sizeof(image), "%s/image", folder);
	snprintf(inner, sizeof(inner), "%s/state", image);
	assert_int_equal(mkdir(image, 0755) + mkdir(inner, 0755), 0);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_image_check(image, folder, &err), err);
	assert_ok(croft_image_check("a-name", inner, &err), err);
	assert_false(croft_image_check(image, inner, &err));
	assert_false(croft_image_check("/", folder, &err));
	assert_false(croft_image_check("./image", folder, &err));
	assert_false(croft_image_check("/nowhere/at/all", folder, &err));
	rmdir(inner);
	rmdir(image);
	rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_job_that_says_nothing_leaves_its_root_to_the_agent),
		cmocka_unit_test(a_job_chooses_its_root),
		cmocka_unit_test(a_job_sets_its_limits),
		cmocka_unit_test(a_job_asks_for_what_makes_runs_alike),
		cmocka_unit_test(what_a_sandbox_cannot_do_is_refused),
		cmocka_unit_test(a_job_cannot_name_a_directory_of_the_agent),
		cmocka_unit_test(a_root_image_may_not_hold_the_agents_state),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
