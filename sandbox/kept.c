/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Roots ahead of their jobs. A cell whose last jobs all asked for the same root makes one before the next job
 * comes; where they were alike in all but arguments, environment and streams, their shape, the command is behind its
 * filter, too. One that a job left as it was, down to the times of its directories, serves another.
 */
#include "sandbox/internal.h"

#include "proto/base/cleanup.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { ALIKE_ENOUGH = 2, SEEN_MOST = 32 };

/* Which root ------------------------------------------------------------------------------------------- */

/* One that other jobs may want, too: nothing is mounted in it but the job's input, and what the job is promised to
 * be able to write to is there or lies in its input. */
static bool is_common(const struct wire_spec *spec)
{
	CROFT_CLEANUP_FREE const char **writable = wire_list(spec, spec->writable);
	CROFT_CLEANUP_FREE const char **mounts = wire_list(spec, spec->mount_sources);
	const char *target = spec->input_root ? wire_text(spec, spec->input_target) : NULL;
	size_t size = target ? strlen(target) : 0;
	for (size_t i = 0; writable[i]; i++)
		if (!target || strncmp(writable[i], target, size) != 0 ||
			(writable[i][size] != '/' && writable[i][size] != '\0'))
			return false;
	return spec->root_writable && !spec->terminal && !spec->weaken && !mounts[0] &&
		(spec->input_root || !spec->input_target);
}

static bool same_text(const struct wire_spec *a, uint32_t at_a, const struct wire_spec *b, uint32_t at_b)
{
	return at_a && at_b ? strcmp(wire_text(a, at_a), wire_text(b, at_b)) == 0 : at_a == at_b;
}

static bool same_root(const struct wire_spec *a, const struct wire_spec *b)
{
	CROFT_CLEANUP_FREE const char **left = wire_list(a, a->roots);
	CROFT_CLEANUP_FREE const char **right = wire_list(b, b->roots);
	/* Else the input's. */
	uint32_t left_standin = a->input_root ? 0 : a->standin, right_standin = b->input_root ? 0 : b->standin;
	size_t i = 0;
	while (left[i] && right[i] && strcmp(left[i], right[i]) == 0)
		i++;
	return !left[i] && !right[i] && same_text(a, a->input_target, b, b->input_target) &&
		same_text(a, left_standin, b, right_standin);
}

/* All that the command does before it hears of its arguments, environment and streams. What the list of what does
 * not matter lacks, matters. */
static bool same_shape(const struct wire_spec *a, const struct wire_spec *b)
{
	struct wire_spec left = *a, right = *b;
	struct wire_spec *both[] = {&left, &right};
	for (int i = 0; i < 2; i++) {
		both[i]->size = 0;
		/* Strings are compared apart; these are the agent's and the cgroup's. */
		both[i]->standin = both[i]->roots = both[i]->input_target = both[i]->writable = both[i]->arguments = 0;
		both[i]->environment = both[i]->working_directory = both[i]->hostname = 0;
		both[i]->mount_sources = both[i]->mount_targets = both[i]->mount_writable = 0;
		both[i]->pid_namespace = both[i]->memory_bytes = both[i]->cpu_millis = 0;
	}
	return memcmp(&left, &right, sizeof(left)) == 0 && !left.input_root &&
		same_text(a, a->working_directory, b, b->working_directory) &&
		same_text(a, a->hostname, b, b->hostname) && same_root(a, b);
}

/* Nothing of what a job was told goes to another. */
static void wipe(struct wire_spec *spec, uint32_t list)
{
	CROFT_CLEANUP_FREE const char **texts = wire_list(spec, list);
	for (size_t i = 0; texts[i]; i++)
		memset((char *)texts[i], 0, strlen(texts[i]));
}

static void remember_shape(struct kept_root *kept, const struct wire_spec *spec, size_t size)
{
	if (kept->shape && same_shape(kept->shape, spec)) {
		kept->shape_alike++;
		return;
	}
	kept->shape_written = false;
	free(kept->shape);
	kept->shape = croft_alloc(size);
	kept->shape_size = size;
	kept->shape_alike = 0;
	memcpy(kept->shape, spec, size);
	wipe(kept->shape, spec->arguments);
	wipe(kept->shape, spec->environment);
}

int kept_shape(struct kept_root *kept)
{
	if (!kept->shape || kept->shape_alike < ALIKE_ENOUGH || kept->shape->input_root)
		return -1;
	if (!kept->shape_written)
		kept->shape_written = kept->shape_fd >= 0 && ftruncate(kept->shape_fd, 0) == 0 &&
			pwrite(kept->shape_fd, kept->shape, kept->shape_size, 0) == (ssize_t)kept->shape_size;
	return kept->shape_written ? kept->shape_fd : -1;
}

void kept_remember(struct kept_root *kept, const struct wire_spec *spec, size_t size)
{
	bool common = is_common(spec);
	remember_shape(kept, spec, size);
	if (common && kept->spec && same_root(kept->spec, spec)) {
		kept->alike++;
		return;
	}
	free(kept->spec);
	kept->spec = NULL;
	kept->alike = 0;
	if (!common)
		return;
	kept->spec = croft_alloc(size);
	memcpy(kept->spec, spec, size);
	/* The root alone. */
	if (kept->spec->input_root)
		kept->spec->standin = 0;
	kept->spec->input_root = kept->spec->writable = 0;
}

bool kept_fits(const struct kept_root *kept, bool shaped, const struct host_view *host,
	const struct wire_spec *spec)
{
	return kept->tree >= 0 && is_common(spec) && same_root(kept->spec, spec) &&
		(!shaped || same_shape(kept->shape, spec)) && root_still_has(host, spec, kept->layers);
}

/* Whether it was changed ---------------------------------------------------------------------------------- */

/* One thing that stands in the directories that a job writes to. */
struct seen {
	char path[64]; /* below the cell's directory */
	struct statx st;
};

struct written {
	char *text; /* all, by names, numbers and times */
	struct seen seen[SEEN_MOST];
	unsigned count;
	int64_t newest_ns; /* the last change */
	bool settled;      /* it was as it is when the clock had gone on: whatever changes it changes a time */
};

struct look {
	FILE *text;
	struct written *written;
};

static bool look_at(struct look *look, int dirfd, const char *name, const char *above);

static bool look_into(struct look *look, int fd, const char *path)
{
	/* Our own looking leaves no trace. */
	int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_NOATIME | O_CLOEXEC);
	DIR *dir = again < 0 ? NULL : fdopendir(again);
	bool ok = dir != NULL;
	for (struct dirent *entry; ok && (entry = readdir(dir));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			ok = look_at(look, fd, entry->d_name, path);
	if (dir)
		closedir(dir);
	else if (again >= 0)
		close(again);
	return ok;
}

static int64_t changed_ns(const struct statx *st)
{
	return st->stx_ctime.tv_sec * 1000000000 + st->stx_ctime.tv_nsec;
}

static bool look_at(struct look *look, int dirfd, const char *name, const char *above)
{
	struct statx st;
	char names[1024];
	struct seen *seen = &look->written->seen[look->written->count++];
	if (look->written->count > SEEN_MOST ||
		statx(dirfd, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st) < 0 ||
		(!S_ISDIR(st.stx_mode) && !S_ISREG(st.stx_mode)) ||
		(size_t)snprintf(seen->path, sizeof(seen->path), "%s%s%s", above, *above ? "/" : "", name) >=
			sizeof(seen->path))
		return false;
	seen->st = st;
	if (changed_ns(&st) > look->written->newest_ns)
		look->written->newest_ns = changed_ns(&st);
	CROFT_CLEANUP_FD int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NOATIME | O_NONBLOCK | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : flistxattr(fd, names, sizeof(names));
	if (size < 0)
		return false;
	fprintf(look->text, "%s %llu %o %u:%u %u %llu %llx  %lld.%u %lld.%u %lld.%u ", name,
		(unsigned long long)st.stx_ino, st.stx_mode, st.stx_uid, st.stx_gid, st.stx_nlink,
		(unsigned long long)st.stx_size, (unsigned long long)st.stx_attributes,
		(long long)st.stx_atime.tv_sec, st.stx_atime.tv_nsec, (long long)st.stx_mtime.tv_sec,
		st.stx_mtime.tv_nsec, (long long)st.stx_ctime.tv_sec, st.stx_ctime.tv_nsec);
	for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1)
		fprintf(look->text, "%s,", names + at);
	fputc('\n', look->text);
	return !S_ISDIR(st.stx_mode) || look_into(look, fd, seen->path);
}

static void forget_written(struct written *written)
{
	if (written)
		free(written->text);
	free(written);
}

static int open_cell(const struct launcher_context *context, unsigned cell)
{
	char path[4096];
	cell_path(context, cell, "", path, sizeof(path));
	return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* What stands in the directories that a job writes to; NULL: too much, or it cannot be told. */
static struct written *look_at_written(const struct launcher_context *context, unsigned cell)
{
	size_t size;
	struct written *written = croft_zalloc(sizeof(*written));
	CROFT_CLEANUP_FD int fd = open_cell(context, cell);
	struct look look = {open_memstream(&written->text, &size), written};
	if (!look.text)
		abort();
	bool ok = fd >= 0 && look_at(&look, fd, "upper", "") && look_at(&look, fd, "work", "");
	fclose(look.text);
	if (ok)
		return written;
	forget_written(written);
	return NULL;
}

static bool same_time(const struct statx_timestamp *a, const struct statx_timestamp *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool is_as_seen(const struct statx *now, const struct statx *then)
{
	return now->stx_ino == then->stx_ino && now->stx_mode == then->stx_mode && now->stx_uid == then->stx_uid &&
		now->stx_gid == then->stx_gid && now->stx_nlink == then->stx_nlink && now->stx_size == then->stx_size &&
		now->stx_attributes == then->stx_attributes && same_time(&now->stx_atime, &then->stx_atime) &&
		same_time(&now->stx_mtime, &then->stx_mtime) && same_time(&now->stx_ctime, &then->stx_ctime);
}

/* Once settled every name that comes or goes, and every attribute, is told by the times of what is there. */
static bool is_unchanged(const struct written *written, const struct launcher_context *context, unsigned cell)
{
	if (!written->settled) {
		struct written *now = look_at_written(context, cell);
		bool same = now && strcmp(now->text, written->text) == 0;
		forget_written(now);
		return same;
	}
	CROFT_CLEANUP_FD int fd = open_cell(context, cell);
	struct statx st;
	bool same = fd >= 0;
	for (unsigned i = 0; same && i < written->count; i++)
		same = statx(fd, written->seen[i].path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st) == 0 &&
			is_as_seen(&st, &written->seen[i].st);
	return same;
}

enum { SETTLE_MS = 100 }; /* many ticks of the clock that files are stamped by */

static void settle(struct written *written)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	written->settled = now.tv_sec * 1000000000 + now.tv_nsec > written->newest_ns + SETTLE_MS * 1000000;
}

/* What a job looked up is remembered with the overlay, and the host may change a layer between jobs: reconfiguring
 * to what is drops it. */
static bool forget_lookups(int tree)
{
	CROFT_CLEANUP_FD int fs = fspick(tree, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
	return fs >= 0 && fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) == 0;
}

/* ------------------------------------------------------------------------------------------------------- */

bool kept_make(struct kept_root *kept, const struct launcher_context *context, unsigned cell,
	const struct host_view *host, struct croft_error *err)
{
	char path[4096];
	struct sources *rest;
	cell_root(context, cell, path, sizeof(path));
	kept->tree = root_make(context, cell, path, host, kept->spec, &rest, err);
	if (kept->tree >= 0)
		root_layers(rest, kept->layers);
	root_close_sources(rest);
	if (kept->tree < 0)
		return false;
	kept->written = look_at_written(context, cell);
	return true;
}

int kept_mount(struct kept_root *kept)
{
	int tree = open_tree(kept->tree, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	if (tree >= 0)
		return tree;
	/* Before Linux 6.15 what is mounted nowhere cannot be copied: it serves one job. */
	kept_spoil(kept);
	return fcntl(kept->tree, F_DUPFD_CLOEXEC, 0);
}

void kept_spoil(struct kept_root *kept)
{
	forget_written(kept->written);
	kept->written = NULL;
}

bool kept_is_untouched(const struct kept_root *kept, const struct launcher_context *context, unsigned cell)
{
	if (kept->tree < 0 || !kept->written)
		return false;
	if (!is_unchanged(kept->written, context, cell))
		return false;
	settle(kept->written);
	return forget_lookups(kept->tree);
}

void kept_drop(struct kept_root *kept)
{
	if (kept->tree >= 0)
		close(kept->tree);
	kept->tree = -1;
	kept_spoil(kept);
}

bool kept_is_expected(const struct kept_root *kept)
{
	return kept->spec && kept->alike >= ALIKE_ENOUGH;
}
