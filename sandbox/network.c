/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Network namespaces. Making one costs more than all the rest of a sandbox, so a cell keeps its own for
 * as long as no job has left a trace in it.
 */
#include "sandbox/internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

bool network_raise_loopback(struct croft_error *err)
{
	struct ifreq request = {.ifr_name = "lo"};
	CROFT_CLEANUP_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return croft_error_errno(err, errno, "bringing up the loopback interface");
	return true;
}

/* Counters of packets and of everything that protocols did, failed attempts too; all sockets, one that is in flight
 * to itself as well (only the first line of sockstat: the others count the whole host's); labels that outlive their
 * socket. */
static const char *const files[NETWORK_TRACES] = {
	"sockstat", "dev", "snmp", "netstat", "snmp6", "ip6_flowlabel"};

void network_watch(struct network_watch *watch, pid_t pid)
{
	char path[64];
	for (size_t i = 0; i < NETWORK_TRACES; i++) {
		snprintf(path, sizeof(path), "/proc/%d/net/%s", pid, files[i]);
		watch->files[i] = open(path, O_RDONLY | O_CLOEXEC);
		/* There may be no IPv6. What else cannot be opened is something that nobody would see. */
		watch->blind |= watch->files[i] < 0 && (errno != ENOENT || i == 0);
	}
}

void network_unwatch(struct network_watch *watch)
{
	for (size_t i = 0; i < NETWORK_TRACES; i++)
		if (watch->files[i] >= 0)
			close(watch->files[i]);
	*watch = (struct network_watch)NETWORK_UNWATCHED;
}

char *network_traces(const struct network_watch *watch)
{
	enum { ROOM = 64 * 1024 };
	char *text = croft_alloc(ROOM);
	size_t used = 0;
	bool ok = !watch->blind;
	for (size_t i = 0; ok && i < NETWORK_TRACES; i++) {
		size_t begin = used;
		ssize_t got = watch->files[i] < 0 ? 0 : -1;
		while (watch->files[i] >= 0 && used < ROOM - 1 &&
			(got = pread(watch->files[i], text + used, ROOM - 1 - used, (off_t)(used - begin))) > 0)
			used += (size_t)got;
		text[used] = '\0';
		ok = got == 0;
		if (i == 0)
			used = begin + strcspn(text + begin, "\n");
	}
	text[used] = '\0';
	if (ok)
		return text;
	free(text);
	return NULL;
}
