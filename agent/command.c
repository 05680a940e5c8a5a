/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/command.h"

#include <string.h>

const char *const *croft_command_environment(const Reapi__Command *command,
	const struct croft_job_options *options, struct croft_arena *arena)
{
	size_t count = command->n_environment_variables;
	const char **environment = croft_arena_array(arena, count + 3, sizeof(char *));
	bool time_zone = options->time_zone != NULL, locale = options->locale != NULL;
	for (size_t i = 0; i < count; i++) {
		const Reapi__Command__EnvironmentVariable *variable = command->environment_variables[i];
		environment[i] = croft_arena_printf(arena, "%s=%s", variable->name, variable->value);
		/* What the command says itself stands. */
		time_zone &= strcmp(variable->name, "TZ") != 0;
		locale &= strcmp(variable->name, "LC_ALL") != 0;
	}
	if (time_zone)
		environment[count++] = croft_arena_printf(arena, "TZ=%s", options->time_zone);
	if (locale)
		environment[count++] = croft_arena_printf(arena, "LC_ALL=%s", options->locale);
	return environment;
}

const char *const *croft_command_arguments(const Reapi__Command *command, struct croft_arena *arena)
{
	const char **arguments = croft_arena_array(arena, command->n_arguments + 1, sizeof(char *));
	for (size_t i = 0; i < command->n_arguments; i++)
		arguments[i] = command->arguments[i];
	return arguments;
}
