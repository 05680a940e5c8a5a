/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stand-ins for trees that several jobs use: an image of all their names and attributes, mounted, and beside it, as
 * files of the disk at the same paths, those that at least two jobs opened. A job's overlay has names and attributes
 * from the image, and a file's data from the first of these folder and the tree in the mount that has it. So a stand-in
 * is right whatever files it has, and may get more and lose them while jobs use it.
 *
 * One thread makes them, behind the jobs; nobody waits for it. Whoever uses one has its folder locked, as with staged
 * trees (stage.c): it is not given up then. Nothing of it outlives the daemon but for what jobs use.
 */
#include "fs/daemon/internal.h"

#include "fs/digest_map.h"
#include "fs/mount/directory.h"
#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>

enum {
	JOBS_LEAST = 2,         /* that used a tree, or opened a file */
	TRIES = 4,              /* while some of a tree's names are not in the cache, or there is no room */
	TREES_MOST = 64,        /* remembered */
	FILES_MOST = 32 << 20,  /* bytes for the files remembered, of all trees */
	ENTRIES_MOST = 1000000, /* of a tree */
	IMAGE_SHARE = 4,        /* of the budget, that one image may take */
	FILE_SHARE = 2,         /* likewise, one file */
	DEPTH_MOST = 1024,
};

/* One that jobs opened. */
struct file {
	struct file *next; /* to be made */
	struct croft_digest digest;
	uint32_t jobs;
	bool wanted, made;
	char path[]; /* in the tree */
};

struct tree {
	struct croft_digest root;
	uint64_t number; /* its name */
	enum { NOTED, READY, UNFIT } state;
	unsigned jobs, tries;
	bool in_work;
	uint64_t bytes;
	struct croft_digest_map *files; /* by digests of their paths; NULL: a predecessor's */
	struct file *first, **end;      /* wanted */
	struct tree *newer, *older;     /* by use */
};

struct standins {
	struct standins_config config;
	char *folder;
	int folder_fd, trees_fd;
	struct copies *copies;
	pthread_t maker;
	bool making; /* there is such a thread */
	atomic_bool stop;

	pthread_mutex_t lock; /* guards: all below, and trees with their files */
	pthread_cond_t changed;
	bool crowded; /* what is least recently used is in the way of what is to be remembered */
	struct tree *newest, *oldest;
	size_t tree_count, file_bytes;
	uint64_t next_number, bytes;
};

/* The list -------------------------------------------------------------------------------------- */

static void unlink_tree(struct standins *standins, struct tree *tree)
{
	*(tree->newer ? &tree->newer->older : &standins->newest) = tree->older;
	*(tree->older ? &tree->older->newer : &standins->oldest) = tree->newer;
	standins->tree_count--;
}

static void link_newest(struct standins *standins, struct tree *tree)
{
	tree->newer = NULL;
	tree->older = standins->newest;
	*(standins->newest ? &standins->newest->newer : &standins->oldest) = tree;
	standins->newest = tree;
	standins->tree_count++;
}

static struct tree *find(struct standins *standins, const struct croft_digest *root)
{
	struct tree *tree = standins->newest;
	while (tree && !(tree->files && croft_digest_equal(&tree->root, root)))
		tree = tree->older;
	return tree;
}

/* Of memory, with its place in the map. */
static size_t bytes_of(const struct file *file)
{
	return sizeof(*file) + strlen(file->path) + 1 + 2 * sizeof(struct croft_digest);
}

/* Out of the list; `lock` held. */
static void free_tree(struct standins *standins, struct tree *tree)
{
	size_t position = 0;
	if (tree->files) {
		for (struct file *file; (file = croft_digest_map_next(tree->files, &position)); free(file))
			standins->file_bytes -= bytes_of(file);
		croft_digest_map_destroy(tree->files);
	}
	free(tree);
}

/* Giving up ------------------------------------------------------------------------------------- */

static void name_of(const struct tree *tree, char name[32])
{
	snprintf(name, 32, "%llu", (unsigned long long)tree->number);
}

/* Jobs have copies of the mount. */
static void unmount(const char *folder, const char *name)
{
	char path[PATH_MAX];
	if (snprintf(path, sizeof(path), "%s/trees/%s/names", folder, name) < PATH_MAX)
		umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW);
}

static bool remove_folder(struct standins *standins, const char *name, struct croft_error *err)
{
	unmount(standins->folder, name);
	return croft_remove_tree(standins->trees_fd, name, err);
}

/* False: somebody uses it. */
static bool hide(struct standins *standins, const char *name, char hidden[40])
{
	CROFT_CLEANUP_FD int fd =
		openat(standins->trees_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	snprintf(hidden, 40, "old-%s", name);
	return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
		renameat(standins->trees_fd, name, standins->trees_fd, hidden) == 0;
}

/* The least recently used that stands and that nobody uses, out of the list and hidden; `lock` held. */
static struct tree *take_unused(struct standins *standins)
{
	char name[32], hidden[40];
	for (struct tree *tree = standins->oldest; tree; tree = tree->newer) {
		name_of(tree, name);
		if (tree->state != READY || tree->in_work || !hide(standins, name, hidden))
			continue;
		unlink_tree(standins, tree);
		return tree;
	}
	return NULL;
}

static void release(void *user, uint64_t bytes)
{
	struct standins *standins = user;
	CROFT_LOCKED(&standins->lock);
	standins->bytes -= bytes < standins->bytes ? bytes : standins->bytes;
}

/* Hidden and out of the list; `lock` not held. */
static void give_up(struct standins *standins, struct tree *tree)
{
	char hidden[40];
	struct croft_error err = CROFT_ERROR_INIT;
	snprintf(hidden, sizeof(hidden), "old-%llu", (unsigned long long)tree->number);
	bool removed = remove_folder(standins, hidden, &err);
	if (!removed)
		croft_log(CROFT_LOG_WARNING, "a stand-in cannot be removed: %s", err.message);
	release(standins, removed ? tree->bytes + copies_sweep(standins->copies) : 0);
	CROFT_LOCKED(&standins->lock);
	free_tree(standins, tree);
}

/* Of the maker alone. */
static bool reserve(void *user, void *for_tree, uint64_t bytes, struct croft_error *err)
{
	struct standins *standins = user;
	struct tree *tree = for_tree;
	for (;;) {
		pthread_mutex_lock(&standins->lock);
		uint64_t budget = standins->config.budget_bytes;
		bool fits = bytes <= budget && standins->bytes <= budget - bytes;
		if (fits) {
			standins->bytes += bytes;
			if (tree)
				tree->bytes += bytes;
		}
		struct tree *old = fits ? NULL : take_unused(standins);
		pthread_mutex_unlock(&standins->lock);
		if (fits)
			return true;
		if (!old)
			return croft_error_set(err, CROFT_UNAVAILABLE, "there is no room for it");
		give_up(standins, old);
	}
}

/* Making ---------------------------------------------------------------------------------------- */

struct imaging {
	struct standins *standins;
	struct tree *tree;
};

static bool reserve_image(void *user, uint64_t bytes, struct croft_error *err)
{
	struct imaging *imaging = user;
	return reserve(imaging->standins, imaging->tree, bytes, err);
}

static struct directory *read_directory(void *user, const struct croft_digest *digest,
	struct croft_error *err)
{
	struct standins *standins = ((struct imaging *)user)->standins;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice bytes = CROFT_SLICE("", 0);
	if (atomic_load(&standins->stop)) {
		croft_error_set(err, CROFT_CANCELLED, "the daemon ends");
		return NULL;
	}
	if (!croft_digest_is_empty(digest) &&
		!croft_store_get(standins->config.store, digest, arena, &bytes, err))
		return NULL;
	return directory_decode(digest, bytes, err);
}

static bool make_image(struct standins *standins, struct tree *tree, int folder,
	struct croft_error *err)
{
	struct imaging imaging = {standins, tree};
	const struct erofs_source source = {
		.read = read_directory,
		.reserve = reserve_image,
		.user = &imaging,
		.uid = standins->config.uid,
		.gid = standins->config.gid,
		.entries_at_most = ENTRIES_MOST,
		.bytes_at_most = standins->config.budget_bytes / IMAGE_SHARE,
	};
	CROFT_CLEANUP_FD int fd = openat(folder, "image", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return croft_error_errno(err, errno, "making an image of names");
	return erofs_write(fd, &tree->root, &source, err);
}

static bool mount_image(struct standins *standins, const char *name, struct croft_error *err)
{
	char image[PATH_MAX], place[PATH_MAX];
	if (snprintf(image, sizeof(image), "%s/trees/%s/image", standins->folder, name) >= PATH_MAX ||
		snprintf(place, sizeof(place), "%s/trees/%s/names", standins->folder, name) >= PATH_MAX)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: too long a path", standins->folder);
	return mount(image, place, "erofs", MS_RDONLY | MS_NODEV | MS_NOSUID | MS_NOATIME, "noacl") == 0 ||
		croft_error_errno(err, errno, "mounting %s", image);
}

static bool make_tree(struct standins *standins, struct tree *tree, struct croft_error *err)
{
	char name[32];
	name_of(tree, name);
	CROFT_CLEANUP_FD int fd = mkdirat(standins->trees_fd, name, 0700) != 0 ? -1
		: openat(standins->trees_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || mkdirat(fd, "names", 0755) != 0 || mkdirat(fd, "files", 0755) != 0)
		return croft_error_errno(err, errno, "making a folder for a stand-in");
	return make_image(standins, tree, fd, err) && mount_image(standins, name, err);
}

/* The directories on the way to a file. */
static bool make_way(struct standins *standins, struct tree *tree, int files, const char *path,
	struct croft_error *err)
{
	CROFT_CLEANUP_FREE char *way = croft_strdup(path);
	for (char *slash = strchr(way, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdirat(files, way, 0755) == 0) {
			if (!reserve(standins, tree, copies_size(0), err))
				return false;
		} else if (errno != EEXIST) {
			return croft_error_errno(err, errno, "making a folder of a stand-in");
		}
		*slash = '/';
	}
	return true;
}

/* It appears whole. Mode and time are the image's to tell: content alone counts. */
static bool make_file(struct standins *standins, struct tree *tree, const struct file *file,
	struct croft_error *err)
{
	char name[32];
	struct directory_entry entry = {.kind = NODE_FILE, .size = file->digest.size_bytes, .mode = 0444};
	memcpy(entry.hash, file->digest.hash, sizeof(entry.hash));
	name_of(tree, name);
	CROFT_CLEANUP_FD int folder =
		openat(standins->trees_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	CROFT_CLEANUP_FD int files =
		folder < 0 ? -1 : openat(folder, "files", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (files < 0)
		return croft_error_errno(err, errno, "opening a stand-in's folder");
	if (!make_way(standins, tree, files, file->path, err))
		return false;
	bool ok = copies_put(standins->copies, &entry, folder, "new", tree, err) &&
		(renameat(folder, "new", files, file->path) == 0 ||
			croft_error_errno(err, errno, "naming a file of a stand-in"));
	unlinkat(folder, "new", 0);
	return ok;
}

static void make_files(struct standins *standins, struct tree *tree)
{
	struct croft_error err = CROFT_ERROR_INIT;
	for (struct file *file; !standins->stop && (file = tree->first);) {
		tree->first = file->next;
		if (!tree->first)
			tree->end = &tree->first;
		pthread_mutex_unlock(&standins->lock);
		bool ok = err.code != CROFT_UNAVAILABLE && make_file(standins, tree, file, &err);
		/* What the cache has lost, or has only in part, another job may bring. */
		if (!ok && err.code != CROFT_NOT_FOUND && err.code != CROFT_DATA_LOSS)
			croft_log(CROFT_LOG_DEBUG, "a stand-in lacks %s: %s", file->path, err.message);
		pthread_mutex_lock(&standins->lock);
		file->made = ok;
		file->wanted = false;
	}
}

static void work_on(struct standins *standins, struct tree *tree)
{
	tree->in_work = true;
	if (tree->state == NOTED) {
		struct croft_error err = CROFT_ERROR_INIT;
		char name[32], hidden[40];
		tree->number = standins->next_number++;
		name_of(tree, name);
		pthread_mutex_unlock(&standins->lock);
		bool ok = make_tree(standins, tree, &err);
		if (!ok) {
			croft_log(CROFT_LOG_INFO, "a tree gets no stand-in: %s", err.message);
			hide(standins, name, hidden);
			remove_folder(standins, hidden, NULL);
		}
		pthread_mutex_lock(&standins->lock);
		standins->bytes -= ok ? 0 : tree->bytes;
		tree->bytes = ok ? tree->bytes : 0;
		/* Other jobs may bring what is missing, or leave room. */
		bool later = (err.code == CROFT_NOT_FOUND || err.code == CROFT_DATA_LOSS ||
			err.code == CROFT_UNAVAILABLE) && ++tree->tries < TRIES;
		tree->jobs = ok ? tree->jobs : 0;
		tree->state = ok ? READY : later ? NOTED : UNFIT;
	}
	if (tree->state == READY)
		make_files(standins, tree);
	tree->in_work = false;
}

static struct tree *find_work(struct standins *standins)
{
	struct tree *tree = standins->newest;
	while (tree && (tree->jobs < JOBS_LEAST || !(tree->state == NOTED || (tree->state == READY && tree->first))))
		tree = tree->older;
	return tree;
}

/* Whether anything was in the way that could go. */
static bool make_way_for_new(struct standins *standins)
{
	struct tree *old = standins->crowded ? take_unused(standins) : NULL;
	standins->crowded = false;
	if (!old)
		return false;
	pthread_mutex_unlock(&standins->lock);
	give_up(standins, old);
	pthread_mutex_lock(&standins->lock);
	return true;
}

static void *make(void *user)
{
	struct standins *standins = user;
	CROFT_LOCKED(&standins->lock);
	while (!standins->stop) {
		if (make_way_for_new(standins))
			continue;
		struct tree *tree = find_work(standins);
		if (tree)
			work_on(standins, tree);
		else
			pthread_cond_wait(&standins->changed, &standins->lock);
	}
	return NULL;
}

/* Noting ---------------------------------------------------------------------------------------- */

static bool has_room(const struct standins *standins)
{
	return standins->tree_count < TREES_MOST && standins->file_bytes < FILES_MOST;
}

/* What stands is given up behind the jobs: there is room when the next ends. */
static bool make_room(struct standins *standins)
{
	for (struct tree *tree = standins->oldest, *newer; tree && !has_room(standins); tree = newer) {
		newer = tree->newer;
		if (tree->in_work || tree->state == READY)
			continue;
		unlink_tree(standins, tree);
		free_tree(standins, tree);
	}
	standins->crowded |= !has_room(standins);
	return has_room(standins);
}

static struct tree *note_tree(struct standins *standins, const struct croft_digest *root)
{
	struct tree *tree = find(standins, root);
	if (tree) {
		unlink_tree(standins, tree);
	} else {
		if (!make_room(standins))
			return NULL;
		tree = croft_zalloc(sizeof(*tree));
		tree->root = *root;
		tree->files = croft_digest_map_create();
		tree->end = &tree->first;
	}
	tree->jobs += tree->jobs < JOBS_LEAST;
	link_newest(standins, tree);
	return tree;
}

static void note_file(struct standins *standins, struct tree *tree, const char *path, size_t size,
	const struct croft_digest *digest)
{
	if (digest->size_bytes > standins->config.budget_bytes / FILE_SHARE)
		return;
	struct croft_digest key = croft_digest_of(path, size);
	struct file *file = croft_digest_map_get(tree->files, &key);
	if (!file && standins->file_bytes >= FILES_MOST) {
		standins->crowded |= standins->oldest != tree;
		return;
	}
	if (!file) {
		file = croft_zalloc(sizeof(*file) + size + 1);
		file->digest = *digest;
		memcpy(file->path, path, size);
		*croft_digest_map_at(tree->files, &key) = file;
		standins->file_bytes += bytes_of(file);
	}
	file->jobs += file->jobs < JOBS_LEAST;
	if (file->jobs < JOBS_LEAST || file->made || file->wanted)
		return;
	file->wanted = true;
	file->next = NULL;
	*tree->end = file;
	tree->end = &file->next;
}

void standins_note(struct standins *standins, const struct croft_digest *root, const char *paths,
	const struct croft_digest *digests, size_t count)
{
	if (!standins || croft_digest_is_empty(root))
		return;
	CROFT_LOCKED(&standins->lock);
	struct tree *tree = note_tree(standins, root);
	for (size_t i = 0; tree && tree->state != UNFIT && i < count; i++) {
		size_t size = strlen(paths);
		/* An empty one has no data to be read anywhere. */
		if (digests[i].size_bytes != UINT64_MAX && digests[i].size_bytes > 0)
			note_file(standins, tree, paths, size, &digests[i]);
		paths += size + 1;
	}
	pthread_cond_broadcast(&standins->changed);
}

bool standins_find(struct standins *standins, const struct croft_digest *root, char path[PATH_MAX])
{
	if (!standins)
		return false;
	CROFT_LOCKED(&standins->lock);
	struct tree *tree = find(standins, root);
	return tree && tree->state == READY &&
		snprintf(path, PATH_MAX, "%s/trees/%llu", standins->folder, (unsigned long long)tree->number) <
		PATH_MAX;
}

/* Life ------------------------------------------------------------------------------------------ */

/* Of the disk, without what is mounted. */
static uint64_t disk_bytes(int at, const char *name, dev_t device, unsigned depth)
{
	struct stat stat;
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	uint64_t bytes = 0;
	if (fd >= 0 && !folder)
		close(fd);
	for (struct dirent *entry; folder && depth < DEPTH_MOST && (entry = readdir(folder));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
			fstatat(fd, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) == 0 &&
			(!device || stat.st_dev == device))
			bytes += (uint64_t)stat.st_blocks * 512 +
				(S_ISDIR(stat.st_mode) ? disk_bytes(fd, entry->d_name, stat.st_dev, depth + 1) : 0);
	if (folder)
		closedir(folder);
	return bytes;
}

/* A job of a daemon before this one uses it: it can only be given up. */
static void keep_old(struct standins *standins, const char *name)
{
	struct tree *tree = croft_zalloc(sizeof(*tree));
	struct stat stat;
	dev_t device = fstat(standins->trees_fd, &stat) == 0 ? stat.st_dev : 0;
	tree->bytes = disk_bytes(standins->trees_fd, name, device, 0);
	standins->bytes += tree->bytes;
	tree->number = strtoull(name, NULL, 10);
	tree->state = READY;
	tree->end = &tree->first;
	link_newest(standins, tree);
}

static bool remove_old(struct standins *standins, struct croft_error *err)
{
	int fd = openat(standins->trees_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	if (!folder)
		return croft_error_errno(err, errno, "looking at stand-ins made before");
	bool ok = true;
	for (struct dirent *entry; ok && (entry = readdir(folder));) {
		char hidden[40];
		if (entry->d_name[0] == 'o')
			ok = remove_folder(standins, entry->d_name, err);
		else if (entry->d_name[0] == '.')
			continue;
		else if (hide(standins, entry->d_name, hidden))
			ok = remove_folder(standins, hidden, err);
		else
			keep_old(standins, entry->d_name);
	}
	closedir(folder);
	return ok && croft_remove_tree(standins->folder_fd, "files", err);
}

static bool open_folder(struct standins *standins, struct croft_error *err)
{
	const char *folder = standins->folder;
	if (mkdir(folder, 0700) == 0 || errno == EEXIST)
		standins->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (standins->folder_fd >= 0 && (mkdirat(standins->folder_fd, "trees", 0700) == 0 || errno == EEXIST))
		standins->trees_fd =
			openat(standins->folder_fd, "trees", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (standins->trees_fd < 0)
		return croft_error_errno(err, errno, "making %s", folder);
	return remove_old(standins, err);
}

static bool start(struct standins *standins, struct croft_error *err)
{
	const struct standins_config *config = &standins->config;
	/* No path that a daemon before this one told may come to stand for another tree. */
	if (getrandom(&standins->next_number, 6, 0) != 6)
		return croft_error_errno(err, errno, "asking for random bytes");
	if (!open_folder(standins, err) || !standin_can_be(standins->folder_fd, err))
		return false;
	standins->copies = copies_create(
		&(struct copies_config){
			.folder = standins->folder_fd,
			.staging = CROFT_STAGING_HARDLINK,
			.store = config->store,
			.reserve = reserve,
			.release = release,
			.user = standins,
			.stop = &standins->stop,
		},
		err);
	if (!standins->copies)
		return false;
	int result = pthread_create(&standins->maker, NULL, make, standins);
	if (result != 0)
		return croft_error_errno(err, result, "starting a thread");
	pthread_setname_np(standins->maker, "fs-standin");
	return standins->making = true;
}

struct standins *standins_create(const struct standins_config *config, struct croft_error *err)
{
	struct standins *standins = croft_zalloc(sizeof(*standins));
	standins->config = *config;
	standins->folder = croft_strdup(config->folder);
	standins->folder_fd = standins->trees_fd = -1;
	pthread_mutex_init(&standins->lock, NULL);
	pthread_cond_init(&standins->changed, NULL);
	if (start(standins, err))
		return standins;
	standins_destroy(standins);
	return NULL;
}

void standins_destroy(struct standins *standins)
{
	if (!standins)
		return;
	pthread_mutex_lock(&standins->lock);
	standins->stop = true;
	pthread_cond_broadcast(&standins->changed);
	pthread_mutex_unlock(&standins->lock);
	if (standins->making)
		pthread_join(standins->maker, NULL);
	pthread_mutex_lock(&standins->lock);
	for (struct tree *tree = standins->newest, *older; tree; tree = older) {
		older = tree->older;
		free_tree(standins, tree);
	}
	pthread_mutex_unlock(&standins->lock);
	copies_destroy(standins->copies);
	if (standins->trees_fd >= 0)
		close(standins->trees_fd);
	if (standins->folder_fd >= 0)
		close(standins->folder_fd);
	pthread_mutex_destroy(&standins->lock);
	pthread_cond_destroy(&standins->changed);
	free(standins->folder);
	free(standins);
}

void standins_clear(const char *folder)
{
	char path[PATH_MAX];
	struct croft_error err = CROFT_ERROR_INIT;
	if (snprintf(path, sizeof(path), "%s/trees", folder) >= PATH_MAX)
		return;
	DIR *trees = opendir(path);
	for (struct dirent *entry; trees && (entry = readdir(trees));)
		if (entry->d_name[0] != '.')
			unmount(folder, entry->d_name);
	if (trees)
		closedir(trees);
	if (!croft_remove_tree(AT_FDCWD, folder, &err))
		croft_log(CROFT_LOG_WARNING, "stand-ins cannot be removed: %s", err.message);
}
