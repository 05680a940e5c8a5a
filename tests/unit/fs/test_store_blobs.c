/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/fs/store_place.h"

#include <pthread.h>
#include <unistd.h>

static const struct croft_store_config durable = {.durable = true}, cache = {.durable = false};

enum { SMALL = 2000, LARGE = 700 * 1000 };

static void what_was_put_is_got(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest small = place_put_seed(place, 1, SMALL);
	struct croft_digest large = place_put_seed(place, 2, LARGE);
	struct croft_digest limit = place_put_seed(place, 3, 64 * 1024);
	struct croft_digest past = place_put_seed(place, 4, 64 * 1024 + 1);
	assert_true(place_has(place, &small) && place_has(place, &large));
	assert_true(place_has(place, &limit) && place_has(place, &past));
	assert_int_equal(place_stat(place).blobs, 4);
	place_destroy(place);
}

static void the_empty_blob_is_always_there(void **state)
{
	struct place *place = place_create(durable);
	assert_true(place_has(place, &croft_digest_empty));
	struct croft_error err = CROFT_ERROR_INIT;
	bool missing;
	assert_ok(
		croft_store_find_missing(place->store, &croft_digest_empty, 1, &missing, &err), err);
	assert_false(missing);
	assert_ok(croft_store_put(place->store, &croft_digest_empty, CROFT_SLICE("", 0), &err), err);
	struct croft_store_blob *blob;
	assert_ok((blob = croft_store_open_blob(place->store, &croft_digest_empty, &err)) != NULL, err);
	char byte;
	assert_int_equal(croft_store_blob_read(blob, &byte, 1, 0, &err), 0);
	croft_store_blob_close(blob);
	place_destroy(place);
}

static void what_was_put_is_there_after_reopening(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest small = place_put_seed(place, 1, SMALL);
	struct croft_digest large = place_put_seed(place, 2, LARGE);
	place_reopen(place);
	assert_true(place_has(place, &small) && place_has(place, &large));
	struct croft_digest more = place_put_seed(place, 3, SMALL);
	place_reopen(place);
	assert_true(place_has(place, &small) && place_has(place, &large) && place_has(place, &more));
	assert_int_equal(place_stat(place).blobs, 3);
	assert_int_equal(place_stat(place).bytes, 2 * SMALL + LARGE);
	place_destroy(place);
}

static void wrong_bytes_are_refused(void **state)
{
	struct place *place = place_create(durable);
	for (size_t size = SMALL; size <= LARGE; size += LARGE - SMALL) {
		struct croft_slice bytes = place_bytes(place, 1, size), other = place_bytes(place, 2, size);
		struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
		struct croft_error err = CROFT_ERROR_INIT;
		assert_false(croft_store_put(place->store, &digest, other, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
		struct croft_store_writer *writer = croft_store_write(place->store, &digest, &err);
		assert_non_null(writer);
		assert_true(croft_store_writer_append(writer, other.data, other.size, &err));
		assert_false(croft_store_writer_append(writer, "x", 1, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
		assert_false(croft_store_writer_commit(writer, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
		assert_false(place_has(place, &digest));
	}
	place_destroy(place);
}

static void a_wrong_size_is_not_found(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest digest = place_put_seed(place, 1, SMALL);
	digest.size_bytes++;
	assert_false(place_has(place, &digest));
	bool missing;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_find_missing(place->store, &digest, 1, &missing, &err), err);
	assert_true(missing);
	place_destroy(place);
}

static void a_blob_in_pieces_is_seen_from_commit_on(void **state)
{
	struct place *place = place_create(durable);
	for (size_t size = SMALL; size <= LARGE; size += LARGE - SMALL) {
		struct croft_slice bytes = place_bytes(place, 1, size);
		struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
		struct croft_error err = CROFT_ERROR_INIT;
		struct croft_store_writer *writer = croft_store_write(place->store, &digest, &err);
		for (size_t at = 0; at < size; at += 999) {
			size_t part = size - at < 999 ? size - at : 999;
			assert_ok(croft_store_writer_append(
						  writer, (const char *)bytes.data + at, part, &err), err);
		}
		assert_int_equal(croft_store_writer_size(writer), size);
		assert_false(place_has(place, &digest));
		assert_ok(croft_store_writer_commit(writer, &err), err);
		assert_true(place_has(place, &digest));
	}
	place_destroy(place);
}

static void an_aborted_blob_leaves_nothing(void **state)
{
	struct place *place = place_create(durable);
	uint64_t before = place_stat(place).disk_bytes;
	struct croft_slice bytes = place_bytes(place, 1, LARGE);
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_writer *writer = croft_store_write(place->store, &digest, &err);
	assert_ok(croft_store_writer_append(writer, bytes.data, 1000, &err), err);
	assert_true(place_stat(place).disk_bytes > before);
	croft_store_writer_abort(writer);
	assert_int_equal(place_stat(place).disk_bytes, before);
	assert_false(place_has(place, &digest));
	place_destroy(place);
}

static void many_are_put_at_once_each_with_its_error(void **state)
{
	struct place *place = place_create(durable);
	enum { COUNT = 200 };
	struct croft_digest digests[COUNT];
	struct croft_slice data[COUNT];
	struct croft_error errors[COUNT];
	for (unsigned i = 0; i < COUNT; i++) {
		data[i] = place_bytes(place, i / 2, i == 50 || i == 51 ? LARGE : 100); /* each twice */
		digests[i] = croft_digest_of(data[i].data, data[i].size);
	}
	digests[7].hash[0] ^= 1;
	assert_false(croft_store_put_many(place->store, digests, data, COUNT, errors));
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(errors[i].code, i == 7 ? CROFT_INVALID_ARGUMENT : CROFT_OK);
		assert_int_equal(place_has(place, &digests[i]), i != 7);
	}
	assert_int_equal(place_stat(place).blobs, COUNT / 2);
	place_destroy(place);
}

static void parts_of_an_open_blob_are_read(void **state)
{
	struct place *place = place_create(durable);
	for (size_t size = SMALL; size <= LARGE; size += LARGE - SMALL) {
		struct croft_slice bytes = place_bytes(place, 5, size);
		struct croft_digest digest = place_put(place, bytes);
		struct croft_error err = CROFT_ERROR_INIT;
		struct croft_store_blob *blob = croft_store_open_blob(place->store, &digest, &err);
		assert_non_null(blob);
		static char buffer[LARGE];
		const size_t places[][2] = {{0, 1}, {size - 1, 10}, {size / 2, 7}, {1, size - 1},
			{0, size}, {size / 3, size / 2}, {size, 1}};
		for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
			size_t want = places[i][0] + places[i][1] > size ? size - places[i][0] : places[i][1];
			assert_int_equal(
				croft_store_blob_read(blob, buffer, places[i][1], places[i][0], &err), want);
			assert_memory_equal(buffer, (const char *)bytes.data + places[i][0], want);
		}
		uint64_t offset;
		int fd = croft_store_blob_fd(blob, &offset);
		assert_int_equal(pread(fd, buffer, size, (off_t)offset), size);
		assert_memory_equal(buffer, bytes.data, size);
		croft_store_blob_close(blob);
	}
	place_destroy(place);
}

struct putter {
	struct place *place;
	struct croft_slice *data;
	struct croft_digest *digests;
	size_t count;
	struct croft_error err;
};

static void *put_all(void *user)
{
	struct putter *putter = user;
	for (size_t i = 0; i < putter->count; i++)
		if (!croft_store_put(
				putter->place->store, &putter->digests[i], putter->data[i], &putter->err))
			break;
	return NULL;
}

static void the_same_blobs_from_many_threads_are_stored_once(void **state)
{
	struct place *place = place_create(cache);
	enum { COUNT = 60, THREADS = 8 };
	struct croft_slice data[COUNT];
	struct croft_digest digests[COUNT];
	for (unsigned i = 0; i < COUNT; i++) {
		data[i] = place_bytes(place, i, i % 10 ? SMALL : LARGE);
		digests[i] = croft_digest_of(data[i].data, data[i].size);
	}
	struct putter putters[THREADS];
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++) {
		putters[i] = (struct putter){place, data, digests, COUNT, CROFT_ERROR_INIT};
		pthread_create(&threads[i], NULL, put_all, &putters[i]);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < THREADS; i++)
		assert_ok(putters[i].err.code == CROFT_OK, putters[i].err);
	for (unsigned i = 0; i < COUNT; i++)
		assert_true(place_has(place, &digests[i]));
	place_reopen(place);
	assert_int_equal(place_stat(place).blobs, COUNT);
	place_destroy(place);
}

static void a_second_writer_is_refused_and_told_of_the_first(void **state)
{
	struct place *place = place_create(durable);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_null(croft_store_open(&place->config, &err));
	assert_int_equal(err.code, CROFT_FAILED_PRECONDITION);
	char pid[32];
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	assert_non_null(strstr(err.message, pid));
	place_destroy(place);
}

static void a_reader_beside_the_writer_sees_what_is_in_the_index(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest small = place_put_seed(place, 1, SMALL);
	struct croft_digest large = place_put_seed(place, 2, LARGE);
	place_reopen(place);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_config config = place->config;
	config.read_only = true;
	struct place reader = {.arena = place->arena, .config = config};
	place_open(&reader);
	assert_true(place_has(&reader, &small) && place_has(&reader, &large));
	assert_int_equal(place_stat(&reader).blobs, 2);
	struct croft_slice bytes = place_bytes(place, 3, SMALL);
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	assert_false(croft_store_put(reader.store, &digest, bytes, &err));
	assert_int_equal(err.code, CROFT_FAILED_PRECONDITION);
	place_close(&reader);
	place_destroy(place);
}

static void many_are_got_at_once_in_the_order_that_was_asked_for(void **state)
{
	enum { COUNT = 700 };
	struct place *place = place_create(durable);
	static struct croft_digest digests[COUNT];
	static struct croft_slice data[COUNT];
	static struct croft_error errors[COUNT];
	/* Backwards and forwards, twice the same, some empty, some large, some not there. */
	for (unsigned i = 0; i < COUNT; i++) {
		unsigned seed = i % 5 == 0 ? 3 : i * 37 % COUNT;
		digests[i] = place_put_seed(place, seed, seed % 50 == 49 ? LARGE : 10 + seed * 13);
		if (i % 11 == 10)
			digests[i] = croft_digest_empty;
		if (i % 13 == 12 && i % 11 != 10)
			digests[i].hash[0] ^= 1;
	}
	place_reopen(place);
	assert_false(
		croft_store_get_many(place->store, digests, COUNT, place->arena, data, errors));
	for (unsigned i = 0; i < COUNT; i++) {
		if (i % 13 == 12 && i % 11 != 10) {
			assert_int_equal(errors[i].code, CROFT_NOT_FOUND);
			continue;
		}
		assert_ok(errors[i].code == CROFT_OK, errors[i]);
		struct croft_digest got = croft_digest_of(data[i].data, data[i].size);
		assert_true(croft_digest_equal(&got, &digests[i]));
	}
	place_destroy(place);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_put_is_got),
		cmocka_unit_test(the_empty_blob_is_always_there),
		cmocka_unit_test(what_was_put_is_there_after_reopening),
		cmocka_unit_test(wrong_bytes_are_refused),
		cmocka_unit_test(a_wrong_size_is_not_found),
		cmocka_unit_test(a_blob_in_pieces_is_seen_from_commit_on),
		cmocka_unit_test(an_aborted_blob_leaves_nothing),
		cmocka_unit_test(many_are_put_at_once_each_with_its_error),
		cmocka_unit_test(parts_of_an_open_blob_are_read),
		cmocka_unit_test(many_are_got_at_once_in_the_order_that_was_asked_for),
		cmocka_unit_test(the_same_blobs_from_many_threads_are_stored_once),
		cmocka_unit_test(a_second_writer_is_refused_and_told_of_the_first),
		cmocka_unit_test(a_reader_beside_the_writer_sees_what_is_in_the_index),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
