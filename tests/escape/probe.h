/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The program that tries to get out, from inside. Statically linked: nothing of the host is needed.
 *
 *	probe NAME [ARGUMENT]
 *
 * Each probe tries for real and says how it went. What it did is looked at from outside as well, by
 * the case of the same name (cases.c).
 */
#ifndef CROFT_TESTS_ESCAPE_PROBE_H
#define CROFT_TESTS_ESCAPE_PROBE_H

#include <stdbool.h>
#include <stddef.h>

/* Also the exit statuses. */
enum verdict {
	CONTAINED = 0,
	ESCAPED = 66,
	IMPOSSIBLE = 69, /* it cannot be tried on this kernel: says why */
	BROKEN = 70,     /* the probe itself failed, so that it has shown nothing */
};

struct probe {
	const char *name;
	enum verdict (*run)(const char *argument);
};
/* Ended by one without a name. */
extern const struct probe file_probes[], process_probes[], kernel_probes[], network_probes[],
	host_probes[], limit_probes[];

/* Prints the sentence, with errno's text when the format ends with ": ", and returns the verdict. */
enum verdict say(enum verdict verdict, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* ESCAPED when it was possible, CONTAINED with errno when not. */
enum verdict judge(bool possible, const char *what);
/* ESCAPED when the file can be opened with these flags. */
enum verdict judge_open(const char *path, int flags);
/* The first bytes of a file as text, in static memory; NULL with errno. */
const char *read_text(const char *path);

#endif
