/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ResultsCachePolicy of Execute: which results go first when the store has no more room. */
#include "tests/unit/sched/farm_fixture.h"

#include <unistd.h>

enum { OUTPUT_BYTES = 1 << 20 };

static struct fake one;

static int set_up(void **state)
{
	one = (struct fake){.id = "one"};
	farm_start(state);
	croft_store_close(farm.store);
	farm.store = croft_store_open(
		&(struct croft_store_config){.path = farm.folder, .budget_bytes = 1 << 30, .lease_ms = 1}, &err);
	assert_ok(farm.store, err);
	farm_serve();
	fake_connect(&one, 1);
	return 0;
}

static int tear_down(void **state)
{
	croft_stream_destroy(one.stream);
	return farm_stop(state);
}

static struct croft_stream *execute(const char *salt, int32_t priority)
{
	struct croft_digest action = farm_action(salt);
	Reapi__ResultsCachePolicy policy = REAPI__RESULTS_CACHE_POLICY__INIT;
	Reapi__ExecuteRequest request = REAPI__EXECUTE_REQUEST__INIT;
	policy.priority = priority;
	request.results_cache_policy = &policy;
	request.action_digest = croft_digest_to_message(&action, farm.arena);
	struct croft_stream *stream =
		farm_stream(NULL, EXECUTION "Execute", &request.base, &longrunning__operation__descriptor);
	croft_stream_close_write(stream, NULL);
	return stream;
}

/* What it made. */
static struct croft_digest run_it(uint8_t content)
{
	static uint8_t bytes[OUTPUT_BYTES];
	bytes[0] = content;
	struct croft_digest digest = croft_digest_of(bytes, sizeof(bytes));
	assert_ok(croft_store_put(farm.store, &digest, CROFT_SLICE(bytes, sizeof(bytes)), &err), err);
	Farm__JobDone done = FARM__JOB_DONE__INIT;
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	result.stdout_digest = croft_digest_to_message(&digest, farm.arena);
	done.lease = fake_job(&one)->lease;
	done.result = &result;
	fake_say(&one, FARM__AGENT_MESSAGE__KIND_JOB_DONE, &done);
	return digest;
}

static bool is_there(const struct croft_digest *digest)
{
	struct croft_slice data;
	return croft_store_get(farm.store, digest, farm.arena, &data, NULL);
}

/* One of the two has to go: the first was made earlier. */
static void the_first_stays(const struct croft_digest made[2])
{
	struct croft_store_stat stat;
	usleep(5000); /* no lease holds */
	croft_store_stat(farm.store, &stat);
	croft_store_collect(farm.store, stat.disk_bytes - OUTPUT_BYTES / 2, NULL, NULL, &err);
	assert_true(is_there(&made[0]));
	assert_false(is_there(&made[1]));
}

static void a_result_of_a_low_priority_is_kept_for_longer(void **state)
{
	struct croft_digest made[2];
	for (int i = 0; i < 2; i++) {
		struct croft_stream *stream = execute(i ? "b" : "a", i ? 1 : -1);
		made[i] = run_it((uint8_t)i);
		farm_succeeds(stream);
	}
	the_first_stays(made);
}

static void so_is_one_that_another_client_joined_with_a_low_priority(void **state)
{
	struct croft_digest made[2];
	struct croft_stream *stream = execute("a", 0), *joined = execute("a", -2);
	farm_read(joined); /* it has joined */
	made[0] = run_it(0);
	farm_succeeds(stream);
	farm_succeeds(joined);
	stream = execute("b", 0);
	made[1] = run_it(1);
	farm_succeeds(stream);
	the_first_stays(made);
}

static void so_is_one_that_is_taken_from_the_cache_with_a_low_priority(void **state)
{
	struct croft_digest made[2];
	struct croft_stream *stream = execute("a", 0);
	made[0] = run_it(0);
	farm_succeeds(stream);
	farm_succeeds(execute("a", -1));
	stream = execute("b", 0);
	made[1] = run_it(1);
	farm_succeeds(stream);
	the_first_stays(made);
}

#define ON_A_FARM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_A_FARM(a_result_of_a_low_priority_is_kept_for_longer),
		ON_A_FARM(so_is_one_that_another_client_joined_with_a_low_priority),
		ON_A_FARM(so_is_one_that_is_taken_from_the_cache_with_a_low_priority),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
