/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private blobs: bob knows the digests of ann's blobs, and gets nothing for it, whatever he calls. */
#include "build/bazel/remote/asset/v1/remote_asset.pb-c.h"
#include "fs/remote.h"
#include "google/bytestream/bytestream.pb-c.h"
#include "tests/unit/sched/loopback_calls.h"

#define CAS "/build.bazel.remote.execution.v2.ContentAddressableStorage/"
#define ACTION_CACHE "/build.bazel.remote.execution.v2.ActionCache/"

static char *ann = (char *)"ann", *bob = (char *)"bob";

static int start_private(void **state)
{
	loopback = (struct loopback){.private_blobs = true};
	return set_up(state);
}

static Reapi__Digest *message(const struct croft_digest *digest)
{
	return croft_digest_to_message(digest, loopback.arena);
}

static void *call_ok(const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response)
{
	err = CROFT_ERROR_INIT;
	void *answer = call(path, request, response);
	assert_ok(answer, err);
	return answer;
}

static void call_fails(enum croft_code code, const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response)
{
	err = CROFT_ERROR_INIT;
	assert_null(call(path, request, response));
	if (err.code != code)
		fail_msg("%s: expected %s, came %s: %s", path, croft_code_name(code), croft_code_name(err.code),
			err.message);
}

static struct croft_slice noise(uint32_t seed, size_t size)
{
	void *bytes = croft_arena_alloc(loopback.arena, size);
	fill_noise(bytes, size, seed);
	return CROFT_SLICE(bytes, size);
}

static int update(char *instance, const struct croft_digest *digest, struct croft_slice bytes)
{
	Reapi__BatchUpdateBlobsRequest__Request one = REAPI__BATCH_UPDATE_BLOBS_REQUEST__REQUEST__INIT, *all = &one;
	one.digest = message(digest);
	one.data = (ProtobufCBinaryData){bytes.size, (uint8_t *)bytes.data};
	Reapi__BatchUpdateBlobsRequest request = REAPI__BATCH_UPDATE_BLOBS_REQUEST__INIT;
	request.instance_name = instance;
	request.n_requests = 1;
	request.requests = &all;
	const Reapi__BatchUpdateBlobsResponse *response = call_ok(
		CAS "BatchUpdateBlobs", &request.base, &reapi__batch_update_blobs_response__descriptor);
	return response->responses[0]->status->code;
}

static struct croft_digest put(char *instance, struct croft_slice bytes)
{
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	assert_int_equal(update(instance, &digest, bytes), CROFT_OK);
	return digest;
}

/* By ByteStream, or by chunks. */
static struct croft_digest put_large(char *instance, struct croft_slice bytes)
{
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	struct croft_remote *remote = croft_remote_create(loopback.channel, instance);
	struct croft_upload *upload = croft_upload_create(remote);
	assert_ok(croft_upload_bytes(upload, &digest, bytes, &err), err);
	assert_ok(croft_upload_flush(upload, NULL, &err), err);
	croft_upload_destroy(upload);
	croft_remote_destroy(remote);
	return digest;
}

static bool misses(char *instance, const struct croft_digest *digest)
{
	Reapi__Digest *one = message(digest);
	Reapi__FindMissingBlobsRequest request = REAPI__FIND_MISSING_BLOBS_REQUEST__INIT;
	request.instance_name = instance;
	request.n_blob_digests = 1;
	request.blob_digests = &one;
	const Reapi__FindMissingBlobsResponse *response = call_ok(
		CAS "FindMissingBlobs", &request.base, &reapi__find_missing_blobs_response__descriptor);
	return response->n_missing_blob_digests == 1;
}

static int batch_read(char *instance, const struct croft_digest *digest)
{
	Reapi__Digest *one = message(digest);
	Reapi__BatchReadBlobsRequest request = REAPI__BATCH_READ_BLOBS_REQUEST__INIT;
	request.instance_name = instance;
	request.n_digests = 1;
	request.digests = &one;
	const Reapi__BatchReadBlobsResponse *response =
		call_ok(CAS "BatchReadBlobs", &request.base, &reapi__batch_read_blobs_response__descriptor);
	assert_int_equal(response->responses[0]->data.len,
		response->responses[0]->status->code ? 0 : digest->size_bytes);
	return response->responses[0]->status->code;
}

/* The stream's end; of what came before it *size is the bytes. */
static int stream_read(const char *prefix, const struct croft_digest *digest, uint64_t *size)
{
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '/', text);
	Bytestream__ReadRequest request = BYTESTREAM__READ_REQUEST__INIT;
	request.resource_name = croft_arena_printf(loopback.arena, "%s/%s", prefix, text);
	struct croft_stream *stream = croft_stream_open(loopback.channel, NULL, "/google.bytestream.ByteStream/Read",
		&bytestream__read_response__descriptor, &err);
	assert_ok(stream && croft_stream_write(stream, &request.base, &err), err);
	croft_stream_close_write(stream, NULL);
	void *part;
	int got;
	*size = 0;
	err = CROFT_ERROR_INIT;
	while ((got = croft_stream_read(stream, loopback.arena, &part, &err)) > 0)
		*size += ((Bytestream__ReadResponse *)part)->data.len;
	croft_stream_destroy(stream);
	return got == 0 ? CROFT_OK : err.code;
}

static void a_guessed_digest_is_missing_and_not_found(void **state)
{
	uint64_t size;
	struct croft_digest blob = put(ann, noise(1, 4000));
	assert_false(misses(ann, &blob));
	assert_int_equal(batch_read(ann, &blob), CROFT_OK);
	assert_int_equal(stream_read("ann/blobs", &blob, &size), CROFT_OK);
	assert_int_equal(size, blob.size_bytes);
	for (int i = 0; i < 2; i++) {
		char *guess = i ? bob : (char *)"";
		assert_true(misses(guess, &blob));
		assert_int_equal(batch_read(guess, &blob), CROFT_NOT_FOUND);
		assert_int_equal(stream_read(i ? "bob/blobs" : "blobs", &blob, &size), CROFT_NOT_FOUND);
		assert_int_equal(stream_read(i ? "bob/compressed-blobs/zstd" : "compressed-blobs/zstd", &blob, &size),
			CROFT_NOT_FOUND);
		assert_int_equal(size, 0);
	}
	/* The words are those of a blob that is nowhere. */
	struct croft_digest nowhere = blob;
	struct croft_error hidden = err;
	nowhere.hash[0] ^= 1;
	assert_int_equal(stream_read("bob/blobs", &nowhere, &size), CROFT_NOT_FOUND);
	char text[CROFT_HASH_TEXT], other[CROFT_HASH_TEXT];
	croft_hash_format(blob.hash, text);
	croft_hash_format(nowhere.hash, other);
	char *place = strstr(err.message, other);
	assert_non_null(place);
	memcpy(place, text, strlen(text));
	assert_string_equal(err.message, hidden.message);
}

static void a_put_proves_possession_and_only_the_right_bytes_do(void **state)
{
	struct croft_slice bytes = noise(1, 4000), wrong = noise(2, 4000);
	struct croft_digest blob = put(ann, bytes);
	assert_int_equal(update(bob, &blob, wrong), CROFT_INVALID_ARGUMENT);
	assert_true(misses(bob, &blob));
	struct croft_store_stat before, after;
	croft_store_stat(loopback.store, &before);
	assert_int_equal(update(bob, &blob, bytes), CROFT_OK);
	croft_store_stat(loopback.store, &after);
	assert_int_equal(before.blobs, after.blobs);
	assert_false(misses(bob, &blob));
	assert_int_equal(batch_read(bob, &blob), CROFT_OK);
}

/* One message with the last byte's worth short of the whole, or all. */
static int64_t write_some(char *instance, const struct croft_digest *digest, struct croft_slice bytes,
	const char *uuid, bool finish)
{
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '/', text);
	Bytestream__WriteRequest request = BYTESTREAM__WRITE_REQUEST__INIT;
	request.resource_name = croft_arena_printf(loopback.arena, "%s/uploads/%s/blobs/%s", instance, uuid, text);
	request.data = (ProtobufCBinaryData){bytes.size, (uint8_t *)bytes.data};
	request.finish_write = finish;
	struct croft_stream *stream = croft_stream_open(loopback.channel, NULL, "/google.bytestream.ByteStream/Write",
		&bytestream__write_response__descriptor, &err);
	assert_ok(stream && croft_stream_write(stream, &request.base, &err), err);
	croft_stream_close_write(stream, NULL);
	void *answer;
	int got = croft_stream_read(stream, loopback.arena, &answer, &err);
	croft_stream_destroy(stream);
	return got > 0 ? ((Bytestream__WriteResponse *)answer)->committed_size : -1;
}

static Bytestream__QueryWriteStatusResponse *query(char *instance, const struct croft_digest *digest, const char *uuid)
{
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '/', text);
	Bytestream__QueryWriteStatusRequest request = BYTESTREAM__QUERY_WRITE_STATUS_REQUEST__INIT;
	request.resource_name = croft_arena_printf(loopback.arena, "%s/uploads/%s/blobs/%s", instance, uuid, text);
	err = CROFT_ERROR_INIT;
	return call("/google.bytestream.ByteStream/QueryWriteStatus", &request.base,
		&bytestream__query_write_status_response__descriptor);
}

static void a_streamed_upload_is_taken_to_its_end(void **state)
{
	const char *uuid = "11111111-2222-3333-4444-555555555555";
	struct croft_slice bytes = noise(3, 900000);
	struct croft_digest blob = croft_digest_of(bytes.data, bytes.size);
	assert_int_equal(write_some(ann, &blob, bytes, uuid, true), 900000);
	/* Whether it is there is not told by an early answer, or by the state of a write. */
	assert_int_equal(query(bob, &blob, uuid)->committed_size, 0);
	assert_false(query(bob, &blob, uuid)->complete);
	assert_int_equal(write_some(bob, &blob, CROFT_SLICE(bytes.data, 1000), uuid, false), 1000);
	assert_int_equal(query(bob, &blob, uuid)->committed_size, 1000);
	assert_int_equal(query((char *)"eve", &blob, uuid)->committed_size, 0); /* nobody hears of bob's upload */
	assert_true(misses(bob, &blob));
	assert_int_equal(write_some(bob, &blob, bytes, uuid, true), 900000);
	assert_false(misses(bob, &blob));
	assert_true(query(bob, &blob, uuid)->complete);
}

static void large_blobs_are_hidden_with_their_chunks(void **state)
{
	struct croft_slice bytes = noise(4, 5 << 20);
	struct croft_digest large = put_large(ann, bytes);
	Reapi__SplitBlobRequest split = REAPI__SPLIT_BLOB_REQUEST__INIT;
	split.blob_digest = message(&large);
	split.instance_name = ann;
	Reapi__SplitBlobResponse *recipe =
		call_ok(CAS "SplitBlob", &split.base, &reapi__split_blob_response__descriptor);
	assert_true(recipe->n_chunk_digests > 2);
	split.instance_name = bob;
	call_fails(CROFT_NOT_FOUND, CAS "SplitBlob", &split.base, &reapi__split_blob_response__descriptor);
	for (size_t i = 0; i < recipe->n_chunk_digests; i++) {
		struct croft_digest chunk;
		assert_ok(croft_digest_from_message(recipe->chunk_digests[i], "chunk", &chunk, &err), err);
		assert_false(misses(ann, &chunk));
		assert_true(misses(bob, &chunk));
		assert_int_equal(batch_read(bob, &chunk), CROFT_NOT_FOUND);
	}
	/* To know the recipe is not to have the bytes. */
	Reapi__SpliceBlobRequest splice = REAPI__SPLICE_BLOB_REQUEST__INIT;
	splice.instance_name = bob;
	splice.blob_digest = message(&large);
	splice.n_chunk_digests = recipe->n_chunk_digests;
	splice.chunk_digests = recipe->chunk_digests;
	call_fails(CROFT_NOT_FOUND, CAS "SpliceBlob", &splice.base, &reapi__splice_blob_response__descriptor);
	assert_true(misses(bob, &large));
	put_large(bob, bytes);
	assert_false(misses(bob, &large));
	call_ok(CAS "SplitBlob", &split.base, &reapi__split_blob_response__descriptor);
}

/* A Directory with one file. */
static struct croft_slice directory_of(const struct croft_digest *file)
{
	Reapi__FileNode node = REAPI__FILE_NODE__INIT, *nodes[] = {&node};
	node.name = (char *)"f";
	node.digest = message(file);
	Reapi__Directory directory = REAPI__DIRECTORY__INIT;
	directory.n_files = 1;
	directory.files = nodes;
	return croft_message_encode(&directory.base, loopback.arena);
}

static void trees_are_hidden(void **state)
{
	struct croft_digest secret = put(ann, noise(5, 100));
	struct croft_digest inner = put(ann, directory_of(&secret));
	Reapi__DirectoryNode node = REAPI__DIRECTORY_NODE__INIT, *nodes[] = {&node};
	node.name = (char *)"d";
	node.digest = message(&inner);
	Reapi__Directory outer = REAPI__DIRECTORY__INIT;
	outer.n_directories = 1;
	outer.directories = nodes;
	/* bob makes a root around ann's directory, whose digest he guessed. */
	struct croft_digest root = put(bob, croft_message_encode(&outer.base, loopback.arena));
	for (int i = 0; i < 2; i++) {
		Reapi__GetTreeRequest request = REAPI__GET_TREE_REQUEST__INIT;
		request.instance_name = bob;
		request.root_digest = message(i ? &root : &inner);
		struct croft_stream *stream = croft_stream_open(
			loopback.channel, NULL, CAS "GetTree", &reapi__get_tree_response__descriptor, &err);
		assert_ok(stream && croft_stream_write(stream, &request.base, &err), err);
		croft_stream_close_write(stream, NULL);
		void *page;
		err = CROFT_ERROR_INIT;
		int got = croft_stream_read(stream, loopback.arena, &page, &err);
		if (i) { /* his own root, and nothing below it */
			assert_int_equal(got, 1);
			assert_int_equal(((Reapi__GetTreeResponse *)page)->n_directories, 1);
		} else {
			assert_int_equal(got, -1);
			assert_int_equal(err.code, CROFT_NOT_FOUND);
		}
		croft_stream_destroy(stream);
	}
}

static Reapi__ActionResult *result_with(const struct croft_digest *output)
{
	Reapi__OutputFile *file = croft_arena_alloc(loopback.arena, sizeof(*file)), **files =
		croft_arena_array(loopback.arena, 1, sizeof(*files));
	reapi__output_file__init(file);
	file->path = (char *)"out";
	file->digest = message(output);
	files[0] = file;
	Reapi__ActionResult *result = croft_arena_alloc(loopback.arena, sizeof(*result));
	reapi__action_result__init(result);
	result->n_output_files = 1;
	result->output_files = files;
	return result;
}

static void results_name_only_what_their_author_has(void **state)
{
	struct croft_digest output = put(ann, noise(6, 100)), action = croft_digest_of("an action", 9);
	Reapi__UpdateActionResultRequest request = REAPI__UPDATE_ACTION_RESULT_REQUEST__INIT;
	request.action_digest = message(&action);
	request.action_result = result_with(&output);
	request.instance_name = bob;
	call_fails(CROFT_FAILED_PRECONDITION, ACTION_CACHE "UpdateActionResult", &request.base,
		&reapi__action_result__descriptor);
	assert_true(misses(bob, &output));
	request.instance_name = ann;
	request.action_result = result_with(&output);
	call_ok(ACTION_CACHE "UpdateActionResult", &request.base, &reapi__action_result__descriptor);
	Reapi__GetActionResultRequest get = REAPI__GET_ACTION_RESULT_REQUEST__INIT;
	get.action_digest = message(&action);
	get.instance_name = bob;
	call_fails(
		CROFT_NOT_FOUND, ACTION_CACHE "GetActionResult", &get.base, &reapi__action_result__descriptor);
	get.instance_name = ann;
	call_ok(ACTION_CACHE "GetActionResult", &get.base, &reapi__action_result__descriptor);
}

/* Who brings the bytes inside of a result has put them. */
static void inlined_outputs_are_their_authors(void **state)
{
	struct croft_slice bytes = noise(7, 90);
	struct croft_digest output = croft_digest_of(bytes.data, bytes.size), action = croft_digest_of("an action", 9);
	Reapi__UpdateActionResultRequest request = REAPI__UPDATE_ACTION_RESULT_REQUEST__INIT;
	request.action_digest = message(&action);
	request.instance_name = ann;
	request.action_result = result_with(&output);
	request.action_result->output_files[0]->contents =
		(ProtobufCBinaryData){bytes.size, (uint8_t *)bytes.data};
	call_ok(ACTION_CACHE "UpdateActionResult", &request.base, &reapi__action_result__descriptor);
	assert_false(misses(ann, &output));
	assert_true(misses(bob, &output));
}

/* As the scheduler does for what an agent made. */
static void a_result_of_ones_own_shows_what_it_names(void **state)
{
	struct croft_digest output = loopback_put(&loopback, "made by a job", 13);
	struct croft_digest action = croft_digest_of("an action", 9);
	char key[4 + CROFT_HASH_TEXT] = "ann";
	croft_hash_format(action.hash, key + 4);
	struct croft_ref ref = {CROFT_REF_BLOB, output};
	struct croft_slice value = croft_message_encode(&result_with(&output)->base, loopback.arena);
	assert_ok(croft_store_record_put(loopback.store, CROFT_RECORD_ACTION,
		CROFT_SLICE(key, 4 + CROFT_HASH_TEXT - 1), value, &ref, 1, 0, &err), err);
	assert_true(misses(ann, &output));
	Reapi__GetActionResultRequest get = REAPI__GET_ACTION_RESULT_REQUEST__INIT;
	get.action_digest = message(&action);
	get.instance_name = ann;
	call_ok(ACTION_CACHE "GetActionResult", &get.base, &reapi__action_result__descriptor);
	assert_false(misses(ann, &output));
	assert_true(misses(bob, &output));
}

static void assets_name_only_what_their_author_has(void **state)
{
	struct croft_digest blob = put(ann, noise(8, 100)), root = put(ann, directory_of(&blob));
	char *uri = (char *)"urn:thing";
	Asset__PushBlobRequest push = ASSET__PUSH_BLOB_REQUEST__INIT;
	push.uris = &uri;
	push.n_uris = 1;
	push.blob_digest = message(&blob);
	push.instance_name = bob;
	call_fails(CROFT_FAILED_PRECONDITION, "/build.bazel.remote.asset.v1.Push/PushBlob", &push.base,
		&asset__push_blob_response__descriptor);
	/* bob has the Directory, say, but not what it names. */
	put(bob, directory_of(&blob));
	Asset__PushDirectoryRequest directory = ASSET__PUSH_DIRECTORY_REQUEST__INIT;
	directory.uris = &uri;
	directory.n_uris = 1;
	directory.root_directory_digest = message(&root);
	directory.instance_name = bob;
	call_fails(CROFT_FAILED_PRECONDITION, "/build.bazel.remote.asset.v1.Push/PushDirectory", &directory.base,
		&asset__push_directory_response__descriptor);
	push.instance_name = ann;
	call_ok("/build.bazel.remote.asset.v1.Push/PushBlob", &push.base, &asset__push_blob_response__descriptor);
	Asset__FetchBlobRequest fetch = ASSET__FETCH_BLOB_REQUEST__INIT;
	fetch.uris = &uri;
	fetch.n_uris = 1;
	fetch.instance_name = bob;
	const Asset__FetchBlobResponse *response = call_ok("/build.bazel.remote.asset.v1.Fetch/FetchBlob",
		&fetch.base, &asset__fetch_blob_response__descriptor);
	assert_int_equal(response->status->code, CROFT_NOT_FOUND);
	assert_true(misses(bob, &blob));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_guessed_digest_is_missing_and_not_found, start_private, tear_down),
		cmocka_unit_test_setup_teardown(
			a_put_proves_possession_and_only_the_right_bytes_do, start_private, tear_down),
		cmocka_unit_test_setup_teardown(a_streamed_upload_is_taken_to_its_end, start_private, tear_down),
		cmocka_unit_test_setup_teardown(large_blobs_are_hidden_with_their_chunks, start_private, tear_down),
		cmocka_unit_test_setup_teardown(trees_are_hidden, start_private, tear_down),
		cmocka_unit_test_setup_teardown(results_name_only_what_their_author_has, start_private, tear_down),
		cmocka_unit_test_setup_teardown(inlined_outputs_are_their_authors, start_private, tear_down),
		cmocka_unit_test_setup_teardown(a_result_of_ones_own_shows_what_it_names, start_private, tear_down),
		cmocka_unit_test_setup_teardown(assets_name_only_what_their_author_has, start_private, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
