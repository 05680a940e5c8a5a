/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stand-ins for trees that several jobs use: an image of all their names and attributes, with the data of small files
 * that at least two jobs opened, mounted, and beside it, as files of the disk at the same paths, larger ones that were.
 * A job's overlay has what the image has from there, and other data from the first of this folder and the tree in the
 * mount that has the file. So a stand-in is right whatever files it has, and may get more and lose them while jobs use it.
 *
 * An image does not change. Once it lacks a good share of the small files that are wanted, the tree gets a new stand-in;
 * until then they are copied into the folder.
 *
 * One thread makes them, behind the jobs; nobody waits for it. Whoever uses one has its folder locked, as with staged
 * trees (stage.c): it is not given up then. Nothing of it outlives the daemon but for what jobs use.
 */
#include "fs/daemon/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>

enum {
	JOBS_LEAST = 2,        /* that used a tree */
	TRIES = 4,             /* while some of a tree's names are not in the cache, or there is no room */
	TREES_MOST = 64,       /* remembered */
	FILES_MOST = 32 << 20, /* bytes for the files remembered, of all trees */
	FILE_SHARE = 2,        /* of the budget, that one file may take */
};

struct tree {
	struct croft_digest root;
	enum { NOTED, READY, UNFIT } state;
	unsigned jobs, tries;
	bool in_work;
	struct standin standin;
	struct hot *hot; /* NULL: the tree has a newer stand-in, or is a predecessor's */
	struct tree *newer, *older; /* by use */
};

struct standins {
	struct standin_place place;
	char *folder;
	int folder_fd;
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
	while (tree && !(tree->hot && croft_digest_equal(&tree->root, root)))
		tree = tree->older;
	return tree;
}

/* Out of the list; `lock` held. */
static void free_tree(struct tree *tree)
{
	hot_destroy(tree->hot);
	free(tree);
}

/* Giving up ------------------------------------------------------------------------------------- */

/* The least recently used that stands and that nobody uses, or such a one that is of no tree any more, out of the list
 * and hidden; `lock` held. */
static struct tree *take_unused(struct standins *standins, bool of_no_tree)
{
	for (struct tree *tree = standins->oldest; tree; tree = tree->newer) {
		if (tree->state != READY || tree->in_work || (of_no_tree && tree->hot) ||
			!standin_hide(&standins->place, &tree->standin))
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
	struct croft_error err = CROFT_ERROR_INIT;
	bool removed = standin_remove(&standins->place, &tree->standin, &err);
	if (!removed)
		croft_log(CROFT_LOG_WARNING, "a stand-in cannot be removed: %s", err.message);
	release(standins, removed ? tree->standin.bytes + copies_sweep(standins->place.copies) : 0);
	CROFT_LOCKED(&standins->lock);
	free_tree(tree);
}

/* Of the maker alone. */
static bool reserve(void *user, void *of_standin, uint64_t bytes, struct croft_error *err)
{
	struct standins *standins = user;
	struct standin *standin = of_standin;
	uint64_t budget = standins->place.budget_bytes;
	for (;;) {
		pthread_mutex_lock(&standins->lock);
		bool fits = bytes <= budget && standins->bytes <= budget - bytes;
		if (fits) {
			standins->bytes += bytes;
			if (standin)
				standin->bytes += bytes;
		}
		struct tree *old = fits ? NULL : take_unused(standins, false);
		pthread_mutex_unlock(&standins->lock);
		if (fits)
			return true;
		if (!old)
			return croft_error_set(err, CROFT_UNAVAILABLE, "there is no room for it");
		give_up(standins, old);
	}
}

/* Making ---------------------------------------------------------------------------------------- */

static bool wants_image(const struct tree *tree)
{
	return tree->state == NOTED ? tree->jobs >= JOBS_LEAST : tree->state == READY && hot_outgrew_image(tree->hot);
}

static void make_files(struct standins *standins, struct tree *tree)
{
	struct croft_error err = CROFT_ERROR_INIT;
	for (struct hot_file *file; !standins->stop && !wants_image(tree) && (file = hot_first(tree->hot));) {
		pthread_mutex_unlock(&standins->lock);
		bool ok = err.code != CROFT_UNAVAILABLE &&
			standin_copy(&standins->place, &tree->standin, file->path, &file->digest, &err);
		/* What the cache has lost, or has only in part, another job may bring. */
		if (!ok && err.code != CROFT_NOT_FOUND && err.code != CROFT_DATA_LOSS)
			croft_log(CROFT_LOG_DEBUG, "a stand-in lacks %s: %s", file->path, err.message);
		pthread_mutex_lock(&standins->lock);
		hot_made(tree->hot, file, ok);
	}
}

/* Of no tree any more. */
static void leave(struct standins *standins, const struct standin *standin)
{
	struct tree *tree = croft_zalloc(sizeof(*tree));
	tree->standin = *standin;
	tree->state = READY;
	tree->newer = standins->oldest;
	*(standins->oldest ? &standins->oldest->older : &standins->newest) = tree;
	standins->oldest = tree;
	standins->tree_count++;
}

struct making {
	struct standins *standins;
	struct tree *tree;
	struct standin standin;
};

/* What the cache has lost another job may bring. */
static bool wants_data(void *user, const struct croft_digest *digest, struct croft_slice path)
{
	struct making *making = user;
	bool there = false;
	CROFT_LOCKED(&making->standins->lock);
	struct hot_file *file = hot_find(making->tree->hot, path);
	if (!file || !croft_store_has(making->standins->place.store, digest, 1, &there, NULL) || !there)
		return false;
	file->image = making->standin.number;
	return true;
}

static bool make_standin(struct making *making, struct croft_error *err)
{
	struct standins *standins = making->standins;
	pthread_mutex_unlock(&standins->lock);
	bool ok = standin_make(&standins->place, &making->standin, &making->tree->root, wants_data, making, err);
	pthread_mutex_lock(&standins->lock);
	return ok;
}

/* In place of the one that stands, if any. */
static void renew(struct standins *standins, struct tree *tree)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct making making = {standins, tree, {.number = standins->next_number++}};
	hot_image_begins(tree->hot);
	if (make_standin(&making, &err)) {
		if (tree->state == READY)
			leave(standins, &tree->standin);
		tree->standin = making.standin;
		tree->state = READY;
		hot_image_stands(tree->hot, making.standin.number);
		return;
	}
	croft_log(CROFT_LOG_INFO, "a tree gets no %sstand-in: %s", tree->state == READY ? "newer " : "", err.message);
	standins->bytes -= making.standin.bytes;
	/* Other jobs may bring what is missing, or leave room. */
	bool later = (err.code == CROFT_NOT_FOUND || err.code == CROFT_DATA_LOSS ||
		err.code == CROFT_UNAVAILABLE) && ++tree->tries < TRIES;
	tree->jobs = 0;
	if (tree->state == NOTED && !later)
		tree->state = UNFIT;
}

static void work_on(struct standins *standins, struct tree *tree)
{
	tree->in_work = true;
	if (wants_image(tree))
		renew(standins, tree);
	if (tree->state == READY)
		make_files(standins, tree);
	tree->in_work = false;
}

static struct tree *find_work(struct standins *standins)
{
	struct tree *tree = standins->newest;
	while (tree && !(tree->hot && (wants_image(tree) || (tree->state == READY && hot_first(tree->hot)))))
		tree = tree->older;
	return tree;
}

/* Whether there was one. */
static bool give_up_one(struct standins *standins, bool of_no_tree)
{
	struct tree *old = take_unused(standins, of_no_tree);
	if (!old)
		return false;
	pthread_mutex_unlock(&standins->lock);
	give_up(standins, old);
	pthread_mutex_lock(&standins->lock);
	return true;
}

/* What is in the way goes first. What is of no tree goes last: its tree has its newer one's files by then, which are the
 * same on the disk. */
static bool work(struct standins *standins)
{
	bool crowded = standins->crowded;
	standins->crowded = false;
	if (crowded && give_up_one(standins, false))
		return true;
	struct tree *tree = find_work(standins);
	if (tree)
		work_on(standins, tree);
	return tree || give_up_one(standins, true);
}

static void *make(void *user)
{
	struct standins *standins = user;
	CROFT_LOCKED(&standins->lock);
	while (!standins->stop)
		if (!work(standins))
			pthread_cond_wait(&standins->changed, &standins->lock);
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
		free_tree(tree);
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
		tree->hot = hot_create(&standins->file_bytes);
	}
	tree->jobs += tree->jobs < JOBS_LEAST;
	link_newest(standins, tree);
	return tree;
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
		/* An empty one has no data to be read anywhere; what is no file, an even larger size. */
		if (digests[i].size_bytes > 0 && digests[i].size_bytes <= standins->place.budget_bytes / FILE_SHARE &&
			!hot_note(tree->hot, CROFT_SLICE(paths, size), &digests[i], FILES_MOST))
			standins->crowded |= standins->oldest != tree;
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
		snprintf(path, PATH_MAX, "%s/trees/%llu", standins->folder, (unsigned long long)tree->standin.number) <
		PATH_MAX;
}

/* Life ------------------------------------------------------------------------------------------ */

static bool remove_old(struct standins *standins, struct croft_error *err)
{
	const struct standin_place *place = &standins->place;
	int fd = openat(place->trees_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	if (!folder)
		return croft_error_errno(err, errno, "looking at stand-ins made before");
	bool ok = true;
	for (struct dirent *entry; ok && (entry = readdir(folder));) {
		if (entry->d_name[0] == '.')
			continue;
		bool hidden = entry->d_name[0] == 'o';
		const char *number = entry->d_name + (hidden ? strlen(STANDIN_HIDDEN) : 0);
		struct standin standin = {.number = strtoull(number, NULL, 10)};
		if (hidden || standin_hide(place, &standin)) {
			ok = standin_remove(place, &standin, err);
			continue;
		}
		/* A job of a daemon before this one uses it. */
		standin.bytes = standin_disk_bytes(place, &standin);
		standins->bytes += standin.bytes;
		leave(standins, &standin);
	}
	closedir(folder);
	return ok && croft_remove_tree(standins->folder_fd, "files", err);
}

static bool open_folder(struct standins *standins, struct croft_error *err)
{
	const char *folder = standins->folder;
	int *trees = &standins->place.trees_fd;
	if (mkdir(folder, 0700) == 0 || errno == EEXIST)
		standins->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (standins->folder_fd >= 0 && (mkdirat(standins->folder_fd, "trees", 0700) == 0 || errno == EEXIST))
		*trees = openat(standins->folder_fd, "trees", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*trees < 0)
		return croft_error_errno(err, errno, "making %s", folder);
	return remove_old(standins, err);
}

static struct copies *make_copies(struct standins *standins, struct croft_error *err)
{
	const struct copies_config config = {
		.folder = standins->folder_fd,
		.staging = CROFT_STAGING_HARDLINK,
		.store = standins->place.store,
		.reserve = reserve,
		.release = release,
		.user = standins,
		.stop = &standins->stop,
	};
	return copies_create(&config, err);
}

static bool start(struct standins *standins, struct croft_error *err)
{
	/* No path that a daemon before this one told may come to stand for another tree. */
	if (getrandom(&standins->next_number, 6, 0) != 6)
		return croft_error_errno(err, errno, "asking for random bytes");
	if (!open_folder(standins, err) || !standin_can_be(standins->folder_fd, err) ||
		!(standins->place.copies = make_copies(standins, err)))
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
	standins->folder = croft_strdup(config->folder);
	standins->folder_fd = -1;
	standins->place = (struct standin_place){
		.folder = standins->folder,
		.trees_fd = -1,
		.budget_bytes = config->budget_bytes,
		.uid = config->uid,
		.gid = config->gid,
		.store = config->store,
		.reserve = reserve,
		.user = standins,
		.stop = &standins->stop,
	};
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
		free_tree(tree);
	}
	pthread_mutex_unlock(&standins->lock);
	copies_destroy(standins->place.copies);
	if (standins->place.trees_fd >= 0)
		close(standins->place.trees_fd);
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
			standin_unmount(folder, entry->d_name);
	if (trees)
		closedir(trees);
	if (!croft_remove_tree(AT_FDCWD, folder, &err))
		croft_log(CROFT_LOG_WARNING, "stand-ins cannot be removed: %s", err.message);
}
