/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/image.h"
#include "agent/sealed.h"

#include "proto/base/cleanup.h"

#include "build/bazel/remote/asset/v1/remote_asset.pb-c.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Names of trees are assets of the Remote Asset API, under this URI (as in cli/ref.c). */
#define ARTIFACT_URI "urn:croft:artifact:"

static bool is_directory_path(const char *image)
{
	return image[0] == '/' || image[0] == '.';
}

bool croft_image_check(const char *image, const char *state, struct croft_error *err)
{
	struct stat st;
	if (!is_directory_path(image))
		return true;
	if (image[0] != '/')
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "root image %s: give its absolute path", image);
	if (stat(image, &st) < 0)
		return croft_error_errno(err, errno, "root image %s", image);
	if (!S_ISDIR(st.st_mode))
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "root image %s is no directory", image);
	CROFT_CLEANUP_FREE char *top = realpath(image, NULL);
	CROFT_CLEANUP_FREE char *below = realpath(state, NULL);
	if (!top || !below)
		return croft_error_errno(err, errno, "root image %s", image);
	size_t size = strcmp(top, "/") == 0 ? 0 : strlen(top);
	/* An overlay cannot have its upper layer inside a lower one. */
	if (strncmp(top, below, size) == 0 && (below[size] == '/' || below[size] == '\0'))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"root image %s holds the agent's own state (%s): import the folders that jobs need "
			"(`croft import --name NAME DIR`) and give that name",
			image, below);
	return true;
}

static bool find_named(const char *name, const struct croft_machine *machine,
	const char *instance_name, struct croft_digest *root, struct croft_arena *arena,
	struct croft_error *err)
{
	Asset__FetchDirectoryRequest request = ASSET__FETCH_DIRECTORY_REQUEST__INIT;
	char *uri = croft_arena_printf(arena, ARTIFACT_URI "%s", name);
	request.instance_name = (char *)instance_name;
	request.n_uris = 1;
	request.uris = &uri;
	struct croft_error failed = CROFT_ERROR_INIT;
	const Asset__FetchDirectoryResponse *response = croft_unary(machine->channel, NULL,
		"/build.bazel.remote.asset.v1.Fetch/FetchDirectory", &request.base,
		&asset__fetch_directory_response__descriptor, arena, &failed);
	if (response && response->status && response->status->code != CROFT_OK)
		croft_error_set(&failed, (enum croft_code)response->status->code, "%s",
			response->status->message);
	else if (response)
		return croft_digest_from_message(
			response->root_directory_digest, "the root image", root, err);
	if (failed.code == CROFT_NOT_FOUND)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"root image %s: the farm has no tree of this name (`croft import --name %s DIR`)", name,
			name);
	return croft_error_set(
		err, CROFT_UNAVAILABLE, "looking up the root image %s: %s", name, failed.message);
}

/* Each instance has names of its own; those of the default one are there for all. */
static bool find_anywhere(const char *name, const struct croft_machine *machine,
	const char *instance_name, struct croft_digest *root, struct croft_arena *arena,
	struct croft_error *err)
{
	struct croft_error failed = CROFT_ERROR_INIT;
	if (instance_name && *instance_name &&
		find_named(name, machine, instance_name, root, arena, &failed))
		return true;
	if (failed.code != CROFT_OK && failed.code != CROFT_FAILED_PRECONDITION)
		return croft_error_set(err, failed.code, "%s", failed.message);
	return find_named(name, machine, "", root, arena, err);
}

/* A digest is taken at its word until here: that nothing has it would else be told of a layer of the sandbox. */
static bool is_there(const char *image, const struct croft_staged *staged, struct croft_error *err)
{
	if (access(staged->path, F_OK) == 0)
		return true;
	if (errno == ENOENT)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"root image %s: the farm has no tree of this digest", image);
	return croft_error_errno(err, errno, "root image %s", image);
}

bool croft_image_stage(const char *image, const struct croft_machine *machine,
	const char *instance_name, struct croft_staged *staged, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_digest root;
	if (is_directory_path(image))
		return snprintf(staged->path, sizeof(staged->path), "%s", image) < PATH_MAX ||
			croft_error_set(err, CROFT_INVALID_ARGUMENT, "root image %s: too long a path", image);
	if (!croft_digest_parse(croft_slice_str(image), &root, NULL) &&
		!find_anywhere(image, machine, instance_name, &root, arena, err))
		return false;
	return croft_daemon_stage(machine->daemon, &root, staged, err) && is_there(image, staged, err);
}

/* BuildStream makes them in every root, and says SubtreeReadOnly of some only; in a folder that is to stand over
 * a root nobody has use for them. */
static bool has_mount_points(const Reapi__Directory *directory)
{
	unsigned found = 0;
	for (size_t i = 0; i < directory->n_directories; i++) {
		const char *name = directory->directories[i]->name;
		found += strcmp(name, "dev") == 0 || strcmp(name, "proc") == 0 || strcmp(name, "tmp") == 0;
	}
	return found == 3;
}

bool croft_image_is_whole_root(const struct croft_digest *input_root,
	const struct croft_machine *machine, const char *instance_name, bool *whole,
	struct croft_error *err)
{
	*whole = false;
	if (croft_digest_is_empty(input_root))
		return true;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_remote *remote = croft_remote_create(machine->channel, instance_name);
	struct croft_tree_source source = croft_remote_tree_source(remote);
	struct croft_slice bytes;
	const Reapi__Directory *directory = NULL;
	if (source.read(source.user, input_root, arena, &bytes, err))
		directory = croft_directory_decode(bytes, arena, err);
	croft_remote_destroy(remote);
	if (!directory)
		return croft_error_wrap(err, "reading the input root");
	*whole = croft_sealed_says(directory) >= 0 || has_mount_points(directory);
	return true;
}
