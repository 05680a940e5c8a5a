/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/test.h"

#include "agent/opens.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <unistd.h>

static char folder[] = "/tmp/croft-opens-XXXXXX";

static void open_file(const char *name)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	close(fd);
}

static void watch(struct croft_opens *opens)
{
	assert_int_equal(fanotify_mark(croft_opens_fd(opens), FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN,
		AT_FDCWD, folder), 0);
}

static void assert_heard(struct croft_opens *opens, const char *name)
{
	size_t count;
	struct croft_slice paths = croft_opens_finish(opens, folder, &count);
	assert_int_equal(count, name ? 1 : 0);
	if (name)
		assert_string_equal(paths.data, name);
	assert_true(croft_opens_complete(opens));
}

static void a_job_is_told_nothing_of_what_the_one_before_opened(void **state)
{
	struct croft_listeners *listeners = croft_listeners_create();
	struct croft_opens *opens = croft_opens_start(listeners);
	if (!opens) {
		croft_listeners_destroy(listeners);
		skip(); /* no root of the host */
	}
	int group = croft_opens_fd(opens);
	watch(opens);
	open_file("first");
	assert_heard(opens, "first");
	open_file("after the job was asked for what it opened");
	croft_opens_destroy(opens);
	open_file("between two jobs");

	opens = croft_opens_start(listeners);
	assert_non_null(opens);
	assert_int_equal(croft_opens_fd(opens), group); /* else this shows nothing */
	open_file("not watched by this job");
	assert_heard(opens, NULL);
	croft_opens_destroy(opens);

	opens = croft_opens_start(listeners);
	watch(opens);
	open_file("second");
	assert_heard(opens, "second");
	croft_opens_destroy(opens);
	croft_listeners_destroy(listeners);
}

static size_t descriptors(void)
{
	size_t count = 0;
	DIR *all = opendir("/proc/self/fd");
	assert_non_null(all);
	while (readdir(all))
		count++;
	closedir(all);
	return count;
}

enum { STORM = 3000 };

static void each_file_of_a_storm_is_heard_of_once_and_leaves_no_descriptor(void **state)
{
	struct croft_listeners *listeners = croft_listeners_create();
	struct croft_opens *opens = croft_opens_start(listeners);
	if (!opens) {
		croft_listeners_destroy(listeners);
		skip(); /* no root of the host */
	}
	size_t before = descriptors(), count, at = 0;
	char name[32];
	watch(opens);
	for (int i = 0; i < 2 * STORM; i++) {
		snprintf(name, sizeof(name), "storm-%d", i % STORM);
		open_file(name);
	}
	struct croft_slice paths = croft_opens_finish(opens, folder, &count);
	assert_int_equal(count, STORM);
	for (int i = 0; i < STORM; i++) {
		snprintf(name, sizeof(name), "storm-%d", i);
		assert_string_equal((const char *)paths.data + at, name);
		at += strlen(name) + 1;
	}
	assert_int_equal(at, paths.size);
	assert_true(croft_opens_complete(opens));
	assert_true(descriptors() <= before);
	croft_opens_destroy(opens);
	croft_listeners_destroy(listeners);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_job_is_told_nothing_of_what_the_one_before_opened),
		cmocka_unit_test(each_file_of_a_storm_is_heard_of_once_and_leaves_no_descriptor),
	};
	assert_non_null(mkdtemp(folder));
	/* A file system of its own, where nobody else opens anything. */
	bool own = unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
		mount("none", folder, "tmpfs", 0, NULL) == 0;
	int failed = own ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
	if (own)
		umount(folder);
	rmdir(folder);
	return failed;
}
