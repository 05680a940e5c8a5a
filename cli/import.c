/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/commands.h"
#include "cli/load.h"
#include "cli/output.h"
#include "cli/ref.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

/* One tree to be: all its paths are merged, later ones must not contradict earlier ones. */
struct item {
	const char *name; /* NULL: none */
	const char *const *paths;
	size_t path_count;
	struct croft_digest root;
	struct croft_upload_stat stat;
	uint64_t files, skipped;
	bool done;
	struct croft_error err;
};

struct import {
	struct client client;
	struct croft_arena *arena;
	const char *under;
	struct item *items;
	size_t count;
	unsigned threads_each;
	struct croft_tree_keep keep;
	atomic_size_t next;
	atomic_bool failed;
};

static bool import_item(struct import *import, struct item *item, struct croft_error *err)
{
	struct croft_tree_source source = croft_remote_tree_source(import->client.remote);
	struct load load;
	load_init(&load, import->client.remote, &source);
	load.threads = import->threads_each;
	load.keep = import->keep;
	bool ok = true;
	for (size_t i = 0; ok && i < item->path_count; i++)
		ok = load_path(&load, item->paths[i], import->under, err);
	ok = ok && load_upload(&load, &item->root, &item->stat, err);
	item->files = load.files;
	item->skipped = load.skipped;
	load_finish(&load);
	return ok && (!item->name || ref_store(&import->client, item->name, &item->root, err));
}

static void *work(void *user)
{
	struct import *import = user;
	while (!atomic_load(&import->failed)) {
		size_t at = atomic_fetch_add(&import->next, 1);
		if (at >= import->count)
			break;
		struct item *item = &import->items[at];
		item->done = import_item(import, item, &item->err);
		if (!item->done)
			atomic_store(&import->failed, true);
	}
	return NULL;
}

static void import_all(struct import *import, unsigned jobs)
{
	pthread_t threads[64];
	size_t started = 0;
	for (unsigned i = 1; i < jobs && i < 64 && i < import->count; i++)
		if (pthread_create(&threads[started], NULL, work, import) == 0)
			pthread_setname_np(threads[started++], "import");
	work(import);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
}

/* "NAME=PATH" or "PATH" */
static bool add_item(struct import *import, const char *text, struct croft_error *err)
{
	const char *equals = strchr(text, '=');
	const char **path = croft_arena_alloc(import->arena, sizeof(*path));
	*path = equals ? equals + 1 : text;
	struct item item = {.paths = path, .path_count = 1};
	if (equals) {
		item.name = croft_arena_strndup(import->arena, text, (size_t)(equals - text));
		if (!ref_name_check(croft_slice_str(item.name), err))
			return false;
	}
	if (!**path)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "\"%s\" has no path in it", text);
	import->items = croft_realloc(import->items, import->count + 1, sizeof(*import->items));
	import->items[import->count++] = item;
	return true;
}

static bool read_list(struct import *import, const char *path, struct croft_error *err)
{
	char *text;
	size_t size;
	if (!croft_read_file(AT_FDCWD, strcmp(path, "-") ? path : "/dev/stdin", 64 << 20, &text, &size,
		    err))
		return false;
	char *kept = croft_arena_strndup(import->arena, text, size);
	free(text);
	for (char *line; (line = strsep(&kept, "\n"));)
		if (*line && *line != '#' && !add_item(import, line, err))
			return false;
	return true;
}

static bool gather_items(struct import *import, const struct options *options,
	struct croft_error *err)
{
	const char *text, *list = options_value(options, "list"), *name = options_value(options, "name");
	for (size_t i = 0; (text = options_at(options, "each", i)); i++)
		if (!add_item(import, text, err))
			return false;
	if (list && !read_list(import, list, err))
		return false;
	if (list || options_given(options, "each")) {
		if (name || options->argc)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"--each and --list make a tree of each path; --name and further paths do not "
				"go with them");
		return true;
	}
	if (!options_arguments(options, 1, SIZE_MAX, err) ||
		(name && !ref_name_check(croft_slice_str(name), err)))
		return false;
	import->items = croft_array(1, sizeof(*import->items));
	import->items[import->count++] = (struct item){.name = name,
		.paths = (const char *const *)options->argv,
		.path_count = (size_t)options->argc};
	return true;
}

static bool report(const struct import *import, const struct options *options,
	struct croft_error *err)
{
	json_t *list = options_given(options, "json") ? json_array() : NULL;
	uint64_t files = 0, bytes = 0, sent = 0;
	for (size_t i = 0; i < import->count; i++) {
		const struct item *item = &import->items[i];
		char digest[CROFT_DIGEST_TEXT];
		croft_digest_format(&item->root, '-', digest);
		files += item->files;
		bytes += item->stat.bytes;
		sent += item->stat.sent_bytes;
		if (!list) {
			if (item->name && import->count > 1)
				printf("%s ", item->name);
			printf("%s\n", digest);
			continue;
		}
		json_array_append_new(list,
			json_pack("{s:s*, s:s, s:I, s:I, s:I, s:I}", "name", item->name, "digest", digest,
				"files", (json_int_t)item->files, "bytes", (json_int_t)item->stat.bytes,
				"sent_bytes", (json_int_t)item->stat.sent_bytes, "skipped",
				(json_int_t)item->skipped));
	}
	if (list && !json_print(list, err))
		return false;
	char all[SIZE_TEXT], some[SIZE_TEXT];
	if (options_given(options, "verbose"))
		fprintf(stderr, "croft import: %zu trees, %" PRIu64 " files, %s, of which %s were sent\n",
			import->count, files, format_size(bytes, all), format_size(sent, some));
	return true;
}

static bool import_run_all(struct import *import, const struct options *options, uint64_t jobs,
	struct croft_error *err)
{
	import->threads_each = import->count > 1 ? 1 : 0;
	import_all(import, (unsigned)jobs);
	for (size_t i = 0; i < import->count; i++) {
		struct item *item = &import->items[i];
		if (item->done || item->err.code == CROFT_OK)
			continue;
		*err = item->err;
		return import->count > 1
			? croft_error_wrap(err, "%s", item->name ? item->name : item->paths[0])
			: false;
	}
	return report(import, options, err);
}

static int run(const struct options *options, struct croft_error *err)
{
	uint64_t jobs = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
	struct import import = {.arena = croft_arena_create(),
		.keep = {options_given(options, "modes"), options_given(options, "mtimes")}};
	const char *under = options_value(options, "under");
	struct ref place;
	int status = MISUSED;
	if (!options_number(options, "jobs", 1, 64, &jobs, err) ||
		!gather_items(&import, options, err))
		goto out;
	/* The place is given as in a ref, so that it is cleaned the same way. */
	char *text = croft_arena_printf(import.arena, "x:%s", under ? under : "");
	if (!ref_parse(text, &place, err))
		goto out;
	import.under = croft_arena_strndup(import.arena, place.path.data, place.path.size);
	status = FAILED;
	if (!client_open(&import.client, options, err))
		goto out;
	status = import_run_all(&import, options, jobs, err) ? 0 : FAILED;
	client_close(&import.client);
out:
	free(import.items);
	croft_arena_destroy(import.arena);
	return status;
}

static const struct option_spec import_options[] = {
	{"name", 'n', "NAME", "give the tree this name (in place of the tree that had it)"},
	{"each", 0, "NAME=PATH", "import this path as a tree of its own; may be given again"},
	{"list", 0, "FILE", "the same for each line of a file, NAME=PATH or PATH; - is standard input"},
	{"under", 0, "DIR", "put everything below this directory of the tree"},
	{"modes", 0, NULL, "keep all permissions, not the executable bits alone"},
	{"mtimes", 0, NULL, "keep times of modification"},
	{"jobs", 'j', "N", "trees at a time with --each and --list (else one per CPU)"},
	{"json", 0, NULL, "print digests and counts as JSON"},
	{"verbose", 'v', NULL, "say on standard error how much there was and how much was sent"},
	{0},
};

const struct command command_import = {
	.name = "import",
	.arguments = "PATH…",
	.summary = "Put directories or archives into the farm; prints the digest of the tree",
	.details =
		"A PATH is a directory, a tar, cpio or zip archive in any compression, a Debian package\n"
		"(its files), or - for an archive on standard input. Several are merged into one tree;\n"
		"two different files at one place are an error. Only what the farm lacks is sent.\n"
		"\n"
		"Kept are names, contents, executable bits and symlinks; permissions and times on request, since\n"
		"with them the same content is another tree each time. Owners are not kept; hard links become\n"
		"files of the same content. Fifos, sockets and devices are left out with a warning.\n"
		"\n"
		"  croft import --name zlib ./zlib-install\n"
		"  croft import --each gcc=gcc.deb --each make=make.deb\n"
		"  tar c . | croft import -",
	.options = import_options,
	.client = true,
	.run = run,
};
