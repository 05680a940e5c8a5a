/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/names.h"

#include "proto/base/cleanup.h"

#include "croft/v1/farm.pb-c.h"

#include <string.h>

enum { PAGE_TIMEOUT_MS = 10000 };

/* 1: go on, 0: the visitor has enough, -1. */
static int show(const Farm__ListNamesResponse *page, name_visit *visit, void *user, struct croft_error *err)
{
	for (size_t i = 0; i < page->n_names; i++) {
		const Farm__ListNamesResponse__Name *name = page->names[i];
		struct named_tree tree = {.name = name->uri, .pushed_unix_ns = name->pushed_unix_ns};
		if (!croft_digest_from_message(name->root_directory_digest, tree.name, &tree.root, err))
			return -1;
		if (!visit(user, &tree))
			return 0;
	}
	return 1;
}

bool uris_list(struct client *client, const char *prefix, name_visit *visit, void *user, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	CROFT_CLEANUP_FREE char *after = croft_strdup("");
	struct croft_call_options options = {.timeout_ms = PAGE_TIMEOUT_MS};
	for (;;) {
		Farm__ListNamesRequest request = FARM__LIST_NAMES_REQUEST__INIT;
		request.instance_name = (char *)client->instance;
		request.prefix = (char *)prefix;
		request.after = after;
		const Farm__ListNamesResponse *page = croft_unary(client->channel, &options,
			"/croft.v1.Farm/ListNames", &request.base, &farm__list_names_response__descriptor, arena, err);
		int shown = page ? show(page, visit, user, err) : -1;
		if (shown < 0)
			return croft_error_wrap(err, "listing names");
		if (shown == 0 || !*page->next_after)
			return true;
		if (strcmp(page->next_after, after) <= 0)
			return croft_error_set(err, CROFT_DATA_LOSS, "listing names: the server does not come to an end");
		free(after);
		after = croft_strdup(page->next_after);
		croft_arena_reset(arena);
	}
}

struct naming {
	name_visit *visit;
	void *user;
};

static bool show_name(void *user, const struct named_tree *tree)
{
	const struct naming *naming = user;
	struct named_tree named = *tree;
	if (strncmp(tree->name, ARTIFACT_URI, strlen(ARTIFACT_URI)) != 0)
		return true;
	named.name += strlen(ARTIFACT_URI);
	return naming->visit(naming->user, &named);
}

bool names_list(struct client *client, const char *prefix, name_visit *visit, void *user, struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *uri = croft_alloc(strlen(ARTIFACT_URI) + strlen(prefix) + 1);
	strcpy(stpcpy(uri, ARTIFACT_URI), prefix);
	return uris_list(client, uri, show_name, &(struct naming){visit, user}, err);
}
