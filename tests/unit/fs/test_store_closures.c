/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/fs/store_place.h"

#include <unistd.h>

static const struct croft_store_config durable = {.durable = true};

static size_t lease(struct place *place, enum croft_ref_kind kind, struct croft_digest digest,
	struct croft_digest **missing)
{
	size_t count;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_ref ref = {kind, digest};
	assert_ok(croft_store_lease_closure(
				  place->store, &ref, 1, 0, place->arena, missing, &count, &err), err);
	return count;
}

/* root: f0, f1, d0 (f0, f2), d1 = d0 */
static struct croft_digest make_tree(struct place *place, struct croft_digest files[3])
{
	struct croft_digest sub_files[2] = {files[0], files[2]};
	struct croft_digest sub = place_directory(place, sub_files, 2, NULL, 0);
	return place_directory(place, files, 2, (struct croft_digest[]){sub, sub}, 2);
}

static void a_complete_closure_is_leased(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest files[3], *missing;
	for (unsigned i = 0; i < 3; i++)
		files[i] = place_put_seed(place, i, 100);
	struct croft_digest root = make_tree(place, files);
	assert_int_equal(place_stat(place).leased_blobs, 0);
	assert_int_equal(lease(place, CROFT_REF_DIRECTORY, root, &missing), 0);
	assert_int_equal(place_stat(place).leased_blobs, 5);
	assert_int_equal(lease(place, CROFT_REF_DIRECTORY, root, &missing), 0);
	place_destroy(place);
}

static void an_incomplete_closure_lists_what_is_missing_and_leases_nothing(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest files[3], *missing;
	for (unsigned i = 0; i < 2; i++)
		files[i] = place_put_seed(place, i, 100);
	struct croft_slice last = place_bytes(place, 2, 100);
	files[2] = croft_digest_of(last.data, last.size);
	struct croft_digest root = make_tree(place, files);
	assert_int_equal(lease(place, CROFT_REF_DIRECTORY, root, &missing), 1);
	assert_true(croft_digest_equal(&missing[0], &files[2]));
	assert_int_equal(place_stat(place).leased_blobs, 0);
	place_put(place, last);
	assert_int_equal(lease(place, CROFT_REF_DIRECTORY, root, &missing), 0);
	place_destroy(place);
}

static void a_missing_root_and_blob_are_listed(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest nowhere = croft_digest_of("nowhere", 7), *missing;
	assert_int_equal(lease(place, CROFT_REF_DIRECTORY, nowhere, &missing), 1);
	assert_int_equal(lease(place, CROFT_REF_BLOB, nowhere, &missing), 1);
	assert_int_equal(lease(place, CROFT_REF_TREE, nowhere, &missing), 1);
	assert_int_equal(lease(place, CROFT_REF_DIRECTORY, croft_digest_empty, &missing), 0);
	place_destroy(place);
}

static void a_malformed_directory_is_invalid(void **state)
{
	struct place *place = place_create(durable);
	struct croft_digest bad = place_put(place, croft_slice_str("\xff\xff\xff")), *missing;
	struct croft_ref ref = {CROFT_REF_DIRECTORY, bad};
	size_t count;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(croft_store_lease_closure(
		place->store, &ref, 1, 0, place->arena, &missing, &count, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	assert_int_equal(place_stat(place).leased_blobs, 0);
	place_destroy(place);
}

static void a_tree_message_reaches_the_files_of_all_its_directories(void **state)
{
	struct place *place = place_create(durable);
	struct croft_slice file = place_bytes(place, 1, 50);
	struct croft_digest digest = croft_digest_of(file.data, file.size), *missing;
	Reapi__FileNode node = REAPI__FILE_NODE__INIT;
	node.name = "a";
	node.digest = croft_digest_to_message(&digest, place->arena);
	Reapi__Directory child = REAPI__DIRECTORY__INIT, root = REAPI__DIRECTORY__INIT;
	child.n_files = 1;
	child.files = (Reapi__FileNode *[]){&node};
	Reapi__Tree tree = REAPI__TREE__INIT;
	tree.root = &root;
	tree.n_children = 1;
	tree.children = (Reapi__Directory *[]){&child};
	struct croft_digest stored =
		place_put(place, croft_message_encode(&tree.base, place->arena));
	assert_int_equal(lease(place, CROFT_REF_TREE, stored, &missing), 1);
	assert_true(croft_digest_equal(&missing[0], &digest));
	place_put(place, file);
	assert_int_equal(lease(place, CROFT_REF_TREE, stored, &missing), 0);
	place_destroy(place);
}

/* What the Tree does not hold itself has to be a Directory of the store, with all below it. */
static void a_tree_needs_the_directories_that_it_names(void **state)
{
	struct place *place = place_create(durable);
	struct croft_slice file = place_bytes(place, 1, 100);
	struct croft_digest digest = croft_digest_of(file.data, file.size), *missing;
	Reapi__FileNode node = REAPI__FILE_NODE__INIT;
	node.name = (char *)"f";
	node.digest = croft_digest_to_message(&digest, place->arena);
	Reapi__Directory child = REAPI__DIRECTORY__INIT, root = REAPI__DIRECTORY__INIT;
	child.n_files = 1;
	child.files = (Reapi__FileNode *[]){&node};
	struct croft_slice child_bytes = croft_message_encode(&child.base, place->arena);
	struct croft_digest child_digest = croft_digest_of(child_bytes.data, child_bytes.size);
	Reapi__DirectoryNode name = REAPI__DIRECTORY_NODE__INIT;
	name.name = (char *)"d";
	name.digest = croft_digest_to_message(&child_digest, place->arena);
	root.n_directories = 1;
	root.directories = (Reapi__DirectoryNode *[]){&name};
	Reapi__Tree tree = REAPI__TREE__INIT;
	tree.root = &root;
	struct croft_digest without = place_put(place, croft_message_encode(&tree.base, place->arena));
	tree.n_children = 1;
	tree.children = (Reapi__Directory *[]){&child};
	struct croft_digest with = place_put(place, croft_message_encode(&tree.base, place->arena));
	assert_int_equal(lease(place, CROFT_REF_TREE, without, &missing), 1);
	assert_true(croft_digest_equal(&missing[0], &child_digest));
	assert_int_equal(lease(place, CROFT_REF_TREE, with, &missing), 1);
	assert_true(croft_digest_equal(&missing[0], &digest));
	place_put(place, child_bytes);
	assert_int_equal(lease(place, CROFT_REF_TREE, without, &missing), 1);
	assert_true(croft_digest_equal(&missing[0], &digest));
	place_put(place, file);
	assert_int_equal(lease(place, CROFT_REF_TREE, without, &missing), 0);
	assert_int_equal(lease(place, CROFT_REF_TREE, with, &missing), 0);
	place_destroy(place);
}

static void find_missing_tells_and_leases(void **state)
{
	struct place *place = place_create(durable);
	enum { COUNT = 700 };
	static struct croft_digest digests[COUNT];
	static bool missing[COUNT];
	for (unsigned i = 0; i < COUNT; i++) {
		struct croft_slice bytes = place_bytes(place, i, 64);
		digests[i] = croft_digest_of(bytes.data, bytes.size);
		if (i % 100 == 0)
			place_put(place, bytes);
	}
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_find_missing(place->store, digests, COUNT, missing, &err), err);
	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(missing[i], i % 100 != 0);
	assert_int_equal(place_stat(place).leased_blobs, COUNT / 100);
	place_destroy(place);
}

static void a_hold_lasts_until_its_release(void **state)
{
	struct place *place = place_create((struct croft_store_config){.durable = true, .lease_ms = 1});
	struct croft_digest files[3];
	for (unsigned i = 0; i < 3; i++)
		files[i] = place_put_seed(place, i, 100);
	struct croft_ref refs[] = {{CROFT_REF_DIRECTORY, make_tree(place, files)},
		{CROFT_REF_BLOB, files[0]}};
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_hold *first, *second;
	assert_ok((first = croft_store_hold(place->store, refs, 2, &err)) != NULL, err);
	assert_ok((second = croft_store_hold(place->store, refs, 1, &err)) != NULL, err);
	usleep(5000);
	assert_int_equal(place_stat(place).leased_blobs, 5);
	croft_store_release(first);
	assert_int_equal(place_stat(place).leased_blobs, 5);
	croft_store_release(second);
	usleep(5000); /* the keeper may just have leased what was held */
	assert_int_equal(place_stat(place).leased_blobs, 0);
	refs[1].digest = croft_digest_of("nowhere", 7);
	assert_null(croft_store_hold(place->store, refs, 2, &err));
	assert_int_equal(err.code, CROFT_FAILED_PRECONDITION);
	assert_int_equal(place_stat(place).leased_blobs, 0);
	place_destroy(place);
}

/* Records */

static bool get(struct place *place, const char *key, struct croft_slice *value)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (croft_store_record_get(place->store, CROFT_RECORD_ACTION, croft_slice_str(key),
			place->arena, value, &err))
		return true;
	if (err.code != CROFT_NOT_FOUND)
		fail_msg("%s: %s", croft_code_name(err.code), err.message);
	return false;
}

static void a_record_is_got_with_its_closure_leased(void **state)
{
	struct place *place = place_create((struct croft_store_config){.durable = true});
	struct croft_digest files[3];
	for (unsigned i = 0; i < 3; i++)
		files[i] = place_put_seed(place, i, 100);
	struct croft_ref ref = {CROFT_REF_DIRECTORY, make_tree(place, files)};
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice value;
	assert_false(get(place, "key", &value));
	assert_ok(croft_store_record_put(place->store, CROFT_RECORD_ACTION, croft_slice_str("key"),
				  croft_slice_str("value"), &ref, 1, 0, &err), err);
	place_reopen(place);
	assert_true(get(place, "key", &value));
	assert_true(croft_slice_equal(value, croft_slice_str("value")));
	assert_int_equal(place_stat(place).leased_blobs, 5);
	assert_int_equal(place_stat(place).records_action, 1);
	assert_false(croft_store_record_get(place->store, CROFT_RECORD_FAILURE, croft_slice_str("key"),
		place->arena, &value, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	assert_ok(croft_store_record_delete(
				  place->store, CROFT_RECORD_ACTION, croft_slice_str("key"), &err), err);
	assert_false(get(place, "key", &value));
	place_destroy(place);
}

static void a_record_of_missing_blobs_is_refused(void **state)
{
	struct place *place = place_create(durable);
	struct croft_ref ref = {CROFT_REF_BLOB, croft_digest_of("nowhere", 7)};
	struct croft_error err = CROFT_ERROR_INIT;
	assert_false(croft_store_record_put(place->store, CROFT_RECORD_ASSET, croft_slice_str("key"),
		croft_slice_str("value"), &ref, 1, 0, &err));
	assert_int_equal(err.code, CROFT_FAILED_PRECONDITION);
	place_destroy(place);
}

static void of_many_records_each_says_for_itself_what_became_of_it(void **state)
{
	struct place *place = place_create(durable);
	struct croft_slice value;
	struct croft_ref nowhere = {CROFT_REF_BLOB, croft_digest_of("nowhere", 7)};
	struct croft_ref there = {CROFT_REF_BLOB, place_put_seed(place, 1, 100)};
	struct croft_record records[] = {
		{.key = croft_slice_str("one"), .value = croft_slice_str("1"), .refs = &there, .ref_count = 1},
		{.key = croft_slice_str("two"), .refs = &nowhere, .ref_count = 1},
		{.key = croft_slice_str("three"), .value = croft_slice_str("3")},
	};
	croft_store_record_put_many(place->store, records, 3);
	assert_true(records[0].ok);
	assert_false(records[1].ok);
	assert_int_equal(records[1].failed.code, CROFT_FAILED_PRECONDITION);
	assert_true(records[2].ok);
	place_reopen(place);
	assert_true(get(place, "one", &value));
	assert_false(get(place, "two", &value));
	assert_true(get(place, "three", &value));
	assert_true(croft_slice_equal(value, croft_slice_str("3")));
	place_destroy(place);
}

static struct croft_late_record *prepare(struct place *place, const char *key, const char *value,
	const struct croft_ref *ref)
{
	struct croft_record record = {.key = croft_slice_str(key), .value = croft_slice_str(value), .refs = ref,
		.ref_count = ref != NULL};
	struct croft_late_record *late;
	croft_store_record_prepare(place->store, &record, 1, &late);
	assert_int_equal(record.ok, late != NULL);
	return late;
}

static void a_late_record_is_found_from_when_it_is_published(void **state)
{
	struct place *place = place_create(durable);
	struct croft_slice value;
	struct croft_ref nowhere = {CROFT_REF_BLOB, croft_digest_of("nowhere", 7)};
	struct croft_ref there = {CROFT_REF_BLOB, place_put_seed(place, 1, 100)};
	assert_null(prepare(place, "key", "value", &nowhere));
	struct croft_late_record *late = prepare(place, "key", "value", &there);
	assert_int_equal(place_stat(place).leased_blobs, 1);
	assert_false(get(place, "key", &value));
	uint64_t number = croft_store_record_publish(place->store, late);
	assert_true(croft_store_records_indexed(place->store) < number);
	assert_true(get(place, "key", &value));
	assert_true(croft_slice_equal(value, croft_slice_str("value")));
	assert_true(croft_store_record_has(place->store, CROFT_RECORD_ACTION, croft_slice_str("key")));
	assert_false(croft_store_record_has(place->store, CROFT_RECORD_FAILURE, croft_slice_str("key")));
	croft_store_record_drop(place->store, prepare(place, "dropped", "value", NULL));
	place_reopen(place);
	assert_true(get(place, "key", &value));
	assert_false(get(place, "dropped", &value));
	place_destroy(place);
}

static void late_records_come_into_the_index_by_themselves(void **state)
{
	enum { MANY = 1000 };
	struct place *place = place_create(durable);
	uint64_t last = 0;
	for (int i = 0; i < MANY; i++) {
		char key[16];
		snprintf(key, sizeof(key), "%d", i);
		last = croft_store_record_publish(place->store, prepare(place, key, key, NULL));
	}
	assert_int_equal(last, MANY);
	while (croft_store_records_indexed(place->store) < last)
		usleep(1000);
	assert_int_equal(place_stat(place).records_action, MANY);
	place_destroy(place);
}

static void the_last_of_late_and_other_records_counts(void **state)
{
	struct place *place = place_create(durable);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice value;
	croft_store_record_publish(place->store, prepare(place, "key", "1", NULL));
	croft_store_record_publish(place->store, prepare(place, "key", "2", NULL));
	assert_true(get(place, "key", &value));
	assert_true(croft_slice_equal(value, croft_slice_str("2")));
	assert_ok(croft_store_record_put(place->store, CROFT_RECORD_ACTION, croft_slice_str("key"),
				  croft_slice_str("3"), NULL, 0, 0, &err), err);
	place_reopen(place);
	assert_true(get(place, "key", &value));
	assert_true(croft_slice_equal(value, croft_slice_str("3")));
	croft_store_record_publish(place->store, prepare(place, "key", "4", NULL));
	assert_true(get(place, "key", &value));
	assert_true(croft_slice_equal(value, croft_slice_str("4")));
	assert_ok(croft_store_record_delete(
				  place->store, CROFT_RECORD_ACTION, croft_slice_str("key"), &err), err);
	place_reopen(place);
	assert_false(get(place, "key", &value));
	place_destroy(place);
}

static void a_record_is_replaced_and_expires(void **state)
{
	struct place *place = place_create(durable);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice value;
	for (int i = 0; i < 2; i++)
		assert_ok(croft_store_record_put(place->store, CROFT_RECORD_ACTION, croft_slice_str("key"),
					  croft_slice_str(i ? "new" : "old"), NULL, 0, 0, &err), err);
	assert_true(get(place, "key", &value));
	assert_true(croft_slice_equal(value, croft_slice_str("new")));
	assert_ok(croft_store_record_put(place->store, CROFT_RECORD_ACTION, croft_slice_str("key"),
				  croft_slice_str("new"), NULL, 0, croft_unix_ns() - 1, &err), err);
	assert_false(get(place, "key", &value));
	place_destroy(place);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_complete_closure_is_leased),
		cmocka_unit_test(an_incomplete_closure_lists_what_is_missing_and_leases_nothing),
		cmocka_unit_test(a_missing_root_and_blob_are_listed),
		cmocka_unit_test(a_malformed_directory_is_invalid),
		cmocka_unit_test(a_tree_message_reaches_the_files_of_all_its_directories),
		cmocka_unit_test(a_tree_needs_the_directories_that_it_names),
		cmocka_unit_test(find_missing_tells_and_leases),
		cmocka_unit_test(a_hold_lasts_until_its_release),
		cmocka_unit_test(a_record_is_got_with_its_closure_leased),
		cmocka_unit_test(a_record_of_missing_blobs_is_refused),
		cmocka_unit_test(a_late_record_is_found_from_when_it_is_published),
		cmocka_unit_test(late_records_come_into_the_index_by_themselves),
		cmocka_unit_test(the_last_of_late_and_other_records_counts),
		cmocka_unit_test(of_many_records_each_says_for_itself_what_became_of_it),
		cmocka_unit_test(a_record_is_replaced_and_expires),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
