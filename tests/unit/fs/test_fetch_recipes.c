/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Of what chunks a large blob is made. */
#include "tests/unit/fs/fetch_fixture.h"

struct told {
	pthread_mutex_t lock; /* guards: all below */
	pthread_cond_t change;
	unsigned times;
	struct croft_digest chunks[64];
	size_t count;
};

static void recipe_came(void *user, const struct croft_digest *digest,
	const struct croft_digest *chunks, size_t count)
{
	struct told *told = user;
	CROFT_LOCKED(&told->lock);
	assert_true(count <= 64);
	if (count > 0)
		memcpy(told->chunks, chunks, count * sizeof(*chunks));
	told->count = count;
	told->times++;
	pthread_cond_signal(&told->change);
}

static size_t ask_recipe(struct croft_fetcher *fetcher, const struct croft_digest *digest,
	struct told *told)
{
	*told = (struct told){PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};
	croft_fetch_recipe(fetcher, digest, recipe_came, told);
	CROFT_LOCKED(&told->lock);
	while (told->times == 0)
		pthread_cond_wait(&told->change, &told->lock);
	return told->count;
}

static void tells_of_what_chunks_a_blob_is_made(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct blob large = farm_blob(fixture, 9000000, 80000), small = farm_blob(fixture, 100000, 80001);
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
	struct told told;
	size_t count = ask_recipe(fetcher, &large.digest, &told);
	assert_in_range(count, 4, 64);
	for (size_t i = 0; i < count; i++)
		assert_ok(croft_fetch_wait(fetcher, &told.chunks[i], NULL, &err), err);
	assert_ok(croft_store_put_recipe(fixture->local, &large.digest, told.chunks, count, &err), err);
	assert_local(fixture, &large);
	assert_int_equal(ask_recipe(fetcher, &small.digest, &told), 0);
	struct blob nowhere = make_blob(5000000, 80002);
	assert_int_equal(ask_recipe(fetcher, &nowhere.digest, &told), 0);
	croft_fetcher_stop(fetcher);
	free_blobs(&large, 1);
	free_blobs(&small, 1);
	free_blobs(&nowhere, 1);
}

/* Recipes that cannot be, one a connection. */
static void misinform(struct dialog *dialog)
{
#define ONE "27042f4e6eca7d0b2a7ee4026df2ecfa51d3339e6d122aa099118ecd8563bad9"
	static const char *const recipes[] = {
		"", "\n", "nonsense\n", ONE "-1000\n", ONE "-1000000\n", ONE "-5000000\n", ONE "-0\n",
		ONE "-2000000\n" ONE "-2000000\n" ONE "-999999\n",
		ONE "-2000000\n" ONE "-2000000\n" ONE "-1000000",
		ONE "-2000000\n" ONE "-2000000\n" ONE "-1000001\n",
		ONE "-18446744073709551615\n" ONE "-5000001\n",
	};
	if (!hear(dialog))
		return;
	const char *text = recipes[(size_t)dialog->number % (sizeof(recipes) / sizeof(recipes[0]))];
	say_head(dialog, 200, strlen(text), "Connection: close\r\n");
	say_text(dialog, text);
	shutdown(dialog->fd, SHUT_WR);
	say_nothing(dialog);
}

static void believes_no_recipe_that_cannot_be(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(5000000, 81000);
	void (*const talks[])(struct dialog *) = {misinform, babble, hang_up};
	for (size_t i = 0; i < 3; i++) {
		struct source *source = start_source(talks[i], &blob, 1);
		struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 1500);
		struct told told;
		for (int times = 0; times < 13; times++)
			assert_int_equal(ask_recipe(fetcher, &blob.digest, &told), 0);
		croft_fetcher_stop(fetcher);
		stop_source(source);
	}
	free_blobs(&blob, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tells_of_what_chunks_a_blob_is_made),
		cmocka_unit_test(believes_no_recipe_that_cannot_be),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
