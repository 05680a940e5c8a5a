/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* `croft fs-daemon`: written by daemon_arguments, read by croft_daemon_command. */
#include "fs/daemon/internal.h"

#include "proto/base/arena.h"
#include "proto/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEY_VARIABLE "CROFT_PLANE_KEY"

/* All that the command is told. */
struct told {
	struct croft_daemon_config config;
	struct daemon_start start;
};

/* One for each argument, in both directions. SWITCH has no value; TEXT is left out where it is NULL. */
static const struct argument {
	const char *name;
	enum { TEXT, SWITCH, STAGING, SIZE, COUNT, DESCRIPTOR } type; /* const char *, bool, …, uint64_t, uint32_t, int */
	size_t place; /* in what is told */
} arguments[] = {
	{"--state", TEXT, offsetof(struct told, config.state)},
	{"--origin", TEXT, offsetof(struct told, config.origin)},
	{"--plane", TEXT, offsetof(struct told, config.plane_address)},
	{"--tls-cert", TEXT, offsetof(struct told, config.tls.certificate_file)},
	{"--tls-key", TEXT, offsetof(struct told, config.tls.key_file)},
	{"--tls-ca", TEXT, offsetof(struct told, config.tls.authority_file)},
	{"--budget", SIZE, offsetof(struct told, config.budget_bytes)},
	{"--uid", COUNT, offsetof(struct told, config.uid)},
	{"--gid", COUNT, offsetof(struct told, config.gid)},
	{"--orphan-ms", COUNT, offsetof(struct told, config.orphan_ms)},
	{"--staging", STAGING, offsetof(struct told, config.staging)},
	{"--classic", SWITCH, offsetof(struct told, config.classic)},
	{"--ready-fd", DESCRIPTOR, offsetof(struct told, start.ready_fd)},
	{"--take-over", SWITCH, offsetof(struct told, start.take_over)},
	{"--agent-version", COUNT, offsetof(struct told, start.version)},
};
enum { ARGUMENTS = sizeof(arguments) / sizeof(arguments[0]) };

/* The argument's value as text; NULL: it is left out. "" for a switch that is on. */
static const char *value_of(const struct told *told, const struct argument *argument,
	struct croft_arena *arena)
{
	const void *place = (const char *)told + argument->place;
	switch (argument->type) {
	case TEXT: return *(const char *const *)place ? croft_arena_strdup(arena, *(const char *const *)place) : NULL;
	case SWITCH: return *(const bool *)place ? "" : NULL;
	case STAGING: return croft_staging_name(*(const enum croft_staging *)place);
	case SIZE: return croft_arena_printf(arena, "%" PRIu64, *(const uint64_t *)place);
	case COUNT: return croft_arena_printf(arena, "%" PRIu32, *(const uint32_t *)place);
	case DESCRIPTOR: return croft_arena_printf(arena, "%d", *(const int *)place);
	}
	abort();
}

char **daemon_arguments(const struct croft_daemon_config *config, const struct daemon_start *start,
	struct croft_arena *arena)
{
	struct told told = {*config, *start};
	told.start.version = DAEMON_VERSION;
	char **words = croft_arena_array(arena, 2 + 2 * ARGUMENTS + 1, sizeof(char *));
	size_t count = 0;
	words[count++] = (char *)"croft";
	words[count++] = (char *)"fs-daemon";
	for (size_t i = 0; i < ARGUMENTS; i++) {
		const char *value = value_of(&told, &arguments[i], arena);
		if (!value)
			continue;
		words[count++] = (char *)arguments[i].name;
		if (arguments[i].type != SWITCH)
			words[count++] = (char *)value;
	}
	return words;
}

/* Not among the arguments, which everybody on the machine can see. */
char **daemon_environment(const struct croft_daemon_config *config, struct croft_arena *arena)
{
	size_t count = 0, kept = 0;
	while (environ[count])
		count++;
	char **environment = croft_arena_array(arena, count + 2, sizeof(char *));
	for (size_t i = 0; i < count; i++)
		if (strncmp(environ[i], KEY_VARIABLE "=", sizeof(KEY_VARIABLE)) != 0)
			environment[kept++] = environ[i];
	if (config->plane_key)
		environment[kept] = croft_arena_printf(arena, KEY_VARIABLE "=%s", config->plane_key);
	return environment;
}

static bool parse_number(const char *text, uint64_t most, uint64_t *number)
{
	char *end;
	errno = 0;
	*number = strtoull(text, &end, 10);
	return errno == 0 && *text >= '0' && *text <= '9' && *end == '\0' && *number <= most;
}

static bool take_value(struct told *told, const struct argument *argument, const char *value)
{
	void *place = (char *)told + argument->place;
	uint64_t number = 0;
	bool ok = true;
	switch (argument->type) {
	case TEXT: *(const char **)place = value; break;
	case SWITCH: *(bool *)place = true; break;
	case STAGING: ok = croft_staging_parse(value, place, NULL); break;
	case SIZE: ok = parse_number(value, UINT64_MAX, place); break;
	case COUNT:
		ok = parse_number(value, UINT32_MAX, &number);
		*(uint32_t *)place = (uint32_t)number;
		break;
	case DESCRIPTOR:
		ok = parse_number(value, INT32_MAX, &number);
		*(int *)place = (int)number;
		break;
	}
	return ok;
}

static bool parse(int argc, char **argv, struct told *told)
{
	for (int i = 1; i < argc; i++) {
		const struct argument *argument = arguments, *end = arguments + ARGUMENTS;
		while (argument < end && strcmp(argument->name, argv[i]) != 0)
			argument++;
		if (argument == end || (argument->type != SWITCH && ++i == argc) ||
			!take_value(told, argument, argv[i]))
			return false;
	}
	return told->config.state != NULL;
}

int croft_daemon_command(int argc, char **argv)
{
	struct told told = {.config.plane_key = getenv(KEY_VARIABLE), .start.ready_fd = -1};
	if (!parse(argc, argv, &told)) {
		fprintf(stderr, "croft fs-daemon is started by croft agent, with:");
		for (size_t i = 0; i < ARGUMENTS; i++)
			fprintf(stderr, " %s%s", arguments[i].name, arguments[i].type == SWITCH ? "" : " VALUE");
		fprintf(stderr, "\n");
		return 2;
	}
	croft_log_setup("fs", CROFT_LOG_INFO);
	struct croft_error err = CROFT_ERROR_INIT;
	if (daemon_main(&told.config, &told.start, &err))
		return 0;
	croft_log(CROFT_LOG_ERROR, "%s", err.message);
	return 1;
}
