/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The client of the blob plane's benchmark: one connection, one request after another, as little of
 * its own work as there can be. It reads all bytes that come and counts them.
 *
 *	client ranges HOST PORT PATH SIZE RANGE       all of a file, RANGE bytes a request
 *	client gets HOST PORT PREFIX                  one GET of PREFIX<hash> for each line of stdin
 *	client batches HOST PORT COUNT                one POST /batch for each COUNT lines of stdin
 *
 * Lines are "<sha256>-<size>". Prints "<seconds> <bytes of bodies>".
 */
#include "fs/http/http.h"
#include "proto/base/io.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { BUFFER = 256 * 1024, LINE = 96, REQUEST = 1 << 20 };

static char buffer[BUFFER], request[REQUEST];
static size_t start, end; /* of what is in the buffer */
static int connection;
static uint64_t bytes;

__attribute__((noreturn)) static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void dial(const char *host, const char *port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(port, NULL, 10))};
	int on = 1;
	connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (inet_pton(AF_INET, host, &address.sin_addr) != 1 ||
		connect(connection, (struct sockaddr *)&address, sizeof(address)) < 0)
		fail("connecting");
	setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static void send_all(size_t size)
{
	for (size_t at = 0; at < size;) {
		ssize_t done = send(connection, request + at, size - at, MSG_NOSIGNAL);
		if (done <= 0)
			fail("sending");
		at += (size_t)done;
	}
}

static void receive(void)
{
	if (start == end) {
		start = end = 0;
	} else if (end == BUFFER) {
		memmove(buffer, buffer + start, end - start);
		end -= start;
		start = 0;
	}
	ssize_t size = recv(connection, buffer + end, BUFFER - end, 0);
	if (size <= 0)
		fail("receiving");
	end += (size_t)size;
}

static void read_head(struct http_head *head)
{
	size_t looked = 0;
	ssize_t size;
	while ((size = http_head_size(CROFT_SLICE(buffer + start, end - start), &looked)) == 0)
		receive();
	if (size < 0 || !http_parse_answer(CROFT_SLICE(buffer + start, (size_t)size), head))
		fail("a malformed answer");
	start += (size_t)size;
	if (head->status != 200 && head->status != 206) {
		fprintf(stderr, "answered %d\n", head->status);
		exit(1);
	}
}

static void read_answer(void)
{
	struct http_head head;
	struct http_body body;
	struct croft_slice piece;
	read_head(&head);
	http_body_init_answer(&body, &head, false);
	for (;;) {
		struct croft_slice in = {buffer + start, end - start};
		enum http_step step = http_body_next(&body, &in, &piece);
		start = end - in.size;
		if (step == HTTP_END)
			return;
		if (step == HTTP_BAD)
			fail("malformed chunks");
		if (step == HTTP_DATA)
			bytes += piece.size;
		else
			receive();
	}
}

static void ranges(const char *path, uint64_t size, uint64_t range)
{
	for (uint64_t at = 0; at < size; at += range) {
		uint64_t last = (size - at < range ? size : at + range) - 1;
		send_all((size_t)snprintf(request, sizeof(request),
			"GET %s HTTP/1.1\r\nHost: bench\r\nRange: bytes=%" PRIu64 "-%" PRIu64 "\r\n\r\n", path,
			at, last));
		read_answer();
	}
}

static void gets(const char *prefix)
{
	char line[LINE];
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "-\n")] = '\0';
		send_all((size_t)snprintf(request, sizeof(request),
			"GET %s%s HTTP/1.1\r\nHost: bench\r\n\r\n", prefix, line));
		read_answer();
	}
}

static void batches(size_t count)
{
	char line[LINE];
	static char lines[REQUEST / 2];
	for (bool more = true; more;) {
		size_t size = 0, asked = 0;
		while (asked < count && size + LINE < sizeof(lines) &&
			(more = fgets(line, sizeof(line), stdin))) {
			size_t length = strlen(line);
			memcpy(lines + size, line, length);
			size += length;
			asked++;
		}
		if (asked == 0)
			return;
		size_t head = (size_t)snprintf(request, sizeof(request),
			"POST /batch HTTP/1.1\r\nHost: bench\r\nContent-Length: %zu\r\n\r\n", size);
		memcpy(request + head, lines, size);
		send_all(head + size);
		read_answer();
	}
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: client ranges|gets|batches HOST PORT ARGUMENT...\n");
		return 2;
	}
	dial(argv[2], argv[3]);
	uint64_t before = croft_now_ns();
	if (strcmp(argv[1], "ranges") == 0 && argc == 7)
		ranges(argv[4], strtoull(argv[5], NULL, 10), strtoull(argv[6], NULL, 10));
	else if (strcmp(argv[1], "gets") == 0)
		gets(argv[4]);
	else
		batches(strtoull(argv[4], NULL, 10));
	printf("%.6f %" PRIu64 "\n", (double)(croft_now_ns() - before) / 1e9, bytes);
	return 0;
}
