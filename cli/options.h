/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Command line options, parsed by a command's own list of them. */
#ifndef CROFT_CLI_OPTIONS_H
#define CROFT_CLI_OPTIONS_H

#include "proto/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct option_spec {
	const char *name;  /* long form */
	char letter;       /* short form, or 0 */
	const char *value; /* what its value is called in help; NULL: a switch */
	const char *help;  /* NULL: for croft's own use, not shown */
};

struct command;

struct options {
	const struct command *command;
	int argc; /* arguments that are no options */
	char **argv;
	struct option_given *given; /* in the order of the command line */
	size_t given_count;
};

/* argv[0] is the command's name. False: the command line is wrong, err says how. *help becomes true
 * when --help was among them. */
bool options_parse(struct options *options, const struct command *command, int argc, char **argv,
	bool *help, struct croft_error *err);
void options_finish(struct options *options);

/* Asking for an option that the command does not list aborts: it is a slip in our own text. */
bool options_given(const struct options *options, const char *name);
/* The last one given, or NULL. */
const char *options_value(const struct options *options, const char *name);
/* The one at `index` among those of this name, or NULL past the last. */
const char *options_at(const struct options *options, const char *name, size_t index);
size_t options_count(const struct options *options, const char *name);
/* *number stays as it is when the option was not given. */
bool options_number(const struct options *options, const char *name, uint64_t least, uint64_t most,
	uint64_t *number, struct croft_error *err);
/* Bytes, with K, M, G, T (or KiB …) as powers of 1024. */
bool options_size(const struct options *options, const char *name, uint64_t *bytes,
	struct croft_error *err);
/* That many arguments; most SIZE_MAX: no end. */
bool options_arguments(const struct options *options, size_t least, size_t most,
	struct croft_error *err);

bool parse_size(const char *text, uint64_t *bytes);

/* Those that every command with a server takes. */
extern const struct option_spec client_options[];

/* Over the command's options, then the client's; NULL at the end. */
const struct option_spec *command_option(const struct command *command, size_t index);

#endif
