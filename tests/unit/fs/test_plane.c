/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a client of the blob plane reads: blobs, ranges, batches. */
#include "tests/unit/fs/plane_fixture.h"

/* Tests: reading --------------------------------------------------------------------------------- */

static void gets_small_blobs_over_one_connection(void **state)
{
	struct fixture *fixture = *state;
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	for (uint32_t i = 0; i < 50; i++) {
		struct blob blob = store_blob(fixture, 1 + i * 1300, 100 + i);
		get(fd, "GET", &blob, "", 200, blob.data, blob.size);
		free(blob.data);
	}
}

static void gets_a_large_blob_whole(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = store_blob(fixture, 20 << 20, 1);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	get(fd, "GET", &blob, "", 200, blob.data, blob.size);
	get(fd, "GET", &blob, "", 200, blob.data, blob.size);
	free(blob.data);
}

static void gets_the_empty_blob(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(0, 0);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	get(fd, "GET", &blob, "", 200, "", 0);
	free(blob.data);
}

static void answers_404_for_a_blob_that_is_not_there(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(10, 77);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	get(fd, "GET", &blob, "", 404, NULL, 0);
	get(fd, "GET", &blob, "", 404, NULL, 0);
	free(blob.data);
}

static void gets_ranges(void **state)
{
	struct fixture *fixture = *state;
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	size_t sizes[] = {1000, 3 << 20, 12 << 20};
	for (size_t i = 0; i < 3; i++) {
		struct blob blob = store_blob(fixture, sizes[i], 5);
		get(fd, "GET", &blob, "Range: bytes=10-19\r\n", 206, blob.data + 10, 10);
		get(fd, "GET", &blob, "Range: bytes=0-0\r\n", 206, blob.data, 1);
		get(fd, "GET", &blob, "Range: bytes=100-\r\n", 206, blob.data + 100, blob.size - 100);
		for (size_t at = 77; at + 700000 < blob.size; at += 650001) {
			char range[64];
			snprintf(range, sizeof(range), "Range: bytes=%zu-%zu\r\n", at, at + 699999);
			get(fd, "GET", &blob, range, 206, blob.data + at, 700000);
		}
		get(fd, "GET", &blob, "Range: bytes=-7\r\n", 206, blob.data + blob.size - 7, 7);
		get(fd, "GET", &blob, "Range: bytes=-99999999\r\n", 206, blob.data, blob.size);
		get(fd, "GET", &blob, "Range: bytes=990-99999999999\r\n", 206, blob.data + 990,
			blob.size - 990);
		get(fd, "GET", &blob, "Range: bytes=99999999-\r\n", 416, NULL, 0);
		get(fd, "GET", &blob, "Range: bytes=-0\r\n", 416, NULL, 0);
		/* Not understood: as if it were not there. */
		get(fd, "GET", &blob, "Range: bytes=0-1,3-4\r\n", 200, blob.data, blob.size);
		get(fd, "GET", &blob, "Range: lines=0-1\r\n", 200, blob.data, blob.size);
		get(fd, "GET", &blob, "Range: bytes=9-1\r\n", 200, blob.data, blob.size);
		free(blob.data);
	}
}

static void says_how_large_a_blob_is_that_has_no_such_range(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = store_blob(fixture, 1000, 61);
	char request[256];
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	snprintf(request, sizeof(request), "GET /cas/%s HTTP/1.1\r\nRange: bytes=1000-\r\n\r\n", blob.hash);
	say_text(fd, request);
	struct answer answer = hear(fd);
	assert_int_equal(answer.status, 416);
	assert_non_null(strstr(answer.head, "\r\nContent-Range: bytes */1000\r\n"));
	free(answer.body);
	free(blob.data);
}

static void says_which_range_it_sends(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = store_blob(fixture, 1000, 6);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	char request[256];
	snprintf(request, sizeof(request), "GET /cas/%s HTTP/1.1\r\nRange: bytes=5-8\r\n\r\n", blob.hash);
	say_text(fd, request);
	struct answer answer = hear(fd);
	assert_non_null(strstr(answer.head, "Content-Range: bytes 5-8/1000\r\n"));
	free(answer.body);
	free(blob.data);
}

static void head_says_the_size_and_sends_nothing(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = store_blob(fixture, 100000, 7);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	char request[256];
	for (int i = 0; i < 2; i++) {
		struct answer answer;
		snprintf(request, sizeof(request), "HEAD /cas/%s HTTP/1.1\r\n\r\n", blob.hash);
		say_text(fd, request);
		read_head(fd, &answer);
		assert_int_equal(answer.status, 200);
		assert_non_null(strstr(answer.head, "Content-Length: 100000\r\n"));
	}
	free(blob.data);
}

static void compresses_when_zstd_is_accepted(void **state)
{
	struct fixture *fixture = *state;
	size_t sizes[] = {3000, 1 << 20};
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	for (size_t i = 0; i < 2; i++) {
		struct croft_error err = CROFT_ERROR_INIT;
		CROFT_CLEANUP_FREE char *text = croft_alloc(sizes[i]), *back = croft_alloc(sizes[i]);
		memset(text, 'z', sizes[i]);
		struct croft_digest digest = croft_digest_of(text, sizes[i]);
		assert_ok(croft_store_put(fixture->store, &digest, CROFT_SLICE(text, sizes[i]), &err), err);
		char hash[CROFT_HASH_TEXT], request[256];
		croft_hash_format(digest.hash, hash);
		snprintf(request, sizeof(request),
			"GET /cas/%s HTTP/1.1\r\nAccept-Encoding: gzip, zstd;q=0.9\r\n\r\n", hash);
		say_text(fd, request);
		struct answer answer = hear(fd);
		assert_non_null(strstr(answer.head, "Content-Encoding: zstd\r\n"));
		assert_true(answer.size < sizes[i] / 10);
		/* The frame has no size in it: it was streamed. */
		ZSTD_DCtx *context = ZSTD_createDCtx();
		ZSTD_outBuffer out = {back, sizes[i], 0};
		ZSTD_inBuffer in = {answer.body, answer.size, 0};
		assert_int_equal(ZSTD_decompressStream(context, &out, &in), 0);
		ZSTD_freeDCtx(context);
		assert_int_equal(out.pos, sizes[i]);
		assert_memory_equal(back, text, sizes[i]);
		free(answer.body);
	}
}

static void does_not_compress_when_zstd_is_refused(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = store_blob(fixture, 5000, 8);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	get(fd, "GET", &blob, "Accept-Encoding: zstd;q=0, gzip\r\n", 200, blob.data, blob.size);
	free(blob.data);
}

static void answers_pipelined_requests_in_order(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 200 };
	struct blob blobs[COUNT];
	CROFT_CLEANUP_FREE char *request = croft_alloc(COUNT * 128);
	size_t size = 0;
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	for (uint32_t i = 0; i < COUNT; i++) {
		blobs[i] = store_blob(fixture, 100 + 997 * (size_t)i, 1000 + i);
		size += (size_t)sprintf(request + size, "GET /cas/%s HTTP/1.1\r\n\r\n", blobs[i].hash);
	}
	say(fd, request, size);
	for (size_t i = 0; i < COUNT; i++) {
		struct answer answer = hear(fd);
		assert_int_equal(answer.status, 200);
		assert_int_equal(answer.size, blobs[i].size);
		assert_memory_equal(answer.body, blobs[i].data, answer.size);
		free(answer.body);
		free(blobs[i].data);
	}
}

static void takes_a_head_byte_by_byte(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = store_blob(fixture, 40, 9);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	char request[256];
	int size = snprintf(request, sizeof(request), "GET /cas/%s HTTP/1.1\r\n\r\n", blob.hash);
	for (int i = 0; i < size - 1; i++)
		say(fd, request + i, 1);
	expect(fd, "\n", 200, blob.data, blob.size);
	free(blob.data);
}

static void closes_when_the_client_asks_for_it(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = store_blob(fixture, 40, 10);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	get(fd, "GET", &blob, "Connection: close\r\n", 200, blob.data, blob.size);
	assert_closed(fd);
	free(blob.data);
}

/* Tests: batches --------------------------------------------------------------------------------- */

static size_t batch_line(char *at, const struct croft_digest *digest)
{
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '-', text);
	return (size_t)sprintf(at, "%s\n", text);
}

static struct answer ask_batch(int fd, const char *body, size_t size)
{
	char head[128];
	snprintf(head, sizeof(head), "POST /batch HTTP/1.1\r\nContent-Length: %zu\r\n\r\n", size);
	say_text(fd, head);
	say(fd, body, size);
	return hear(fd);
}

static const char *assert_in_batch(const char *at, const struct blob *blob, bool there)
{
	char line[256];
	int size = snprintf(line, sizeof(line), "%s-%zu %d\n", blob->hash, blob->size, there ? 200 : 404);
	assert_memory_equal(at, line, (size_t)size);
	if (there)
		assert_memory_equal(at + size, blob->data, blob->size);
	return at + size + (there ? blob->size : 0);
}

static void batches_blobs_in_the_order_asked(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 600 };
	struct blob blobs[COUNT];
	CROFT_CLEANUP_FREE char *body = croft_alloc(COUNT * CROFT_DIGEST_TEXT);
	size_t size = 0;
	for (uint32_t i = 0; i < COUNT; i++) {
		size_t bytes = i == 300 ? 1 << 20 : i == 301 ? 0 : 1 + 37 * (size_t)i;
		blobs[i] = i % 7 == 3 ? make_blob(bytes, 5000 + i) : store_blob(fixture, bytes, 5000 + i);
		size += batch_line(body + size, &blobs[i].digest);
	}
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	for (int round = 0; round < 2; round++) {
		struct answer answer = ask_batch(fd, body, size);
		const char *at = answer.body;
		assert_int_equal(answer.status, 200);
		for (size_t i = 0; i < COUNT; i++)
			at = assert_in_batch(at, &blobs[i], i % 7 != 3 || blobs[i].size == 0);
		assert_ptr_equal(at, answer.body + answer.size);
		free(answer.body);
	}
	for (size_t i = 0; i < COUNT; i++)
		free(blobs[i].data);
}

/* Where its bytes stand on the disk. */
static void damage_at(struct fixture *fixture, const struct blob *blob, uint64_t at)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_blob *open_blob = croft_store_open_blob(fixture->store, &blob->digest, &err);
	assert_ok(open_blob, err);
	uint64_t offset, size;
	char path[64], other = (char)(blob->data[at] ^ 1);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", croft_store_blob_extent(open_blob, at, &offset, &size));
	CROFT_CLEANUP_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, &other, 1, (off_t)offset), 1);
	croft_store_blob_close(open_blob);
}

static void damage(struct fixture *fixture, const struct blob *blob)
{
	damage_at(fixture, blob, 0);
}

/* What comes before the connection ends is right, and it ends before the damage. */
static void assert_cut_before(int fd, const struct blob *blob, size_t damaged)
{
	CROFT_CLEANUP_FREE char *body = croft_alloc(blob->size);
	struct answer answer;
	size_t size = 0;
	read_head(fd, &answer);
	assert_int_equal(answer.status, 200);
	for (ssize_t got; (got = recv(fd, body + size, blob->size - size, 0)) > 0;)
		size += (size_t)got;
	assert_true(size <= damaged);
	assert_memory_equal(body, blob->data, size);
}

/* Also where the bytes go from their file to the socket, and are not seen by anybody on the way. */
static void damaged_bytes_of_a_large_blob_are_never_sent(void **state)
{
	struct fixture *fixture = *state;
	enum { BAD = 7 << 20 };
	struct blob whole = store_blob(fixture, 12 << 20, 31), part = store_blob(fixture, 12 << 20, 32);
	char request[256];
	damage_at(fixture, &whole, BAD);
	damage_at(fixture, &part, BAD);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	get(fd, "GET", &part, "Range: bytes=0-99\r\n", 206, part.data, 100);
	snprintf(request, sizeof(request), "Range: bytes=%d-%d\r\n", BAD, BAD + 99);
	get(fd, "GET", &part, request, 404, NULL, 0);
	get(fd, "GET", &part, "Range: bytes=0-99\r\n", 404, NULL, 0);
	get(fd, "GET", &part, "", 404, NULL, 0);
	snprintf(request, sizeof(request), "GET /cas/%s HTTP/1.1\r\n\r\n", whole.hash);
	say_text(fd, request);
	assert_cut_before(fd, &whole, BAD);
	CROFT_CLEANUP_FD int again = dial(fixture->port);
	snprintf(request, sizeof(request), "HEAD /cas/%s HTTP/1.1\r\n\r\n", whole.hash);
	say_text(again, request);
	struct answer answer;
	read_head(again, &answer);
	assert_int_equal(answer.status, 404);
	assert_false(is_stored(fixture, &whole));
	free(whole.data);
	free(part.data);
}

static void of_a_batch_only_the_damaged_fails(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 9, BAD = 4 };
	struct blob blobs[COUNT];
	char body[COUNT * CROFT_DIGEST_TEXT];
	size_t size = 0;
	for (uint32_t i = 0; i < COUNT; i++) {
		blobs[i] = store_blob(fixture, 3000, 9000 + i);
		size += batch_line(body + size, &blobs[i].digest);
	}
	damage(fixture, &blobs[BAD]);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	struct answer answer = ask_batch(fd, body, size);
	const char *at = answer.body;
	for (size_t i = 0; i < COUNT; i++)
		if (i == BAD)
			at = memchr(at, '\n', 256) + 1;
		else
			at = assert_in_batch(at, &blobs[i], true);
	assert_ptr_equal(at, answer.body + answer.size);
	free(answer.body);
	for (size_t i = 0; i < COUNT; i++)
		free(blobs[i].data);
}

static void refuses_malformed_batches(void **state)
{
	struct fixture *fixture = *state;
	static const char *const bodies[] = {"x\n", "\n",
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n",
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855-1111111111111111111111111",
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855--1\n",
		"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881-0\n"};
	for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
		CROFT_CLEANUP_FD int fd = dial(fixture->port);
		struct answer answer = ask_batch(fd, bodies[i], strlen(bodies[i]));
		assert_int_equal(answer.status, 400);
		free(answer.body);
	}
}

static void bounds_the_count_of_a_batch(void **state)
{
	struct fixture *fixture = *state;
	CROFT_CLEANUP_FREE char *body = croft_alloc(5000 * CROFT_DIGEST_TEXT);
	size_t size = 0;
	for (int i = 0; i < 5000; i++)
		size += batch_line(body + size, &croft_digest_empty);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	struct answer answer = ask_batch(fd, body, size);
	assert_int_equal(answer.status, 413);
	free(answer.body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gets_small_blobs_over_one_connection),
		cmocka_unit_test(gets_a_large_blob_whole),
		cmocka_unit_test(gets_the_empty_blob),
		cmocka_unit_test(answers_404_for_a_blob_that_is_not_there),
		cmocka_unit_test(gets_ranges),
		cmocka_unit_test(says_which_range_it_sends),
		cmocka_unit_test(says_how_large_a_blob_is_that_has_no_such_range),
		cmocka_unit_test(head_says_the_size_and_sends_nothing),
		cmocka_unit_test(compresses_when_zstd_is_accepted),
		cmocka_unit_test(does_not_compress_when_zstd_is_refused),
		cmocka_unit_test(answers_pipelined_requests_in_order),
		cmocka_unit_test(takes_a_head_byte_by_byte),
		cmocka_unit_test(closes_when_the_client_asks_for_it),
		cmocka_unit_test(batches_blobs_in_the_order_asked),
		cmocka_unit_test(of_a_batch_only_the_damaged_fails),
		cmocka_unit_test(damaged_bytes_of_a_large_blob_are_never_sent),
		cmocka_unit_test(refuses_malformed_batches),
		cmocka_unit_test(bounds_the_count_of_a_batch),
	};
	/* The same where large blobs are kept as chunks. */
	const struct CMUnitTest chunked[] = {
		cmocka_unit_test(gets_a_large_blob_whole),
		cmocka_unit_test(gets_ranges),
		cmocka_unit_test(damaged_bytes_of_a_large_blob_are_never_sent),
		cmocka_unit_test(compresses_when_zstd_is_accepted),
		cmocka_unit_test(answers_pipelined_requests_in_order),
		cmocka_unit_test(batches_blobs_in_the_order_asked),
	};
	return cmocka_run_group_tests(tests, setup, teardown) + cmocka_run_group_tests(chunked, setup_chunks, teardown);
}
