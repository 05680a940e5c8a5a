/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Blobs that are kept as chunks. */
#include "tests/unit/fs/store_place.h"

#include "fs/chunker.h"

#include <dirent.h>

enum { MIB = 1 << 20, BLOB = 10 * MIB };

static const struct croft_store_config durable = {.durable = true, .chunked = true};

/* In pieces of a size that fits nothing. */
static struct croft_digest write_pieces(struct place *place, struct croft_slice bytes)
{
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_writer *writer = croft_store_write(place->store, &digest, &err);
	assert_ok(writer != NULL, err);
	for (size_t at = 0; at < bytes.size;) {
		size_t part = bytes.size - at < 77777 ? bytes.size - at : 77777;
		assert_ok(croft_store_writer_append(writer, (const char *)bytes.data + at, part, &err), err);
		at += part;
	}
	assert_ok(croft_store_writer_commit(writer, &err), err);
	return digest;
}

static bool is_missing(struct place *place, const struct croft_digest *digest)
{
	bool missing;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_find_missing(place->store, digest, 1, &missing, &err), err);
	return missing;
}

static size_t recipe_of(struct place *place, const struct croft_digest *digest,
	struct croft_digest **chunks)
{
	size_t count;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(
		croft_store_get_recipe(place->store, digest, place->arena, chunks, &count, &err), err);
	return count;
}

static void a_large_blob_is_got_as_it_was_put(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest one = write_pieces(place, place_bytes(place, 1, BLOB));
	struct croft_digest other = place_put_seed(place, 2, BLOB + 1);
	assert_true(place_has(place, &one) && place_has(place, &other));
	assert_false(is_missing(place, &one));
	place_reopen(place);
	assert_true(place_has(place, &one) && place_has(place, &other));
	struct croft_fsck_report report;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_fsck(place->store, false, NULL, NULL, &report, &err), err);
	assert_int_equal(report.bad_blobs + report.orphans, 0);
	place_destroy(place);
}

/* In whatever pieces it came. */
static void a_blob_is_cut_where_the_chunker_cuts_the_whole(void **state)
{
	static const size_t sizes[] = {4 * MIB, 4 * MIB + 1, 11 * MIB + 333, 13 * MIB};
	struct place *place = place_create(durable);
	for (size_t i = 0; i < 4; i++) {
		struct croft_slice bytes = place_bytes(place, 7 + (unsigned)i, sizes[i]);
		if (i == 3) /* no cut but the longest */
			memset((void *)((const char *)bytes.data + MIB), 0, 9 * MIB + 5);
		struct croft_digest digest = write_pieces(place, bytes), *chunks;
		size_t count = recipe_of(place, &digest, &chunks), at = 0, seen = 0;
		for (; at < bytes.size; at += (size_t)chunks[seen++].size_bytes) {
			const uint8_t *start = (const uint8_t *)bytes.data + at;
			assert_true(seen < count);
			assert_int_equal(chunks[seen].size_bytes,
				croft_chunk_cut(&croft_chunking, start, bytes.size - at));
		}
		assert_int_equal(seen, count);
	}
	place_destroy(place);
}

static size_t count_threads(void)
{
	size_t count = 0;
	DIR *dir = opendir("/proc/self/task");
	assert_non_null(dir);
	for (struct dirent *entry; (entry = readdir(dir));)
		count += entry->d_name[0] != '.';
	closedir(dir);
	return count;
}

static void an_upload_that_rests_has_no_threads_and_goes_on(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct place *place = place_create(durable);
	struct croft_slice bytes = place_bytes(place, 23, BLOB);
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	size_t threads = count_threads();
	struct croft_store_writer *writer = croft_store_write(place->store, &digest, &err);
	assert_ok(writer != NULL, err);
	for (size_t at = 0, part = 5 * MIB + 77; at < bytes.size; at += part) {
		if (part > bytes.size - at)
			part = bytes.size - at;
		assert_ok(croft_store_writer_append(writer, (const char *)bytes.data + at, part, &err), err);
		croft_store_writer_rest(writer);
		assert_int_equal(count_threads(), threads);
	}
	assert_ok(croft_store_writer_commit(writer, &err), err);
	assert_true(place_has(place, &digest));
	place_destroy(place);
}

static void any_part_can_be_read(void **state)
{
	struct place *place = place_create(durable);
	struct croft_slice bytes = place_bytes(place, 1, BLOB);
	struct croft_digest digest = place_put(place, bytes);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_blob *blob = croft_store_open_blob(place->store, &digest, &err);
	assert_ok(blob != NULL, err);
	unsigned char *buffer = croft_arena_alloc(place->arena, 3 * MIB);
	for (size_t i = 0; i < 60; i++) {
		size_t at = i * 7654321 % BLOB, size = i * 123457 % (3 * MIB) + 1;
		size_t wanted = size < BLOB - at ? size : BLOB - at;
		assert_int_equal(croft_store_blob_read(blob, buffer, size, at, &err), wanted);
		assert_memory_equal(buffer, (const char *)bytes.data + at, wanted);
	}
	croft_store_blob_close(blob);
	place_destroy(place);
}

static struct croft_store_writer *begin(struct place *place, struct croft_slice bytes)
{
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_writer *writer = croft_store_write(place->store, &digest, &err);
	assert_ok(writer != NULL, err);
	assert_ok(croft_store_writer_append(writer, bytes.data, bytes.size, &err), err);
	return writer;
}

/* What an upload has written so far is not on disk yet: nobody may be told that it is there, nor wait for
 * its end. */
static void chunks_of_unfinished_uploads_are_nobody_elses(void **state)
{
	struct place *place = place_create(durable);
	struct croft_slice bytes = place_bytes(place, 1, BLOB);
	struct place *other = place_create(durable);
	struct croft_digest digest = place_put(other, bytes), *chunks;
	size_t count = recipe_of(other, &digest, &chunks);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_writer *first = begin(place, bytes), *second = begin(place, bytes);
	assert_true(is_missing(place, &digest));
	/* Both wrote the same; the first to put a chunk by itself syncs it, whoever wrote it. */
	size_t start = 0;
	for (size_t i = 0; i < count; start += chunks[i++].size_bytes) {
		place_put(place, CROFT_SLICE((const char *)bytes.data + start, chunks[i].size_bytes));
		assert_false(is_missing(place, &chunks[i]));
	}
	croft_store_writer_abort(first);
	assert_true(is_missing(place, &digest));
	assert_ok(croft_store_writer_commit(second, &err), err);
	assert_true(place_has(place, &digest));
	assert_int_equal(place_stat(place).bytes, BLOB);
	place_reopen(place);
	assert_true(place_has(place, &digest));
	place_destroy(place);
	place_destroy(other);
}

static void an_upload_given_up_leaves_a_store_that_opens(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest before = place_put_seed(place, 2, 5000);
	croft_store_writer_abort(begin(place, place_bytes(place, 1, BLOB)));
	place_reopen(place);
	struct croft_digest behind = place_put_seed(place, 3, 5000);
	struct croft_digest digest = place_put_seed(place, 1, BLOB);
	place_reopen(place);
	assert_true(place_has(place, &before) && place_has(place, &behind) && place_has(place, &digest));
	struct croft_fsck_report report;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_fsck(place->store, false, NULL, NULL, &report, &err), err);
	assert_int_equal(report.bad_blobs + report.orphans, 0);
	place_destroy(place);
}

static void two_versions_share_their_chunks(void **state)
{
	struct place *place = place_create(durable);
	struct croft_slice first = place_bytes(place, 1, BLOB);
	place_put(place, first);
	uint64_t before = place_stat(place).bytes;
	/* Something put in near the middle moves all behind it. */
	char *second = croft_arena_alloc(place->arena, BLOB + 100);
	memcpy(second, first.data, BLOB / 2);
	memset(second + BLOB / 2, 'x', 100);
	memcpy(second + BLOB / 2 + 100, (const char *)first.data + BLOB / 2, BLOB / 2);
	struct croft_digest digest = place_put(place, CROFT_SLICE(second, BLOB + 100));
	assert_true(place_has(place, &digest));
	assert_in_range(place_stat(place).bytes - before, 1, 2 * CROFT_CHUNK_MOST);
	place_destroy(place);
}

static void a_recipe_puts_a_blob_together_elsewhere(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest digest = place_put_seed(place, 1, BLOB), *chunks;
	size_t count = recipe_of(place, &digest, &chunks);
	assert_in_range(count, BLOB / CROFT_CHUNK_MOST, BLOB / CROFT_CHUNK_LEAST + 1);
	static const struct croft_store_config others[] = {{.chunked = true}, {.chunked = false}};
	for (size_t i = 0; i < 2; i++) {
		struct place *other = place_create(others[i]);
		struct croft_error err = CROFT_ERROR_INIT;
		for (size_t k = 0; k < count; k++) {
			struct croft_slice bytes;
			/* One short: it is named. */
			assert_false(croft_store_put_recipe(other->store, &digest, chunks, count, &err));
			assert_int_equal(err.code, CROFT_NOT_FOUND);
			assert_ok(croft_store_get(place->store, &chunks[k], place->arena, &bytes, &err), err);
			place_put(other, bytes);
		}
		assert_true(is_missing(other, &digest));
		assert_ok(croft_store_put_recipe(other->store, &digest, chunks, count, &err), err);
		assert_ok(croft_store_put_recipe(other->store, &digest, chunks, count, &err), err);
		assert_false(is_missing(other, &digest));
		assert_true(place_has(other, &digest));
		place_reopen(other);
		assert_true(place_has(other, &digest));
		place_destroy(other);
	}
	place_destroy(place);
}

static void a_recipe_for_something_else_is_refused(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest digest = place_put_seed(place, 1, BLOB), *chunks;
	size_t count = recipe_of(place, &digest, &chunks);
	struct croft_digest wrong = croft_digest_of("x", 1);
	wrong.size_bytes = BLOB;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(croft_store_put_recipe(place->store, &wrong, chunks, count, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	assert_false(croft_store_put_recipe(place->store, &wrong, chunks, count - 1, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	assert_true(is_missing(place, &wrong));
	place_destroy(place);
}

static void pieces_of_any_size_are_taken(void **state)
{
	struct place *place = place_create(durable);
	struct croft_slice bytes = place_bytes(place, 1, BLOB);
	const char *data = bytes.data;
	static const size_t cuts[] = {0, 1, 5, 1000, 3 * MIB, 3 * MIB + 1, BLOB};
	struct croft_digest pieces[6], digest = croft_digest_of(bytes.data, bytes.size), *chunks;
	for (size_t i = 0; i < 6; i++)
		pieces[i] = place_put(place, CROFT_SLICE(data + cuts[i], cuts[i + 1] - cuts[i]));
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_put_recipe(place->store, &digest, pieces, 6, &err), err);
	assert_true(place_has(place, &digest));
	size_t count = recipe_of(place, &digest, &chunks);
	for (size_t i = 0; i < count; i++)
		assert_in_range(chunks[i].size_bytes, 1, CROFT_CHUNK_MOST);
	place_destroy(place);
}

/* In a cache what was just put may be evicted at once by somebody else's put. */
static bool put_until_there(struct place *place, unsigned seed, size_t size)
{
	for (int tries = 0; tries < 100; tries++) {
		struct croft_digest digest = place_put_seed(place, seed, size);
		if (place_has(place, &digest))
			return true;
	}
	return false;
}

/* Where everything is evicted at last, whole blobs come and go; none is ever there in part. */
static void chunks_are_kept_and_lost_with_their_blob(void **state)
{
	struct place *place = place_create(
		(struct croft_store_config){.chunked = true, .budget_bytes = 40 * MIB, .lease_ms = 3600000});
	struct croft_digest kept = place_put_seed(place, 1000, BLOB), digests[20];
	assert_false(is_missing(place, &kept)); /* leased from here on */
	for (unsigned i = 0; i < 20; i++) {
		digests[i] = place_put_seed(place, i, BLOB / 2);
		place_has(place, &digests[i]); /* used once more, and whole if it is there */
		assert_true(place_has(place, &kept));
		struct croft_store_stat stat = place_stat(place);
		assert_true(stat.disk_bytes <= stat.budget_bytes);
	}
	size_t lost = 0;
	for (unsigned i = 0; i < 20; i++)
		lost += !place_has(place, &digests[i]);
	assert_true(lost >= 10);
	assert_true(place_has(place, &kept));
	for (unsigned i = 0; i < 20; i += 5) { /* and can be put again */
		assert_true(put_until_there(place, i, BLOB / 2));
	}
	place_destroy(place);
}

/* In the file that holds it. */
static void damage(struct place *place, const struct croft_digest *digest)
{
	struct croft_store_blob *blob = croft_store_open_blob(place->store, digest, NULL);
	assert_non_null(blob);
	uint64_t offset;
	int fd = croft_store_blob_fd(blob, &offset);
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	CROFT_CLEANUP_FD int writable = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(writable, "damaged", 7, (off_t)offset), 7);
	croft_store_blob_close(blob);
}

static void a_broken_recipe_is_replaced(void **state)
{
	struct place *place = place_create((struct croft_store_config){.chunked = true});
	struct croft_slice bytes = place_bytes(place, 1, BLOB);
	struct croft_digest digest = place_put(place, bytes), *chunks;
	size_t count = recipe_of(place, &digest, &chunks);
	damage(place, &chunks[count - 1]);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice got;
	assert_false(croft_store_get(place->store, &digest, place->arena, &got, &err));
	assert_int_equal(err.code, CROFT_DATA_LOSS);
	assert_true(is_missing(place, &digest));
	assert_false(place_has(place, &digest));
	place_put(place, bytes);
	assert_true(place_has(place, &digest));
	place_destroy(place);
}

/* What is asked for and found without its chunks leaves the index, and can be stored anew. */
static void a_recipe_whose_chunks_went_is_forgotten_when_it_is_asked_for(void **state)
{
	struct place *place = place_create((struct croft_store_config){.chunked = true});
	struct croft_slice bytes = place_bytes(place, 1, BLOB);
	struct croft_digest digest = place_put(place, bytes), *chunks;
	size_t count = recipe_of(place, &digest, &chunks);
	place_reopen(place);
	assert_int_equal(place_stat(place).blobs, count + 1);
	damage(place, &chunks[count - 1]);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice got;
	assert_false(croft_store_get(place->store, &chunks[count - 1], place->arena, &got, &err));
	assert_int_equal(err.code, CROFT_DATA_LOSS);
	assert_true(is_missing(place, &digest));
	place_reopen(place);
	assert_int_equal(place_stat(place).blobs, count - 1);
	assert_true(is_missing(place, &digest));
	place_put(place, bytes);
	place_reopen(place);
	assert_true(place_has(place, &digest));
	assert_int_equal(place_stat(place).blobs, count + 1);
	place_destroy(place);
}

static void a_hold_keeps_the_chunks(void **state)
{
	struct place *place =
		place_create((struct croft_store_config){.chunked = true, .budget_bytes = 40 * MIB});
	struct croft_digest file = place_put_seed(place, 1000, BLOB);
	struct croft_digest root = place_directory(place, &file, 1, NULL, 0);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_ref ref = {CROFT_REF_DIRECTORY, root};
	struct croft_hold *hold = croft_store_hold(place->store, &ref, 1, &err);
	assert_ok(hold != NULL, err);
	for (unsigned i = 0; i < 20; i++)
		place_put_seed(place, i, BLOB / 2);
	assert_true(place_has(place, &file));
	croft_store_release(hold);
	for (unsigned i = 20; i < 40; i++)
		place_put_seed(place, i, BLOB / 2);
	assert_false(place_has(place, &file));
	assert_null(croft_store_hold(place->store, &ref, 1, &err));
	place_destroy(place);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_large_blob_is_got_as_it_was_put),
		cmocka_unit_test(a_blob_is_cut_where_the_chunker_cuts_the_whole),
		cmocka_unit_test(an_upload_that_rests_has_no_threads_and_goes_on),
		cmocka_unit_test(any_part_can_be_read),
		cmocka_unit_test(chunks_of_unfinished_uploads_are_nobody_elses),
		cmocka_unit_test(an_upload_given_up_leaves_a_store_that_opens),
		cmocka_unit_test(two_versions_share_their_chunks),
		cmocka_unit_test(a_recipe_puts_a_blob_together_elsewhere),
		cmocka_unit_test(a_recipe_for_something_else_is_refused),
		cmocka_unit_test(pieces_of_any_size_are_taken),
		cmocka_unit_test(chunks_are_kept_and_lost_with_their_blob),
		cmocka_unit_test(a_broken_recipe_is_replaced),
		cmocka_unit_test(a_recipe_whose_chunks_went_is_forgotten_when_it_is_asked_for),
		cmocka_unit_test(a_hold_keeps_the_chunks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
