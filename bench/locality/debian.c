/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A trace from Debian's package indexes: one job per source package, which reads the packages that its
 * build dependencies install. Closures and sizes are the archive's; run times are synthetic.
 *
 * Dependencies are resolved as a build machine would do on an empty root: the first alternative that
 * there is, else the first package that provides it; versions are not compared, since one release fits
 * together.
 */
#include "bench/locality/makers.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <math.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { NAMES = 400000, NONE = -1 };

struct package {
	const char *name, *depends, *pre_depends;
	uint64_t bytes;
	bool essential;
	int *needs; /* packages; NULL: not resolved yet */
	int need_count;
	int root;     /* in the trace; NONE: not read by any job yet */
	int seen_by;  /* the last closure that it is part of */
};

struct source {
	const char *name, *build_depends[3];
};

struct archive {
	struct croft_arena *arena;
	struct package *packages;
	int package_count, package_room;
	struct source *sources;
	int source_count, source_room;
	struct hsearch_data names; /* of packages, and of what is only provided */
	struct trace *trace;
	int *closure, closure_count;
};

/* Names --------------------------------------------------------------------------------------------- */

static int look_up(struct archive *archive, const char *name)
{
	ENTRY *found;
	if (!hsearch_r((ENTRY){(char *)name, NULL}, FIND, &found, &archive->names))
		return NONE;
	return (int)(intptr_t)found->data;
}

static void enter(struct archive *archive, const char *name, int package)
{
	ENTRY *found;
	if (!hsearch_r((ENTRY){(char *)name, (void *)(intptr_t)package}, ENTER, &found, &archive->names))
		abort(); /* more names than any archive has */
}

/* Indexes ------------------------------------------------------------------------------------------- */

/* The stanza's fields of these names; continued lines are joined. */
struct field {
	const char *name;
	char *value;
};

/* Parses the next stanza of *text; false at the end. */
static bool next_stanza(char **text, struct field *fields, size_t count)
{
	char *value = NULL;
	bool any = false;
	for (size_t i = 0; i < count; i++)
		fields[i].value = NULL;
	while (*text && **text) {
		char *line = strsep(text, "\n");
		if (*line == '\0') {
			if (any)
				return true;
			continue;
		}
		any = true;
		if (*line == ' ' || *line == '\t') {
			/* Joined by turning the NUL of the line before back into a blank. */
			if (value)
				line[-1] = ' ';
			continue;
		}
		char *colon = strchr(line, ':');
		value = NULL;
		if (!colon)
			continue;
		for (size_t i = 0; i < count; i++)
			if (strncasecmp(line, fields[i].name, (size_t)(colon - line)) == 0 &&
				fields[i].name[colon - line] == '\0')
				fields[i].value = value = colon + 1 + strspn(colon + 1, " ");
	}
	return any;
}

static void read_packages(struct archive *archive, char *text)
{
	struct field fields[] = {{"Package"}, {"Installed-Size"}, {"Depends"}, {"Pre-Depends"},
		{"Essential"}, {"Provides"}};
	while (next_stanza(&text, fields, 6)) {
		if (!fields[0].value || look_up(archive, fields[0].value) != NONE)
			continue;
		if (archive->package_count == archive->package_room) {
			archive->package_room = archive->package_room * 2 + 1024;
			archive->packages = croft_realloc(
				archive->packages, (size_t)archive->package_room, sizeof(struct package));
		}
		archive->packages[archive->package_count] = (struct package){.name = fields[0].value,
			.bytes = fields[1].value ? strtoull(fields[1].value, NULL, 10) * 1024 : 0,
			.depends = fields[2].value,
			.pre_depends = fields[3].value,
			.essential = fields[4].value && strcmp(fields[4].value, "yes") == 0,
			.root = NONE,
			.seen_by = NONE};
		enter(archive, fields[0].value, archive->package_count++);
	}
}

/* After all real names are known: what is provided does not hide a package. */
static void read_provides(struct archive *archive, char *text)
{
	struct field fields[] = {{"Package"}, {"Provides"}};
	while (next_stanza(&text, fields, 2)) {
		if (!fields[0].value || !fields[1].value)
			continue;
		int package = look_up(archive, fields[0].value);
		char *list = fields[1].value, *item;
		while ((item = strsep(&list, ","))) {
			item += strspn(item, " ");
			item[strcspn(item, " (:")] = '\0';
			if (*item && look_up(archive, item) == NONE)
				enter(archive, item, package);
		}
	}
}

static void read_sources(struct archive *archive, char *text)
{
	struct field fields[] = {{"Package"}, {"Build-Depends"}, {"Build-Depends-Arch"},
		{"Build-Depends-Indep"}, {"Extra-Source-Only"}};
	while (next_stanza(&text, fields, 5)) {
		if (!fields[0].value || fields[4].value)
			continue;
		if (archive->source_count == archive->source_room) {
			archive->source_room = archive->source_room * 2 + 1024;
			archive->sources = croft_realloc(
				archive->sources, (size_t)archive->source_room, sizeof(struct source));
		}
		archive->sources[archive->source_count++] = (struct source){
			fields[0].value, {fields[1].value, fields[2].value, fields[3].value}};
	}
}

/* Dependencies -------------------------------------------------------------------------------------- */

/* "[amd64 linux-any]" or "[!i386]": does it hold here? */
static bool architecture_holds(const char *list, size_t size)
{
	static const char *const own[] = {"amd64", "any", "linux-any", "any-amd64", "linux-amd64"};
	bool negated = size > 0 && *list == '!', named = false;
	const char *end = list + size;
	while (list < end) {
		while (list < end && (*list == ' ' || *list == '!'))
			list++;
		size_t length = 0;
		while (list + length < end && list[length] != ' ')
			length++;
		for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
			named |= strlen(own[i]) == length && strncmp(list, own[i], length) == 0;
		list += length;
	}
	return named != negated;
}

/* One alternative, "name:any (>= 1) [amd64] <!nocheck>", as its bare name; NULL if it does not hold. */
static const char *bare_name(char *item)
{
	char *architectures = strchr(item, '['), *profiles = strchr(item, '<');
	if (architectures && !architecture_holds(architectures + 1, strcspn(architectures + 1, "]")))
		return NULL;
	/* "<!nocheck>" holds where nothing special is built; "<cross>" does not. A '<' in "(<< 2)" stands
	 * inside parentheses. */
	while (profiles && profiles > item && strchr(item, '(') && strchr(item, '(') < profiles &&
		strchr(item, ')') > profiles)
		profiles = strchr(profiles + 1, '<');
	if (profiles && profiles[1] != '!')
		return NULL;
	item += strspn(item, " ");
	item[strcspn(item, " ([<:")] = '\0';
	return *item ? item : NULL;
}

/* Appends what the list resolves to. */
static void resolve(struct archive *archive, const char *text, int **found, int *count, int *room)
{
	if (!text)
		return;
	CROFT_CLEANUP_FREE char *copy = croft_strdup(text);
	char *list = copy, *group;
	while ((group = strsep(&list, ","))) {
		char *item;
		int package = NONE;
		while (package == NONE && (item = strsep(&group, "|"))) {
			const char *name = bare_name(item);
			if (name)
				package = look_up(archive, name);
		}
		if (package == NONE)
			continue;
		if (*count == *room) {
			*room = *room * 2 + 16;
			*found = croft_realloc(*found, (size_t)*room, sizeof(int));
		}
		(*found)[(*count)++] = package;
	}
}

static void resolve_package(struct archive *archive, struct package *package)
{
	int room = 0;
	if (package->needs)
		return;
	package->needs = croft_alloc(1);
	resolve(archive, package->pre_depends, &package->needs, &package->need_count, &room);
	resolve(archive, package->depends, &package->needs, &package->need_count, &room);
}

static void reach(struct archive *archive, int package, int mark)
{
	if (archive->packages[package].seen_by == mark)
		return;
	archive->packages[package].seen_by = mark;
	archive->closure[archive->closure_count++] = package;
}

/* Into archive->closure. */
static void close_over(struct archive *archive, const int *start, int count, int mark)
{
	archive->closure_count = 0;
	for (int i = 0; i < count; i++)
		reach(archive, start[i], mark);
	for (int i = 0; i < archive->closure_count; i++) {
		struct package *package = &archive->packages[archive->closure[i]];
		resolve_package(archive, package);
		for (int k = 0; k < package->need_count; k++)
			reach(archive, package->needs[k], mark);
	}
}

/* Jobs ---------------------------------------------------------------------------------------------- */

/* What kind of build it is, as far as its direct build dependencies tell. */
static const char *family_of(const struct archive *archive, const int *needs, int count)
{
	static const char *const tools[] = {"haskell-devscripts", "dh-golang", "dh-cargo", "dh-elpa",
		"gem2deb", "dh-octave", "dh-r", "dh-nodejs", "dh-sequence-gnome", "maven-debian-helper",
		"javahelper", "dh-ocaml", "texlive-base", "qtbase5-dev", "cmake", "meson", "dh-python",
		"perl", "python3-all", "autoconf", "debhelper-compat"};
	for (size_t t = 0; t < sizeof(tools) / sizeof(tools[0]); t++)
		for (int i = 0; i < count; i++)
			if (strcmp(archive->packages[needs[i]].name, tools[t]) == 0)
				return tools[t];
	return "other";
}

/* Deterministic by name: two uniform numbers of it. */
static double lognormal(const char *name, uint64_t seed, double median, double sigma)
{
	double u = ((double)XXH3_64bits_withSeed(name, strlen(name), seed) + 1) / 0x1p64;
	double v = (double)XXH3_64bits_withSeed(name, strlen(name), seed + 1) / 0x1p64;
	return median * exp(sigma * sqrt(-2 * log(u)) * cos(2 * M_PI * v));
}

static float share_of(const struct archive *archive, int package, const char *job, bool lazy)
{
	if (!lazy)
		return 1;
	double share = lognormal(archive->packages[package].name, 10, 0.05, 1.2) *
		lognormal(job, 20 + (uint64_t)package, 1, 0.3);
	return (float)(share > 1 ? 1 : share);
}

static void add_job(struct archive *archive, const struct source *source, const int *base,
	int base_count, bool lazy, uint32_t families[], size_t number)
{
	CROFT_CLEANUP_FREE int *start = croft_alloc((size_t)base_count * sizeof(int));
	int count = base_count, room = base_count;
	memcpy(start, base, (size_t)base_count * sizeof(int));
	for (int i = 0; i < 3; i++)
		resolve(archive, source->build_depends[i], &start, &count, &room);
	close_over(archive, start, count, (int)number);
	struct trace *trace = archive->trace;
	const char *family = family_of(archive, start + base_count, count - base_count);
	size_t bucket = XXH3_64bits(family, strlen(family)) % 4096;
	if (!families[bucket])
		families[bucket] = trace_text(trace, family);
	struct trace_job *job = trace_job(trace);
	job->kind = trace_text(trace, source->name);
	job->family = families[bucket];
	job->run_seconds = lognormal(source->name, 0, 60, 1);
	job->reads = croft_arena_array(
		trace->arena, (size_t)archive->closure_count, sizeof(*job->reads));
	for (int i = 0; i < archive->closure_count; i++) {
		int at = archive->closure[i];
		struct package *package = &archive->packages[at];
		if (package->root == NONE)
			package->root = (int)trace_root(trace, package->name, package->bytes);
		job->reads[job->read_count++] =
			(struct trace_read){(uint32_t)package->root, share_of(archive, at, source->name, lazy)};
	}
}

static void add_jobs(struct archive *archive, bool lazy)
{
	CROFT_CLEANUP_FREE int *base = NULL;
	CROFT_CLEANUP_FREE uint32_t *families = croft_zalloc(4096 * sizeof(uint32_t));
	int count = 0, room = 0;
	for (int i = 0; i < archive->package_count; i++)
		if (archive->packages[i].essential)
			resolve(archive, archive->packages[i].name, &base, &count, &room);
	resolve(archive, "build-essential", &base, &count, &room);
	archive->closure = croft_array((size_t)archive->package_count, sizeof(int));
	for (int i = 0; i < archive->source_count; i++)
		add_job(archive, &archive->sources[i], base, count, lazy, families, (size_t)i);
	free(archive->closure);
}

/* apt ------------------------------------------------------------------------------------------------ */

static const char APT_OPTIONS[] =
	"-o Dir::Etc::sourcelist=\"$D/sources.list\" -o Dir::Etc::sourceparts=- "
	"-o Dir::State::lists=\"$D/lists\" -o Dir::Cache=\"$D/cache\" -o Acquire::Languages=none "
	"-o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root";

/* Output of a shell command with $D set; NULL when it fails. */
static char *output_of(struct croft_arena *arena, const char *directory, const char *command,
	struct croft_error *err)
{
	char *line = croft_arena_printf(arena, "D='%s'; exec 2>&1; %s", directory, command);
	FILE *pipe = popen(line, "re");
	if (!pipe) {
		croft_error_errno(err, errno, "running: %s", command);
		return NULL;
	}
	char *text = NULL;
	size_t size = 0, room = 0, got;
	do {
		if (room - size < 65536)
			text = croft_realloc(text, room = room * 2 + 131072, 1);
		got = fread(text + size, 1, room - size - 1, pipe);
		size += got;
	} while (got > 0);
	text[size] = '\0';
	int status = pclose(pipe);
	if (status != 0) {
		croft_error_set(err, CROFT_UNAVAILABLE, "apt failed: %s", size > 400 ? text + size - 400 : text);
		free(text);
		return NULL;
	}
	return text;
}

static bool update(struct archive *archive, const char *directory, const char *mirror,
	const char *suite, struct croft_error *err)
{
	char *lists = croft_arena_printf(archive->arena,
		"mkdir -p \"$D/lists/partial\" \"$D/cache/archives/partial\" && "
		"K='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]' && "
		"printf 'deb %%s %s %s main\\ndeb-src %%s %s %s main\\n' \"$K\" \"$K\" >\"$D/sources.list\" && "
		"apt-get -q update %s",
		mirror, suite, mirror, suite, APT_OPTIONS);
	char *said = output_of(archive->arena, directory, lists, err);
	free(said);
	return said != NULL;
}

static char *index_text(struct archive *archive, const char *directory, const char *what,
	struct croft_error *err)
{
	char *command = croft_arena_printf(archive->arena,
		"F=$(apt-get indextargets %s --format '$(FILENAME)' 'Created-By: %s') && "
		"/usr/lib/apt/apt-helper cat-file $F", APT_OPTIONS, what);
	return output_of(archive->arena, directory, command, err);
}

struct trace *make_debian(const struct debian_options *options, struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct archive archive = {.arena = arena, .trace = trace_create()};
	char *packages = NULL, *again = NULL, *sources = NULL;
	bool made = false;
	const char *mirror = options->mirror ? options->mirror : "http://deb.debian.org/debian";
	const char *suite = options->suite ? options->suite : "bookworm";
	if (strpbrk(mirror, "'\"$\\ ") || strpbrk(suite, "'\"$\\ ") || strchr(options->directory, '\'')) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "mirror, suite and folder must be plain words");
		goto out;
	}
	if (!update(&archive, options->directory, mirror, suite, err) ||
		!(packages = index_text(&archive, options->directory, "Packages", err)) ||
		!(sources = index_text(&archive, options->directory, "Sources", err)))
		goto out;
	again = croft_strdup(packages);
	hcreate_r(NAMES, &archive.names);
	read_packages(&archive, packages);
	read_provides(&archive, again);
	read_sources(&archive, sources);
	trace_note(archive.trace, "source",
		croft_arena_printf(arena, "%s %s main amd64: %d sources, %d packages", mirror, suite,
			archive.source_count, archive.package_count));
	trace_note(archive.trace, "synthetic",
		options->lazy ? "run times (lognormal, median 60 s, sigma 1); read shares"
					  : "run times (lognormal, median 60 s, sigma 1)");
	trace_note(archive.trace, "measured", "closures, installed sizes");
	add_jobs(&archive, options->lazy);
	made = archive.trace->job_count > 0;
	if (!made)
		croft_error_set(err, CROFT_NOT_FOUND, "apt's indexes name no source package");
out:
	for (int i = 0; i < archive.package_count; i++)
		free(archive.packages[i].needs);
	free(archive.packages);
	free(archive.sources);
	if (again)
		hdestroy_r(&archive.names);
	free(packages);
	free(again);
	free(sources);
	if (made)
		return archive.trace;
	trace_destroy(archive.trace);
	return NULL;
}
