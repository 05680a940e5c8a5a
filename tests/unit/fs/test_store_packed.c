/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What outlives its segment unused is compressed, and nobody who reads it sees that. */
#include "fs/store/internal.h"
#include "tests/unit/fs/store_place.h"

#include <unistd.h>

enum { MIB = 1 << 20, SIZE = 20000, KEPT = 40, OTHERS = 8 };

static const struct croft_store_config cold = {.budget_bytes = 24 * MIB, .cold_ms = 1};

/* Text that is unlike any other's, so that it packs to less than a half. */
static struct croft_slice text(struct place *place, unsigned seed, size_t size)
{
	char *bytes = croft_arena_alloc(place->arena, size + 64);
	for (size_t at = 0; at < size;)
		at += (size_t)sprintf(bytes + at, "int value_%u = %zu;\n", seed, at * (seed + 7));
	return CROFT_SLICE(bytes, size);
}

static struct store_entry entry_of(struct place *place, const struct croft_digest *digest)
{
	struct store_entry entry;
	struct store_segment *segment;
	struct croft_error err = CROFT_ERROR_INIT;
	int found = store_find(place->store, digest, STORE_LOOK, &entry, &segment, &err);
	assert_int_equal(found, 1);
	CROFT_LOCKED(&place->store->lock);
	store_segment_unref(place->store, segment);
	return entry;
}

static void hold(struct place *place, const struct croft_digest *digest)
{
	struct croft_error err = CROFT_ERROR_INIT;
	bool missing;
	assert_ok(croft_store_find_missing(place->store, digest, 1, &missing, &err), err);
	assert_false(missing);
}

static void put_others(const struct place *place, unsigned count, size_t size)
{
	static unsigned seed = 1000;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct place with_own_arena = *place;
	with_own_arena.arena = arena;
	for (unsigned i = 0; i < count; i++)
		place_put_seed(&with_own_arena, seed++, size);
	assert_true(place_stat(&with_own_arena).disk_bytes <= place->config.budget_bytes);
}

static size_t packed_count(struct place *place, const struct croft_digest *digests, size_t count)
{
	size_t packed = 0;
	for (size_t i = 0; i < count; i++)
		packed += entry_of(place, &digests[i]).packed > 0;
	return packed;
}

/* Each stands among others' bytes that nobody holds; then there is no more room until those have gone. */
static void put_and_let_others_go(struct place *place, struct croft_digest kept[KEPT], struct croft_slice bytes[KEPT])
{
	for (unsigned i = 0; i < KEPT; i++) {
		bytes[i] = text(place, i, SIZE + i);
		kept[i] = place_put(place, bytes[i]);
		hold(place, &kept[i]);
		put_others(place, OTHERS, 60000);
	}
	for (unsigned i = 0; packed_count(place, kept, KEPT) < KEPT; i++) {
		assert_in_range(i, 0, 2000);
		put_others(place, 1, 60000);
	}
}

static void assert_all(struct place *place, const struct croft_digest *digests, const struct croft_slice *bytes)
{
	struct croft_error err = CROFT_ERROR_INIT, errors[KEPT];
	struct croft_slice data, many[KEPT];
	char part[100];
	assert_true(croft_store_get_many(place->store, digests, KEPT, place->arena, many, errors));
	for (unsigned i = 0; i < KEPT; i++) {
		assert_true(croft_slice_equal(many[i], bytes[i]));
		assert_ok(croft_store_get(place->store, &digests[i], place->arena, &data, &err), err);
		assert_true(croft_slice_equal(data, bytes[i]));
		struct croft_store_blob *blob = croft_store_open_blob(place->store, &digests[i], &err);
		assert_ok(blob != NULL, err);
		assert_int_equal(croft_store_blob_read(blob, part, sizeof(part), 777, &err), sizeof(part));
		assert_memory_equal(part, (const char *)bytes[i].data + 777, sizeof(part));
		uint64_t offset, size;
		int fd = croft_store_blob_extent(blob, 10, &offset, &size);
		assert_int_equal(size, bytes[i].size - 10);
		assert_int_equal(pread(fd, part, sizeof(part), (off_t)offset), sizeof(part));
		assert_memory_equal(part, (const char *)bytes[i].data + 10, sizeof(part));
		croft_store_blob_close(blob);
	}
}

static void what_outlives_its_segment_is_packed_and_reads_the_same(void **state)
{
	struct place *place = place_create(cold);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest kept[KEPT];
	struct croft_slice bytes[KEPT];
	struct croft_fsck_report report;
	put_and_let_others_go(place, kept, bytes);
	assert_true(store_entry_disk_bytes(&(struct store_entry){.size = SIZE, .segment = 1}) >
		2 * entry_of(place, &kept[0]).packed * 8);
	assert_all(place, kept, bytes);
	place_reopen(place);
	assert_int_equal(packed_count(place, kept, KEPT), KEPT);
	assert_all(place, kept, bytes);
	assert_ok(croft_store_fsck(place->store, false, NULL, NULL, &report, &err), err);
	assert_int_equal(report.bad_blobs + report.dangling_records + report.orphans, 0);
	assert_in_range(report.blobs_checked, KEPT, 10000);
	place_destroy(place);
}

static void an_index_that_is_lost_is_made_again_from_packed_records(void **state)
{
	struct place *place = place_create(cold);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest kept[KEPT];
	struct croft_slice bytes[KEPT];
	char index[300];
	put_and_let_others_go(place, kept, bytes);
	place_close(place);
	snprintf(index, sizeof(index), "%s/index", place->path);
	assert_ok(croft_remove_tree(AT_FDCWD, index, &err), err);
	place_open(place);
	assert_int_equal(packed_count(place, kept, KEPT), KEPT);
	assert_all(place, kept, bytes);
	place_destroy(place);
}

static void a_damaged_one_is_found(void **state)
{
	struct place *place = place_create(cold);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest kept[KEPT];
	struct croft_slice bytes[KEPT], data;
	put_and_let_others_go(place, kept, bytes);
	struct store_entry entry = entry_of(place, &kept[3]);
	char path[300];
	snprintf(path, sizeof(path), "%s/segments/%08x", place->path, entry.segment);
	CROFT_CLEANUP_FD int fd = open(path, O_RDWR | O_CLOEXEC);
	off_t at = (off_t)(entry.offset + STORE_HEADER + entry.packed * 4);
	unsigned char byte;
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	assert_false(croft_store_get(place->store, &kept[3], place->arena, &data, &err));
	assert_int_equal(err.code, CROFT_DATA_LOSS);
	assert_false(place_has(place, &kept[3]));
	assert_true(place_has(place, &kept[4]));
	place_put(place, bytes[3]);
	assert_true(place_has(place, &kept[3]));
	place_destroy(place);
}

static void a_chunked_one_reads_the_same_by_pieces_and_by_files(void **state)
{
	/* The large one takes no half of any segment, of which there are 32 in a budget. */
	enum { LARGE = 5 * MIB / 2, PIECE = 100000 };
	struct place *place = place_create(
		(struct croft_store_config){.budget_bytes = 32 * 3 * LARGE, .cold_ms = 1, .chunked = true});
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice bytes = text(place, 1, LARGE);
	struct croft_digest digest = place_put(place, bytes), *chunks;
	size_t count;
	hold(place, &digest);
	assert_ok(croft_store_get_recipe(place->store, &digest, place->arena, &chunks, &count, &err), err);
	for (unsigned i = 0; packed_count(place, chunks, count) < count; i++) {
		assert_in_range(i, 0, 1000);
		put_others(place, 1, MIB);
	}
	assert_true(place_has(place, &digest));
	struct croft_store_blob *blob = croft_store_open_blob(place->store, &digest, &err);
	assert_ok(blob != NULL, err);
	char *piece = croft_arena_alloc(place->arena, PIECE);
	for (uint64_t at = 0, from, size; at < LARGE;) {
		ssize_t got = croft_store_blob_read(blob, piece, PIECE, at, &err);
		assert_in_range(got, 1, PIECE);
		assert_memory_equal(piece, (const char *)bytes.data + at, got);
		int fd = croft_store_blob_extent(blob, at, &from, &size);
		assert_int_equal(pread(fd, piece, size < PIECE ? size : PIECE, (off_t)from), size < PIECE ? size : PIECE);
		assert_memory_equal(piece, (const char *)bytes.data + at, size < PIECE ? size : PIECE);
		at += size < PIECE ? size : PIECE;
	}
	croft_store_blob_close(blob);
	place_destroy(place);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_outlives_its_segment_is_packed_and_reads_the_same),
		cmocka_unit_test(an_index_that_is_lost_is_made_again_from_packed_records),
		cmocka_unit_test(a_damaged_one_is_found),
		cmocka_unit_test(a_chunked_one_reads_the_same_by_pieces_and_by_files),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
