/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/services/resource.h"
#include "tests/unit/test.h"

#define HASH "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void names_of_blobs_are_read(void **state)
{
	static const struct {
		const char *name, *instance;
		bool zstd;
	} good[] = {
		{"blobs/" HASH "/3", "", false},
		{"main/blobs/" HASH "/3", "main", false},
		{"a/b/c/blobs/" HASH "/3", "a/b/c", false},
		{"blobs/sha256/" HASH "/3", "", false},
		{"main/compressed-blobs/zstd/" HASH "/3", "main", true},
		{"compressed-blobs/zstd/sha256/" HASH "/3", "", true},
	};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct resource resource;
		struct croft_error err = CROFT_ERROR_INIT;
		assert_ok(resource_parse_read(croft_slice_str(good[i].name), &resource, &err), err);
		struct croft_digest digest = croft_digest_of("abc", 3);
		assert_true(croft_digest_equal(&resource.digest, &digest));
		assert_true(croft_slice_equal(resource.instance, croft_slice_str(good[i].instance)));
		assert_int_equal(resource.zstd, good[i].zstd);
	}
}

static void names_of_uploads_are_read_with_anything_behind(void **state)
{
	struct resource resource;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(resource_parse_write(
		croft_slice_str("x/y/uploads/some-uuid/blobs/" HASH "/3/blobs/uploads/name.c"), &resource,
		&err), err);
	assert_true(croft_slice_equal(resource.instance, croft_slice_str("x/y")));
	assert_true(croft_slice_equal(resource.uuid, croft_slice_str("some-uuid")));
	assert_int_equal(resource.digest.size_bytes, 3);
}

static void names_out_of_the_grammar_are_refused(void **state)
{
	static const char *const bad[] = {"", "/", "blobs", "blobs/", "blobs/" HASH, "blobs/" HASH "/",
		"blobs/" HASH "/-3", "blobs/" HASH "/3x", "blobs/" HASH "/99999999999999999999",
		"blobs/" HASH "/3/more", "blobs/blake3/" HASH "/3", "compressed-blobs/" HASH "/3",
		"compressed-blobs/deflate/" HASH "/3", "blobs/" HASH "/0", "blobs/" EMPTY "/1",
		"uploads/u/blobs/" HASH "/3/"};
	for (size_t i = 0; i + 1 < sizeof(bad) / sizeof(bad[0]); i++) {
		struct resource resource;
		struct croft_error err = CROFT_ERROR_INIT;
		assert_false(resource_parse_read(croft_slice_str(bad[i]), &resource, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
		err = CROFT_ERROR_INIT;
		assert_false(resource_parse_write(croft_slice_str(bad[i]), &resource, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	}
}

static void an_upload_needs_a_uuid(void **state)
{
	static const char *const bad[] = {"uploads/blobs/" HASH "/3", "uploads//blobs/" HASH "/3",
		"uploads/u/" HASH "/3"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct resource resource;
		struct croft_error err = CROFT_ERROR_INIT;
		assert_false(resource_parse_write(croft_slice_str(bad[i]), &resource, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	}
}

static void logs_are_told_from_blobs(void **state)
{
	assert_true(resource_is_log(croft_slice_str("operations/7/stdout")));
	assert_true(resource_is_log(croft_slice_str("main/operations/7/stderr")));
	assert_false(resource_is_log(croft_slice_str("blobs/" HASH "/3")));
	assert_false(resource_is_log(croft_slice_str("")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_of_blobs_are_read),
		cmocka_unit_test(names_of_uploads_are_read_with_anything_behind),
		cmocka_unit_test(names_out_of_the_grammar_are_refused),
		cmocka_unit_test(an_upload_needs_a_uuid),
		cmocka_unit_test(logs_are_told_from_blobs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
