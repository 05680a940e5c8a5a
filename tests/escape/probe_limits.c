/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Resources: each bomb is bounded, so that without its limit it ends by itself and says so. */
#include "tests/escape/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BOMB_PROCESSES = 300, BOMB_BYTES = 160 << 20, PIECE = 1 << 20 };

static enum verdict fork_bomb(const char *unused)
{
	int count = 0;
	for (; count < BOMB_PROCESSES; count++) {
		pid_t pid = fork();
		if (pid == 0)
			for (;;)
				pause();
		if (pid < 0)
			return say(CONTAINED, "no more than %d processes: %m", count);
	}
	return say(ESCAPED, "%d processes could be made", count);
}

static enum verdict memory_bomb(const char *unused)
{
	char *memory = mmap(NULL, BOMB_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return say(CONTAINED, "memory: %m");
	for (size_t at = 0; at < BOMB_BYTES; at += 4096)
		memory[at] = 1;
	return say(ESCAPED, "%d bytes could be used", BOMB_BYTES);
}

static enum verdict fill(const char *path)
{
	static char piece[PIECE];
	memset(piece, 'x', sizeof(piece));
	int fd = open(path, O_CREAT | O_WRONLY, 0666);
	if (fd < 0)
		return say(BROKEN, "opening %s", path);
	for (size_t written = 0; written < BOMB_BYTES; written += PIECE)
		if (write(fd, piece, PIECE) != PIECE)
			return say(CONTAINED, "no more than %zu bytes in %s: %m", written, path);
	return say(ESCAPED, "%d bytes could be written to %s", BOMB_BYTES, path);
}

static enum verdict tmpfs_bomb(const char *unused)
{
	return fill("/dev/shm/bomb");
}

/* The limit is looked at in intervals: the bomb must still be there when that happens. */
static void stay(const char *tenths)
{
	for (int i = 0; i < atoi(tenths); i++)
		usleep(100000);
}

static enum verdict disk_bomb(const char *tenths)
{
	enum verdict verdict = fill("/bomb");
	stay(tenths);
	return verdict;
}

/* A file that lies nowhere any more. */
static int nameless(const char *path)
{
	int fd = open(path, O_CREAT | O_RDWR, 0666);
	return fd >= 0 && unlink(path) == 0 ? fd : -1;
}

static enum verdict nameless_disk_bomb(const char *tenths)
{
	static char piece[PIECE];
	int fd = nameless("/bomb");
	memset(piece, 'x', sizeof(piece));
	for (size_t written = 0; written < BOMB_BYTES; written += PIECE)
		if (fd < 0 || write(fd, piece, PIECE) != PIECE)
			return say(CONTAINED, "no more than %zu bytes without a name: %m", written);
	stay(tenths);
	return say(ESCAPED, "%d bytes could be written without a name", BOMB_BYTES);
}

/* Page by page through memory, into a file that nothing else holds. */
static enum verdict mapped_disk_bomb(const char *tenths)
{
	int fd = nameless("/bomb");
	char *memory = fd >= 0 && ftruncate(fd, BOMB_BYTES) == 0
		? mmap(NULL, BOMB_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
		: MAP_FAILED;
	if (memory == MAP_FAILED)
		return say(BROKEN, "mapping a file: %m");
	close(fd);
	memset(memory, 'x', BOMB_BYTES);
	stay(tenths);
	return say(ESCAPED, "%d bytes could be written through memory", BOMB_BYTES);
}

static enum verdict reserved_disk_bomb(const char *tenths)
{
	int fd = open("/bomb", O_CREAT | O_WRONLY, 0666);
	int failure = posix_fallocate(fd, 0, BOMB_BYTES);
	if (failure)
		return say(CONTAINED, "reserving disk: %s", strerror(failure));
	stay(tenths);
	return say(ESCAPED, "%d bytes could be reserved", BOMB_BYTES);
}

static enum verdict file_bomb(const char *unused)
{
	signal(SIGXFSZ, SIG_IGN);
	return fill("/bomb");
}

static enum verdict inode_bomb(const char *tenths)
{
	char path[64];
	int fd;
	for (int i = 0; i < 3000; i++) {
		snprintf(path, sizeof(path), "/bomb%d", i);
		if ((fd = creat(path, 0666)) < 0)
			return say(CONTAINED, "no more than %d files: %m", i);
		close(fd);
	}
	stay(tenths);
	return say(ESCAPED, "3000 files could be made");
}

static enum verdict output_bomb(const char *unused)
{
	static char piece[65536];
	memset(piece, 'x', sizeof(piece));
	for (int i = 0; i < 400; i++)
		if (write(1, piece, sizeof(piece)) < 0)
			return CONTAINED;
	return ESCAPED;
}

static enum verdict descriptor_bomb(const char *unused)
{
	for (int count = 0; count < 70000; count++)
		if (dup(0) < 0)
			return say(CONTAINED, "no more than %d descriptors: %m", count);
	return say(ESCAPED, "70000 descriptors could be had");
}

static enum verdict locked_memory(const char *unused)
{
	void *memory = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return judge(mlock(memory, 8 << 20) == 0, "locking 8 MiB into memory");
}

/* Two seconds of processor time at most; the clock on the wall says how they were dealt out. */
static enum verdict processor_bomb(const char *unused)
{
	struct timespec used, now, begin;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (used.tv_sec * 1000 + used.tv_nsec / 1000000 < 600);
	long wall_ms = (now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000;
	return wall_ms < 1200 ? say(ESCAPED, "600 ms of processor time took %ld ms", wall_ms)
						  : say(CONTAINED, "600 ms of processor time took %ld ms", wall_ms);
}

#define PROBE(name) {#name, name}
const struct probe limit_probes[] = {PROBE(fork_bomb), PROBE(memory_bomb), PROBE(tmpfs_bomb),
	PROBE(disk_bomb), PROBE(nameless_disk_bomb), PROBE(mapped_disk_bomb), PROBE(reserved_disk_bomb),
	PROBE(inode_bomb), PROBE(file_bomb), PROBE(output_bomb),
	PROBE(descriptor_bomb), PROBE(locked_memory), PROBE(processor_bomb), {0}};
