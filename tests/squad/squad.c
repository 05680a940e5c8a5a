/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* squad SERVER NAME AGENTS CLIENTS SEED: when its standard input ends its clients do, and say in a line of JSON how it
 * went; the agents go on until the process is ended. */
#include "tests/squad/squad.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { RUN_MS = 400, STACK_BYTES = 256 << 10 };

struct counts counts;

uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 33;
}

void pause_ms(unsigned ms)
{
	struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};
	nanosleep(&time, NULL);
}

void wrong(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	flockfile(stderr);
	fputs("squad: WRONG: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	funlockfile(stderr);
	va_end(arguments);
	counts.wrong++;
}

struct right right_result(const struct croft_digest *action)
{
	/* Every other one takes no time, as small jobs do. */
	struct right right = {
		.exit_code = action->hash[0] % 8 == 0 ? 3 : 0,
		.run_ms = action->hash[1] % 2 ? action->hash[2] * RUN_MS / 255 : 0,
	};
	croft_hash_format(action->hash, right.text);
	return right;
}

void start_thread(pthread_t *thread, void *(*run)(void *), void *user)
{
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
#endif
	if (pthread_create(thread, &attributes, run, user) != 0)
		abort();
	pthread_attr_destroy(&attributes);
}

int main(int argc, char **argv)
{
	if (argc != 6)
		return 2;
	struct squad squad = {argv[1], argv[2], strtoull(argv[5], NULL, 10)};
	struct agents *agents = agents_start(&squad, (unsigned)atoi(argv[3]));
	struct clients *clients = clients_start(&squad, (unsigned)atoi(argv[4]));
	char byte;
	while (read(0, &byte, 1) > 0)
		;
	/* What they wait for needs agents. */
	clients_end(clients);
	agents_settle(agents);
	printf("{\"done\": %u, \"refused\": %u, \"reconnected\": %u, \"wrong\": %u, \"held\": {", counts.done,
		counts.refused, counts.reconnected, counts.wrong);
	agents_print_held(agents, stdout);
	fputs("}}\n", stdout);
	fflush(stdout);
	for (;;)
		pause();
}
