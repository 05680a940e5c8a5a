/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file system that a job sees: overlays over read-only layers, and the few special places.
 */
#include "sandbox/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

void cell_path(const struct launcher_context *context, unsigned cell, const char *name, char *path,
	size_t size)
{
	snprintf(path, size, "%s/%u/%s", context->state, cell, name);
}

void cell_root(const struct launcher_context *context, unsigned cell, char *path, size_t size)
{
	snprintf(path, size, "%s/%u", context->staging, cell);
}

/* Layers ------------------------------------------------------------------------------------------ */

/* From here to the host's mounts and back, as they are now: our own namespace may not have heard of those
 * that were made since. */
static bool go(int mounts, int root)
{
	return mounts < 0 ||
		(setns(mounts, CLONE_NEWNS) == 0 && (root < 0 || (fchdir(root) == 0 && chroot(".") == 0)));
}

static void go_back(const struct host_view *host)
{
	if (go(host->own_mounts, -1))
		return;
	/* Nothing must be mounted in the host's namespace. */
	fprintf(stderr, "croft: a sandbox's keeper cannot go back to its namespace\n");
	_exit(1);
}

static bool open_sources(const char *what, const char **sources, unsigned flags, int **trees,
	struct croft_error *err)
{
	size_t count = 0;
	while (sources[count])
		count++;
	*trees = croft_array(count + 1, sizeof(int));
	for (size_t i = 0; i <= count; i++)
		(*trees)[i] = -1;
	for (size_t i = 0; i < count; i++) {
		(*trees)[i] = open_tree(AT_FDCWD, sources[i], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);
		/* An ordinary user may not look below mounts: where there are some they come along. */
		if ((*trees)[i] < 0 && errno == EINVAL)
			(*trees)[i] = open_tree(AT_FDCWD, sources[i],
				OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
		if ((*trees)[i] < 0)
			return croft_error_errno(err, errno, "opening the %s %s", what, sources[i]);
	}
	return true;
}

struct sources {
	const char **roots, **mounts;
	const char *input[2];
	int *root_trees, *mount_trees, *input_tree;
	struct standin standin; /* for the input */
};

static void close_trees(int *trees, const char **names)
{
	for (size_t i = 0; trees && names[i]; i++)
		if (trees[i] >= 0)
			close(trees[i]);
	free(trees);
}

void root_close_sources(struct sources *sources)
{
	if (!sources)
		return;
	close_trees(sources->root_trees, sources->roots);
	close_trees(sources->input_tree, sources->input);
	close_trees(sources->mount_trees, sources->mounts);
	standin_close(&sources->standin);
	free(sources->roots);
	free(sources->mounts);
	free(sources);
}

/* The layers, as they are at this moment. */
void root_layers(const struct sources *sources, struct layer layers[MAX_ROOTS])
{
	struct stat st;
	for (size_t i = 0; sources->roots[i] && i < MAX_ROOTS; i++)
		layers[i] = fstat(sources->root_trees[i], &st) == 0 ? (struct layer){st.st_dev, st.st_ino}
									: (struct layer){0, 0};
}

bool root_still_has(const struct host_view *host, const struct wire_spec *spec,
	const struct layer layers[MAX_ROOTS])
{
	CROFT_CLEANUP_FREE const char **roots = wire_list(spec, spec->roots);
	bool same = go(host->mounts, host->root);
	for (size_t i = 0; same && roots[i]; i++) {
		struct stat st;
		same = stat(roots[i], &st) == 0 && st.st_dev == layers[i].device && st.st_ino == layers[i].inode;
	}
	go_back(host);
	return same;
}

static struct sources *no_sources(void)
{
	struct sources *sources = croft_zalloc(sizeof(*sources));
	sources->standin = (struct standin)STANDIN_NONE;
	return sources;
}

static bool open_all(const struct launcher_context *context, const struct host_view *host,
	const struct wire_spec *spec, struct sources *sources, struct croft_error *err)
{
	sources->roots = wire_list(spec, spec->roots);
	sources->mounts = wire_list(spec, spec->mount_sources);
	sources->input[0] = wire_text(spec, spec->input_root);
	if (!go(host->mounts, host->root))
		return croft_error_errno(err, errno, "looking at the host's mounts");
	bool ok = open_sources("layer", sources->roots, 0, &sources->root_trees, err) &&
		open_sources("layer", sources->input, 0, &sources->input_tree, err) &&
		open_sources("mount", sources->mounts, AT_RECURSIVE, &sources->mount_trees, err);
	if (ok)
		standin_open(context, wire_text(spec, spec->standin), &sources->standin);
	go_back(host);
	return ok;
}

bool root_forbid_writing(int tree, const char *source, struct croft_error *err)
{
	struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};
	return mount_setattr(tree, "", AT_EMPTY_PATH, &read_only, sizeof(read_only)) == 0 ||
		croft_error_errno(err, errno, "making the layer %s read-only", source);
}

bool root_map_owners(const struct launcher_context *context, unsigned cell, int tree,
	const char *source, struct croft_error *err)
{
	struct mount_attr map = {
		.attr_set = MOUNT_ATTR_IDMAP,
		.userns_fd = (uint64_t)context->user_namespaces[cell / CELLS_PER_SLOT],
	};
	return context->user_namespaces[cell / CELLS_PER_SLOT] < 0 ||
		mount_setattr(tree, "", AT_EMPTY_PATH, &map, sizeof(map)) == 0 || errno == EINVAL ||
		errno == EPERM || croft_error_errno(err, errno, "mapping the owners of %s", source);
}

/* Makes cell/name owned by the job's root. */
static bool make_owned(const struct launcher_context *context, unsigned cell, const char *name,
	mode_t mode, struct croft_error *err)
{
	char path[4096];
	cell_path(context, cell, name, path, sizeof(path));
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return croft_error_errno(err, errno, "making %s", path);
	uid_t owner = cell_ids(context, cell);
	if (context->privileged && lchown(path, owner, owner) < 0)
		return croft_error_errno(err, errno, "giving %s to the slot's user", path);
	return chmod(path, mode) == 0 || croft_error_errno(err, errno, "opening %s to its user", path);
}

/* Makes `path` and its parents in an upper layer. What stands in a lower layer as something else than
 * a directory is the job's mistake and shows when it is used. */
static bool make_in_upper(const struct launcher_context *context, unsigned cell, const char *upper,
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
		if (below[1] && !make_owned(context, cell, name, end ? 0755 : mode, err))
			return false;
		*at = end;
		if (!end)
			break;
	}
	return true;
}

/* What an overlay is made of. Names are relative to the cell's directory, where root_mount went: a mount's
 * options are there to read for everyone inside, and shall tell nothing of the host. */
struct overlay {
	const char *places; /* a layer above all trees; NULL: none */
	const char **sources; /* of the trees, for people */
	const int *trees;
	const struct standin *standin; /* for the only tree, which the others' data come from; NULL: none */
	const char *mount_points; /* where trees are mounted that the kernel cannot take as they are */
	const char *upper, *work;
	bool trusted; /* devices and set-user-id programs count */
};

/* Since Linux 6.15 layers need not be mounted anywhere. What fails with a stand-in is tried again without. */
static bool add_trees(int fs, const struct overlay *overlay)
{
	if (overlay->places && fsconfig(fs, FSCONFIG_SET_STRING, "lowerdir+", overlay->places, 0) < 0)
		return false;
	if (overlay->standin)
		return standin_add(fs, overlay->standin, overlay->trees[0]);
	for (size_t i = 0; overlay->sources[i]; i++)
		if (fsconfig(fs, FSCONFIG_SET_FD, "lowerdir+", NULL, overlay->trees[i]) < 0)
			return false;
	return true;
}

static bool add_mounted(int fs, const struct overlay *overlay, struct croft_error *err)
{
	char joined[(MAX_ROOTS + 1) * 32];
	size_t used = (size_t)snprintf(joined, sizeof(joined), "%s", overlay->places ? overlay->places : "");
	for (size_t i = 0; overlay->sources[i] && i < MAX_ROOTS; i++) {
		char name[32];
		snprintf(name, sizeof(name), "%s%zu", overlay->mount_points, i);
		if (mkdir(name, 0755) < 0 && errno != EEXIST)
			return croft_error_errno(err, errno, "making %s", name);
		if (move_mount(overlay->trees[i], "", AT_FDCWD, name, MOVE_MOUNT_F_EMPTY_PATH) < 0)
			return croft_error_errno(err, errno, "mounting the layer %s", overlay->sources[i]);
		used += (size_t)snprintf(joined + used, sizeof(joined) - used, "%s%s", used ? ":" : "", name);
	}
	return fsconfig(fs, FSCONFIG_SET_STRING, "lowerdir", joined, 0) == 0 ||
		croft_error_errno(err, errno, "naming the layers %s", joined);
}

/* Outputs are read from the upper layer by itself: it has to hold whole files and directories, whatever the
 * kernel's default is.
 * Volatile: nobody reads what a job wrote once the machine has gone down, and without it the kernel
 * writes the whole host's file system to disk whenever an overlay on it ends. */
static bool create_overlay(const struct launcher_context *context, int fs, const struct overlay *overlay)
{
	return fsconfig(fs, FSCONFIG_SET_STRING, "source", "croft", 0) == 0 &&
		fsconfig(fs, FSCONFIG_SET_STRING, "metacopy", "off", 0) == 0 &&
		fsconfig(fs, FSCONFIG_SET_STRING, "redirect_dir", "nofollow", 0) == 0 &&
		fsconfig(fs, FSCONFIG_SET_STRING, "upperdir", overlay->upper, 0) == 0 &&
		fsconfig(fs, FSCONFIG_SET_STRING, "workdir", overlay->work, 0) == 0 &&
		(!context->on_disk || fsconfig(fs, FSCONFIG_SET_FLAG, "volatile", NULL, 0) == 0) &&
		(context->privileged || fsconfig(fs, FSCONFIG_SET_FLAG, "userxattr", NULL, 0) == 0) &&
		fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0;
}

/* An overlay that is mounted nowhere yet; -1 on error. */
static int make_overlay(const struct launcher_context *context, const struct overlay *overlay,
	struct croft_error *err)
{
	CROFT_CLEANUP_FD int detached = fsopen("overlay", FSOPEN_CLOEXEC);
	CROFT_CLEANUP_FD int mounted = -1;
	int fs = detached;
	if (detached >= 0 && !(add_trees(detached, overlay) && create_overlay(context, detached, overlay))) {
		/* One of two layers that are one directory may be the reason, too: this time it is told. What a
		 * volatile overlay leaves when it fails would be taken for that of one that went down. */
		char left[32];
		snprintf(left, sizeof(left), "%s/work", overlay->work);
		if (!croft_remove_tree(AT_FDCWD, left, err))
			return -1;
		fs = mounted = fsopen("overlay", FSOPEN_CLOEXEC);
		if (mounted >= 0 && !add_mounted(mounted, overlay, err))
			return -1;
		if (mounted >= 0 && !create_overlay(context, mounted, overlay)) {
			if (errno == ELOOP)
				croft_error_set(err, CROFT_INVALID_ARGUMENT,
					"two of the root layers are one directory, or one of them contains another");
			else if (errno == EINVAL && !context->privileged)
				croft_error_set(err, CROFT_FAILED_PRECONDITION,
					"the kernel refuses %s as a layer: to an ordinary user it does not show what "
					"lies below mounts, as / has them; name a root without any, or be root",
					overlay->sources[0]);
			else
				croft_error_errno(err, errno, "making the overlay over %s", overlay->sources[0]);
			return -1;
		}
	}
	int tree = fs < 0 ? -1
					  : fsmount(fs, FSMOUNT_CLOEXEC,
							overlay->trusted ? 0 : MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID);
	if (tree < 0)
		croft_error_errno(err, errno, "mounting an overlay");
	return tree;
}

static bool uses_input(const struct wire_spec *spec)
{
	return spec->input_root != 0;
}

/* Where in the input's own layer the job's writable directory is; NULL: it is not in the input. */
static const char *below_input(const struct wire_spec *spec, const char *path)
{
	const char *target = wire_text(spec, spec->input_target);
	size_t size = target ? strlen(target) : 0;
	bool below = target && strncmp(path, target, size) == 0 && (path[size] == '/' || path[size] == '\0');
	return below ? path + size : NULL;
}

static bool make_writable(const struct launcher_context *context, unsigned cell,
	const struct wire_spec *spec, bool in_input, struct croft_error *err)
{
	CROFT_CLEANUP_FREE const char **writable = wire_list(spec, spec->writable);
	for (size_t i = 0; writable[i]; i++) {
		const char *below = below_input(spec, writable[i]);
		if ((below != NULL) == in_input &&
			!make_in_upper(context, cell, in_input ? "input-upper" : "upper", below ? below : writable[i],
				0755, err))
			return false;
	}
	return true;
}

static bool make_input_places(const struct launcher_context *context, unsigned cell,
	const struct wire_spec *spec, struct croft_error *err)
{
	return make_owned(context, cell, "input-upper", 0755, err) &&
		make_owned(context, cell, "input-work", 0755, err) && make_writable(context, cell, spec, true, err);
}

/* What the spec asks for; root_prepare made the rest. */
static bool make_places(const struct launcher_context *context, unsigned cell,
	const struct wire_spec *spec, struct croft_error *err)
{
	const char *target = wire_text(spec, spec->input_target);
	return (!uses_input(spec) || make_input_places(context, cell, spec, err)) &&
		(!target || make_in_upper(context, cell, "upper", target, 0755, err)) &&
		make_writable(context, cell, spec, false, err);
}

static bool close_input(const struct launcher_context *context, unsigned cell,
	const struct sources *sources, struct croft_error *err)
{
	return root_forbid_writing(sources->input_tree[0], sources->input[0], err) &&
		root_map_owners(context, cell, sources->input_tree[0], sources->input[0], err);
}

static bool close_layers(const struct launcher_context *context, unsigned cell,
	const struct wire_spec *spec, const struct sources *sources, struct croft_error *err)
{
	bool writable = weak(spec, WEAKEN_OVERLAY);
	for (size_t i = 0; sources->roots[i]; i++)
		if ((!writable && !root_forbid_writing(sources->root_trees[i], sources->roots[i], err)) ||
			!root_map_owners(context, cell, sources->root_trees[i], sources->roots[i], err))
			return false;
	return !sources->input[0] || close_input(context, cell, sources, err);
}

/* The cell's directory, which is the working one, is below that of the tree. */
static bool lies_in(int tree)
{
	struct stat top, here = {0}, before;
	int at = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	bool in = false, more = at >= 0 && fstat(tree, &top) == 0;
	while (more && !in) {
		before = here;
		more = fstat(at, &here) == 0 && (here.st_ino != before.st_ino || here.st_dev != before.st_dev);
		in = more && here.st_ino == top.st_ino && here.st_dev == top.st_dev;
		int above = more && !in ? openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
		close(at);
		at = above;
		more = at >= 0;
	}
	if (at >= 0)
		close(at);
	return in;
}

/* One layer must not lie in another: where the root holds the agent's state (such as "/") the special places are
 * made in the writable layer. */
static bool separate_places(const struct launcher_context *context, unsigned cell,
	const struct sources *sources, const char **places, struct croft_error *err)
{
	*places = "places";
	for (size_t i = 0; sources->roots[i] && *places; i++)
		if (lies_in(sources->root_trees[i]))
			*places = NULL;
	return *places || (make_owned(context, cell, "upper/proc", 0555, err) &&
				make_owned(context, cell, "upper/dev", 0755, err) &&
				make_owned(context, cell, "upper/tmp", 01777, err));
}

/* The root, mounted nowhere yet; -1 on error. */
static int make_root(const struct launcher_context *context, unsigned cell,
	const struct wire_spec *spec, struct sources *sources, struct croft_error *err)
{
	const char *places;
	if (!separate_places(context, cell, sources, &places, err))
		return -1;
	bool standin = sources->standin.names >= 0 && !sources->input[0] && !sources->roots[1];
	struct overlay overlay = {places, sources->roots, sources->root_trees,
		standin ? &sources->standin : NULL, "lower", "upper", "work", weak(spec, WEAKEN_NOSUID)};
	if (!weak(spec, WEAKEN_OVERLAY))
		return make_overlay(context, &overlay, err);
	int tree = sources->root_trees[0];
	sources->root_trees[0] = -1;
	return tree;
}

static bool mount_at(int tree, const char *path, struct croft_error *err)
{
	return move_mount(tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) == 0 ||
		croft_error_errno(err, errno, "mounting the overlay on %s", path);
}

static int make_input(const struct launcher_context *context, const struct sources *sources,
	struct croft_error *err)
{
	struct overlay overlay = {NULL, (const char **)sources->input, sources->input_tree,
		sources->standin.names >= 0 ? &sources->standin : NULL, "input-lower", "input-upper", "input-work",
		false};
	return make_overlay(context, &overlay, err);
}

static bool mount_input(const struct launcher_context *context, const char *root,
	const struct wire_spec *spec, const struct sources *sources, struct croft_error *err)
{
	char target[4096];
	if (!uses_input(spec))
		return true;
	snprintf(target, sizeof(target), "%s%s", root, wire_text(spec, spec->input_target));
	CROFT_CLEANUP_FD int tree = make_input(context, sources, err);
	return tree >= 0 && mount_at(tree, target, err);
}

static bool touch(const char *path, struct croft_error *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
	if (fd < 0)
		return croft_error_errno(err, errno, "creating %s", path);
	close(fd);
	return true;
}

/* By the keeper, which may still go everywhere on the host. */
static bool make_target(const char *root, const char *target, const char *source, int tree,
	char *path, size_t size, struct croft_error *err)
{
	struct stat st;
	snprintf(path, size, "%s%s", root, target);
	if (fstat(tree, &st) < 0)
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

static bool make_mounts(const char *root, const struct wire_spec *spec,
	const struct sources *sources, struct croft_error *err)
{
	CROFT_CLEANUP_FREE const char **targets = wire_list(spec, spec->mount_targets);
	CROFT_CLEANUP_FREE const char **writable = wire_list(spec, spec->mount_writable);
	char path[4096];
	for (size_t i = 0; sources->mounts[i]; i++) {
		unsigned long flags = strcmp(writable[i], "ro") == 0 ? MS_RDONLY : 0;
		int tree = sources->mount_trees[i];
		if (!make_target(root, targets[i], sources->mounts[i], tree, path, sizeof(path), err))
			return false;
		if (move_mount(tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
			mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV | flags, NULL) < 0)
			return croft_error_errno(err, errno, "mounting %s on %s", sources->mounts[i], targets[i]);
	}
	return true;
}

bool root_prepare(const struct launcher_context *context, unsigned cell, bool first,
	struct croft_error *err)
{
	static const struct {
		const char *name;
		mode_t mode;
	} places[] = {{"", 0755}, {"work", 0755}, {"places", 0755}, {"places/proc", 0555},
		{"places/dev", 0755}, {"places/tmp", 01777}};
	char path[4096];
	cell_path(context, cell, "", path, sizeof(path));
	if (first && mkdir(path, 0755) < 0 && errno != EEXIST)
		return croft_error_errno(err, errno, "making %s", path);
	for (size_t i = 1; first && i < sizeof(places) / sizeof(places[0]); i++)
		if (!make_owned(context, cell, places[i].name, places[i].mode, err))
			return false;
	return make_owned(context, cell, "upper", 0755, err);
}

int root_make(const struct launcher_context *context, unsigned cell, const char *root,
	const struct host_view *host, const struct wire_spec *spec, struct sources **rest,
	struct croft_error *err)
{
	char path[4096];
	struct sources *sources = no_sources();
	int tree = -1;
	bool ok = open_all(context, host, spec, sources, err);
	standin_protect(context, cell, &sources->standin);
	cell_path(context, cell, "", path, sizeof(path));
	if (ok && chdir(path) < 0)
		ok = croft_error_errno(err, errno, "entering %s", path);
	ok = ok && close_layers(context, cell, spec, sources, err) && make_places(context, cell, spec, err) &&
		(tree = make_root(context, cell, spec, sources, err)) >= 0;
	/* What lies in the root is mounted while the root is, since kernels before 6.15 cannot otherwise. */
	if (ok && (uses_input(spec) || sources->mounts[0])) {
		ok = mount_at(tree, root, err) && mount_input(context, root, spec, sources, err) &&
			make_mounts(root, spec, sources, err);
		close(tree);
		tree = ok ? open_tree(AT_FDCWD, root, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE) : -1;
		if (ok && tree < 0)
			croft_error_errno(err, errno, "opening the root %s", root);
	}
	*rest = sources;
	return tree;
}

int root_make_input(const struct launcher_context *context, unsigned cell, const struct host_view *host,
	const struct wire_spec *spec, struct sources **rest, struct croft_error *err)
{
	char path[4096];
	struct sources *sources = no_sources();
	sources->input[0] = wire_text(spec, spec->input_root);
	cell_path(context, cell, "", path, sizeof(path));
	*rest = sources;
	bool ok = go(host->mounts, host->root)
		? open_sources("layer", sources->input, 0, &sources->input_tree, err)
		: croft_error_errno(err, errno, "looking at the host's mounts");
	if (ok)
		standin_open(context, wire_text(spec, spec->standin), &sources->standin);
	go_back(host);
	if (ok && chdir(path) < 0)
		ok = croft_error_errno(err, errno, "entering %s", path);
	standin_protect(context, cell, &sources->standin);
	return ok && close_input(context, cell, sources, err) && make_input_places(context, cell, spec, err)
		? make_input(context, sources, err)
		: -1;
}

bool root_watch(int fanotify, int tree, const char *path, struct croft_error *err)
{
	if (fanotify_mark(fanotify, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, tree, path) < 0)
		return croft_error_errno(err, errno, "watching what is opened in the root");
	return true;
}

/* What is not mounted needs no unmounting. */
static bool unmount_all(const struct launcher_context *context, unsigned cell, struct croft_error *err)
{
	char path[4096];
	cell_root(context, cell, path, sizeof(path));
	if (umount2(path, MNT_DETACH) < 0 && errno != EINVAL && errno != EPERM)
		return croft_error_errno(err, errno, "unmounting %s", path);
	cell_path(context, cell, "input-lower0", path, sizeof(path));
	umount2(path, MNT_DETACH);
	for (size_t i = 0; i < MAX_ROOTS; i++) {
		char name[32];
		snprintf(name, sizeof(name), "lower%zu", i);
		cell_path(context, cell, name, path, sizeof(path));
		if (umount2(path, MNT_DETACH) < 0)
			return true; /* layers are numbered without gaps */
	}
	return true;
}

bool root_remove(const struct launcher_context *context, unsigned cell, bool kept, struct croft_error *err)
{
	/* All that a job can have written to. */
	static const char *const written[] = {"input-upper", "input-work", "upper", "work/work"};
	size_t count = sizeof(written) / sizeof(written[0]) - (kept ? 2 : 0);
	char path[4096];
	if (chdir("/") < 0)
		return croft_error_errno(err, errno, "leaving the directory of a sandbox");
	if (!unmount_all(context, cell, err))
		return false;
	for (size_t i = 0; i < count; i++) {
		cell_path(context, cell, written[i], path, sizeof(path));
		if (!croft_remove_tree(AT_FDCWD, path, err))
			return false;
	}
	return true;
}
