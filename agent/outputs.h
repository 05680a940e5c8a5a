/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a job made: captured from its sandbox, uploaded, and written into its ActionResult.
 */
#ifndef CROFT_AGENT_OUTPUTS_H
#define CROFT_AGENT_OUTPUTS_H

#include "agent/paths.h"
#include "agent/machine.h"

struct croft_outputs {
	const struct croft_machine *machine;
	struct croft_remote *remote;
	struct croft_sandbox *sandbox;
	const Reapi__Command *command;
	const struct croft_layout *layout;
	struct croft_digest input_root;
	struct croft_arena *arena; /* the result's */
	/* Told of each fifo, socket and device that is left out (a sentence without an end); they are handed out
	 * only where the sandbox was asked to. */
	void (*left_out)(void *user, const char *what);
	void *user;
};

/* Captures every declared output that is there, uploads what the store lacks, and fills the output
 * fields of `result`. Outputs that were not made are left out, as REAPI says. */
bool croft_outputs_collect(const struct croft_outputs *outputs, struct croft_upload *upload,
	Reapi__ActionResult *result, struct croft_error *err);

#endif
