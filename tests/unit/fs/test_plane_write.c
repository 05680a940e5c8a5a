/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a client of the blob plane writes: blobs, and values for actions. */
#include "tests/unit/fs/plane_fixture.h"

/* Tests: writing --------------------------------------------------------------------------------- */

static void stores_what_is_put(void **state)
{
	struct fixture *fixture = *state;
	size_t sizes[] = {0, 1, 1000, 70000, 9 << 20};
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	for (uint32_t i = 0; i < 5; i++) {
		struct blob blob = make_blob(sizes[i], 200 + i);
		for (int round = 0; round < 2; round++) { /* the second time it is there already */
			say_put_sized(fd, &blob, "");
			say(fd, blob.data, blob.size);
			expect(fd, "", 200, "", 0);
			assert_true(is_stored(fixture, &blob));
			get(fd, "GET", &blob, "", 200, blob.data, blob.size);
		}
		free(blob.data);
	}
}

static void refuses_bytes_of_another_hash(void **state)
{
	struct fixture *fixture = *state;
	size_t sizes[] = {10, 300000};
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	for (uint32_t i = 0; i < 2; i++) {
		struct blob blob = make_blob(sizes[i], 300 + i);
		blob.data[5] ^= 1;
		say_put_sized(fd, &blob, "");
		say(fd, blob.data, blob.size);
		expect(fd, "", 400, NULL, 0);
		assert_false(is_stored(fixture, &blob));
		free(blob.data);
	}
}

static void stores_chunked_bodies(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(100000, 400);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	for (size_t piece = 1; piece <= blob.size; piece = piece * 7 + 1) {
		say_put(fd, &blob, "Transfer-Encoding: chunked\r\n");
		size_t at = 0;
		/* A few odd ones, then the rest. */
		for (int i = 0; at < blob.size; i++) {
			size_t size = i < 20 && piece < blob.size - at ? piece : blob.size - at;
			char line[32];
			snprintf(line, sizeof(line), "%zX%s\r\n", size, i == 3 ? ";name=value" : "");
			say_text(fd, line);
			say(fd, blob.data + at, size);
			say_text(fd, "\r\n");
			at += size;
		}
		expect(fd, "0\r\nTrailer: x\r\n\r\n", 200, "", 0);
		assert_true(is_stored(fixture, &blob));
	}
	get(fd, "GET", &blob, "", 200, blob.data, blob.size);
	free(blob.data);
}

static void put_packed(int fd, const struct blob *blob, const void *data, size_t size, int status)
{
	char fields[128];
	snprintf(fields, sizeof(fields), "Content-Encoding: zstd\r\nContent-Length: %zu\r\n", size);
	say_put(fd, blob, fields);
	say(fd, data, size);
	expect(fd, "", status, NULL, 0);
}

static void stores_what_comes_compressed(void **state)
{
	struct fixture *fixture = *state;
	enum { SIZE = 300000, ROOM = SIZE + 10000 };
	struct blob blob = make_blob(SIZE, 410), other = make_blob(SIZE, 411), empty = make_blob(0, 0);
	CROFT_CLEANUP_FREE char *packed = croft_alloc(ROOM);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	/* In two frames. */
	size_t size = ZSTD_compress(packed, ROOM, blob.data, 1000, 1);
	size += ZSTD_compress(packed + size, ROOM - size, blob.data + 1000, SIZE - 1000, 1);
	put_packed(fd, &other, packed, size, 400);
	put_packed(fd, &blob, packed, size - 3, 400);
	memcpy(packed + size, "junk", 4);
	put_packed(fd, &blob, packed, size + 4, 400);
	put_packed(fd, &blob, packed, 0, 400);
	assert_false(is_stored(fixture, &blob) || is_stored(fixture, &other));
	put_packed(fd, &blob, packed, size, 200);
	get(fd, "GET", &blob, "", 200, blob.data, blob.size);
	size = ZSTD_compress(packed, ROOM, "", 0, 1);
	put_packed(fd, &empty, packed, size, 200);
	/* Little that unpacks to very much. */
	CROFT_CLEANUP_FREE char *zeros = croft_zalloc(65 << 20);
	size = ZSTD_compress(packed, ROOM, zeros, 65 << 20, 1);
	put_packed(fd, &other, packed, size, 413);
	free(blob.data);
	free(other.data);
	free(empty.data);
}

static void says_continue_when_the_client_waits_for_it(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(5000, 500);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	say_put_sized(fd, &blob, "Expect: 100-continue\r\n");
	struct answer answer;
	read_head(fd, &answer);
	assert_int_equal(answer.status, 100);
	say(fd, blob.data, blob.size);
	expect(fd, "", 200, "", 0);
	assert_true(is_stored(fixture, &blob));
	free(blob.data);
}

static void spares_the_client_sending_what_is_there(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = store_blob(fixture, 5000, 501);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	say_put_sized(fd, &blob, "Expect: 100-continue\r\n");
	expect(fd, "", 200, "", 0);
	assert_closed(fd);
	free(blob.data);
}

static void refuses_to_write_when_read_only(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(50, 600);
	CROFT_CLEANUP_FD int fd = dial(fixture->impatient_port);
	say_put_sized(fd, &blob, "");
	say(fd, blob.data, blob.size);
	expect(fd, "", 403, NULL, 0);
	assert_closed(fd);
	assert_false(is_stored(fixture, &blob));
	free(blob.data);
}

static void stores_nothing_of_a_body_that_ends_early(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(500000, 700), after = store_blob(fixture, 10, 701);
	int fd = dial(fixture->port);
	say_put_sized(fd, &blob, "");
	say(fd, blob.data, blob.size / 2);
	shutdown(fd, SHUT_WR);
	assert_closed(fd);
	close(fd);
	assert_false(is_stored(fixture, &blob));
	CROFT_CLEANUP_FD int other = dial(fixture->port);
	get(other, "GET", &after, "", 200, after.data, after.size);
	free(blob.data);
	free(after.data);
}

/* Tests: the action cache ------------------------------------------------------------------------ */

static void keeps_action_results(void **state)
{
	struct fixture *fixture = *state;
	struct blob output = store_blob(fixture, 50, 800);
	/* ActionResult{output_files: {path: "a", digest: {hash, size_bytes: 50}}} */
	char value[128], request[512];
	int size = snprintf(value, sizeof(value), "\x12\x49\x0a\x01" "a" "\x12\x44\x0a\x40%s\x10\x32",
		output.hash);
	assert_int_equal(size, 75);
	static const char path[] =
		"/ac/1111111111111111111111111111111111111111111111111111111111111111";
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\n\r\n", path);
	expect(fd, request, 404, NULL, 0);
	snprintf(request, sizeof(request), "PUT %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", path, size,
		value);
	expect(fd, request, 200, "", 0);
	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\n\r\n", path);
	expect(fd, request, 200, value, (size_t)size);
	free(output.data);
}

static void instances_have_action_caches_of_their_own(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = store_blob(fixture, 50, 801);
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	static const char *const instances[] = {"", "/one", "/two/deep", "/ac", "/one/ac/x"};
	enum { COUNT = sizeof(instances) / sizeof(instances[0]) };
	char request[512], value[8];
	for (int i = 0; i < COUNT; i++) {
		snprintf(request, sizeof(request), "GET %s/ac/%064d HTTP/1.1\r\n\r\n", instances[i], 5);
		expect(fd, request, 404, NULL, 0);
		snprintf(request, sizeof(request),
			"PUT %s/ac/%064d HTTP/1.1\r\nContent-Length: 6\r\n\r\nvalue%d", instances[i], 5, i);
		expect(fd, request, 200, "", 0);
	}
	for (int i = 0; i < COUNT; i++) {
		snprintf(value, sizeof(value), "value%d", i);
		snprintf(request, sizeof(request), "GET %s/ac/%064d HTTP/1.1\r\n\r\n", instances[i], 5);
		expect(fd, request, 200, value, 6);
		snprintf(request, sizeof(request), "GET %s/cas/%s HTTP/1.1\r\n\r\n", instances[i], blob.hash);
		expect(fd, request, 200, blob.data, blob.size);
	}
	static const char *const refused[] = {"/", "//one", "/one/", "/one//two", "one", "/o%6ee"};
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		snprintf(request, sizeof(request), "GET %s/ac/%064d HTTP/1.1\r\n\r\n", refused[i], 5);
		expect(fd, request, 404, NULL, 0);
	}
	free(blob.data);
}

static void refuses_action_results_without_their_outputs(void **state)
{
	struct fixture *fixture = *state;
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	char request[512];
	snprintf(request, sizeof(request), "PUT /ac/%064d HTTP/1.1\r\nContent-Length: 75\r\n\r\n"
		"\x12\x49\x0a\x01" "a"
		"\x12\x44\x0a\x40" "3333333333333333333333333333333333333333333333333333333333333333"
		"\x10\x32", 2);
	expect(fd, request, 409, NULL, 0);
}

static void put_value(int fd, int number, const void *value, size_t size)
{
	char head[256];
	snprintf(head, sizeof(head), "PUT /ac/%064d HTTP/1.1\r\nContent-Length: %zu\r\n\r\n", number,
		size);
	say_text(fd, head);
	say(fd, value, size);
	struct answer answer = hear(fd);
	assert_int_equal(answer.status, 200);
	free(answer.body);
}

static void get_value(int fd, const char *method, int number, const void *value, size_t size)
{
	char request[256];
	snprintf(request, sizeof(request), "%s /ac/%064d HTTP/1.1\r\n\r\n", method, number);
	expect(fd, request, 200, value, size);
}

/* As ccache uses it. The newest counts, of whatever kind the ones before it were. */
static void keeps_any_value_for_an_action(void **state)
{
	struct fixture *fixture = *state;
	struct blob large = make_blob(9 << 20, 810), small = make_blob(100, 811);
	static const char result[] = "\x20\x07"; /* ActionResult{exit_code: 7} */
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	put_value(fd, 3, large.data, large.size);
	get_value(fd, "GET", 3, large.data, large.size);
	put_value(fd, 3, result, 2);
	get_value(fd, "GET", 3, result, 2);
	put_value(fd, 3, small.data, small.size);
	get_value(fd, "GET", 3, small.data, small.size);
	put_value(fd, 4, "", 0);
	get_value(fd, "GET", 4, "", 0);
	free(large.data);
	free(small.data);
}

static void bounds_values_for_actions(void **state)
{
	struct fixture *fixture = *state;
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	CROFT_CLEANUP_FREE char *piece = croft_zalloc(1 << 20);
	char head[256];
	snprintf(head, sizeof(head), "PUT /ac/%064d HTTP/1.1\r\nContent-Length: %d\r\n\r\n", 5, 70 << 20);
	say_text(fd, head);
	/* It answers before all is sent; what is sent after that is of no interest. */
	for (int i = 0; i < 65; i++)
		if (send(fd, piece, 1 << 20, MSG_NOSIGNAL) < 0)
			break;
	struct answer answer = hear(fd);
	assert_int_equal(answer.status, 413);
	free(answer.body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stores_what_is_put),
		cmocka_unit_test(refuses_bytes_of_another_hash),
		cmocka_unit_test(stores_chunked_bodies),
		cmocka_unit_test(stores_what_comes_compressed),
		cmocka_unit_test(says_continue_when_the_client_waits_for_it),
		cmocka_unit_test(spares_the_client_sending_what_is_there),
		cmocka_unit_test(refuses_to_write_when_read_only),
		cmocka_unit_test(stores_nothing_of_a_body_that_ends_early),
		cmocka_unit_test(keeps_action_results),
		cmocka_unit_test(instances_have_action_caches_of_their_own),
		cmocka_unit_test(refuses_action_results_without_their_outputs),
		cmocka_unit_test(keeps_any_value_for_an_action),
		cmocka_unit_test(bounds_values_for_actions),
	};
	/* The same where large blobs are kept as chunks. */
	const struct CMUnitTest chunked[] = {
		cmocka_unit_test(stores_what_is_put),
	};
	return cmocka_run_group_tests(tests, setup, teardown) + cmocka_run_group_tests(chunked, setup_chunks, teardown);
}
