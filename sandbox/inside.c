/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file system of a sandbox from inside: a skeleton, in which the special places wait for a root.
 */
#include "sandbox/internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
static const char *const links[][2] = {{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"},
	{"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"}};

static bool bind(const char *source, const char *target, unsigned long extra,
	struct croft_error *err)
{
	if (mount(source, target, NULL, MS_BIND | MS_REC, NULL) < 0)
		return croft_error_errno(err, errno, "binding %s to %s", source, target);
	if (extra && mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | extra, NULL) < 0)
		return croft_error_errno(err, errno, "remounting %s", target);
	return true;
}

static bool make_file(const char *path, mode_t mode, struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, mode);
	return fd >= 0 || croft_error_errno(err, errno, "creating %s", path);
}

/* /dev ------------------------------------------------------------------------------------------- */

/* The fixed part: six devices, links, and where pseudo-terminals and shared memory will be. */
static bool fill_dev(int dev, const char *host)
{
	struct stat st;
	char path[64];
	for (size_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", host, devices[i]);
		if (stat(path, &st) < 0 || !S_ISCHR(st.st_mode) ||
			mknodat(dev, devices[i], S_IFCHR | 0666, st.st_rdev) < 0 ||
			fchmodat(dev, devices[i], 0666, 0) < 0)
			return false;
	}
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		if (symlinkat(links[i][0], dev, links[i][1]) < 0)
			return false;
	return mkdirat(dev, "pts", 0755) == 0 && mkdirat(dev, "shm", 0755) == 0;
}

int inside_make_dev(void)
{
	CROFT_CLEANUP_FD int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "mode", "755", 0) < 0 ||
		fsconfig(fs, FSCONFIG_SET_STRING, "size", "64k", 0) < 0 ||
		fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -1;
	int dev = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	struct mount_attr closed = {.attr_set = MOUNT_ATTR_RDONLY};
	/* Where the kernel lets nobody use such nodes (an agent in a container) the host's are bound. */
	if (dev >= 0 && fill_dev(dev, "/dev")) {
		CROFT_CLEANUP_FD int null = openat(dev, "null", O_RDWR | O_CLOEXEC);
		if (null >= 0 && mount_setattr(dev, "", AT_EMPTY_PATH, &closed, sizeof(closed)) == 0)
			return dev;
	}
	if (dev >= 0)
		close(dev);
	return -1;
}

/* mknod is not for user namespaces: the host's nodes are bound. */
static bool bind_devices(const char *dev, struct croft_error *err)
{
	char path[4096], source[64];
	if (mount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k") < 0)
		return croft_error_errno(err, errno, "mounting /dev");
	for (size_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dev, devices[i]);
		snprintf(source, sizeof(source), "/dev/%s", devices[i]);
		if (!make_file(path, 0666, err) || !bind(source, path, 0, err))
			return false;
	}
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dev, links[i][1]);
		if (symlink(links[i][0], path) < 0)
			return croft_error_errno(err, errno, "linking %s", path);
	}
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", dev, i ? "pts" : "shm");
		if (mkdir(path, 0755) < 0)
			return croft_error_errno(err, errno, "making %s", path);
	}
	/* All jobs of the cell see this one. */
	if (mount(NULL, dev, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL) < 0)
		return croft_error_errno(err, errno, "closing /dev");
	return true;
}

/* The skeleton ------------------------------------------------------------------------------------- */

static bool leave_host(struct skeleton *skeleton, struct croft_error *err)
{
	if (chdir(skeleton->at) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return croft_error_errno(err, errno, "changing the root");
	/* The host's root now lies on top of ours: it goes with everything below it. */
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return croft_error_errno(err, errno, "leaving the host's root");
	skeleton->at[0] = '\0';
	return true;
}

bool inside_make_skeleton(const char *place, int dev, bool alone, const struct wire_spec *spec,
	struct skeleton *skeleton, struct croft_error *err)
{
	static const char *const folders[] = {"root", "proc", "dev", "host-proc"};
	char path[4096];
	snprintf(skeleton->at, sizeof(skeleton->at), "%s", place);
	if (alone && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return croft_error_errno(err, errno, "taking leave of the host's mounts");
	if (mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64k") < 0)
		return croft_error_errno(err, errno, "mounting a skeleton on %s", place);
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", place, folders[i]);
		if (mkdir(path, 0755) < 0)
			return croft_error_errno(err, errno, "making %s", path);
	}
	/* What is bound is as read-only as what it is bound from. */
	snprintf(path, sizeof(path), "%s/nothing", place);
	if (!make_file(path, 0444, err) || !bind(path, path, MS_RDONLY | MS_NOSUID | MS_NODEV, err))
		return false;
	/* The kernel makes a /proc only for whom it shows one to already. */
	snprintf(path, sizeof(path), "%s/host-proc", place);
	if (alone && !bind("/proc", path, 0, err))
		return false;
	snprintf(path, sizeof(path), "%s/dev", place);
	if (weak(spec, WEAKEN_DEV))
		return bind("/dev", path, 0, err);
	if (dev < 0 && !bind_devices(path, err))
		return false;
	if (dev >= 0 && move_mount(dev, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return croft_error_errno(err, errno, "mounting /dev");
	return !alone || leave_host(skeleton, err);
}

/* A kernel may lack the file. Its mount is as read-only as its source's. */
static bool mask(const char *source, const char *path, struct croft_error *err)
{
	return mount(source, path, NULL, MS_BIND, NULL) == 0 || errno == ENOENT ||
		croft_error_errno(err, errno, "binding %s to %s", source, path);
}

/* The job's own /proc, without the ways into the kernel that it has. It is read-only itself until its masks, which
 * so need no change each, are mounted. */
static bool make_proc(const struct skeleton *skeleton, const struct wire_spec *spec,
	struct croft_error *err)
{
	static const char *const read_only[] = {"sys", "sysrq-trigger", "irq", "bus", "fs"};
	static const char *const hidden[] = {"kcore", "keys", "timer_list", "sched_debug", "kallsyms",
		"kmsg", "config.gz", "latency_stats"};
	char path[4096], nothing[256];
	snprintf(path, sizeof(path), "%s/proc", skeleton->at);
	snprintf(nothing, sizeof(nothing), "%s/nothing", skeleton->at);
	if (weak(spec, WEAKEN_PID_NAMESPACE))
		return bind("/proc", path, 0, err);
	/* Init began as a copy of the agent: its command line is nobody's business. */
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	const char *options = weak(spec, WEAKEN_PROC) ? "" : "hidepid=invisible";
	if (mount("proc", path, "proc", flags, options) < 0)
		return croft_error_errno(err, errno, "mounting /proc");
	if (weak(spec, WEAKEN_PROC))
		return true;
	if (mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | flags, NULL) < 0)
		return croft_error_errno(err, errno, "closing /proc");
	for (size_t i = 0; i < sizeof(read_only) / sizeof(read_only[0]); i++) {
		snprintf(path, sizeof(path), "%s/proc/%s", skeleton->at, read_only[i]);
		if (!mask(path, path, err))
			return false;
	}
	for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++) {
		snprintf(path, sizeof(path), "%s/proc/%s", skeleton->at, hidden[i]);
		if (!mask(nothing, path, err))
			return false;
	}
	snprintf(path, sizeof(path), "%s/proc", skeleton->at);
	return mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | flags, NULL) == 0 ||
		croft_error_errno(err, errno, "opening /proc");
}

bool inside_mount_own(const struct skeleton *skeleton, const struct wire_spec *spec,
	struct croft_error *err)
{
	char path[4096];
	/* The host's goes with the rest of the skeleton when the root is entered: each unmounting waits for all
	 * of the kernel's readers. */
	if (!make_proc(skeleton, spec, err))
		return false;
	if (weak(spec, WEAKEN_DEV))
		return true;
	snprintf(path, sizeof(path), "%s/dev/pts", skeleton->at);
	if (mount("devpts", path, "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620") < 0)
		return croft_error_errno(err, errno, "mounting /dev/pts");
	snprintf(path, sizeof(path), "%s/dev/shm", skeleton->at);
	if (mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") < 0)
		return croft_error_errno(err, errno, "mounting /dev/shm");
	return true;
}

/* Entering ------------------------------------------------------------------------------------------ */

/* Everything read-only but the declared directories and /tmp. */
static bool seal(const char *root, const struct wire_spec *spec, struct croft_error *err)
{
	if (spec->root_writable || weak(spec, WEAKEN_SEAL))
		return true;
	char path[4096];
	const char *writable;
	snprintf(path, sizeof(path), "%s/tmp", root);
	if (!bind(path, path, 0, err))
		return false;
	for (size_t i = 0; (writable = wire_item(spec, spec->writable, i)); i++) {
		if (strcmp(writable, "/") == 0)
			return true;
		snprintf(path, sizeof(path), "%s%s", root, writable);
		if (!bind(path, path, 0, err))
			return false;
	}
	if (mount(NULL, root, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NODEV | MS_NOSUID, NULL) < 0)
		return croft_error_errno(err, errno, "making the root read-only");
	return true;
}

static bool move_into(const struct skeleton *skeleton, const char *root, const char *name,
	struct croft_error *err)
{
	char from[256], to[4096];
	snprintf(from, sizeof(from), "%s/%s", skeleton->at, name);
	snprintf(to, sizeof(to), "%s/%s", root, name);
	return mount(from, to, NULL, MS_MOVE, NULL) == 0 ||
		croft_error_errno(err, errno, "moving /%s into the root", name);
}

bool inside_enter(const struct skeleton *skeleton, int root, const struct wire_spec *spec,
	struct croft_error *err)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/root", skeleton->at);
	if (skeleton->at[0] && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return croft_error_errno(err, errno, "taking leave of the host's mounts");
	if (move_mount(root, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return croft_error_errno(err, errno, "mounting the root");
	if (!move_into(skeleton, path, "proc", err) || !move_into(skeleton, path, "dev", err) ||
		!seal(path, spec, err))
		return false;
	if (weak(spec, WEAKEN_PIVOT))
		return chdir(path) == 0 && chroot(".") == 0;
	struct skeleton place;
	snprintf(place.at, sizeof(place.at), "%.*s", (int)sizeof(place.at) - 1, path);
	return leave_host(&place, err);
}
