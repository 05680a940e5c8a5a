/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whose blobs are whose: what was granted, to whom, and for how long. */
#include "fs/action_value.h"
#include "fs/action_value.h"
#include "fs/private.h"
#include "tests/unit/fs/store_place.h"

static struct place *place;
static struct croft_error err;
static const struct croft_slice ann = {"ann", 3}, bob = {"bob", 3};

static int set_up(void **state)
{
	err = CROFT_ERROR_INIT;
	place = place_create((struct croft_store_config){.budget_bytes = 64 << 20, .chunked = true, .lease_ms = 1});
	return 0;
}

static int tear_down(void **state)
{
	place_destroy(place);
	return 0;
}

static void grant(struct croft_slice tenant, const struct croft_digest *digest)
{
	assert_ok(croft_store_grant(place->store, tenant, digest, 1, &err), err);
}

static bool sees(struct croft_slice tenant, const struct croft_digest *digest)
{
	bool visible;
	assert_ok(croft_store_visible(place->store, tenant, digest, 1, &visible, &err), err);
	return visible;
}

static size_t hidden_from(struct croft_slice tenant, enum croft_ref_kind kind, const struct croft_digest *digest,
	struct croft_digest *first)
{
	struct croft_ref ref = {kind, *digest};
	struct croft_digest *hidden;
	size_t count;
	assert_ok(croft_store_hidden(place->store, tenant, &ref, 1, place->arena, &hidden, &count, &err), err);
	if (count && first)
		*first = hidden[0];
	return count;
}

static void evict(const struct croft_digest *digest)
{
	uint64_t bytes, blobs;
	/* Past its lease of a millisecond, whatever the clock's grain is. */
	for (bool there = true; there;) {
		assert_ok(croft_store_collect(place->store, 1, &bytes, &blobs, &err), err);
		assert_ok(croft_store_has(place->store, digest, 1, &there, &err), err);
	}
}

static void what_one_was_granted_no_other_sees(void **state)
{
	struct croft_digest blob = place_put_seed(place, 1, 100), other = place_put_seed(place, 2, 100);
	assert_false(sees(ann, &blob));
	grant(ann, &blob);
	assert_true(sees(ann, &blob));
	assert_false(sees(ann, &other));
	assert_false(sees(bob, &blob));
	assert_false(sees(CROFT_SLICE("", 0), &blob));
	assert_true(sees(CROFT_EVERYTHING, &other));
	assert_true(sees(bob, &croft_digest_empty));
	/* Who asks by hash alone knows no size. */
	struct croft_digest sizeless = other;
	sizeless.size_bytes = 0;
	assert_false(sees(bob, &sizeless));
	/* No name is made of another's and a hash. */
	assert_false(sees(CROFT_SLICE("an", 2), &blob));
	assert_false(sees(CROFT_SLICE("ann\0", 4), &blob));
}

static void grants_outlast_a_restart_and_go_with_the_blob(void **state)
{
	struct croft_slice bytes = place_bytes(place, 1, 5000);
	struct croft_digest blob = place_put(place, bytes);
	grant(ann, &blob);
	place_reopen(place);
	assert_true(sees(ann, &blob));
	evict(&blob);
	assert_false(sees(ann, &blob));
	/* Somebody else's copy is not hers. */
	place_put(place, bytes);
	grant(bob, &blob);
	assert_false(sees(ann, &blob));
	assert_true(sees(bob, &blob));
}

static void a_large_blob_is_granted_with_its_chunks(void **state)
{
	struct croft_digest large = place_put_seed(place, 1, 5 << 20), *chunks;
	size_t count;
	grant(ann, &large);
	assert_ok(croft_store_get_recipe(place->store, &large, place->arena, &chunks, &count, &err), err);
	assert_true(count > 2);
	for (size_t i = 0; i < count; i++) {
		assert_true(sees(ann, &chunks[i]));
		assert_false(sees(bob, &chunks[i]));
	}
}

static void a_closure_is_hidden_from_where_it_is_not_known_on(void **state)
{
	struct croft_digest first;
	struct croft_digest mine = place_put_seed(place, 1, 10), secret = place_put_seed(place, 2, 10);
	struct croft_digest sub = place_directory(place, &secret, 1, NULL, 0);
	struct croft_digest root = place_directory(place, &mine, 1, &sub, 1);
	struct croft_ref ref = {CROFT_REF_DIRECTORY, root};
	assert_ok(croft_store_grant_closure(place->store, ann, &ref, 1, &err), err);
	assert_int_equal(hidden_from(ann, CROFT_REF_DIRECTORY, &root, NULL), 0);
	/* What names a digest and was put by bob does not give him what it names. */
	grant(bob, &root);
	grant(bob, &mine);
	assert_int_equal(hidden_from(bob, CROFT_REF_DIRECTORY, &root, &first), 1);
	assert_true(croft_digest_equal(&first, &sub));
	grant(bob, &sub);
	assert_int_equal(hidden_from(bob, CROFT_REF_DIRECTORY, &root, &first), 1);
	assert_true(croft_digest_equal(&first, &secret));
	assert_false(sees(bob, &secret));
	grant(bob, &secret);
	assert_int_equal(hidden_from(bob, CROFT_REF_DIRECTORY, &root, NULL), 0);
}

static struct croft_digest put_tree(Reapi__Directory *root)
{
	Reapi__Tree message = REAPI__TREE__INIT;
	message.root = root;
	return place_put(place, croft_message_encode(&message.base, place->arena));
}

/* Neither what it holds nor whether it is there. */
static void a_tree_tells_nothing_of_a_directory_that_another_put(void **state)
{
	struct croft_digest secret = place_put_seed(place, 1, 10), first;
	struct croft_digest theirs = place_directory(place, &secret, 1, NULL, 0);
	Reapi__DirectoryNode node = REAPI__DIRECTORY_NODE__INIT, *nodes[] = {&node};
	node.name = (char *)"d";
	node.digest = croft_digest_to_message(&theirs, place->arena);
	Reapi__Directory root = REAPI__DIRECTORY__INIT;
	root.directories = nodes;
	root.n_directories = 1;
	struct croft_digest tree = put_tree(&root);
	struct croft_ref ref = {CROFT_REF_DIRECTORY, theirs};
	assert_ok(croft_store_grant_closure(place->store, ann, &ref, 1, &err), err);
	grant(bob, &tree);
	assert_int_equal(hidden_from(bob, CROFT_REF_TREE, &tree, &first), 1);
	assert_true(croft_digest_equal(&first, &theirs));
	grant(ann, &tree);
	assert_int_equal(hidden_from(ann, CROFT_REF_TREE, &tree, NULL), 0);
}

static void a_trees_files_are_looked_at(void **state)
{
	struct croft_digest file = place_put_seed(place, 1, 10), first;
	Reapi__FileNode node = REAPI__FILE_NODE__INIT, *nodes[] = {&node};
	node.name = (char *)"f";
	node.digest = croft_digest_to_message(&file, place->arena);
	Reapi__Directory root = REAPI__DIRECTORY__INIT;
	root.files = nodes;
	root.n_files = 1;
	struct croft_digest tree = put_tree(&root);
	grant(ann, &tree);
	assert_int_equal(hidden_from(ann, CROFT_REF_TREE, &tree, &first), 1);
	assert_true(croft_digest_equal(&first, &file));
	struct croft_ref ref = {CROFT_REF_TREE, tree};
	assert_ok(croft_store_grant_closure(place->store, ann, &ref, 1, &err), err);
	assert_true(sees(ann, &file));
	assert_int_equal(hidden_from(ann, CROFT_REF_TREE, &tree, NULL), 0);
}

/* That a closure was known whole is not believed any more once something of it went: it may be another's now. */
static void what_was_known_of_a_closure_is_forgotten_with_its_parts(void **state)
{
	struct croft_slice bytes = place_bytes(place, 7, 3000);
	struct croft_digest file = place_put(place, bytes);
	struct croft_digest root = place_directory(place, &file, 1, NULL, 0);
	struct croft_ref ref = {CROFT_REF_DIRECTORY, root};
	assert_ok(croft_store_grant_closure(place->store, ann, &ref, 1, &err), err);
	assert_int_equal(hidden_from(ann, CROFT_REF_DIRECTORY, &root, NULL), 0);
	/* The directory is held, the file goes and comes back as bob's. */
	struct croft_ref alone = {CROFT_REF_BLOB, root};
	struct croft_hold *hold = croft_store_hold(place->store, &alone, 1, &err);
	assert_ok(hold, err);
	evict(&file);
	place_put(place, bytes);
	grant(bob, &file);
	assert_true(sees(ann, &root));
	assert_int_equal(hidden_from(ann, CROFT_REF_DIRECTORY, &root, NULL), 1);
	assert_ok(croft_store_grant_closure(place->store, ann, &ref, 1, &err), err);
	assert_true(sees(ann, &file));
	croft_store_release(hold);
}

static void records_grant_what_they_name(void **state)
{
	struct croft_digest file = place_put_seed(place, 1, 10);
	struct croft_ref ref = {CROFT_REF_BLOB, file};
	struct croft_slice key = croft_slice_str("a key");
	assert_ok(croft_store_record_put(
		place->store, CROFT_RECORD_ACTION, key, croft_slice_str("value"), &ref, 1, 0, &err), err);
	assert_ok(croft_store_grant_record(place->store, ann, CROFT_RECORD_ACTION, key, &err), err);
	assert_true(sees(ann, &file));
	assert_ok(croft_store_grant_record(
		place->store, bob, CROFT_RECORD_ACTION, croft_slice_str("no key"), &err), err);
	assert_false(sees(bob, &file));
}

static void a_value_that_is_no_result_is_its_authors_once_it_is_put(void **state)
{
	struct croft_slice value = place_bytes(place, 1, 100);
	struct croft_digest digest = croft_digest_of(value.data, value.size), action = croft_digest_of("an action", 9);
	assert_ok(croft_action_value_put(place->store, "ann", ann, action.hash, value, &err), err);
	assert_true(sees(ann, &digest)); /* before anybody read it: reading must not need room for a grant */
	assert_false(sees(bob, &digest));
}

static struct croft_store_writer *begin(const struct croft_digest *digest)
{
	struct croft_store_writer *writer = croft_store_write(place->store, digest, &err);
	assert_ok(writer, err);
	return writer;
}

static void putting_what_is_there_writes_nothing_and_is_verified(void **state)
{
	struct croft_slice bytes = place_bytes(place, 1, 5 << 20), wrong = place_bytes(place, 2, 5 << 20);
	struct croft_digest large = place_put(place, bytes);
	uint64_t before = place_stat(place).disk_bytes;
	struct croft_store_writer *writer = begin(&large);
	assert_ok(croft_store_writer_append(writer, bytes.data, bytes.size, &err), err);
	assert_ok(croft_store_writer_commit(writer, &err), err);
	writer = begin(&large);
	assert_ok(croft_store_writer_append(writer, wrong.data, wrong.size, &err), err);
	assert_false(croft_store_writer_commit(writer, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	writer = begin(&large); /* not all of it */
	assert_ok(croft_store_writer_append(writer, bytes.data, bytes.size - 1, &err), err);
	assert_false(croft_store_writer_commit(writer, &err));
	assert_int_equal(place_stat(place).disk_bytes, before);
	assert_true(place_has(place, &large));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_one_was_granted_no_other_sees, set_up, tear_down),
		cmocka_unit_test_setup_teardown(grants_outlast_a_restart_and_go_with_the_blob, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_large_blob_is_granted_with_its_chunks, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_tree_tells_nothing_of_a_directory_that_another_put, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_closure_is_hidden_from_where_it_is_not_known_on, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_trees_files_are_looked_at, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			what_was_known_of_a_closure_is_forgotten_with_its_parts, set_up, tear_down),
		cmocka_unit_test_setup_teardown(records_grant_what_they_name, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_value_that_is_no_result_is_its_authors_once_it_is_put, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			putting_what_is_there_writes_nothing_and_is_verified, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
