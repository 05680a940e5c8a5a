/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where croft keeps state when nobody says. */
#ifndef CROFT_CLI_STATE_H
#define CROFT_CLI_STATE_H

#include "cli/options.h"

/* --state, or `part` below $XDG_STATE_HOME/croft or ~/.local/state/croft. To be freed; NULL with err. */
char *state_path(const struct options *options, const char *part, struct croft_error *err);
/* The same, absolute, and made if it is missing. */
char *state_directory(const struct options *options, const char *part, struct croft_error *err);

#endif
