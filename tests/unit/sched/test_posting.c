/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Postings against an array of levels, in each of their forms and on the way from one to another. */
#include "tests/unit/test.h"

#include "sched/placement/posting.h"

enum { AGENTS = 2048 };

static uint64_t state = 1;

static uint32_t below(uint32_t limit)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((state >> 33) % limit);
}

static void same_levels(const struct posting *posting, const uint8_t *levels)
{
	static uint32_t all[AGENTS];
	static uint8_t got[AGENTS];
	uint32_t holders = 0;
	for (uint32_t i = 0; i < AGENTS; i++) {
		all[i] = i;
		holders += levels[i] > 0;
		assert_int_equal(posting_get(posting, AGENTS, i), levels[i]);
	}
	posting_get_many(posting, AGENTS, all, AGENTS, got);
	assert_memory_equal(got, levels, AGENTS);
	assert_int_equal(posting->count, holders);
}

/* A walk over all places sees each holder once, in whatever portions it is asked for. */
static void walks_over(const struct posting *posting, const uint8_t *levels)
{
	bool seen[AGENTS] = {false};
	struct posting_walk walk;
	uint32_t some[7];
	size_t count, found = 0;
	posting_walk_begin(posting, AGENTS, below(UINT32_MAX), AGENTS, &walk);
	while ((count = posting_walk(posting, AGENTS, &walk, some, 1 + below(7))) > 0) {
		for (size_t i = 0; i < count; i++) {
			assert_true(levels[some[i]] > 0 && !seen[some[i]]);
			seen[some[i]] = true;
		}
		found += count;
	}
	assert_int_equal(found, posting->count);
}

/* Holders come among the first `width` agents, then go again; small widths fill groups to the brim. */
static void comes_and_goes(uint32_t width, uint32_t most)
{
	struct posting posting = {0};
	uint8_t levels[AGENTS] = {0};
	for (uint32_t step = 0; step < 2 * most; step++) {
		uint32_t agent = below(width);
		uint8_t level = step < most || !below(4) ? (uint8_t)(1 + below(255)) : 0;
		while (!level && posting.count > 0 && !levels[agent])
			agent = (agent + 1) % width;
		assert_int_equal(posting_set(&posting, AGENTS, agent, level), levels[agent]);
		levels[agent] = level;
		if (step % 16 == 0) {
			same_levels(&posting, levels);
			walks_over(&posting, levels);
		}
	}
	posting_finish(&posting);
}

static void a_list_knows_its_holders(void **unused)
{
	comes_and_goes(AGENTS, 32);
}

static void groups_know_their_holders(void **unused)
{
	comes_and_goes(AGENTS, 400);
}

static void long_groups_know_their_holders(void **unused)
{
	comes_and_goes(200, 400);
}

static void a_dense_one_knows_its_holders(void **unused)
{
	comes_and_goes(AGENTS, 4000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_list_knows_its_holders),
		cmocka_unit_test(groups_know_their_holders),
		cmocka_unit_test(long_groups_know_their_holders),
		cmocka_unit_test(a_dense_one_knows_its_holders),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
