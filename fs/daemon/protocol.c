/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/daemon/protocol.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

void daemon_config_text(const struct croft_daemon_config *config, char text[DAEMON_TEXT])
{
	snprintf(text, DAEMON_TEXT, "%s %s %s %llu %u %u %d %s %s %s %s", config->origin ? config->origin : "-",
		config->plane_key ? config->plane_key : "-",
		config->plane_address ? config->plane_address : "-",
		(unsigned long long)config->budget_bytes, config->uid, config->gid, config->classic,
		croft_staging_name(config->staging), config->tls.certificate_file ? config->tls.certificate_file : "-",
		config->tls.key_file ? config->tls.key_file : "-",
		config->tls.authority_file ? config->tls.authority_file : "-");
}

void daemon_build_text(char text[DAEMON_BUILD])
{
	struct stat file = {0};
	stat("/proc/self/exe", &file);
	snprintf(text, DAEMON_BUILD, "%llx %llx %llx.%lx", (unsigned long long)file.st_dev,
		(unsigned long long)file.st_ino, (unsigned long long)file.st_mtim.tv_sec,
		file.st_mtim.tv_nsec);
}

/* By way of the directory's descriptor, so that any path fits. */
static int open_socket(const char *state, struct sockaddr_un *address, int *directory,
	struct croft_error *err)
{
	*directory = open(state, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*directory < 0) {
		croft_error_errno(err, errno, "opening %s", state);
		return -1;
	}
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/socket", *directory);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		croft_error_errno(err, errno, "making a socket");
	return fd;
}

int daemon_listen(const char *state, struct croft_error *err)
{
	struct sockaddr_un address;
	CROFT_CLEANUP_FD int directory = -1;
	int fd = open_socket(state, &address, &directory, err);
	if (fd < 0)
		return -1;
	if (unlinkat(directory, "socket", 0) != 0 && errno != ENOENT)
		croft_error_errno(err, errno, "removing the old %s/socket", state);
	else if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
		/* Whoever may talk to the daemon can charge and stop it. */
		fchmodat(directory, "socket", 0600, 0) != 0 || listen(fd, 64) != 0)
		croft_error_errno(err, errno, "listening on %s/socket", state);
	else
		return fd;
	close(fd);
	return -1;
}

int daemon_connect(const char *state, struct croft_error *err)
{
	struct sockaddr_un address;
	CROFT_CLEANUP_FD int directory = -1;
	int fd = open_socket(state, &address, &directory, err);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	croft_error_errno(err, errno, "connecting to %s/socket", state);
	close(fd);
	return -1;
}

static bool send_bytes(int socket, const void *data, size_t size, int passed_fd,
	struct croft_error *err)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec bytes = {(void *)data, size};
	struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
	if (passed_fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &passed_fd, sizeof(int));
	}
	ssize_t sent;
	do
		sent = sendmsg(socket, &message, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent == (ssize_t)size)
		return true;
	return croft_error_set(err, CROFT_UNAVAILABLE, "the filesystem daemon is gone: %s",
		strerror(errno));
}

static ssize_t receive_bytes(int socket, void *data, size_t size, int *passed_fd,
	struct croft_error *err)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec bytes = {data, size};
	struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control,
		.msg_controllen = sizeof(control)};
	ssize_t got;
	do
		got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got < 0) {
		croft_error_set(err, CROFT_UNAVAILABLE, "reading from the filesystem daemon's socket: %s",
			strerror(errno));
		return -1;
	}
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fd = -1;
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	if (passed_fd)
		*passed_fd = fd;
	else if (fd >= 0)
		close(fd);
	return got;
}

bool daemon_send_request(int socket, const struct daemon_request *request, int passed_fd,
	struct croft_error *err)
{
	return send_bytes(socket, request,
		offsetof(struct daemon_request, text) + request->text_size, passed_fd, err);
}

bool daemon_receive_request(int socket, struct daemon_request *request, int *passed_fd,
	struct croft_error *err)
{
	const size_t head = offsetof(struct daemon_request, text);
	memset(request, 0, head);
	ssize_t got = receive_bytes(socket, request, sizeof(*request), passed_fd, err);
	if (got < 0)
		return false;
	if (got == 0)
		return croft_error_set(err, CROFT_CANCELLED, "the agent has left");
	/* A request of another version is read as far as it goes. */
	if ((size_t)got >= sizeof(request->version) + sizeof(request->op) &&
		(request->version != DAEMON_VERSION ||
			((size_t)got >= head && request->text_size <= DAEMON_TEXT &&
				(size_t)got == head + request->text_size)))
		return true;
	if (*passed_fd >= 0)
		close(*passed_fd);
	*passed_fd = -1;
	return croft_error_set(err, CROFT_INVALID_ARGUMENT, "a malformed request of %zd bytes", got);
}

bool daemon_send_answer(int socket, const struct daemon_answer *answer, struct croft_error *err)
{
	return send_bytes(socket, answer, sizeof(*answer), -1, err);
}

bool daemon_receive_answer(int socket, struct daemon_answer *answer, struct croft_error *err)
{
	ssize_t got = receive_bytes(socket, answer, sizeof(*answer), NULL, err);
	if (got < 0)
		return false;
	if (got == 0)
		return croft_error_set(err, CROFT_UNAVAILABLE, "the filesystem daemon has ended");
	if ((size_t)got >= sizeof(answer->version) && answer->version != DAEMON_VERSION)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"the filesystem daemon is of another version");
	if ((size_t)got != sizeof(*answer))
		return croft_error_set(err, CROFT_INTERNAL, "an answer of %zd bytes from the daemon", got);
	answer->error.message[sizeof(answer->error.message) - 1] = '\0';
	return true;
}
