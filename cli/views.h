/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What stands beside by-digest in a mount of the whole farm:
 *
 *	names/NAME       the tree that `croft import --name NAME` named, and trees that other clients pushed with a URI
 *	actions/DIGEST   the job of that Action (cli/view.h); none is listed
 *	failed/OPERATION the jobs that failed and that the farm remembers; also by the Action's digest
 *
 * The '/' of a name makes directories. Where it cannot ("a//b" as a whole; "b" behind an "a" that is a tree) there is one
 * entry with %2F for each; a '%' of a name is always %25.
 */
#ifndef CROFT_CLI_VIEWS_H
#define CROFT_CLI_VIEWS_H

#include "cli/connect.h"
#include "fs/mount.h"

enum { VIEWS = 3 };

/* The client is borrowed, and used by several threads. */
void views_init(struct croft_mount_view views[VIEWS], struct client *client);

/* A path below names/ as the name that it stands for; owned. NULL: it stands for none. */
char *views_name_of(const char *path);

/* Sorted names, of which all have a prefix of so many bytes, as entries of the folder that it stands for. */
struct views_folder;
struct views_folder *views_folder_create(size_t prefix_size, croft_view_visit *visit, void *visitor);
void views_folder_add(struct views_folder *folder, const char *name);
void views_folder_destroy(struct views_folder *folder);

#endif
