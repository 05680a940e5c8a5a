/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TCP on this machine, for fuzzers of what comes over it. */
#ifndef CROFT_TESTS_FUZZ_LOOPBACK_H
#define CROFT_TESTS_FUZZ_LOOPBACK_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static inline struct sockaddr_in loopback_address(int port)
{
	return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* Nothing takes as long as this but what hangs. */
static inline void loopback_set_patience(int fd)
{
	struct timeval patience = {.tv_sec = 20};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	/* Ports are not kept for connections that are over. */
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
}

#endif
