/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Operations from Execute to their end, with agents that do what the test tells them. */
#include "tests/unit/sched/farm_fixture.h"

#include <sched.h>

static struct fake one, other;

static int set_up(void **state)
{
	one = (struct fake){.id = "one"};
	other = (struct fake){.id = "other"};
	farm_start(state);
	farm_serve();
	return 0;
}

static int tear_down(void **state)
{
	croft_stream_destroy(one.stream);
	croft_stream_destroy(other.stream);
	return farm_stop(state);
}

static void a_free_slot_is_taken_at_once(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	const Longrunning__Operation *operation = farm_read(stream);
	assert_int_equal(farm_stage(operation), REAPI__EXECUTION_STAGE__VALUE__EXECUTING);
	const Farm__Job *job = fake_job(&one);
	assert_string_equal(job->operation, operation->name);
	assert_string_equal(job->command->arguments[0], "true");
	fake_done(&one, job->lease, 0);
	farm_succeeds(stream);
	assert_string_equal(
		fake_hear(&one, FARM__SERVER_MESSAGE__KIND_JOB_ACK)->job_ack->lease, job->lease);
}

/* It was held back that it executes, and there is nothing to tell of it any more. */
static void of_a_short_job_its_client_hears_the_end_alone(void **state)
{
	fake_connect(&one, 1);
	/* Others are held before this one: who wakes the ticker is not what counts. */
	for (int i = 0; i < 20; i++) {
		char salt[16];
		snprintf(salt, sizeof(salt), "short %d", i);
		struct croft_stream *stream = farm_execute(salt);
		const Farm__Job *job = fake_job(&one);
		uint64_t given_ns = croft_now_ns();
		fake_done(&one, job->lease, 0);
		const Longrunning__Operation *operation = farm_read(stream);
		/* On a machine that is too busy for it the moment may have passed. */
		if (!operation->done && croft_now_ns() - given_ns < 20 * UINT64_C(1000000))
			fail_msg("operation %d was told of before its end", i);
		while (!operation->done)
			operation = farm_read(stream);
		croft_stream_destroy(stream);
	}
}

static void without_an_agent_an_operation_waits(void **state)
{
	struct croft_stream *stream = farm_execute("a");
	assert_int_equal(farm_stage(farm_read(stream)), REAPI__EXECUTION_STAGE__VALUE__QUEUED);
	fake_connect(&one, 1);
	assert_int_equal(farm_stage(farm_read(stream)), REAPI__EXECUTION_STAGE__VALUE__EXECUTING);
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(stream);
}

static void cancel(const char *name)
{
	Longrunning__CancelOperationRequest request = LONGRUNNING__CANCEL_OPERATION_REQUEST__INIT;
	request.name = (char *)name;
	assert_ok(farm_call(OPERATIONS "CancelOperation", &request.base,
		&google__protobuf__empty__descriptor), err);
}

static void identical_actions_run_once_and_end_apart(void **state)
{
	struct croft_stream *first = farm_execute("a");
	const char *name = farm_read(first)->name;
	struct croft_stream *second = farm_execute("a");
	assert_string_not_equal(farm_read(second)->name, name);
	fake_connect(&one, 2);
	const Farm__Job *job = fake_job(&one);
	cancel(name);
	farm_fails(first, CROFT_CANCELLED);
	fake_done(&one, job->lease, 0);
	farm_succeeds(second);
	/* Nothing else came: the next job is another action's. */
	struct croft_stream *third = farm_execute("b");
	const Farm__Job *next = fake_job(&one);
	assert_memory_not_equal(next->action_digest->hash, job->action_digest->hash, 64);
	fake_done(&one, next->lease, 0);
	farm_succeeds(third);
}

static void the_last_cancel_ends_the_job(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	const char *name = farm_read(stream)->name;
	const Farm__Job *job = fake_job(&one);
	cancel(name);
	assert_string_equal(
		fake_hear(&one, FARM__SERVER_MESSAGE__KIND_CANCEL_JOB)->cancel_job->lease, job->lease);
	fake_failed(&one, job->lease, CROFT_CANCELLED);
	farm_fails(stream, CROFT_CANCELLED);
}

static void what_waits_is_cancelled_at_once(void **state)
{
	struct croft_stream *stream = farm_execute("a");
	cancel(farm_read(stream)->name);
	farm_fails(stream, CROFT_CANCELLED);
}

static void a_job_that_loses_its_agents_is_blamed(void **state)
{
	struct croft_stream *stream = farm_execute("a");
	for (int attempt = 1; attempt <= 3; attempt++) {
		fake_connect(&one, 1);
		assert_int_equal(fake_job(&one)->attempt, attempt);
		fake_leave(&one);
	}
	const Reapi__ExecuteResponse *response = farm_finish(stream);
	assert_int_equal(response->status->code, CROFT_UNAVAILABLE);
	assert_non_null(strstr(response->status->message, "3 times"));
	/* And the farm goes on. */
	fake_connect(&one, 1);
	stream = farm_execute("b");
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(stream);
}

static void another_agent_takes_over(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	const Farm__Job *job = fake_job(&one);
	fake_connect(&other, 1);
	fake_leave(&one);
	const Farm__Job *again = fake_job(&other);
	assert_string_equal(again->operation, job->operation);
	assert_string_not_equal(again->lease, job->lease);
	fake_done(&other, again->lease, 0);
	farm_succeeds(stream);
}

static void a_silent_agent_is_lost(void **state)
{
	farm_end_server();
	farm.config.heartbeat_ms = 20;
	farm_serve();
	struct croft_stream *stream = farm_execute("a");
	assert_int_equal(farm_stage(farm_read(stream)), REAPI__EXECUTION_STAGE__VALUE__QUEUED);
	fake_connect(&one, 1); /* it has the job before it can be silent for long */
	assert_int_equal(farm_stage(farm_read(stream)), REAPI__EXECUTION_STAGE__VALUE__EXECUTING);
	const Longrunning__Operation *operation = farm_read(stream);
	assert_int_equal(farm_stage(operation), REAPI__EXECUTION_STAGE__VALUE__QUEUED);
	void *message;
	while (croft_stream_read(one.stream, farm.arena, &message, &err) == 1)
		;
	assert_int_equal(err.code, CROFT_DEADLINE_EXCEEDED);
	cancel(operation->name);
	farm_fails(stream, CROFT_CANCELLED);
}

static void an_agent_that_comes_back_goes_on(void **state)
{
	farm_end_server();
	farm.config.reconnect_ms = 3600000;
	farm_serve();
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	const char *lease = fake_job(&one)->lease;
	fake_leave(&one);
	const Farm__Welcome *welcome = fake_connect_with(&one, 1, lease);
	assert_int_equal(welcome->n_revoked_leases, 0);
	fake_done(&one, lease, 0);
	farm_succeeds(stream);
}

static void a_result_counts_once(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	const char *lease = fake_job(&one)->lease;
	fake_done(&one, lease, 0);
	fake_done(&one, lease, 7);
	farm_succeeds(stream);
	assert_string_equal(
		fake_hear(&one, FARM__SERVER_MESSAGE__KIND_JOB_ACK)->job_ack->lease, lease);
	fake_done(&one, lease, 7);
	assert_string_equal(
		fake_hear(&one, FARM__SERVER_MESSAGE__KIND_JOB_ACK)->job_ack->lease, lease);
	Farm__GetStatusRequest request = FARM__GET_STATUS_REQUEST__INIT;
	const Farm__FarmStatus *status =
		farm_call("/croft.v1.Farm/GetStatus", &request.base, &farm__farm_status__descriptor);
	assert_ok(status, err);
	assert_int_equal(status->completed, 1);
	assert_int_equal(status->failed, 0);
}

static void a_restart_loses_nothing(void **state)
{
	farm_end_server();
	farm.config.reconnect_ms = 3600000;
	farm_serve();
	fake_connect(&one, 1);
	struct croft_stream *leased = farm_execute("leased"), *queued;
	char *leased_name = croft_arena_strdup(farm.arena, farm_read(leased)->name);
	const char *lease = fake_job(&one)->lease;
	queued = farm_execute("queued");
	char *queued_name = croft_arena_strdup(farm.arena, farm_read(queued)->name);
	fake_leave(&one);
	croft_stream_destroy(leased);
	croft_stream_destroy(queued);
	farm_end_server();
	farm_serve();
	leased = farm_wait(leased_name);
	queued = farm_wait(queued_name);
	assert_int_equal(farm_stage(farm_read(leased)), REAPI__EXECUTION_STAGE__VALUE__EXECUTING);
	assert_int_equal(farm_stage(farm_read(queued)), REAPI__EXECUTION_STAGE__VALUE__QUEUED);
	Farm__ExplainRequest request = FARM__EXPLAIN_REQUEST__INIT;
	request.operation = leased_name;
	const Farm__Explanation *why =
		farm_call("/croft.v1.Farm/Explain", &request.base, &farm__explanation__descriptor);
	assert_ok(why, err);
	assert_string_equal(why->agent_id, "one");
	assert_non_null(strstr(why->reason, "started anew"));
	assert_int_equal(why->n_candidates, 0);
	assert_int_equal(fake_connect_with(&one, 1, lease)->n_revoked_leases, 0);
	fake_done(&one, lease, 0);
	farm_succeeds(leased);
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(queued);
	/* Their ends are remembered, too. */
	farm_end_server();
	fake_leave(&one);
	farm_serve();
	farm_succeeds(farm_wait(leased_name));
	farm_succeeds(farm_wait(queued_name));
}

static void a_lease_given_to_another_is_revoked(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	const char *lease = fake_job(&one)->lease;
	fake_leave(&one);
	fake_connect(&other, 1);
	const Farm__Job *again = fake_job(&other);
	const Farm__Welcome *welcome = fake_connect_with(&one, 1, lease);
	assert_int_equal(welcome->n_revoked_leases, 1);
	fake_done(&one, lease, 7); /* it says so all the same */
	fake_done(&other, again->lease, 0);
	farm_succeeds(stream);
}

static void a_refusal_is_no_try(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	for (int i = 0; i < 4; i++) { /* more than there may be tries */
		const Farm__Job *job = fake_job(&one);
		assert_int_equal(job->attempt, 1);
		Farm__JobRefused refused = FARM__JOB_REFUSED__INIT;
		refused.lease = job->lease;
		refused.reason = (char *)"every slot is taken";
		fake_say(&one, FARM__AGENT_MESSAGE__KIND_JOB_REFUSED, &refused);
	}
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(stream);
}

static void what_an_agent_could_not_run_is_tried_again(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	for (int attempt = 1; attempt <= 3; attempt++) {
		const Farm__Job *job = fake_job(&one);
		assert_int_equal(job->attempt, attempt);
		fake_failed(&one, job->lease, CROFT_UNAVAILABLE);
	}
	farm_fails(stream, CROFT_UNAVAILABLE);
}

static void failures_are_not_answers(void **state)
{
	fake_connect(&one, 1);
	for (int i = 0; i < 2; i++) {
		struct croft_stream *stream = farm_execute("a");
		fake_done(&one, fake_job(&one)->lease, 1);
		const Reapi__ExecuteResponse *response = farm_finish(stream);
		assert_false(response->cached_result);
		assert_int_equal(response->result->exit_code, 1);
	}
}

static void failures_are_answers_for_who_asks_for_them(void **state)
{
	struct croft_metadata metadata = {"croft-failed-results", croft_slice_str("yes")};
	struct croft_call_options asking = {.metadata = &metadata, .metadata_count = 1};
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute_with(&asking, farm_action("a"));
	fake_done(&one, fake_job(&one)->lease, 3);
	assert_false(farm_finish(stream)->cached_result);
	const Reapi__ExecuteResponse *response =
		farm_finish(farm_execute_with(&asking, farm_action("a")));
	assert_true(response->cached_result);
	assert_int_equal(response->result->exit_code, 3);
	/* A success is the answer from then on. */
	stream = farm_execute("a");
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(stream);
	assert_int_equal(
		farm_finish(farm_execute_with(&asking, farm_action("a")))->result->exit_code, 0);
}

static void successes_are(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(stream);
	assert_true(farm_finish(farm_execute("a"))->cached_result);
}

static enum croft_code code_of(const char *method, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *answer)
{
	err = CROFT_ERROR_INIT;
	farm_call(method, request, answer);
	enum croft_code code = err.code;
	err = CROFT_ERROR_INIT;
	return code;
}

static void what_was_deleted_does_not_come_back_with_a_restart(void **state)
{
	Longrunning__GetOperationRequest get = LONGRUNNING__GET_OPERATION_REQUEST__INIT;
	Longrunning__DeleteOperationRequest request = LONGRUNNING__DELETE_OPERATION_REQUEST__INIT;
	struct croft_stream *stream = farm_execute("a");
	char name[64];
	snprintf(name, sizeof(name), "%s", farm_read(stream)->name);
	get.name = request.name = name;
	assert_int_equal(code_of(OPERATIONS "DeleteOperation", &request.base,
		&google__protobuf__empty__descriptor), CROFT_FAILED_PRECONDITION);
	fake_connect(&one, 1);
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(stream);
	assert_int_equal(code_of(OPERATIONS "GetOperation", &get.base,
		&longrunning__operation__descriptor), CROFT_OK);
	assert_int_equal(code_of(OPERATIONS "DeleteOperation", &request.base,
		&google__protobuf__empty__descriptor), CROFT_OK);
	fake_leave(&one);
	farm_end_server();
	farm_serve();
	assert_int_equal(code_of(OPERATIONS "GetOperation", &get.base,
		&longrunning__operation__descriptor), CROFT_NOT_FOUND);
}

/* As a crash may do: what the journal has is on disk before the store's index has it. */
static bool result_of_is_kept(const struct croft_digest *action, bool lose_it)
{
	char key[1 + CROFT_HASH_TEXT] = "";
	croft_hash_format(action->hash, key + 1);
	struct croft_slice slice = CROFT_SLICE(key, 1 + CROFT_HASH_TEXT - 1);
	bool kept = croft_store_record_has(farm.store, CROFT_RECORD_ACTION, slice);
	if (lose_it)
		assert_ok(croft_store_record_delete(farm.store, CROFT_RECORD_ACTION, slice, &err), err);
	return kept;
}

static bool result_is_kept(const char *salt, bool lose_it)
{
	struct croft_digest action = farm_action(salt);
	return result_of_is_kept(&action, lose_it);
}

static void results_that_a_crash_took_from_the_cache_are_back_after_a_restart(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *good = farm_execute("good");
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(good);
	struct croft_stream *bad = farm_execute("bad");
	fake_done(&one, fake_job(&one)->lease, 1);
	assert_int_equal(farm_finish(bad)->result->exit_code, 1);
	assert_true(result_is_kept("good", true));
	assert_false(result_is_kept("good", false));
	fake_leave(&one);
	farm_end_server();
	farm_serve();
	assert_true(result_is_kept("good", false));
	assert_false(result_is_kept("bad", false));
	assert_true(farm_finish(farm_execute("good"))->cached_result);
}

/* Until not even a record has room: what is held cannot be evicted. */
static size_t fill_the_store(struct croft_hold **holds, size_t most)
{
	static uint8_t bytes[64 << 10];
	size_t count = 0;
	for (size_t size = sizeof(bytes); size >= 64;) {
		struct croft_error full = CROFT_ERROR_INIT;
		snprintf((char *)bytes, sizeof(bytes), "filler %zu", count);
		struct croft_ref ref = {CROFT_REF_BLOB, croft_digest_of(bytes, size)};
		if (!croft_store_put(farm.store, &ref.digest, CROFT_SLICE(bytes, size), &full)) {
			assert_int_equal(full.code, CROFT_RESOURCE_EXHAUSTED);
			size /= 4;
			continue;
		}
		assert_true(count < most);
		holds[count] = croft_store_hold(farm.store, &ref, 1, &err);
		assert_ok(holds[count++], err);
	}
	return count;
}

static void results_that_find_no_room_at_the_start_are_put_when_there_is(void **state)
{
	struct croft_hold *holds[256];
	farm_end_server();
	croft_store_close(farm.store);
	farm.store = croft_store_open(
		&(struct croft_store_config){.path = farm.folder, .budget_bytes = 4 << 20}, &err);
	assert_ok(farm.store, err);
	farm_serve();
	fake_connect(&one, 1);
	struct croft_digest action = farm_action("a");
	struct croft_stream *stream = farm_execute_with(NULL, action);
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(stream);
	assert_true(result_of_is_kept(&action, true));
	fake_leave(&one);
	farm_end_server();
	struct croft_ref asked[] = {{CROFT_REF_BLOB, action}, {CROFT_REF_BLOB, farm.command}};
	struct croft_hold *kept = croft_store_hold(farm.store, asked, 2, &err);
	assert_ok(kept, err);
	size_t count = fill_the_store(holds, 256);
	farm_serve();
	assert_false(result_of_is_kept(&action, false));
	while (count > 0)
		croft_store_release(holds[--count]);
	while (!result_of_is_kept(&action, false))
		sched_yield();
	assert_true(farm_finish(farm_execute_with(NULL, action))->cached_result);
	croft_store_release(kept);
}

static void many_at_once_all_end_once(void **state)
{
	enum { MANY = 200 };
	struct croft_stream *streams[MANY];
	char salt[16], *leases[MANY];
	for (int i = 0; i < MANY; i++) {
		snprintf(salt, sizeof(salt), "%d", i);
		streams[i] = farm_execute(salt);
	}
	fake_connect(&one, MANY);
	Farm__AgentMessage messages[MANY], *list[MANY];
	Farm__JobDone dones[MANY];
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	for (int i = 0; i < MANY; i++) {
		leases[i] = fake_job(&one)->lease;
		farm__job_done__init(&dones[i]);
		dones[i].lease = leases[i];
		dones[i].result = &result;
		farm__agent_message__init(&messages[i]);
		messages[i].kind_case = FARM__AGENT_MESSAGE__KIND_JOB_DONE;
		messages[i].job_done = &dones[i];
		list[i] = &messages[i];
	}
	Farm__AgentBatch batch = {PROTOBUF_C_MESSAGE_INIT(&farm__agent_batch__descriptor), MANY, list};
	fake_say(&one, FARM__AGENT_MESSAGE__KIND_BATCH, &batch);
	for (int i = 0; i < MANY; i++)
		farm_succeeds(streams[i]);
}

#define ON_A_FARM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_A_FARM(a_free_slot_is_taken_at_once),
		ON_A_FARM(of_a_short_job_its_client_hears_the_end_alone),
		ON_A_FARM(without_an_agent_an_operation_waits),
		ON_A_FARM(identical_actions_run_once_and_end_apart),
		ON_A_FARM(the_last_cancel_ends_the_job),
		ON_A_FARM(what_waits_is_cancelled_at_once),
		ON_A_FARM(a_job_that_loses_its_agents_is_blamed),
		ON_A_FARM(another_agent_takes_over),
		ON_A_FARM(a_silent_agent_is_lost),
		ON_A_FARM(an_agent_that_comes_back_goes_on),
		ON_A_FARM(a_result_counts_once),
		ON_A_FARM(a_restart_loses_nothing),
		ON_A_FARM(a_lease_given_to_another_is_revoked),
		ON_A_FARM(a_refusal_is_no_try),
		ON_A_FARM(what_an_agent_could_not_run_is_tried_again),
		ON_A_FARM(failures_are_not_answers),
		ON_A_FARM(failures_are_answers_for_who_asks_for_them),
		ON_A_FARM(successes_are),
		ON_A_FARM(what_was_deleted_does_not_come_back_with_a_restart),
		ON_A_FARM(results_that_a_crash_took_from_the_cache_are_back_after_a_restart),
		ON_A_FARM(results_that_find_no_room_at_the_start_are_put_when_there_is),
		ON_A_FARM(many_at_once_all_end_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
