/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests that wait for a fetch: nobody's thread waits with them. */
#include "fs/mount/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>

enum {
	LOOK_INTERVAL_MS = 100, /* how long a killed process may still hang in a request */
	LOOK_AT_MOST = 256,     /* requests in one look */
	WAITS_AT_MOST = 16,     /* then the cache must be too small for what is read */
	FAILED_KEPT = 64,
	FAILED_MS = 500,
};

/* What nobody brought in all the time that is waited for a blob. The kernel, for which it read ahead, asks for the
 * same page at once anew, and whoever reads would wait twice as long as is promised. Why was told the first time. */
struct failed {
	struct croft_digest digest;
	uint64_t at_ns;
};

/* It outlives the mount for as long as fetches are under way for it. */
struct waiting {
	pthread_mutex_t lock; /* guards: all below, and the waiting fields of the requests */
	pthread_cond_t changed;
	unsigned users; /* the mount, and each request that waits */
	bool closed;
	bool keeping; /* what is ready stays so, for another process */
	struct croft_mount *mount;     /* valid until closed */
	struct request *first;         /* those that wait */
	struct request *ready, **ready_end;
	struct failed failed[FAILED_KEPT];
	unsigned next_failed;
};

struct waiting *waiting_create(struct croft_mount *mount)
{
	struct waiting *waiting = croft_zalloc(sizeof(*waiting));
	pthread_mutex_init(&waiting->lock, NULL);
	pthread_cond_init(&waiting->changed, NULL);
	waiting->users = 1;
	waiting->mount = mount;
	waiting->ready_end = &waiting->ready;
	return waiting;
}

static void free_waiting(struct waiting *waiting)
{
	pthread_cond_destroy(&waiting->changed);
	pthread_mutex_destroy(&waiting->lock);
	free(waiting);
}

void request_free(struct request *request)
{
	ahead_destroy(request->ahead);
	view_answer_free(request->answer);
	free(request->piece);
	free(request->folder);
	free(request->name);
	free(request);
}

void waiting_release(struct waiting *waiting)
{
	if (!waiting)
		return;
	pthread_mutex_lock(&waiting->lock);
	bool last = --waiting->users == 0;
	pthread_mutex_unlock(&waiting->lock);
	if (last)
		free_waiting(waiting);
}

/* `lock` held. */
static void make_ready(struct waiting *waiting, struct request *request)
{
	request->next = NULL;
	*waiting->ready_end = request;
	waiting->ready_end = &request->next;
	pthread_cond_signal(&waiting->changed);
}

static void link_request(struct waiting *waiting, struct request *request)
{
	request->previous = NULL;
	request->next = waiting->first;
	if (waiting->first)
		waiting->first->previous = request;
	waiting->first = request;
	waiting->users++;
}

static void unlink_request(struct waiting *waiting, struct request *request)
{
	*(request->previous ? &request->previous->next : &waiting->first) = request->next;
	if (request->next)
		request->next->previous = request->previous;
	waiting->users--;
}

/* `lock` held. */
static void note_failed(struct waiting *waiting, const struct croft_digest *digest, const struct croft_error *err)
{
	if (err->code == CROFT_UNAVAILABLE)
		waiting->failed[waiting->next_failed++ % FAILED_KEPT] =
			(struct failed){.digest = *digest, .at_ns = croft_now_ns()};
}

static bool failed_just_now(struct waiting *waiting, const struct croft_digest *digest)
{
	uint64_t now = croft_now_ns();
	CROFT_LOCKED(&waiting->lock);
	for (unsigned i = 0; i < FAILED_KEPT; i++) {
		const struct failed *failed = &waiting->failed[i];
		if (failed->at_ns && now - failed->at_ns <= FAILED_MS * UINT64_C(1000000) &&
			croft_digest_equal(&failed->digest, digest))
			return true;
	}
	return false;
}

/* A file that comes in parts is counted with the first of them. `lock` held. */
static void charge(struct request *request, uint64_t bytes)
{
	bool directory = request->kind == WAIT_DIRECTORY || request->kind == DIRECTORIES_AHEAD;
	bool part = request->kind >= WAIT_RECIPE && !directory;
	accounts_charge(request->waiting->mount->accounts, request->group,
		directory, part ? request->new_file : 1, bytes);
	if (!directory)
		siblings_earn(request->waiting->mount->siblings, bytes);
	request->new_file = false;
}

/* On the fetcher's thread. */
static void fetched(void *user, const struct croft_digest *digest, uint64_t moved_bytes,
	const struct croft_error *err)
{
	struct request *request = user, *finished = NULL;
	struct waiting *waiting = request->waiting;

	pthread_mutex_lock(&waiting->lock);
	if (moved_bytes && !waiting->closed)
		charge(request, moved_bytes);
	if (err && request->failure.code == CROFT_OK && !request->optional) {
		request->failure = *err;
		request->failed = *digest;
		note_failed(waiting, digest, err);
	}
	if (--request->pending == 0) {
		unlink_request(waiting, request);
		if (!waiting->closed && request->kind < FETCH_AHEAD)
			accounts_resume(waiting->mount->accounts, request->group);
		if (request->fuse || (request->ahead && !waiting->closed && !waiting->keeping)) {
			make_ready(waiting, request);
		} else {
			finished = request;
		}
	}
	bool last = waiting->users == 0;
	pthread_mutex_unlock(&waiting->lock);
	if (finished)
		request_free(finished);
	if (last)
		free_waiting(waiting);
}

static void recipe_came(void *user, const struct croft_digest *digest,
	const struct croft_recipe *recipe)
{
	struct request *request = user;
	struct waiting *waiting = request->waiting;
	pthread_mutex_lock(&waiting->lock);
	if (!waiting->closed)
		partials_learn(waiting->mount->partials, digest, recipe->chunks, recipe->count);
	if (recipe->piece.size > 0) {
		request->piece = croft_alloc(recipe->piece.size);
		memcpy(request->piece, recipe->piece.data, recipe->piece.size);
	}
	if (recipe->err) {
		request->failure = *recipe->err;
		request->failed = *digest;
		note_failed(waiting, digest, recipe->err);
	}
	pthread_mutex_unlock(&waiting->lock);
	fetched(request, digest, recipe->moved_bytes, NULL);
}

/* With the bytes that READ is about. */
static void ask_recipe(struct request *request, const struct croft_digest *digest)
{
	uint64_t left = digest->size_bytes - request->offset;
	croft_fetch_recipe(request->mount->fetcher, &(struct croft_recipe_request){.digest = *digest,
		.offset = request->offset, .size = left < request->size ? left : request->size,
		.done = recipe_came, .user = request});
}

static void submit(struct croft_mount *mount, struct request *request,
	const struct croft_digest *digests, size_t count)
{
	if (request->kind == WAIT_RECIPE) {
		ask_recipe(request, digests);
		return;
	}
	if (request->kind == WAIT_VIEW) {
		views_ask(mount->views, request);
		return;
	}
	bool background = request->kind >= FETCH_AHEAD;
	struct croft_fetch_request *fetches = croft_array(count, sizeof(*fetches));
	for (size_t i = 0; i < count; i++)
		fetches[i] = (struct croft_fetch_request){
			.digest = digests[i], .background = background, .done = fetched, .user = request};
	croft_fetch_many(mount->fetcher, fetches, count);
	free(fetches);
}

static void answer(struct request *request, int code)
{
	if (!request->fuse)
		return;
	fuse_req_interrupt_func(request->fuse, NULL, NULL);
	fuse_reply_err(request->fuse, code);
	request->fuse = NULL;
}

/* Why fetching would not help; false: it may. */
static bool hopeless(const struct request *request, const struct croft_digest *digest,
	struct croft_error *err)
{
	if (!request->mount->fetcher) {
		croft_error_set(err, CROFT_NOT_FOUND, "it is not in the store");
		return true;
	}
	if (request->failure.code != CROFT_OK && croft_digest_equal(&request->failed, digest)) {
		*err = request->failure;
		return true;
	}
	if (request->waits < WAITS_AT_MOST)
		return false;
	croft_error_set(err, CROFT_RESOURCE_EXHAUSTED,
		"it was evicted before it could be read, again and again: the cache is too small");
	return true;
}

/* A killed process's interrupt: croft_mount_run looks. */
static void interrupted(fuse_req_t fuse, void *user)
{
	struct croft_mount *mount = user;
	eventfd_write(mount->wake_fd, 1);
}

/* Where it stays for as long as it waits. */
static struct request *move_to_heap(const struct request *request)
{
	struct request *moved = croft_alloc(sizeof(*moved));
	*moved = *request;
	moved->on_heap = true;
	moved->waiting = request->mount->waiting;
	moved->name = request->name ? croft_strdup(request->name) : NULL;
	moved->pid = fuse_req_ctx(request->fuse)->pid;
	moved->group = request_group(request);
	return moved;
}

/* `kind` and `new_file` are set. */
static bool wait_for(struct request *request, const struct croft_digest *digests, size_t count,
	bool optional)
{
	struct croft_mount *mount = request->mount;
	struct croft_error err;
	if (request->kind != WAIT_VIEW && request->waits == 0 && failed_just_now(mount->waiting, &digests[0])) {
		fuse_reply_err(request->fuse, EIO);
		return true;
	}
	if (request->kind != WAIT_VIEW && hopeless(request, &digests[0], &err))
		return request_fail(request, &digests[0], &err);
	struct request *waiting = request->on_heap ? request : move_to_heap(request);
	waiting->waits++;
	waiting->optional = optional;
	waiting->pending = (unsigned)count;
	waiting->failure.code = CROFT_OK;
	/* Before it can be answered by anyone else. */
	fuse_req_interrupt_func(waiting->fuse, interrupted, mount);

	pthread_mutex_lock(&mount->waiting->lock);
	bool closed = mount->waiting->closed, first = mount->waiting->first == NULL;
	bool keeping = mount->waiting->keeping;
	if (keeping) {
		make_ready(mount->waiting, waiting);
	} else if (!closed) {
		link_request(mount->waiting, waiting);
		accounts_wait(mount->accounts, waiting->group);
	}
	pthread_mutex_unlock(&mount->waiting->lock);
	if (keeping)
		return false;
	if (closed) {
		answer(waiting, ENOTCONN);
		if (waiting != request)
			request_free(waiting);
		return true;
	}
	if (first)
		eventfd_write(mount->wake_fd, 1);
	submit(mount, waiting, digests, count);
	return false;
}

bool request_wait(struct request *request, const struct croft_digest *digests, size_t count,
	bool directories, bool optional)
{
	request->kind = directories ? WAIT_DIRECTORY : WAIT_FILE;
	return wait_for(request, digests, count, optional);
}

bool request_wait_recipe(struct request *request, const struct croft_digest *digest)
{
	request->kind = WAIT_RECIPE;
	return wait_for(request, digest, 1, true);
}

bool request_wait_chunks(struct request *request, const struct croft_digest *digests, size_t count,
	bool new_file)
{
	request->kind = WAIT_CHUNKS;
	request->new_file = new_file;
	return wait_for(request, digests, count, false);
}

bool request_wait_view(struct request *request, const char *folder)
{
	/* The kernel may forget the folder as soon as it has an answer, and the view may still be asked. */
	request->folder = croft_strdup(folder);
	request->kind = WAIT_VIEW;
	return wait_for(request, NULL, 1, true);
}

void request_view_answered(struct request *request)
{
	fetched(request, NULL, 0, NULL);
}

void request_fetch_ahead(struct croft_mount *mount, const struct croft_digest *digests,
	size_t count, uint64_t group)
{
	struct request *request = croft_zalloc(sizeof(*request));
	request->mount = mount;
	request->waiting = mount->waiting;
	request->on_heap = true;
	request->kind = FETCH_AHEAD;
	request->optional = true;
	request->pending = (unsigned)count;
	request->group = group;
	pthread_mutex_lock(&mount->waiting->lock);
	bool closed = mount->waiting->closed || mount->waiting->keeping;
	if (!closed)
		link_request(mount->waiting, request);
	pthread_mutex_unlock(&mount->waiting->lock);
	if (closed)
		request_free(request);
	else
		submit(mount, request, digests, count);
}

bool request_wait_ahead(struct request *request, const struct croft_digest *digests, size_t count)
{
	struct croft_mount *mount = request->mount;
	request->waiting = mount->waiting;
	request->on_heap = true;
	request->kind = DIRECTORIES_AHEAD;
	request->optional = true;
	request->pending = (unsigned)count;
	pthread_mutex_lock(&mount->waiting->lock);
	bool goes_on = !mount->waiting->closed && !mount->waiting->keeping;
	if (goes_on)
		link_request(mount->waiting, request);
	pthread_mutex_unlock(&mount->waiting->lock);
	if (goes_on)
		submit(mount, request, digests, count);
	return goes_on;
}

uint64_t request_group(const struct request *request)
{
	return request->on_heap
		? request->group
		: accounts_group_of(request->mount->accounts, fuse_req_ctx(request->fuse)->pid);
}

bool request_fail(struct request *request, const struct croft_digest *digest,
	const struct croft_error *err)
{
	struct croft_mount *mount = request->mount;
	char text[CROFT_DIGEST_TEXT], message[768];
	croft_digest_format(digest, '-', text);
	snprintf(message, sizeof(message), "%s: %s", text, err->message);
	croft_log(CROFT_LOG_ERROR, "input/output error: %s", message);
	accounts_error(mount->accounts, request_group(request), message);
	fuse_reply_err(request->fuse, EIO);
	return true;
}

void *waiting_serve(void *user)
{
	struct waiting *waiting = user;
	pthread_mutex_lock(&waiting->lock);
	while (!waiting->closed && !waiting->keeping) {
		struct request *request = waiting->ready;
		if (!request) {
			pthread_cond_wait(&waiting->changed, &waiting->lock);
			continue;
		}
		waiting->ready = request->next;
		if (!waiting->ready)
			waiting->ready_end = &waiting->ready;
		pthread_mutex_unlock(&waiting->lock);
		if (request->fuse)
			fuse_req_interrupt_func(request->fuse, NULL, NULL);
		if (request->run(request))
			request_free(request);
		pthread_mutex_lock(&waiting->lock);
	}
	pthread_mutex_unlock(&waiting->lock);
	return NULL;
}

/* A thread that was sent SIGKILL has it pending until it comes back from the kernel. */
static bool was_killed(pid_t pid)
{
	char path[64], text[4096];
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (size <= 0)
		return false;
	text[size] = '\0';
	const uint64_t kill_bit = UINT64_C(1) << (SIGKILL - 1);
	const char *own = strstr(text, "\nSigPnd:"), *shared = strstr(text, "\nShdPnd:");
	return (own && strtoull(own + 8, NULL, 16) & kill_bit) ||
		(shared && strtoull(shared + 8, NULL, 16) & kill_bit);
}

/* The kernel lets a killed process wait for an answer to what the daemon has read already. */
static void end_requests_of(struct waiting *waiting, pid_t pid)
{
	CROFT_LOCKED(&waiting->lock);
	for (struct request *request = waiting->first; request; request = request->next)
		if (request->pid == pid)
			answer(request, EINTR);
}

int waiting_look(struct waiting *waiting)
{
	pid_t pids[LOOK_AT_MOST];
	size_t count = 0;
	pthread_mutex_lock(&waiting->lock);
	for (struct request *request = waiting->first; request && count < LOOK_AT_MOST;
		request = request->next)
		if (request->fuse)
			pids[count++] = request->pid;
	pthread_mutex_unlock(&waiting->lock);
	for (size_t i = 0; i < count; i++)
		if (pids[i] > 0 && was_killed(pids[i]))
			end_requests_of(waiting, pids[i]);
	return count ? LOOK_INTERVAL_MS : -1;
}

/* Of those that are ready: the other process knows nothing of them. `lock` held. */
static void drop_unasked(struct waiting *waiting)
{
	struct request **link = &waiting->ready;
	for (struct request *request; (request = *link);) {
		if (request->fuse) {
			link = &request->next;
			continue;
		}
		*link = request->next;
		request_free(request);
	}
	waiting->ready_end = link;
}

void waiting_keep(struct waiting *waiting)
{
	CROFT_LOCKED(&waiting->lock);
	waiting->keeping = true;
	drop_unasked(waiting);
	pthread_cond_broadcast(&waiting->changed);
}

struct request *waiting_kept(struct waiting *waiting)
{
	CROFT_LOCKED(&waiting->lock);
	return waiting->ready;
}

void waiting_close(struct waiting *waiting)
{
	pthread_mutex_lock(&waiting->lock);
	waiting->closed = true;
	for (struct request *request = waiting->first; request; request = request->next)
		answer(request, ENOTCONN);
	struct request *ready = waiting->ready;
	waiting->ready = NULL;
	waiting->ready_end = &waiting->ready;
	pthread_cond_broadcast(&waiting->changed);
	pthread_mutex_unlock(&waiting->lock);
	for (struct request *next; ready; ready = next) {
		next = ready->next;
		if (waiting->mount->left && ready->fuse) { /* another process answers it */
			fuse_req_interrupt_func(ready->fuse, NULL, NULL);
			fuse_reply_none(ready->fuse);
		} else {
			answer(ready, ENOTCONN);
		}
		request_free(ready);
	}
}
