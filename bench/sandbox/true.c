/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* /bin/true that writes the time of its first instruction to stdout when it has an argument. */
#include <stdint.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	uint64_t ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	return argc > 1 && write(1, &ns, sizeof(ns)) != sizeof(ns);
}
