/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The filesystem daemon as an agent sees it: this program runs itself as the daemon. */
#include "fs/daemon/internal.h"
#include "fs/tree.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>

struct fixture {
	char directory[64];
	struct croft_daemon_config config;
	struct croft_daemon *daemon;
};

static struct croft_daemon *attach(struct fixture *fixture)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_daemon *daemon = croft_daemon_attach(&fixture->config, &err);
	assert_ok(daemon != NULL, err);
	return daemon;
}

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/croft-daemon-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	fixture->config = (struct croft_daemon_config){.state = fixture->directory,
		.budget_bytes = 1 << 30, .uid = 12, .gid = 34, .classic = true};
	fixture->daemon = attach(fixture);
	*state = fixture;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	croft_daemon_detach(fixture->daemon, false);
	assert_ok(croft_remove_tree(AT_FDCWD, fixture->directory, &err), err);
	free(fixture);
	return 0;
}

static bool is_mounted(struct fixture *fixture)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/mnt", fixture->directory);
	struct statfs stat;
	assert_int_equal(statfs(path, &stat), 0);
	return stat.f_type == 0x65735546; /* FUSE_SUPER_MAGIC */
}

static struct croft_digest adopt(struct fixture *fixture, const void *data, size_t size)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest digest = croft_digest_of(data, size);
	CROFT_CLEANUP_FD int fd = memfd_create("blob", MFD_CLOEXEC);
	assert_ok(croft_write_all(fd, data, size, "memfd", &err), err);
	assert_ok(croft_daemon_adopt(fixture->daemon, &digest, fd, &err), err);
	return digest;
}

static bool no_source(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *err)
{
	return croft_error_set(err, CROFT_NOT_FOUND, "no source");
}

static bool adopt_directory(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	adopt(user, bytes.data, bytes.size);
	return true;
}

/* d/a and d/b of the same five bytes. */
static struct croft_digest adopt_tree(struct fixture *fixture)
{
	struct croft_error err = CROFT_ERROR_INIT;
	static const struct croft_tree_source source = {no_source, NULL};
	struct croft_tree_builder *builder = croft_tree_builder_create(&source);
	struct croft_tree_entry file = {.kind = CROFT_ENTRY_FILE,
		.digest = adopt(fixture, "hello", 5)};
	assert_ok(croft_tree_builder_add(builder, croft_slice_str("d/a"), &file, &err), err);
	assert_ok(croft_tree_builder_add(builder, croft_slice_str("d/b"), &file, &err), err);
	struct croft_digest root;
	assert_ok(croft_tree_builder_finish(builder, adopt_directory, fixture, &root, &err), err);
	croft_tree_builder_destroy(builder);
	return root;
}

static void assert_tree(struct fixture *fixture, const struct croft_digest *root)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char digest[CROFT_DIGEST_TEXT], path[PATH_MAX];
	croft_digest_format(root, '-', digest);
	snprintf(path, sizeof(path), "%s/by-digest/%s/d/a",
		croft_daemon_mountpoint(fixture->daemon), digest);
	char *data;
	size_t size;
	assert_ok(croft_read_file(AT_FDCWD, path, 100, &data, &size, &err), err);
	assert_int_equal(size, 5);
	assert_memory_equal(data, "hello", 5);
	free(data);
	struct stat stat;
	assert_int_equal(lstat(path, &stat), 0);
	assert_int_equal(stat.st_uid, 12);
	assert_int_equal(stat.st_gid, 34);
}

static void shows_what_was_adopted(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root = adopt_tree(fixture);
	assert_tree(fixture, &root);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_daemon_stat stat;
	assert_ok(croft_daemon_stat(fixture->daemon, &stat, &err), err);
	assert_int_equal(stat.store.blobs, 3);
}

static void refuses_to_adopt_what_is_something_else(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest digest = croft_digest_of("hello", 5);
	CROFT_CLEANUP_FD int fd = memfd_create("blob", MFD_CLOEXEC);
	assert_ok(croft_write_all(fd, "olleh", 5, "memfd", &err), err);
	assert_false(croft_daemon_adopt(fixture->daemon, &digest, fd, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
}

static void measures_trees(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root = adopt_tree(fixture);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_tree_totals totals;
	for (int i = 0; i < 2; i++) {
		memset(&totals, 0xff, sizeof(totals));
		assert_ok(croft_daemon_measure(fixture->daemon, &root, &totals, &err), err);
		assert_int_equal(totals.files, 2);
		assert_int_equal(totals.directories, 1);
		assert_int_equal(totals.symlinks, 0);
		assert_int_equal(totals.bytes, 10);
	}
	struct croft_digest nowhere = croft_digest_of("nowhere", 7);
	assert_false(croft_daemon_measure(fixture->daemon, &nowhere, &totals, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	assert_ok(croft_daemon_measure(fixture->daemon, &croft_digest_empty, &totals, &err), err);
	assert_int_equal(totals.files, 0);
}

static void keeps_accounts(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_mount_account account;
	assert_false(croft_daemon_account_read(fixture->daemon, 4711, &account, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	assert_ok(croft_daemon_account_begin(fixture->daemon, 4711, &err), err);
	assert_ok(croft_daemon_account_read(fixture->daemon, 4711, &account, &err), err);
	assert_ok(croft_daemon_account_end(fixture->daemon, 4711, &account, &err), err);
	assert_int_equal(account.fetched_files, 0);
	assert_false(croft_daemon_account_end(fixture->daemon, 4711, &account, &err));
}

static void a_second_agent_finds_the_running_daemon(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root = adopt_tree(fixture);
	croft_daemon_detach(fixture->daemon, true);
	assert_true(is_mounted(fixture));
	fixture->daemon = attach(fixture);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_daemon_stat stat;
	assert_ok(croft_daemon_stat(fixture->daemon, &stat, &err), err);
	assert_int_equal(stat.store.blobs, 3);
	assert_tree(fixture, &root);
}

/* A file of the mount that is open, and of which nothing was read. */
static int open_unread(struct fixture *fixture, const struct croft_digest *root)
{
	char digest[CROFT_DIGEST_TEXT], path[PATH_MAX];
	croft_digest_format(root, '-', digest);
	snprintf(path, sizeof(path), "%s/by-digest/%s/d/a",
		croft_daemon_mountpoint(fixture->daemon), digest);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void assert_hello(int fd)
{
	char text[8];
	assert_int_equal(pread(fd, text, sizeof(text), 0), 5);
	assert_memory_equal(text, "hello", 5);
}

static void another_configuration_replaces_it_under_those_who_use_it(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root = adopt_tree(fixture);
	CROFT_CLEANUP_FD int held = open_unread(fixture, &root);
	croft_daemon_detach(fixture->daemon, true);
	fixture->config.budget_bytes = 1 << 29;
	fixture->daemon = attach(fixture);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_daemon_stat stat;
	assert_hello(held);
	assert_ok(croft_daemon_stat(fixture->daemon, &stat, &err), err);
	assert_int_equal(stat.store.budget_bytes, 1 << 29);
	assert_tree(fixture, &root);
}

static void unmounts_when_it_is_told_to_end(void **state)
{
	struct fixture *fixture = *state;
	assert_true(is_mounted(fixture));
	croft_daemon_detach(fixture->daemon, false);
	assert_false(is_mounted(fixture));
	fixture->daemon = attach(fixture);
	assert_true(is_mounted(fixture));
}

/* The youngest child of this process. Earlier ones may be dead: nobody reaps what was kept running. */
static pid_t daemon_pid(void)
{
	char path[64], text[256] = "";
	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	pid_t youngest = 0;
	for (char *at = text, *end; strtol(at, &end, 10) > 0; at = end)
		youngest = (pid_t)strtol(at, NULL, 10);
	return youngest;
}

/* A server that came back at another port is no reason to start anything anew. */
static void it_stays_when_the_origin_goes_elsewhere(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	croft_daemon_detach(fixture->daemon, false);
	fixture->config.origin = "127.0.0.1:1";
	fixture->daemon = attach(fixture);
	pid_t before = daemon_pid();
	assert_ok(croft_daemon_set_origin(fixture->daemon, "127.0.0.1:2", NULL, &err), err);
	assert_int_equal(daemon_pid(), before);
	croft_daemon_detach(fixture->daemon, true);
	fixture->config.origin = "127.0.0.1:2";
	fixture->daemon = attach(fixture);
	assert_int_equal(daemon_pid(), before);
	/* Another key is one of its own plane, too. */
	assert_ok(croft_daemon_set_origin(fixture->daemon, "127.0.0.1:2", "secret", &err), err);
	assert_int_not_equal(daemon_pid(), before);
	fixture->config.plane_key = "secret";
}

static void one_that_crashed_is_replaced_by_the_next_call(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root = adopt_tree(fixture);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_daemon_stat stat;
	/* A file that is open in the mount makes it busy. */
	CROFT_CLEANUP_FD int held = open(croft_daemon_mountpoint(fixture->daemon), O_RDONLY | O_CLOEXEC);
	assert_true(held >= 0);
	pid_t pid = daemon_pid();
	assert_int_equal(kill(pid, SIGKILL), 0);
	while (kill(pid, 0) == 0) {
		siginfo_t info = {0};
		waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
		if (info.si_pid == pid)
			break;
	}
	assert_ok(croft_daemon_stat(fixture->daemon, &stat, &err), err);
	assert_tree(fixture, &root);
	assert_int_not_equal(daemon_pid(), pid);
}

static void wait_for_exit(pid_t pid)
{
	siginfo_t info = {0};
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(info.si_code, CLD_EXITED);
	assert_int_equal(info.si_status, 0);
}

/* The kernel remembers what belonged to the first. */
static void another_owner_restarts_it_with_its_cache(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest root = adopt_tree(fixture);
	struct croft_daemon_stat stat;
	pid_t pid = daemon_pid();
	croft_daemon_detach(fixture->daemon, true);
	fixture->config.uid = 13;
	fixture->daemon = attach(fixture);
	wait_for_exit(pid);
	assert_ok(croft_daemon_stat(fixture->daemon, &stat, &err), err);
	assert_int_equal(stat.store.blobs, 3);
	CROFT_CLEANUP_FD int fd = open_unread(fixture, &root);
	assert_hello(fd);
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_uid, 13);
}

static void a_newer_one_takes_over_without_anyone_noticing(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest root = adopt_tree(fixture);
	struct croft_mount_account account;
	CROFT_CLEANUP_FD int held = open_unread(fixture, &root);
	assert_ok(croft_daemon_account_begin(fixture->daemon, 4711, &err), err);
	for (int i = 0; i < 3; i++) {
		pid_t pid = daemon_pid();
		assert_ok(croft_daemon_renew(fixture->daemon, &err), err);
		assert_int_not_equal(daemon_pid(), pid);
		assert_int_equal(waitpid(pid, NULL, WNOHANG), -1); /* it has gone, and was reaped */
	}
	assert_hello(held);
	assert_ok(croft_daemon_account_end(fixture->daemon, 4711, &account, &err), err);
	assert_tree(fixture, &root);
	croft_daemon_detach(fixture->daemon, false);
	assert_false(is_mounted(fixture));
	fixture->daemon = attach(fixture);
}

struct caller {
	struct croft_daemon *daemon;
	pthread_t thread;
	atomic_bool stop;
	bool ok;
	struct croft_error err;
};

static void *call_until_stopped(void *user)
{
	struct caller *caller = user;
	struct croft_daemon_stat stat;
	while (caller->ok && !atomic_load(&caller->stop)) {
		caller->ok = croft_daemon_stat(caller->daemon, &stat, &caller->err);
		usleep(20000); /* so that its connection lies idle while the daemons change places */
	}
	return NULL;
}

enum { CALLERS = 2 };

/* Connections to the one that goes are given back, and made, while the other comes. */
static void a_newer_one_takes_over_while_others_call(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct caller callers[CALLERS] = {0};
	for (size_t i = 0; i < CALLERS; i++) {
		callers[i].daemon = fixture->daemon;
		callers[i].ok = true;
		assert_int_equal(pthread_create(&callers[i].thread, NULL, call_until_stopped, &callers[i]), 0);
	}
	bool ok = true;
	for (int i = 0; i < 10 && ok; i++)
		ok = croft_daemon_renew(fixture->daemon, &err);
	for (size_t i = 0; i < CALLERS; i++) {
		atomic_store(&callers[i].stop, true);
		pthread_join(callers[i].thread, NULL);
	}
	assert_ok(ok, err);
	for (size_t i = 0; i < CALLERS; i++)
		assert_ok(callers[i].ok, callers[i].err);
}

static void one_that_does_not_come_to_take_over_leaves_the_other_going(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest root = adopt_tree(fixture);
	CROFT_CLEANUP_FD int held = open_unread(fixture, &root);
	pid_t pid = daemon_pid();
	for (int i = 0; i < 2; i++) {
		struct handed handed;
		int socket;
		assert_ok(hand_over_ask(fixture->directory, &socket, &handed, &err), err);
		close(handed.lock_fd);
		close(handed.listen_fd);
		close(handed.mount.device);
		close(handed.mount.state);
		close(socket);
		assert_tree(fixture, &root);
	}
	assert_hello(held);
	assert_int_equal(daemon_pid(), pid);
	struct croft_daemon_stat stat;
	assert_ok(croft_daemon_stat(fixture->daemon, &stat, &err), err);
	assert_int_equal(stat.store.blobs, 3);
}

static void one_without_an_agent_ends_when_nothing_is_open(void **state)
{
	struct fixture *fixture = *state;
	croft_daemon_detach(fixture->daemon, false);
	fixture->config.orphan_ms = 50;
	fixture->daemon = attach(fixture);
	int held = open(croft_daemon_mountpoint(fixture->daemon), O_RDONLY | O_CLOEXEC);
	pid_t pid = daemon_pid();
	croft_daemon_detach(fixture->daemon, true);
	fixture->daemon = NULL;
	close(held);
	wait_for_exit(pid);
	assert_false(is_mounted(fixture));
}

static void ends_when_its_socket_was_taken_away(void **state)
{
	struct fixture *fixture = *state;
	char path[128];
	snprintf(path, sizeof(path), "%s/socket", fixture->directory);
	assert_int_equal(unlink(path), 0);
	croft_daemon_detach(fixture->daemon, false);
	fixture->daemon = NULL;
	assert_false(is_mounted(fixture));
}

static void ends_cleanly_on_a_signal(void **state)
{
	struct fixture *fixture = *state;
	pid_t pid = daemon_pid();
	assert_int_equal(kill(pid, SIGTERM), 0);
	siginfo_t info = {0};
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(info.si_code, CLD_EXITED);
	assert_int_equal(info.si_status, 0);
	assert_false(is_mounted(fixture));
}

static void says_why_it_cannot_start(void **state)
{
	struct fixture *fixture = *state;
	struct croft_daemon_config config = {.state = "/proc/nothing"};
	struct croft_error err = CROFT_ERROR_INIT;
	assert_null(croft_daemon_attach(&config, &err));
	assert_non_null(strstr(err.message, "/proc/nothing"));

	char cache[128];
	croft_daemon_detach(fixture->daemon, false);
	fixture->daemon = NULL;
	snprintf(cache, sizeof(cache), "%s/cache", fixture->directory);
	assert_ok(croft_remove_tree(AT_FDCWD, cache, &err), err);
	CROFT_CLEANUP_FD int fd = open(cache, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	assert_null(croft_daemon_attach(&fixture->config, &err));
	assert_non_null(strstr(err.message, "cache"));
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "fs-daemon") == 0)
		return croft_daemon_command(argc - 1, argv + 1);
	if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) != 0) {
		printf("skipped: mounting needs root and /dev/fuse\n");
		return 77;
	}
#define daemon_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		daemon_test(shows_what_was_adopted),
		daemon_test(refuses_to_adopt_what_is_something_else),
		daemon_test(measures_trees),
		daemon_test(keeps_accounts),
		daemon_test(a_second_agent_finds_the_running_daemon),
		daemon_test(another_configuration_replaces_it_under_those_who_use_it),
		daemon_test(it_stays_when_the_origin_goes_elsewhere),
		daemon_test(another_owner_restarts_it_with_its_cache),
		daemon_test(a_newer_one_takes_over_without_anyone_noticing),
		daemon_test(a_newer_one_takes_over_while_others_call),
		daemon_test(one_that_does_not_come_to_take_over_leaves_the_other_going),
		daemon_test(one_without_an_agent_ends_when_nothing_is_open),
		daemon_test(unmounts_when_it_is_told_to_end),
		daemon_test(one_that_crashed_is_replaced_by_the_next_call),
		daemon_test(ends_when_its_socket_was_taken_away),
		daemon_test(ends_cleanly_on_a_signal),
		daemon_test(says_why_it_cannot_start),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
