/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The blob plane as clients see it: raw bytes on real sockets. */
#include "tests/unit/test.h"

#include "fs/plane.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <zstd.h>

/* Two planes over one store: one writable, one not, with a short idle time. */
struct fixture {
	char path[64];
	struct croft_store *store;
	struct croft_plane *plane, *impatient;
	int port, impatient_port;
};

static int start(void **state, bool chunks)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct fixture *fixture = croft_zalloc(sizeof(*fixture));
	snprintf(fixture->path, sizeof(fixture->path), "/tmp/croft-test-plane-XXXXXX");
	assert_non_null(mkdtemp(fixture->path));
	fixture->store = croft_store_open(
		&(struct croft_store_config){.path = fixture->path, .budget_bytes = 1 << 30,
			.budget_inodes = 10000, .chunked = chunks}, &err);
	assert_ok(fixture->store, err);
	fixture->plane = croft_plane_start(&(struct croft_plane_config){.address = "127.0.0.1:0",
		.store = fixture->store, .writable = true}, &err);
	assert_ok(fixture->plane, err);
	fixture->impatient = croft_plane_start(&(struct croft_plane_config){.address = "127.0.0.1:0",
		.store = fixture->store, .idle_ms = 200, .connections = 8}, &err);
	assert_ok(fixture->impatient, err);
	fixture->port = croft_plane_port(fixture->plane);
	fixture->impatient_port = croft_plane_port(fixture->impatient);
	*state = fixture;
	return 0;
}

static int setup(void **state)
{
	return start(state, false);
}

static int setup_chunks(void **state)
{
	return start(state, true);
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;
	croft_plane_stop(fixture->plane);
	croft_plane_stop(fixture->impatient);
	croft_store_close(fixture->store);
	croft_remove_tree(AT_FDCWD, fixture->path, NULL);
	free(fixture);
	return 0;
}

/* A client --------------------------------------------------------------------------------------- */

static int dial(int port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_return_code(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	struct timeval patience = {.tv_sec = 20};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static void say(int fd, const void *data, size_t size)
{
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_write_all(fd, data, size, "a socket", &err), err);
}

static void say_text(int fd, const char *text)
{
	say(fd, text, strlen(text));
}

struct answer {
	int status;
	char head[4096];
	char *body;
	size_t size;
};

static void read_exactly(int fd, void *data, size_t size)
{
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_read_all(fd, data, size, "a socket", &err), err);
}

static void read_line(int fd, char *line, size_t room)
{
	size_t size = 0;
	do {
		assert_true(size + 1 < room);
		read_exactly(fd, line + size, 1);
	} while (line[size++] != '\n');
	line[size] = '\0';
}

static void read_head(int fd, struct answer *answer)
{
	*answer = (struct answer){0};
	size_t size = 0;
	do {
		char line[1024];
		read_line(fd, line, sizeof(line));
		assert_true(size + strlen(line) < sizeof(answer->head));
		memcpy(answer->head + size, line, strlen(line) + 1);
		size += strlen(line);
		if (strcmp(line, "\r\n") == 0)
			break;
	} while (true);
	assert_int_equal(sscanf(answer->head, "HTTP/1.1 %d ", &answer->status), 1);
}

static void read_chunks(int fd, struct answer *answer)
{
	for (;;) {
		char line[64], end[2];
		size_t size;
		read_line(fd, line, sizeof(line));
		assert_int_equal(sscanf(line, "%zx", &size), 1);
		answer->body = croft_realloc(answer->body, answer->size + size + 1, 1);
		read_exactly(fd, answer->body + answer->size, size);
		answer->size += size;
		read_exactly(fd, end, 2);
		assert_memory_equal(end, "\r\n", 2);
		if (size == 0)
			return;
	}
}

static struct answer hear(int fd)
{
	struct answer answer;
	read_head(fd, &answer);
	const char *length = strstr(answer.head, "Content-Length: ");
	if (strstr(answer.head, "Transfer-Encoding: chunked")) {
		read_chunks(fd, &answer);
	} else if (length) {
		answer.size = strtoull(length + 16, NULL, 10);
		answer.body = croft_alloc(answer.size + 1);
		read_exactly(fd, answer.body, answer.size);
	}
	if (answer.body)
		answer.body[answer.size] = '\0';
	return answer;
}

static void assert_closed(int fd)
{
	char byte;
	assert_int_equal(recv(fd, &byte, 1, 0), 0);
}

/* Sends a request, checks the answer's status, and hands out its body if wanted. */
static void expect(int fd, const char *request, int status, const void *body, size_t size)
{
	say_text(fd, request);
	struct answer answer = hear(fd);
	if (answer.status != status)
		fail_msg("%s: expected %d, got %s%s", request, status, answer.head,
			answer.body ? answer.body : "");
	if (body) {
		assert_int_equal(answer.size, size);
		assert_memory_equal(answer.body, body, size);
	}
	free(answer.body);
}

/* Blobs ------------------------------------------------------------------------------------------ */

struct blob {
	char *data;
	size_t size;
	struct croft_digest digest;
	char hash[CROFT_HASH_TEXT];
};

static struct blob make_blob(size_t size, uint32_t seed)
{
	struct blob blob = {croft_alloc(size + 1), size};
	for (size_t i = 0; i < size; i++) {
		seed = seed * 1664525 + 1013904223;
		blob.data[i] = (char)(seed >> 24);
	}
	blob.digest = croft_digest_of(blob.data, size);
	croft_hash_format(blob.digest.hash, blob.hash);
	return blob;
}

static struct blob store_blob(struct fixture *fixture, size_t size, uint32_t seed)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct blob blob = make_blob(size, seed);
	assert_ok(croft_store_put(
		fixture->store, &blob.digest, CROFT_SLICE(blob.data, blob.size), &err), err);
	return blob;
}

static bool is_stored(struct fixture *fixture, const struct blob *blob)
{
	bool missing = true;
	assert_true(croft_store_find_missing(fixture->store, &blob->digest, 1, &missing, NULL));
	return !missing;
}

static void get(int fd, const char *method, const struct blob *blob, const char *fields, int status,
	const void *body, size_t size)
{
	char request[512];
	snprintf(request, sizeof(request), "%s /cas/%s HTTP/1.1\r\nHost: x\r\n%s\r\n", method,
		blob->hash, fields);
	expect(fd, request, status, body, size);
}

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
static void damage(struct fixture *fixture, const struct blob *blob)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store_blob *open_blob = croft_store_open_blob(fixture->store, &blob->digest, &err);
	assert_ok(open_blob, err);
	uint64_t offset;
	int fd = croft_store_blob_fd(open_blob, &offset);
	char other = (char)(blob->data[0] ^ 1);
	assert_int_equal(pwrite(fd, &other, 1, (off_t)offset), 1);
	croft_store_blob_close(open_blob);
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
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855--1\n"};
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

/* Tests: writing --------------------------------------------------------------------------------- */

static void say_put(int fd, const struct blob *blob, const char *fields)
{
	char head[512];
	snprintf(head, sizeof(head), "PUT /cas/%s HTTP/1.1\r\n%s\r\n", blob->hash, fields);
	say_text(fd, head);
}

static void say_put_sized(int fd, const struct blob *blob, const char *fields)
{
	char more[256];
	snprintf(more, sizeof(more), "Content-Length: %zu\r\n%s", blob->size, fields);
	say_put(fd, blob, more);
}

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
		cmocka_unit_test(gets_small_blobs_over_one_connection),
		cmocka_unit_test(gets_a_large_blob_whole),
		cmocka_unit_test(gets_the_empty_blob),
		cmocka_unit_test(answers_404_for_a_blob_that_is_not_there),
		cmocka_unit_test(gets_ranges),
		cmocka_unit_test(says_which_range_it_sends),
		cmocka_unit_test(head_says_the_size_and_sends_nothing),
		cmocka_unit_test(compresses_when_zstd_is_accepted),
		cmocka_unit_test(does_not_compress_when_zstd_is_refused),
		cmocka_unit_test(answers_pipelined_requests_in_order),
		cmocka_unit_test(takes_a_head_byte_by_byte),
		cmocka_unit_test(closes_when_the_client_asks_for_it),
		cmocka_unit_test(batches_blobs_in_the_order_asked),
		cmocka_unit_test(of_a_batch_only_the_damaged_fails),
		cmocka_unit_test(refuses_malformed_batches),
		cmocka_unit_test(bounds_the_count_of_a_batch),
		cmocka_unit_test(stores_what_is_put),
		cmocka_unit_test(refuses_bytes_of_another_hash),
		cmocka_unit_test(stores_chunked_bodies),
		cmocka_unit_test(says_continue_when_the_client_waits_for_it),
		cmocka_unit_test(spares_the_client_sending_what_is_there),
		cmocka_unit_test(refuses_to_write_when_read_only),
		cmocka_unit_test(stores_nothing_of_a_body_that_ends_early),
		cmocka_unit_test(keeps_action_results),
		cmocka_unit_test(instances_have_action_caches_of_their_own),
		cmocka_unit_test(refuses_action_results_without_their_outputs),
		cmocka_unit_test(keeps_any_value_for_an_action),
		cmocka_unit_test(bounds_values_for_actions),
		cmocka_unit_test(refuses_malformed_heads),
		cmocka_unit_test(refuses_unknown_paths_and_methods),
		cmocka_unit_test(refuses_huge_heads),
		cmocka_unit_test(refuses_malformed_chunks),
		cmocka_unit_test(closes_connections_that_say_nothing_or_too_little),
		cmocka_unit_test(makes_room_by_closing_idle_connections),
		cmocka_unit_test(serves_beside_a_thousand_idle_connections),
		cmocka_unit_test(stops_while_clients_are_in_the_middle_of_things),
	};
	const struct CMUnitTest of_chunks[] = {
		cmocka_unit_test(gets_a_large_blob_whole),
		cmocka_unit_test(gets_ranges),
		cmocka_unit_test(compresses_when_zstd_is_accepted),
		cmocka_unit_test(answers_pipelined_requests_in_order),
		cmocka_unit_test(batches_blobs_in_the_order_asked),
		cmocka_unit_test(stores_what_is_put),
		cmocka_unit_test(stops_while_clients_are_in_the_middle_of_things),
	};
	return cmocka_run_group_tests(tests, setup, teardown) +
		cmocka_run_group_tests(of_chunks, setup_chunks, teardown);
}
