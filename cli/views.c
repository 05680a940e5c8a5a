/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/views.h"

#include "cli/names.h"
#include "cli/ref.h"
#include "cli/view.h"
#include "proto/base/cleanup.h"

#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"
#include "google/longrunning/operations.pb-c.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* As long waits who looks at what the farm must be asked about, when it says nothing. */
enum { PATIENCE_MS = 10000 };

/* Names and paths ----------------------------------------------------------------------------- */

static int hex_digit(char digit)
{
	const char *digits = "0123456789ABCDEF", *at = strchr(digits, toupper((unsigned char)digit));
	return at && digit ? (int)(at - digits) : -1;
}

char *views_name_of(const char *path)
{
	char *name = croft_alloc(strlen(path) + 1), *to = name;
	for (; *path; path++) {
		int high = *path == '%' ? hex_digit(path[1]) : 0;
		int low = *path == '%' && high >= 0 ? hex_digit(path[2]) : 0;
		if (high < 0 || low < 0 || (*path == '%' && high + low == 0)) {
			free(name);
			return NULL;
		}
		*to++ = *path == '%' ? (char)(high * 16 + low) : *path;
		path += *path == '%' ? 2 : 0;
	}
	*to = '\0';
	return name;
}

struct views_folder {
	size_t prefix_size;
	croft_view_visit *visit;
	void *visitor;
	char **trees; /* names that are entries themselves; sorted */
	size_t tree_count, tree_room;
	char *last; /* the last folder that was an entry */
};

struct views_folder *views_folder_create(size_t prefix_size, croft_view_visit *visit, void *visitor)
{
	struct views_folder *folder = croft_zalloc(sizeof(*folder));
	*folder = (struct views_folder){.prefix_size = prefix_size, .visit = visit, .visitor = visitor};
	return folder;
}

void views_folder_destroy(struct views_folder *folder)
{
	if (!folder)
		return;
	for (size_t i = 0; i < folder->tree_count; i++)
		free(folder->trees[i]);
	free(folder->trees);
	free(folder->last);
	free(folder);
}

static bool is_dots(const char *text, size_t size)
{
	return size <= 2 && strncmp(text, "..", size) == 0;
}

/* Whether each '/' may make a directory. */
static bool nests(const char *rest)
{
	for (;;) {
		size_t size = strcspn(rest, "/");
		if (is_dots(rest, size)) /* or empty */
			return false;
		if (!rest[size])
			return true;
		rest += size + 1;
	}
}

static int compare_text(const void *one, const void *other)
{
	return strcmp(*(char *const *)one, *(char *const *)other);
}

/* One entry of so many bytes, as a file may be called. */
static void emit(croft_view_visit *visit, void *visitor, const char *text, size_t size)
{
	CROFT_CLEANUP_FREE char *entry = croft_alloc(3 * size + 1);
	char *to = entry;
	bool dots = is_dots(text, size);
	for (size_t i = 0; i < size; i++)
		if (dots || text[i] == '/' || text[i] == '%')
			to += sprintf(to, "%%%02X", (unsigned char)text[i]);
		else
			*to++ = text[i];
	*to = '\0';
	visit(visitor, entry);
}

void views_folder_add(struct views_folder *folder, const char *name)
{
	const char *rest = name + folder->prefix_size;
	size_t size = strcspn(rest, "/");
	CROFT_CLEANUP_FREE char *first = croft_strdup(rest);
	first[size] = '\0';
	bool nested = nests(rest);
	if (!nested && folder->prefix_size > 0)
		return; /* it is an entry of names/ itself */
	/* Sorted, a name comes before those that go on behind it. */
	bool hidden = folder->tree_count > 0 &&
		bsearch(&first, folder->trees, folder->tree_count, sizeof(*folder->trees), compare_text);
	if (rest[size] && !hidden && nested) {
		if (folder->last && strcmp(folder->last, first) == 0)
			return;
		free(folder->last);
		folder->last = croft_strdup(first);
		emit(folder->visit, folder->visitor, rest, size);
		return;
	}
	emit(folder->visit, folder->visitor, rest, strlen(rest));
	if (rest[size])
		return;
	if (folder->tree_count == folder->tree_room)
		folder->trees = croft_realloc(folder->trees, folder->tree_room = folder->tree_room * 2 + 64,
			sizeof(*folder->trees));
	folder->trees[folder->tree_count++] = croft_strdup(first);
}

/* names/ -------------------------------------------------------------------------------------- */

/* Names have no ':', URIs have. */
static char *uri_of(const char *name, const char *end, struct croft_arena *arena)
{
	return croft_arena_printf(arena, "%s%s%s", strchr(name, ':') ? "" : ARTIFACT_URI, name, end);
}

static bool note_one(void *user, const struct named_tree *tree)
{
	*(bool *)user = true;
	return false;
}

static bool look_up_name(void *user, const char *path, struct croft_view_place *place, struct croft_error *err)
{
	struct client *client = user;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	CROFT_CLEANUP_FREE char *name = views_name_of(path);
	struct croft_error failure = CROFT_ERROR_INIT;
	place->kind = CROFT_VIEW_NOTHING;
	if (!name)
		return true;
	if (ref_asset(client, uri_of(name, "", arena), &place->root, &failure)) {
		place->kind = CROFT_VIEW_TREE;
		return true;
	}
	if (failure.code != CROFT_NOT_FOUND && failure.code != CROFT_INVALID_ARGUMENT) {
		*err = failure;
		return false;
	}
	bool further = false;
	if (!strchr(name, ':') && !uris_list(client, uri_of(name, "/", arena), note_one, &further, err))
		return false;
	if (further)
		place->kind = CROFT_VIEW_FOLDER;
	return true;
}

static bool add_name(void *user, const struct named_tree *tree)
{
	views_folder_add(user, tree->name);
	return true;
}

static bool add_uri(void *user, const struct named_tree *tree)
{
	const struct views_folder *folder = user;
	if (strncmp(tree->name, ARTIFACT_URI, strlen(ARTIFACT_URI)) != 0 && strchr(tree->name, ':'))
		emit(folder->visit, folder->visitor, tree->name, strlen(tree->name));
	return true;
}

static bool list_names(void *user, const char *path, croft_view_visit *visit, void *visitor, struct croft_error *err)
{
	struct client *client = user;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	CROFT_CLEANUP_FREE char *name = views_name_of(path);
	const char *prefix = name && *name ? croft_arena_printf(arena, "%s/", name) : "";
	struct views_folder *folder = views_folder_create(strlen(prefix), visit, visitor);
	bool ok = name && names_list(client, prefix, add_name, folder, err) &&
		(*prefix || uris_list(client, "", add_uri, folder, err));
	views_folder_destroy(folder);
	return ok;
}

/* actions/ and failed/ ------------------------------------------------------------------------ */

typedef bool view_maker(struct client *client, const struct croft_digest *action, struct croft_digest *root,
	struct croft_error *err);

static bool look_up_action(struct client *client, const char *path, view_maker *make,
	struct croft_view_place *place, struct croft_error *err)
{
	struct croft_digest digest;
	struct croft_error failure = CROFT_ERROR_INIT;
	place->kind = CROFT_VIEW_NOTHING;
	if (!croft_digest_parse(croft_slice_str(path), &digest, NULL))
		return true;
	if (make(client, &digest, &place->root, &failure)) {
		place->kind = CROFT_VIEW_TREE;
	} else if (failure.code != CROFT_OK && failure.code != CROFT_NOT_FOUND) {
		*err = failure;
		return false;
	}
	return true;
}

static bool look_up_job(void *user, const char *path, struct croft_view_place *place, struct croft_error *err)
{
	return look_up_action(user, path, view_of_action, place, err);
}

static bool look_up_failure(void *user, const char *path, struct croft_view_place *place, struct croft_error *err)
{
	struct croft_error failure = CROFT_ERROR_INIT;
	CROFT_CLEANUP_FREE char *name = views_name_of(path);
	if (!look_up_action(user, path, view_of_failure, place, err))
		return false;
	if (place->kind != CROFT_VIEW_NOTHING || !name)
		return true;
	if (view_of_operation(user, name, &place->root, &failure))
		place->kind = CROFT_VIEW_TREE;
	else if (failure.code != CROFT_OK)
		*err = failure;
	return failure.code == CROFT_OK;
}

/* Whatever it was that went wrong. */
static bool has_failed(const Longrunning__Operation *operation, struct croft_arena *arena)
{
	if (!operation->done)
		return false;
	if (!operation->response)
		return operation->error != NULL;
	const Reapi__ExecuteResponse *response = croft_message_decode(&reapi__execute_response__descriptor,
		CROFT_SLICE(operation->response->value.data, operation->response->value.len), arena, NULL, NULL);
	return response &&
		((response->status && response->status->code != 0) ||
			(response->result && response->result->exit_code != 0));
}

static bool list_failed(void *user, const char *path, croft_view_visit *visit, void *visitor, struct croft_error *err)
{
	struct client *client = user;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	CROFT_CLEANUP_FREE char *token = croft_strdup("");
	do {
		Longrunning__ListOperationsRequest request = LONGRUNNING__LIST_OPERATIONS_REQUEST__INIT;
		request.filter = "stage=completed";
		request.page_token = token;
		const Longrunning__ListOperationsResponse *page = croft_remote_call(client->remote,
			"/google.longrunning.Operations/ListOperations", &request.base,
			&longrunning__list_operations_response__descriptor, arena, err);
		if (!page)
			return croft_error_wrap(err, "listing jobs");
		for (size_t i = 0; i < page->n_operations; i++)
			if (has_failed(page->operations[i], arena))
				emit(visit, visitor, page->operations[i]->name, strlen(page->operations[i]->name));
		free(token);
		token = croft_strdup(page->next_page_token);
		croft_arena_reset(arena);
	} while (*token);
	return true;
}

void views_init(struct croft_mount_view views[VIEWS], struct client *client)
{
	croft_remote_set_patience(client->remote, PATIENCE_MS);
	views[0] = (struct croft_mount_view){"names", client, look_up_name, list_names};
	views[1] = (struct croft_mount_view){"actions", client, look_up_job, NULL};
	views[2] = (struct croft_mount_view){"failed", client, look_up_failure, list_failed};
}
