/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For tests of the fetcher: a farm's store behind a plane, a local one, and sources that misbehave. */
#ifndef CROFT_TESTS_FETCH_FIXTURE_H
#define CROFT_TESTS_FETCH_FIXTURE_H

#include "tests/unit/test.h"

#include "fs/fetch.h"
#include "fs/plane.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

/* The farm's store behind a plane, and a local one. */
struct fixture {
	char path[64];
	struct croft_store *farm, *local;
	struct croft_plane *plane;
	char origin[32];
};

static inline struct croft_store *open_store(const char *path, const char *name)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char place[128];
	snprintf(place, sizeof(place), "%s/%s", path, name);
	struct croft_store *store = croft_store_open(&(struct croft_store_config){
		.path = place, .budget_bytes = UINT64_C(1) << 31, .budget_inodes = 100000,
		.chunked = strcmp(name, "farm") == 0}, &err);
	assert_ok(store, err);
	return store;
}

static inline int setup(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct fixture *fixture = croft_zalloc(sizeof(*fixture));
	snprintf(fixture->path, sizeof(fixture->path), "/tmp/croft-test-fetch-XXXXXX");
	assert_non_null(mkdtemp(fixture->path));
	fixture->farm = open_store(fixture->path, "farm");
	fixture->local = open_store(fixture->path, "local");
	fixture->plane = croft_plane_start(&(struct croft_plane_config){
		.address = "127.0.0.1:0", .store = fixture->farm}, &err);
	assert_ok(fixture->plane, err);
	snprintf(fixture->origin, sizeof(fixture->origin), "127.0.0.1:%d",
		croft_plane_port(fixture->plane));
	*state = fixture;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *fixture = *state;
	croft_plane_stop(fixture->plane);
	croft_store_close(fixture->farm);
	croft_store_close(fixture->local);
	croft_remove_tree(AT_FDCWD, fixture->path, NULL);
	free(fixture);
	return 0;
}

static inline struct croft_fetcher *start_fetcher(struct fixture *fixture, const char *origin,
	unsigned deadline_ms)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_fetcher *fetcher = croft_fetcher_start(&(struct croft_fetcher_config){
		.store = fixture->local, .origin = origin, .deadline_ms = deadline_ms}, &err);
	assert_ok(fetcher, err);
	return fetcher;
}

/* Blobs ------------------------------------------------------------------------------------------ */

struct blob {
	char *data;
	size_t size;
	struct croft_digest digest;
};

static inline struct blob make_blob(size_t size, uint32_t seed)
{
	struct blob blob = {croft_alloc(size + 1), size};
	fill_noise(blob.data, size, seed);
	blob.digest = croft_digest_of(blob.data, size);
	return blob;
}

static inline struct blob farm_blob(struct fixture *fixture, size_t size, uint32_t seed)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct blob blob = make_blob(size, seed);
	assert_ok(croft_store_put(
		fixture->farm, &blob.digest, CROFT_SLICE(blob.data, blob.size), &err), err);
	return blob;
}

static inline void assert_local(struct fixture *fixture, const struct blob *blob)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice data;
	struct croft_arena *arena = croft_arena_create();
	assert_ok(croft_store_get(fixture->local, &blob->digest, arena, &data, &err), err);
	assert_int_equal(data.size, blob->size);
	assert_memory_equal(data.data, blob->data, blob->size);
	croft_arena_destroy(arena);
}

static inline bool is_local(struct fixture *fixture, const struct blob *blob)
{
	bool missing = true;
	assert_true(croft_store_find_missing(fixture->local, &blob->digest, 1, &missing, NULL));
	return !missing;
}

/* Waiting for many ------------------------------------------------------------------------------- */

struct crowd {
	pthread_mutex_t lock; /* guards: all below */
	pthread_cond_t change;
	size_t done, failed;
	uint64_t moved_bytes;
	struct croft_error err;
};

#define CROWD ((struct crowd){PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER})

static inline void one_done(void *user, const struct croft_digest *digest, uint64_t moved_bytes,
	const struct croft_error *err)
{
	struct crowd *crowd = user;
	CROFT_LOCKED(&crowd->lock);
	crowd->done++;
	crowd->moved_bytes += moved_bytes;
	if (err) {
		crowd->failed++;
		crowd->err = *err;
	}
	pthread_cond_broadcast(&crowd->change);
}

static inline void wait_for(struct crowd *crowd, size_t count)
{
	CROFT_LOCKED(&crowd->lock);
	while (crowd->done < count)
		pthread_cond_wait(&crowd->change, &crowd->lock);
}

static inline void ask(struct croft_fetcher *fetcher, struct crowd *crowd, const struct blob *blobs,
	size_t count, bool background)
{
	struct croft_fetch_request *requests = croft_array(count, sizeof(*requests));
	for (size_t i = 0; i < count; i++)
		requests[i] = (struct croft_fetch_request){
			.digest = blobs[i].digest, .background = background, .done = one_done, .user = crowd};
	croft_fetch_many(fetcher, requests, count);
	free(requests);
}

static inline void free_blobs(struct blob *blobs, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(blobs[i].data);
}

/* Sources that misbehave --------------------------------------------------------------------------- */

struct source;
struct dialog {
	struct source *source;
	int fd;
	int number; /* of the connection: 0, 1, … */
	char head[8192], body[65536];
};

struct source {
	int fd;
	char name[32];
	pthread_t thread;
	void (*talk)(struct dialog *dialog);
	const struct blob *blobs;
	size_t count;
	int stop[2];
	int connections; /* atomic */
	int requests;    /* atomic */
};

/* A request with its body; false: there is no more, or the test is over. */
static inline bool hear(struct dialog *dialog)
{
	size_t size = 0;
	struct pollfd waits[] = {{dialog->fd, POLLIN, 0}, {dialog->source->stop[0], POLLIN, 0}};
	memset(dialog->head, 0, sizeof(dialog->head));
	memset(dialog->body, 0, sizeof(dialog->body));
	while (size < sizeof(dialog->head) - 1 && !strstr(dialog->head, "\r\n\r\n")) {
		if (poll(waits, 2, -1) < 0 || waits[1].revents ||
			recv(dialog->fd, dialog->head + size, 1, 0) != 1)
			return false;
		size++;
	}
	const char *length = strstr(dialog->head, "Content-Length: ");
	size_t want = length ? strtoull(length + 16, NULL, 10) : 0;
	assert_true(want < sizeof(dialog->body));
	__atomic_fetch_add(&dialog->source->requests, 1, __ATOMIC_RELAXED);
	return want == 0 || recv(dialog->fd, dialog->body, want, MSG_WAITALL) == (ssize_t)want;
}

static inline void say(struct dialog *dialog, const void *data, size_t size)
{
	for (size_t at = 0; at < size;) {
		ssize_t done = send(dialog->fd, (const char *)data + at, size - at, MSG_NOSIGNAL);
		if (done <= 0)
			return;
		at += (size_t)done;
	}
}

static inline void say_text(struct dialog *dialog, const char *text)
{
	say(dialog, text, strlen(text));
}

/* The blob that a GET names. */
static inline const struct blob *asked_for(struct dialog *dialog)
{
	char hash[CROFT_HASH_TEXT];
	for (size_t i = 0; i < dialog->source->count; i++) {
		croft_hash_format(dialog->source->blobs[i].digest.hash, hash);
		if (strstr(dialog->head, hash))
			return &dialog->source->blobs[i];
	}
	return NULL;
}

static inline void say_head(struct dialog *dialog, int status, size_t size, const char *fields)
{
	char head[256];
	snprintf(head, sizeof(head), "HTTP/1.1 %d x\r\nContent-Length: %zu\r\n%s\r\n", status, size,
		fields);
	say_text(dialog, head);
}

static inline size_t first_of_range(struct dialog *dialog)
{
	const char *range = strstr(dialog->head, "Range: bytes=");
	return range ? strtoull(range + 13, NULL, 10) : 0;
}

static inline void *talk_on(void *user)
{
	struct dialog *dialog = user;
	dialog->source->talk(dialog);
	close(dialog->fd);
	free(dialog);
	return NULL;
}

/* One thread a connection, joined at the end. */
static inline void *serve(void *user)
{
	struct source *source = user;
	pthread_t threads[1024];
	int count = 0;
	struct pollfd waits[] = {{source->fd, POLLIN, 0}, {source->stop[0], POLLIN, 0}};
	while (poll(waits, 2, -1) >= 0 && !waits[1].revents && count < 1024) {
		struct dialog *dialog = croft_zalloc(sizeof(*dialog));
		dialog->source = source;
		dialog->number = count;
		dialog->fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC);
		__atomic_fetch_add(&source->connections, 1, __ATOMIC_RELAXED);
		pthread_create(&threads[count++], NULL, talk_on, dialog);
	}
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	return NULL;
}

/* A port that stays ours while nobody listens on it: two who both reuse an address may share it as
 * long as only one listens. */
static inline int reserve_port(uint16_t port, char name[32])
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	assert_return_code(bind(fd, (struct sockaddr *)&address, size), 0);
	assert_return_code(getsockname(fd, (struct sockaddr *)&address, &size), 0);
	snprintf(name, 32, "127.0.0.1:%d", ntohs(address.sin_port));
	return fd;
}

/* At a reserved place, or, with NULL, at any. */
static inline struct source *start_source_at(const char *place, void (*talk)(struct dialog *dialog),
	const struct blob *blobs, size_t count)
{
	struct source *source = croft_zalloc(sizeof(*source));
	source->talk = talk;
	source->blobs = blobs;
	source->count = count;
	source->fd = reserve_port(
		place ? (uint16_t)strtoul(strchr(place, ':') + 1, NULL, 10) : 0, source->name);
	assert_return_code(listen(source->fd, 100), 0);
	assert_return_code(pipe2(source->stop, O_CLOEXEC), 0);
	pthread_create(&source->thread, NULL, serve, source);
	return source;
}

static inline struct source *start_source(void (*talk)(struct dialog *dialog), const struct blob *blobs,
	size_t count)
{
	return start_source_at(NULL, talk, blobs, count);
}

static inline void stop_source(struct source *source)
{
	close(source->stop[1]);
	pthread_join(source->thread, NULL);
	close(source->stop[0]);
	close(source->fd);
	free(source);
}

/* Waits for the end of the test or of the connection. */
static inline void say_nothing(struct dialog *dialog)
{
	struct pollfd waits[] = {{dialog->fd, POLLRDHUP, 0}, {dialog->source->stop[0], POLLIN, 0}};
	poll(waits, 2, -1);
}

/* Every connection ends when it has been asked for something. */
static inline void hang_up(struct dialog *dialog)
{
	hear(dialog);
}

/* Large blobs with a wrong byte, small ones too. */
static inline void lie(struct dialog *dialog)
{
	while (hear(dialog)) {
		const struct blob *blob = asked_for(dialog);
		if (!blob) {
			say_head(dialog, 404, 0, "");
			continue;
		}
		say_head(dialog, 200, blob->size, "");
		char *wrong = croft_alloc(blob->size);
		memcpy(wrong, blob->data, blob->size);
		wrong[blob->size - 1] ^= 1;
		say(dialog, wrong, blob->size);
		free(wrong);
	}
}

/* Says half of the blob, then nothing more. */
static inline void stall(struct dialog *dialog)
{
	if (!hear(dialog))
		return;
	const struct blob *blob = asked_for(dialog);
	say_head(dialog, 200, blob->size, "");
	say(dialog, blob->data, blob->size / 2);
	say_nothing(dialog);
}

/* Nonsense of all kinds, one a connection. */
static inline void babble(struct dialog *dialog)
{
	static const char *const nonsense[] = {
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 206 OK\r\nContent-Length: 1000\r\n\r\n",
		"HTTP/1.1 206 OK\r\nContent-Range: bytes 1-999/1000\r\nContent-Length: 999\r\n\r\n",
		"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\noh!",
		"HTTP/1.1 302 There\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200\n\n",
		"\r\n\r\n\r\n",
		"HTTP/3.0 200 OK\r\n\r\n",
		"SSH-2.0-OpenSSH\r\n",
		"",
	};
	if (!hear(dialog))
		return;
	size_t count = sizeof(nonsense) / sizeof(nonsense[0]);
	say_text(dialog, nonsense[(size_t)dialog->number % count]);
	shutdown(dialog->fd, SHUT_WR);
	say_nothing(dialog);
}

#endif
