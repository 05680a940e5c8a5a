/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What came of a job, for people, for programs, and for the disk. */
#ifndef CROFT_CLI_RESULT_H
#define CROFT_CLI_RESULT_H

#include "cli/follow.h"
#include "cli/job.h"

#include "croft/v1/farm.pb-c.h"

#include <stdio.h>

struct result_output {
	const char *path; /* as in the Command */
	struct croft_tree_entry entry;
};

struct result {
	const char *operation, *message, *agent;
	const char *working_directory;
	const Reapi__ActionResult *action_result;
	const Farm__InputAccount *inputs;    /* NULL: the server does not tell, here and below */
	const Farm__SandboxAccount *sandbox;
	struct croft_digest action, input_root;
	struct croft_upload_stat uploaded;
	bool cached;
	int exit_code;
	struct result_output *outputs;
	size_t output_count;
	uint64_t wall_ms, upload_ms; /* here: from Execute to done, and before it */
};

/* What the agent attached of this kind, in the arena; NULL: nothing. */
const void *result_account(const Reapi__ActionResult *result, const ProtobufCMessageDescriptor *kind,
	struct croft_arena *arena);

void result_read(struct result *result, const struct follow_result *followed, const struct job *job,
	struct croft_arena *arena);
void result_print(const struct result *result, FILE *out);
bool result_print_json(const struct result *result, struct croft_error *err);
/* --export and --save. */
bool result_deliver(const struct result *result, const struct options *options,
	struct client *client, struct croft_error *err);

#endif
