/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clients that go without cancelling: what becomes of what they wanted. */
#include "tests/unit/sched/farm_fixture.h"

static struct fake one;

static int set_up(void **state)
{
	one = (struct fake){.id = "one"};
	farm_start(state);
	farm.config.abandon_ms = 1;
	farm_serve();
	return 0;
}

static int tear_down(void **state)
{
	croft_stream_destroy(one.stream);
	return farm_stop(state);
}

/* Its client goes as soon as it has the operation's name. */
static char *leave_behind(const char *salt)
{
	struct croft_stream *stream = farm_execute(salt);
	char *name = croft_arena_strdup(farm.arena, farm_read(stream)->name);
	croft_stream_destroy(stream);
	return name;
}

/* Looks at all of them, which is not to ask for one. */
static void wait_until_completed(size_t count)
{
	Longrunning__ListOperationsRequest request = LONGRUNNING__LIST_OPERATIONS_REQUEST__INIT;
	const Longrunning__ListOperationsResponse *response;
	request.filter = (char *)"stage=completed";
	do {
		response = farm_call(OPERATIONS "ListOperations", &request.base,
			&longrunning__list_operations_response__descriptor);
		assert_ok(response, err);
	} while (response->n_operations < count);
	assert_int_equal(response->n_operations, count);
}

static const Longrunning__Operation *wait_until_on_disk(const char *name)
{
	Longrunning__GetOperationRequest get = LONGRUNNING__GET_OPERATION_REQUEST__INIT;
	const Longrunning__Operation *operation;
	get.name = (char *)name;
	do {
		operation = farm_call(OPERATIONS "GetOperation", &get.base, &longrunning__operation__descriptor);
		assert_ok(operation, err);
	} while (!operation->done);
	return operation;
}

static void is_not_waited_for(const char *name)
{
	void *message;
	struct croft_stream *stream = farm_wait(name);
	assert_int_equal(croft_stream_read(stream, farm.arena, &message, &err), -1);
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	err = CROFT_ERROR_INIT;
	croft_stream_destroy(stream);
}

static void what_nobody_waits_for_is_given_up(void **state)
{
	char *name = leave_behind("a");
	wait_until_completed(1);
	const Longrunning__Operation *operation = wait_until_on_disk(name);
	const Reapi__ExecuteResponse *response = croft_message_decode(&reapi__execute_response__descriptor,
		CROFT_SLICE(operation->response->value.data, operation->response->value.len), farm.arena, NULL, &err);
	assert_int_equal(response->status->code, CROFT_UNAVAILABLE);
	/* Whoever comes back is told to call Execute, and has it run then; also after a restart. */
	is_not_waited_for(name);
	fake_connect(&one, 1);
	struct croft_stream *again = farm_execute("a");
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(again);
	fake_leave(&one);
	farm_end_server();
	farm_serve();
	is_not_waited_for(name);
}

static void what_somebody_waits_for_stays(void **state)
{
	struct croft_stream *kept = farm_execute("a");
	farm_read(kept);
	leave_behind("a"); /* another client of the same task */
	leave_behind("b");
	wait_until_completed(1);
	fake_connect(&one, 1);
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(kept);
}

static void what_runs_goes_on(void **state)
{
	fake_connect(&one, 1);
	const char *name = leave_behind("runs");
	const char *lease = fake_job(&one)->lease;
	leave_behind("waits");
	wait_until_completed(1);
	fake_done(&one, lease, 0);
	wait_until_on_disk(name);
	assert_true(farm_finish(farm_execute("runs"))->cached_result);
}

static void what_nobody_waits_for_is_given_up_after_a_restart(void **state)
{
	farm_end_server();
	farm.config.abandon_ms = UINT64_MAX;
	farm_serve();
	char *name = leave_behind("a");
	leave_behind("b");
	farm_end_server();
	farm.config.abandon_ms = 1;
	farm_serve();
	wait_until_completed(2);
	is_not_waited_for(name);
}

#define ON_A_FARM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_A_FARM(what_nobody_waits_for_is_given_up),
		ON_A_FARM(what_somebody_waits_for_stays),
		ON_A_FARM(what_runs_goes_on),
		ON_A_FARM(what_nobody_waits_for_is_given_up_after_a_restart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
