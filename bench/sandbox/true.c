/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * /bin/true that, told to "time", writes the time of its first instruction to stdout; to "write", writes a few
 * files, and to "sync", has each on the disk.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FILES = 20, FILE_BYTES = 4096 };

static bool write_files(bool sync)
{
	static const char bytes[FILE_BYTES];
	bool ok = true;
	for (int i = 0; ok && i < FILES; i++) {
		char path[32];
		snprintf(path, sizeof(path), "/tmp/%d", i);
		int fd = open(path, O_WRONLY | O_CREAT, 0644);
		ok = fd >= 0 && write(fd, bytes, FILE_BYTES) == FILE_BYTES && (!sync || fsync(fd) == 0);
		close(fd);
	}
	return ok;
}

int main(int argc, char **argv)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	uint64_t ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	if (argc < 2)
		return 0;
	if (strcmp(argv[1], "time") == 0)
		return write(1, &ns, sizeof(ns)) != sizeof(ns);
	return !write_files(strcmp(argv[1], "sync") == 0);
}
