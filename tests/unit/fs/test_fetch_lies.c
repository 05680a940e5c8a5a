/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources that send wrong bytes, nonsense, or know less than a plane does. */
#include "tests/unit/fs/fetch_fixture.h"

static void drops_a_peer_that_lies(void **state)
{
	struct fixture *fixture = *state;
	struct blob blobs[3];
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_fetch_stat stat;
	for (uint32_t i = 0; i < 3; i++)
		blobs[i] = farm_blob(fixture, 400000, 60000 + i);
	struct source *liar = start_source(lie, blobs, 3);
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 0);
	croft_fetcher_set_peers(fetcher, (const char *const[]){liar->name}, 1);
	for (size_t i = 0; i < 3; i++) {
		assert_ok(croft_fetch_wait(fetcher, &blobs[i].digest, NULL, &err), err);
		assert_local(fixture, &blobs[i]);
	}
	croft_fetch_stat(fetcher, &stat);
	assert_int_equal(stat.bad_bytes, 400000);
	assert_int_equal(__atomic_load_n(&liar->requests, __ATOMIC_RELAXED), 1);
	/* Being listed again does not make it honest. */
	croft_fetcher_set_peers(fetcher, NULL, 0);
	croft_fetcher_set_peers(fetcher, (const char *const[]){liar->name}, 1);
	struct blob another = farm_blob(fixture, 300000, 60100);
	assert_ok(croft_fetch_wait(fetcher, &another.digest, NULL, &err), err);
	assert_int_equal(__atomic_load_n(&liar->requests, __ATOMIC_RELAXED), 1);
	croft_fetcher_stop(fetcher);
	stop_source(liar);
	free(another.data);
	free_blobs(blobs, 3);
}

static void never_stores_what_a_lying_origin_sends(void **state)
{
	struct fixture *fixture = *state;
	struct blob blobs[2] = {make_blob(1000, 61000), make_blob(100000, 61001)};
	struct croft_error err = CROFT_ERROR_INIT;
	struct source *liar = start_source(lie, blobs, 2);
	struct croft_fetcher *fetcher = start_fetcher(fixture, liar->name, 0);
	for (size_t i = 0; i < 2; i++) {
		assert_false(croft_fetch_wait(fetcher, &blobs[i].digest, NULL, &err));
		assert_int_equal(err.code, CROFT_DATA_LOSS);
		assert_non_null(strstr(err.message, liar->name));
		assert_false(is_local(fixture, &blobs[i]));
	}
	croft_fetcher_stop(fetcher);
	stop_source(liar);
	free_blobs(blobs, 2);
}

/* The first half honest, the second wrong, wherever one begins. */
static void lie_in_the_end(struct dialog *dialog)
{
	while (hear(dialog)) {
		const struct blob *blob = asked_for(dialog);
		size_t first = first_of_range(dialog), size = blob->size - first;
		char fields[128], *wrong = croft_alloc(blob->size);
		snprintf(fields, sizeof(fields), "Content-Range: bytes %zu-%zu/%zu\r\n", first,
			blob->size - 1, blob->size);
		memcpy(wrong, blob->data, blob->size);
		wrong[blob->size - 1] ^= 1;
		say_head(dialog, first ? 206 : 200, size, first ? fields : "");
		say(dialog, wrong + first, size);
		free(wrong);
	}
}

static void finds_the_liar_among_several_givers(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = farm_blob(fixture, 800000, 64000);
	struct croft_error err = CROFT_ERROR_INIT;
	struct source *half = start_source(stall, &blob, 1);
	struct source *liar = start_source(lie_in_the_end, &blob, 1);
	struct croft_fetcher *fetcher = start_fetcher(fixture, fixture->origin, 1000);
	croft_fetcher_set_peers(fetcher, (const char *const[]){half->name, liar->name}, 2);
	assert_ok(croft_fetch_wait(fetcher, &blob.digest, NULL, &err), err);
	assert_local(fixture, &blob);
	croft_fetcher_stop(fetcher);
	stop_source(half);
	stop_source(liar);
	free(blob.data);
}

/* Knows GET only, and closes after each answer. */
static void serve_plainly(struct dialog *dialog)
{
	if (!hear(dialog))
		return;
	const struct blob *blob = asked_for(dialog);
	if (strncmp(dialog->head, "GET ", 4) != 0 || !blob) {
		say_head(dialog, 405, 0, "Connection: close\r\n");
	} else {
		/* No length: to the end of the connection. */
		say_text(dialog, "HTTP/1.0 200 OK\r\nServer: old\r\n\r\n");
		say(dialog, blob->data, blob->size);
	}
	shutdown(dialog->fd, SHUT_WR);
	say_nothing(dialog);
}

static void does_without_batches_where_there_are_none(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 20 };
	struct blob blobs[COUNT];
	struct crowd crowd = CROWD;
	for (uint32_t i = 0; i < COUNT; i++)
		blobs[i] = make_blob(i == 7 ? 200000 : 10 + i, 65000 + i);
	struct source *source = start_source(serve_plainly, blobs, COUNT);
	struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 0);
	ask(fetcher, &crowd, blobs, COUNT, false);
	wait_for(&crowd, COUNT);
	assert_int_equal(crowd.failed, 0);
	for (size_t i = 0; i < COUNT; i++)
		assert_local(fixture, &blobs[i]);
	croft_fetcher_stop(fetcher);
	stop_source(source);
	free_blobs(blobs, COUNT);
}

static void survives_nonsense(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 40 };
	struct blob blobs[COUNT];
	struct crowd crowd = CROWD;
	for (uint32_t i = 0; i < COUNT; i++)
		blobs[i] = make_blob(i % 3 ? 1000 : 100000, 66000 + i);
	struct source *source = start_source(babble, blobs, COUNT);
	struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 1500);
	for (size_t i = 0; i < COUNT; i++)
		ask(fetcher, &crowd, &blobs[i], 1, false);
	wait_for(&crowd, COUNT);
	assert_int_equal(crowd.failed, COUNT);
	for (size_t i = 0; i < COUNT; i++)
		assert_false(is_local(fixture, &blobs[i]));
	croft_fetcher_stop(fetcher);
	stop_source(source);
	free_blobs(blobs, COUNT);
}

/* Batches in which the blobs are mixed up. */
static void mix_up(struct dialog *dialog)
{
	while (hear(dialog)) {
		if (strncmp(dialog->head, "POST ", 5) != 0) {
			say_head(dialog, 404, 0, "");
			continue;
		}
		char answer[4096];
		size_t size = 0;
		for (size_t i = dialog->source->count; i-- > 0;) {
			char digest[CROFT_DIGEST_TEXT];
			croft_digest_format(&dialog->source->blobs[i].digest, '-', digest);
			size += (size_t)sprintf(answer + size, "%s 200\n", digest);
			memcpy(answer + size, dialog->source->blobs[i].data, dialog->source->blobs[i].size);
			size += dialog->source->blobs[i].size;
		}
		say_head(dialog, 200, size, "");
		say(dialog, answer, size);
	}
}

static void believes_no_batch_that_is_out_of_order(void **state)
{
	struct fixture *fixture = *state;
	struct blob blobs[2] = {make_blob(100, 67000), make_blob(101, 67001)};
	struct crowd crowd = CROWD;
	struct source *source = start_source(mix_up, blobs, 2);
	struct croft_fetcher *fetcher = start_fetcher(fixture, source->name, 500);
	ask(fetcher, &crowd, blobs, 2, false);
	wait_for(&crowd, 2);
	assert_int_equal(crowd.failed, 2);
	croft_fetcher_stop(fetcher);
	stop_source(source);
	free_blobs(blobs, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(drops_a_peer_that_lies),
		cmocka_unit_test(never_stores_what_a_lying_origin_sends),
		cmocka_unit_test(finds_the_liar_among_several_givers),
		cmocka_unit_test(does_without_batches_where_there_are_none),
		cmocka_unit_test(survives_nonsense),
		cmocka_unit_test(believes_no_batch_that_is_out_of_order),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
