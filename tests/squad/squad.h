/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hundreds of agents without sandboxes, and clients that have them run jobs: the real protocol, on a farm to which
 * somebody else does harm. The agents do some themselves: they refuse, fail, die and forget, or lose the connection
 * with a result in hand. Every operation must end once, in the same way whoever asks, with the right result or with
 * the true reason.
 */
#ifndef CROFT_TESTS_SQUAD_H
#define CROFT_TESTS_SQUAD_H

#include "fs/digest.h"
#include "proto/rpc/client.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

struct squad {
	const char *server; /* host:port */
	const char *name;   /* agents are NAME-0, NAME-1, … */
	uint64_t seed;
};

struct counts {
	atomic_uint done, refused, reconnected, wrong;
};
extern struct counts counts;
/* Says what is wrong, and counts it. */
void wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t next_random(uint64_t *state);
void pause_ms(unsigned ms);
void start_thread(pthread_t *thread, void *(*run)(void *), void *user);

/* What the action with this digest prints, how it ends and how long it takes: known to both sides. */
struct right {
	char text[CROFT_HASH_TEXT];
	int exit_code;
	unsigned run_ms;
};
struct right right_result(const struct croft_digest *action);

/* They work until the process ends. */
struct agents;
struct agents *agents_start(const struct squad *squad, unsigned count);
/* From now on their caches stay as they are. */
void agents_settle(struct agents *agents);
/* What each holds: members of a JSON object. */
void agents_print_held(struct agents *agents, FILE *out);

/* They ask for one thing after another until they are told to end; then for no more, but hear the end of what they
 * asked for. */
struct clients;
struct clients *clients_start(const struct squad *squad, unsigned count);
void clients_end(struct clients *clients);

#endif
