/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/test.h"

#include "proto/base/io.h"
#include "sched/core/journal.h"

#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct fixture {
	char folder[64];
	struct croft_journal *journal;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned announced, failed, seen;
	char order[64];
};

static void open_journal(struct fixture *fixture)
{
	struct croft_error err = CROFT_ERROR_INIT;
	fixture->journal = croft_journal_open(fixture->folder, &err);
	assert_ok(fixture->journal, err);
}

static void start(struct fixture *fixture)
{
	*fixture = (struct fixture){.folder = "/tmp/croft-journal-XXXXXX"};
	pthread_mutex_init(&fixture->lock, NULL);
	pthread_cond_init(&fixture->changed, NULL);
	assert_non_null(mkdtemp(fixture->folder));
	open_journal(fixture);
}

static void stop(struct fixture *fixture)
{
	struct croft_error err = CROFT_ERROR_INIT;
	croft_journal_close(fixture->journal);
	assert_ok(croft_remove_tree(AT_FDCWD, fixture->folder, &err), err);
}

static void announce(void *user, const struct croft_error *failed)
{
	struct fixture *fixture = user;
	pthread_mutex_lock(&fixture->lock);
	fixture->announced++;
	fixture->failed += failed != NULL;
	pthread_cond_signal(&fixture->changed);
	pthread_mutex_unlock(&fixture->lock);
}

static void wait_for(struct fixture *fixture, unsigned announced)
{
	pthread_mutex_lock(&fixture->lock);
	while (fixture->announced < announced)
		pthread_cond_wait(&fixture->changed, &fixture->lock);
	pthread_mutex_unlock(&fixture->lock);
}

static void put(struct fixture *fixture, const char *key, const char *value)
{
	croft_journal_put(fixture->journal, croft_slice_str(key),
		value ? croft_slice_str(value) : CROFT_SLICE(NULL, 0), false, announce, fixture);
}

static bool note(void *user, struct croft_slice key, struct croft_slice value, struct croft_error *err)
{
	struct fixture *fixture = user;
	fixture->seen++;
	strncat(fixture->order, key.data, key.size);
	strncat(fixture->order, value.data, value.size);
	return true;
}

static void read_all(struct fixture *fixture)
{
	struct croft_error err = CROFT_ERROR_INIT;
	fixture->seen = 0;
	fixture->order[0] = '\0';
	assert_ok(croft_journal_each(fixture->journal, note, fixture, &err), err);
}

static void what_was_announced_is_there_after_a_restart(void **state)
{
	struct fixture fixture;
	start(&fixture);
	put(&fixture, "b", "2");
	put(&fixture, "a", "1");
	wait_for(&fixture, 2);
	croft_journal_close(fixture.journal);
	open_journal(&fixture);
	read_all(&fixture);
	assert_string_equal(fixture.order, "a1b2");
	stop(&fixture);
}

static void the_last_of_several_puts_counts_and_a_removal_removes(void **state)
{
	struct fixture fixture;
	start(&fixture);
	put(&fixture, "a", "1");
	put(&fixture, "a", "2");
	put(&fixture, "b", "1");
	put(&fixture, "b", NULL);
	put(&fixture, "c", NULL); /* was never there */
	wait_for(&fixture, 5);
	assert_int_equal(fixture.failed, 0);
	read_all(&fixture);
	assert_string_equal(fixture.order, "a2");
	stop(&fixture);
}

static void closing_writes_what_waits(void **state)
{
	struct fixture fixture;
	start(&fixture);
	for (int i = 0; i < 500; i++) {
		char key[16];
		snprintf(key, sizeof(key), "%d", i);
		put(&fixture, key, "x");
	}
	croft_journal_close(fixture.journal);
	assert_int_equal(fixture.announced, 500);
	open_journal(&fixture);
	stop(&fixture);
}

static void ten_thousand_records_stay_what_they_are(void **state)
{
	struct fixture fixture;
	start(&fixture);
	for (int i = 0; i < 10000; i++) {
		char key[16];
		snprintf(key, sizeof(key), "%d", i % 3);
		put(&fixture, key, i % 2 ? "odd" : "even");
	}
	wait_for(&fixture, 10000);
	read_all(&fixture);
	assert_int_equal(fixture.seen, 3);
	assert_string_equal(fixture.order, "0odd1odd2even"); /* of 9999, 9997 and 9998 */
	stop(&fixture);
}

static bool find_long_lived(void *user, struct croft_slice key, struct croft_slice value,
	struct croft_error *err)
{
	if (croft_slice_equal(key, croft_slice_str("lives")))
		strncat(user, value.data, value.size);
	return true;
}

/* What lives is moved out of segments that are mostly dead, and keeps its value; the log stays short. */
static void what_lives_long_outlasts_what_does_not(void **state)
{
	static char value[20000];
	struct fixture fixture;
	start(&fixture);
	put(&fixture, "lives", "as it was");
	memset(value, 'x', sizeof(value) - 1);
	for (unsigned i = 0; i < 4000; i++) {
		char key[16];
		snprintf(key, sizeof(key), "%u", i % 10);
		put(&fixture, key, value);
		if (i % 100 == 99)
			wait_for(&fixture, i + 2);
	}
	croft_journal_close(fixture.journal);
	unsigned files = 0;
	for (unsigned i = 0; i < 100; i++) {
		char path[128];
		snprintf(path, sizeof(path), "%s/%08u.log", fixture.folder, i);
		files += access(path, F_OK) == 0;
	}
	assert_in_range(files, 2, 9); /* and 80 MB were written */
	open_journal(&fixture);
	struct croft_error err = CROFT_ERROR_INIT;
	char found[64] = "";
	assert_ok(croft_journal_each(fixture.journal, find_long_lived, found, &err), err);
	assert_string_equal(found, "as it was");
	stop(&fixture);
}

/* A journal as earlier versions left it. */
static void an_earlier_versions_journal_is_taken_over(void **state)
{
	struct fixture fixture;
	start(&fixture);
	put(&fixture, "b", "2");
	wait_for(&fixture, 1);
	croft_journal_close(fixture.journal);
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi table;
	MDB_val key = {1, (void *)"a"}, value = {1, (void *)"1"};
	assert_int_equal(mdb_env_create(&env), 0);
	assert_int_equal(mdb_env_open(env, fixture.folder, 0, 0644), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, NULL, 0, &table), 0);
	assert_int_equal(mdb_put(txn, table, &key, &value, 0), 0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
	char path[128];
	snprintf(path, sizeof(path), "%s/data.mdb", fixture.folder);
	for (int i = 0; i < 2; i++) {
		open_journal(&fixture);
		read_all(&fixture);
		assert_string_equal(fixture.order, "a1b2");
		assert_int_equal(access(path, F_OK), -1);
		croft_journal_close(fixture.journal);
	}
	open_journal(&fixture);
	stop(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_announced_is_there_after_a_restart),
		cmocka_unit_test(the_last_of_several_puts_counts_and_a_removal_removes),
		cmocka_unit_test(closing_writes_what_waits),
		cmocka_unit_test(ten_thousand_records_stay_what_they_are),
		cmocka_unit_test(what_lives_long_outlasts_what_does_not),
		cmocka_unit_test(an_earlier_versions_journal_is_taken_over),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
