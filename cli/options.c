/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/options.h"

#include "cli/command.h"
#include "proto/base/arena.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

struct option_given {
	const struct option_spec *spec;
	const char *value;
};

const struct option_spec client_options[] = {
	{"server", 0, "URL", "the farm, grpc://HOST:PORT (else $CROFT_SERVER, grpc://127.0.0.1:8980)"},
	{"instance", 0, "NAME", "instance name (else $CROFT_INSTANCE, none)"},
	{"tls-ca", 0, "FILE", "PEM file of the authorities that may vouch for the server"},
	{"tls-cert", 0, "FILE", "PEM certificate to show to the server"},
	{"tls-key", 0, "FILE", "PEM key of that certificate"},
	{0},
};

static const struct option_spec no_options[] = {{0}};

const struct option_spec *command_option(const struct command *command, size_t index)
{
	const struct option_spec *own = command->options ? command->options : no_options;
	size_t count = 0;
	for (; own[count].name; count++)
		if (count == index)
			return &own[count];
	if (!command->client)
		return NULL;
	for (size_t i = 0; client_options[i].name; i++)
		if (count + i == index)
			return &client_options[i];
	return NULL;
}

/* What getopt reports of the options: the long ones as HELP + 1 + index, the short as their letter. */
enum { HELP = 256, MOST_OPTIONS = 64 };

struct table {
	struct option longs[MOST_OPTIONS + 2];
	char shorts[2 * MOST_OPTIONS + 8];
};

static void fill_table(struct table *table, const struct command *command)
{
	memset(table, 0, sizeof(*table));
	char *letters = table->shorts;
	*letters++ = command->stops_at_argument ? '+' : '-';
	*letters++ = ':';
	*letters++ = 'h';
	size_t i = 0;
	for (const struct option_spec *spec; (spec = command_option(command, i)); i++) {
		if (i == MOST_OPTIONS)
			abort();
		table->longs[i] = (struct option){
			spec->name, spec->value ? required_argument : no_argument, NULL, HELP + 1 + (int)i};
		if (!spec->letter)
			continue;
		*letters++ = spec->letter;
		if (spec->value)
			*letters++ = ':';
	}
	table->longs[i] = (struct option){"help", no_argument, NULL, HELP};
}

static const struct option_spec *option_of_code(const struct command *command, int code)
{
	if (code > HELP)
		return command_option(command, (size_t)(code - HELP - 1));
	const struct option_spec *spec;
	for (size_t i = 0; (spec = command_option(command, i)); i++)
		if (spec->letter == code)
			return spec;
	return NULL;
}

static bool take_option(struct options *options, int code, char **argv, struct croft_error *err)
{
	if (code == ':')
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "option %s needs a value",
			argv[optind - 1]);
	const struct option_spec *spec = code == '?' ? NULL : option_of_code(options->command, code);
	if (!spec && optopt > 0 && optopt < HELP)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "there is no option -%c", optopt);
	if (!spec)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"there is no option %s, or it is not clear which is meant, or it takes no value",
			argv[optind - 1]);
	options->given = croft_realloc(options->given, options->given_count + 1,
		sizeof(*options->given));
	options->given[options->given_count++] = (struct option_given){spec, optarg};
	return true;
}

bool options_parse(struct options *options, const struct command *command, int argc, char **argv,
	bool *help, struct croft_error *err)
{
	*options = (struct options){.command = command};
	*help = false;
	options->argv = croft_array((size_t)argc + 1, sizeof(char *));
	struct table table;
	fill_table(&table, command);
	opterr = 0;
	optind = 0;
	int code;
	while ((code = getopt_long(argc, argv, table.shorts, table.longs, NULL)) != -1) {
		if (code == HELP || code == 'h') {
			*help = true;
			return true;
		}
		if (code == 1)
			options->argv[options->argc++] = optarg;
		else if (!take_option(options, code, argv, err))
			return false;
		optopt = 0;
	}
	while (optind < argc)
		options->argv[options->argc++] = argv[optind++];
	return true;
}

void options_finish(struct options *options)
{
	free(options->argv);
	free(options->given);
}

static void must_be_listed(const struct options *options, const char *name)
{
	const struct option_spec *spec;
	for (size_t i = 0; (spec = command_option(options->command, i)); i++)
		if (!strcmp(spec->name, name))
			return;
	abort();
}

const char *options_at(const struct options *options, const char *name, size_t index)
{
	must_be_listed(options, name);
	for (size_t i = 0; i < options->given_count; i++)
		if (!strcmp(options->given[i].spec->name, name) && index-- == 0)
			return options->given[i].value ? options->given[i].value : "";
	return NULL;
}

size_t options_count(const struct options *options, const char *name)
{
	size_t count = 0;
	while (options_at(options, name, count))
		count++;
	return count;
}

bool options_given(const struct options *options, const char *name)
{
	return options_at(options, name, 0) != NULL;
}

const char *options_value(const struct options *options, const char *name)
{
	size_t count = options_count(options, name);
	return count ? options_at(options, name, count - 1) : NULL;
}

bool options_number(const struct options *options, const char *name, uint64_t least, uint64_t most,
	uint64_t *number, struct croft_error *err)
{
	const char *text = options_value(options, name);
	if (!text)
		return true;
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || value < least || value > most)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"--%s: \"%s\" is not a number from %llu to %llu", name, text,
			(unsigned long long)least, (unsigned long long)most);
	*number = value;
	return true;
}

bool parse_size(const char *text, uint64_t *bytes)
{
	static const char letters[] = "KMGTP";
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno || end == text || *text == '-' || *text == '+' || *text == ' ')
		return false;
	unsigned shift = 0;
	const char *letter = *end ? strchr(letters, *end >= 'a' ? *end - 'a' + 'A' : *end) : NULL;
	if (letter) {
		shift = 10 * (unsigned)(letter - letters + 1);
		end++;
		if (!strcmp(end, "iB") || !strcmp(end, "B"))
			end += strlen(end);
	}
	if (*end || (shift && value >> (64 - shift)))
		return false;
	*bytes = value << shift;
	return true;
}

bool options_size(const struct options *options, const char *name, uint64_t *bytes,
	struct croft_error *err)
{
	const char *text = options_value(options, name);
	if (!text || parse_size(text, bytes))
		return true;
	return croft_error_set(err, CROFT_INVALID_ARGUMENT,
		"--%s: \"%s\" is not a size such as 500M or 20G", name, text);
}

bool options_arguments(const struct options *options, size_t least, size_t most,
	struct croft_error *err)
{
	size_t count = (size_t)options->argc;
	if (count >= least && count <= most)
		return true;
	if (count > most)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "\"%s\" is one argument too many",
			options->argv[most]);
	return croft_error_set(err, CROFT_INVALID_ARGUMENT, "an argument is missing: croft %s %s",
		options->command->name, options->command->arguments);
}
