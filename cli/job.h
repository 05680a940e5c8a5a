/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A job as `croft run` describes it, made into an Action on the farm. */
#ifndef CROFT_CLI_JOB_H
#define CROFT_CLI_JOB_H

#include "cli/connect.h"

struct job {
	const struct options *options; /* of croft run */
	struct croft_arena *arena;
	char *const *arguments; /* NULL-terminated */

	const char *working_directory; /* relative to the input root, "" for the root itself */
	Reapi__Command *command;
	struct croft_digest input_root, command_digest, action_digest;
	struct croft_upload_stat uploaded;
};

/* Reads the options into a Command; nothing is sent. False: the command line is wrong. */
bool job_describe(struct job *job, struct croft_error *err);
/* Merges the inputs and uploads inputs, Command and Action. */
bool job_upload(struct job *job, struct client *client, struct croft_error *err);

/* An output path as the Command names it: relative to the working directory. Absolute ones are
 * relative to the root. NULL with err for a path that leads out of the root or names nothing. */
const char *output_path(const char *working_directory, const char *path, struct croft_arena *arena,
	struct croft_error *err);

/* The --export and --save options, "PATH=WHERE": the path before the last '='. */
const char *output_of_pair(const char *pair, const char **where, struct croft_arena *arena,
	struct croft_error *err);

/* "DIR", "DIR:PATH", "REF", "REF:PATH": a directory of this machine or content of the farm, and where
 * in the input root it is to stand. */
struct input {
	const char *directory; /* NULL: content of the farm */
	struct ref *ref;       /* when it is that; its path is where it goes */
	const char *place;     /* "" for the root */
};
bool input_parse(const char *text, bool only_ref, struct croft_arena *arena, struct input *input,
	struct croft_error *err);

#endif
