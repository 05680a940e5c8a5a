/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How two trees differ. Subtrees of one digest are not looked into. */
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/ref.h"
#include "proto/base/cleanup.h"

#include <string.h>

struct diff {
	struct croft_tree_source source;
	json_t *json;
	bool brief; /* say nothing of what lies below a directory that only one has */
	bool differs;
};

static const char *kind_of(const struct croft_tree_entry *entry)
{
	if (entry->kind == CROFT_ENTRY_DIRECTORY)
		return "directory";
	return entry->kind == CROFT_ENTRY_SYMLINK ? "symlink" : entry->executable ? "executable" : "file";
}

static void report(struct diff *diff, char sign, const char *path,
	const struct croft_tree_entry *from, const struct croft_tree_entry *to, const char *what)
{
	diff->differs = true;
	if (diff->json) {
		json_t *one = json_object();
		json_object_set_new(one, "path", json_bytes(croft_slice_str(path)));
		json_object_set_new(one, "change",
			json_string(sign == '-' ? "removed" : sign == '+' ? "added" : "changed"));
		if (from)
			json_object_set_new(one, "from", json_string(kind_of(from)));
		if (to)
			json_object_set_new(one, "to", json_string(kind_of(to)));
		if (what)
			json_object_set_new(one, "what", json_string(what));
		json_array_append_new(diff->json, one);
		return;
	}
	printf("%c ", sign);
	print_name(croft_slice_str(path), stdout);
	if ((from ? from : to)->kind == CROFT_ENTRY_DIRECTORY && sign != '~')
		putchar('/');
	if (what)
		printf(" (%s)", what);
	putchar('\n');
}

static bool diff_directories(struct diff *diff, const struct croft_digest *from,
	const struct croft_digest *to, const char *path, unsigned depth, struct croft_error *err);

/* An entry that only one side has, and what lies below it. */
static bool one_sided(struct diff *diff, char sign, const char *path,
	const struct croft_tree_entry *entry, unsigned depth, struct croft_error *err)
{
	report(diff, sign, path, sign == '-' ? entry : NULL, sign == '-' ? NULL : entry, NULL);
	if (entry->kind != CROFT_ENTRY_DIRECTORY || diff->brief)
		return true;
	return sign == '-'
		? diff_directories(diff, &entry->digest, &croft_digest_empty, path, depth + 1, err)
		: diff_directories(diff, &croft_digest_empty, &entry->digest, path, depth + 1, err);
}

static bool both_sided(struct diff *diff, const char *path, const struct croft_tree_entry *from,
	const struct croft_tree_entry *to, unsigned depth, struct croft_error *err)
{
	if (from->kind != to->kind) {
		char what[64];
		snprintf(what, sizeof(what), "%s became %s", kind_of(from), kind_of(to));
		report(diff, '~', path, from, to, what);
		return true;
	}
	if (from->kind == CROFT_ENTRY_SYMLINK) {
		if (!croft_slice_equal(from->target, to->target))
			report(diff, '~', path, from, to, "target");
		return true;
	}
	if (from->kind == CROFT_ENTRY_DIRECTORY)
		return diff_directories(diff, &from->digest, &to->digest, path, depth + 1, err);
	bool content = !croft_digest_equal(&from->digest, &to->digest);
	bool mode = from->executable != to->executable;
	if (content || mode)
		report(diff, '~', path, from, to,
			content && mode ? "content, executable bit" : content ? "content" : "executable bit");
	return true;
}

static bool diff_directories(struct diff *diff, const struct croft_digest *from,
	const struct croft_digest *to, const char *path, unsigned depth, struct croft_error *err)
{
	if (croft_digest_equal(from, to))
		return true;
	if (depth > 1024)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "the trees are too deep");
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_tree_entry *left, *right;
	size_t left_count, right_count, l = 0, r = 0;
	if (!croft_tree_list(&diff->source, from, arena, &left, &left_count, err) ||
		!croft_tree_list(&diff->source, to, arena, &right, &right_count, err))
		return false;
	while (l < left_count || r < right_count) {
		int order = l == left_count ? 1
			: r == right_count  ? -1
					    : croft_slice_compare(left[l].name, right[r].name);
		const struct croft_tree_entry *entry = order <= 0 ? &left[l] : &right[r];
		const char *name = croft_arena_printf(arena, "%s%s%.*s", path, *path ? "/" : "",
			(int)entry->name.size, (const char *)entry->name.data);
		bool ok = order < 0 ? one_sided(diff, '-', name, &left[l], depth, err)
			: order > 0 ? one_sided(diff, '+', name, &right[r], depth, err)
				    : both_sided(diff, name, &left[l], &right[r], depth, err);
		if (!ok)
			return false;
		l += order <= 0;
		r += order >= 0;
	}
	return true;
}

static int run(const struct options *options, struct croft_error *err)
{
	if (!options_arguments(options, 2, 2, err))
		return MISUSED;
	struct client client;
	struct croft_digest from, to;
	if (!client_open(&client, options, err))
		return FAILED;
	struct diff diff = {.source = croft_remote_tree_source(client.remote),
		.json = options_given(options, "json") ? json_array() : NULL,
		.brief = options_given(options, "brief")};
	bool ok = ref_directory(&client, options->argv[0], &from, err) &&
		ref_directory(&client, options->argv[1], &to, err) &&
		diff_directories(&diff, &from, &to, "", 0, err);
	if (ok && diff.json)
		ok = json_print(json_incref(diff.json), err);
	ok = ok && output_flush(err);
	json_decref(diff.json);
	client_close(&client);
	return !ok ? FAILED : diff.differs;
}

static const struct option_spec diff_options[] = {
	{"brief", 0, NULL, "do not list what lies below a directory that only one tree has"},
	{"json", 0, NULL, "as JSON"},
	{0},
};

const struct command command_diff = {
	.name = "diff",
	.arguments = "REF[:PATH] REF[:PATH]",
	.summary = "Say how two trees differ",
	.details = "One line per path: - only in the first, + only in the second, ~ changed. Exit status 0\n"
		   "when they are equal, 1 when they differ, 2 for trouble.",
	.options = diff_options,
	.client = true,
	.usage_status = 2,
	.run = run,
};
