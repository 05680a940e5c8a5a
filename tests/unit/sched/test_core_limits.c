/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an Execute call is refused for, and what steers where it runs. */
#include "google/rpc/error_details.pb-c.h"
#include "tests/unit/sched/farm_fixture.h"

#define REQUEST_METADATA "build.bazel.remote.execution.v2.requestmetadata-bin"
#define LOCALITY_HINT "build.buildgrid.schedulingmetadata-bin"

static struct fake one, other;

static int set_up(void **state)
{
	one = (struct fake){.id = "one"};
	other = (struct fake){.id = "other"};
	farm_start(state);
	farm.config.tenant_limit = 2;
	farm_serve();
	return 0;
}

static int tear_down(void **state)
{
	croft_stream_destroy(one.stream);
	croft_stream_destroy(other.stream);
	return farm_stop(state);
}

/* The only detail of the status with which a call ends; the code is checked. */
static const void *refused(const struct croft_digest *action, enum croft_code code,
	const ProtobufCMessageDescriptor *type)
{
	struct croft_slice details;
	struct croft_call_options options = {.details_arena = farm.arena, .details = &details};
	struct croft_stream *stream = farm_execute_with(&options, *action);
	void *message;
	assert_int_equal(croft_stream_read(stream, farm.arena, &message, &err), -1);
	assert_int_equal(err.code, code);
	croft_stream_destroy(stream);
	const GoogleRpc__Status *status =
		croft_message_decode(&google_rpc__status__descriptor, details, farm.arena, NULL, &err);
	assert_int_equal(status->n_details, 1);
	assert_string_equal(strrchr(status->details[0]->type_url, '/') + 1, type->name);
	return croft_message_decode(type,
		CROFT_SLICE(status->details[0]->value.data, status->details[0]->value.len), farm.arena, NULL,
		&err);
}

static void every_missing_blob_is_named(void **state)
{
	Reapi__Directory root = REAPI__DIRECTORY__INIT;
	Reapi__FileNode files[2], *list[] = {&files[0], &files[1]};
	char names[2][2] = {"a", "b"}, subjects[2][CROFT_DIGEST_TEXT];
	for (int i = 0; i < 2; i++) {
		struct croft_digest digest = croft_digest_of(names[i], 1);
		croft_digest_format(&digest, '/', subjects[i]);
		reapi__file_node__init(&files[i]);
		files[i].name = names[i];
		files[i].digest = croft_digest_to_message(&digest, farm.arena);
	}
	root.n_files = 2;
	root.files = list;
	farm.nothing = farm_put(&root.base);
	struct croft_digest action = farm_action("a");
	const GoogleRpc__PreconditionFailure *failure = refused(
		&action, CROFT_FAILED_PRECONDITION, &google_rpc__precondition_failure__descriptor);
	assert_int_equal(failure->n_violations, 2);
	for (size_t i = 0; i < 2; i++) {
		bool found = false;
		for (size_t k = 0; k < 2; k++)
			found |= strcmp(failure->violations[k]->subject + strlen("blobs/"), subjects[i]) == 0;
		assert_true(found);
		assert_string_equal(failure->violations[i]->type, "MISSING");
	}
}

static void a_full_build_is_told_when_to_try_again(void **state)
{
	struct croft_stream *streams[] = {farm_execute("a"), farm_execute("b")};
	farm_read(streams[0]);
	farm_read(streams[1]);
	struct croft_digest action = farm_action("c");
	const GoogleRpc__RetryInfo *retry =
		refused(&action, CROFT_RESOURCE_EXHAUSTED, &google_rpc__retry_info__descriptor);
	assert_true(retry->retry_delay->seconds > 0);
	/* Another build has a queue of its own. */
	Reapi__RequestMetadata build = REAPI__REQUEST_METADATA__INIT;
	build.tool_invocation_id = (char *)"another";
	struct croft_metadata metadata = {
		REQUEST_METADATA, croft_message_encode(&build.base, farm.arena)};
	struct croft_call_options options = {.metadata = &metadata, .metadata_count = 1};
	struct croft_stream *third = farm_execute_with(&options, action);
	farm_read(third);
	fake_connect(&one, 3);
	for (int i = 0; i < 3; i++)
		fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(streams[0]);
	farm_succeeds(streams[1]);
	farm_succeeds(third);
}

static void drain(const char *id, bool resume)
{
	Farm__DrainAgentRequest request = FARM__DRAIN_AGENT_REQUEST__INIT;
	request.agent_id = (char *)id;
	request.resume = resume;
	assert_ok(farm_call("/croft.v1.Farm/DrainAgent", &request.base,
		&farm__drain_agent_response__descriptor), err);
}

static void a_draining_agent_is_given_nothing(void **state)
{
	fake_connect(&one, 1);
	drain("one", false);
	struct croft_stream *stream = farm_execute("a");
	const Longrunning__Operation *operation = farm_read(stream);
	assert_int_equal(farm_stage(operation), REAPI__EXECUTION_STAGE__VALUE__QUEUED);
	Farm__ExplainRequest request = FARM__EXPLAIN_REQUEST__INIT;
	request.operation = operation->name;
	const Farm__Explanation *why =
		farm_call("/croft.v1.Farm/Explain", &request.base, &farm__explanation__descriptor);
	assert_ok(why, err);
	assert_string_equal(why->stage, "queued");
	assert_true(strlen(why->reason) > 0);
	drain("one", true);
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(stream);
}

static const Farm__AgentStatus *only_agent(void)
{
	Farm__GetStatusRequest request = FARM__GET_STATUS_REQUEST__INIT;
	const Farm__FarmStatus *status =
		farm_call("/croft.v1.Farm/GetStatus", &request.base, &farm__farm_status__descriptor);
	assert_ok(status, err);
	assert_int_equal(status->n_agents, 1);
	return status->agents[0];
}

static void draining_outlasts_the_server(void **state)
{
	fake_connect(&one, 1);
	Farm__DrainAgentRequest request = FARM__DRAIN_AGENT_REQUEST__INIT;
	request.agent_id = (char *)"one";
	request.reason = (char *)"its disk is old";
	assert_ok(farm_call("/croft.v1.Farm/DrainAgent", &request.base,
		&farm__drain_agent_response__descriptor), err);
	farm_end_server();
	fake_leave(&one);
	farm_serve();
	fake_connect(&one, 1);
	assert_string_equal(only_agent()->state, "draining");
	assert_string_equal(only_agent()->drain_reason, "its disk is old");
	struct croft_stream *stream = farm_execute("a");
	assert_int_equal(farm_stage(farm_read(stream)), REAPI__EXECUTION_STAGE__VALUE__QUEUED);
	farm_end_server();
	croft_stream_destroy(stream);
	fake_leave(&one);
	farm_serve();
	drain("one", true); /* before it is back */
	fake_connect(&one, 1);
	assert_string_equal(only_agent()->state, "ready");
	fake_done(&one, fake_job(&one)->lease, 0);
	request.agent_id = (char *)"nobody";
	assert_null(farm_call("/croft.v1.Farm/DrainAgent", &request.base,
		&farm__drain_agent_response__descriptor));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
}

static void a_lost_delta_is_made_up_for(void **state)
{
	fake_connect(&one, 1);
	Farm__PresenceDelta delta = FARM__PRESENCE_DELTA__INIT;
	delta.epoch = 1;
	delta.snapshot = true;
	fake_say(&one, FARM__AGENT_MESSAGE__KIND_PRESENCE, &delta);
	delta.snapshot = false;
	delta.sequence = 2; /* after 0 */
	fake_say(&one, FARM__AGENT_MESSAGE__KIND_PRESENCE, &delta);
	fake_hear(&one, FARM__SERVER_MESSAGE__KIND_RESYNC_PRESENCE);
}

/* An input root with one large file of this content. */
static struct croft_digest heavy_root(uint8_t content)
{
	static uint8_t bytes[2 << 20];
	bytes[0] = content;
	struct croft_digest digest = croft_digest_of(bytes, sizeof(bytes));
	assert_ok(croft_store_put(farm.store, &digest, CROFT_SLICE(bytes, sizeof(bytes)), &err), err);
	Reapi__FileNode node = REAPI__FILE_NODE__INIT, *nodes[] = {&node};
	node.name = (char *)"f";
	node.digest = croft_digest_to_message(&digest, farm.arena);
	Reapi__Directory root = REAPI__DIRECTORY__INIT;
	root.n_files = 1;
	root.files = nodes;
	return farm_put(&root.base);
}

/* Both agents lack all, and what comes to the first pushes out other things. */
static void an_agent_says_that_its_cache_is_full(void **state)
{
	Farm__Heartbeat heartbeat = FARM__HEARTBEAT__INIT;
	heartbeat.cache_disk_bytes = heartbeat.cache_budget_bytes = 1 << 30;
	fake_connect(&one, 1);
	fake_say(&one, FARM__AGENT_MESSAGE__KIND_HEARTBEAT, &heartbeat);
	Farm__PresenceDelta delta = FARM__PRESENCE_DELTA__INIT;
	delta.sequence = 2;
	fake_say(&one, FARM__AGENT_MESSAGE__KIND_PRESENCE, &delta);
	fake_hear(&one, FARM__SERVER_MESSAGE__KIND_RESYNC_PRESENCE); /* the heartbeat was heard by then */
	fake_connect(&other, 1);
	for (uint8_t i = 0; i < 8; i++) {
		farm.nothing = heavy_root(i);
		struct croft_stream *stream = farm_execute("a");
		fake_done(&other, fake_job(&other)->lease, 0);
		farm_succeeds(stream);
	}
}

/* Both agents are as good, and twenty times the same one is no chance. */
static void jobs_of_one_hint_stay_together(void **state)
{
	struct croft_metadata metadata = {LOCALITY_HINT, croft_slice_str("\n\005stick")};
	struct croft_call_options options = {.metadata = &metadata, .metadata_count = 1};
	fake_connect(&one, 1);
	struct croft_stream *stream = farm_execute_with(&options, farm_action("first"));
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(stream);
	fake_connect(&other, 1);
	Reapi__Directory root = REAPI__DIRECTORY__INIT;
	Reapi__SymlinkNode link = REAPI__SYMLINK_NODE__INIT, *links[] = {&link};
	char target[16];
	link.name = (char *)"l";
	link.target = target;
	root.n_symlinks = 1;
	root.symlinks = links;
	for (int i = 0; i < 20; i++) {
		snprintf(target, sizeof(target), "%d", i);
		farm.nothing = farm_put(&root.base); /* the input root would be a hint otherwise */
		stream = farm_execute_with(&options, farm_action(target));
		fake_done(&one, fake_job(&one)->lease, 0);
		farm_succeeds(stream);
		Farm__Heartbeat heartbeat = FARM__HEARTBEAT__INIT;
		fake_say(&other, FARM__AGENT_MESSAGE__KIND_HEARTBEAT, &heartbeat);
	}
}

/* Each is the real server's, and says why in its own words; the result says so, too. */
static void every_policy_places_jobs(void **state)
{
	static const char *const words[][2] = {{"random", "by chance"}, {"round-robin", "its turn in the round"},
		{"least-loaded", "the least loaded agent"}, {"last-used", "where this kind of job ran last"},
		{"bounded-hash", "hash of its kind"}, {"local-bytes", "the fewest missing bytes"},
		{"dask", "the least queued work"}, {"locality", "the least expected seconds"}};
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		farm_end_server();
		farm.config.policy = words[i][0];
		farm_serve();
		fake_connect(&one, 1);
		struct croft_stream *stream = farm_execute(words[i][0]);
		const char *name = croft_arena_strdup(farm.arena, farm_read(stream)->name);
		fake_done(&one, fake_job(&one)->lease, 0);
		farm_succeeds(stream);
		Farm__ExplainRequest request = FARM__EXPLAIN_REQUEST__INIT;
		request.operation = (char *)name;
		const Farm__Explanation *why =
			farm_call("/croft.v1.Farm/Explain", &request.base, &farm__explanation__descriptor);
		assert_ok(why, err);
		assert_non_null(strstr(why->reason, words[i][1]));
		fake_leave(&one);
	}
}

static size_t listed(const char *filter)
{
	Longrunning__ListOperationsRequest request = LONGRUNNING__LIST_OPERATIONS_REQUEST__INIT;
	request.filter = (char *)filter;
	const Longrunning__ListOperationsResponse *response = farm_call(OPERATIONS "ListOperations",
		&request.base, &longrunning__list_operations_response__descriptor);
	return response ? response->n_operations : SIZE_MAX;
}

static void operations_are_listed_by_what_they_are(void **state)
{
	Reapi__RequestMetadata build = REAPI__REQUEST_METADATA__INIT;
	build.tool_invocation_id = (char *)"build 7";
	build.target_id = (char *)"//a:b";
	Reapi__ToolDetails tool = REAPI__TOOL_DETAILS__INIT;
	tool.tool_name = (char *)"make";
	build.tool_details = &tool;
	struct croft_metadata metadata = {
		REQUEST_METADATA, croft_message_encode(&build.base, farm.arena)};
	struct croft_call_options options = {.metadata = &metadata, .metadata_count = 1};
	fake_connect(&one, 1);
	struct croft_stream *running = farm_execute_with(&options, farm_action("running"));
	char *name = croft_arena_strdup(farm.arena, farm_read(running)->name);
	struct croft_stream *queued = farm_execute("queued");
	farm_read(queued);
	assert_int_equal(listed(""), 2);
	assert_int_equal(listed("stage=running"), 1);
	assert_int_equal(listed("agent=one AND stage=running AND build=build 7"), 1);
	assert_int_equal(listed("agent=one AND stage=queued"), 0);
	assert_int_equal(listed("target=//a:b"), 1);
	assert_int_equal(listed("instance="), 2);
	assert_int_equal(listed("instance=other"), 0);
	char action[16 + CROFT_HASH_TEXT] = "action=";
	croft_hash_format(farm_action("queued").hash, action + 7);
	assert_int_equal(listed(action), 1);
	Farm__ExplainRequest request = FARM__EXPLAIN_REQUEST__INIT;
	request.operation = name;
	const Farm__Explanation *why =
		farm_call("/croft.v1.Farm/Explain", &request.base, &farm__explanation__descriptor);
	assert_ok(why, err);
	assert_string_equal(why->requested_by, "make invocation build 7 target //a:b");
	assert_int_equal(listed("stage"), SIZE_MAX);
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	assert_int_equal(listed("colour=blue"), SIZE_MAX);
	croft_stream_destroy(running);
	croft_stream_destroy(queued);
}

#define ON_A_FARM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_A_FARM(every_missing_blob_is_named),
		ON_A_FARM(a_full_build_is_told_when_to_try_again),
		ON_A_FARM(a_draining_agent_is_given_nothing),
		ON_A_FARM(draining_outlasts_the_server),
		ON_A_FARM(a_lost_delta_is_made_up_for),
		ON_A_FARM(an_agent_says_that_its_cache_is_full),
		ON_A_FARM(jobs_of_one_hint_stay_together),
		ON_A_FARM(every_policy_places_jobs),
		ON_A_FARM(operations_are_listed_by_what_they_are),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
