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

/* Counters of packets and of everything that protocols did, failed attempts too; all sockets (of the
 * files only the first line of sockstat: the others count the whole host's); unix sockets by name, which
 * one left in flight to itself may hold; labels that outlive their socket. */
char *network_traces(pid_t pid)
{
	static const char *const files[] = {
		"sockstat", "dev", "snmp", "netstat", "snmp6", "unix", "ip6_flowlabel"};
	enum { ROOM = 64 * 1024 };
	char path[64];
	char *text = croft_alloc(ROOM);
	size_t used = 0;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "/proc/%d/net/%s", pid, files[i]);
		CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT && i > 0)
			continue; /* no IPv6 */
		size_t begin = used;
		ssize_t got = -1;
		while (fd >= 0 && used < ROOM - 1 && (got = read(fd, text + used, ROOM - 1 - used)) > 0)
			used += (size_t)got;
		text[used] = '\0';
		if (got != 0) {
			free(text);
			return NULL;
		}
		if (i == 0)
			used = begin + strcspn(text + begin, "\n");
	}
	text[used] = '\0';
	return text;
}
