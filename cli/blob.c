/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/output.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

static bool get(struct client *client, const struct options *options, struct croft_error *err)
{
	struct croft_digest digest;
	for (int i = 1; i < options->argc; i++)
		if (!croft_digest_parse(croft_slice_str(options->argv[i]), &digest, err) ||
			!croft_remote_read_to_fd(client->remote, &digest, STDOUT_FILENO, err))
			return false;
	return true;
}

static bool put(struct client *client, const struct options *options, struct croft_error *err)
{
	struct croft_upload *upload = croft_upload_create(client->remote);
	struct croft_digest *digests = croft_array((size_t)options->argc, sizeof(*digests));
	bool ok = true;
	for (int i = 1; ok && i < options->argc; i++) {
		const char *path = options->argv[i];
		CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			ok = croft_error_errno(err, errno, "opening %s", path);
		ok = ok && (croft_digest_of_fd(fd, &digests[i], err) || croft_error_wrap(err, "%s", path)) &&
			croft_upload_file(upload, &digests[i], AT_FDCWD, path, err);
	}
	struct croft_upload_stat stat;
	ok = ok && croft_upload_flush(upload, &stat, err);
	for (int i = 1; ok && i < options->argc; i++) {
		char text[CROFT_DIGEST_TEXT];
		croft_digest_format(&digests[i], '-', text);
		printf("%s\n", text);
	}
	free(digests);
	croft_upload_destroy(upload);
	return ok;
}

/* Which of the digests the farm lacks; `stat` tells of each. */
static bool look(struct client *client, const struct options *options, bool stat, bool *any,
	struct croft_error *err)
{
	size_t count = (size_t)options->argc - 1;
	CROFT_CLEANUP_FREE struct croft_digest *digests = croft_array(count, sizeof(*digests));
	CROFT_CLEANUP_FREE bool *missing = croft_array(count, sizeof(*missing));
	for (size_t i = 0; i < count; i++)
		if (!croft_digest_parse(croft_slice_str(options->argv[i + 1]), &digests[i], err))
			return false;
	if (!croft_remote_find_missing(client->remote, digests, count, missing, err))
		return false;
	*any = false;
	for (size_t i = 0; i < count; i++) {
		*any |= missing[i];
		if (stat)
			printf("%s %s\n", options->argv[i + 1], missing[i] ? "missing" : "present");
		else if (missing[i])
			printf("%s\n", options->argv[i + 1]);
	}
	return true;
}

static int run(const struct options *options, struct croft_error *err)
{
	struct client client;
	if (!options_arguments(options, 2, SIZE_MAX, err))
		return MISUSED;
	const char *verb = options->argv[0];
	bool stat = !strcmp(verb, "stat"), any = false, ok;
	if (!stat && strcmp(verb, "get") && strcmp(verb, "put") && strcmp(verb, "missing")) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "\"%s\" is none of get, put, missing, stat",
			verb);
		return MISUSED;
	}
	if (!client_open(&client, options, err))
		return FAILED;
	if (!strcmp(verb, "get"))
		ok = get(&client, options, err);
	else if (!strcmp(verb, "put"))
		ok = put(&client, options, err);
	else
		ok = look(&client, options, stat, &any, err);
	client_close(&client);
	return !ok ? FAILED : stat && any;
}

const struct command command_blob = {
	.name = "blob",
	.arguments = "get DIGEST… | put FILE… | missing DIGEST… | stat DIGEST…",
	.summary = "Move single blobs, or ask for them",
	.details = "get prints them, put uploads files and prints their digests, missing prints those\n"
		   "that the farm lacks, stat tells of each; its exit status is 1 when one is missing.",
	.client = true,
	.run = run,
};
