/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a job's sandbox is to run, as its Command and options have it. All in the arena, or borrowed from the Command;
 * both end with NULL.
 */
#ifndef CROFT_AGENT_COMMAND_H
#define CROFT_AGENT_COMMAND_H

#include "agent/options.h"

const char *const *croft_command_arguments(const Reapi__Command *command, struct croft_arena *arena);
/* What the Command says itself goes before what the options say of time zone and locale. */
const char *const *croft_command_environment(const Reapi__Command *command,
	const struct croft_job_options *options, struct croft_arena *arena);

#endif
