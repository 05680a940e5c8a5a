/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One daemon goes, another comes, and nobody who uses the mount sees more than a pause. The one that comes asks over
 * the socket; the other finishes nothing and loses nothing: it stops reading requests, writes down what the kernel
 * waits for, and passes its descriptors. Until the new one says that it serves, the old one can go on: so it does when
 * the new one ends, or is silent for longer than HAND_OVER_MS.
 *
 *	successor    OP_HAND_OVER  ->
 *	             <-  struct answer, with the descriptors; or why not
 *	             one byte: it serves  ->
 *
 * The two may be of different versions, so struct answer never changes.
 */
#include "fs/daemon/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>

enum { DESCRIPTORS = 4 };

struct answer {
	uint32_t version, refused;
	char reason[256];
};

union control {
	struct cmsghdr header;
	char space[CMSG_SPACE(DESCRIPTORS * sizeof(int))];
};

bool hand_over_ask(const char *state, int *socket, struct handed *handed, struct croft_error *err)
{
	struct answer answer = {0};
	union control control = {0};
	struct iovec bytes = {&answer, sizeof(answer)};
	struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control,
		.msg_controllen = sizeof(control)};
	struct daemon_request request = {.version = DAEMON_VERSION, .op = OP_HAND_OVER};
	*socket = daemon_connect(state, err);
	if (*socket < 0 || !daemon_send_request(*socket, &request, -1, err))
		return false;
	ssize_t got;
	do
		got = recvmsg(*socket, &message, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	int descriptors[DESCRIPTORS];
	bool passed = control.header.cmsg_level == SOL_SOCKET &&
		control.header.cmsg_type == SCM_RIGHTS &&
		control.header.cmsg_len == CMSG_LEN(sizeof(descriptors));
	answer.reason[sizeof(answer.reason) - 1] = '\0';
	if (got != (ssize_t)sizeof(answer) || answer.refused || !passed)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"the running filesystem daemon does not hand over: %s",
			answer.refused ? answer.reason : "it knows nothing of it");
	memcpy(descriptors, CMSG_DATA(&control.header), sizeof(descriptors));
	*handed = (struct handed){.lock_fd = descriptors[0], .listen_fd = descriptors[1],
		.mount = {.device = descriptors[2], .state = descriptors[3]}};
	return true;
}

bool hand_over_confirm(int socket, struct croft_error *err)
{
	if (send(socket, "", 1, MSG_NOSIGNAL) == 1)
		return true;
	return croft_error_set(err, CROFT_UNAVAILABLE, "the daemon that hands over went on by itself");
}

void hand_over_refuse(int socket, const char *reason)
{
	struct answer answer = {.version = DAEMON_VERSION, .refused = 1};
	snprintf(answer.reason, sizeof(answer.reason), "%s", reason);
	send(socket, &answer, sizeof(answer), MSG_NOSIGNAL);
}

/* Whether the other says within the time that it serves. */
static bool is_taken(int socket)
{
	struct pollfd polled = {.fd = socket, .events = POLLIN};
	char byte;
	int result;
	do
		result = poll(&polled, 1, HAND_OVER_MS);
	while (result < 0 && errno == EINTR);
	if (result > 0)
		return recv(socket, &byte, 1, 0) == 1;
	/* It must not come to it later. */
	struct ucred peer;
	socklen_t size = sizeof(peer);
	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 1)
		kill(peer.pid, SIGKILL);
	while (recv(socket, &byte, 1, 0) > 0)
		return true; /* it said so just before */
	return false;
}

bool hand_over_give(int socket, const struct handed *handed)
{
	struct answer answer = {.version = DAEMON_VERSION};
	union control control = {0};
	const int descriptors[DESCRIPTORS] = {handed->lock_fd, handed->listen_fd, handed->mount.device,
		handed->mount.state};
	struct iovec bytes = {&answer, sizeof(answer)};
	struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control,
		.msg_controllen = sizeof(control)};
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(descriptors));
	memcpy(CMSG_DATA(&control.header), descriptors, sizeof(descriptors));
	return sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t)sizeof(answer) && is_taken(socket);
}
