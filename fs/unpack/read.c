/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Entries into a tree. */
#include "fs/unpack/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <inttypes.h>
#include <search.h>
#include <string.h>

/* A file or link that was met, for hard links to it and for paths that come twice. */
struct met {
	struct croft_slice path;
	struct croft_tree_entry entry;
};

struct reading {
	const struct croft_unpacking *to;
	struct archive_input *input;
	struct archive *archive; /* the input's */
	struct croft_arena *arena;
	unsigned char *buffer; /* CROFT_UNPACK_SMALL + ARCHIVE_PIECE */
	void *met;             /* tsearch tree of struct met */
	struct croft_unpack_bounds used;
};

static int compare_met(const void *a, const void *b)
{
	return croft_slice_compare(((const struct met *)a)->path, ((const struct met *)b)->path);
}

static bool refuse(const struct reading *reading, const char *path, const char *why, struct croft_error *err)
{
	return croft_error_set(
		err, CROFT_INVALID_ARGUMENT, "%s: the entry '%.200s' %s", reading->to->name, path, why);
}

static bool use(const struct reading *reading, uint64_t *used, uint64_t more, uint64_t most, const char *what,
	struct croft_error *err)
{
	*used += more;
	return !most || *used <= most ||
		croft_error_set(err, CROFT_RESOURCE_EXHAUSTED, "%s has more than %" PRIu64 " %s", reading->to->name,
			most, what);
}

static bool goes_on(const struct reading *reading, struct croft_error *err)
{
	return !reading->to->go_on || reading->to->go_on(reading->to->user, err);
}

/* Names ---------------------------------------------------------------------------------------- */

static bool name_fits(struct reading *reading, const char *path, const char *name, struct croft_error *err)
{
	const struct croft_unpack_bounds *bounds = &reading->to->bounds;
	size_t size = strlen(name);
	if (bounds->name_size && size > bounds->name_size)
		return refuse(reading, path, "has too long a name or target", err);
	return use(reading, &reading->used.name_bytes, size, bounds->name_bytes, "bytes of names", err);
}

/* "./a//b/" becomes "a/b"; NULL with err, or "" for the root itself. ".." is refused, since what follows it may stand
 * outside. */
static const char *clean_path(struct reading *reading, const char *path, struct croft_error *err)
{
	unsigned depth = 0, most = reading->to->bounds.depth;
	if (!path || (*path == '/' && !reading->to->skip)) {
		refuse(reading, path ? path : "", path ? "has an absolute name" : "has no readable name", err);
		return NULL;
	}
	if (!name_fits(reading, path, path, err))
		return NULL;
	char *clean = croft_arena_alloc(reading->arena, strlen(path) + 1), *end = clean;
	for (const char *at = path; *at;) {
		size_t size = strcspn(at, "/");
		bool is_part = size && !(size == 1 && at[0] == '.');
		if ((size == 2 && at[0] == '.' && at[1] == '.') || (is_part && ++depth > most && most)) {
			refuse(reading, path, most && depth > most ? "is nested too deeply" : "leads outside by \"..\"", err);
			return NULL;
		}
		if (is_part) {
			if (end > clean)
				*end++ = '/';
			memcpy(end, at, size);
			end += size;
		}
		at += size + (at[size] == '/');
	}
	*end = '\0';
	return clean;
}

static struct met *find_met(struct reading *reading, const char *path)
{
	struct met key = {.path = croft_slice_str(path)};
	void *found = tfind(&key, &reading->met, compare_met);
	return found ? *(struct met **)found : NULL;
}

static bool add(struct reading *reading, const char *path, const struct croft_tree_entry *entry,
	struct croft_error *err)
{
	const char *under = reading->to->under ? reading->to->under : "";
	if (!*path && entry->kind != CROFT_ENTRY_DIRECTORY)
		return refuse(reading, path, "has no name", err);
	const char *place = !*under ? path
		: croft_arena_printf(reading->arena, "%s%s%s", under, *path ? "/" : "", path);
	struct met *met = find_met(reading, path);
	croft_tree_builder_replace(reading->to->builder, met != NULL);
	bool nothing = !*place && !entry->properties;
	bool ok = nothing || croft_tree_builder_add(reading->to->builder, croft_slice_str(place), entry, err);
	croft_tree_builder_replace(reading->to->builder, false);
	if (!ok || entry->kind == CROFT_ENTRY_DIRECTORY)
		return ok;
	if (!met) {
		met = croft_arena_alloc(reading->arena, sizeof(*met));
		met->path = croft_slice_str(path);
		if (!tsearch(met, &reading->met, compare_met))
			abort();
	}
	met->entry = *entry;
	return true;
}

/* Files ---------------------------------------------------------------------------------------- */

/* At most ARCHIVE_PIECE bytes to the buffer from `at` on; -1. */
static ssize_t read_some(struct reading *reading, size_t at, struct croft_error *err)
{
	la_ssize_t got = archive_read_data(reading->archive, reading->buffer + at, ARCHIVE_PIECE);
	if (got < 0) {
		archive_input_failed(reading->input, err);
		return -1;
	}
	bool fits = use(reading, &reading->used.bytes, (uint64_t)got, reading->to->bounds.bytes, "bytes in files", err);
	return fits && goes_on(reading, err) ? got : -1;
}

/* The first `size` bytes are in the buffer. */
static bool take_large(struct reading *reading, size_t size, struct croft_digest *digest, struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd = reading->to->make_file(reading->to->user, err);
	if (fd < 0)
		return false;
	struct croft_hasher *hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	ssize_t more = (ssize_t)size;
	while (more > 0) {
		croft_hasher_update(hasher, reading->buffer, (size_t)more);
		bool written = croft_write_all(fd, reading->buffer, (size_t)more, "what is unpacked", err);
		more = written ? read_some(reading, 0, err) : -1;
	}
	*digest = croft_hasher_finish(hasher);
	croft_hasher_destroy(hasher);
	return more == 0 && reading->to->large(reading->to->user, digest, fd, err);
}

static bool take_file(struct reading *reading, struct croft_digest *digest, struct croft_error *err)
{
	size_t size = 0;
	while (size < CROFT_UNPACK_SMALL) {
		ssize_t more = read_some(reading, size, err);
		if (more < 0)
			return false;
		if (more == 0) {
			*digest = croft_digest_of(reading->buffer, size);
			return reading->to->small(reading->to->user, digest, CROFT_SLICE(reading->buffer, size), err);
		}
		size += (size_t)more;
	}
	return take_large(reading, size, digest, err);
}

/* Entries -------------------------------------------------------------------------------------- */

static bool take_hard_link(struct reading *reading, const char *path, const char *to, struct croft_error *err)
{
	const char *target = clean_path(reading, to, err);
	struct met *met = target ? find_met(reading, target) : NULL;
	if (!target)
		return false;
	if (!met)
		return refuse(reading, path, "is a hard link to what does not stand before it", err);
	struct croft_tree_entry entry = met->entry;
	return add(reading, path, &entry, err);
}

static bool take_symlink(struct reading *reading, const char *path, const char *target,
	const Reapi__NodeProperties *properties, struct croft_error *err)
{
	struct croft_tree_entry found = {.kind = CROFT_ENTRY_SYMLINK, .properties = properties};
	if (!target || !*target)
		return refuse(reading, path, "is a symlink without a usable target", err);
	if (!name_fits(reading, path, target, err))
		return false;
	found.target = croft_slice_str(croft_arena_strdup(reading->arena, target));
	return add(reading, path, &found, err);
}

/* Of "-1.25" in a tar libarchive (3.6) makes -1 and 0.25; of "-0.25" it loses the sign, which nothing brings back. */
static struct timespec mtime_of(struct reading *reading, struct archive_entry *entry)
{
	struct timespec mtime = {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};
	bool tar = (archive_format(reading->archive) & ARCHIVE_FORMAT_BASE_MASK) == ARCHIVE_FORMAT_TAR;
	if (!tar || mtime.tv_sec >= 0 || mtime.tv_nsec == 0)
		return mtime;
	return (struct timespec){mtime.tv_sec - 1, 1000000000 - mtime.tv_nsec};
}

static const Reapi__NodeProperties *properties_of(struct reading *reading, struct archive_entry *entry)
{
	struct timespec mtime = mtime_of(reading, entry);
	return croft_tree_properties(reading->to->keep, archive_entry_mode(entry),
		archive_entry_mtime_is_set(entry) ? &mtime : NULL, reading->arena);
}

static bool take_entry(struct reading *reading, struct archive_entry *entry, struct croft_error *err)
{
	struct croft_tree_entry found = {.digest = croft_digest_empty};
	const char *name = archive_entry_pathname(entry), *hard_link = archive_entry_hardlink(entry);
	const char *path = clean_path(reading, name ? name : archive_entry_pathname_utf8(entry), err);
	if (!path)
		return false;
	if (hard_link)
		return take_hard_link(reading, path, hard_link, err);
	found.properties = properties_of(reading, entry);
	switch (archive_entry_filetype(entry)) {
	case AE_IFDIR:
		found.kind = CROFT_ENTRY_DIRECTORY;
		return add(reading, path, &found, err);
	case AE_IFLNK:
		return take_symlink(reading, path, archive_entry_symlink(entry), found.properties, err);
	case AE_IFREG:
		found.kind = CROFT_ENTRY_FILE;
		found.executable = archive_entry_perm(entry) & 0100;
		return take_file(reading, &found.digest, err) && add(reading, path, &found, err);
	default:
		if (!reading->to->skip)
			return refuse(reading, path, "is a device, a pipe or a socket, which no tree can hold", err);
		reading->to->skip(reading->to->user, path);
		return true;
	}
}

static bool take_entries(struct reading *reading, struct croft_error *err)
{
	for (;;) {
		struct archive_entry *entry;
		int state = archive_read_next_header(reading->archive, &entry);
		if (state == ARCHIVE_EOF)
			return true;
		if (state < ARCHIVE_WARN)
			return archive_input_failed(reading->input, err);
		if (!use(reading, &reading->used.entries, 1, reading->to->bounds.entries, "entries", err) ||
			!goes_on(reading, err) || !take_entry(reading, entry, err))
			return false;
	}
}

static void keep(void *memory)
{
}

bool croft_unpack(const struct croft_unpacking *archive, struct croft_error *err)
{
	struct reading reading = {.to = archive, .input = archive_input_open(archive, err)};
	if (!reading.input)
		return false;
	reading.archive = archive_input_entries(reading.input);
	reading.arena = croft_arena_create();
	reading.buffer = croft_alloc(CROFT_UNPACK_SMALL + ARCHIVE_PIECE);
	bool ok = take_entries(&reading, err);
	tdestroy(reading.met, keep);
	free(reading.buffer);
	croft_arena_destroy(reading.arena);
	archive_input_close(reading.input);
	return ok;
}
