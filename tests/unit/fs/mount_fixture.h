/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mount on a temporary directory over a store, and a farm in memory from which blobs are fetched by
 * the test's own fetcher: it counts, waits and fails as it is told.
 */
#ifndef CROFT_TESTS_UNIT_FS_MOUNT_FIXTURE_H
#define CROFT_TESTS_UNIT_FS_MOUNT_FIXTURE_H

#include "fs/chunker.h"
#include "fs/mount.h"
#include "fs/tree.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>

enum { FARM_BLOBS = 4096, FARM_PENDING = 4096 };

struct croft_fetcher {
	struct croft_store *store;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t thread;
	bool stop, held; /* held: nothing is answered */
	bool unreachable; /* nothing comes until the deadline, which is at once */
	struct {
		struct croft_digest digest;
		void *data;
	} blobs[FARM_BLOBS];
	size_t blob_count;
	struct croft_fetch_request pending[FARM_PENDING];
	size_t pending_count;
	bool answering;  /* a request has left `pending`, but its `done` has not returned */
	bool splits;     /* says of what chunks a blob is made, */
	bool gives_pieces; /* with the bytes that are wanted */
	uint64_t round_trip_ns; /* as it tells; atomic */
	uint64_t moved_bytes;
	unsigned asked, moved, calls; /* requests, blobs that were moved, croft_fetch_many calls */
	unsigned recipes; /* that were asked for */
};

static const struct croft_error unreachable = {CROFT_UNAVAILABLE, 0, "no source answers"};

static void *farm_serve(void *user)
{
	struct croft_fetcher *farm = user;
	pthread_mutex_lock(&farm->lock);
	for (;;) {
		while (!farm->stop && (farm->held || farm->pending_count == 0))
			pthread_cond_wait(&farm->changed, &farm->lock);
		if (farm->pending_count == 0)
			break;
		struct croft_fetch_request request = farm->pending[0];
		farm->pending_count--;
		farm->answering = true;
		memmove(farm->pending, farm->pending + 1, farm->pending_count * sizeof(request));
		struct croft_error err = {CROFT_NOT_FOUND, 0, "no source has it"};
		bool absent = true;
		uint64_t moved = 0;
		if (farm->stop)
			err.code = CROFT_CANCELLED;
		else if (farm->unreachable)
			err = unreachable;
		else
			croft_store_find_missing(farm->store, &request.digest, 1, &absent, NULL);
		for (size_t i = 0; absent && !farm->stop && !farm->unreachable && i < farm->blob_count; i++)
			if (croft_digest_equal(&farm->blobs[i].digest, &request.digest)) {
				moved = request.digest.size_bytes;
				absent = !croft_store_put(farm->store, &request.digest,
					CROFT_SLICE(farm->blobs[i].data, moved), &err);
				farm->moved++;
				farm->moved_bytes += moved;
			}
		pthread_mutex_unlock(&farm->lock);
		request.done(request.user, &request.digest, moved, absent ? &err : NULL);
		pthread_mutex_lock(&farm->lock);
		farm->answering = false;
	}
	pthread_mutex_unlock(&farm->lock);
	return NULL;
}

void croft_fetch_many(struct croft_fetcher *farm, const struct croft_fetch_request *requests,
	size_t count)
{
	CROFT_LOCKED(&farm->lock);
	assert_true(farm->pending_count + count <= FARM_PENDING);
	memcpy(farm->pending + farm->pending_count, requests, count * sizeof(*requests));
	farm->pending_count += count;
	farm->asked += (unsigned)count;
	farm->calls++;
	pthread_cond_broadcast(&farm->changed);
}

static struct croft_digest farm_add(struct croft_fetcher *farm, const void *data, size_t size)
{
	CROFT_LOCKED(&farm->lock);
	assert_true(farm->blob_count < FARM_BLOBS);
	struct croft_digest digest = croft_digest_of(data, size);
	farm->blobs[farm->blob_count].digest = digest;
	farm->blobs[farm->blob_count].data = malloc(size);
	memcpy(farm->blobs[farm->blob_count++].data, data, size);
	return digest;
}

uint64_t croft_fetch_round_trip_ns(const struct croft_fetcher *farm)
{
	return __atomic_load_n(&farm->round_trip_ns, __ATOMIC_RELAXED);
}

void croft_fetch_stat(const struct croft_fetcher *fetcher, struct croft_fetch_stat *stat)
{
	struct croft_fetcher *farm = (struct croft_fetcher *)fetcher;
	CROFT_LOCKED(&farm->lock);
	*stat = (struct croft_fetch_stat){.blobs = farm->moved, .bytes = farm->moved_bytes,
		.fetching_blobs = farm->pending_count};
}

void croft_fetch_recipe(struct croft_fetcher *farm, const struct croft_recipe_request *request)
{
	const struct croft_digest *digest = &request->digest;
	struct croft_digest *chunks = croft_array(1024, sizeof(*chunks));
	size_t count = 0;
	const uint8_t *data = NULL;
	pthread_mutex_lock(&farm->lock);
	farm->recipes++;
	bool fails = farm->unreachable;
	for (size_t i = 0; farm->splits && !fails && i < farm->blob_count; i++)
		if (croft_digest_equal(&farm->blobs[i].digest, digest))
			data = farm->blobs[i].data;
	pthread_mutex_unlock(&farm->lock);
	for (size_t at = 0; data && at < digest->size_bytes; at += chunks[count++].size_bytes)
		chunks[count] = farm_add(farm, data + at,
			croft_chunk_cut(&croft_chunking, data + at, (size_t)digest->size_bytes - at));
	struct croft_recipe recipe = {.chunks = chunks, .count = count, .err = fails ? &unreachable : NULL};
	if (farm->gives_pieces && data) {
		recipe.piece = CROFT_SLICE(data + request->offset, (size_t)request->size);
		recipe.moved_bytes = recipe.piece.size;
	}
	request->done(request->user, digest, &recipe);
	free(chunks);
}

static inline void farm_hold(struct croft_fetcher *farm, bool held)
{
	CROFT_LOCKED(&farm->lock);
	farm->held = held;
	pthread_cond_broadcast(&farm->changed);
}

static inline void farm_cut(struct croft_fetcher *farm, bool is_unreachable)
{
	CROFT_LOCKED(&farm->lock);
	farm->unreachable = is_unreachable;
}

/* As a fetcher that is stopped does; what is asked for later is held again. */
static inline void farm_cancel(struct croft_fetcher *farm)
{
	struct croft_error err = {CROFT_CANCELLED, 0, "the fetcher is at its end"};
	pthread_mutex_lock(&farm->lock);
	assert_true(farm->held);
	while (farm->pending_count > 0) {
		struct croft_fetch_request request = farm->pending[--farm->pending_count];
		pthread_mutex_unlock(&farm->lock);
		request.done(request.user, &request.digest, 0, &err);
		pthread_mutex_lock(&farm->lock);
	}
	pthread_mutex_unlock(&farm->lock);
}

static inline unsigned farm_asked(struct croft_fetcher *farm)
{
	CROFT_LOCKED(&farm->lock);
	return farm->asked;
}

static inline void farm_await(struct croft_fetcher *farm, unsigned asked)
{
	for (int tries = 0; farm_asked(farm) < asked; tries++) {
		assert_true(tries < 10000);
		usleep(1000);
	}
}

/* Until all that was asked for is answered, to whoever asked as well. */
static inline void farm_settle(struct croft_fetcher *farm)
{
	for (bool busy = true; busy;) {
		pthread_mutex_lock(&farm->lock);
		busy = farm->pending_count > 0 || farm->answering;
		pthread_mutex_unlock(&farm->lock);
		usleep(1000);
	}
}

static inline uint64_t farm_moved_bytes(struct croft_fetcher *farm)
{
	CROFT_LOCKED(&farm->lock);
	return farm->moved_bytes;
}

static inline unsigned farm_moved(struct croft_fetcher *farm)
{
	CROFT_LOCKED(&farm->lock);
	return farm->moved;
}

/* Until so much has come. */
static inline void farm_await_moved(struct croft_fetcher *farm, unsigned blobs, uint64_t bytes)
{
	for (int tries = 0;; tries++) {
		pthread_mutex_lock(&farm->lock);
		bool come = farm->moved >= blobs && farm->moved_bytes >= bytes;
		pthread_mutex_unlock(&farm->lock);
		if (come)
			break;
		assert_true(tries < 10000);
		usleep(1000);
	}
	farm_settle(farm);
}

struct fixture {
	char directory[64], mountpoint[96], tree[256];
	struct croft_store *store;
	struct croft_fetcher *farm;
	struct croft_mount *mount;
	pthread_t thread;
	bool mounted;
};

/* Puts a blob where it is to be found: in the store, or on the farm only. */
static struct croft_digest put_bytes(struct fixture *fixture, bool local, const void *data, size_t size)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest digest = croft_digest_of(data, size);
	if (size == 0)
		return digest;
	if (local) {
		assert_ok(croft_store_put(fixture->store, &digest, CROFT_SLICE(data, size), &err), err);
		return digest;
	}
	return farm_add(fixture->farm, data, size);
}

static inline struct croft_digest put(struct fixture *fixture, bool local, const char *text)
{
	return put_bytes(fixture, local, text, strlen(text));
}

struct emit_to {
	struct fixture *fixture;
	bool local;
};

static bool emit_blob(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	struct emit_to *to = user;
	put_bytes(to->fixture, to->local, bytes.data, bytes.size);
	return true;
}

static bool no_source(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *err)
{
	return croft_error_set(err, CROFT_NOT_FOUND, "no source");
}

static inline struct croft_tree_builder *new_tree(void)
{
	static const struct croft_tree_source source = {no_source, NULL};
	return croft_tree_builder_create(&source);
}

static inline void add(struct croft_tree_builder *builder, const char *path,
	struct croft_tree_entry entry)
{
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_tree_builder_add(builder, croft_slice_str(path), &entry, &err), err);
}

static inline void add_file(struct croft_tree_builder *builder, const char *path,
	struct croft_digest digest, bool executable)
{
	add(builder, path, (struct croft_tree_entry){.kind = CROFT_ENTRY_FILE, .digest = digest,
		.executable = executable});
}

static inline void add_link(struct croft_tree_builder *builder, const char *path, const char *target)
{
	add(builder, path, (struct croft_tree_entry){.kind = CROFT_ENTRY_SYMLINK,
		.target = croft_slice_str(target)});
}

/* Ends the builder; the messages go to the store or the farm. */
static inline struct croft_digest finish_tree(struct fixture *fixture, bool local,
	struct croft_tree_builder *builder)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest root;
	struct emit_to to = {fixture, local};
	assert_ok(croft_tree_builder_finish(builder, emit_blob, &to, &root, &err), err);
	croft_tree_builder_destroy(builder);
	return root;
}

static void *run_mount(void *user)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (!croft_mount_run(user, &err))
		fprintf(stderr, "croft_mount_run: %s\n", err.message);
	return NULL;
}

/* Puts the path of a place in by-digest/ together; valid until the next call. */
static inline const char *place(struct fixture *fixture, const struct croft_digest *root,
	const char *path)
{
	static char text[4][PATH_MAX];
	static unsigned turn;
	char digest[CROFT_DIGEST_TEXT];
	croft_digest_format(root, '-', digest);
	char *to = text[turn++ % 4];
	snprintf(to, PATH_MAX, "%s/by-digest/%s%s%s", fixture->mountpoint, digest, *path ? "/" : "",
		path);
	return to;
}

static uint32_t owner = 1234; /* of what the next mount shows */

static bool classic; /* the next mount uses no io_uring */
static const struct croft_mount_saved *saved; /* with which the next mount goes on */
static const struct croft_mount_view *views; /* of the next mount: one, or NULL */

static inline void mount_it(struct fixture *fixture, bool with_farm, const struct croft_digest *root)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_mount_config config = {
		.mountpoint = fixture->mountpoint,
		.saved = saved,
		.classic = classic,
		.store = fixture->store,
		.fetcher = with_farm ? fixture->farm : NULL,
		.root = root,
		.views = views,
		.view_count = views != NULL,
		.allow_other = true,
		.uid = owner,
		.gid = owner ? 2345 : 0,
	};
	fixture->mount = croft_mount_create(&config, &err);
	assert_ok(fixture->mount != NULL, err);
	assert_int_equal(pthread_create(&fixture->thread, NULL, run_mount, fixture->mount), 0);
	fixture->mounted = true;
}

static inline void unmount_it(struct fixture *fixture)
{
	if (!fixture->mounted)
		return;
	croft_mount_stop(fixture->mount);
	pthread_join(fixture->thread, NULL);
	croft_mount_destroy(fixture->mount);
	fixture->mounted = false;
}

static int set_up(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/croft-mount-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	char path[96];
	snprintf(path, sizeof(path), "%s/store", fixture->directory);
	snprintf(fixture->mountpoint, sizeof(fixture->mountpoint), "%s/mnt", fixture->directory);
	assert_int_equal(mkdir(path, 0755), 0);
	assert_int_equal(mkdir(fixture->mountpoint, 0755), 0);
	fixture->store = croft_store_open(
		&(struct croft_store_config){.path = path, .budget_bytes = 1 << 30}, &err);
	assert_ok(fixture->store != NULL, err);
	fixture->farm = calloc(1, sizeof(*fixture->farm));
	fixture->farm->store = fixture->store;
	pthread_mutex_init(&fixture->farm->lock, NULL);
	pthread_cond_init(&fixture->farm->changed, NULL);
	assert_int_equal(pthread_create(&fixture->farm->thread, NULL, farm_serve, fixture->farm), 0);
	*state = fixture;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;
	struct croft_fetcher *farm = fixture->farm;
	unmount_it(fixture);
	classic = false;
	views = NULL;
	pthread_mutex_lock(&farm->lock);
	farm->stop = true;
	pthread_cond_broadcast(&farm->changed);
	pthread_mutex_unlock(&farm->lock);
	pthread_join(farm->thread, NULL);
	croft_store_close(fixture->store);
	for (size_t i = 0; i < farm->blob_count; i++)
		free(farm->blobs[i].data);
	pthread_mutex_destroy(&farm->lock);
	pthread_cond_destroy(&farm->changed);
	free(farm);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_remove_tree(AT_FDCWD, fixture->directory, &err), err);
	free(fixture);
	return 0;
}

#endif
