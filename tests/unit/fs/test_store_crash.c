/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A child process writes and tells of every acknowledged blob through a pipe; it is killed at a
 * random moment; in some tests the machine's power fails with it (power.h). CROFT_CRASHES=200 makes it
 * the long test of the issue; CROFT_SEED repeats one. An argument is a pattern of the tests to run.
 */
#include "tests/unit/fs/power.h"
#include "tests/unit/fs/store_place.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, MIB = 1 << 20 };

struct writer {
	struct place *place;
	unsigned first;
	int pipe;
};

static size_t size_of(unsigned seed)
{
	if (seed % 128 == 64) /* several chunks, where the store keeps such */
		return 2200000 + seed % 4000000;
	return seed % 16 == 0 ? 70000 + seed % 400000 : 1 + seed * 7919u % 6000;
}

/* Every other one packs well (cold_ms). */
static struct croft_slice bytes_of(struct place *place, unsigned seed)
{
	struct croft_slice bytes = place_bytes(place, seed, size_of(seed));
	if (seed % 2)
		memset((char *)bytes.data + bytes.size / 4, 'x', bytes.size - bytes.size / 4);
	return bytes;
}

static void *write_for_ever(void *user)
{
	struct writer *writer = user;
	struct place place = *writer->place;
	place.arena = croft_arena_create();
	for (unsigned seed = writer->first;; seed += THREADS) {
		struct croft_slice bytes = bytes_of(&place, seed);
		struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
		struct croft_error err = CROFT_ERROR_INIT;
		if (!croft_store_put(place.store, &digest, bytes, &err) &&
			err.code != CROFT_RESOURCE_EXHAUSTED) {
			fprintf(stderr, "%s\n", err.message);
			_exit(1);
		}
		if (!err.code && write(writer->pipe, &seed, sizeof(seed)) != sizeof(seed))
			_exit(2);
		if (!err.code && seed % 8 == 0) {
			char key[32];
			snprintf(key, sizeof(key), "%u", seed);
			struct croft_ref ref = {CROFT_REF_BLOB, digest};
			if (!croft_store_record_put(place.store, CROFT_RECORD_ACTION, croft_slice_str(key),
					croft_slice_str(key), &ref, 1, 0, &err) &&
				err.code != CROFT_RESOURCE_EXHAUSTED && err.code != CROFT_FAILED_PRECONDITION)
				_exit(3);
		}
		croft_arena_reset(place.arena);
	}
	return NULL;
}

/* Where the power's log is kept; empty: the power does not fail. */
static char power_folder[256];

static void child(const struct croft_store_config *config, unsigned first, int pipe)
{
	if (power_folder[0])
		power_begin(power_folder);
	struct place place = {.config = *config};
	struct croft_error err = CROFT_ERROR_INIT;
	place.store = croft_store_open(config, &err);
	if (!place.store) {
		fprintf(stderr, "%s\n", err.message);
		_exit(4);
	}
	struct writer writers[THREADS];
	pthread_t threads[THREADS];
	for (unsigned i = 0; i < THREADS; i++) {
		writers[i] = (struct writer){&place, first + i, pipe};
		pthread_create(&threads[i], NULL, write_for_ever, &writers[i]);
	}
	pthread_join(threads[0], NULL);
}

/* Runs the child until it is killed; appends what it acknowledged. */
static void run_and_kill(const struct croft_store_config *config, unsigned first, unsigned after_us,
	unsigned **acknowledged, size_t *count)
{
	int ends[2];
	assert_int_equal(pipe(ends), 0);
	assert_true(fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) > 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(ends[0]);
		child(config, first, ends[1]);
		_exit(5);
	}
	close(ends[1]);
	usleep(after_us);
	assert_int_equal(kill(pid, SIGKILL), 0);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status))
		fail_msg("the writer ended by itself with %d", WEXITSTATUS(status));
	unsigned seed;
	while (read(ends[0], &seed, sizeof(seed)) == sizeof(seed)) {
		*acknowledged = croft_realloc(*acknowledged, *count + 1, sizeof(**acknowledged));
		(*acknowledged)[(*count)++] = seed;
	}
	close(ends[0]);
}

static void check(struct place *place, const unsigned *seeds, size_t count, bool all)
{
	size_t there = 0;
	for (size_t i = 0; i < count; i++) {
		struct croft_slice bytes = bytes_of(place, seeds[i]);
		struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
		bool has = place_has(place, &digest);
		if (all && !has)
			fail_msg("blob %u of %zu bytes was acknowledged and is gone", seeds[i], bytes.size);
		there += has;
		croft_arena_reset(place->arena);
	}
	struct croft_fsck_report report;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_fsck(place->store, false, NULL, NULL, &report, &err), err);
	assert_int_equal(report.bad_blobs, 0);
	assert_int_equal(report.orphans, 0);
	if (all)
		assert_int_equal(report.dangling_records, 0);
	struct croft_store_stat stat = place_stat(place);
	assert_int_equal(stat.blobs, report.blobs_checked);
	assert_int_equal(stat.bytes, report.bytes_checked);
	assert_in_range(stat.disk_bytes, 0, stat.budget_bytes);
}

static void crash(struct croft_store_config config, bool all)
{
	unsigned rounds = getenv("CROFT_CRASHES") ? (unsigned)atoi(getenv("CROFT_CRASHES")) : 8;
	unsigned random =
		getenv("CROFT_SEED") ? (unsigned)atoi(getenv("CROFT_SEED")) : (unsigned)croft_now_ns();
	print_message("CROFT_SEED=%u\n", random);
	struct place *place = place_create(config);
	config.path = place->path;
	place->config.budget_bytes *= 2; /* nothing is evicted while we look */
	unsigned *acknowledged = NULL;
	size_t count = 0;
	for (unsigned i = 0; i < rounds; i++) {
		place_close(place);
		size_t before = count;
		unsigned after_us = 20000 + rand_r(&random) % 300000;
		run_and_kill(&config, i << 20, after_us, &acknowledged, &count);
		if (power_folder[0])
			power_lose(power_folder, place->path, &random);
		place_open(place);
		/* All of the last round, and some of those before. */
		check(place, acknowledged + before, count - before, all);
		if (i == rounds / 2)
			check(place, acknowledged, count, all);
	}
	check(place, acknowledged, count, all);
	assert_true(count > rounds);
	free(acknowledged);
	place_destroy(place);
}

static void a_killed_durable_store_has_all_that_it_acknowledged(void **state)
{
	crash((struct croft_store_config){.durable = true, .budget_bytes = (uint64_t)4 << 30}, true);
}

static void a_killed_chunked_store_has_all_that_it_acknowledged(void **state)
{
	crash((struct croft_store_config){
			  .durable = true, .chunked = true, .budget_bytes = (uint64_t)4 << 30}, true);
}

static void a_killed_cache_has_all_that_it_acknowledged(void **state)
{
	crash((struct croft_store_config){.budget_bytes = (uint64_t)4 << 30}, true);
}

static void a_store_killed_while_evicting_is_consistent(void **state)
{
	crash((struct croft_store_config){.budget_bytes = 12 * MIB, .lease_ms = 20, .cold_ms = 1}, false);
	crash((struct croft_store_config){
			  .durable = true, .budget_bytes = 12 * MIB, .lease_ms = 20, .cold_ms = 1}, false);
}

static void a_durable_store_has_all_that_it_acknowledged_after_power_failures(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	const char *base = getenv("TMPDIR");
	snprintf(power_folder, sizeof(power_folder), "%s/croft-power-XXXXXX", base ? base : "/tmp");
	assert_non_null(mkdtemp(power_folder));
	crash((struct croft_store_config){.durable = true, .budget_bytes = (uint64_t)4 << 30}, true);
	crash((struct croft_store_config){.durable = true, .chunked = true,
			  .budget_bytes = (uint64_t)4 << 30}, true);
	if (getenv("CROFT_CRASHES")) /* the short form has its share of this without power failures */
		crash((struct croft_store_config){
				  .durable = true, .budget_bytes = 12 * MIB, .lease_ms = 20, .cold_ms = 1}, false);
	assert_ok(croft_remove_tree(AT_FDCWD, power_folder, &err), err);
	power_folder[0] = 0;
}

int main(int argc, char **argv)
{
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_killed_durable_store_has_all_that_it_acknowledged),
		cmocka_unit_test(a_killed_chunked_store_has_all_that_it_acknowledged),
		cmocka_unit_test(a_killed_cache_has_all_that_it_acknowledged),
		cmocka_unit_test(a_store_killed_while_evicting_is_consistent),
		cmocka_unit_test(a_durable_store_has_all_that_it_acknowledged_after_power_failures),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
