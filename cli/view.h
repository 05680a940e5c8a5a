/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A job as a tree, so that all that shows trees shows jobs: `inputs/` is its input root, `outputs/` what it made,
 * `stdout` and `stderr` are its logs. Of a job that failed all of these, as far as there are any.
 */
#ifndef CROFT_CLI_VIEW_H
#define CROFT_CLI_VIEW_H

#include "cli/connect.h"

/* When the blob is an Action, the tree of its job, which is put into the farm; false without an error: it is none. */
bool view_of_action(struct client *client, const struct croft_digest *action, struct croft_digest *root,
	struct croft_error *err);
/* The same of its last run that failed; false without an error: it is no Action, or no such run is remembered. */
bool view_of_failure(struct client *client, const struct croft_digest *action, struct croft_digest *root,
	struct croft_error *err);
/* The same for a job by the name of its operation. False without an error: the farm knows none of that name. */
bool view_of_operation(struct client *client, const char *name, struct croft_digest *root,
	struct croft_error *err);

#endif
