/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Root images: the "/" of jobs whose input root is only a folder in it (Bazel and its like).
 *
 * An image is a directory of this machine, or a tree in the farm's store (by digest, or by a name that
 * `croft import --name` gave), which comes to the job as inputs do.
 */
#ifndef CROFT_AGENT_IMAGE_H
#define CROFT_AGENT_IMAGE_H

#include "agent/machine.h"

/* What --root-image says, checked as far as it can be without a server: a directory must be there,
 * and may not hold the agent's own state. */
bool croft_image_check(const char *image, const char *state, struct croft_error *err);

/* Where the image's tree is on this machine, for croft_daemon_unstage; names are looked up in the store each
 * time, so that a new tree under the same name is what later jobs get. FAILED_PRECONDITION when there
 * is no such image; UNAVAILABLE when the store could not be asked. */
bool croft_image_stage(const char *image, const struct croft_machine *machine,
	const char *instance_name, struct croft_staged *staged, struct croft_error *err);

/* Whether this input root looks like a whole file system: its Directory has the property SubtreeReadOnly
 * (BuildBox's clients), or the folders dev, proc and tmp. */
bool croft_image_is_whole_root(const struct croft_digest *input_root,
	const struct croft_machine *machine, const char *instance_name, bool *whole,
	struct croft_error *err);

#endif
