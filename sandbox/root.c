/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file system that a job sees: overlays over read-only layers, and the few special places.
 */
#include "sandbox/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

void slot_path(const struct launcher_context *context, unsigned slot, const char *name, char *path,
	size_t size)
{
	snprintf(path, size, "%s/%u/%s", context->state, slot, name);
}

void slot_root(const struct launcher_context *context, unsigned slot, char *path, size_t size)
{
	snprintf(path, size, "%s/%u", context->staging, slot);
}

/* Layers ------------------------------------------------------------------------------------------ */

/* Clones a layer onto `target`, with its owners mapped into the slot's range where the kernel and
 * the file system can: the job's root then owns its inputs. Without, they belong to nobody inside, and
 * can be read but not replaced. */
static bool mount_lower(const struct launcher_context *context, unsigned slot, const char *source,
	const char *target, struct croft_error *err)
{
	CROFT_CLEANUP_FD int tree = open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0)
		return croft_error_errno(err, errno, "opening the layer %s", source);
	if (context->user_namespaces[slot] >= 0) {
		struct mount_attr map = {
			.attr_set = MOUNT_ATTR_IDMAP,
			.userns_fd = (uint64_t)context->user_namespaces[slot],
		};
		if (mount_setattr(tree, "", AT_EMPTY_PATH, &map, sizeof(map)) < 0 && errno != EINVAL &&
			errno != EPERM)
			return croft_error_errno(err, errno, "mapping the owners of %s", source);
	}
	if (mkdir(target, 0755) < 0 && errno != EEXIST)
		return croft_error_errno(err, errno, "making %s", target);
	if (move_mount(tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return croft_error_errno(err, errno, "mounting the layer %s", source);
	return true;
}

/* Makes slot/name owned by the job's root. */
static bool make_owned(const struct launcher_context *context, unsigned slot, const char *name,
	mode_t mode, struct croft_error *err)
{
	char path[4096];
	slot_path(context, slot, name, path, sizeof(path));
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return croft_error_errno(err, errno, "making %s", path);
	uid_t owner = slot_ids(context, slot);
	if (context->privileged && lchown(path, owner, owner) < 0)
		return croft_error_errno(err, errno, "giving %s to the slot's user", path);
	return chmod(path, mode) == 0 || croft_error_errno(err, errno, "opening %s to its user", path);
}

/* Makes `path` and its parents in an upper layer. What stands in a lower layer as something else than
 * a directory is the job's mistake and shows when it is used. */
static bool make_in_upper(const struct launcher_context *context, unsigned slot, const char *upper,
	const char *path, mode_t mode, struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *below = croft_strdup(path);
	for (char *at = below + 1; at[-1]; at++) {
		if (*at != '/' && *at != '\0')
			continue;
		char end = *at;
		*at = '\0';
		CROFT_CLEANUP_FREE char *name = NULL;
		if (asprintf(&name, "%s%s", upper, below) < 0)
			abort();
		if (below[1] && !make_owned(context, slot, name, end ? 0755 : mode, err))
			return false;
		*at = end;
		if (!end)
			break;
	}
	return true;
}

/* A mount's options are there to read for everyone inside: names relative to the slot's directory,
 * where root_mount_layers went, tell nothing of the host. */
static bool mount_overlay(const struct launcher_context *context, const char *lower,
	const char *upper, const char *work, const char *target, bool trusted, struct croft_error *err)
{
	CROFT_CLEANUP_FD int fs = fsopen("overlay", FSOPEN_CLOEXEC);
	if (fs < 0)
		return croft_error_errno(err, errno, "opening overlayfs");
	if (fsconfig(fs, FSCONFIG_SET_STRING, "source", "croft", 0) < 0 ||
		fsconfig(fs, FSCONFIG_SET_STRING, "lowerdir", lower, 0) < 0 ||
		fsconfig(fs, FSCONFIG_SET_STRING, "upperdir", upper, 0) < 0 ||
		fsconfig(fs, FSCONFIG_SET_STRING, "workdir", work, 0) < 0 ||
		(!context->privileged && fsconfig(fs, FSCONFIG_SET_FLAG, "userxattr", NULL, 0) < 0) ||
		fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return croft_error_errno(err, errno, "making the overlay over %s", lower);
	unsigned attributes = trusted ? 0 : MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID;
	CROFT_CLEANUP_FD int tree = fsmount(fs, FSMOUNT_CLOEXEC, attributes);
	if (tree < 0 || move_mount(tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return croft_error_errno(err, errno, "mounting the overlay on %s", target);
	return true;
}

static bool make_places(const struct launcher_context *context, const struct wire_spec *spec,
	struct croft_error *err)
{
	static const struct {
		const char *name;
		mode_t mode;
	} places[] = {{"upper", 0755}, {"work", 0755}, {"input-upper", 0755}, {"input-work", 0755},
		{"upper/proc", 0555}, {"upper/dev", 0755}, {"upper/tmp", 01777}};
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		if (!make_owned(context, spec->slot, places[i].name, places[i].mode, err))
			return false;
	const char *target = wire_text(spec, spec->input_target);
	if (target && !make_in_upper(context, spec->slot, "upper", target, 0755, err))
		return false;
	size_t target_size = target ? strlen(target) : 0;
	const char **writable = wire_list(spec, spec->writable);
	for (size_t i = 0; writable[i]; i++) {
		bool in_input = target && strncmp(writable[i], target, target_size) == 0 &&
			(writable[i][target_size] == '/' || writable[i][target_size] == '\0');
		if (!make_in_upper(context, spec->slot, in_input ? "input-upper" : "upper",
				in_input ? writable[i] + target_size : writable[i], 0755, err))
			return false;
	}
	return true;
}

static bool bind(const char *source, const char *target, unsigned long extra,
	struct croft_error *err)
{
	if (mount(source, target, NULL, MS_BIND | MS_REC, NULL) < 0)
		return croft_error_errno(err, errno, "binding %s to %s", source, target);
	if (extra && mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | extra, NULL) < 0)
		return croft_error_errno(err, errno, "remounting %s", target);
	return true;
}

static bool mount_root(const struct launcher_context *context, const struct wire_spec *spec,
	struct croft_error *err)
{
	const char **roots = wire_list(spec, spec->roots);
	char joined[MAX_ROOTS * 16] = "", target[4096];
	size_t used = 0;
	for (size_t i = 0; roots[i] && i < MAX_ROOTS; i++) {
		char name[16];
		snprintf(name, sizeof(name), "lower%zu", i);
		if (!mount_lower(context, spec->slot, roots[i], name, err))
			return false;
		used += (size_t)snprintf(joined + used, sizeof(joined) - used, "%s%s", i ? ":" : "", name);
	}
	slot_root(context, spec->slot, target, sizeof(target));
	if (weak(spec, WEAKEN_OVERLAY))
		return bind("lower0", target, 0, err);
	return mount_overlay(
		context, joined, "upper", "work", target, weak(spec, WEAKEN_NOSUID), err);
}

static bool mount_input(const struct launcher_context *context, const struct wire_spec *spec,
	struct croft_error *err)
{
	const char *input = wire_text(spec, spec->input_root);
	if (!input)
		return true;
	char target[4096];
	slot_root(context, spec->slot, target, sizeof(target));
	strncat(target, wire_text(spec, spec->input_target), sizeof(target) - strlen(target) - 1);
	return mount_lower(context, spec->slot, input, "input-lower", err) &&
		mount_overlay(context, "input-lower", "input-upper", "input-work", target, false, err);
}

static bool touch(const char *path, struct croft_error *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
	if (fd < 0)
		return croft_error_errno(err, errno, "creating %s", path);
	close(fd);
	return true;
}

/* By the supervisor, while it may still go everywhere on the host. */
static bool make_target(const char *root, const char *target, const char *source, char *path,
	size_t size, struct croft_error *err)
{
	struct stat st;
	snprintf(path, size, "%s%s", root, target);
	if (stat(source, &st) < 0)
		return croft_error_errno(err, errno, "mounting %s", source);
	if (S_ISDIR(st.st_mode))
		return croft_make_directories(path, err);
	char *slash = strrchr(path, '/');
	*slash = '\0';
	if (!croft_make_directories(path, err))
		return false;
	*slash = '/';
	return touch(path, err);
}

static bool make_mounts(const char *root, const struct wire_spec *spec, struct croft_error *err)
{
	const char **sources = wire_list(spec, spec->mount_sources);
	const char **targets = wire_list(spec, spec->mount_targets);
	const char **writable = wire_list(spec, spec->mount_writable);
	char path[4096];
	for (size_t i = 0; sources[i]; i++) {
		unsigned long read_only = strcmp(writable[i], "ro") == 0 ? MS_RDONLY : 0;
		if (!make_target(root, targets[i], sources[i], path, sizeof(path), err) ||
			!bind(sources[i], path, read_only | MS_NOSUID | MS_NODEV, err))
			return false;
	}
	return true;
}

bool root_mount_layers(const struct launcher_context *context, const struct wire_spec *spec,
	struct croft_error *err)
{
	char root[4096], slot[4096];
	slot_root(context, spec->slot, root, sizeof(root));
	slot_path(context, spec->slot, "", slot, sizeof(slot));
	if (chdir(slot) < 0)
		return croft_error_errno(err, errno, "entering %s", slot);
	return make_places(context, spec, err) && mount_root(context, spec, err) &&
		mount_input(context, spec, err) && make_mounts(root, spec, err);
}

/* Entering ----------------------------------------------------------------------------------------- */

/* A /dev of six devices, pseudo-terminals and shared memory. mknod is not for user namespaces: the
 * host's nodes are bound. */
static bool make_dev(const char *root, const struct wire_spec *spec, struct croft_error *err)
{
	static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
	static const char *const links[][2] = {{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"}};
	char path[4096], source[64];
	snprintf(path, sizeof(path), "%s/dev", root);
	if (weak(spec, WEAKEN_DEV))
		return bind("/dev", path, 0, err);
	if (mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k") < 0)
		return croft_error_errno(err, errno, "mounting /dev");
	for (size_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
		snprintf(path, sizeof(path), "%s/dev/%s", root, devices[i]);
		snprintf(source, sizeof(source), "/dev/%s", devices[i]);
		if (!touch(path, err) || !bind(source, path, 0, err))
			return false;
	}
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
		snprintf(path, sizeof(path), "%s/dev/%s", root, links[i][1]);
		if (symlink(links[i][0], path) < 0)
			return croft_error_errno(err, errno, "linking %s", path);
	}
	snprintf(path, sizeof(path), "%s/dev/pts", root);
	if (mkdir(path, 0755) < 0 ||
		mount("devpts", path, "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620") < 0)
		return croft_error_errno(err, errno, "mounting /dev/pts");
	snprintf(path, sizeof(path), "%s/dev/shm", root);
	if (mkdir(path, 01777) < 0 ||
		mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") < 0)
		return croft_error_errno(err, errno, "mounting /dev/shm");
	return true;
}

/* The job's own /proc, without the ways into the kernel that it has. */
static bool make_proc(const char *root, const struct wire_spec *spec, struct croft_error *err)
{
	static const char *const read_only[] = {"sys", "sysrq-trigger", "irq", "bus", "fs"};
	static const char *const hidden[] = {"kcore", "keys", "timer_list", "sched_debug", "kallsyms",
		"kmsg", "config.gz", "latency_stats"};
	char path[4096];
	snprintf(path, sizeof(path), "%s/proc", root);
	if (weak(spec, WEAKEN_PID_NAMESPACE))
		return bind("/proc", path, 0, err);
	/* Init began as a copy of the agent: its command line is nobody's business. */
	const char *options = weak(spec, WEAKEN_PROC) ? "" : "hidepid=invisible";
	if (mount("proc", path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
		return croft_error_errno(err, errno, "mounting /proc");
	if (weak(spec, WEAKEN_PROC))
		return true;
	for (size_t i = 0; i < sizeof(read_only) / sizeof(read_only[0]); i++) {
		snprintf(path, sizeof(path), "%s/proc/%s", root, read_only[i]);
		if (access(path, F_OK) == 0 &&
			!bind(path, path, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, err))
			return false;
	}
	for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++) {
		snprintf(path, sizeof(path), "%s/proc/%s", root, hidden[i]);
		if (access(path, F_OK) == 0 && !bind("/dev/null", path, 0, err))
			return false;
	}
	return true;
}

/* Everything read-only but the declared directories and /tmp. */
static bool seal(const char *root, const struct wire_spec *spec, struct croft_error *err)
{
	if (spec->root_writable || weak(spec, WEAKEN_SEAL))
		return true;
	const char **writable = wire_list(spec, spec->writable);
	char path[4096];
	snprintf(path, sizeof(path), "%s/tmp", root);
	if (!bind(path, path, 0, err))
		return false;
	for (size_t i = 0; writable[i]; i++) {
		if (strcmp(writable[i], "/") == 0)
			return true;
		snprintf(path, sizeof(path), "%s%s", root, writable[i]);
		if (!bind(path, path, 0, err))
			return false;
	}
	if (mount(NULL, root, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NODEV | MS_NOSUID, NULL) < 0)
		return croft_error_errno(err, errno, "making the root read-only");
	return true;
}

bool root_enter(const struct launcher_context *context, const struct wire_spec *spec,
	struct croft_error *err)
{
	char root[4096];
	slot_root(context, spec->slot, root, sizeof(root));
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return croft_error_errno(err, errno, "taking leave of the host's mounts");
	/* A mount of our own: those that came from the host are locked and cannot become the root. */
	if (!bind(root, root, 0, err) || !make_proc(root, spec, err) || !make_dev(root, spec, err) ||
		!seal(root, spec, err))
		return false;
	if (weak(spec, WEAKEN_PIVOT))
		return chdir(root) == 0 && chroot(".") == 0;
	if (chdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return croft_error_errno(err, errno, "changing the root");
	/* The host's root now lies on top of ours: it goes with everything below it. */
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return croft_error_errno(err, errno, "leaving the host's root");
	return true;
}
