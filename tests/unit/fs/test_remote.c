/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/remote.h"

#include "fs/chunker.h"
#include "proto/base/cleanup.h"

#include "tests/unit/sched/loopback.h"

#include "google/bytestream/bytestream.pb-c.h"

#include <stdatomic.h>
#include <unistd.h>

enum { LARGE = 9 << 20 };

static struct loopback loopback;
static struct croft_remote *remote;
static struct croft_error err;

static int set_up(void **state)
{
	loopback_start(&loopback);
	remote = croft_remote_create(loopback.channel, "some/instance");
	err = CROFT_ERROR_INIT;
	return 0;
}

static int tear_down(void **state)
{
	croft_remote_destroy(remote);
	loopback_stop(&loopback);
	return 0;
}

/* Bytes that depend on the number, in the loopback's arena. */
static struct croft_slice content(uint32_t number, size_t size)
{
	uint8_t *data = croft_arena_alloc(loopback.arena, size);
	fill_noise(data, size, number + 1);
	return CROFT_SLICE(data, size);
}

static struct croft_digest digest_of(struct croft_slice data)
{
	return croft_digest_of(data.data, data.size);
}

static void what_is_uploaded_is_there_and_counted_once(void **state)
{
	struct croft_upload *upload = croft_upload_create(remote);
	struct croft_slice small = content(1, 1000), large = content(2, LARGE);
	struct croft_digest digests[] = {digest_of(small), digest_of(large), croft_digest_empty};
	for (int i = 0; i < 2; i++) {
		assert_ok(croft_upload_bytes(upload, &digests[0], small, &err), err);
		assert_ok(croft_upload_bytes(upload, &digests[1], large, &err), err);
		assert_ok(croft_upload_bytes(upload, &digests[2], CROFT_SLICE("", 0), &err), err);
	}
	struct croft_upload_stat stat;
	assert_ok(croft_upload_flush(upload, &stat, &err), err);
	assert_int_equal(stat.blobs, 6);
	assert_int_equal(stat.sent_blobs, 2);
	assert_int_equal(stat.sent_bytes, 1000 + LARGE);
	croft_upload_destroy(upload);
	bool missing[3];
	assert_ok(croft_store_find_missing(loopback.store, digests, 3, missing, &err), err);
	assert_false(missing[0] || missing[1] || missing[2]);
}

static void what_the_server_has_is_not_sent_again(void **state)
{
	struct croft_slice data = content(1, 1000);
	struct croft_digest digest = loopback_put(&loopback, data.data, data.size);
	struct croft_upload *upload = croft_upload_create(remote);
	struct croft_upload_stat stat;
	assert_ok(croft_upload_bytes(upload, &digest, data, &err), err);
	assert_ok(croft_upload_flush(upload, &stat, &err), err);
	assert_int_equal(stat.sent_blobs, 0);
	croft_upload_destroy(upload);
}

static void of_a_new_version_only_what_differs_is_sent(void **state)
{
	struct croft_slice first = content(1, LARGE);
	char *bytes = croft_arena_alloc(loopback.arena, LARGE + 10);
	memcpy(bytes, first.data, LARGE / 3);
	memcpy(bytes + LARGE / 3, "difference", 10);
	memcpy(bytes + LARGE / 3 + 10, (const char *)first.data + LARGE / 3, LARGE - LARGE / 3);
	struct croft_slice versions[] = {first, CROFT_SLICE(bytes, LARGE + 10)};
	struct croft_upload_stat stat;
	for (int i = 0; i < 2; i++) {
		struct croft_digest digest = digest_of(versions[i]);
		struct croft_upload *upload = croft_upload_create(remote);
		assert_ok(croft_upload_bytes(upload, &digest, versions[i], &err), err);
		assert_ok(croft_upload_flush(upload, &stat, &err), err);
		croft_upload_destroy(upload);
		struct croft_slice back;
		assert_ok(croft_remote_read(remote, &digest, loopback.arena, &back, &err), err);
		assert_true(croft_slice_equal(back, versions[i]));
		if (i == 0)
			assert_int_equal(stat.sent_bytes, LARGE);
	}
	assert_int_equal(stat.sent_blobs, 1);
	assert_in_range(stat.sent_bytes, 1, 2 * CROFT_CHUNK_MOST);
}

static void write_file(const char *name, struct croft_slice data)
{
	const char *path = croft_arena_printf(loopback.arena, "%s/%s", loopback.folder, name);
	assert_ok(croft_write_file(AT_FDCWD, path, data.data, data.size, 0644, &err), err);
}

static void files_are_uploaded_from_their_folder(void **state)
{
	struct croft_slice small = content(1, 5000), large = content(2, LARGE);
	struct croft_digest digests[] = {digest_of(small), digest_of(large)};
	write_file("small-file", small);
	write_file("large-file", large);
	int folder = open(loopback.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct croft_upload *upload = croft_upload_create(remote);
	assert_ok(croft_upload_file(upload, &digests[0], folder, "small-file", &err), err);
	assert_ok(croft_upload_file(upload, &digests[1], folder, "large-file", &err), err);
	assert_ok(croft_upload_flush(upload, NULL, &err), err);
	croft_upload_destroy(upload);
	close(folder);
	struct croft_slice data;
	assert_ok(croft_store_get(loopback.store, &digests[1], loopback.arena, &data, &err), err);
	assert_true(croft_slice_equal(data, large));
}

/* By this thread. */
static uint64_t read_so_far(void)
{
	char text[512] = "";
	CROFT_CLEANUP_FD int fd = open("/proc/thread-self/io", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0);
	return strtoull(strstr(text, "rchar:") + 6, NULL, 10);
}

static void a_file_is_hashed_and_sent_in_one_reading(void **state)
{
	enum { VERY_LARGE = 3 * LARGE + 12345 }; /* several windows */
	struct croft_slice sizes[] = {content(7, 5000), content(8, VERY_LARGE)}, data;
	int folder = open(loopback.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct croft_upload *upload = croft_upload_create(remote);
	for (int i = 0; i < 2; i++) {
		struct croft_digest digest, expected = digest_of(sizes[i]);
		write_file("unhashed", sizes[i]);
		uint64_t before = read_so_far();
		assert_ok(croft_upload_unhashed(upload, folder, "unhashed", &digest, &err), err);
		if (sizes[i].size == VERY_LARGE)
			assert_in_range(read_so_far() - before, VERY_LARGE, VERY_LARGE + (1 << 20));
		assert_ok(croft_upload_flush(upload, NULL, &err), err);
		assert_memory_equal(&digest, &expected, sizeof(digest));
		assert_ok(croft_store_get(loopback.store, &digest, loopback.arena, &data, &err), err);
		assert_true(croft_slice_equal(data, sizes[i]));
	}
	struct croft_upload_stat stat;
	assert_ok(croft_upload_flush(upload, &stat, &err), err);
	assert_int_equal(stat.sent_blobs, 2);
	assert_int_equal(stat.sent_bytes, 5000 + VERY_LARGE);
	croft_upload_destroy(upload);
	close(folder);
}

static void a_file_that_changed_is_an_error_that_names_it(void **state)
{
	struct croft_digest digest = digest_of(content(1, 5000));
	int folder = open(loopback.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	write_file("changed", content(2, 4000));
	struct croft_upload *upload = croft_upload_create(remote);
	assert_ok(croft_upload_file(upload, &digest, folder, "changed", &err), err);
	assert_false(croft_upload_flush(upload, NULL, &err));
	assert_non_null(strstr(err.message, "changed"));
	croft_upload_destroy(upload);
	err = CROFT_ERROR_INIT;
	write_file("changed", content(2, 5000));
	upload = croft_upload_create(remote);
	assert_ok(croft_upload_file(upload, &digest, folder, "changed", &err), err);
	assert_false(croft_upload_flush(upload, NULL, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	croft_upload_destroy(upload);
	close(folder);
}

static void thousands_of_blobs_go_in_batches_and_come_back(void **state)
{
	enum { COUNT = 3000 };
	struct croft_digest *digests = croft_arena_array(loopback.arena, COUNT, sizeof(*digests));
	struct croft_slice *sent = croft_arena_array(loopback.arena, COUNT, sizeof(*sent));
	struct croft_slice *got = croft_arena_array(loopback.arena, COUNT, sizeof(*got));
	struct croft_upload *upload = croft_upload_create(remote);
	for (uint32_t i = 0; i < COUNT; i++) {
		sent[i] = content(i, 1 + i % 5000);
		digests[i] = digest_of(sent[i]);
		assert_ok(croft_upload_bytes(upload, &digests[i], sent[i], &err), err);
	}
	assert_ok(croft_upload_flush(upload, NULL, &err), err);
	croft_upload_destroy(upload);
	assert_ok(croft_remote_read_many(remote, digests, COUNT, loopback.arena, got, &err), err);
	for (size_t i = 0; i < COUNT; i++)
		assert_true(croft_slice_equal(sent[i], got[i]));
}

static void reading_many_leaves_out_what_is_not_there(void **state)
{
	struct croft_slice large = content(1, LARGE), small = content(2, 100), got[6];
	struct croft_digest digests[] = {loopback_put(&loopback, large.data, large.size),
		digest_of(content(3, 100)), loopback_put(&loopback, small.data, small.size),
		croft_digest_empty, digest_of(content(4, LARGE)), digest_of(small)};
	assert_ok(croft_remote_read_many(remote, digests, 6, loopback.arena, got, &err), err);
	assert_true(croft_slice_equal(got[0], large));
	assert_null(got[1].data);
	assert_true(croft_slice_equal(got[2], small));
	assert_non_null(got[3].data);
	assert_int_equal(got[3].size, 0);
	assert_null(got[4].data);
	assert_true(croft_slice_equal(got[5], small));
}

static void a_missing_blob_is_named(void **state)
{
	struct croft_digest digests[] = {digest_of(content(1, 100)), digest_of(content(1, LARGE))};
	for (int i = 0; i < 2; i++) {
		struct croft_slice data;
		char text[CROFT_DIGEST_TEXT];
		croft_digest_format(&digests[i], '/', text);
		assert_false(croft_remote_read(remote, &digests[i], loopback.arena, &data, &err));
		assert_int_equal(err.code, CROFT_NOT_FOUND);
		assert_non_null(strstr(err.message, text));
		assert_false(croft_remote_read_to_fd(remote, &digests[i], STDERR_FILENO, &err));
		assert_int_equal(err.code, CROFT_NOT_FOUND);
	}
}

static void a_blob_is_read_to_a_descriptor(void **state)
{
	struct croft_slice large = content(1, LARGE);
	struct croft_digest digest = loopback_put(&loopback, large.data, large.size), got;
	FILE *file = tmpfile();
	assert_ok(croft_remote_read_to_fd(remote, &digest, fileno(file), &err), err);
	assert_ok(croft_digest_of_fd(fileno(file), &got, &err), err);
	assert_true(croft_digest_equal(&digest, &got));
	fclose(file);
}

static void missing_blobs_are_found_among_many(void **state)
{
	enum { COUNT = 25000 };
	struct croft_digest *digests = croft_arena_array(loopback.arena, COUNT, sizeof(*digests));
	bool *missing = croft_arena_array(loopback.arena, COUNT, sizeof(*missing));
	for (uint32_t i = 0; i < COUNT; i++)
		digests[i] = i % 1000 == 7 ? loopback_put(&loopback, &i, sizeof(i))
								   : croft_digest_of(&i, sizeof(i));
	digests[0] = croft_digest_empty;
	assert_ok(croft_remote_find_missing(remote, digests, COUNT, missing, &err), err);
	for (size_t i = 0; i < COUNT; i++)
		assert_int_equal(missing[i], i != 0 && i % 1000 != 7);
}

/* Trees ---------------------------------------------------------------------------------------- */

static bool emit(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *error)
{
	return croft_store_put(loopback.store, digest, bytes, error);
}

static struct croft_digest a_tree(void)
{
	struct croft_tree_source none = {0};
	struct croft_tree_builder *builder = croft_tree_builder_create(&none);
	struct croft_digest root;
	for (uint32_t i = 0; i < 200; i++) {
		struct croft_tree_entry entry = {.kind = CROFT_ENTRY_FILE,
			.digest = croft_digest_of(&i, sizeof(i))};
		const char *path =
			croft_arena_printf(loopback.arena, "a%u/b%u/c%u/file%u", i % 3, i % 7, i % 5, i);
		assert_ok(croft_tree_builder_add(builder, croft_slice_str(path), &entry, &err), err);
	}
	assert_ok(croft_tree_builder_finish(builder, emit, NULL, &root, &err), err);
	croft_tree_builder_destroy(builder);
	return root;
}

static void a_prefetched_tree_is_read_without_the_server(void **state)
{
	struct croft_digest root = a_tree();
	struct croft_tree_source source = croft_remote_tree_source(remote);
	struct croft_tree_totals totals;
	assert_ok(croft_remote_prefetch_tree(remote, &root, &err), err);
	croft_server_shutdown(loopback.server, 0);
	assert_ok(croft_tree_measure(&source, &root, &totals, &err), err);
	assert_int_equal(totals.files, 200);
}

static void a_tree_is_read_as_it_is_walked(void **state)
{
	struct croft_digest root = a_tree();
	struct croft_tree_source source = croft_remote_tree_source(remote);
	struct croft_tree_totals totals;
	assert_ok(croft_tree_measure(&source, &root, &totals, &err), err);
	assert_int_equal(totals.files, 200);
}

static void a_tree_that_is_not_there_is_not_found(void **state)
{
	struct croft_digest root = digest_of(content(9, 99));
	assert_false(croft_remote_prefetch_tree(remote, &root, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
}

/* Servers that misbehave ------------------------------------------------------------------------- */

static atomic_int calls;

static bool lying_read(struct croft_call *call, void *user, struct croft_error *error)
{
	const Reapi__BatchReadBlobsRequest *request = croft_call_request(call);
	Reapi__BatchReadBlobsResponse response = REAPI__BATCH_READ_BLOBS_RESPONSE__INIT;
	Reapi__BatchReadBlobsResponse__Response one = REAPI__BATCH_READ_BLOBS_RESPONSE__RESPONSE__INIT;
	Reapi__BatchReadBlobsResponse__Response *all[] = {&one};
	uint8_t wrong[100] = {0};
	one.digest = request->digests[0];
	one.data = (ProtobufCBinaryData){sizeof(wrong), wrong};
	response.responses = all;
	response.n_responses = 1;
	return croft_call_write(call, &response.base, error);
}

/* Breaks off twice after a part of it, and goes on where it is asked to. */
static bool breaking_stream(struct croft_call *call, void *user, struct croft_error *error)
{
	const Bytestream__ReadRequest *request = croft_call_request(call);
	struct croft_slice *data = user;
	size_t offset = (size_t)request->read_offset, left = data->size - offset;
	bool last = atomic_fetch_add(&calls, 1) >= 2;
	Bytestream__ReadResponse response = BYTESTREAM__READ_RESPONSE__INIT;
	response.data =
		(ProtobufCBinaryData){last ? left : left / 2, (uint8_t *)data->data + offset};
	if (!croft_call_write(call, &response.base, error))
		return false;
	return last || croft_error_set(error, CROFT_UNAVAILABLE, "going down");
}

static bool failing_find(struct croft_call *call, void *user, struct croft_error *error)
{
	Reapi__FindMissingBlobsResponse response = REAPI__FIND_MISSING_BLOBS_RESPONSE__INIT;
	if (atomic_fetch_add(&calls, 1) < 3)
		return croft_error_set(error, CROFT_UNAVAILABLE, "starting");
	return croft_call_write(call, &response.base, error);
}

static const struct croft_rpc_method misbehaving[] = {
	{"/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs", CROFT_RPC_UNARY,
		&reapi__batch_read_blobs_request__descriptor, &reapi__batch_read_blobs_response__descriptor,
		lying_read, false},
	{"/google.bytestream.ByteStream/Read", CROFT_RPC_SERVER_STREAM,
		&bytestream__read_request__descriptor, &bytestream__read_response__descriptor,
		breaking_stream, false},
	{"/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
		CROFT_RPC_UNARY, &reapi__find_missing_blobs_request__descriptor,
		&reapi__find_missing_blobs_response__descriptor, failing_find, false},
};

static void lies_and_losses_are_seen_through(void **state)
{
	struct croft_slice large = content(1, LARGE), data;
	struct croft_server *server =
		croft_server_create(&(struct croft_server_config){.address = "127.0.0.1:0"}, &err);
	assert_ok(server, err);
	croft_server_add(server, misbehaving, 3, &large);
	assert_ok(croft_server_start(server, &err), err);
	struct croft_channel *channel = croft_channel_create(
		croft_arena_printf(loopback.arena, "127.0.0.1:%d", croft_server_port(server)), NULL, &err);
	struct croft_remote *other = croft_remote_create(channel, "");

	struct croft_digest digest = digest_of(content(1, 100));
	assert_false(croft_remote_read(other, &digest, loopback.arena, &data, &err));
	assert_int_equal(err.code, CROFT_DATA_LOSS);

	err = CROFT_ERROR_INIT;
	atomic_store(&calls, 0);
	digest = digest_of(large);
	assert_ok(croft_remote_read(other, &digest, loopback.arena, &data, &err), err);
	assert_true(croft_slice_equal(data, large));
	assert_int_equal(atomic_load(&calls), 3);

	bool missing;
	atomic_store(&calls, 0);
	assert_ok(croft_remote_find_missing(other, &digest, 1, &missing, &err), err);
	assert_false(missing);
	assert_int_equal(atomic_load(&calls), 4);

	croft_remote_destroy(other);
	croft_channel_destroy(channel);
	croft_server_destroy(server);
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(what_is_uploaded_is_there_and_counted_once),
		WITH_SERVER(what_the_server_has_is_not_sent_again),
		WITH_SERVER(of_a_new_version_only_what_differs_is_sent),
		WITH_SERVER(a_file_is_hashed_and_sent_in_one_reading),
		WITH_SERVER(files_are_uploaded_from_their_folder),
		WITH_SERVER(a_file_that_changed_is_an_error_that_names_it),
		WITH_SERVER(thousands_of_blobs_go_in_batches_and_come_back),
		WITH_SERVER(reading_many_leaves_out_what_is_not_there),
		WITH_SERVER(a_missing_blob_is_named),
		WITH_SERVER(a_blob_is_read_to_a_descriptor),
		WITH_SERVER(missing_blobs_are_found_among_many),
		WITH_SERVER(a_prefetched_tree_is_read_without_the_server),
		WITH_SERVER(a_tree_is_read_as_it_is_walked),
		WITH_SERVER(a_tree_that_is_not_there_is_not_found),
		WITH_SERVER(lies_and_losses_are_seen_through),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
