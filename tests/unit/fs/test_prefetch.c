/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fetching ahead: in order, a bounded part at a time, in the background, large files in parts. */
#include "tests/unit/fs/mount_fixture.h"

#include "fs/daemon/internal.h"

#include <sys/mman.h>

enum { GROUP = 4711 };

/* Nothing here stages or stands in. */
bool croft_fetch_wait(struct croft_fetcher *fetcher, const struct croft_digest *digest,
	uint64_t *moved_bytes, struct croft_error *err)
{
	abort();
}

struct world {
	struct fixture fixture; /* store and farm; nothing is mounted */
	struct prefetcher *prefetcher;
	struct croft_prefetch_wish wishes[600];
	size_t count;
};

static int make_world(void **state)
{
	struct world *world = croft_zalloc(sizeof(*world));
	void *fixture;
	if (set_up(&fixture) != 0)
		return -1;
	world->fixture = *(struct fixture *)fixture;
	free(fixture);
	world->prefetcher = prefetcher_create(world->fixture.store, world->fixture.farm, NULL, NULL);
	*state = world;
	return 0;
}

static int end_world(void **state)
{
	struct world *world = *state;
	struct fixture *fixture = croft_alloc(sizeof(*fixture));
	*fixture = world->fixture;
	void *place = fixture;
	int result = tear_down(&place);
	prefetcher_destroy(world->prefetcher);
	free(world);
	return result;
}

static struct croft_digest wish(struct world *world, unsigned seed, size_t size, uint64_t offset,
	uint64_t length)
{
	char *data = croft_alloc(size);
	fill_noise(data, size, seed);
	struct croft_digest digest = put_bytes(&world->fixture, false, data, size);
	free(data);
	world->wishes[world->count++] = (struct croft_prefetch_wish){digest, offset, length};
	return digest;
}

static int file_of(const void *data, size_t size)
{
	int fd = memfd_create("list", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_true(croft_pwrite_all(fd, data, size, 0, "a list", NULL));
	return fd;
}

static void begin(struct world *world)
{
	struct croft_error err = CROFT_ERROR_INIT;
	CROFT_CLEANUP_FD int fd = file_of(world->wishes, world->count * sizeof(*world->wishes));
	assert_ok(prefetch_begin(world->prefetcher, GROUP, fd, &err), err);
}

static struct croft_prefetch_account end(struct world *world)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_prefetch_account account = {0};
	size_t ranges;
	CROFT_CLEANUP_FD int fd = file_of("", 0);
	assert_ok(prefetch_end(world->prefetcher, GROUP, &croft_digest_empty, fd, 0, &account, &ranges,
		&err), err);
	assert_int_equal(ranges, 0);
	return account;
}

static bool is_here(struct world *world, const struct croft_digest *digest)
{
	bool missing = true;
	assert_true(croft_store_find_missing(world->fixture.store, digest, 1, &missing, NULL));
	return !missing;
}

static void await_here(struct world *world, const struct croft_digest *digest)
{
	for (int tries = 0; !is_here(world, digest); tries++) {
		assert_true(tries < 10000);
		usleep(1000);
	}
	farm_settle(world->fixture.farm); /* and it is in the account */
}

static void a_bounded_part_is_asked_for_at_a_time_and_in_the_background(void **state)
{
	struct world *world = *state;
	struct croft_fetcher *farm = world->fixture.farm;
	for (unsigned i = 0; i < 600; i++)
		wish(world, i, 100 + i, 0, 0);
	farm_hold(farm, true);
	begin(world);
	assert_int_equal(farm_asked(farm), 64);
	for (size_t i = 0; i < 64; i++) {
		assert_true(farm->pending[i].background);
		assert_true(croft_digest_equal(&farm->pending[i].digest, &world->wishes[i].digest));
	}
	farm_hold(farm, false);
	await_here(world, &world->wishes[599].digest);
	assert_int_equal(farm_asked(farm), 600);
	assert_int_equal(end(world).wasted_bytes, 600 * 100 + 599 * 300); /* nothing was opened */
}

static void few_large_ones_are_as_much(void **state)
{
	struct world *world = *state;
	struct croft_fetcher *farm = world->fixture.farm;
	for (unsigned i = 0; i < 8; i++)
		wish(world, i, 3 << 20, 0, 0);
	farm_hold(farm, true);
	begin(world);
	assert_int_equal(farm_asked(farm), 3); /* the first 8 MiB */
	farm_hold(farm, false);
	await_here(world, &world->wishes[7].digest);
	end(world);
}

static void it_stops_when_the_job_is_over(void **state)
{
	struct world *world = *state;
	struct croft_fetcher *farm = world->fixture.farm;
	for (unsigned i = 0; i < 200; i++)
		wish(world, i, 100, 0, 0);
	farm_hold(farm, true);
	begin(world);
	struct croft_prefetch_account account = end(world);
	assert_int_equal(account.files, 0);
	farm_hold(farm, false);
	await_here(world, &world->wishes[63].digest);
	assert_int_equal(farm_asked(farm), 64);
	assert_false(is_here(world, &world->wishes[64].digest));
}

static void of_a_large_file_the_wished_part_comes(void **state)
{
	struct world *world = *state;
	struct croft_fetcher *farm = world->fixture.farm;
	farm->splits = true;
	wish(world, 1, 1000, 0, 0);
	struct croft_digest large = wish(world, 2, 12 << 20, 5 << 20, 2 << 20);
	struct croft_digest last = wish(world, 3, 2000, 0, 0);
	begin(world);
	await_here(world, &last);
	assert_false(is_here(world, &large));
	struct croft_prefetch_account account = end(world);
	assert_int_equal(account.files, 3);
	/* Whole chunks, of at most 2 MiB each, one of which may stick out at either end. */
	assert_in_range(account.bytes, (2 << 20) + 3000, (6 << 20) + 3000);
}

static void all_of_a_large_file_comes_in_parts_or_whole(void **state)
{
	struct world *world = *state;
	struct croft_fetcher *farm = world->fixture.farm;
	struct croft_digest whole = wish(world, 1, 5 << 20, 0, 0);
	begin(world);
	await_here(world, &whole); /* it is kept in one piece */
	assert_int_equal(farm_asked(farm), 1);
	assert_int_equal(end(world).bytes, 5 << 20);
	farm->splits = true;
	world->count = 0;
	wish(world, 2, 12 << 20, 0, 0);
	struct croft_digest last = wish(world, 3, 2000, 0, 0);
	begin(world);
	await_here(world, &last);
	assert_int_equal(end(world).bytes, (12 << 20) + 2000);
}

#define WITH_WORLD(test) cmocka_unit_test_setup_teardown(test, make_world, end_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_WORLD(a_bounded_part_is_asked_for_at_a_time_and_in_the_background),
		WITH_WORLD(few_large_ones_are_as_much),
		WITH_WORLD(it_stops_when_the_job_is_over),
		WITH_WORLD(of_a_large_file_the_wished_part_comes),
		WITH_WORLD(all_of_a_large_file_comes_in_parts_or_whole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
