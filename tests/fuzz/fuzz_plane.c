/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client of the blob plane that says anything: requests, batches, bodies of what is put. In front of each
 * input may stand the head that gets it to the parser of batches or of values. The plane answers with HTTP or
 * closes, and stands afterwards.
 */
#include "fs/plane.h"
#include "proto/base/io.h"
#include "tests/fuzz/loopback.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char place[] = "/tmp/croft-fuzz-plane-XXXXXX";
static struct croft_store *store;
static struct croft_plane *plane;

static void stop(void)
{
	croft_plane_stop(plane);
	croft_store_close(store);
	croft_remove_tree(AT_FDCWD, place, NULL);
}

static void start(void)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (!mkdtemp(place))
		abort();
	store = croft_store_open(&(struct croft_store_config){.path = place, .chunked = true,
		.budget_bytes = 1 << 28, .budget_inodes = 1000}, &err);
	struct croft_digest digest = croft_digest_of("croft", 5);
	if (!store || !croft_store_put(store, &digest, CROFT_SLICE("croft", 5), &err))
		abort();
	plane = croft_plane_start(&(struct croft_plane_config){
		.address = "127.0.0.1:0", .store = store, .writable = true}, &err);
	if (!plane)
		abort();
	atexit(stop);
}

static size_t head_for(uint8_t kind, size_t size, char head[256])
{
	switch (kind % 4) {
	case 1:
		return (size_t)snprintf(
			head, 256, "POST /batch HTTP/1.1\r\nContent-Length: %zu\r\n\r\n", size);
	case 2:
		return (size_t)snprintf(head, 256,
			"PUT /x/ac/%064d HTTP/1.1\r\nContent-Length: %zu\r\n\r\n", kind, size);
	case 3:
		return (size_t)snprintf(head, 256,
			"PUT /cas/%064d HTTP/1.1\r\nContent-Encoding: zstd\r\nContent-Length: %zu\r\n\r\n", kind,
			size);
	default:
		return 0;
	}
}

static void send_all(int fd, const void *data, size_t size)
{
	while (size > 0) {
		ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
		if (sent <= 0)
			return; /* it has heard enough */
		data = (const char *)data + sent;
		size -= (size_t)sent;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char head[256], answer[65536];
	if (!plane)
		start();
	if (size == 0)
		return 0;
	struct sockaddr_in address = loopback_address(croft_plane_port(plane));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	loopback_set_patience(fd);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		abort();
	send_all(fd, head, head_for(data[0], size - 1, head));
	send_all(fd, data + 1, size - 1);
	shutdown(fd, SHUT_WR);
	bool first = true;
	for (ssize_t got; (got = recv(fd, answer, sizeof(answer), 0)) != 0; first = false) {
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			abort(); /* neither an answer nor the end */
		if (got < 0)
			break;
		if (first && memcmp(answer, "HTTP/1.", got < 7 ? (size_t)got : 7) != 0)
			abort();
	}
	close(fd);
	return 0;
}
