/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a client's calls and agents' reports to the order of the queue: what others wait for goes first. */
#include "tests/unit/sched/farm_fixture.h"

#define REQUEST_METADATA "build.bazel.remote.execution.v2.requestmetadata-bin"

static struct fake agent;

static int set_up(void **state)
{
	agent = (struct fake){.id = "one"};
	farm_start(state);
	farm_serve();
	return 0;
}

static int tear_down(void **state)
{
	if (agent.stream)
		fake_leave(&agent);
	return farm_stop(state);
}

static struct croft_stream *execute(const char *kind, const char *salt)
{
	Reapi__RequestMetadata about = REAPI__REQUEST_METADATA__INIT;
	about.action_mnemonic = about.target_id = (char *)kind;
	struct croft_metadata metadata = {REQUEST_METADATA, croft_message_encode(&about.base, farm.arena)};
	struct croft_call_options options = {.metadata = &metadata, .metadata_count = 1};
	return farm_execute_with(&options, farm_action(salt));
}

/* It ran so long, opened one file and left another; NULL: none. */
static void done(const char *lease, int64_t seconds, const struct croft_digest *opened,
	const struct croft_digest *left)
{
	Google__Protobuf__Timestamp begin = GOOGLE__PROTOBUF__TIMESTAMP__INIT, end = begin;
	begin.seconds = 1000;
	end.seconds = 1000 + seconds;
	Reapi__ExecutedActionMetadata metadata = REAPI__EXECUTED_ACTION_METADATA__INIT;
	metadata.execution_start_timestamp = &begin;
	metadata.execution_completed_timestamp = &end;
	Reapi__OutputFile file = REAPI__OUTPUT_FILE__INIT, *files[] = {&file};
	file.path = (char *)"out";
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	result.execution_metadata = &metadata;
	result.output_files = files;
	if (left)
		file.digest = croft_digest_to_message(left, farm.arena);
	result.n_output_files = left != NULL;
	Farm__AccessProfile__Touch touch = FARM__ACCESS_PROFILE__TOUCH__INIT, *touches[] = {&touch};
	Farm__AccessProfile profile = FARM__ACCESS_PROFILE__INIT;
	profile.touches = touches;
	if (opened)
		touch.digest = croft_digest_to_message(opened, farm.arena);
	profile.n_touches = opened != NULL;
	Farm__JobDone message = FARM__JOB_DONE__INIT;
	message.lease = (char *)lease;
	message.result = &result;
	message.profile = &profile;
	fake_say(&agent, FARM__AGENT_MESSAGE__KIND_JOB_DONE, &message);
}

static void run(const char *kind, int64_t seconds, const struct croft_digest *opened, const struct croft_digest *left)
{
	struct croft_stream *stream = execute(kind, kind);
	done(fake_job(&agent)->lease, seconds, opened, left);
	farm_succeeds(stream);
}

static bool is_action(const Farm__Job *job, const char *salt)
{
	struct croft_digest expected = farm_action(salt), digest;
	assert_ok(croft_digest_from_message(job->action_digest, "the job's action", &digest, &err), err);
	return croft_digest_equal(&digest, &expected);
}

static void what_others_wait_for_goes_before_what_came_first(void **state)
{
	struct croft_digest object = croft_digest_of("object", 6);
	assert_ok(croft_store_put(farm.store, &object, CROFT_SLICE("object", 6), &err), err);
	fake_connect(&agent, 1);
	run("leaf", 1, NULL, NULL);
	run("compile", 1, NULL, &object);
	run("link", 100, &object, NULL);
	struct croft_stream *busy = execute("leaf", "busy");
	const char *lease = fake_job(&agent)->lease;
	struct croft_stream *leaf = execute("leaf", "second leaf"), *compile;
	farm_read(leaf); /* it is queued */
	compile = execute("compile", "second compile");
	farm_read(compile);
	done(lease, 1, NULL, NULL);
	farm_succeeds(busy);
	const Farm__Job *job = fake_job(&agent);
	assert_true(is_action(job, "second compile"));
	done(job->lease, 1, NULL, NULL);
	farm_succeeds(compile);
	job = fake_job(&agent);
	assert_true(is_action(job, "second leaf"));
	done(job->lease, 1, NULL, NULL);
	farm_succeeds(leaf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_others_wait_for_goes_before_what_came_first, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
