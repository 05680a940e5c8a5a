/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/digest_map.h"
#include "tests/unit/test.h"

enum { MANY = 5000 };

static struct croft_digest number(uint32_t value)
{
	return croft_digest_of(&value, sizeof(value));
}

static void a_value_is_found_again_among_many(void **state)
{
	struct croft_digest_map *map = croft_digest_map_create();
	static int values[MANY];
	for (uint32_t i = 0; i < MANY; i++) {
		struct croft_digest digest = number(i);
		void **place = croft_digest_map_at(map, &digest);
		assert_null(*place);
		*place = &values[i];
	}
	assert_int_equal(croft_digest_map_count(map), MANY);
	for (uint32_t i = 0; i < MANY; i++) {
		struct croft_digest digest = number(i);
		assert_ptr_equal(croft_digest_map_get(map, &digest), &values[i]);
	}
	struct croft_digest other = number(MANY);
	assert_null(croft_digest_map_get(map, &other));
	croft_digest_map_destroy(map);
}

static void removing_half_leaves_the_other_half(void **state)
{
	struct croft_digest_map *map = croft_digest_map_create();
	static int values[MANY];
	for (uint32_t i = 0; i < MANY; i++) {
		struct croft_digest digest = number(i);
		*croft_digest_map_at(map, &digest) = &values[i];
	}
	for (uint32_t i = 0; i < MANY; i += 2) {
		struct croft_digest digest = number(i);
		croft_digest_map_remove(map, &digest);
		croft_digest_map_remove(map, &digest);
	}
	assert_int_equal(croft_digest_map_count(map), MANY / 2);
	for (uint32_t i = 0; i < MANY; i++) {
		struct croft_digest digest = number(i);
		assert_ptr_equal(croft_digest_map_get(map, &digest), i % 2 ? &values[i] : NULL);
	}
	size_t position = 0, seen = 0;
	while (croft_digest_map_next(map, &position))
		seen++;
	assert_int_equal(seen, MANY / 2);
	croft_digest_map_destroy(map);
}

static void the_size_is_part_of_the_key(void **state)
{
	struct croft_digest_map *map = croft_digest_map_create();
	struct croft_digest digest = number(1), other = digest;
	other.size_bytes++;
	*croft_digest_map_at(map, &digest) = &digest;
	assert_null(croft_digest_map_get(map, &other));
	croft_digest_map_destroy(map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_value_is_found_again_among_many),
		cmocka_unit_test(removing_half_leaves_the_other_half),
		cmocka_unit_test(the_size_is_part_of_the_key),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
