/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/digest.h"

#include "proto/base/arena.h"
#include "tests/unit/test.h"

static void the_empty_blob_has_its_known_digest(void **state)
{
	struct croft_digest digest = croft_digest_of("", 0);
	assert_true(croft_digest_equal(&digest, &croft_digest_empty));
}

static void a_digest_reads_back_as_it_was_written(void **state)
{
	struct croft_digest digest = croft_digest_of("abc", 3), again;
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(&digest, '-', text);
	assert_string_equal(
		text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad-3");
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_digest_parse(croft_slice_str(text), &again, &err), err);
	assert_true(croft_digest_equal(&digest, &again));
}

static void bad_digests_are_refused(void **state)
{
	static const char *const bad[] = {"", "abc-3",
		"BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD-3",
		"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad-",
		"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad--3",
		"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad-99999999999999999999"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct croft_digest digest;
		struct croft_error err = CROFT_ERROR_INIT;
		assert_false(croft_digest_parse(croft_slice_str(bad[i]), &digest, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	}
}

static void no_bytes_have_the_empty_hash(void **state)
{
	struct croft_digest digest, some = croft_digest_of("x", 1);
	struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	assert_true(croft_digest_from_message(
		croft_digest_to_message(&croft_digest_empty, arena), "it", &digest, &err));
	some.size_bytes = 0;
	assert_false(croft_digest_from_message(croft_digest_to_message(&some, arena), "it", &digest, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	croft_arena_destroy(arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_bytes_have_the_empty_hash),
		cmocka_unit_test(the_empty_blob_has_its_known_digest),
		cmocka_unit_test(a_digest_reads_back_as_it_was_written),
		cmocka_unit_test(bad_digests_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
