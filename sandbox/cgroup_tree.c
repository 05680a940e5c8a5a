/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One cgroup per cell, in whichever of the three worlds this machine has: version 2 with its
 * controllers, the version 1 hierarchies, or none. They stand in ROOT/croft-PID/CELL, where ROOT is, of
 * version 2, the group that was delegated to the agent, or the hierarchy's own root.
 */
#include "sandbox/cgroup.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char MOUNTED[] = "/sys/fs/cgroup", CONTROLLERS[] = "+memory +pids +cpu";
static const char LEAF[] = "agent-of-croft-";

/* Making --------------------------------------------------------------------------------------------- */

static bool write_text(const char *directory, const char *file, const char *text)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/%s", directory, file);
	CROFT_CLEANUP_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd >= 0 && write(fd, text, strlen(text)) >= 0;
}

static bool hand_down(const char *group)
{
	/* Only tells what was read and written: not everybody has it. */
	write_text(group, "cgroup.subtree_control", "+io");
	return write_text(group, "cgroup.subtree_control", CONTROLLERS);
}

/* The group's folder, held so that nobody takes it for abandoned; -1: somebody else holds it, or it is gone. */
static int hold(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	close(fd);
	return -1;
}

static bool make_cells(struct cgroups *cgroups, const char *root)
{
	char path[4096];
	for (unsigned cell = 0; cell < cgroups->cells; cell++) {
		snprintf(path, sizeof(path), "%s/%s/%u", root, cgroups->name, cell);
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return false;
	}
	return true;
}

/* The same name in all hierarchies. One process may have several launchers, each with its own. */
static bool make_own(const char *root, struct cgroups *cgroups, int i)
{
	char path[4096];
	bool named = cgroups->name[0];
	for (unsigned number = 0; number < 1000; number++) {
		if (!named && number == 0)
			snprintf(cgroups->name, sizeof(cgroups->name), "croft-%d", getpid());
		else if (!named)
			snprintf(cgroups->name, sizeof(cgroups->name), "croft-%d-%u", getpid(), number);
		snprintf(path, sizeof(path), "%s/%s", root, cgroups->name);
		if (mkdir(path, 0755) == 0 || errno == EEXIST)
			cgroups->locks[i] = hold(path);
		else if (!named)
			break;
		if (cgroups->locks[i] >= 0 || named)
			return cgroups->locks[i] >= 0;
	}
	cgroups->name[0] = '\0';
	return false;
}

static bool make_root(const char *root, struct cgroups *cgroups, int i)
{
	char path[4096];
	if (!make_own(root, cgroups, i))
		return false;
	snprintf(path, sizeof(path), "%s/%s", root, cgroups->name);
	if ((cgroups->v2 && !hand_down(path)) || !make_cells(cgroups, root)) {
		close(cgroups->locks[i]);
		cgroups->locks[i] = -1;
		return false;
	}
	cgroups->roots[i] = croft_strdup(root);
	return true;
}

/* Agents that were killed leave theirs. What still has processes cannot be removed. */
static void remove_abandoned(const char *root)
{
	DIR *dir = opendir(root);
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		char path[4096];
		if (strncmp(entry->d_name, "croft-", 6) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", root, entry->d_name);
		CROFT_CLEANUP_FD int held = hold(path);
		for (unsigned cell = 0; held >= 0; cell++) {
			snprintf(path, sizeof(path), "%s/%s/%u", root, entry->d_name, cell);
			if (rmdir(path) < 0 && errno == ENOENT)
				break;
		}
		snprintf(path, sizeof(path), "%s/%s", root, entry->d_name);
		if (held >= 0)
			rmdir(path);
	}
	if (dir)
		closedir(dir);
}

/* Version 2 -------------------------------------------------------------------------------------------- */

/* Where this process is, below the mount; "" where there is no version 2. */
static void own_group(char *path, size_t size)
{
	char line[4096];
	FILE *file = fopen("/proc/self/cgroup", "re");
	path[0] = '\0';
	while (file && fgets(line, sizeof(line), file))
		if (strncmp(line, "0::/", 4) == 0 && !strstr(line, "/../"))
			snprintf(path, size, "%s%.*s", MOUNTED, (int)strcspn(line + 3, "\n"), line + 3);
	if (file)
		fclose(file);
}

static bool is_child(pid_t pid, pid_t of)
{
	for (int depth = 0; pid > 1 && depth < 64; depth++) {
		char path[64], text[512] = "";
		if (pid == of)
			return true;
		snprintf(path, sizeof(path), "/proc/%d/stat", pid);
		CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
		const char *behind = got > 0 ? strrchr(text, ')') : NULL;
		pid = behind ? (pid_t)strtol(behind + 4, NULL, 10) : 0;
	}
	return false;
}

/* Handed to us with all that is in it: by systemd (Delegate=yes), or as the root of a container. */
static bool is_delegated(const char *group)
{
	char value[8] = "", path[4096];
	if (getxattr(group, "user.delegate", value, sizeof(value)) > 0 ||
		getxattr(group, "trusted.delegate", value, sizeof(value)) > 0)
		return value[0] == '1';
	snprintf(path, sizeof(path), "%s/cgroup.type", group);
	return strcmp(group, "/sys/fs/cgroup/") == 0 && access(path, F_OK) == 0;
}

/* A group with processes in it hands no controllers down: they move to a leaf beside the cells. False when
 * there are some that are none of ours. */
static bool move_to_leaf(struct cgroups *cgroups, const char *group)
{
	char path[4096], line[32];
	bool all = is_delegated(group), ok = true;
	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	FILE *file = fopen(path, "re");
	while (file && ok && fgets(line, sizeof(line), file))
		ok = all || is_child((pid_t)strtol(line, NULL, 10), getpid());
	if (file)
		rewind(file);
	snprintf(cgroups->leaf, sizeof(cgroups->leaf), "%s%d", LEAF, getpid());
	snprintf(path, sizeof(path), "%s/%s", group, cgroups->leaf);
	ok = ok && file && (mkdir(path, 0755) == 0 || errno == EEXIST);
	while (ok && fgets(line, sizeof(line), file))
		if (!write_text(path, "cgroup.procs", line) && errno != ESRCH)
			ok = false;
	if (file)
		fclose(file);
	return ok;
}

static void return_from_leaf(struct cgroups *cgroups, const char *group)
{
	char path[4096], line[32];
	if (!cgroups->leaf[0])
		return;
	/* The controllers cannot be taken back while another has them, such as one that was killed beside us. */
	remove_abandoned(group);
	write_text(group, "cgroup.subtree_control", "-memory -pids -cpu");
	write_text(group, "cgroup.subtree_control", "-io");
	snprintf(path, sizeof(path), "%s/%s/cgroup.procs", group, cgroups->leaf);
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		write_text(group, "cgroup.procs", line);
	if (file)
		fclose(file);
	snprintf(path, sizeof(path), "%s/%s", group, cgroups->leaf);
	rmdir(path);
	cgroups->leaf[0] = '\0';
}

static bool use_group(struct cgroups *cgroups, const char *group)
{
	if (!hand_down(group))
		return false;
	remove_abandoned(group);
	return make_root(group, cgroups, 0);
}

/* Another launcher moved us to its leaf: the cells stand beside its own. Whoever of both ends last returns
 * the processes; before, the other's controllers are in use, and the kernel refuses. */
static bool share_group(struct cgroups *cgroups, const char *own)
{
	const char *leaf = strrchr(own, '/');
	if (!leaf || strncmp(leaf + 1, LEAF, strlen(LEAF)) != 0)
		return false;
	CROFT_CLEANUP_FREE char *group = strndup(own, (size_t)(leaf - own));
	if (!group || !use_group(cgroups, group))
		return false;
	snprintf(cgroups->leaf, sizeof(cgroups->leaf), "%s", leaf + 1);
	return true;
}

static bool open_v2(struct cgroups *cgroups)
{
	char own[4096];
	if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) < 0)
		return false;
	cgroups->v2 = true;
	own_group(own, sizeof(own));
	if (share_group(cgroups, own))
		return true;
	bool inner = own[0] && (strcmp(own, "/sys/fs/cgroup/") != 0 || is_delegated(own));
	if (inner && access(own, W_OK) == 0) {
		if (move_to_leaf(cgroups, own) && use_group(cgroups, own))
			return true;
		return_from_leaf(cgroups, own);
	}
	cgroups->v2 = use_group(cgroups, MOUNTED);
	return cgroups->v2;
}

/* ------------------------------------------------------------------------------------------------------- */

static void open_v1(struct cgroups *cgroups)
{
	static const char *const roots[V1_COUNT] = {
		"/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/cpu",
		"/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/blkio"};
	for (int i = 0; i < V1_COUNT; i++) {
		if (access(roots[i], W_OK) < 0)
			continue;
		remove_abandoned(roots[i]);
		make_root(roots[i], cgroups, i);
	}
}

struct cgroups *cgroups_open(unsigned cells, struct croft_arena *arena, const char **limits)
{
	struct cgroups *cgroups = croft_zalloc(sizeof(*cgroups));
	cgroups->cells = cells;
	for (int i = 0; i < V1_COUNT; i++)
		cgroups->locks[i] = -1;
	if (!open_v2(cgroups))
		open_v1(cgroups);
	if (!cgroups->roots[0] && limits)
		*limits = croft_arena_printf(arena,
			"%smemory, process and CPU limits (no cgroup can be made here): a job's memory is not "
			"limited, its peak is that of its largest process\n",
			*limits ? *limits : "");
	return cgroups;
}

void cgroups_renew(struct cgroups *cgroups, unsigned cell)
{
	char path[4096];
	cgroups_forget(cgroups);
	for (int i = 0; i < V1_COUNT; i++) {
		if (!cgroups->roots[i])
			continue;
		snprintf(path, sizeof(path), "%s/%s/%u", cgroups->roots[i], cgroups->name, cell);
		if (rmdir(path) == 0 || errno == ENOENT)
			mkdir(path, 0755);
	}
	cgroups_keep(cgroups, cell);
}

void cgroups_close(struct cgroups *cgroups)
{
	char path[4096];
	for (int i = 0; cgroups && i < V1_COUNT; i++) {
		if (cgroups->locks[i] >= 0)
			close(cgroups->locks[i]);
		if (!cgroups->roots[i])
			continue;
		for (unsigned cell = 0; cell < cgroups->cells; cell++) {
			snprintf(path, sizeof(path), "%s/%s/%u", cgroups->roots[i], cgroups->name, cell);
			rmdir(path);
		}
		snprintf(path, sizeof(path), "%s/%s", cgroups->roots[i], cgroups->name);
		rmdir(path);
		return_from_leaf(cgroups, cgroups->roots[i]);
		free(cgroups->roots[i]);
	}
	free(cgroups);
}
