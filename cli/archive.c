/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Archives into trees. Small files go to the upload from memory, large ones over files of a private
 * directory; both are sent off whenever enough has gathered, so that an archive of any size passes
 * through bounded space.
 */
#include "cli/load.h"

#include "cli/output.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <search.h>
#include <sys/stat.h>

enum { SMALL_BYTES = 1 << 20, READ_BYTES = 256 << 10 };
static const uint64_t gathered_bytes = 64 << 20;

/* A file that was met, for hard links to it and for noticing that a path comes twice. */
struct met {
	struct croft_slice path;
	struct croft_tree_entry entry;
};

struct reading {
	struct load *load;
	const char *name, *under;
	struct archive *archive;
	struct croft_arena *arena;
	struct croft_hasher *hasher;
	unsigned char *buffer; /* SMALL_BYTES + READ_BYTES */
	void *met;             /* tsearch tree of struct met */
};

static int compare_met(const void *a, const void *b)
{
	return croft_slice_compare(((const struct met *)a)->path, ((const struct met *)b)->path);
}

static bool archive_failure(struct archive *archive, const char *name, struct croft_error *err)
{
	const char *text = archive_error_string(archive);
	return croft_error_set(err, CROFT_INVALID_ARGUMENT, "reading %s: %s", name,
		text ? text : "it is no archive, or a damaged one");
}

/* "./usr//bin/" becomes "usr/bin"; an absolute path loses its slash, as tar does it; ".." is refused,
 * since what follows it may stand outside. NULL with err, or "" for the root itself. */
static const char *clean_path(struct reading *reading, const char *path, struct croft_error *err)
{
	if (!path) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: an entry has no readable name",
			reading->name);
		return NULL;
	}
	char *clean = croft_arena_alloc(reading->arena, strlen(path) + 1), *end = clean;
	for (const char *at = path; *at;) {
		size_t size = strcspn(at, "/");
		if (size == 2 && at[0] == '.' && at[1] == '.') {
			croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: \"%s\" leads outside by \"..\"",
				reading->name, path);
			return NULL;
		}
		if (size && !(size == 1 && at[0] == '.')) {
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

/* Archives may hold a path twice: the later one counts. */
static bool put(struct reading *reading, const char *path, const struct croft_tree_entry *entry,
	struct croft_error *err)
{
	const char *under = reading->under;
	const char *place = !*under ? path
		: croft_arena_printf(reading->arena, "%s%s%s", under, *path ? "/" : "", path);
	struct met *met = find_met(reading, path);
	croft_tree_builder_replace(reading->load->builder, met != NULL);
	bool ok = croft_tree_builder_add(reading->load->builder, croft_slice_str(place), entry, err);
	croft_tree_builder_replace(reading->load->builder, false);
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

/* Files ------------------------------------------------------------------------------------ */

static bool make_spool(struct load *load, struct croft_error *err)
{
	if (load->spool)
		return true;
	const char *parent = getenv("TMPDIR");
	char *path;
	if (asprintf(&path, "%s/croft-import-XXXXXX", parent && *parent ? parent : "/var/tmp") < 0)
		abort();
	if (!mkdtemp(path)) {
		croft_error_errno(err, errno, "making %s", path);
		free(path);
		return false;
	}
	load->spool = path;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening %s", path);
	load->spool_fd = fd;
	return true;
}

/* Sends what has gathered, and frees the space. */
static bool send_gathered(struct load *load, struct croft_error *err)
{
	struct croft_upload_stat stat;
	if (!croft_upload_flush(load->upload, &stat, err))
		return false;
	char name[24];
	for (; load->spooled_files; load->spooled_files--) {
		snprintf(name, sizeof(name), "%" PRIu64, load->spooled_files - 1);
		if (unlinkat(load->spool_fd, name, 0) < 0)
			return croft_error_errno(err, errno, "removing %s/%s", load->spool, name);
	}
	load->gathered_bytes = 0;
	return true;
}

static ssize_t read_some(struct reading *reading, size_t at, struct croft_error *err)
{
	la_ssize_t done = archive_read_data(reading->archive, reading->buffer + at, READ_BYTES);
	if (done < 0)
		archive_failure(reading->archive, reading->name, err);
	return done < 0 ? -1 : done;
}

/* The first `size` bytes are in the buffer; the rest is still in the archive. */
static bool spool_file(struct reading *reading, size_t size, struct croft_digest *digest,
	struct croft_error *err)
{
	struct load *load = reading->load;
	if (!make_spool(load, err))
		return false;
	char name[24];
	snprintf(name, sizeof(name), "%" PRIu64, load->spooled_files);
	CROFT_CLEANUP_FD int fd =
		openat(load->spool_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return croft_error_errno(err, errno, "creating %s/%s", load->spool, name);
	load->spooled_files++;
	while (size > 0) {
		croft_hasher_update(reading->hasher, reading->buffer, size);
		if (!croft_write_all(fd, reading->buffer, size, load->spool, err))
			return false;
		ssize_t more = read_some(reading, 0, err);
		if (more < 0)
			return false;
		size = (size_t)more;
	}
	*digest = croft_hasher_finish(reading->hasher);
	return croft_upload_file(load->upload, digest, load->spool_fd, name, err);
}

static bool take_file(struct reading *reading, struct croft_digest *digest, struct croft_error *err)
{
	struct load *load = reading->load;
	size_t size = 0;
	for (ssize_t more; size <= SMALL_BYTES - 1; size += (size_t)more) {
		more = read_some(reading, size, err);
		if (more < 0)
			return false;
		if (more == 0)
			break;
	}
	if (size >= SMALL_BYTES) {
		if (!spool_file(reading, size, digest, err))
			return false;
	} else {
		*digest = croft_digest_of(reading->buffer, size);
		if (!croft_upload_bytes(load->upload, digest, CROFT_SLICE(reading->buffer, size), err))
			return false;
	}
	load->files++;
	load->bytes += digest->size_bytes;
	load->gathered_bytes += digest->size_bytes;
	return load->gathered_bytes < gathered_bytes || send_gathered(load, err);
}

/* Entries ---------------------------------------------------------------------------------- */

static bool take_hard_link(struct reading *reading, const char *path, const char *to,
	struct croft_error *err)
{
	const char *target = clean_path(reading, to, err);
	struct met *met = target ? find_met(reading, target) : NULL;
	if (!target)
		return false;
	if (!met)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%s: \"%s\" is a hard link to \"%s\", which does not stand before it", reading->name,
			path, to);
	struct croft_tree_entry entry = met->entry;
	reading->load->files++;
	return put(reading, path, &entry, err);
}

static bool take_entry(struct reading *reading, struct archive_entry *entry, struct croft_error *err)
{
	const char *path = clean_path(reading, archive_entry_pathname(entry), err);
	if (!path)
		return false;
	const char *hard_link = archive_entry_hardlink(entry);
	if (hard_link)
		return take_hard_link(reading, path, hard_link, err);
	struct croft_tree_entry found = {0};
	mode_t type = archive_entry_filetype(entry);
	if (type == AE_IFDIR) {
		found.kind = CROFT_ENTRY_DIRECTORY;
		found.digest = croft_digest_empty;
		return put(reading, path, &found, err);
	}
	if (type == AE_IFLNK) {
		const char *target = archive_entry_symlink(entry);
		found.kind = CROFT_ENTRY_SYMLINK;
		found.target = croft_slice_str(croft_arena_strdup(reading->arena, target ? target : ""));
		return put(reading, path, &found, err);
	}
	if (type != AE_IFREG) {
		warn("%s: %s is left out: a tree cannot hold fifos and devices", reading->name, path);
		reading->load->skipped++;
		return true;
	}
	found.kind = CROFT_ENTRY_FILE;
	found.executable = archive_entry_perm(entry) & 0100;
	progress("%s: %" PRIu64 " files", reading->name, reading->load->files);
	return take_file(reading, &found.digest, err) && put(reading, path, &found, err);
}

static bool take_entries(struct reading *reading, struct croft_error *err)
{
	for (;;) {
		struct archive_entry *entry;
		int state = archive_read_next_header(reading->archive, &entry);
		if (state == ARCHIVE_EOF)
			return true;
		if (state < ARCHIVE_WARN)
			return archive_failure(reading->archive, reading->name, err);
		if (!take_entry(reading, entry, err))
			return false;
	}
}

/* Opening ---------------------------------------------------------------------------------- */

/* A Debian package is an ar archive with the files in its member data.tar.*: that is read as an
 * archive of its own, straight from the outer one. */
struct member {
	struct archive *outer;
	char buffer[READ_BYTES];
};

static la_ssize_t read_member(struct archive *inner, void *user, const void **data)
{
	struct member *member = user;
	la_ssize_t done = archive_read_data(member->outer, member->buffer, sizeof(member->buffer));
	if (done < 0)
		archive_set_error(inner, archive_errno(member->outer), "%s",
			archive_error_string(member->outer));
	*data = member->buffer;
	return done;
}

static struct archive *new_archive(void)
{
	struct archive *archive = archive_read_new();
	if (!archive)
		abort();
	archive_read_support_filter_all(archive);
	archive_read_support_format_tar(archive);
	archive_read_support_format_zip(archive);
	archive_read_support_format_cpio(archive);
	archive_read_support_format_empty(archive);
	return archive;
}

static bool read_archive(struct reading *reading, int fd, struct croft_error *err)
{
	reading->archive = new_archive();
	bool ok = archive_read_open_fd(reading->archive, fd, READ_BYTES) == ARCHIVE_OK
		? take_entries(reading, err)
		: archive_failure(reading->archive, reading->name, err);
	archive_read_free(reading->archive);
	return ok;
}

static bool read_package(struct reading *reading, int fd, struct croft_error *err)
{
	struct member *member = croft_zalloc(sizeof(*member));
	member->outer = archive_read_new();
	if (!member->outer)
		abort();
	archive_read_support_format_ar(member->outer);
	bool ok = archive_read_open_fd(member->outer, fd, READ_BYTES) == ARCHIVE_OK, found = false;
	struct archive_entry *entry;
	while (ok && !found && archive_read_next_header(member->outer, &entry) == ARCHIVE_OK)
		found = !strncmp(archive_entry_pathname(entry), "data.tar", 8);
	if (!found) {
		ok = croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%s is an ar archive without data.tar: no Debian package", reading->name);
	} else {
		reading->archive = new_archive();
		ok = archive_read_open(reading->archive, member, NULL, read_member, NULL) == ARCHIVE_OK
			? take_entries(reading, err)
			: archive_failure(reading->archive, reading->name, err);
		archive_read_free(reading->archive);
	}
	archive_read_free(member->outer);
	free(member);
	return ok;
}

static void keep(void *memory)
{
}

bool load_archive(struct load *load, const char *path, const char *under, struct croft_error *err)
{
	bool standard_input = !strcmp(path, "-");
	int fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening %s", path);
	struct reading reading = {.load = load,
		.name = standard_input ? "standard input" : path,
		.under = under,
		.arena = croft_arena_create(),
		.hasher = croft_hasher_create(CROFT_DIGEST_SHA256),
		.buffer = croft_alloc(SMALL_BYTES + READ_BYTES)};
	char magic[8];
	bool package = pread(fd, magic, 8, 0) == 8 && !memcmp(magic, "!<arch>\n", 8);
	bool ok = package ? read_package(&reading, fd, err) : read_archive(&reading, fd, err);
	tdestroy(reading.met, keep);
	free(reading.buffer);
	croft_hasher_destroy(reading.hasher);
	croft_arena_destroy(reading.arena);
	if (!standard_input)
		close(fd);
	return ok;
}
