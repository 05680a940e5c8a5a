/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs inside a sandbox: does one thing to a tree, and prints how many nanoseconds it took, and how
 * much the disk gave. Static, so that it runs in any root. */
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];
static uint64_t bytes, entries;

static uint64_t now_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int read_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t got;
	while ((got = read(fd, buffer, sizeof(buffer))) > 0)
		bytes += (uint64_t)got;
	close(fd);
	return (int)got;
}

static int visit_read(const char *path, const struct stat *st, int type, struct FTW *where)
{
	entries++;
	return type == FTW_F ? read_file(path) : 0;
}

static int visit_list(const char *path, const struct stat *st, int type, struct FTW *where)
{
	entries++;
	bytes += (uint64_t)st->st_size;
	return type == FTW_NS;
}

static int run(char **command)
{
	pid_t pid = fork();
	if (pid == 0) {
		execvp(command[0], command);
		_exit(127);
	}
	int status;
	return pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0;
}

/* Of this process and those that it ran; what a FUSE mount read for it is not among them. */
static uint64_t read_from_disk(void)
{
	struct rusage own, children;
	getrusage(RUSAGE_SELF, &own);
	getrusage(RUSAGE_CHILDREN, &children);
	return (uint64_t)(own.ru_inblock + children.ru_inblock) * 512;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	/* A kernel that pages out what lies idle may have begun with it since the last job. */
	bool file = strcmp(argv[1], "file") == 0;
	if (file && read_file(argv[2]) != 0)
		return 1;
	bytes = 0;
	uint64_t disk = read_from_disk(), before = now_ns();
	int failed = strcmp(argv[1], "read") == 0 ? nftw(argv[2], visit_read, 64, FTW_PHYS)
		: strcmp(argv[1], "list") == 0        ? nftw(argv[2], visit_list, 64, FTW_PHYS)
		: file                                ? read_file(argv[2])
		: strcmp(argv[1], "run") == 0         ? run(argv + 2)
											  : 2;
	uint64_t took = now_ns() - before;
	if (failed)
		return 1;
	printf("took %llu ns, %llu entries, %llu bytes, %llu from disk\n", (unsigned long long)took,
		(unsigned long long)entries, (unsigned long long)bytes,
		(unsigned long long)(read_from_disk() - disk));
	return 0;
}
