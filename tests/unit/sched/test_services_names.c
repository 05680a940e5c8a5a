/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Listing names: over gRPC on the loopback. */
#include "build/bazel/remote/asset/v1/remote_asset.pb-c.h"
#include "croft/v1/farm.pb-c.h"
#include "tests/unit/sched/loopback_calls.h"

/* A Directory with one symlink of that name. */
static struct croft_digest put_directory(char name)
{
	uint8_t bytes[] = {0x1a, 6, 0x0a, 1, (uint8_t)name, 0x12, 1, 't'};
	return loopback_put(&loopback, bytes, sizeof(bytes));
}

static void push(const char *instance, const char *uri, const struct croft_digest *root,
	Google__Protobuf__Timestamp *expires, Asset__Qualifier *qualifier)
{
	Asset__PushDirectoryRequest request = ASSET__PUSH_DIRECTORY_REQUEST__INIT;
	request.instance_name = (char *)instance;
	request.uris = (char **)&uri;
	request.n_uris = 1;
	request.root_directory_digest = croft_digest_to_message(root, loopback.arena);
	request.expire_at = expires;
	request.qualifiers = &qualifier;
	request.n_qualifiers = qualifier ? 1 : 0;
	assert_ok(call("/build.bazel.remote.asset.v1.Push/PushDirectory", &request.base,
		&asset__push_directory_response__descriptor), err);
}

static const Farm__ListNamesResponse *list(const char *instance, const char *prefix, const char *after,
	uint32_t size)
{
	Farm__ListNamesRequest request = FARM__LIST_NAMES_REQUEST__INIT;
	request.instance_name = (char *)instance;
	request.prefix = (char *)prefix;
	request.after = (char *)after;
	request.page_size = size;
	const Farm__ListNamesResponse *page =
		call("/croft.v1.Farm/ListNames", &request.base, &farm__list_names_response__descriptor);
	assert_ok(page, err);
	return page;
}

/* "a b c" */
static const char *all(const char *instance, const char *prefix)
{
	const Farm__ListNamesResponse *page = list(instance, prefix, "", 0);
	const char *text = "";
	for (size_t i = 0; i < page->n_names; i++)
		text = croft_arena_printf(loopback.arena, "%s%s%s", text, i ? " " : "", page->names[i]->uri);
	assert_string_equal(page->next_after, "");
	return text;
}

static void names_are_listed_in_order_with_their_trees(void **state)
{
	struct croft_digest one = put_directory('1'), two = put_directory('2');
	int64_t before_ns = croft_unix_ns();
	push("", "urn:b", &one, NULL, NULL);
	push("", "urn:a", &two, NULL, NULL);
	push("", "other:c", &two, NULL, NULL);
	push("", "urn:empty", &croft_digest_empty, NULL, NULL);
	assert_string_equal(all("", "urn:"), "urn:a urn:b urn:empty");
	assert_string_equal(all("", ""), "other:c urn:a urn:b urn:empty");
	const Farm__ListNamesResponse *page = list("", "urn:a", "", 0);
	assert_string_equal(page->names[0]->root_directory_digest->hash,
		croft_digest_to_message(&two, loopback.arena)->hash);
	assert_in_range(page->names[0]->pushed_unix_ns, before_ns, croft_unix_ns());
	/* A name moves: it is there once. */
	push("", "urn:a", &one, NULL, NULL);
	page = list("", "urn:a", "", 0);
	assert_int_equal(page->n_names, 1);
	assert_string_equal(page->names[0]->root_directory_digest->hash,
		croft_digest_to_message(&one, loopback.arena)->hash);
}

static void only_names_of_the_instance_that_stand_for_one_tree_are_listed(void **state)
{
	struct croft_digest tree = put_directory('t');
	Google__Protobuf__Timestamp past = GOOGLE__PROTOBUF__TIMESTAMP__INIT, later = past;
	past.seconds = 1;
	later.seconds = croft_unix_ns() / 1000000000 + 1000;
	Asset__Qualifier qualifier = ASSET__QUALIFIER__INIT;
	qualifier.name = "version";
	qualifier.value = "2";
	push("", "urn:mine", &tree, &later, NULL);
	push("", "urn:gone", &tree, &past, NULL);
	push("", "urn:qualified", &tree, NULL, &qualifier);
	push("team", "urn:theirs", &tree, NULL, NULL);
	char *uri = "urn:blob";
	Asset__PushBlobRequest blob = ASSET__PUSH_BLOB_REQUEST__INIT;
	blob.uris = &uri;
	blob.n_uris = 1;
	blob.blob_digest = croft_digest_to_message(&tree, loopback.arena);
	assert_ok(call("/build.bazel.remote.asset.v1.Push/PushBlob", &blob.base,
		&asset__push_blob_response__descriptor), err);
	assert_string_equal(all("", ""), "urn:mine");
	assert_string_equal(all("team", ""), "urn:theirs");
	assert_string_equal(all("tea", ""), "");
	assert_string_equal(all("other", ""), "");
}

static void pages_show_each_name_once(void **state)
{
	enum { NAMES = 25, PAGE = 4 };
	struct croft_digest tree = put_directory('t');
	for (unsigned i = 0; i < NAMES; i++)
		push("", croft_arena_printf(loopback.arena, "urn:%02u", i * 7 % NAMES), &tree, NULL, NULL);
	const char *after = "";
	unsigned seen = 0;
	do {
		const Farm__ListNamesResponse *page = list("", "urn:", after, PAGE);
		assert_in_range(page->n_names, 1, PAGE);
		for (size_t i = 0; i < page->n_names; i++)
			assert_string_equal(page->names[i]->uri, croft_arena_printf(loopback.arena, "urn:%02u", seen++));
		after = page->next_after;
	} while (*after);
	assert_int_equal(seen, NAMES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(names_are_listed_in_order_with_their_trees, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			only_names_of_the_instance_that_stand_for_one_tree_are_listed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(pages_show_each_name_once, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
