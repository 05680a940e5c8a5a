/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whole trees as plain files, for machines without FUSE. A tree that was staged stays until its room is
 * needed, so that the next job with the same inputs finds it.
 *
 * Whoever uses a tree has its folder locked (flock, shared; see client.c). So a tree in use is known as such
 * to whatever daemon comes, and is free when its job, or its agent, is gone. A tree loses its name before it
 * is removed: whoever locked it and finds it by its name has it whole.
 */
#include "fs/daemon/internal.h"

#include "fs/digest_map.h"
#include "fs/mount/directory.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>

enum { FETCH_AT_ONCE = 4096, DEPTH_LIMIT = 1024 };

struct tree {
	struct croft_digest root;
	uint64_t number; /* its name */
	enum { BEING_MADE, READY } state;
	uint64_t bytes;
	struct tree *newer, *older; /* by use */
};

struct stager {
	struct stager_config config;
	char *folder;
	int folder_fd, trees_fd;
	struct copies *copies;

	pthread_mutex_t lock; /* guards: all below, and the fields of trees */
	pthread_cond_t changed;
	struct tree *newest, *oldest;
	uint64_t trees_made, bytes /* of trees and pool */;
};

/* The list -------------------------------------------------------------------------------------- */

static void unlink_tree(struct stager *stager, struct tree *tree)
{
	*(tree->newer ? &tree->newer->older : &stager->newest) = tree->older;
	*(tree->older ? &tree->older->newer : &stager->oldest) = tree->newer;
}

static void link_newest(struct stager *stager, struct tree *tree)
{
	tree->newer = NULL;
	tree->older = stager->newest;
	*(stager->newest ? &stager->newest->newer : &stager->oldest) = tree;
	stager->newest = tree;
}

static struct tree *find(struct stager *stager, const struct croft_digest *root)
{
	struct tree *tree = stager->newest;
	while (tree && !croft_digest_equal(&tree->root, root))
		tree = tree->older;
	return tree;
}

/* Room ------------------------------------------------------------------------------------------ */

static void name_of(const struct tree *tree, char name[32])
{
	snprintf(name, 32, "%llu", (unsigned long long)tree->number);
}

/* False: somebody uses it. Else only `hidden`, which is to be removed, is left of it. */
static bool hide(struct stager *stager, const char *name, char hidden[40])
{
	CROFT_CLEANUP_FD int fd =
		openat(stager->trees_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	snprintf(hidden, 40, "old-%s", name);
	return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
		renameat(stager->trees_fd, name, stager->trees_fd, hidden) == 0;
}

/* Of a tree that is out of the list; the lock is not held. What cannot be removed goes on being counted. */
static void remove_tree(struct stager *stager, struct tree *tree)
{
	char hidden[40];
	struct croft_error err = CROFT_ERROR_INIT;
	snprintf(hidden, sizeof(hidden), "old-%llu", (unsigned long long)tree->number);
	bool removed = croft_remove_tree(stager->trees_fd, hidden, &err);
	if (!removed)
		croft_log(CROFT_LOG_WARNING, "a staged tree cannot be removed: %s", err.message);
	pthread_mutex_lock(&stager->lock);
	stager->bytes -= removed ? tree->bytes : 0;
	pthread_mutex_unlock(&stager->lock);
	free(tree);
}

static void release(void *user, uint64_t bytes)
{
	struct stager *stager = user;
	CROFT_LOCKED(&stager->lock);
	stager->bytes -= bytes < stager->bytes ? bytes : stager->bytes;
}

static void sweep(struct stager *stager)
{
	release(stager, copies_sweep(stager->copies));
}

/* The least recently used that nobody uses, hidden; the lock is held. */
static struct tree *take_unused(struct stager *stager)
{
	char name[32], hidden[40];
	for (struct tree *tree = stager->oldest; tree; tree = tree->newer) {
		name_of(tree, name);
		if (tree->state != READY || !hide(stager, name, hidden))
			continue;
		unlink_tree(stager, tree);
		return tree;
	}
	return NULL;
}

static bool reserve(void *user, void *for_tree, uint64_t bytes, struct croft_error *err)
{
	struct stager *stager = user;
	struct tree *tree = for_tree;
	bool swept = false;
	for (;;) {
		pthread_mutex_lock(&stager->lock);
		uint64_t used = stager->bytes, budget = stager->config.budget_bytes;
		bool fits = bytes <= budget && used <= budget - bytes;
		if (fits) {
			stager->bytes += bytes;
			if (tree)
				tree->bytes += bytes;
		}
		struct tree *old = fits ? NULL : take_unused(stager);
		pthread_mutex_unlock(&stager->lock);
		if (fits)
			return true;
		if (old)
			remove_tree(stager, old);
		else if (swept)
			return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
				"the inputs of running jobs take %llu of the %llu bytes that may be staged (half "
				"of --cache): there is no room for %llu more",
				(unsigned long long)used, (unsigned long long)budget,
				(unsigned long long)bytes);
		swept = !old;
		sweep(stager);
	}
}

/* Fetching -------------------------------------------------------------------------------------- */

static struct directory *read_directory(struct stager *stager, const struct croft_digest *digest,
	struct croft_error *err)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_store *store = stager->config.store;
	struct croft_slice bytes = CROFT_SLICE("", 0);
	struct croft_error failed = CROFT_ERROR_INIT;
	if (!croft_digest_is_empty(digest) &&
		!croft_store_get(store, digest, arena, &bytes, &failed)) {
		if (!stager->config.fetcher ||
			(failed.code != CROFT_NOT_FOUND && failed.code != CROFT_DATA_LOSS)) {
			*err = failed;
			return NULL;
		}
		if (!croft_fetch_wait(stager->config.fetcher, digest, NULL, err) ||
			!croft_store_get(store, digest, arena, &bytes, err))
			return NULL;
	}
	return directory_decode(digest, bytes, err);
}

/* What there is to fetch: each content once, however often it stands in the tree. */
struct wanted {
	struct stager *stager;
	struct croft_digest_map *seen;
	struct croft_digest digests[FETCH_AT_ONCE];
	size_t count;
	struct gathered *gathered;
};

static bool fetch_wanted(struct wanted *wanted, struct croft_error *err)
{
	bool there[FETCH_AT_ONCE];
	size_t count = 0;
	if (wanted->count == 0 ||
		!croft_store_has(wanted->stager->config.store, wanted->digests, wanted->count, there, err))
		return wanted->count == 0;
	for (size_t i = 0; i < wanted->count; i++)
		if (!there[i])
			wanted->digests[count++] = wanted->digests[i];
	wanted->count = 0;
	return gather_all(wanted->stager->config.fetcher, wanted->digests, count, false,
		wanted->gathered, err);
}

/* True for those that were seen before, too. */
static bool is_new(struct wanted *wanted, const struct croft_digest *digest)
{
	void **place = croft_digest_map_at(wanted->seen, digest);
	bool new = !*place;
	*place = wanted;
	return new;
}

static bool want_below(struct wanted *wanted, const struct croft_digest *digest, unsigned depth,
	struct croft_error *err)
{
	if (depth == DEPTH_LIMIT)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"directories stand in one another more than %d deep", DEPTH_LIMIT);
	struct directory *directory = read_directory(wanted->stager, digest, err);
	bool ok = directory != NULL;
	for (uint32_t i = 0; ok && i < directory->count; i++) {
		const struct directory_entry *entry = &directory->entries[i];
		struct croft_digest below = {.size_bytes = entry->size};
		if (entry->kind == NODE_SYMLINK || entry->size == 0)
			continue;
		memcpy(below.hash, entry->hash, sizeof(below.hash));
		if (!is_new(wanted, &below))
			continue;
		if (entry->kind == NODE_DIRECTORY) {
			ok = want_below(wanted, &below, depth + 1, err);
			continue;
		}
		wanted->digests[wanted->count++] = below;
		if (wanted->count == FETCH_AT_ONCE)
			ok = fetch_wanted(wanted, err);
	}
	directory_free(directory);
	return ok;
}

static bool fetch_all(struct stager *stager, const struct croft_digest *root,
	struct gathered *gathered, struct croft_error *err)
{
	struct croft_tree_totals totals;
	/* Fetches the Directory messages, a level at a time. */
	if (!measurer_measure(stager->config.measurer, root, &totals, err))
		return false;
	uint64_t entries, least;
	if (__builtin_add_overflow(totals.files, totals.directories, &entries) ||
		__builtin_mul_overflow(entries, 4096, &least) || least > stager->config.budget_bytes)
		return croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
			"the input root has %llu files: more than the %llu bytes that may be staged (half of "
			"--cache) can hold",
			(unsigned long long)totals.files, (unsigned long long)stager->config.budget_bytes);
	struct wanted *wanted = croft_zalloc(sizeof(*wanted));
	wanted->stager = stager;
	wanted->seen = croft_digest_map_create();
	wanted->gathered = gathered;
	bool ok = want_below(wanted, root, 0, err) && fetch_wanted(wanted, err);
	croft_digest_map_destroy(wanted->seen);
	free(wanted);
	return ok;
}

/* Making ---------------------------------------------------------------------------------------- */

static bool make_symlink(struct stager *stager, const struct directory *directory,
	const struct directory_entry *entry, int fd, const char *name, struct croft_error *err)
{
	const struct timespec times[2] = {{.tv_sec = entry->mtime_s, .tv_nsec = entry->mtime_ns},
		{.tv_sec = entry->mtime_s, .tv_nsec = entry->mtime_ns}};
	uid_t uid = stager->config.uid;
	if (symlinkat(directory->names + entry->target, fd, name) == 0 &&
		(uid == 0 || fchownat(fd, name, uid, stager->config.gid, AT_SYMLINK_NOFOLLOW) == 0) &&
		utimensat(fd, name, times, AT_SYMLINK_NOFOLLOW) == 0)
		return true;
	return croft_error_errno(err, errno, "making the staged link %s", name);
}

/* Last, since making entries changes the time, and a mode may forbid it. */
static bool finish_directory(struct stager *stager, const struct directory *directory, int fd,
	struct croft_error *err)
{
	const struct timespec times[2] = {
		{.tv_sec = directory->mtime_s, .tv_nsec = directory->mtime_ns},
		{.tv_sec = directory->mtime_s, .tv_nsec = directory->mtime_ns}};
	uid_t uid = stager->config.uid;
	if ((uid == 0 || fchown(fd, uid, stager->config.gid) == 0) && fchmod(fd, directory->mode) == 0 &&
		futimens(fd, times) == 0)
		return true;
	return croft_error_errno(err, errno, "the attributes of a staged folder");
}

static bool make_directory(struct stager *stager, struct tree *tree,
	const struct croft_digest *digest, int parent, const char *name, struct croft_error *err)
{
	if (!reserve(stager, tree, copies_size(0), err))
		return false;
	CROFT_CLEANUP_FD int fd = mkdirat(parent, name, 0700) != 0 ? -1
		: openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "making the staged folder %s", name);
	struct directory *directory = read_directory(stager, digest, err);
	bool ok = directory != NULL;
	for (uint32_t i = 0; ok && i < directory->count; i++) {
		const struct directory_entry *entry = &directory->entries[i];
		const char *below = directory->names + entry->name;
		if (entry->kind == NODE_FILE) {
			ok = copies_put(stager->copies, entry, fd, below, tree, err);
		} else if (entry->kind == NODE_SYMLINK) {
			ok = make_symlink(stager, directory, entry, fd, below, err);
		} else {
			struct croft_digest child = {.size_bytes = entry->size};
			memcpy(child.hash, entry->hash, sizeof(child.hash));
			ok = make_directory(stager, tree, &child, fd, below, err);
		}
	}
	ok = ok && finish_directory(stager, directory, fd, err);
	directory_free(directory);
	return ok;
}

static bool make_tree(struct stager *stager, struct tree *tree, struct gathered *gathered,
	struct croft_error *err)
{
	char name[32];
	name_of(tree, name);
	return fetch_all(stager, &tree->root, gathered, err) &&
		make_directory(stager, tree, &tree->root, stager->trees_fd, name, err);
}

/* With the lock held: the tree, ready or to be made by the caller; waits while another makes it. */
static struct tree *take(struct stager *stager, const struct croft_digest *root)
{
	struct tree *tree;
	while ((tree = find(stager, root)) && tree->state == BEING_MADE)
		pthread_cond_wait(&stager->changed, &stager->lock);
	if (tree) {
		unlink_tree(stager, tree);
	} else {
		tree = croft_zalloc(sizeof(*tree));
		tree->root = *root;
		tree->number = stager->trees_made++;
	}
	link_newest(stager, tree);
	return tree;
}

bool stager_stage(struct stager *stager, const struct croft_digest *root, char path[PATH_MAX],
	struct gathered *gathered, struct croft_error *err)
{
	char name[32], hidden[40];
	pthread_mutex_lock(&stager->lock);
	struct tree *tree = take(stager, root);
	bool ready = tree->state == READY;
	name_of(tree, name);
	pthread_mutex_unlock(&stager->lock);
	snprintf(path, PATH_MAX, "%s/trees/%s", stager->folder, name);
	if (ready)
		return true;
	bool ok = make_tree(stager, tree, gathered, err);
	pthread_mutex_lock(&stager->lock);
	if (ok)
		tree->state = READY;
	else
		unlink_tree(stager, tree);
	pthread_cond_broadcast(&stager->changed);
	pthread_mutex_unlock(&stager->lock);
	if (ok)
		return true;
	hide(stager, name, hidden);
	remove_tree(stager, tree);
	return croft_error_wrap(err, "staging the input root");
}

/* Life ------------------------------------------------------------------------------------------ */

/* In use by a job of a daemon before this one: only its room is of interest. */
static void keep_old(struct stager *stager, const char *name)
{
	struct tree *tree = croft_zalloc(sizeof(*tree));
	tree->number = strtoull(name, NULL, 10);
	tree->state = READY;
	tree->root.size_bytes = UINT64_MAX; /* no tree's */
	if (tree->number >= stager->trees_made)
		stager->trees_made = tree->number + 1;
	link_newest(stager, tree);
}

/* What a predecessor staged was not synced, so it is not trusted. */
static bool remove_old(struct stager *stager, struct croft_error *err)
{
	int fd = openat(stager->trees_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	if (!folder)
		return croft_error_errno(err, errno, "looking at what was staged before");
	bool ok = true;
	for (struct dirent *entry; ok && (entry = readdir(folder));) {
		char hidden[40];
		if (entry->d_name[0] == 'o')
			ok = croft_remove_tree(stager->trees_fd, entry->d_name, err);
		else if (entry->d_name[0] == '.')
			continue;
		else if (hide(stager, entry->d_name, hidden))
			ok = croft_remove_tree(stager->trees_fd, hidden, err);
		else
			keep_old(stager, entry->d_name);
	}
	closedir(folder);
	return (ok && croft_remove_tree(stager->folder_fd, "files", err)) ||
		croft_error_wrap(err, "removing what was staged before");
}

static bool open_folder(struct stager *stager, struct croft_error *err)
{
	const char *folder = stager->folder;
	/* Not for others to look into: set-id files of the farm's are no business of the host's. */
	if (mkdir(folder, 0700) == 0 || errno == EEXIST)
		stager->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (stager->folder_fd >= 0 && (mkdirat(stager->folder_fd, "trees", 0700) == 0 || errno == EEXIST))
		stager->trees_fd =
			openat(stager->folder_fd, "trees", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (stager->trees_fd < 0)
		return croft_error_errno(err, errno, "making %s", folder);
	return remove_old(stager, err);
}

struct stager *stager_create(const struct stager_config *config, struct croft_error *err)
{
	struct stager *stager = croft_zalloc(sizeof(*stager));
	stager->config = *config;
	stager->folder = croft_strdup(config->folder);
	stager->folder_fd = stager->trees_fd = -1;
	pthread_mutex_init(&stager->lock, NULL);
	pthread_cond_init(&stager->changed, NULL);
	if (open_folder(stager, err))
		stager->copies = copies_create(
			&(struct copies_config){
				.folder = stager->folder_fd,
				.staging = config->staging,
				.uid = config->uid,
				.gid = config->gid,
				.store = config->store,
				.fetcher = config->fetcher,
				.reserve = reserve,
				.release = release,
				.user = stager,
			},
			err);
	if (stager->copies)
		return stager;
	stager_destroy(stager);
	return NULL;
}

bool stager_is_used(struct stager *stager)
{
	bool used = false;
	CROFT_LOCKED(&stager->lock);
	for (struct tree *tree = stager->newest; tree && !used; tree = tree->older) {
		char name[32];
		name_of(tree, name);
		CROFT_CLEANUP_FD int fd =
			openat(stager->trees_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		used = tree->state == BEING_MADE || (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0);
	}
	return used;
}

enum croft_staging stager_staging(const struct stager *stager)
{
	return copies_staging(stager->copies);
}

/* Leaves what is staged: jobs may be in it. The next start removes it. */
void stager_destroy(struct stager *stager)
{
	if (!stager)
		return;
	for (struct tree *tree = stager->newest, *older; tree; tree = older) {
		older = tree->older;
		free(tree);
	}
	copies_destroy(stager->copies);
	if (stager->trees_fd >= 0)
		close(stager->trees_fd);
	if (stager->folder_fd >= 0)
		close(stager->folder_fd);
	pthread_mutex_destroy(&stager->lock);
	pthread_cond_destroy(&stager->changed);
	free(stager->folder);
	free(stager);
}
