/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands, each in the file of its name unless said otherwise. */
#ifndef CROFT_CLI_COMMANDS_H
#define CROFT_CLI_COMMANDS_H

#include "cli/command.h"

extern const struct command command_serve;
extern const struct command command_agent;
extern const struct command command_farm;
extern const struct command command_run;
extern const struct command command_import;
extern const struct command command_export;
extern const struct command command_bench;
extern const struct command command_ls, command_cat, command_du, command_find; /* browse.c */
extern const struct command command_diff;
extern const struct command command_mount;
extern const struct command command_status, command_top;                       /* status.c */
extern const struct command command_cancel, command_why, command_agents;       /* operations.c */
extern const struct command command_inputs;
extern const struct command command_blob;
extern const struct command command_gc;
extern const struct command command_fsck, command_store;                       /* store.c */
extern const struct command command_sandbox;
extern const struct command command_shell;
extern const struct command command_fs_daemon;                                 /* forward.c */

#endif
