/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files without a name. They are in no directory that could be measured, and take up the disk for as long as a
 * process has them open or mapped. What is on its way in a socket, and held by nobody, is not seen.
 */
#include "sandbox/view.h"

#include "proto/base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

struct nameless {
	ino_t inode;
	uint64_t bytes;
};

struct held {
	dev_t device; /* of the writable layer */
	size_t count, room;
	struct nameless *files;
};

/* By the overlay's file; or, of a mapping before Linux 6.8, by its layer's. Their inode numbers are the same. */
static void add(struct held *held, const char *path)
{
	struct stat st;
	struct statfs fs;
	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink > 0 || statfs(path, &fs) < 0 ||
		(fs.f_type != OVERLAYFS_SUPER_MAGIC && st.st_dev != held->device))
		return;
	if (held->count == held->room) {
		held->room = held->room * 2 + 64;
		held->files = croft_realloc(held->files, held->room, sizeof(*held->files));
	}
	held->files[held->count++] = (struct nameless){st.st_ino, (uint64_t)st.st_blocks * 512};
}

/* Only of such is more asked: what else is open may be on a file system that does not answer. */
static bool has_no_name(const char *link)
{
	static const char mark[] = " (deleted)";
	char text[4096 + sizeof(mark)];
	ssize_t size = readlink(link, text, sizeof(text));
	ssize_t length = sizeof(mark) - 1;
	return size < 0 ? errno == ENAMETOOLONG
			: size >= length && memcmp(text + size - length, mark, (size_t)length) == 0;
}

static void add_open(struct held *held, const char *process)
{
	char path[64 + 256];
	snprintf(path, sizeof(path), "/proc/%s/fd", process);
	DIR *dir = opendir(path); /* it may be gone */
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		snprintf(path, sizeof(path), "/proc/%s/fd/%s", process, entry->d_name);
		if (entry->d_name[0] != '.' && has_no_name(path))
			add(held, path);
	}
	if (dir)
		closedir(dir);
}

/* An ordinary user is not shown the files. */
static void add_mapped(struct held *held, const char *process)
{
	char path[64 + 256], range[64];
	CROFT_CLEANUP_FREE char *line = NULL;
	size_t room = 0;
	snprintf(path, sizeof(path), "/proc/%s/maps", process);
	FILE *maps = fopen(path, "re");
	while (maps && getline(&line, &room, maps) > 0) {
		if (!strstr(line, " (deleted)\n") || sscanf(line, "%63s", range) != 1)
			continue;
		snprintf(path, sizeof(path), "/proc/%s/map_files/%s", process, range);
		add(held, path);
	}
	if (maps)
		fclose(maps);
}

static bool is_in(const char *process, uint64_t pid_namespace)
{
	char path[64 + 256];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/%s/ns/pid", process);
	return process[0] >= '1' && process[0] <= '9' && stat(path, &st) == 0 && st.st_ino == pid_namespace;
}

static int by_inode(const void *left, const void *right)
{
	const struct nameless *a = left, *b = right;
	return (a->inode > b->inode) - (a->inode < b->inode);
}

bool view_held(const char *upper, uint64_t pid_namespace, uint64_t *bytes, uint64_t *inodes,
	struct croft_error *err)
{
	struct stat st;
	struct held held = {0};
	if (stat(upper, &st) == 0)
		held.device = st.st_dev;
	DIR *dir = opendir("/proc");
	if (!dir)
		return croft_error_errno(err, errno, "looking for what is open without a name");
	for (struct dirent *entry; (entry = readdir(dir));) {
		if (!is_in(entry->d_name, pid_namespace))
			continue;
		add_open(&held, entry->d_name);
		add_mapped(&held, entry->d_name);
	}
	closedir(dir);
	if (held.count)
		qsort(held.files, held.count, sizeof(*held.files), by_inode);
	for (size_t i = 0; i < held.count; i++) {
		if (i > 0 && held.files[i].inode == held.files[i - 1].inode)
			continue;
		*bytes += held.files[i].bytes;
		(*inodes)++;
	}
	free(held.files);
	return true;
}
