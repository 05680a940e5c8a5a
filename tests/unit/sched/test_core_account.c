/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a client is told of tries that gave no result: the server log "croft". */
#include "google/protobuf/empty.pb-c.h"
#include "tests/unit/sched/farm_fixture.h"

static struct fake one;

static int set_up(void **state)
{
	one = (struct fake){.id = "one"};
	farm_start(state);
	farm_serve();
	return 0;
}

static int tear_down(void **state)
{
	croft_stream_destroy(one.stream);
	return farm_stop(state);
}

/* Its text, which is in the store by the time at which the end is told. */
static const char *log_of(const Reapi__ExecuteResponse *response)
{
	struct croft_digest digest;
	struct croft_slice text;
	assert_int_equal(response->n_server_logs, 1);
	assert_string_equal(response->server_logs[0]->key, "croft");
	assert_true(response->server_logs[0]->value->human_readable);
	assert_ok(croft_digest_from_message(response->server_logs[0]->value->digest, "log", &digest, &err), err);
	assert_ok(croft_store_get(farm.store, &digest, farm.arena, &text, &err), err);
	return croft_arena_strndup(farm.arena, text.data, text.size);
}

static void says(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("'%s' is not in:\n%s", part, text);
}

static void a_job_that_loses_its_agents_has_its_tries_told(void **state)
{
	struct croft_stream *stream = farm_execute("a");
	for (int attempt = 1; attempt <= 3; attempt++) {
		fake_connect(&one, 1);
		fake_job(&one);
		fake_leave(&one);
	}
	const Reapi__ExecuteResponse *response = farm_finish(stream);
	assert_int_equal(response->status->code, CROFT_UNAVAILABLE);
	const char *text = log_of(response);
	says(text, "try 1 on one, 20");
	says(text, "try 3 on one, 20");
	says(text, "  placed there: ");
	says(text, "UNAVAILABLE: tried 3 times");
}

static void so_has_one_that_an_agent_could_not_run(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	fake_failed(&one, fake_job(&one)->lease, CROFT_DEADLINE_EXCEEDED);
	const Reapi__ExecuteResponse *response = farm_finish(stream);
	assert_int_equal(response->status->code, CROFT_DEADLINE_EXCEEDED);
	says(log_of(response), "DEADLINE_EXCEEDED: as the test wants it\n  placed there: ");
}

/* The server may be killed when its journal has the end and its store not yet the log. */
static void a_log_that_a_crash_took_is_there_after_the_restart(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	const char *name = croft_arena_strdup(farm.arena, farm_read(stream)->name);
	fake_failed(&one, fake_job(&one)->lease, CROFT_DEADLINE_EXCEEDED);
	log_of(farm_finish(stream));
	fake_leave(&one);
	farm_end_server();
	/* As if it never had come there. */
	croft_store_close(farm.store);
	struct croft_store_config config = {.path = farm.folder, .budget_bytes = 1 << 30};
	char index[96];
	for (int i = 0; i < 2; i++) {
		snprintf(index, sizeof(index), "%s/%s", farm.folder, i ? "index" : "segments");
		assert_ok(croft_remove_tree(AT_FDCWD, index, &err), err);
	}
	assert_ok((farm.store = croft_store_open(&config, &err)) != NULL, err);
	farm_serve();
	says(log_of(farm_finish(farm_wait(name))), "DEADLINE_EXCEEDED: as the test wants it");
}

/* Also what was before a restart. */
static void a_success_tells_of_tries_before_it(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	const char *name = croft_arena_strdup(farm.arena, farm_read(stream)->name);
	fake_failed(&one, fake_job(&one)->lease, CROFT_UNAVAILABLE);
	const char *lease = fake_job(&one)->lease; /* what became of the first try is on disk */
	croft_stream_destroy(stream);
	fake_leave(&one);
	farm_end_server();
	farm_serve();
	stream = farm_wait(name);
	fake_connect_with(&one, 1, lease);
	fake_done(&one, lease, 0);
	const Reapi__ExecuteResponse *response = farm_finish(stream);
	assert_int_equal(response->result->exit_code, 0);
	const char *text = log_of(response);
	says(text, "try 1 on one, 20");
	says(text, ": as the test wants it");
	says(text, "try 2 on one, before the server's restart");
	says(text, "it gave a result");
}

static void of_plain_runs_there_is_nothing_to_tell(void **state)
{
	fake_connect(&one, 1);
	for (int exit_code = 0; exit_code < 2; exit_code++) {
		struct croft_stream *stream = farm_execute(exit_code ? "fails" : "works");
		fake_done(&one, fake_job(&one)->lease, exit_code);
		assert_int_equal(farm_finish(stream)->n_server_logs, 0);
	}
}

/* Among what the agent itself says of the run. */
static void a_result_says_why_it_ran_there(void **state)
{
	Farm__JobDone done = FARM__JOB_DONE__INIT;
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	Reapi__ExecutedActionMetadata metadata = REAPI__EXECUTED_ACTION_METADATA__INIT;
	Google__Protobuf__Any said = GOOGLE__PROTOBUF__ANY__INIT, *auxiliary[] = {&said};
	said.type_url = (char *)"type.googleapis.com/agent.Said";
	metadata.n_auxiliary_metadata = 1;
	metadata.auxiliary_metadata = auxiliary;
	result.execution_metadata = &metadata;
	done.result = &result;
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute("a");
	done.lease = fake_job(&one)->lease;
	fake_say(&one, FARM__AGENT_MESSAGE__KIND_JOB_DONE, &done);
	const Reapi__ExecutedActionMetadata *told = farm_finish(stream)->result->execution_metadata;
	assert_int_equal(told->n_auxiliary_metadata, 2);
	assert_string_equal(told->auxiliary_metadata[0]->type_url, said.type_url);
	assert_string_equal(told->auxiliary_metadata[1]->type_url, "type.googleapis.com/croft.v1.Placement");
	const ProtobufCBinaryData *value = &told->auxiliary_metadata[1]->value;
	const Farm__Placement *placement = croft_message_decode(
		&farm__placement__descriptor, CROFT_SLICE(value->data, value->len), farm.arena, NULL, &err);
	assert_ok(placement, err);
	says(placement->reason, "the least expected seconds");
}

static void who_cancelled_is_told_nothing(void **state)
{
	struct croft_stream *stream = farm_execute("a");
	Longrunning__CancelOperationRequest request = LONGRUNNING__CANCEL_OPERATION_REQUEST__INIT;
	fake_connect(&one, 1);
	request.name = croft_arena_strdup(farm.arena, farm_read(stream)->name);
	fake_failed(&one, fake_job(&one)->lease, CROFT_UNAVAILABLE);
	fake_job(&one);
	assert_ok(farm_call(OPERATIONS "CancelOperation", &request.base, &google__protobuf__empty__descriptor), err);
	fake_leave(&one);
	const Reapi__ExecuteResponse *response = farm_finish(stream);
	assert_int_equal(response->status->code, CROFT_CANCELLED);
	assert_int_equal(response->n_server_logs, 0);
}

#define ON_A_FARM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_A_FARM(a_job_that_loses_its_agents_has_its_tries_told),
		ON_A_FARM(so_has_one_that_an_agent_could_not_run),
		ON_A_FARM(a_log_that_a_crash_took_is_there_after_the_restart),
		ON_A_FARM(a_success_tells_of_tries_before_it),
		ON_A_FARM(of_plain_runs_there_is_nothing_to_tell),
		ON_A_FARM(a_result_says_why_it_ran_there),
		ON_A_FARM(who_cancelled_is_told_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
