/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A child process keeps records and tells of every one that was announced; it is killed at a random
 * moment, and the machine's power fails with it (power.h). Whatever was announced is there afterwards, and
 * nothing older. CROFT_CRASHES=200 makes it long; CROFT_SEED repeats one.
 */
#include "tests/unit/fs/power.h"
#include "tests/unit/test.h"

#include "proto/base/io.h"
#include "sched/core/journal.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { KEYS = 512, ROUNDS = 10 };

/* Of each key: the last number that was put, and the last that was announced. Odd: the record was removed. */
struct told {
	_Atomic uint32_t put[KEYS], announced[KEYS];
};

static char folder[64], power_folder[80], path[80];
static struct told *told;

struct one {
	uint32_t key, number;
};

static void announce(void *user, const struct croft_error *failed)
{
	struct one *one = user;
	if (failed)
		_exit(7);
	told->announced[one->key] = one->number;
	free(one);
}

static void child(unsigned seed)
{
	static char value[200000];
	struct croft_error err = CROFT_ERROR_INIT;
	power_begin(power_folder);
	struct croft_journal *journal = croft_journal_open(path, &err);
	if (!journal) {
		fprintf(stderr, "%s\n", err.message);
		_exit(4);
	}
	for (;;) {
		uint32_t key = (uint32_t)rand_r(&seed) % KEYS, number = told->put[key] + 1;
		struct one *one = croft_alloc(sizeof(*one));
		*one = (struct one){key, number};
		told->put[key] = number;
		size_t size = (unsigned)rand_r(&seed) % 64 == 0 ? sizeof(value) : 4 + number % 3000;
		memcpy(value, &number, sizeof(number));
		croft_journal_put(journal, CROFT_SLICE(&key, sizeof(key)),
			number % 2 ? CROFT_SLICE(NULL, 0) : CROFT_SLICE(value, size), false, announce, one);
		while (told->announced[key] != number && rand_r(&seed) % 8 == 0)
			sched_yield();
	}
}

static bool note(void *user, struct croft_slice key, struct croft_slice value, struct croft_error *err)
{
	uint32_t *found = user, number, which;
	memcpy(&which, key.data, sizeof(which));
	memcpy(&number, value.data, sizeof(number));
	found[which] = number;
	return true;
}

static void check(void)
{
	uint32_t found[KEYS] = {0};
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_journal *journal = croft_journal_open(path, &err);
	assert_ok(journal, err);
	assert_ok(croft_journal_each(journal, note, found, &err), err);
	for (unsigned i = 0; i < KEYS; i++) {
		uint32_t announced = told->announced[i], put = told->put[i];
		/* Not there: removed by an odd number that was put, or never there. */
		uint32_t newest_removal = put % 2 ? put : put ? put - 1 : 0;
		uint32_t now = found[i] ? found[i] : newest_removal;
		if (now < announced || now > put)
			fail_msg("key %u: %u was announced, %u put, and %u is there", i, announced, put, found[i]);
		told->put[i] = told->announced[i] = now;
	}
	croft_journal_close(journal);
}

static void all_that_was_announced_outlasts_power_failures(void **state)
{
	unsigned rounds = getenv("CROFT_CRASHES") ? (unsigned)atoi(getenv("CROFT_CRASHES")) : ROUNDS;
	unsigned random =
		getenv("CROFT_SEED") ? (unsigned)atoi(getenv("CROFT_SEED")) : (unsigned)croft_now_ns();
	struct croft_error err = CROFT_ERROR_INIT;
	print_message("CROFT_SEED=%u\n", random);
	told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	strcpy(folder, "/var/tmp/croft-journal-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(power_folder, sizeof(power_folder), "%s/power", folder);
	snprintf(path, sizeof(path), "%s/journal", folder);
	assert_int_equal(mkdir(power_folder, 0700), 0);
	for (unsigned i = 0; i < rounds; i++) {
		unsigned seed = (unsigned)rand_r(&random);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0)
			child(seed);
		usleep(30000 + (unsigned)rand_r(&random) % 200000); /* when the power fails */
		assert_int_equal(kill(pid, SIGKILL), 0);
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFSIGNALED(status))
			fail_msg("the writer ended by itself with %d", WEXITSTATUS(status));
		power_lose(power_folder, path, &random);
		check();
	}
	assert_ok(croft_remove_tree(AT_FDCWD, folder, &err), err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_that_was_announced_outlasts_power_failures),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
