/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/ref.h"
#include "cli/unload.h"
#include "proto/base/cleanup.h"

#include <inttypes.h>
#include <string.h>

static bool export_entry(struct client *client, const struct options *options,
	const struct croft_tree_entry *entry, struct unload_stat *stat, struct croft_error *err)
{
	const char *to = options->argv[1], *filter = options_value(options, "compress");
	if (strcmp(to, "-"))
		return unload_to_path(client->remote, entry, to, options_given(options, "force"), stat, err);
	if (entry->kind != CROFT_ENTRY_DIRECTORY)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"only a directory becomes an archive; `croft cat` prints a file");
	if (isatty(STDOUT_FILENO))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"an archive is not for the terminal: send it to a file or a pipe");
	return unload_to_tar(client->remote, &entry->digest, STDOUT_FILENO, filter, stat, err);
}

static int run(const struct options *options, struct croft_error *err)
{
	struct ref ref;
	if (!options_arguments(options, 2, 2, err) || !ref_parse(options->argv[0], &ref, err))
		return MISUSED;
	if (options_given(options, "compress") && strcmp(options->argv[1], "-")) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "--compress is for an archive, to -");
		return MISUSED;
	}
	struct client client;
	if (!client_open(&client, options, err))
		return FAILED;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_tree_entry entry;
	struct unload_stat stat = {0};
	bool ok = ref_entry(&client, &ref, false, arena, &entry, err) &&
		export_entry(&client, options, &entry, &stat, err);
	client_close(&client);
	char size[SIZE_TEXT];
	if (ok && options_given(options, "verbose"))
		fprintf(stderr, "croft export: %" PRIu64 " files, %s\n", stat.files,
			format_size(stat.bytes, size));
	return ok ? 0 : FAILED;
}

static const struct option_spec export_options[] = {
	{"force", 'f', NULL, "write into a directory that is not empty, over what is there"},
	{"compress", 0, "KIND", "of an archive: gzip, xz, zstd, bzip2, lz4"},
	{"verbose", 'v', NULL, "say on standard error how much it was"},
	{0},
};

const struct command command_export = {
	.name = "export",
	.arguments = "REF[:PATH] DIR|-",
	.summary = "Bring a tree out of the farm, into a directory or as a tar archive",
	.details = "The directory is made if it is missing. With - a pax archive goes to standard output;\n"
		   "the same tree gives the same bytes. A PATH that is a file is written to that name.\n"
		   "Permissions and times that a tree has (`croft import --modes --mtimes`) are set, save that no\n"
		   "file in a directory becomes setuid or setgid.",
	.options = export_options,
	.client = true,
	.run = run,
};
