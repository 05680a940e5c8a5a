/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Executing where blobs are private: of inputs that one has, and for agents that know the farm's key. */
#include "fs/private.h"
#include "tests/unit/sched/farm_fixture.h"

static const struct croft_slice ann = {"ann", 3}, bob = {"bob", 3};
static struct fake agent;

static int set_up(void **state)
{
	agent = (struct fake){.id = "one"};
	farm_start(state);
	farm.config.private_blobs = true;
	farm.config.agent_key = "key-of-agents";
	farm_serve();
	return 0;
}

static int tear_down(void **state)
{
	croft_stream_destroy(agent.stream);
	return farm_stop(state);
}

static struct croft_stream *execute(const char *instance, const struct croft_digest *action)
{
	Reapi__ExecuteRequest request = REAPI__EXECUTE_REQUEST__INIT;
	request.instance_name = (char *)instance;
	request.action_digest = croft_digest_to_message(action, farm.arena);
	struct croft_stream *stream =
		farm_stream(NULL, EXECUTION "Execute", &request.base, &longrunning__operation__descriptor);
	croft_stream_close_write(stream, NULL);
	return stream;
}

static void is_refused(const char *instance, const struct croft_digest *action, const char *what)
{
	struct croft_stream *stream = execute(instance, action);
	void *message;
	err = CROFT_ERROR_INIT;
	assert_int_equal(croft_stream_read(stream, farm.arena, &message, &err), -1);
	assert_int_equal(err.code, CROFT_FAILED_PRECONDITION);
	assert_non_null(strstr(err.message, what));
	croft_stream_destroy(stream);
}

static void grant(struct croft_slice tenant, const struct croft_digest *digest)
{
	assert_ok(croft_store_grant(farm.store, tenant, digest, 1, &err), err);
}

static void inputs_that_one_has_not_are_missing(void **state)
{
	struct croft_digest secret = croft_digest_of("ann's secret", 12);
	assert_ok(croft_store_put(farm.store, &secret, CROFT_SLICE("ann's secret", 12), &err), err);
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(&secret, '/', text);
	Reapi__FileNode node = REAPI__FILE_NODE__INIT, *nodes[] = {&node};
	node.name = (char *)"f";
	node.digest = croft_digest_to_message(&secret, farm.arena);
	Reapi__Directory root = REAPI__DIRECTORY__INIT;
	root.n_files = 1;
	root.files = nodes;
	farm.nothing = farm_put(&root.base); /* what actions have for their root */
	struct croft_digest action = farm_action("bob's");
	is_refused("bob", &action, "reading the Action");
	grant(bob, &action);
	is_refused("bob", &action, "reading the Command");
	grant(bob, &farm.command);
	grant(bob, &farm.nothing);
	is_refused("bob", &action, text); /* he made a root that names it: that does not show it to a job */
	grant(bob, &secret);
	struct croft_stream *stream = execute("bob", &action);
	assert_non_null(farm_read(stream)->name);
	croft_stream_destroy(stream);
}

static void connect_with_key(const char *text)
{
	struct croft_metadata key = {"croft-agent-key", croft_slice_str(text)};
	struct croft_call_options options = {.metadata = &key, .metadata_count = 1};
	agent.stream = croft_stream_open(farm.channel, &options, "/croft.v1.Agents/Session",
		&farm__server_message__descriptor, &err);
	assert_ok(agent.stream, err);
	Farm__Hello hello = FARM__HELLO__INIT;
	hello.agent_id = hello.hostname = (char *)agent.id;
	hello.slots = 1;
	fake_say(&agent, FARM__AGENT_MESSAGE__KIND_HELLO, &hello);
}

static void results_are_visible_to_whom_they_were_made_for(void **state)
{
	struct croft_digest action = farm_action("ann's"), output = croft_digest_of("output", 6);
	grant(ann, &action);
	grant(ann, &farm.command);
	grant(ann, &farm.nothing);
	connect_with_key("key-of-agents");
	assert_string_equal(fake_hear(&agent, FARM__SERVER_MESSAGE__KIND_WELCOME)->welcome->blob_key, "key-of-agents");
	struct croft_stream *stream = execute("ann", &action);
	const Farm__Job *job = fake_job(&agent);
	assert_ok(croft_store_put(farm.store, &output, CROFT_SLICE("output", 6), &err), err);
	Farm__JobDone done = FARM__JOB_DONE__INIT;
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	Reapi__OutputFile file = REAPI__OUTPUT_FILE__INIT, *files[] = {&file};
	file.path = (char *)"out";
	file.digest = croft_digest_to_message(&output, farm.arena);
	result.n_output_files = 1;
	result.output_files = files;
	done.lease = job->lease;
	done.result = &result;
	fake_say(&agent, FARM__AGENT_MESSAGE__KIND_JOB_DONE, &done);
	farm_succeeds(stream);
	bool visible;
	assert_ok(croft_store_visible(farm.store, ann, &output, 1, &visible, &err), err);
	assert_true(visible);
	assert_ok(croft_store_visible(farm.store, bob, &output, 1, &visible, &err), err);
	assert_false(visible);
	/* The same action of bob's is another, and found by him in no cache. */
	is_refused("bob", &action, "reading the Action");
}

static void who_does_not_know_the_key_is_no_agent(void **state)
{
	for (int i = 0; i < 2; i++) {
		struct croft_metadata key = {"croft-agent-key", croft_slice_str("key-of-others")};
		struct croft_call_options options = {.metadata = &key, .metadata_count = (size_t)i};
		struct croft_stream *stream = croft_stream_open(farm.channel, &options, "/croft.v1.Agents/Session",
			&farm__server_message__descriptor, &err);
		assert_ok(stream, err);
		void *message;
		assert_int_equal(croft_stream_read(stream, farm.arena, &message, &err), -1);
		assert_int_equal(err.code, CROFT_UNAUTHENTICATED);
		croft_stream_destroy(stream);
	}
	/* Clients are not told it. */
	Farm__GetStatusRequest request = FARM__GET_STATUS_REQUEST__INIT;
	const Farm__FarmStatus *status =
		farm_call("/croft.v1.Farm/GetStatus", &request.base, &farm__farm_status__descriptor);
	assert_ok(status, err);
	assert_string_equal(status->blob_key, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(inputs_that_one_has_not_are_missing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(results_are_visible_to_whom_they_were_made_for, set_up, tear_down),
		cmocka_unit_test_setup_teardown(who_does_not_know_the_key_is_no_agent, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
