/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clients of the blob plane that mean no good, or say nothing. */
#include "tests/unit/fs/plane_fixture.h"

/* Tests: hostile clients ------------------------------------------------------------------------- */

static void refuses_malformed_heads(void **state)
{
	struct fixture *fixture = *state;
	static const struct {
		const char *request;
		int status;
	} cases[] = {
		{"GET / HTTP/1.1\n\n", 400},
		{"GET /\r\n\r\n", 400},
		{"GET / HTTP/2.0\r\n\r\n", 505},
		{"GET  / HTTP/1.1\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nName : x\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\n folded\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", 400},
		{"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
		{"PUT / HTTP/1.1\r\nContent-Length: 1x\r\n\r\n", 400},
		{"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400},
		{"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
		{"PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		{"PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
		{"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 501},
		{"\x01\x02\x03 / HTTP/1.1\r\n\r\n", 400},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		CROFT_CLEANUP_FD int fd = dial(fixture->port);
		expect(fd, cases[i].request, cases[i].status, NULL, 0);
		assert_closed(fd);
	}
}

static void refuses_unknown_paths_and_methods(void **state)
{
	struct fixture *fixture = *state;
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	expect(fd, "GET / HTTP/1.1\r\n\r\n", 404, NULL, 0);
	expect(fd, "GET /cas/ HTTP/1.1\r\n\r\n", 404, NULL, 0);
	expect(fd, "GET /cas/../../etc/passwd HTTP/1.1\r\n\r\n", 404, NULL, 0);
	expect(fd,
		"GET /cas/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8551 HTTP/1.1\r\n\r\n",
		404, NULL, 0);
	expect(fd,
		"DELETE /cas/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 HTTP/1.1\r\n\r\n",
		405, NULL, 0);
	expect(fd, "GET /batch HTTP/1.1\r\n\r\n", 405, NULL, 0);
}

static void refuses_huge_heads(void **state)
{
	struct fixture *fixture = *state;
	CROFT_CLEANUP_FD int fd = dial(fixture->port);
	CROFT_CLEANUP_FREE char *field = croft_alloc(100001);
	memset(field, 'x', 100000);
	field[100000] = '\0';
	say_text(fd, "GET / HTTP/1.1\r\nA: ");
	expect(fd, field, 431, NULL, 0);
}

static void refuses_malformed_chunks(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(1, 900);
	static const char *const bodies[] = {"x\r\n", "\r\n", "1\nx", "5\r\nhello!\r\n",
		"fffffffffffffffff\r\n", "-1\r\n", " 1\r\n", "1 \r\n"};
	for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
		CROFT_CLEANUP_FD int fd = dial(fixture->port);
		say_put(fd, &blob, "Transfer-Encoding: chunked\r\n");
		expect(fd, bodies[i], 400, NULL, 0);
		assert_closed(fd);
	}
	free(blob.data);
}

static void closes_connections_that_say_nothing_or_too_little(void **state)
{
	struct fixture *fixture = *state;
	CROFT_CLEANUP_FD int silent = dial(fixture->impatient_port);
	CROFT_CLEANUP_FD int slow = dial(fixture->impatient_port);
	uint64_t start = croft_now_ns();
	/* A byte now and then does not keep it open. */
	struct timeval moment = {.tv_usec = 50000};
	setsockopt(slow, SOL_SOCKET, SO_RCVTIMEO, &moment, sizeof(moment));
	char byte;
	ssize_t got;
	do
		send(slow, "G", 1, MSG_NOSIGNAL);
	while ((got = recv(slow, &byte, 1, 0)) < 0 && errno == EAGAIN &&
		croft_now_ns() - start < UINT64_C(10000000000));
	assert_true(got == 0 || errno == ECONNRESET || errno == EPIPE);
	assert_closed(silent);
	assert_true(croft_now_ns() - start > 150000000);
}

static void makes_room_by_closing_idle_connections(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = store_blob(fixture, 100, 950);
	int fds[30];
	for (size_t i = 0; i < 30; i++) {
		fds[i] = dial(fixture->impatient_port);
		get(fds[i], "GET", &blob, "", 200, blob.data, blob.size);
	}
	for (size_t i = 0; i < 30; i++)
		close(fds[i]);
	free(blob.data);
}

static void serves_beside_a_thousand_idle_connections(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = store_blob(fixture, 100, 960);
	static int fds[1000];
	for (size_t i = 0; i < 1000; i++)
		fds[i] = dial(fixture->port);
	for (size_t i = 0; i < 1000; i += 100)
		get(fds[i], "GET", &blob, "", 200, blob.data, blob.size);
	for (size_t i = 0; i < 1000; i++)
		close(fds[i]);
	free(blob.data);
}

/* A plane of its own, and clients that ask for a large blob and read no more than the answer's head. */
enum { STALLED = 530 };
static struct croft_plane *stall(struct fixture *fixture, const struct blob *large, const char *fields, unsigned idle_ms,
	int *fds, size_t count)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char request[256];
	struct croft_plane *plane = croft_plane_start(&(struct croft_plane_config){
		.address = "127.0.0.1:0", .store = fixture->store, .idle_ms = idle_ms}, &err);
	assert_ok(plane, err);
	snprintf(request, sizeof(request), "GET /cas/%s HTTP/1.1\r\n%s\r\n", large->hash, fields);
	for (size_t i = 0; i < count; i++) {
		fds[i] = dial(croft_plane_port(plane));
		say_text(fds[i], request);
	}
	return plane;
}

/* Also when those leave whose turn it was. */
static void those_who_take_nothing_keep_nobody_out(void **state)
{
	struct fixture *fixture = *state;
	static int fds[STALLED];
	struct blob large = store_blob(fixture, 20 << 20, 980), small = store_blob(fixture, 100, 981);
	/* The first ask when all places are taken; they are found to be stalled long before their own time is over, which is
	 * longer than a client of this test waits. */
	struct croft_plane *plane = stall(fixture, &large, "", 30000, fds, STALLED);
	int fd = dial(croft_plane_port(plane));
	get(fd, "GET", &small, "", 200, small.data, small.size);
	close(fd);
	for (size_t i = 0; i < STALLED; i++)
		close(fds[i]);
	fd = dial(croft_plane_port(plane));
	get(fd, "GET", &small, "", 200, small.data, small.size);
	close(fd);
	croft_plane_stop(plane);
	free(large.data);
	free(small.data);
}

static void compresses_for_a_bounded_number_at_once(void **state)
{
	struct fixture *fixture = *state;
	enum { COUNT = 80 };
	int fds[COUNT];
	size_t compressed = 0;
	struct blob large = store_blob(fixture, 20 << 20, 982);
	struct croft_plane *plane = stall(fixture, &large, "Accept-Encoding: zstd\r\n", 60000, fds, COUNT);
	for (size_t i = 0; i < COUNT; i++) {
		struct answer answer;
		read_head(fds[i], &answer);
		assert_int_equal(answer.status, 200);
		if (strstr(answer.head, "Content-Encoding: zstd"))
			compressed++;
		else
			assert_non_null(strstr(answer.head, "Content-Length: 20971520\r\n"));
	}
	assert_int_equal(compressed, 64);
	for (size_t i = 0; i < COUNT; i++)
		close(fds[i]);
	croft_plane_stop(plane);
	free(large.data);
}

static void stops_while_clients_are_in_the_middle_of_things(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct blob large = store_blob(fixture, 20 << 20, 970), upload = make_blob(1 << 20, 971);
	struct croft_plane *plane = croft_plane_start(&(struct croft_plane_config){
		.address = "127.0.0.1:0", .store = fixture->store, .writable = true}, &err);
	assert_ok(plane, err);
	CROFT_CLEANUP_FD int idle = dial(croft_plane_port(plane));
	CROFT_CLEANUP_FD int reading = dial(croft_plane_port(plane));
	CROFT_CLEANUP_FD int writing = dial(croft_plane_port(plane));
	char request[256];
	snprintf(request, sizeof(request), "GET /cas/%s HTTP/1.1\r\n\r\n", large.hash);
	say_text(reading, request);
	struct answer answer;
	read_head(reading, &answer);
	say_put_sized(writing, &upload, "");
	say(writing, upload.data, upload.size / 2);
	croft_plane_stop(plane);
	free(large.data);
	free(upload.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_malformed_heads),
		cmocka_unit_test(refuses_unknown_paths_and_methods),
		cmocka_unit_test(refuses_huge_heads),
		cmocka_unit_test(refuses_malformed_chunks),
		cmocka_unit_test(closes_connections_that_say_nothing_or_too_little),
		cmocka_unit_test(makes_room_by_closing_idle_connections),
		cmocka_unit_test(serves_beside_a_thousand_idle_connections),
		cmocka_unit_test(those_who_take_nothing_keep_nobody_out),
		cmocka_unit_test(compresses_for_a_bounded_number_at_once),
		cmocka_unit_test(stops_while_clients_are_in_the_middle_of_things),
	};
	/* The same where large blobs are kept as chunks. */
	const struct CMUnitTest chunked[] = {
		cmocka_unit_test(stops_while_clients_are_in_the_middle_of_things),
	};
	return cmocka_run_group_tests(tests, setup, teardown) + cmocka_run_group_tests(chunked, setup_chunks, teardown);
}
