/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Of what chunks a large blob is made. */
#include "tests/unit/fs/fetch_fixture.h"

struct told {
	pthread_mutex_t lock; /* guards: all below */
	pthread_cond_t change;
	unsigned times;
	struct croft_digest chunks[64];
	size_t count;
	char piece[CROFT_RECIPE_PIECE];
	size_t piece_size;
	uint64_t moved_bytes;
	bool failed; /* nobody answered in time */
};

static void recipe_came(void *user, const struct croft_digest *digest,
	const struct croft_recipe *recipe)
{
	struct told *told = user;
	CROFT_LOCKED(&told->lock);
	assert_true(recipe->count <= 64);
	if (recipe->count > 0)
		memcpy(told->chunks, recipe->chunks, recipe->count * sizeof(*recipe->chunks));
	told->count = recipe->count;
	if (recipe->piece.size > 0)
		memcpy(told->piece, recipe->piece.data, recipe->piece.size);
	told->piece_size = recipe->piece.size;
	told->moved_bytes = recipe->moved_bytes;
	told->failed = recipe->err != NULL;
	told->times++;
	pthread_cond_signal(&told->change);
}

static size_t ask_piece(struct croft_fetcher *fetcher, const struct croft_digest *digest,
	uint64_t offset, size_t size, struct told *told)
{
	*told = (struct told){PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};
	croft_fetch_recipe(fetcher, &(struct croft_recipe_request){.digest = *digest,
		.offset = offset, .size = size, .done = recipe_came, .user = told});
	CROFT_LOCKED(&told->lock);
	while (told->times == 0)
		pthread_cond_wait(&told->change, &told->lock);
	return told->count;
}

static size_t ask_recipe(struct croft_fetcher *fetcher, const struct croft_digest *digest,
	struct told *told)
{
	return ask_piece(fetcher, digest, 0, 0, told);
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

static void brings_the_bytes_that_are_wanted_with_the_recipe(void **state)
{
	struct fixture *fixture = *state;
	struct blob large = farm_blob(fixture, 9000000, 82000);
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
	static const struct {
		uint64_t offset;
		size_t size;
		bool comes;
	} pieces[] = {{0, 4096, true}, {8999990, 10, true}, {500000, CROFT_RECIPE_PIECE, true},
		{0, 0, false}, {0, CROFT_RECIPE_PIECE + 1, false}, {8999990, 11, false}};
	struct told told;
	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		size_t size = pieces[i].comes ? pieces[i].size : 0;
		size_t count = ask_piece(fetcher, &large.digest, pieces[i].offset, pieces[i].size, &told);
		assert_in_range(count, 4, 64);
		assert_int_equal(told.piece_size, size);
		assert_memory_equal(told.piece, large.data + pieces[i].offset, size);
		assert_in_range(told.moved_bytes, size + count * 70, size + count * 72);
	}
	struct croft_fetch_stat stat;
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.blobs, 0);
	croft_fetcher_stop(fetcher);
	free_blobs(&large, 1);
}

/* A recipe of one chunk, with a piece that is not as its digest says; or, as before there were pieces, without. */
static void answer_as_of_old_or_wrong(struct dialog *dialog)
{
	const struct blob *blob = dialog->source->blobs;
	char fields[160], digest[CROFT_DIGEST_TEXT], text[CROFT_DIGEST_TEXT + 1 + 10];
	for (int i = 0; hear(dialog); i++) {
		bool wrong = i % 2;
		croft_digest_format(&blob->digest, '-', digest);
		size_t size = (size_t)snprintf(text, sizeof(text), "%s\n", digest);
		struct croft_digest piece = croft_digest_of(blob->data, 10);
		croft_digest_format(&piece, '-', digest);
		snprintf(fields, sizeof(fields), "Croft-Piece-Digest: %s\r\n", digest);
		memcpy(text + size, blob->data + 1, 10);
		say_head(dialog, 200, size + (wrong ? 10 : 0), wrong ? fields : "");
		say(dialog, text, size + (wrong ? 10 : 0));
	}
}

static void a_piece_that_is_wrong_or_missing_leaves_the_recipe(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(1000000, 83000);
	struct source *source = start_source(answer_as_of_old_or_wrong, &blob, 1);
	struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 0);
	struct told told;
	for (int times = 0; times < 4; times++) {
		assert_int_equal(ask_piece(fetcher, &blob.digest, 0, 10, &told), 1);
		assert_int_equal(told.piece_size, 0);
	}
	/* On one connection. */
	assert_int_equal(__atomic_load_n(&source->connections, __ATOMIC_RELAXED), 1);
	croft_fetcher_stop(fetcher);
	stop_source(source);
	free_blobs(&blob, 1);
}

/* The first connection ends when it has been asked. */
static void hang_up_once(struct dialog *dialog)
{
	if (dialog->number == 0)
		hang_up(dialog);
	else
		answer_as_of_old_or_wrong(dialog);
}

static void a_recipe_is_asked_for_again_when_its_connection_ends(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(1000000, 84000);
	struct source *source = start_source(hang_up_once, &blob, 1);
	struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 0);
	struct told told;
	assert_int_equal(ask_recipe(fetcher, &blob.digest, &told), 1);
	croft_fetcher_stop(fetcher);
	stop_source(source);
	free_blobs(&blob, 1);
}

static void believes_no_recipe_that_cannot_be(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(5000000, 81000);
	void (*const talks[])(struct dialog *) = {misinform, babble, hang_up};
	for (size_t i = 0; i < 3; i++) {
		struct source *source = start_source(talks[i], &blob, 1);
		/* Who breaks off is asked again until the deadline. */
		struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, i == 0 ? 1500 : 200);
		struct told told;
		for (int times = 0; times < (i == 0 ? 13 : 3); times++) {
			assert_int_equal(ask_recipe(fetcher, &blob.digest, &told), 0);
			assert_int_equal(told.failed, talks[i] == hang_up);
		}
		croft_fetcher_stop(fetcher);
		stop_source(source);
	}
	free_blobs(&blob, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tells_of_what_chunks_a_blob_is_made),
		cmocka_unit_test(brings_the_bytes_that_are_wanted_with_the_recipe),
		cmocka_unit_test(a_piece_that_is_wrong_or_missing_leaves_the_recipe),
		cmocka_unit_test(a_recipe_is_asked_for_again_when_its_connection_ends),
		cmocka_unit_test(believes_no_recipe_that_cannot_be),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
