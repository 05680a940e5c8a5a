/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The blob plane and a client of it that sends and reads raw bytes. */
#ifndef CROFT_TESTS_UNIT_FS_PLANE_FIXTURE_H
#define CROFT_TESTS_UNIT_FS_PLANE_FIXTURE_H

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

static inline int start(void **state, bool chunks)
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

static inline int setup(void **state)
{
	return start(state, false);
}

static inline int setup_chunks(void **state)
{
	return start(state, true);
}

static inline int teardown(void **state)
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

static inline int dial(int port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_return_code(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	struct timeval patience = {.tv_sec = 20};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static inline void say(int fd, const void *data, size_t size)
{
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_write_all(fd, data, size, "a socket", &err), err);
}

static inline void say_text(int fd, const char *text)
{
	say(fd, text, strlen(text));
}

struct answer {
	int status;
	char head[4096];
	char *body;
	size_t size;
};

static inline void read_exactly(int fd, void *data, size_t size)
{
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_read_all(fd, data, size, "a socket", &err), err);
}

static inline void read_line(int fd, char *line, size_t room)
{
	size_t size = 0;
	do {
		assert_true(size + 1 < room);
		read_exactly(fd, line + size, 1);
	} while (line[size++] != '\n');
	line[size] = '\0';
}

static inline void read_head(int fd, struct answer *answer)
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

static inline void read_chunks(int fd, struct answer *answer)
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

static inline struct answer hear(int fd)
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

static inline void assert_closed(int fd)
{
	char byte;
	assert_int_equal(recv(fd, &byte, 1, 0), 0);
}

/* Sends a request, checks the answer's status, and hands out its body if wanted. */
static inline void expect(int fd, const char *request, int status, const void *body, size_t size)
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

static inline struct blob make_blob(size_t size, uint32_t seed)
{
	struct blob blob = {croft_alloc(size + 1), size};
	fill_noise(blob.data, size, seed);
	blob.digest = croft_digest_of(blob.data, size);
	croft_hash_format(blob.digest.hash, blob.hash);
	return blob;
}

static inline struct blob store_blob(struct fixture *fixture, size_t size, uint32_t seed)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct blob blob = make_blob(size, seed);
	assert_ok(croft_store_put(
		fixture->store, &blob.digest, CROFT_SLICE(blob.data, blob.size), &err), err);
	return blob;
}

static inline bool is_stored(struct fixture *fixture, const struct blob *blob)
{
	bool missing = true;
	assert_true(croft_store_find_missing(fixture->store, &blob->digest, 1, &missing, NULL));
	return !missing;
}

static inline void get(int fd, const char *method, const struct blob *blob, const char *fields, int status,
	const void *body, size_t size)
{
	char request[512];
	snprintf(request, sizeof(request), "%s /cas/%s HTTP/1.1\r\nHost: x\r\n%s\r\n", method,
		blob->hash, fields);
	expect(fd, request, status, body, size);
}

static inline void say_put(int fd, const struct blob *blob, const char *fields)
{
	char head[512];
	snprintf(head, sizeof(head), "PUT /cas/%s HTTP/1.1\r\n%s\r\n", blob->hash, fields);
	say_text(fd, head);
}

static inline void say_put_sized(int fd, const struct blob *blob, const char *fields)
{
	char more[256];
	snprintf(more, sizeof(more), "Content-Length: %zu\r\n%s", blob->size, fields);
	say_put(fd, blob, more);
}

#endif
