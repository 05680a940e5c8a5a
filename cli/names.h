/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The names that `croft import --name` gave, as the farm lists them. */
#ifndef CROFT_CLI_NAMES_H
#define CROFT_CLI_NAMES_H

#include "cli/connect.h"

#include <stdint.h>

/* Names of trees are assets of the Remote Asset API, under this URI: */
#define ARTIFACT_URI "urn:croft:artifact:"

struct named_tree {
	const char *name; /* borrowed */
	struct croft_digest root;
	int64_t pushed_unix_ns;
};

/* Shows the visitor all names that begin with `prefix`, sorted by their bytes, until it returns false. */
typedef bool name_visit(void *user, const struct named_tree *tree);
bool names_list(struct client *client, const char *prefix, name_visit *visit, void *user, struct croft_error *err);
/* The same of all trees that have a URI; the visitor is shown URIs. */
bool uris_list(struct client *client, const char *prefix, name_visit *visit, void *user, struct croft_error *err);

#endif
