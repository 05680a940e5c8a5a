/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands whose modules parse their own command lines. */
#include "fs/daemon.h"

#include "cli/commands.h"

const struct command command_fs_daemon = {
	.name = "fs-daemon",
	.arguments = "…",
	.summary = "Be the filesystem daemon of an agent (started by it)",
	.hidden = true,
	.forward = croft_daemon_command,
};
