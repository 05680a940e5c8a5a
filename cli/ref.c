/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/ref.h"

#include "cli/names.h"
#include "cli/view.h"

#include "proto/base/cleanup.h"

#include "build/bazel/remote/asset/v1/remote_asset.pb-c.h"

bool ref_name_check(struct croft_slice name, struct croft_error *err)
{
	struct croft_digest digest;
	if (name.size == 0 || name.size > 512)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"a name has from 1 to 512 bytes, \"%.*s\" has not", (int)name.size,
			(const char *)name.data);
	for (size_t i = 0; i < name.size; i++) {
		unsigned char byte = ((const unsigned char *)name.data)[i];
		if (byte <= ' ' || byte == 0x7f || byte == ':')
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"\"%.*s\" cannot be a name: no spaces, control bytes or ':'", (int)name.size,
				(const char *)name.data);
	}
	if (croft_digest_parse(name, &digest, NULL))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"\"%.*s\" cannot be a name: it looks like a digest", (int)name.size,
			(const char *)name.data);
	return true;
}

static struct croft_slice trim_slashes(struct croft_slice path)
{
	const char *text = path.data;
	size_t start = 0, end = path.size;
	while (start < end && text[start] == '/')
		start++;
	while (end > start && text[end - 1] == '/')
		end--;
	return CROFT_SLICE(text + start, end - start);
}

bool ref_parse(const char *text, struct ref *ref, struct croft_error *err)
{
	const char *colon = strchr(text, ':');
	size_t size = colon ? (size_t)(colon - text) : strlen(text);
	*ref = (struct ref){.name = CROFT_SLICE(text, size), .has_path = colon != NULL};
	if (colon)
		ref->path = trim_slashes(croft_slice_str(colon + 1));
	ref->by_digest = croft_digest_parse(ref->name, &ref->digest, NULL);
	return ref->by_digest || ref_name_check(ref->name, err);
}

bool ref_asset(struct client *client, const char *uri, struct croft_digest *root, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	Asset__FetchDirectoryRequest request = ASSET__FETCH_DIRECTORY_REQUEST__INIT;
	request.instance_name = (char *)client->instance;
	request.n_uris = 1;
	request.uris = (char **)&uri;
	const Asset__FetchDirectoryResponse *response = croft_remote_call(client->remote,
		"/build.bazel.remote.asset.v1.Fetch/FetchDirectory", &request.base,
		&asset__fetch_directory_response__descriptor, arena, err);
	if (!response)
		return false;
	if (response->status && response->status->code != CROFT_OK)
		return croft_error_set(err, (enum croft_code)response->status->code, "%s",
			response->status->message);
	return croft_digest_from_message(response->root_directory_digest, "the named tree", root, err);
}

bool ref_root(struct client *client, const struct ref *ref, struct croft_digest *root,
	struct croft_error *err)
{
	struct croft_error failure = CROFT_ERROR_INIT;
	if (ref->by_digest) {
		*root = ref->digest;
		/* What cannot be read is told by whoever looks into it. */
		if (!view_of_action(client, &ref->digest, root, &failure) && failure.code != CROFT_OK &&
			failure.code != CROFT_NOT_FOUND) {
			*err = failure;
			return false;
		}
		return true;
	}
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char *uri = croft_arena_printf(arena, ARTIFACT_URI "%.*s", (int)ref->name.size,
		(const char *)ref->name.data);
	if (ref_asset(client, uri, root, &failure))
		return true;
	if (failure.code == CROFT_NOT_FOUND) {
		failure = CROFT_ERROR_INIT;
		const char *name = croft_arena_strndup(arena, ref->name.data, ref->name.size);
		if (view_of_operation(client, name, root, &failure))
			return true;
		if (failure.code == CROFT_OK)
			return croft_error_set(err, CROFT_NOT_FOUND,
				"\"%s\" is neither a digest nor a name that `croft import --name` gave here, nor a "
				"job that the farm remembers; `croft ls` lists the names",
				name);
	}
	if (err)
		*err = failure;
	return croft_error_wrap(err, "looking up \"%.*s\"", (int)ref->name.size,
		(const char *)ref->name.data);
}

/* What is left to walk: text from `at` on; a symlink's target is put in front of it. */
struct walk {
	const char *rest;
	struct croft_slice done; /* the place reached, without symlinks in it */
	unsigned links;
};

enum { MOST_LINKS = 40 };

static struct croft_slice parent_of(struct croft_slice path)
{
	const char *slash = path.size ? memrchr(path.data, '/', path.size) : NULL;
	return CROFT_SLICE(path.data, slash ? (size_t)(slash - (const char *)path.data) : 0);
}

static bool follow_link(struct walk *walk, const struct croft_tree_entry *entry,
	struct croft_arena *arena, struct croft_error *err)
{
	if (++walk->links > MOST_LINKS)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "\"%.*s\": too many symlinks",
			(int)walk->done.size, (const char *)walk->done.data);
	const char *target = croft_arena_strndup(arena, entry->target.data, entry->target.size);
	if (*target == '/')
		walk->done.size = 0;
	walk->rest = croft_arena_printf(arena, "%s/%s", target, walk->rest);
	return true;
}

bool tree_follow(const struct croft_tree_source *source, const struct croft_digest *root,
	struct croft_slice path, bool follow_last, struct croft_arena *arena,
	struct croft_tree_entry *entry, struct croft_error *err)
{
	struct walk walk = {.rest = croft_arena_strndup(arena, path.data, path.size), .done = {"", 0}};
	*entry = (struct croft_tree_entry){.kind = CROFT_ENTRY_DIRECTORY, .digest = *root};
	while (*(walk.rest += strspn(walk.rest, "/"))) {
		size_t size = strcspn(walk.rest, "/");
		struct croft_slice name = CROFT_SLICE(walk.rest, size);
		walk.rest += size;
		if (croft_slice_equal(name, croft_slice_str(".")))
			continue;
		bool up = croft_slice_equal(name, croft_slice_str(".."));
		struct croft_slice next = up ? parent_of(walk.done)
			: croft_slice_str(croft_arena_printf(arena, "%.*s%s%.*s", (int)walk.done.size,
				  (const char *)walk.done.data, walk.done.size ? "/" : "", (int)size,
				  (const char *)name.data));
		if (!croft_tree_lookup(source, root, next, arena, entry, err))
			return false;
		bool last = walk.rest[strspn(walk.rest, "/")] == '\0';
		if (entry->kind != CROFT_ENTRY_SYMLINK || (last && !follow_last))
			walk.done = next;
		else if (!follow_link(&walk, entry, arena, err))
			return false;
	}
	if (entry->kind == CROFT_ENTRY_SYMLINK && !follow_last)
		return true;
	return croft_tree_lookup(source, root, walk.done, arena, entry, err);
}

bool ref_entry(struct client *client, const struct ref *ref, bool follow, struct croft_arena *arena,
	struct croft_tree_entry *entry, struct croft_error *err)
{
	struct croft_digest root;
	struct croft_tree_source source = croft_remote_tree_source(client->remote);
	if (!ref_root(client, ref, &root, err))
		return false;
	return tree_follow(&source, &root, ref->path, follow, arena, entry, err) ||
		croft_error_wrap(err, "%.*s", (int)ref->name.size, (const char *)ref->name.data);
}

bool ref_directory(struct client *client, const char *text, struct croft_digest *directory,
	struct croft_error *err)
{
	struct ref ref;
	struct croft_tree_entry entry;
	if (!ref_parse(text, &ref, err))
		return false;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	if (!ref_entry(client, &ref, true, arena, &entry, err))
		return false;
	if (entry.kind != CROFT_ENTRY_DIRECTORY)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "\"%s\" is no directory", text);
	*directory = entry.digest;
	return true;
}

bool ref_store(struct client *client, const char *name, const struct croft_digest *root,
	struct croft_error *err)
{
	if (!ref_name_check(croft_slice_str(name), err))
		return false;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	char *uri = croft_arena_printf(arena, ARTIFACT_URI "%s", name);
	Asset__PushDirectoryRequest request = ASSET__PUSH_DIRECTORY_REQUEST__INIT;
	request.instance_name = (char *)client->instance;
	request.n_uris = 1;
	request.uris = &uri;
	request.root_directory_digest = croft_digest_to_message(root, arena);
	if (croft_remote_call(client->remote, "/build.bazel.remote.asset.v1.Push/PushDirectory",
		    &request.base, &asset__push_directory_response__descriptor, arena, err))
		return true;
	return croft_error_wrap(err, "storing the name \"%s\"", name);
}
