/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a mount fetches, for people: asked for once, or as a line that is renewed while it serves here. */
#ifndef CROFT_CLI_MOUNTED_H
#define CROFT_CLI_MOUNTED_H

#include "fs/mount.h"

/* `croft mount --status DIR` */
bool mounted_print(const char *path, bool json, struct croft_error *err);

/* While it lives, progress (cli/output.h) tells what the fetcher does; nothing where that is no terminal. */
struct mounted_line;
struct mounted_line *mounted_line_start(const struct croft_fetcher *fetcher);
void mounted_line_stop(struct mounted_line *line); /* NULL is fine */

#endif
