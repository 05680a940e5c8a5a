/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What stands outside for the probes to reach: secrets, a victim, servers, IPC; and finding what a job left. */
#ifndef CROFT_TESTS_ESCAPE_WORLD_H
#define CROFT_TESTS_ESCAPE_WORLD_H

#include "tests/escape/cases.h"

/* Ends the program with a sentence when something cannot be made. Before any thread. */
void world_make(struct world *world, const char *probe);
void world_end(struct world *world);
/* The input as it was, and nothing else of what a weakened job may have left in the root. */
void world_restore(const struct world *world, const char *probe);

/* The victim again, when a weakened job killed it. */
void world_revive(struct world *world);

/* Processes with one of the tests' kernel ids, the victim aside; they are killed when `kill_them`. */
unsigned world_leftovers(const struct world *world, bool kill_them);

void stop(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
