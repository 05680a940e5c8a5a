/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/store/internal.h"
#include "tests/unit/fs/store_place.h"

#include <dirent.h>
#include <errno.h>
#include <semaphore.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SMALL = 2000, LARGE = 700 * 1000 };
static const struct croft_store_config durable = {.durable = true};

static unsigned count_files(struct place *place, const char *name)
{
	char path[300];
	snprintf(path, sizeof(path), "%s/%s", place->path, name);
	DIR *dir = opendir(path);
	assert_non_null(dir);
	unsigned count = 0;
	for (struct dirent *entry; (entry = readdir(dir));)
		count += entry->d_type == DT_REG;
	closedir(dir);
	return count;
}

static void damage_is_found_quarantined_and_mended_by_a_new_put(void **state)
{
	struct place *place = place_create(durable);
	for (size_t size = SMALL; size <= LARGE; size += LARGE - SMALL) {
		struct croft_digest digest = place_put_seed(place, 1, size);
		place_damage(place, &digest, size - 1);
		struct croft_slice data;
		struct croft_error err = CROFT_ERROR_INIT;
		assert_false(croft_store_get(place->store, &digest, place->arena, &data, &err));
		assert_int_equal(err.code, CROFT_DATA_LOSS);
		assert_false(place_has(place, &digest));
		bool missing;
		assert_ok(croft_store_find_missing(place->store, &digest, 1, &missing, &err), err);
		assert_true(missing);
		place_put_seed(place, 1, size);
		assert_true(place_has(place, &digest));
	}
	place_reopen(place);
	assert_int_equal(count_files(place, "quarantine"), 2);
	assert_int_equal(place_stat(place).quarantined, 2);
	assert_int_equal(place_stat(place).blobs, 2);
	place_destroy(place);
}

static void of_many_that_are_got_at_once_only_the_damaged_fails(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest digests[9];
	struct croft_slice data[9];
	struct croft_error errors[9];
	for (unsigned i = 0; i < 9; i++)
		digests[i] = place_put_seed(place, i, SMALL);
	place_damage(place, &digests[4], 7);
	assert_false(croft_store_get_many(place->store, digests, 9, place->arena, data, errors));
	for (unsigned i = 0; i < 9; i++)
		assert_int_equal(errors[i].code, i == 4 ? CROFT_DATA_LOSS : CROFT_OK);
	place_reopen(place);
	assert_int_equal(place_stat(place).quarantined, 1);
	place_destroy(place);
}

static void parts_of_a_large_blob_before_the_damage_are_read(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest digest = place_put_seed(place, 1, LARGE);
	place_damage(place, &digest, LARGE - 1);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_blob *blob = croft_store_open_blob(place->store, &digest, &err);
	char buffer[100];
	assert_int_equal(croft_store_blob_read(blob, buffer, 100, 1000, &err), 100);
	assert_int_equal(croft_store_blob_read(blob, buffer, 100, LARGE - 5000, &err), -1);
	assert_int_equal(err.code, CROFT_DATA_LOSS);
	croft_store_blob_close(blob);
	place_destroy(place);
}

static void a_closure_with_a_damaged_directory_is_not_complete(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest file = place_put_seed(place, 1, 10);
	struct croft_digest sub = place_directory(place, &file, 1, NULL, 0);
	struct croft_ref ref = {CROFT_REF_DIRECTORY, place_directory(place, NULL, 0, &sub, 1)};
	struct croft_digest *missing;
	size_t count;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_lease_closure(
				  place->store, &ref, 1, 0, place->arena, &missing, &count, &err), err);
	assert_int_equal(count, 0);
	place_damage(place, &sub, 1);
	struct croft_slice data;
	assert_false(croft_store_get(place->store, &sub, place->arena, &data, &err));
	assert_ok(croft_store_lease_closure(
				  place->store, &ref, 1, 0, place->arena, &missing, &count, &err), err);
	assert_int_equal(count, 1);
	assert_true(croft_digest_equal(&missing[0], &sub));
	place_destroy(place);
}

static void fsck_finds_and_repairs(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest small = place_put_seed(place, 1, SMALL);
	struct croft_digest large = place_put_seed(place, 2, LARGE);
	struct croft_digest good = place_put_seed(place, 3, SMALL);
	struct croft_ref refs[] = {{CROFT_REF_BLOB, small}, {CROFT_REF_BLOB, good}};
	struct croft_error err = CROFT_ERROR_INIT;
	for (int i = 0; i < 2; i++)
		assert_ok(croft_store_record_put(place->store, CROFT_RECORD_ACTION,
					  croft_slice_str(i ? "good" : "bad"), croft_slice_str("v"), &refs[i], 1, 0,
					  &err), err);
	struct croft_fsck_report report;
	assert_ok(croft_store_fsck(place->store, false, NULL, NULL, &report, &err), err);
	assert_int_equal(report.blobs_checked, 3);
	assert_int_equal(report.bytes_checked, 2 * SMALL + LARGE);
	assert_int_equal(report.bad_blobs + report.dangling_records + report.orphans, 0);
	place_damage(place, &small, 0);
	place_damage(place, &large, LARGE / 2);
	char path[300];
	snprintf(path, sizeof(path), "%s/large/aa/%062d", place->path, 1);
	close(open(path, O_CREAT | O_WRONLY, 0644));
	assert_ok(croft_store_fsck(place->store, false, NULL, NULL, &report, &err), err);
	assert_int_equal(report.bad_blobs, 2);
	assert_int_equal(report.orphans, 1);
	assert_int_equal(report.repaired, 0);
	assert_ok(croft_store_fsck(place->store, true, NULL, NULL, &report, &err), err);
	assert_int_equal(report.bad_blobs, 2);
	assert_int_equal(report.dangling_records, 1);
	assert_int_equal(report.orphans, 1);
	assert_int_equal(report.repaired, 4);
	assert_false(place_has(place, &small) || place_has(place, &large));
	assert_true(place_has(place, &good));
	assert_ok(croft_store_fsck(place->store, true, NULL, NULL, &report, &err), err);
	assert_int_equal(report.bad_blobs + report.dangling_records + report.orphans, 0);
	assert_int_equal(place_stat(place).records_action, 1);
	place_destroy(place);
}

static bool is_missing(struct place *place, const struct croft_digest *digest)
{
	bool missing;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_find_missing(place->store, digest, 1, &missing, &err), err);
	return missing;
}

/* As by a repair of the filesystem, or by hand. */
static void take_segments_away(struct place *place)
{
	char path[300];
	place_close(place);
	snprintf(path, sizeof(path), "%s/segments", place->path);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_remove_tree(AT_FDCWD, path, &err), err);
	place_open(place);
}

static void what_a_segment_held_that_has_gone_is_missing_everywhere_and_can_be_put_again(void **state)
{
	struct croft_store_config config = {.durable = true, .chunked = true};
	struct place *place = place_create(config);
	enum { LARGEST = 5 << 20 };
	struct croft_digest small = place_put_seed(place, 1, SMALL), other = place_put_seed(place, 2, SMALL);
	struct croft_digest large = place_put_seed(place, 3, LARGEST), found;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_ref ref = {CROFT_REF_BLOB, small};
	struct croft_slice key = CROFT_SLICE("key", 3), value = CROFT_SLICE("value", 5);
	assert_ok(croft_store_record_put(place->store, CROFT_RECORD_ACTION, key, value, &ref, 1, 0, &err), err);
	take_segments_away(place);
	assert_true(is_missing(place, &small) && is_missing(place, &other) && is_missing(place, &large));
	assert_false(place_has(place, &small) || place_has(place, &large));
	assert_false(croft_store_find_hash(place->store, small.hash, &found, NULL));
	assert_false(croft_store_record_get(place->store, CROFT_RECORD_ACTION, key, place->arena, &value, NULL));
	struct croft_fsck_report report;
	assert_ok(croft_store_fsck(place->store, false, NULL, NULL, &report, &err), err);
	assert_true(report.bad_blobs > 2);
	assert_int_equal(report.dangling_records, 1);
	/* What comes again is there, over a restart as well. */
	place_put_seed(place, 1, SMALL);
	place_put_seed(place, 3, LARGEST);
	assert_true(place_has(place, &small) && place_has(place, &large));
	place_reopen(place);
	assert_true(place_has(place, &small) && place_has(place, &large));
	assert_false(is_missing(place, &large));
	assert_true(is_missing(place, &other));
	assert_ok(croft_store_record_get(place->store, CROFT_RECORD_ACTION, key, place->arena, &value, &err), err);
	/* The rest is forgotten. */
	assert_ok(croft_store_fsck(place->store, true, NULL, NULL, &report, &err), err);
	assert_int_equal(report.bad_blobs, 1);
	assert_int_equal(report.repaired, 1);
	assert_ok(croft_store_fsck(place->store, false, NULL, NULL, &report, &err), err);
	assert_int_equal(report.bad_blobs + report.dangling_records, 0);
	place_destroy(place);
}

static void who_only_reads_counts_what_all_of_a_store_takes(void **state)
{
	struct place *place = place_create((struct croft_store_config){.durable = true, .chunked = true,
		.budget_bytes = 100 << 20});
	place_put_seed(place, 1, LARGE);
	struct croft_store_stat written = place_stat(place);
	place_close(place);
	place->config.read_only = true;
	place_open(place);
	struct croft_store_stat read = place_stat(place);
	assert_int_equal(read.blobs, 1);
	assert_int_equal(read.bytes, LARGE);
	assert_in_range(read.disk_bytes, LARGE, written.disk_bytes + (1 << 20));
	assert_int_equal(read.budget_bytes, 100 << 20);
	place_destroy(place);
}

static void a_scrub_finds_damage_by_itself(void **state)
{
	struct place *place = place_create(
		(struct croft_store_config){.durable = true, .scrub_bytes_per_second = 1 << 20});
	struct croft_digest digest = place_put_seed(place, 1, SMALL);
	place_put_seed(place, 2, SMALL);
	place_damage(place, &digest, 0);
	place_reopen(place); /* the scrub begins with opening */
	for (int i = 0; i < 500 && place_stat(place).quarantined == 0; i++)
		usleep(10000);
	assert_int_equal(place_stat(place).quarantined, 1);
	assert_false(place_has(place, &digest));
	place_destroy(place);
}

struct looks {
	struct place *place;
	sem_t opened;
	_Atomic unsigned count;
	_Atomic uint64_t quarantined; /* as it was at the last */
};

static bool busy_twice(void *user)
{
	struct looks *looks = user;
	sem_wait(&looks->opened);
	sem_post(&looks->opened);
	looks->quarantined = place_stat(looks->place).quarantined;
	return ++looks->count <= 2;
}

static void a_scrub_waits_while_the_machine_is_busy(void **state)
{
	struct place *place = place_create((struct croft_store_config){.durable = true});
	struct looks looks = {.place = place};
	struct croft_digest one = place_put_seed(place, 1, 2 * LARGE), two = place_put_seed(place, 2, 2 * LARGE);
	place_damage(place, memcmp(one.hash, two.hash, CROFT_HASH_SIZE) < 0 ? &two : &one, 0);
	place_close(place);
	sem_init(&looks.opened, 0, 0);
	place->config.scrub_bytes_per_second = 64 << 20;
	place->config.scrub_busy = busy_twice;
	place->config.scrub_user = &looks;
	place_open(place);
	sem_post(&looks.opened);
	for (int i = 0; i < 1000 && place_stat(place).quarantined == 0; i++)
		usleep(10000);
	assert_int_equal(place_stat(place).quarantined, 1);
	assert_true(looks.count >= 3);
	assert_int_equal(looks.quarantined, 0);
	place_destroy(place);
	sem_destroy(&looks.opened);
}

static void a_machine_is_busy_when_more_runs_than_it_has_processors(void **state)
{
	assert_false(store_machine_is_busy("9.41 9.20 9.05 2/345 26198\n", 2));
	assert_true(store_machine_is_busy("0.41 0.20 0.05 3/345 26198\n", 2));
	assert_false(store_machine_is_busy("", 2));
}

/* A filesystem of its own, small enough to fill; NULL where mounting is not allowed. */
struct disk {
	char mountpoint[32], store[64];
	struct place place;
};

static struct disk *disk_create(uint64_t lease_ms)
{
	struct disk *disk = croft_zalloc(sizeof(*disk));
	strcpy(disk->mountpoint, "/tmp/croft-full-XXXXXX");
	assert_non_null(mkdtemp(disk->mountpoint));
	if (mount("croft-test", disk->mountpoint, "tmpfs", 0, "size=24m") < 0) {
		rmdir(disk->mountpoint);
		free(disk);
		return NULL;
	}
	snprintf(disk->store, sizeof(disk->store), "%s/store", disk->mountpoint);
	disk->place.arena = croft_arena_create();
	disk->place.config = (struct croft_store_config){.path = disk->store,
		.budget_bytes = 1 << 30, .lease_ms = lease_ms, .durable = true};
	place_open(&disk->place);
	return disk;
}

static void disk_destroy(struct disk *disk)
{
	place_close(&disk->place);
	croft_arena_destroy(disk->place.arena);
	assert_int_equal(umount(disk->mountpoint), 0);
	assert_int_equal(rmdir(disk->mountpoint), 0);
	free(disk);
}

static bool try_put(struct place *place, unsigned seed, size_t size, struct croft_digest *digest)
{
	struct croft_slice bytes = place_bytes(place, seed, size);
	*digest = croft_digest_of(bytes.data, bytes.size);
	struct croft_error err = CROFT_ERROR_INIT;
	if (croft_store_put(place->store, digest, bytes, &err))
		return true;
	if (err.code != CROFT_RESOURCE_EXHAUSTED)
		fail_msg("%s: %s", croft_code_name(err.code), err.message);
	return false;
}

static void a_full_disk_refuses_puts_and_leaves_all_readable(void **state)
{
	struct disk *disk = disk_create(0);
	if (!disk)
		skip();
	enum { COUNT = 4000 };
	static struct croft_digest stored[COUNT];
	unsigned count = 0;
	for (unsigned i = 0; i < COUNT; i++)
		count += try_put(&disk->place, i, i % 10 ? 8000 : 100000, &stored[count]);
	assert_in_range(count, 500, COUNT - 500);
	for (unsigned i = 0; i < count; i++)
		assert_true(place_has(&disk->place, &stored[i]));
	place_reopen(&disk->place);
	for (unsigned i = 0; i < count; i++)
		assert_true(place_has(&disk->place, &stored[i]));
	disk_destroy(disk);
}

static void a_disk_filled_by_others_can_still_be_read_evicted_and_reopened(void **state)
{
	struct disk *disk = disk_create(1);
	if (!disk)
		skip();
	enum { COUNT = 1000 };
	static struct croft_digest stored[COUNT];
	for (unsigned i = 0; i < COUNT; i++)
		assert_true(try_put(&disk->place, i, i % 10 ? 8000 : 100000, &stored[i]));
	char path[64];
	snprintf(path, sizeof(path), "%s/filler", disk->mountpoint);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	static const char filler[4096];
	while (write(fd, filler, sizeof(filler)) > 0)
		continue;
	close(fd);
	/* Whole or gone: the store may evict by itself when it sees how little room there is. */
	for (unsigned i = 0; i < COUNT; i++)
		place_has(&disk->place, &stored[i]);
	place_reopen(&disk->place);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_collect(disk->place.store, 4 << 20, NULL, NULL, &err), err);
	assert_in_range(place_stat(&disk->place).disk_bytes, 0, 12 << 20);
	struct croft_digest digest;
	assert_true(try_put(&disk->place, COUNT, 8000, &digest));
	assert_true(place_has(&disk->place, &digest));
	disk_destroy(disk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(damage_is_found_quarantined_and_mended_by_a_new_put),
		cmocka_unit_test(of_many_that_are_got_at_once_only_the_damaged_fails),
		cmocka_unit_test(parts_of_a_large_blob_before_the_damage_are_read),
		cmocka_unit_test(a_closure_with_a_damaged_directory_is_not_complete),
		cmocka_unit_test(fsck_finds_and_repairs),
		cmocka_unit_test(what_a_segment_held_that_has_gone_is_missing_everywhere_and_can_be_put_again),
		cmocka_unit_test(who_only_reads_counts_what_all_of_a_store_takes),
		cmocka_unit_test(a_scrub_finds_damage_by_itself),
		cmocka_unit_test(a_scrub_waits_while_the_machine_is_busy),
		cmocka_unit_test(a_machine_is_busy_when_more_runs_than_it_has_processors),
		cmocka_unit_test(a_full_disk_refuses_puts_and_leaves_all_readable),
		cmocka_unit_test(a_disk_filled_by_others_can_still_be_read_evicted_and_reopened),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
