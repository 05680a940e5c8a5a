/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What jobs of a kind read, merged over runs: what is predicted, and when nothing is. */
#include "tests/unit/test.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/rpc/message.h"
#include "sched/core/profiles.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

enum { MIB = 1 << 20, TOUCHES = 64 };

struct fixture {
	char path[64];
	struct croft_store *store;
	struct profiles *profiles;
	struct croft_arena *arena;
};

static int setup(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct fixture *fixture = croft_zalloc(sizeof(*fixture));
	snprintf(fixture->path, sizeof(fixture->path), "/tmp/croft-test-profiles-XXXXXX");
	assert_non_null(mkdtemp(fixture->path));
	fixture->store = croft_store_open(&(struct croft_store_config){.path = fixture->path}, &err);
	assert_ok(fixture->store, err);
	fixture->profiles = profiles_open(fixture->store);
	fixture->arena = croft_arena_create();
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;
	profiles_close(fixture->profiles);
	croft_store_close(fixture->store);
	croft_remove_tree(AT_FDCWD, fixture->path, NULL);
	croft_arena_destroy(fixture->arena);
	free(fixture);
	return 0;
}

struct touch {
	unsigned content;
	uint64_t size, offset, length;
};

struct run {
	const char *kind, *family;
	uint64_t fetched, wasted;
	struct touch touches[8]; /* to the first of size 0 */
};

static struct croft_digest content(unsigned number, uint64_t size)
{
	struct croft_digest digest = croft_digest_of(&number, sizeof(number));
	digest.size_bytes = size;
	return digest;
}

static void learn(struct fixture *fixture, const struct run *run)
{
	Farm__JobDone done = FARM__JOB_DONE__INIT;
	Farm__AccessProfile profile = FARM__ACCESS_PROFILE__INIT;
	Farm__InputAccount account = FARM__INPUT_ACCOUNT__INIT;
	Farm__AccessProfile__Touch *touches[8];
	for (size_t i = 0; i < 8 && run->touches[i].size; i++) {
		struct croft_digest digest = content(run->touches[i].content, run->touches[i].size);
		touches[i] = croft_arena_alloc(fixture->arena, sizeof(**touches));
		farm__access_profile__touch__init(touches[i]);
		touches[i]->digest = croft_digest_to_message(&digest, fixture->arena);
		touches[i]->offset = run->touches[i].offset;
		touches[i]->length = run->touches[i].length;
		profile.n_touches++;
	}
	profile.touches = touches;
	account.prefetched_bytes = run->fetched;
	account.wasted_bytes = run->wasted;
	done.profile = &profile;
	done.inputs = &account;
	const char *kinds[] = {run->kind, run->family ? run->family : "family"};
	profiles_learn(fixture->profiles, kinds, 2, &done);
}

static Farm__AccessProfile *predict(struct fixture *fixture, const char *kind, const char *family)
{
	const char *kinds[] = {kind, family};
	return profiles_predict(fixture->profiles, kinds, 2, fixture->arena);
}

/* Until so many runs of the kind are known. */
static Farm__AccessProfile *await(struct fixture *fixture, const char *kind, unsigned runs)
{
	Farm__AccessProfile *profile;
	while (!(profile = predict(fixture, kind, "none")) || profile->runs != runs)
		sched_yield();
	return profile;
}

static void assert_touch(const Farm__AccessProfile *profile, size_t at, unsigned number,
	uint64_t offset, uint64_t length)
{
	struct croft_digest digest;
	assert_true(at < profile->n_touches);
	assert_true(croft_digest_from_message(profile->touches[at]->digest, "a touch", &digest, NULL));
	assert_memory_equal(digest.hash, content(number, 1).hash, sizeof(digest.hash));
	assert_int_equal(profile->touches[at]->offset, offset);
	assert_int_equal(profile->touches[at]->length, length);
}

static void what_half_of_the_runs_read_is_predicted_in_the_order_of_the_last(void **state)
{
	struct fixture *fixture = *state;
	learn(fixture, &(struct run){.kind = "a", .touches = {{1, 10}, {2, 10}, {3, 10}}});
	learn(fixture, &(struct run){.kind = "a", .touches = {{2, 10}, {1, 10}}});
	Farm__AccessProfile *profile = await(fixture, "a", 2);
	assert_int_equal(profile->n_touches, 3);
	assert_touch(profile, 0, 2, 0, 0);
	assert_touch(profile, 1, 1, 0, 0);
	learn(fixture, &(struct run){.kind = "a", .touches = {{1, 10}, {4, 10}}});
	profile = await(fixture, "a", 3);
	assert_int_equal(profile->n_touches, 2); /* 3 and 4 were read by one of three */
	assert_touch(profile, 0, 1, 0, 0);
	assert_touch(profile, 1, 2, 0, 0);
}

static void a_kind_never_seen_is_told_what_its_family_reads(void **state)
{
	struct fixture *fixture = *state;
	assert_null(predict(fixture, "new", "compile"));
	learn(fixture, &(struct run){.kind = "old", .family = "compile", .touches = {{1, 10}}});
	await(fixture, "old", 1);
	await(fixture, "compile", 1);
	Farm__AccessProfile *profile = predict(fixture, "new", "compile");
	assert_non_null(profile);
	assert_touch(profile, 0, 1, 0, 0);
	assert_null(predict(fixture, "new", "link"));
}

static void it_outlasts_a_restart(void **state)
{
	struct fixture *fixture = *state;
	learn(fixture, &(struct run){.kind = "a", .touches = {{1, 10}}});
	profiles_close(fixture->profiles);
	fixture->profiles = profiles_open(fixture->store);
	Farm__AccessProfile *profile = predict(fixture, "a", "none");
	assert_non_null(profile);
	assert_touch(profile, 0, 1, 0, 0);
}

/* How many times nothing is predicted, up to the next prediction. */
static unsigned silences(struct fixture *fixture, const char *kind)
{
	unsigned count = 0;
	while (!predict(fixture, kind, "family"))
		count++;
	return count;
}

static void predictions_that_mislead_are_left_out_for_longer_and_longer(void **state)
{
	struct fixture *fixture = *state;
	learn(fixture, &(struct run){.kind = "a", .touches = {{1, 10}}});
	await(fixture, "a", 1);
	unsigned expected[] = {2, 4, 8};
	for (unsigned i = 0; i < 3; i++) {
		learn(fixture, &(struct run){
			.kind = "a", .fetched = 100, .wasted = 51, .touches = {{1, 10}}});
		/* The family's profile is no way round it. */
		while (predict(fixture, "a", "family"))
			sched_yield();
		assert_int_equal(1 + silences(fixture, "a"), expected[i]);
	}
	/* A good one, and all is forgotten. */
	learn(fixture, &(struct run){.kind = "a", .fetched = 100, .wasted = 50, .touches = {{1, 10}}});
	await(fixture, "a", 5);
	learn(fixture, &(struct run){.kind = "a", .fetched = 100, .wasted = 51, .touches = {{1, 10}}});
	while (predict(fixture, "a", "family"))
		sched_yield();
	assert_int_equal(1 + silences(fixture, "a"), 2);
}

static void large_files_are_predicted_by_what_is_read_of_them(void **state)
{
	struct fixture *fixture = *state;
	const uint64_t size = 200 * MIB;
	/* Warm, it is not known what was read: no reason to fetch 200 MiB. */
	learn(fixture, &(struct run){.kind = "a", .touches = {{1, size}, {2, 10}}});
	Farm__AccessProfile *profile = await(fixture, "a", 1);
	assert_int_equal(profile->n_touches, 1);
	assert_touch(profile, 0, 2, 0, 0);
	/* Cold, it is. */
	learn(fixture, &(struct run){.kind = "a",
		.touches = {{1, size, 0, 3 * MIB}, {1, size, 90 * MIB, MIB}, {2, 10}}});
	profile = await(fixture, "a", 2);
	assert_int_equal(profile->n_touches, 3);
	assert_touch(profile, 0, 1, 0, 3 * MIB);
	assert_touch(profile, 1, 1, 90 * MIB, MIB);
	/* A warm run confirms that. */
	learn(fixture, &(struct run){.kind = "a", .touches = {{2, 10}, {1, size}}});
	profile = await(fixture, "a", 3);
	assert_int_equal(profile->n_touches, 3);
	assert_touch(profile, 0, 2, 0, 0);
	assert_touch(profile, 1, 1, 0, 3 * MIB);
	assert_touch(profile, 2, 1, 90 * MIB, MIB);
	/* Another part, for the first time, and one that is not read any more. */
	learn(fixture, &(struct run){.kind = "a",
		.touches = {{1, size, 0, 3 * MIB}, {1, size, 150 * MIB, MIB}}});
	learn(fixture, &(struct run){.kind = "a", .touches = {{1, size, 0, 3 * MIB}}});
	learn(fixture, &(struct run){.kind = "a", .touches = {{1, size, 0, 3 * MIB}}});
	learn(fixture, &(struct run){.kind = "a", .touches = {{1, size, 0, 3 * MIB}}});
	profile = await(fixture, "a", 7);
	assert_int_equal(profile->n_touches, 1);
	assert_touch(profile, 0, 1, 0, 3 * MIB);
}

static void what_is_fetched_ahead_for_one_job_is_bounded(void **state)
{
	struct fixture *fixture = *state;
	struct run run = {.kind = "a"};
	for (unsigned i = 0; i < 8; i++)
		run.touches[i] = (struct touch){i, 600 * (uint64_t)MIB, 0, 300 * (uint64_t)MIB};
	learn(fixture, &run);
	Farm__AccessProfile *profile = await(fixture, "a", 1);
	assert_int_equal(profile->n_touches, 4); /* the one that goes beyond 1 GiB is the last */
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_FIXTURE(what_half_of_the_runs_read_is_predicted_in_the_order_of_the_last),
		WITH_FIXTURE(a_kind_never_seen_is_told_what_its_family_reads),
		WITH_FIXTURE(it_outlasts_a_restart),
		WITH_FIXTURE(predictions_that_mislead_are_left_out_for_longer_and_longer),
		WITH_FIXTURE(large_files_are_predicted_by_what_is_read_of_them),
		WITH_FIXTURE(what_is_fetched_ahead_for_one_job_is_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
