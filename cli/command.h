/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One command of croft: what it is called, what it takes, what it does. Parsing, --help, the manual
 * page and the shell completion all come from this description.
 *
 *	static int run(const struct options *options, struct croft_error *err) { … }
 *	const struct command command_ls = {.name = "ls", .arguments = "REF[:PATH]…", …, .run = run};
 */
#ifndef CROFT_CLI_COMMAND_H
#define CROFT_CLI_COMMAND_H

#include "cli/options.h"

/* What `run` returns instead of an exit status: err says what failed, or how the command line is
 * wrong. */
enum { FAILED = -1, MISUSED = -2 };

struct command {
	const char *name;
	const char *arguments; /* as in the usage line */
	const char *summary;   /* one line */
	const char *details;   /* paragraphs for --help and the manual; NULL: none */
	const struct option_spec *options; /* ended by one without a name; NULL: none */
	bool client;           /* talks to a server: takes --server and its kin too */
	bool stops_at_argument; /* what follows the first argument is not ours to parse */
	bool hidden;
	int usage_status;      /* of a wrong command line and of our own failures; 0: 2 and 1 */
	/* The exit status, FAILED or MISUSED. */
	int (*run)(const struct options *options, struct croft_error *err);
	/* Instead of run: takes the command line as it is, from the command's name on. */
	int (*forward)(int argc, char **argv);
};

/* All of them, in the order in which help lists them; ended by NULL (main.c). */
extern const struct command *const commands[];

void help_overview(FILE *out);
void help_command(const struct command *command, FILE *out);
extern const struct command command_help, command_completion;

#endif
