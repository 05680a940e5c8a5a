/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How two trees differ. Subtrees of one digest are not looked into. */
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/ref.h"
#include "proto/base/cleanup.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

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

/* What of an entry that both trees have is not the same. Modes are compared where one of them has one, times too. */
enum { CONTENT = 1, TARGET = 2, EXECUTABLE = 4, MODE = 8, MTIME = 16 };
static const char *const words[] = {"content", "target", "executable bit", "mode", "mtime"};

enum { TIME_TEXT = 48 };

static const char *time_of(const struct croft_tree_entry *entry, char text[TIME_TEXT])
{
	if (!entry->properties || !entry->properties->mtime)
		return NULL;
	struct timespec time = croft_tree_mtime(entry->properties);
	struct tm parts;
	if (!gmtime_r(&time.tv_sec, &parts)) {
		snprintf(text, TIME_TEXT, "@%" PRId64 ".%09ld", (int64_t)time.tv_sec, time.tv_nsec);
		return text;
	}
	size_t size = strftime(text, TIME_TEXT, "%Y-%m-%dT%H:%M:%S", &parts);
	snprintf(text + size, TIME_TEXT - size, time.tv_nsec ? ".%09ldZ" : "Z", time.tv_nsec);
	return text;
}

static const char *mode_of(const struct croft_tree_entry *entry, char text[8])
{
	snprintf(text, 8, "%04o", croft_tree_mode(entry->kind, entry->executable, entry->properties));
	return text;
}

static bool has_mode(const struct croft_tree_entry *entry)
{
	return entry->properties && entry->properties->unix_mode;
}

static unsigned compare(const struct croft_tree_entry *from, const struct croft_tree_entry *to)
{
	unsigned found = 0;
	if (from->kind == CROFT_ENTRY_FILE && !croft_digest_equal(&from->digest, &to->digest))
		found |= CONTENT;
	if (from->kind == CROFT_ENTRY_SYMLINK && !croft_slice_equal(from->target, to->target))
		found |= TARGET;
	if (from->kind != CROFT_ENTRY_SYMLINK && (has_mode(from) || has_mode(to))) {
		if (croft_tree_mode(from->kind, from->executable, from->properties) !=
			croft_tree_mode(to->kind, to->executable, to->properties))
			found |= MODE;
	} else if (from->executable != to->executable) {
		found |= EXECUTABLE;
	}
	char before[TIME_TEXT], after[TIME_TEXT];
	const char *had = time_of(from, before), *has = time_of(to, after);
	if (!had != !has || (had && strcmp(had, has) != 0))
		found |= MTIME;
	return found;
}

/* "content, mode 0644 -> 0755"; owned. */
static char *describe(unsigned changes, const struct croft_tree_entry *from, const struct croft_tree_entry *to,
	bool values)
{
	char *text = NULL, before[TIME_TEXT], after[TIME_TEXT];
	size_t size;
	FILE *out = open_memstream(&text, &size);
	if (!out)
		abort();
	for (unsigned i = 0; i < sizeof(words) / sizeof(*words); i++) {
		if (!(changes & 1u << i))
			continue;
		fprintf(out, "%s%s", changes & ((1u << i) - 1) ? ", " : "", words[i]);
		if (values && 1u << i == MODE)
			fprintf(out, " %s -> %s", mode_of(from, before), mode_of(to, after));
		if (values && 1u << i == MTIME) {
			const char *had = time_of(from, before), *has = time_of(to, after);
			fprintf(out, " %s -> %s", had ? had : "none", has ? has : "none");
		}
	}
	fclose(out);
	return text;
}

static json_t *json_change(const char *from, const char *to)
{
	return json_pack("{s:s?, s:s?}", "from", from, "to", to);
}

static void report_json(struct diff *diff, char sign, const char *path, const struct croft_tree_entry *from,
	const struct croft_tree_entry *to, unsigned changes, const char *what)
{
	char before[TIME_TEXT], after[TIME_TEXT];
	json_t *one = json_object();
	json_set_bytes(one, "path", croft_slice_str(path));
	json_object_set_new(one, "change",
		json_string(sign == '-' ? "removed" : sign == '+' ? "added" : "changed"));
	if (from)
		json_object_set_new(one, "from", json_string(kind_of(from)));
	if (to)
		json_object_set_new(one, "to", json_string(kind_of(to)));
	if (what)
		json_object_set_new(one, "what", json_string(what));
	if (changes & MODE)
		json_object_set_new(one, "mode", json_change(mode_of(from, before), mode_of(to, after)));
	if (changes & MTIME)
		json_object_set_new(one, "mtime", json_change(time_of(from, before), time_of(to, after)));
	json_array_append_new(diff->json, one);
}

static void report(struct diff *diff, char sign, const char *path,
	const struct croft_tree_entry *from, const struct croft_tree_entry *to, unsigned changes, const char *what)
{
	diff->differs = true;
	path = *path ? path : "."; /* the root */
	if (diff->json) {
		report_json(diff, sign, path, from, to, changes, what);
		return;
	}
	printf("%c ", sign);
	print_name(croft_slice_str(path), stdout);
	bool replaced = from && to && from->kind != to->kind;
	if ((from ? from : to)->kind == CROFT_ENTRY_DIRECTORY && !replaced)
		putchar('/');
	if (what)
		printf(" (%s)", what);
	putchar('\n');
}

static void report_changes(struct diff *diff, const char *path, const struct croft_tree_entry *from,
	const struct croft_tree_entry *to)
{
	unsigned changes = compare(from, to);
	if (!changes)
		return;
	CROFT_CLEANUP_FREE char *what = describe(changes, from, to, !diff->json);
	report(diff, '~', path, from, to, changes, what);
}

static bool diff_directories(struct diff *diff, const struct croft_digest *from,
	const struct croft_digest *to, const char *path, unsigned depth, struct croft_error *err);

/* An entry that only one side has, and what lies below it. */
static bool one_sided(struct diff *diff, char sign, const char *path,
	const struct croft_tree_entry *entry, unsigned depth, struct croft_error *err)
{
	report(diff, sign, path, sign == '-' ? entry : NULL, sign == '-' ? NULL : entry, 0, NULL);
	if (entry->kind != CROFT_ENTRY_DIRECTORY || diff->brief)
		return true;
	return sign == '-'
		? diff_directories(diff, &entry->digest, &croft_digest_empty, path, depth + 1, err)
		: diff_directories(diff, &croft_digest_empty, &entry->digest, path, depth + 1, err);
}

/* Two directories that stand at one place, or the roots: their own modes and times, and all that is below. */
static bool both_directories(struct diff *diff, const char *path, const struct croft_tree_entry *from,
	const struct croft_tree_entry *to, unsigned depth, struct croft_error *err)
{
	if (croft_digest_equal(&from->digest, &to->digest))
		return true;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_tree_entry before = *from, after = *to;
	if (!croft_tree_root_properties(&diff->source, &from->digest, arena, &before.properties, err) ||
		!croft_tree_root_properties(&diff->source, &to->digest, arena, &after.properties, err))
		return false;
	report_changes(diff, path, &before, &after);
	return diff_directories(diff, &from->digest, &to->digest, path, depth, err);
}

static bool both_sided(struct diff *diff, const char *path, const struct croft_tree_entry *from,
	const struct croft_tree_entry *to, unsigned depth, struct croft_error *err)
{
	if (from->kind != to->kind) {
		char what[64];
		snprintf(what, sizeof(what), "%s became %s", kind_of(from), kind_of(to));
		report(diff, '~', path, from, to, 0, what);
		return true;
	}
	if (from->kind == CROFT_ENTRY_DIRECTORY)
		return both_directories(diff, path, from, to, depth + 1, err);
	report_changes(diff, path, from, to);
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
	struct croft_tree_entry from = {.kind = CROFT_ENTRY_DIRECTORY}, to = from;
	if (!client_open(&client, options, err))
		return FAILED;
	struct diff diff = {.source = croft_remote_tree_source(client.remote),
		.json = options_given(options, "json") ? json_array() : NULL,
		.brief = options_given(options, "brief")};
	bool ok = ref_directory(&client, options->argv[0], &from.digest, err) &&
		ref_directory(&client, options->argv[1], &to.digest, err) &&
		both_directories(&diff, "", &from, &to, 0, err);
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
	.details = "One line per path: - only in the first, + only in the second, ~ changed, and in what: content,\n"
		   "target, executable bit; mode and mtime where a tree has them (`croft import --modes --mtimes`).\n"
		   "Exit status 0 when they are equal, 1 when they differ, 2 for trouble.",
	.options = diff_options,
	.client = true,
	.usage_status = 2,
	.run = run,
};
