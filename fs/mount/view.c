/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Directories in which others say what stands where. They are asked by threads of their own, while the request waits
 * as one waits that lacks a blob. The kernel remembers what they said for a second: the numbers and times of a folder
 * are always those of now, so that it lists it anew.
 */
#include "fs/mount/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <xxhash.h>

enum {
	ASKERS = 4,
	LISTS_KEPT = 16,
	ENTRIES_AT_MOST = 1000000, /* in one folder */
};

/* Where a reader of the list stands is told by an entry's own number, so it stays right when others come and go. */
struct entry {
	uint64_t cookie; /* of the name; they are sorted by it */
	char *name;
};

struct list {
	unsigned users; /* guarded by the lock of `views` */
	char *folder;
	struct entry *entries;
	size_t count, room;
};

struct view_answer {
	struct views *views;
	struct croft_view_place place;
	struct list *list; /* of READDIR */
	struct croft_error error;
};

struct views {
	struct croft_mount_view *views;
	size_t count;
	pthread_t askers[ASKERS];
	unsigned asker_count;
	pthread_mutex_t lock; /* guards: all below */
	pthread_cond_t changed;
	bool closed;
	struct asked *first, **end;
	struct list *kept[LISTS_KEPT]; /* for readers who come back for the rest */
	unsigned next_kept;
};

struct asked {
	struct asked *next;
	struct request *request;
};

/* Lists --------------------------------------------------------------------------------------- */

/* `lock` held. */
static void release_list(struct list *list)
{
	if (!list || --list->users > 0)
		return;
	for (size_t i = 0; i < list->count; i++)
		free(list->entries[i].name);
	free(list->entries);
	free(list->folder);
	free(list);
}

static struct list *find_list(struct views *views, const char *folder)
{
	CROFT_LOCKED(&views->lock);
	for (size_t i = 0; i < LISTS_KEPT; i++)
		if (views->kept[i] && strcmp(views->kept[i]->folder, folder) == 0) {
			views->kept[i]->users++;
			return views->kept[i];
		}
	return NULL;
}

static void keep_list(struct views *views, struct list *list)
{
	CROFT_LOCKED(&views->lock);
	unsigned to = views->next_kept;
	for (unsigned i = 0; i < LISTS_KEPT; i++)
		if (views->kept[i] && strcmp(views->kept[i]->folder, list->folder) == 0)
			to = i;
	if (to == views->next_kept)
		views->next_kept = (to + 1) % LISTS_KEPT;
	release_list(views->kept[to]);
	views->kept[to] = list;
	list->users++;
}

static void see_entry(void *visitor, const char *name)
{
	struct list *list = visitor;
	if (list->count == ENTRIES_AT_MOST)
		return;
	if (list->count == list->room)
		list->entries = croft_realloc(list->entries, list->room = list->room * 2 + 64, sizeof(*list->entries));
	/* Positive in an off_t, and none of those of the dots. */
	uint64_t cookie = (XXH3_64bits(name, strlen(name)) >> 2) + 3;
	list->entries[list->count++] = (struct entry){cookie, croft_strdup(name)};
}

static int compare_entries(const void *one, const void *other)
{
	const struct entry *a = one, *b = other;
	return a->cookie < b->cookie ? -1 : a->cookie > b->cookie;
}

static size_t first_behind(const struct list *list, uint64_t cookie)
{
	size_t low = 0, high = list->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (list->entries[middle].cookie <= cookie)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Asking -------------------------------------------------------------------------------------- */

void view_answer_free(struct view_answer *answer)
{
	if (!answer)
		return;
	pthread_mutex_lock(&answer->views->lock);
	release_list(answer->list);
	pthread_mutex_unlock(&answer->views->lock);
	free(answer);
}

/* Whose folder "names" or "names/some" is; *path is what stands behind the view's name. */
static const struct croft_mount_view *view_of(const struct views *views, const char *folder, const char **path)
{
	const char *slash = strchr(folder, '/');
	size_t size = slash ? (size_t)(slash - folder) : strlen(folder);
	*path = slash ? slash + 1 : folder + size;
	for (size_t i = 0; i < views->count; i++)
		if (strlen(views->views[i].name) == size && memcmp(views->views[i].name, folder, size) == 0)
			return &views->views[i];
	abort(); /* folders are made by this file only */
}

static struct list *ask_list(const struct croft_mount_view *view, const char *folder, const char *path,
	struct croft_error *err)
{
	struct list *list = croft_zalloc(sizeof(*list));
	list->users = 1;
	list->folder = croft_strdup(folder);
	if (view->list && view->list(view->user, path, see_entry, list, err) && list->count == ENTRIES_AT_MOST)
		croft_log(CROFT_LOG_WARNING, "%s: more than %d entries, the rest is not listed", folder, ENTRIES_AT_MOST);
	if (list->count)
		qsort(list->entries, list->count, sizeof(*list->entries), compare_entries);
	return list;
}

static void ask(struct views *views, struct request *request)
{
	const char *path;
	const struct croft_mount_view *view = view_of(views, request->folder, &path);
	struct view_answer *answer = croft_zalloc(sizeof(*answer));
	answer->views = views;
	answer->error = CROFT_ERROR_INIT;
	if (request->name) {
		CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
		const char *place = *path ? croft_arena_printf(arena, "%s/%s", path, request->name) : request->name;
		view->look_up(view->user, place, &answer->place, &answer->error);
	} else {
		answer->list = ask_list(view, request->folder, path, &answer->error);
		if (answer->error.code == CROFT_OK)
			keep_list(views, answer->list);
	}
	request->answer = answer;
	request_view_answered(request);
}

static void *serve(void *user)
{
	struct views *views = user;
	pthread_mutex_lock(&views->lock);
	for (;;) {
		struct asked *asked = views->first;
		if (!asked && views->closed)
			break;
		if (!asked) {
			pthread_cond_wait(&views->changed, &views->lock);
			continue;
		}
		views->first = asked->next;
		if (!views->first)
			views->end = &views->first;
		bool closed = views->closed;
		pthread_mutex_unlock(&views->lock);
		if (closed) /* it was answered with the mount's end */
			request_view_answered(asked->request);
		else
			ask(views, asked->request);
		free(asked);
		pthread_mutex_lock(&views->lock);
	}
	pthread_mutex_unlock(&views->lock);
	return NULL;
}

void views_ask(struct views *views, struct request *request)
{
	struct asked *asked = croft_zalloc(sizeof(*asked));
	asked->request = request;
	CROFT_LOCKED(&views->lock);
	*views->end = asked;
	views->end = &asked->next;
	pthread_cond_signal(&views->changed);
}

/* Answering ----------------------------------------------------------------------------------- */

/* True: answered. */
static bool refuse(struct request *request, const struct node *folder)
{
	const struct croft_error *error = &request->answer->error;
	int code = EIO;
	if (error->code == CROFT_UNAVAILABLE || error->code == CROFT_DEADLINE_EXCEEDED)
		code = EHOSTDOWN;
	else if (error->code == CROFT_PERMISSION_DENIED || error->code == CROFT_UNAUTHENTICATED)
		code = EACCES;
	croft_log(CROFT_LOG_WARNING, "%s%s%s: %s", folder->target, request->name ? "/" : "",
		request->name ? request->name : "", error->message);
	return reply_error(request, code);
}

static struct node folder_node(char *path)
{
	struct node node = {.kind = NODE_FOLDER, .mode = 0555, .target = path, .size = strlen(path)};
	node.ino = node_folder_ino(&node);
	return node;
}

bool view_look_up(struct request *request, const struct node *folder)
{
	if (!request->answer)
		return request_wait_view(request, folder->target);
	const struct view_answer *answer = request->answer;
	if (answer->error.code != CROFT_OK)
		return refuse(request, folder);
	request->changing = true;
	if (answer->place.kind == CROFT_VIEW_NOTHING)
		return reply_absent(request, CHANGING_S);
	if (answer->place.kind == CROFT_VIEW_TREE)
		return reply_tree(request, folder, &answer->place.root);
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct node node = folder_node(croft_arena_printf(arena, "%s/%s", folder->target, request->name));
	return reply_node(request, &node);
}

/* Without attributes: a tree's are looked up when they are asked for. */
static bool add_entry(struct request *request, char *buffer, size_t *used, const struct entry *entry)
{
	struct fuse_entry_param about = {.attr.st_ino = entry->cookie, .attr.st_mode = S_IFDIR};
	char *to = buffer + *used;
	size_t room = request->size - *used;
	off_t next = (off_t)entry->cookie;
	size_t need = request->plus
		? fuse_add_direntry_plus(request->fuse, to, room, entry->name, &about, next)
		: fuse_add_direntry(request->fuse, to, room, entry->name, &about.attr, next);
	if (need > room)
		return false;
	*used += need;
	return true;
}

static void reply_list(struct request *request, const struct node *folder, const struct list *list)
{
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(request->size);
	struct entry dots[] = {{1, "."}, {2, ".."}};
	size_t used = 0, at = first_behind(list, request->offset);
	bool room = true;
	for (size_t i = request->offset; room && i < 2; i++)
		room = add_entry(request, buffer, &used, &dots[i]);
	for (; room && at < list->count; at++)
		room = add_entry(request, buffer, &used, &list->entries[at]);
	fuse_reply_buf(request->fuse, buffer, used);
}

bool view_list(struct request *request, const struct node *folder)
{
	struct views *views = request->mount->views;
	if (request->answer && request->answer->error.code != CROFT_OK)
		return refuse(request, folder);
	if (request->answer) {
		reply_list(request, folder, request->answer->list);
		return true;
	}
	struct list *list = request->offset > 0 ? find_list(views, folder->target) : NULL;
	if (!list)
		return request_wait_view(request, folder->target);
	reply_list(request, folder, list);
	CROFT_LOCKED(&views->lock);
	release_list(list);
	return true;
}

/* Life ---------------------------------------------------------------------------------------- */

size_t views_count(const struct views *views)
{
	return views ? views->count : 0;
}

bool views_at(const struct views *views, size_t position, struct node *node)
{
	if (position >= views_count(views))
		return false;
	*node = folder_node((char *)views->views[position].name);
	return true;
}

void views_destroy(struct views *views)
{
	if (!views)
		return;
	pthread_mutex_lock(&views->lock);
	views->closed = true;
	pthread_cond_broadcast(&views->changed);
	pthread_mutex_unlock(&views->lock);
	for (unsigned i = 0; i < views->asker_count; i++)
		pthread_join(views->askers[i], NULL);
	pthread_mutex_lock(&views->lock);
	for (size_t i = 0; i < LISTS_KEPT; i++)
		release_list(views->kept[i]);
	pthread_mutex_unlock(&views->lock);
	pthread_cond_destroy(&views->changed);
	pthread_mutex_destroy(&views->lock);
	free(views->views);
	free(views);
}

struct views *views_create(const struct croft_mount_view *views, size_t count, struct croft_error *err)
{
	struct views *made = croft_zalloc(sizeof(*made));
	made->count = count;
	made->views = croft_array(count, sizeof(*made->views));
	memcpy(made->views, views, count * sizeof(*views));
	made->end = &made->first;
	pthread_mutex_init(&made->lock, NULL);
	pthread_cond_init(&made->changed, NULL);
	while (made->asker_count < ASKERS) {
		int result = pthread_create(&made->askers[made->asker_count], NULL, serve, made);
		if (result != 0) {
			croft_error_errno(err, result, "starting a thread");
			views_destroy(made);
			return NULL;
		}
		pthread_setname_np(made->askers[made->asker_count++], "fs-view");
	}
	return made;
}
