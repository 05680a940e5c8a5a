/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An origin of the fetcher that answers anything: to a batch, to one blob, to the question for chunks. Every
 * question has its end, nothing wrong comes into the store, and chunks have the blob's size together.
 */
#include "fs/fetch.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "tests/fuzz/loopback.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SMALL = 3, BLOBS = SMALL + 1, LARGE = 100000, DEADLINE_MS = 30 };

static char place[] = "/tmp/croft-fuzz-fetch-XXXXXX";
static struct croft_store *store;
static int listener = -1;
static char origin[32];
static pthread_t server;
static struct croft_digest digests[BLOBS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards: what follows */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static const uint8_t *answer;
static size_t answer_size, open_questions;

static void stop(void)
{
	shutdown(listener, SHUT_RDWR);
	pthread_join(server, NULL);
	close(listener);
	croft_store_close(store);
	croft_remove_tree(AT_FDCWD, place, NULL);
}

/* One connection after another, each with one answer. */
static void *serve(void *unused)
{
	for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
		char question[4096];
		struct timeval patience = {.tv_usec = 20000};
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		if (recv(fd, question, sizeof(question), 0) > 0) {
			CROFT_LOCKED(&lock);
			if (answer && send(fd, answer, answer_size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
				perror("sending");
		}
		close(fd);
	}
	return NULL;
}

static void start(void)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (!mkdtemp(place))
		abort();
	store = croft_store_open(&(struct croft_store_config){
		.path = place, .budget_bytes = 1 << 28, .budget_inodes = 1000}, &err);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = loopback_address(0);
	socklen_t length = sizeof(address);
	if (!store || bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, 64) < 0 ||
		getsockname(listener, (struct sockaddr *)&address, &length) < 0 ||
		pthread_create(&server, NULL, serve, NULL) != 0)
		abort();
	snprintf(origin, sizeof(origin), "127.0.0.1:%d", ntohs(address.sin_port));
	for (int i = 0; i < SMALL; i++)
		digests[i] = croft_digest_of("abc", (size_t)i + 1);
	/* Nobody has it. */
	digests[SMALL] = croft_digest_of("large", 5);
	digests[SMALL].size_bytes = LARGE;
	atexit(stop);
}

static void answered(void)
{
	CROFT_LOCKED(&lock);
	open_questions--;
	pthread_cond_signal(&changed);
}

static void fetched(void *user, const struct croft_digest *digest, uint64_t moved_bytes,
	const struct croft_error *err)
{
	if (!err && digest->size_bytes == LARGE)
		abort();
	answered();
}

static void told(void *user, const struct croft_digest *digest, const struct croft_recipe *recipe)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < recipe->count; i++)
		sum += recipe->chunks[i].size_bytes;
	if (recipe->count > 0 && sum != digest->size_bytes)
		abort();
	if (recipe->piece.size != 0 && recipe->piece.size != 100)
		abort();
	answered();
}

static void check_store(void)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	for (int i = 0; i < BLOBS; i++) {
		struct croft_slice bytes;
		if (!croft_store_get(store, &digests[i], arena, &bytes, NULL))
			continue;
		struct croft_digest got = croft_digest_of(bytes.data, bytes.size);
		if (!croft_digest_equal(&got, &digests[i]))
			abort();
	}
}

/* In front of some inputs stands what makes them the body of an answer, or of a batch's first blob. */
static size_t begin_answer(uint8_t kind, size_t size, char head[256])
{
	char line[CROFT_DIGEST_TEXT];
	croft_digest_format(&digests[kind % 2 ? SMALL - 1 : 0], '-', line);
	switch (kind % 4) {
	case 1:
		return (size_t)snprintf(head, 256, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", size);
	case 2:
		return (size_t)snprintf(head, 256, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s 200\n",
			size + strlen(line) + 5, line);
	case 3:
		return (size_t)snprintf(head, 256, "HTTP/1.1 206 x\r\nContent-Range: bytes 0-%d/%d\r\n"
			"Content-Length: %d\r\n\r\n", LARGE - 1, LARGE, LARGE);
	default:
		return 0;
	}
}

static void set_answer(const uint8_t *data, size_t size, size_t questions)
{
	CROFT_LOCKED(&lock);
	answer = data;
	answer_size = size;
	open_questions = questions;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!store)
		start();
	static uint8_t given[8192];
	if (size == 0 || size > 4096)
		return 0;
	size_t head = begin_answer(data[0], size - 1, (char *)given);
	memcpy(given + head, data + 1, size - 1);
	/* Batches of what can be right, and others. */
	struct croft_fetch_request requests[BLOBS];
	for (int i = 0; i < BLOBS; i++)
		requests[i] = (struct croft_fetch_request){.digest = digests[i], .done = fetched};
	set_answer(given, head + size - 1, BLOBS + 1);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_fetcher *fetcher = croft_fetcher_start(&(struct croft_fetcher_config){
		.store = store, .origin = origin, .connections = 2, .deadline_ms = DEADLINE_MS}, &err);
	if (!fetcher)
		abort();
	croft_fetch_many(fetcher, requests, BLOBS);
	croft_fetch_recipe(fetcher, &(struct croft_recipe_request){.digest = digests[SMALL],
		.offset = 1, .size = 100, .done = told});
	pthread_mutex_lock(&lock);
	while (open_questions > 0)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	croft_fetcher_stop(fetcher);
	set_answer(NULL, 0, 0);
	check_store();
	return 0;
}
