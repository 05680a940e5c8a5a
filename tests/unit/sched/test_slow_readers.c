/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clients that ask for much and take nothing cost bounded memory: while many wait, one reads all, and then the most that
 * this process ever had in memory is looked at. What waited is right when it is read after all.
 */
#include "fs/plane.h"
#include "google/bytestream/bytestream.pb-c.h"
#include "tests/unit/sched/loopback_calls.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LARGE = 48 << 20, CLIENTS = 32 }; /* 1.5 GiB are wanted */
/* With what a sanitizer keeps; the thread sanitizer has several bytes for each of ours. */
#ifdef __SANITIZE_THREAD__
static const uint64_t most = UINT64_C(2400) << 20;
#else
static const uint64_t most = UINT64_C(600) << 20;
#endif

static struct croft_digest put_large(void)
{
	char *bytes = croft_alloc(LARGE);
	fill_noise(bytes, LARGE, 7);
	struct croft_digest digest = loopback_put(&loopback, bytes, LARGE);
	free(bytes);
	return digest;
}

/* kB of a field of /proc/self/status. */
static uint64_t memory(const char *field)
{
	char line[256];
	unsigned long long size = 0;
	FILE *status = fopen("/proc/self/status", "re");
	assert_non_null(status);
	while (fgets(line, sizeof(line), status))
		if (strncmp(line, field, strlen(field)) == 0)
			sscanf(line + strlen(field), ": %llu", &size);
	fclose(status);
	return size * 1024;
}

static uint64_t forget_peak(void)
{
	int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	assert_int_equal(write(fd, "5", 1), 1);
	close(fd);
	return memory("VmRSS");
}

static void assert_bounded(uint64_t before)
{
	uint64_t peak = memory("VmHWM");
	if (peak > before + most)
		fail_msg("%llu MiB more than before", (unsigned long long)(peak - before) >> 20);
}

/* ByteStream -------------------------------------------------------------------------------------
 * What the core keeps for a client is the client's: it is a process of its own, begun before there are threads. */

static int to_client, from_client;
struct task {
	int port;
	struct croft_digest digest;
};

static struct croft_stream *begin_stream(struct croft_channel *channel, const struct croft_digest *digest)
{
	char text[CROFT_DIGEST_TEXT], name[CROFT_DIGEST_TEXT + 16];
	croft_digest_format(digest, '/', text);
	snprintf(name, sizeof(name), "blobs/%s", text);
	Bytestream__ReadRequest request = BYTESTREAM__READ_REQUEST__INIT;
	request.resource_name = name;
	struct croft_stream *stream = croft_stream_open(channel, NULL, "/google.bytestream.ByteStream/Read",
		&bytestream__read_response__descriptor, &err);
	if (!stream || !croft_stream_write(stream, &request.base, &err))
		abort();
	croft_stream_close_write(stream, NULL);
	return stream;
}

static bool reads_right(struct croft_stream *stream, const struct croft_digest *digest)
{
	struct croft_hasher *hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	struct croft_arena *arena = croft_arena_create();
	void *part;
	int got;
	while ((got = croft_stream_read(stream, arena, &part, &err)) > 0) {
		const Bytestream__ReadResponse *response = part;
		croft_hasher_update(hasher, response->data.data, response->data.len);
		croft_arena_reset(arena);
	}
	struct croft_digest all = croft_hasher_finish(hasher);
	croft_hasher_destroy(hasher);
	croft_arena_destroy(arena);
	return got == 0 && croft_digest_equal(&all, digest);
}

/* Reads the first and the last of many while the others wait, then one that begins when those are gone. */
static int be_client(int from, int to)
{
	struct task task;
	if (read(from, &task, sizeof(task)) != sizeof(task))
		return 0; /* it was not needed */
	char target[32];
	snprintf(target, sizeof(target), "127.0.0.1:%d", task.port);
	struct croft_channel *channel = croft_channel_create(target, NULL, &err);
	struct croft_stream *streams[CLIENTS];
	for (int i = 0; i < CLIENTS; i++)
		streams[i] = begin_stream(channel, &task.digest);
	bool right = reads_right(streams[0], &task.digest) && reads_right(streams[CLIENTS - 1], &task.digest);
	if (write(to, right ? "y" : "n", 1) != 1)
		return 1;
	for (int i = 0; i < CLIENTS; i++)
		croft_stream_destroy(streams[i]);
	struct croft_stream *stream = begin_stream(channel, &task.digest);
	right = reads_right(stream, &task.digest);
	croft_stream_destroy(stream);
	croft_channel_destroy(channel);
	return write(to, right ? "y" : "n", 1) != 1;
}

static void start_client(void)
{
	int down[2], up[2];
	assert_int_equal(pipe2(down, O_CLOEXEC) | pipe2(up, O_CLOEXEC), 0);
	pid_t child = fork();
	if (child == 0) {
		close(down[1]);
		close(up[0]);
		_exit(be_client(down[0], up[1]));
	}
	close(down[0]);
	close(up[1]);
	to_client = down[1];
	from_client = up[0];
}

static void assert_client_is_right(void)
{
	char answer = '-';
	assert_int_equal(read(from_client, &answer, 1), 1);
	assert_int_equal(answer, 'y');
}

static void streams_that_are_not_read_wait(void **state)
{
	struct task task = {croft_server_port(loopback.server), put_large()};
	uint64_t before = forget_peak();
	assert_int_equal(write(to_client, &task, sizeof(task)), sizeof(task));
	assert_client_is_right();
	assert_bounded(before);
	assert_client_is_right(); /* nobody's handler was left behind */
}

/* The plane -------------------------------------------------------------------------------------- */

static int ask(int port, const struct croft_digest *digest, const char *field)
{
	char hash[CROFT_HASH_TEXT], request[256];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_return_code(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	croft_hash_format(digest->hash, hash);
	/* Twice, one behind the other. */
	for (int i = 0; i < 2; i++) {
		snprintf(request, sizeof(request), "GET /cas/%s HTTP/1.1\r\n%s\r\n", hash, field);
		assert_ok(croft_write_all(fd, request, strlen(request), "a socket", &err), err);
	}
	return fd;
}

static void read_answer(int fd, const struct croft_digest *digest)
{
	char *bytes = croft_alloc(LARGE), byte, head[1024];
	size_t size = 0;
	while (size < 4 || memcmp(head + size - 4, "\r\n\r\n", 4) != 0) {
		assert_true(size < sizeof(head) && read(fd, &byte, 1) == 1);
		head[size++] = byte;
	}
	assert_ok(croft_read_all(fd, bytes, LARGE, "a socket", &err), err);
	struct croft_digest got = croft_digest_of(bytes, LARGE);
	assert_true(croft_digest_equal(&got, digest));
	free(bytes);
}

static void connections_that_are_not_read_wait(void **state)
{
	struct croft_digest digest = put_large();
	struct croft_plane *plane = croft_plane_start(
		&(struct croft_plane_config){.address = "127.0.0.1:0", .store = loopback.store, .idle_ms = 600000}, &err);
	assert_ok(plane, err);
	int port = croft_plane_port(plane), fds[CLIENTS];
	uint64_t before = forget_peak();
	for (int i = 0; i < CLIENTS; i++)
		fds[i] = ask(port, &digest, i % 2 ? "Accept-Encoding: zstd\r\n" : "");
	read_answer(fds[0], &digest);
	read_answer(fds[0], &digest);
	read_answer(fds[CLIENTS - 2], &digest);
	assert_bounded(before);
	for (int i = 0; i < CLIENTS; i++)
		close(fds[i]);
	croft_plane_stop(plane);
}

int main(void)
{
	start_client();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(streams_that_are_not_read_wait, set_up, tear_down),
		cmocka_unit_test_setup_teardown(connections_that_are_not_read_wait, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
