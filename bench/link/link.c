/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A network link between two network namespaces, with a delay and a rate: two tunnel devices, and this
 * program in the middle, which hands each packet on when its time has come.
 *
 *	link NAMESPACE ADDRESS NAMESPACE ADDRESS ROUND_TRIP_US MBIT
 *
 * Namespaces are files (/run/netns/…), addresses IPv4 in one /24. Prints "ready" when packets pass;
 * runs until its standard input ends. Beyond MBIT packets wait in line, and are dropped where the line
 * is longer than a switch's would be.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	MTU = 9000,               /* jumbo frames: fewer turns through this program */
	LINE = 4096,              /* packets on the way, each direction; a power of two */
	LINE_BYTES = 16 << 20,    /* waiting beyond that: dropped */
	FRAME_OVERHEAD = 38 + 14, /* Ethernet's preamble, gap, header and sum for each packet */
};

struct packet {
	uint64_t due_ns;
	uint32_t size;
	uint8_t *bytes;
};

/* One direction. */
struct lane {
	int from, to;
	struct packet line[LINE];
	uint32_t head, tail; /* head == tail: empty */
	uint64_t bytes, free_ns; /* when the wire can take the next packet */
};

static uint64_t delay_ns, mbit;

static void die(const char *what)
{
	fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void set_address(int fd, struct ifreq *request, unsigned long what, const char *address)
{
	struct sockaddr_in *place = (struct sockaddr_in *)&request->ifr_addr;
	*place = (struct sockaddr_in){.sin_family = AF_INET};
	if (inet_pton(AF_INET, address, &place->sin_addr) != 1 || ioctl(fd, what, request) < 0)
		die(address);
}

/* A tunnel device in that namespace; it goes with this process. */
static int open_end(const char *namespace, const char *address)
{
	int place = open(namespace, O_RDONLY | O_CLOEXEC);
	if (place < 0 || setns(place, CLONE_NEWNET) < 0)
		die(namespace);
	close(place);
	int tunnel = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
	strcpy(request.ifr_name, "link0");
	if (tunnel < 0 || ioctl(tunnel, TUNSETIFF, &request) < 0)
		die("/dev/net/tun");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	set_address(fd, &request, SIOCSIFADDR, address);
	set_address(fd, &request, SIOCSIFNETMASK, "255.255.255.0");
	request.ifr_mtu = MTU;
	if (ioctl(fd, SIOCSIFMTU, &request) < 0)
		die("setting the MTU");
	request.ifr_qlen = 10000;
	ioctl(fd, SIOCSIFTXQLEN, &request);
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		die("switching the device on");
	strcpy(request.ifr_name, "lo");
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
	return tunnel;
}

static bool take_in(struct lane *lane)
{
	static uint8_t bytes[MTU];
	ssize_t size = read(lane->from, bytes, sizeof(bytes));
	if (size <= 0)
		return false;
	if (lane->head - lane->tail == LINE || lane->bytes + (uint64_t)size > LINE_BYTES)
		return true; /* lost, as in a switch */
	uint64_t now = now_ns(), start = lane->free_ns > now ? lane->free_ns : now;
	lane->free_ns = start + (uint64_t)(size + FRAME_OVERHEAD) * 8000 / mbit;
	struct packet *packet = &lane->line[lane->head++ % LINE];
	*packet = (struct packet){lane->free_ns + delay_ns, (uint32_t)size, malloc((size_t)size)};
	if (!packet->bytes)
		die("out of memory");
	memcpy(packet->bytes, bytes, (size_t)size);
	lane->bytes += (uint64_t)size;
	return true;
}

/* Hands on what is due; nanoseconds until the next is, or UINT64_MAX. */
static uint64_t hand_on(struct lane *lane)
{
	while (lane->head != lane->tail) {
		struct packet *packet = &lane->line[lane->tail % LINE];
		uint64_t now = now_ns();
		if (packet->due_ns > now)
			return packet->due_ns - now;
		if (write(lane->to, packet->bytes, packet->size) < 0 && errno == EAGAIN)
			return 50000;
		lane->bytes -= packet->size;
		free(packet->bytes);
		lane->tail++;
	}
	return UINT64_MAX;
}

int main(int argc, char **argv)
{
	static struct lane lanes[2];
	if (argc != 7) {
		fprintf(stderr, "usage: link NAMESPACE ADDRESS NAMESPACE ADDRESS ROUND_TRIP_US MBIT\n");
		return 2;
	}
	delay_ns = strtoull(argv[5], NULL, 10) * 1000 / 2;
	mbit = strtoull(argv[6], NULL, 10);
	int one = open_end(argv[1], argv[2]), other = open_end(argv[3], argv[4]);
	lanes[0].from = lanes[1].to = one;
	lanes[0].to = lanes[1].from = other;
	/* The delay is met to the microsecond. */
	prctl(PR_SET_TIMERSLACK, 1000);
	struct sched_param first = {.sched_priority = 1};
	sched_setscheduler(0, SCHED_FIFO, &first); /* better where it may; not needed */
	puts("ready");
	fflush(stdout);
	for (;;) {
		bool more = false;
		for (int i = 0; i < 2; i++)
			for (int packets = 0; packets < 64 && take_in(&lanes[i]); packets++)
				more = packets == 63;
		uint64_t a = hand_on(&lanes[0]), b = hand_on(&lanes[1]), wait_ns = a < b ? a : b;
		struct timespec wait = {.tv_sec = (time_t)(wait_ns / 1000000000u),
			.tv_nsec = (long)(wait_ns % 1000000000u)};
		if (more)
			wait = (struct timespec){0};
		struct pollfd ready[3] = {
			{.fd = one, .events = POLLIN}, {.fd = other, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
		ppoll(ready, 3, wait_ns == UINT64_MAX && !more ? NULL : &wait, NULL);
		if (ready[2].revents)
			return 0;
	}
}
