/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Networks and IPC: the host's, other jobs', and families that no build needs. */
#include "tests/escape/probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static enum verdict connect_to(int fd, const void *address, size_t size, const char *what)
{
	return judge(fd >= 0 && connect(fd, address, (socklen_t)size) == 0, what);
}

static enum verdict loopback_of_the_host(const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)atoi(port)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	return connect_to(socket(AF_INET, SOCK_STREAM, 0), &address, sizeof(address),
		"connecting to a server on the host's loopback");
}

static enum verdict abstract_socket(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path + 1, name);
	return connect_to(socket(AF_UNIX, SOCK_STREAM, 0), &address,
		offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name),
		"connecting to an abstract socket outside");
}

static enum verdict path_socket(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	int top = open("/", O_RDONLY | O_DIRECTORY);
	mkdir("/tmp/deep", 0700);
	/* Out of the root first, where that works. */
	if (chroot("/tmp/deep") == 0 && fchdir(top) == 0) {
		for (int i = 0; i < 40; i++)
			if (chdir("..") < 0)
				return say(BROKEN, "chdir: ");
		if (chroot(".") < 0)
			return say(BROKEN, "chroot: ");
	}
	return connect_to(socket(AF_UNIX, SOCK_STREAM, 0), &address, sizeof(address),
		"connecting to a socket by its path");
}

/* Two jobs: the first keeps an abstract socket and a port until the second has tried. */
static enum verdict hold_meeting_place(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path + 1, name);
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(fd, (struct sockaddr *)&address, size) < 0 ||
		listen(fd, 1) < 0)
		return say(BROKEN, "holding the meeting place: ");
	say(CONTAINED, "holding");
	for (int i = 0; i < 300; i++)
		usleep(100000);
	return CONTAINED;
}

static enum verdict meet_another_job(const char *name)
{
	return abstract_socket(name);
}

static enum verdict other_interfaces(const char *unused)
{
	struct if_nameindex *all = if_nameindex();
	if (!all)
		return say(BROKEN, "listing interfaces: ");
	for (struct if_nameindex *at = all; at->if_index; at++)
		if (strcmp(at->if_name, "lo") != 0 && strcmp(at->if_name, "sit0") != 0 &&
			strcmp(at->if_name, "tunl0") != 0 && strcmp(at->if_name, "ip6tnl0") != 0)
			return say(ESCAPED, "interface %s is seen", at->if_name);
	return say(CONTAINED, "loopback only");
}

static enum verdict loopback_of_its_own(const char *unused)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int server = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(server, (struct sockaddr *)&address, size) < 0 || listen(server, 1) < 0 ||
		getsockname(server, (struct sockaddr *)&address, &size) < 0 ||
		connect(client, (struct sockaddr *)&address, size) < 0)
		return say(ESCAPED, "the job's own loopback does not work: ");
	return say(CONTAINED, "the job's own loopback works");
}

/* The filter's ENOSYS is the only answer that never reached the family's code. */
static enum verdict family(int domain, int type, int protocol, const char *name)
{
	int fd = socket(domain, type, protocol);
	if (fd < 0 && errno == ENOSYS)
		return say(CONTAINED, "%s does not exist", name);
	return fd < 0 ? say(ESCAPED, "%s reached the kernel: %m", name)
				  : say(ESCAPED, "%s can be had", name);
}

static enum verdict vsock(const char *unused)
{
	return family(AF_VSOCK, SOCK_STREAM, 0, "AF_VSOCK");
}

static enum verdict crypto_sockets(const char *unused)
{
	return family(AF_ALG, SOCK_SEQPACKET, 0, "AF_ALG");
}

static enum verdict packet_sockets(const char *unused)
{
	return family(AF_PACKET, SOCK_RAW, 0, "AF_PACKET");
}

static enum verdict xdp_sockets(const char *unused)
{
	return family(44 /* AF_XDP */, SOCK_RAW, 0, "AF_XDP");
}

static enum verdict netfilter_netlink(const char *unused)
{
	return family(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER, "netlink of netfilter");
}

static enum verdict audit_netlink(const char *unused)
{
	return family(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT, "netlink of audit");
}

static enum verdict bluetooth_sockets(const char *unused)
{
	return family(AF_BLUETOOTH, SOCK_RAW, 0, "AF_BLUETOOTH");
}

static enum verdict raw_sockets(const char *unused)
{
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	return judge(fd >= 0, "a raw socket");
}

static enum verdict shared_memory_of_the_host(const char *key)
{
	return judge(shmget((key_t)strtol(key, NULL, 0), 4096, 0) >= 0, "seeing System V memory");
}

static enum verdict message_queue_of_the_host(const char *name)
{
	return judge(mq_open(name, O_RDONLY) >= 0, "opening a message queue of the host");
}

static enum verdict file_in_shared_memory(const char *unused)
{
	/* Of a job before: each leaves it, none may find it. */
	if (access("/dev/shm/left", F_OK) == 0)
		return say(ESCAPED, "a file of an earlier job is in /dev/shm");
	int fd = open("/dev/shm/left", O_CREAT | O_WRONLY, 0666), other = creat("/tmp/left", 0666);
	return fd >= 0 && other >= 0 ? say(CONTAINED, "/dev/shm was empty")
								 : say(BROKEN, "/dev/shm and /tmp cannot be written: ");
}

#define PROBE(name) {#name, name}
const struct probe network_probes[] = {PROBE(loopback_of_the_host), PROBE(abstract_socket),
	PROBE(path_socket), PROBE(hold_meeting_place), PROBE(meet_another_job),
	PROBE(other_interfaces), PROBE(loopback_of_its_own), PROBE(vsock), PROBE(crypto_sockets),
	PROBE(packet_sockets), PROBE(xdp_sockets), PROBE(netfilter_netlink), PROBE(audit_netlink),
	PROBE(bluetooth_sockets), PROBE(raw_sockets), PROBE(shared_memory_of_the_host),
	PROBE(message_queue_of_the_host), PROBE(file_in_shared_memory), {0}};
