/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/fs/store_place.h"

#include <dirent.h>
#include <ftw.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static const struct croft_store_config tiny = {.budget_bytes = 8 * MIB, .durable = false,
	.lease_ms = 60000};

static void the_least_recently_used_goes_first(void **state)
{
	struct place *place = place_create(tiny);
	struct croft_digest blobs[6];
	for (unsigned i = 0; i < 6; i++) {
		blobs[i] = place_put_seed(place, i, MIB);
		usleep(2000);
	}
	assert_true(place_has(place, &blobs[0]));
	usleep(2000);
	place_put_seed(place, 7, MIB);
	place_put_seed(place, 8, MIB);
	assert_true(place_has(place, &blobs[0]));
	assert_false(place_has(place, &blobs[1]));
	assert_true(place_has(place, &blobs[5]));
	assert_true(place_stat(place).evicted_blobs > 0);
	place_destroy(place);
}

static void leased_blobs_stay_and_a_full_store_says_so(void **state)
{
	struct place *place = place_create(tiny);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest blobs[16];
	unsigned stored = 0;
	for (; stored < 16; stored++) {
		struct croft_slice bytes = place_bytes(place, stored, MIB);
		blobs[stored] = croft_digest_of(bytes.data, bytes.size);
		if (!croft_store_put(place->store, &blobs[stored], bytes, &err))
			break;
		bool missing;
		assert_true(
			croft_store_find_missing(place->store, &blobs[stored], 1, &missing, NULL));
		assert_false(missing);
	}
	assert_int_equal(err.code, CROFT_RESOURCE_EXHAUSTED);
	assert_in_range(stored, 5, 8);
	for (unsigned i = 0; i < stored; i++)
		assert_true(place_has(place, &blobs[i]));
	place_destroy(place);
}

static void an_open_blob_is_not_evicted(void **state)
{
	struct place *place = place_create(tiny);
	struct croft_digest first = place_put_seed(place, 0, MIB);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_blob *blob;
	assert_ok((blob = croft_store_open_blob(place->store, &first, &err)) != NULL, err);
	for (unsigned i = 1; i < 20; i++)
		place_put_seed(place, i, MIB);
	char byte;
	assert_int_equal(croft_store_blob_read(blob, &byte, 1, MIB - 1, &err), 1);
	croft_store_blob_close(blob);
	assert_true(place_has(place, &first));
	place_destroy(place);
}

/* Bytes of files that this process has open and nobody finds any more. */
static uint64_t unlinked_bytes(const struct place *place)
{
	uint64_t bytes = 0;
	DIR *descriptors = opendir("/proc/self/fd");
	assert_non_null(descriptors);
	for (struct dirent *entry; (entry = readdir(descriptors));) {
		char path[300], name[600];
		struct stat st;
		snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
		ssize_t size = readlink(path, name, sizeof(name) - 1);
		name[size > 0 ? size : 0] = '\0';
		if (strstr(name, place->path) && strstr(name, " (deleted)") && stat(path, &st) == 0)
			bytes += (uint64_t)st.st_size;
	}
	closedir(descriptors);
	return bytes;
}

/* What lives in the blob's segment is moved elsewhere; the segment is there as long as the blob is read. */
static void what_is_unlinked_and_still_open_counts(void **state)
{
	enum { SIZE = 60000, MOST = 2000 };
	struct place *place = place_create(tiny);
	struct croft_digest first = place_put_seed(place, 0, SIZE);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_blob *blob;
	assert_ok((blob = croft_store_open_blob(place->store, &first, &err)) != NULL, err);
	unsigned seed = 1;
	while (unlinked_bytes(place) == 0 && seed < MOST) {
		place_put_seed(place, seed++, SIZE);
		assert_true(place_stat(place).disk_bytes <= tiny.budget_bytes);
	}
	assert_true(seed < MOST);
	for (int i = 0; i < 2; i++) /* nothing is moved meanwhile */
		croft_store_collect(place->store, tiny.budget_bytes, NULL, NULL, &err);
	uint64_t unlinked = unlinked_bytes(place), counted = place_stat(place).disk_bytes;
	croft_store_blob_close(blob);
	assert_int_equal(unlinked_bytes(place), 0);
	assert_in_range(place_stat(place).disk_bytes, 0, counted - unlinked);
	assert_true(place_has(place, &first));
	place_destroy(place);
}

static unsigned inodes;
static int count_inode(const char *path, const struct stat *st, int type, struct FTW *where)
{
	inodes++;
	return 0;
}

static unsigned inodes_of(const struct place *place)
{
	inodes = 0;
	assert_int_equal(nftw(place->path, count_inode, 16, FTW_PHYS), 0);
	return inodes;
}

/* Files of their own are few bytes and many inodes. What is leased stays, and when only such is left puts are refused. */
static void the_budget_of_inodes_holds(void **state)
{
	enum { INODES = 340, SIZE = 70 * 1024, COUNT = 200 };
	struct place *place = place_create((struct croft_store_config){
		.budget_bytes = 256 * MIB, .budget_inodes = INODES, .lease_ms = 60000});
	for (unsigned i = 0; i < COUNT; i++) {
		place_put_seed(place, i, SIZE);
		assert_in_range(inodes_of(place), 1, INODES);
	}
	assert_true(place_stat(place).evicted_blobs > 0);
	struct croft_error err = CROFT_ERROR_INIT;
	unsigned leased = 0;
	bool missing = false;
	for (; leased < COUNT; leased++) {
		struct croft_slice bytes = place_bytes(place, COUNT + leased, SIZE);
		struct croft_digest blob = croft_digest_of(bytes.data, bytes.size);
		if (!croft_store_put(place->store, &blob, bytes, &err))
			break;
		assert_ok(croft_store_find_missing(place->store, &blob, 1, &missing, &err), err);
		if (missing) /* when all else is leased it may go before it is */
			break;
		assert_in_range(inodes_of(place), 1, INODES);
	}
	assert_true(missing || err.code == CROFT_RESOURCE_EXHAUSTED);
	assert_in_range(leased, 10, COUNT - 1);
	struct croft_slice first = place_bytes(place, COUNT, SIZE);
	struct croft_digest blob = croft_digest_of(first.data, first.size);
	assert_true(place_has(place, &blob));
	place_destroy(place);
}

/* Ten times the budget in small blobs, some of which are kept in use: segments must be emptied. */
static void the_budget_holds_with_small_blobs(void **state)
{
	struct place *place = place_create(tiny);
	enum { COUNT = 10 * 8 * MIB / 4096, KEPT = 64 };
	struct croft_digest kept[KEPT];
	for (unsigned i = 0; i < COUNT; i++) {
		struct croft_digest digest = place_put_seed(place, i, 4096);
		if (i < KEPT)
			kept[i] = digest;
		if (i % 200 == 0) {
			croft_arena_reset(place->arena);
			struct croft_store_stat stat = place_stat(place);
			assert_in_range(stat.disk_bytes, 0, stat.budget_bytes);
			for (unsigned k = 0; k < KEPT && k <= i; k++)
				assert_true(place_has(place, &kept[k]));
		}
	}
	struct croft_store_stat stat = place_stat(place);
	assert_in_range(stat.bytes, 3 * MIB, 8 * MIB);
	place->config.budget_bytes *= 2; /* nothing is evicted while we look */
	place_reopen(place);
	for (unsigned k = 0; k < KEPT; k++)
		assert_true(place_has(place, &kept[k]));
	struct croft_fsck_report report;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_fsck(place->store, false, NULL, NULL, &report, &err), err);
	assert_int_equal(place_stat(place).blobs, report.blobs_checked);
	assert_int_equal(report.bad_blobs, 0);
	place_destroy(place);
}

static void collect_frees_down_to_a_target(void **state)
{
	struct place *place = place_create(tiny);
	for (unsigned i = 0; i < 5; i++)
		place_put_seed(place, i, MIB);
	uint64_t bytes, blobs;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_collect(place->store, 3 * MIB, &bytes, &blobs, &err), err);
	assert_in_range(blobs, 2, 4);
	assert_in_range(place_stat(place).disk_bytes, 0, 3 * MIB);
	assert_in_range(bytes, 2 * MIB, 5 * MIB);
	place_destroy(place);
}

/* Until nothing else is left. */
static void what_is_preferred_goes_after_what_was_used_since(void **state)
{
	struct place *place = place_create((struct croft_store_config){.budget_bytes = 16 * MIB, .lease_ms = 1});
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_ref old = {CROFT_REF_BLOB, place_put_seed(place, 0, MIB)};
	assert_ok(croft_store_prefer(place->store, &old, 1, 3600000, &err), err);
	struct croft_digest later[4];
	for (unsigned i = 0; i < 4; i++)
		later[i] = place_put_seed(place, i + 1, MIB);
	assert_true(place_has(place, &old.digest)); /* which is a use, but an earlier one */
	for (int reopened = 0; reopened < 2; reopened++) {
		usleep(5000); /* no lease holds */
		croft_store_collect(place->store, (3 - (unsigned)reopened) * MIB, NULL, NULL, &err);
		assert_true(place_has(place, &old.digest));
		assert_false(place_has(place, &later[0]));
		assert_true(place_has(place, &later[3]) || reopened);
		place_reopen(place);
	}
	usleep(5000); /* no lease holds */
	croft_store_collect(place->store, 1, NULL, NULL, &err);
	assert_false(place_has(place, &old.digest));
	place_destroy(place);
}

/* A use was forgotten when it was saved before the index knew of the blob. */
static void what_is_put_and_preferred_at_once_stays_preferred(void **state)
{
	struct place *place = place_create((struct croft_store_config){.budget_bytes = 16 * MIB, .lease_ms = 1});
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_ref old = {CROFT_REF_BLOB, place_put_seed(place, 0, MIB)};
	assert_ok(croft_store_prefer(place->store, &old, 1, 3600000, &err), err);
	place_reopen(place);
	struct croft_digest later = place_put_seed(place, 1, MIB);
	usleep(5000); /* no lease holds */
	croft_store_collect(place->store, 2 * MIB, NULL, NULL, &err);
	assert_true(place_has(place, &old.digest));
	assert_false(place_has(place, &later));
	place_destroy(place);
}

static void a_directory_is_preferred_with_all_below_it(void **state)
{
	struct place *place = place_create((struct croft_store_config){.budget_bytes = 16 * MIB, .lease_ms = 1});
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest file = place_put_seed(place, 0, MIB);
	Reapi__FileNode node = REAPI__FILE_NODE__INIT, *nodes[] = {&node};
	node.name = (char *)"f";
	node.digest = croft_digest_to_message(&file, place->arena);
	Reapi__Directory root = REAPI__DIRECTORY__INIT;
	root.n_files = 1;
	root.files = nodes;
	struct croft_slice bytes = croft_message_encode(&root.base, place->arena);
	struct croft_ref refs[] = {{CROFT_REF_DIRECTORY, croft_digest_of(bytes.data, bytes.size)}};
	assert_ok(croft_store_put(place->store, &refs[0].digest, bytes, &err), err);
	assert_ok(croft_store_prefer(place->store, refs, 1, UINT64_MAX, &err), err);
	struct croft_digest later = place_put_seed(place, 1, MIB);
	usleep(5000); /* no lease holds */
	croft_store_collect(place->store, 3 * MIB / 2, NULL, NULL, &err);
	assert_true(place_has(place, &file) && place_has(place, &refs[0].digest));
	assert_false(place_has(place, &later));
	place_destroy(place);
}

static void a_record_whose_blob_was_evicted_is_not_found(void **state)
{
	struct place *place = place_create((struct croft_store_config){.budget_bytes = 8 * MIB,
		.lease_ms = 1});
	struct croft_ref ref = {CROFT_REF_BLOB, place_put_seed(place, 0, MIB)};
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_record_put(place->store, CROFT_RECORD_ACTION, croft_slice_str("key"),
				  croft_slice_str("value"), &ref, 1, 0, &err), err);
	usleep(5000);
	assert_ok(croft_store_collect(place->store, 1, NULL, NULL, NULL) || true, err);
	struct croft_slice value;
	assert_false(croft_store_record_get(place->store, CROFT_RECORD_ACTION, croft_slice_str("key"),
		place->arena, &value, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	place_destroy(place);
}

static void lease_and_die(const struct croft_store_config *config, const struct croft_digest *digest)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct croft_store *store = croft_store_open(config, NULL);
		bool missing = true;
		if (store)
			croft_store_find_missing(store, digest, 1, &missing, NULL);
		_exit(missing);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void a_lease_outlasts_a_crash_and_ends(void **state)
{
	struct place *place =
		place_create((struct croft_store_config){.budget_bytes = 8 * MIB, .lease_ms = 1000});
	struct croft_digest leased = place_put_seed(place, 0, MIB), not = place_put_seed(place, 1, MIB);
	place_close(place);
	lease_and_die(&place->config, &leased);
	uint64_t died_ns = croft_now_ns();
	place_open(place);
	croft_store_collect(place->store, 1, NULL, NULL, NULL);
	assert_false(place_has(place, &not));
	if (croft_now_ns() - died_ns < 900000000)
		assert_true(place_has(place, &leased));
	while (croft_now_ns() - died_ns < 1600000000)
		usleep(50000);
	croft_store_collect(place->store, 1, NULL, NULL, NULL);
	assert_false(place_has(place, &leased));
	place_destroy(place);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_least_recently_used_goes_first),
		cmocka_unit_test(leased_blobs_stay_and_a_full_store_says_so),
		cmocka_unit_test(an_open_blob_is_not_evicted),
		cmocka_unit_test(what_is_unlinked_and_still_open_counts),
		cmocka_unit_test(the_budget_of_inodes_holds),
		cmocka_unit_test(the_budget_holds_with_small_blobs),
		cmocka_unit_test(collect_frees_down_to_a_target),
		cmocka_unit_test(what_is_preferred_goes_after_what_was_used_since),
		cmocka_unit_test(what_is_put_and_preferred_at_once_stays_preferred),
		cmocka_unit_test(a_directory_is_preferred_with_all_below_it),
		cmocka_unit_test(a_record_whose_blob_was_evicted_is_not_found),
		cmocka_unit_test(a_lease_outlasts_a_crash_and_ends),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
