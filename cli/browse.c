/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Looking into trees: ls, cat, du, find. */
#include "cli/commands.h"
#include "cli/names.h"
#include "cli/output.h"
#include "cli/ref.h"
#include "proto/base/cleanup.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

/* Opens the connection and the entry that an argument names, or fails. */
struct look {
	struct client client;
	struct croft_tree_source source;
	struct croft_arena *arena;
	struct croft_tree_entry entry;
	bool long_form;
	json_t *json;
};

static bool look_open(struct look *look, const struct options *options, struct croft_error *err)
{
	*look = (struct look){.arena = croft_arena_create()};
	if (!client_open(&look->client, options, err))
		return false;
	look->source = croft_remote_tree_source(look->client.remote);
	return true;
}

static void look_close(struct look *look)
{
	if (look->client.channel)
		client_close(&look->client);
	croft_arena_destroy(look->arena);
	json_decref(look->json);
}

static bool look_at(struct look *look, const char *text, bool follow, struct croft_error *err)
{
	struct ref ref;
	return ref_parse(text, &ref, err) &&
		ref_entry(&look->client, &ref, follow, look->arena, &look->entry, err);
}

/* So that walking costs few round trips. What the farm lacks is told by who walks there, with its path. */
static bool look_ahead(struct look *look, const struct croft_digest *root, struct croft_error *err)
{
	struct croft_error failure = CROFT_ERROR_INIT;
	if (croft_remote_prefetch_tree(look->client.remote, root, &failure) || failure.code == CROFT_NOT_FOUND)
		return true;
	*err = failure;
	return false;
}

/* ls --------------------------------------------------------------------------------------- */

static const char *type_name(const struct croft_tree_entry *entry)
{
	if (entry->kind == CROFT_ENTRY_DIRECTORY)
		return "directory";
	return entry->kind == CROFT_ENTRY_SYMLINK ? "symlink" : entry->executable ? "executable" : "file";
}

static void list_entry_json(struct look *look, struct croft_slice path,
	const struct croft_tree_entry *entry)
{
	json_t *one = json_object();
	json_set_bytes(one, "path", path);
	json_object_set_new(one, "type", json_string(type_name(entry)));
	if (entry->kind == CROFT_ENTRY_SYMLINK)
		json_set_bytes(one, "target", entry->target);
	else
		json_object_set_new(one, "digest", json_digest(&entry->digest));
	if (entry->kind == CROFT_ENTRY_FILE)
		json_object_set_new(one, "size", json_integer((json_int_t)entry->digest.size_bytes));
	json_array_append_new(look->json, one);
}

static void list_entry(struct look *look, struct croft_slice path,
	const struct croft_tree_entry *entry)
{
	if (look->json) {
		list_entry_json(look, path, entry);
		return;
	}
	if (look->long_form) {
		static const char *const modes[] = {"-r--r--r--", "dr-xr-xr-x", "lrwxrwxrwx"};
		char hash[CROFT_HASH_TEXT] = "-";
		if (entry->kind != CROFT_ENTRY_SYMLINK)
			croft_hash_format(entry->digest.hash, hash);
		printf("%s %12" PRIu64 " %.12s  ", entry->executable ? "-r-xr-xr-x" : modes[entry->kind],
			entry->kind == CROFT_ENTRY_SYMLINK ? entry->target.size : entry->digest.size_bytes,
			hash);
	}
	print_name(path, stdout);
	if (look->long_form && entry->kind == CROFT_ENTRY_SYMLINK) {
		fputs(" -> ", stdout);
		print_name(entry->target, stdout);
	}
	putchar('\n');
}

static bool list_visit(void *user, struct croft_slice path, const struct croft_tree_entry *entry,
	struct croft_error *err)
{
	list_entry(user, path, entry);
	return true;
}

static bool list_one(struct look *look, const char *text, bool recursive, struct croft_error *err)
{
	if (!look_at(look, text, true, err))
		return false;
	if (look->entry.kind != CROFT_ENTRY_DIRECTORY) {
		list_entry(look, look->entry.name, &look->entry);
		return true;
	}
	if (recursive)
		return look_ahead(look, &look->entry.digest, err) &&
			croft_tree_walk(&look->source, &look->entry.digest, list_visit, look, err);
	struct croft_tree_entry *entries;
	size_t count;
	if (!croft_tree_list(&look->source, &look->entry.digest, look->arena, &entries, &count, err))
		return false;
	for (size_t i = 0; i < count; i++)
		list_entry(look, entries[i].name, &entries[i]);
	return true;
}

static const char *format_time(int64_t unix_ns, bool local, char text[32])
{
	time_t seconds = (time_t)(unix_ns / 1000000000);
	struct tm parts;
	if (local)
		localtime_r(&seconds, &parts);
	else
		gmtime_r(&seconds, &parts);
	strftime(text, 32, local ? "%Y-%m-%d %H:%M" : "%Y-%m-%dT%H:%M:%SZ", &parts);
	return text;
}

static bool list_name(void *user, const struct named_tree *tree)
{
	struct look *look = user;
	char digest[CROFT_DIGEST_TEXT], time[32];
	struct croft_slice name = croft_slice_str(tree->name);
	if (look->json) {
		json_t *one = json_object();
		json_set_bytes(one, "name", name);
		json_object_update_new(one, json_pack("{s:o, s:s}", "digest", json_digest(&tree->root),
			"named_at", format_time(tree->pushed_unix_ns, false, time)));
		json_array_append_new(look->json, one);
		return true;
	}
	if (look->long_form) {
		croft_digest_format(&tree->root, '-', digest);
		printf("%s  %-72s  ", format_time(tree->pushed_unix_ns, true, time), digest);
	}
	print_name(name, stdout);
	putchar('\n');
	return true;
}

static int ls_run(const struct options *options, struct croft_error *err)
{
	struct look look;
	bool ok = look_open(&look, options, err);
	look.long_form = options_given(options, "long");
	look.json = options_given(options, "json") ? json_array() : NULL;
	if (ok && options->argc == 0)
		ok = names_list(&look.client, "", list_name, &look, err);
	for (int i = 0; ok && i < options->argc; i++) {
		if (options->argc > 1 && !look.json)
			printf("%s%s:\n", i ? "\n" : "", options->argv[i]);
		ok = list_one(&look, options->argv[i], options_given(options, "recursive"), err);
	}
	if (ok && look.json)
		ok = json_print(json_incref(look.json), err);
	look_close(&look);
	return ok ? 0 : FAILED;
}

static const struct option_spec ls_options[] = {
	{"long", 'l', NULL, "with mode, size and the start of the digest; of names, when they were given and the digest"},
	{"recursive", 'R', NULL, "everything below, as paths"},
	{"json", 0, NULL, "as JSON; a name that is no UTF-8 is whole in path_base64"},
	{0},
};

const struct command command_ls = {
	.name = "ls",
	.arguments = "[REF[:PATH]…]",
	.summary = "List the names of trees, or what stands in a tree",
	.details = "A REF is a digest or a name that `croft import --name` gave. Symlinks in PATH are\n"
		   "followed inside the tree. Without a REF the names are listed that the farm has trees for\n"
		   "(of this instance).",
	.options = ls_options,
	.client = true,
	.run = ls_run,
};

/* cat -------------------------------------------------------------------------------------- */

static int cat_run(const struct options *options, struct croft_error *err)
{
	if (!options_arguments(options, 1, SIZE_MAX, err))
		return MISUSED;
	struct look look;
	bool ok = look_open(&look, options, err);
	for (int i = 0; ok && i < options->argc; i++) {
		ok = look_at(&look, options->argv[i], true, err);
		if (ok && look.entry.kind != CROFT_ENTRY_FILE)
			ok = croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"\"%s\" is a directory; `croft ls` lists it", options->argv[i]);
		ok = ok &&
			croft_remote_read_to_fd(look.client.remote, &look.entry.digest, STDOUT_FILENO, err);
	}
	look_close(&look);
	return ok ? 0 : FAILED;
}

const struct command command_cat = {
	.name = "cat",
	.arguments = "REF:PATH…",
	.summary = "Print files of a tree",
	.client = true,
	.run = cat_run,
};

/* du --------------------------------------------------------------------------------------- */

static void print_totals(struct croft_slice name, const struct croft_tree_totals *totals)
{
	char size[SIZE_TEXT];
	printf("%12s %9" PRIu64 " files  ", format_size(totals->bytes, size), totals->files);
	print_name(name, stdout);
	putchar('\n');
}

static bool measure_entry(struct look *look, const struct croft_tree_entry *entry,
	struct croft_tree_totals *totals, struct croft_error *err)
{
	*totals = (struct croft_tree_totals){0};
	if (entry->kind == CROFT_ENTRY_DIRECTORY)
		return croft_tree_measure(&look->source, &entry->digest, totals, err);
	totals->files = entry->kind == CROFT_ENTRY_FILE;
	totals->symlinks = entry->kind == CROFT_ENTRY_SYMLINK;
	totals->bytes = entry->kind == CROFT_ENTRY_FILE ? entry->digest.size_bytes : 0;
	return true;
}

static json_t *json_totals(struct croft_slice path, const struct croft_tree_totals *totals)
{
	json_t *json = json_object();
	json_set_bytes(json, "path", path);
	json_object_update_new(json, json_pack("{s:I, s:I, s:I, s:I}", "files", (json_int_t)totals->files,
		"directories", (json_int_t)totals->directories, "symlinks", (json_int_t)totals->symlinks,
		"bytes", (json_int_t)totals->bytes));
	return json;
}

static bool measure_one(struct look *look, const char *text, bool summary, struct croft_error *err)
{
	struct croft_tree_entry *entries = NULL, whole;
	struct croft_tree_totals totals;
	size_t count = 0;
	if (!look_at(look, text, true, err))
		return false;
	whole = look->entry;
	if (whole.kind == CROFT_ENTRY_DIRECTORY) {
		if (!look_ahead(look, &whole.digest, err))
			return false;
		if (!summary && !croft_tree_list(&look->source, &whole.digest, look->arena, &entries, &count,
					err))
			return false;
	}
	for (size_t i = 0; i <= count; i++) {
		const struct croft_tree_entry *entry = i < count ? &entries[i] : &whole;
		struct croft_slice name = i < count ? entry->name : croft_slice_str(text);
		if (!measure_entry(look, entry, &totals, err))
			return croft_error_wrap(err, "%.*s", (int)name.size, (const char *)name.data);
		if (look->json)
			json_array_append_new(look->json, json_totals(name, &totals));
		else
			print_totals(name, &totals);
	}
	return true;
}

static int du_run(const struct options *options, struct croft_error *err)
{
	if (!options_arguments(options, 1, SIZE_MAX, err))
		return MISUSED;
	struct look look;
	bool ok = look_open(&look, options, err);
	look.json = options_given(options, "json") ? json_array() : NULL;
	for (int i = 0; ok && i < options->argc; i++)
		ok = measure_one(&look, options->argv[i], options_given(options, "summary"), err);
	if (ok && look.json)
		ok = json_print(json_incref(look.json), err);
	look_close(&look);
	return ok ? 0 : FAILED;
}

static const struct option_spec du_options[] = {
	{"summary", 's', NULL, "only the total of each argument"},
	{"json", 0, NULL, "as JSON"},
	{0},
};

const struct command command_du = {
	.name = "du",
	.arguments = "REF[:PATH]…",
	.summary = "Count the files and bytes of a tree and of what stands in it",
	.options = du_options,
	.client = true,
	.run = du_run,
};

/* find ------------------------------------------------------------------------------------- */

struct find {
	const char *name, *type;
	struct croft_digest digest;
	bool by_digest, zero;
	uint64_t least_bytes;
	struct croft_arena *arena;
};

static bool matches(struct find *find, const struct croft_tree_entry *entry)
{
	bool file = entry->kind == CROFT_ENTRY_FILE;
	if (find->type) {
		char letter = entry->kind == CROFT_ENTRY_DIRECTORY ? 'd' : file ? 'f' : 'l';
		if (*find->type != letter && !(*find->type == 'x' && file && entry->executable))
			return false;
	}
	if (find->least_bytes && !(file && entry->digest.size_bytes >= find->least_bytes))
		return false;
	if (find->by_digest && !(entry->kind != CROFT_ENTRY_SYMLINK &&
				       croft_digest_equal(&entry->digest, &find->digest)))
		return false;
	if (!find->name)
		return true;
	croft_arena_reset(find->arena);
	return !fnmatch(find->name, croft_arena_strndup(find->arena, entry->name.data, entry->name.size),
		0);
}

static bool find_visit(void *user, struct croft_slice path, const struct croft_tree_entry *entry,
	struct croft_error *err)
{
	struct find *find = user;
	if (!matches(find, entry))
		return true;
	if (find->zero)
		fwrite(path.data, 1, path.size, stdout);
	else
		print_name(path, stdout);
	putchar(find->zero ? '\0' : '\n');
	return true;
}

static int find_run(const struct options *options, struct croft_error *err)
{
	struct find find = {.name = options_value(options, "name"),
		.type = options_value(options, "type"),
		.zero = options_given(options, "print0")};
	const char *digest = options_value(options, "digest");
	if (!options_arguments(options, 1, 1, err) ||
		!options_size(options, "least", &find.least_bytes, err))
		return MISUSED;
	if (find.type && (strlen(find.type) != 1 || !strchr("fdlx", *find.type))) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "--type: \"%s\" is none of f, d, l, x",
			find.type);
		return MISUSED;
	}
	find.by_digest = digest != NULL;
	if (digest && !croft_digest_parse(croft_slice_str(digest), &find.digest, err))
		return MISUSED;
	struct look look;
	struct croft_digest root;
	find.arena = croft_arena_create();
	bool ok = look_open(&look, options, err) &&
		ref_directory(&look.client, options->argv[0], &root, err) &&
		look_ahead(&look, &root, err) &&
		croft_tree_walk(&look.source, &root, find_visit, &find, err);
	look_close(&look);
	croft_arena_destroy(find.arena);
	return ok ? 0 : FAILED;
}

static const struct option_spec find_options[] = {
	{"name", 0, "GLOB", "whose own name matches"},
	{"type", 0, "T", "f: files, d: directories, l: symlinks, x: executable files"},
	{"least", 0, "SIZE", "files of at least this size"},
	{"digest", 0, "DIGEST", "with this content"},
	{"print0", '0', NULL, "end each path with a NUL byte instead of a newline"},
	{0},
};

const struct command command_find = {
	.name = "find",
	.arguments = "REF[:PATH]",
	.summary = "Print the paths in a tree that match",
	.options = find_options,
	.client = true,
	.run = find_run,
};
