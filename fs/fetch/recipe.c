/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How the origin keeps large blobs: one short question each, asked by a worker on a connection of its
 * own. Only the origin is asked: what a recipe says can be checked only when all of the blob is there.
 */
#include "fs/fetch/internal.h"

#include "fs/chunker.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
	TIMEOUT_MS = 5000, /* for each step; a recipe is not worth waiting for longer */
	ANSWER_MAX = 64 << 20,
};

struct fetch_recipe {
	struct ring_work work;
	struct croft_fetcher *fetcher;
	struct croft_digest digest;
	char *origin; /* as it was when it was asked for */
	struct fetch_waiter *waiters;
	struct croft_digest *chunks;
	size_t count; /* 0: it could not be had */
};

/* On a worker ----------------------------------------------------------------------------------- */

static int dial(const char *name)
{
	char host[256], port[16];
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	if (!http_split_address(name, host, sizeof(host), port, sizeof(port)) ||
		getaddrinfo(host, port, &hints, &found) != 0)
		return -1;
	int fd = -1;
	for (struct addrinfo *at = found; at && fd < 0; at = at->ai_next) {
		struct timeval timeout = {TIMEOUT_MS / 1000, 0};
		fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
		if (connect(fd, at->ai_addr, at->ai_addrlen) < 0) {
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(found);
	return fd;
}

static char *ask(const struct fetch_recipe *recipe, size_t *size)
{
	const char *origin = recipe->origin;
	char hash[CROFT_HASH_TEXT], request[512 + HTTP_AUTHORIZATION];
	croft_hash_format(recipe->digest.hash, hash);
	int length = snprintf(request, sizeof(request),
		"GET /chunks/%s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\n\r\n", hash, origin,
		recipe->fetcher->authorization);
	CROFT_CLEANUP_FD int fd = dial(origin);
	if (fd < 0 || length >= (int)sizeof(request) ||
		!croft_write_all(fd, request, (size_t)length, "a request", NULL))
		return NULL;
	size_t room = 64 * 1024;
	char *answer = croft_alloc(room);
	*size = 0;
	for (;;) {
		ssize_t got = recv(fd, answer + *size, room - *size, 0);
		if (got == 0)
			return answer;
		if (got > 0)
			*size += (size_t)got;
		if (got < 0 || *size > ANSWER_MAX) {
			free(answer);
			return NULL;
		}
		if (*size == room)
			answer = croft_realloc(answer, room *= 2, 1);
	}
}

/* Lines of "<sha256>-<size>" that have the blob's size together. */
static bool parse_lines(struct fetch_recipe *recipe, struct croft_slice text)
{
	uint64_t sum = 0;
	size_t room = 0;
	while (text.size > 0) {
		const char *feed = memchr(text.data, '\n', text.size);
		struct croft_slice line = {text.data, feed ? (size_t)(feed - (const char *)text.data) : 0};
		struct croft_digest chunk;
		if (!feed || !croft_digest_parse(line, &chunk, NULL) || chunk.size_bytes == 0 ||
			chunk.size_bytes > CROFT_CHUNK_MOST || recipe->digest.size_bytes - sum < chunk.size_bytes)
			return false;
		if (recipe->count == room) {
			room = room ? 2 * room : 64;
			recipe->chunks = croft_realloc(recipe->chunks, room, sizeof(*recipe->chunks));
		}
		recipe->chunks[recipe->count++] = chunk;
		sum += chunk.size_bytes;
		text = CROFT_SLICE(feed + 1, text.size - line.size - 1);
	}
	return sum == recipe->digest.size_bytes;
}

static bool parse_answer(struct fetch_recipe *recipe, struct croft_slice answer)
{
	struct http_head head;
	struct http_body body;
	struct croft_slice piece;
	size_t looked = 0;
	ssize_t size = http_head_size(answer, &looked);
	if (size <= 0 || !http_parse_answer(CROFT_SLICE(answer.data, (size_t)size), &head) ||
		head.status != 200 || head.chunked || head.is_zstd || head.unknown_coding)
		return false;
	answer = CROFT_SLICE((const char *)answer.data + size, answer.size - (size_t)size);
	http_body_init_answer(&body, &head, false);
	return http_body_next(&body, &answer, &piece) == HTTP_DATA &&
		(!head.has_length || piece.size == head.length) && parse_lines(recipe, piece);
}

static void work(struct ring_work *work)
{
	struct fetch_recipe *recipe = ring_container(work, struct fetch_recipe, work);
	size_t size;
	CROFT_CLEANUP_FREE char *answer = ask(recipe, &size);
	if (!answer || !parse_answer(recipe, CROFT_SLICE(answer, size)))
		recipe->count = 0;
}

/* On the ring's thread -------------------------------------------------------------------------- */

static void done(struct ring_work *work)
{
	struct fetch_recipe *recipe = ring_container(work, struct fetch_recipe, work);
	struct croft_fetcher *fetcher = recipe->fetcher;
	croft_digest_map_remove(fetcher->recipes, &recipe->digest);
	fetcher->works--;
	for (struct fetch_waiter *next, *at = recipe->waiters; at; at = next) {
		next = at->next;
		at->recipe_done(at->request.user, &recipe->digest, recipe->chunks, recipe->count);
		free(at);
	}
	free(recipe->chunks);
	free(recipe->origin);
	free(recipe);
	fetch_settle(fetcher);
}

void fetch_recipe_want(struct croft_fetcher *fetcher, struct fetch_waiter *waiter)
{
	if (fetcher->stopping) {
		waiter->recipe_done(waiter->request.user, &waiter->request.digest, NULL, 0);
		free(waiter);
		return;
	}
	void **place = croft_digest_map_at(fetcher->recipes, &waiter->request.digest);
	struct fetch_recipe *recipe = *place;
	if (!recipe) {
		*place = recipe = croft_zalloc(sizeof(*recipe));
		recipe->fetcher = fetcher;
		recipe->digest = waiter->request.digest;
		recipe->origin = croft_strdup(fetcher->sources[0].name);
		recipe->work = (struct ring_work){.work = work, .done = done};
		fetcher->works++;
		ring_work(fetcher->ring, &recipe->work);
	}
	waiter->next = recipe->waiters;
	recipe->waiters = waiter;
}
