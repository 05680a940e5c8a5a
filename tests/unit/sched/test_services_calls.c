/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Over gRPC on the loopback; what any REAPI server must do is checked by tests/reapi. */
#include "build/bazel/remote/asset/v1/remote_asset.pb-c.h"
#include "google/bytestream/bytestream.pb-c.h"
#include "google/protobuf/wrappers.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "tests/unit/sched/loopback_calls.h"

#include <unistd.h>

#define CAS "/build.bazel.remote.execution.v2.ContentAddressableStorage/"
#define AC "/build.bazel.remote.execution.v2.ActionCache/"

static Reapi__Digest *message(const struct croft_digest *digest)
{
	return croft_digest_to_message(digest, loopback.arena);
}

/* A Directory whose encoder put its fields in another order: it has another digest than the canonical
 * form of the same. */
static void get_tree_sends_directories_as_they_were_uploaded(void **state)
{
	static const uint8_t symlink_before_file[] = {
		0x1a, 6, 0x0a, 1, 'l', 0x12, 1, 't', 0x0a, 3, 0x0a, 1, 'f'};
	struct croft_digest root =
		loopback_put(&loopback, symlink_before_file, sizeof(symlink_before_file));
	Reapi__GetTreeRequest request = REAPI__GET_TREE_REQUEST__INIT;
	request.root_digest = message(&root);
	/* Read as a message that has raw bytes where the Directory stands. */
	struct croft_stream *stream = croft_stream_open(
		loopback.channel, NULL, CAS "GetTree", &google__protobuf__bytes_value__descriptor, &err);
	assert_ok(stream && croft_stream_write(stream, &request.base, &err) &&
		croft_stream_close_write(stream, &err), err);
	void *answer;
	assert_int_equal(croft_stream_read(stream, loopback.arena, &answer, &err), 1);
	const Google__Protobuf__BytesValue *page = answer;
	assert_int_equal(page->value.len, sizeof(symlink_before_file));
	assert_memory_equal(page->value.data, symlink_before_file, sizeof(symlink_before_file));
	assert_int_equal(croft_stream_read(stream, loopback.arena, &answer, &err), 0);
	croft_stream_destroy(stream);
}

static Reapi__ActionResult *get_result(const char *instance, const struct croft_digest *action)
{
	Reapi__GetActionResultRequest request = REAPI__GET_ACTION_RESULT_REQUEST__INIT;
	request.instance_name = (char *)instance;
	request.action_digest = message(action);
	return call(AC "GetActionResult", &request.base, &reapi__action_result__descriptor);
}

static void instances_have_separate_action_caches(void **state)
{
	struct croft_digest action = croft_digest_of("action", 6);
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	result.exit_code = 7;
	Reapi__UpdateActionResultRequest request = REAPI__UPDATE_ACTION_RESULT_REQUEST__INIT;
	request.instance_name = "one/two";
	request.action_digest = message(&action);
	request.action_result = &result;
	assert_ok(call(AC "UpdateActionResult", &request.base, &reapi__action_result__descriptor), err);
	Reapi__ActionResult *got = get_result("one/two", &action);
	assert_ok(got, err);
	assert_int_equal(got->exit_code, 7);
	assert_null(get_result("one", &action));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	assert_null(get_result("", &action));
}

static void inlined_outputs_become_blobs(void **state)
{
	struct croft_digest action = croft_digest_of("action", 6), out = croft_digest_of("hello", 5);
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	result.stdout_raw = (ProtobufCBinaryData){5, (uint8_t *)"hello"};
	Reapi__UpdateActionResultRequest request = REAPI__UPDATE_ACTION_RESULT_REQUEST__INIT;
	request.action_digest = message(&action);
	request.action_result = &result;
	assert_ok(call(AC "UpdateActionResult", &request.base, &reapi__action_result__descriptor), err);
	Reapi__ActionResult *got = get_result("", &action);
	assert_ok(got, err);
	assert_int_equal(got->stdout_raw.len, 0);
	assert_string_equal(got->stdout_digest->hash, message(&out)->hash);
	struct croft_slice data;
	assert_ok(croft_store_get(loopback.store, &out, loopback.arena, &data, &err), err);
}

static int set_up_with_short_leases(void **state)
{
	loopback.lease_ms = 1;
	loopback.in_files = true;
	return set_up(state);
}

static int tear_down_with_short_leases(void **state)
{
	loopback.lease_ms = 0;
	loopback.in_files = false;
	return tear_down(state);
}

static bool is_there(const struct croft_digest *digest)
{
	struct croft_slice data;
	return croft_store_get(loopback.store, digest, loopback.arena, &data, NULL);
}

/* ResultsCachePolicy: of two results the one that was put first stays, if its priority says so. */
static void a_result_of_a_low_priority_is_kept_for_longer(void **state)
{
	static uint8_t bytes[1 << 20];
	struct croft_digest outputs[2];
	for (int i = 0; i < 2; i++) {
		bytes[0] = (uint8_t)i;
		outputs[i] = croft_digest_of(bytes, sizeof(bytes));
		struct croft_digest action = croft_digest_of(&i, sizeof(i));
		Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
		result.stdout_raw = (ProtobufCBinaryData){sizeof(bytes), bytes};
		Reapi__ResultsCachePolicy policy = REAPI__RESULTS_CACHE_POLICY__INIT;
		policy.priority = i == 0 ? -1 : 1;
		Reapi__UpdateActionResultRequest request = REAPI__UPDATE_ACTION_RESULT_REQUEST__INIT;
		request.action_digest = message(&action);
		request.action_result = &result;
		request.results_cache_policy = &policy;
		assert_ok(call(AC "UpdateActionResult", &request.base, &reapi__action_result__descriptor), err);
	}
	struct croft_store_stat stat;
	usleep(5000); /* no lease holds */
	croft_store_stat(loopback.store, &stat);
	croft_store_collect(loopback.store, stat.disk_bytes - sizeof(bytes) / 2, NULL, NULL, &err);
	assert_true(is_there(&outputs[0]));
	assert_false(is_there(&outputs[1]));
}

static void every_missing_output_is_named_as_a_violation(void **state)
{
	struct croft_digest action = croft_digest_of("action", 6), out = croft_digest_of("o", 1),
						error = croft_digest_of("e", 1);
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	result.stdout_digest = message(&out);
	result.stderr_digest = message(&error);
	Reapi__UpdateActionResultRequest request = REAPI__UPDATE_ACTION_RESULT_REQUEST__INIT;
	request.action_digest = message(&action);
	request.action_result = &result;
	struct croft_slice details = {NULL, 0};
	struct croft_call_options options = {.details_arena = loopback.arena, .details = &details};
	assert_null(croft_unary(loopback.channel, &options, AC "UpdateActionResult", &request.base,
		&reapi__action_result__descriptor, loopback.arena, &err));
	assert_int_equal(err.code, CROFT_FAILED_PRECONDITION);
	const GoogleRpc__Status *status = croft_message_decode(
		&google_rpc__status__descriptor, details, loopback.arena, NULL, &err);
	assert_int_equal(status->n_details, 1);
	const GoogleRpc__PreconditionFailure *failure = croft_message_decode(
		&google_rpc__precondition_failure__descriptor,
		CROFT_SLICE(status->details[0]->value.data, status->details[0]->value.len), loopback.arena,
		NULL, &err);
	assert_int_equal(failure->n_violations, 2);
	assert_string_equal(failure->violations[0]->type, "MISSING");
	assert_string_equal(failure->violations[0]->subject,
		croft_arena_printf(loopback.arena, "blobs/%s/1", message(&out)->hash));
}

static void a_blob_and_a_directory_of_one_name_are_two_assets(void **state)
{
	struct croft_digest blob = loopback_put(&loopback, "blob", 4);
	char *uris[] = {"urn:x"};
	Asset__PushBlobRequest push = ASSET__PUSH_BLOB_REQUEST__INIT;
	push.uris = uris;
	push.n_uris = 1;
	push.blob_digest = message(&blob);
	assert_ok(call("/build.bazel.remote.asset.v1.Push/PushBlob", &push.base,
		&asset__push_blob_response__descriptor), err);
	Asset__FetchDirectoryRequest fetch = ASSET__FETCH_DIRECTORY_REQUEST__INIT;
	fetch.uris = uris;
	fetch.n_uris = 1;
	const Asset__FetchDirectoryResponse *answer =
		call("/build.bazel.remote.asset.v1.Fetch/FetchDirectory", &fetch.base,
			&asset__fetch_directory_response__descriptor);
	assert_ok(answer, err);
	assert_int_equal(answer->status->code, CROFT_NOT_FOUND);
	Asset__FetchBlobRequest fetch_blob = ASSET__FETCH_BLOB_REQUEST__INIT;
	fetch_blob.uris = uris;
	fetch_blob.n_uris = 1;
	const Asset__FetchBlobResponse *found = call("/build.bazel.remote.asset.v1.Fetch/FetchBlob",
		&fetch_blob.base, &asset__fetch_blob_response__descriptor);
	assert_ok(found, err);
	assert_string_equal(found->blob_digest->hash, push.blob_digest->hash);
}

static void a_long_name_is_as_good_as_a_short_one(void **state)
{
	struct croft_digest blob = loopback_put(&loopback, "blob", 4);
	char name[4000];
	memset(name, 'u', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	char *uris[] = {name};
	Asset__PushBlobRequest push = ASSET__PUSH_BLOB_REQUEST__INIT;
	push.uris = uris;
	push.n_uris = 1;
	push.blob_digest = message(&blob);
	assert_ok(call("/build.bazel.remote.asset.v1.Push/PushBlob", &push.base,
		&asset__push_blob_response__descriptor), err);
	Asset__FetchBlobRequest fetch = ASSET__FETCH_BLOB_REQUEST__INIT;
	fetch.uris = uris;
	fetch.n_uris = 1;
	const Asset__FetchBlobResponse *found = call("/build.bazel.remote.asset.v1.Fetch/FetchBlob",
		&fetch.base, &asset__fetch_blob_response__descriptor);
	assert_ok(found, err);
	assert_int_equal(found->status->code, CROFT_OK);
	name[sizeof(name) - 2] = 'v';
	found = call("/build.bazel.remote.asset.v1.Fetch/FetchBlob", &fetch.base,
		&asset__fetch_blob_response__descriptor);
	assert_ok(found, err);
	assert_int_equal(found->status->code, CROFT_NOT_FOUND);
}

static void a_header_that_names_another_resource_is_refused(void **state)
{
	struct croft_digest blob = loopback_put(&loopback, "blob", 4);
	Bytestream__ReadRequest request = BYTESTREAM__READ_REQUEST__INIT;
	request.resource_name =
		croft_arena_printf(loopback.arena, "blobs/%s/4", message(&blob)->hash);
	struct croft_metadata header = {
		"build.bazel.remote.execution.v2.resource-name", croft_slice_str("blobs/other")};
	struct croft_call_options options = {.metadata = &header, .metadata_count = 1};
	struct croft_stream *stream = croft_stream_open(loopback.channel, &options,
		"/google.bytestream.ByteStream/Read", &bytestream__read_response__descriptor, &err);
	void *answer;
	assert_ok(croft_stream_write(stream, &request.base, &err), err);
	assert_int_equal(croft_stream_read(stream, loopback.arena, &answer, &err), -1);
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	croft_stream_destroy(stream);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			get_tree_sends_directories_as_they_were_uploaded, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			instances_have_separate_action_caches, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_result_of_a_low_priority_is_kept_for_longer, set_up_with_short_leases,
			tear_down_with_short_leases),
		cmocka_unit_test_setup_teardown(inlined_outputs_become_blobs, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			every_missing_output_is_named_as_a_violation, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_blob_and_a_directory_of_one_name_are_two_assets, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_long_name_is_as_good_as_a_short_one, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_header_that_names_another_resource_is_refused, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
