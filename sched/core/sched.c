/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/core/core.h"
#include "sched/core/finish.h"
#include "sched/core/learned.h"
#include "sched/core/oplog.h"
#include "sched/core/results.h"

#include "proto/base/io.h"
#include "proto/base/log.h"

#include <stdlib.h>
#include <time.h>

enum { DEFAULT_ATTEMPTS = 3, DEFAULT_HEARTBEAT_MS = 2000, DEFAULT_QUEUE = 1000000,
	DEFAULT_TENANT = 500000, TICK_MS = 250, DEFAULT_UNFIT_MS = 60000, DEFAULT_ABANDON_MS = 300000,
	RECONNECT_HEARTBEATS = 3, EXPIRE_WITH_TICK = 256 };
static const uint64_t DEFAULT_STALL_CAP_MS = 600000;
/* How much of what is learned a crash may cost. */
static const uint64_t LEARNED_NS = UINT64_C(60) * 1000000000;
/* Between two tries to put what a crash took from the action cache. */
static const uint64_t LOST_NS = UINT64_C(2) * 1000000000;

/* `lock` held, but not over the writing. Jobs run without it: a failure is only told. */
static void keep_learned(struct croft_sched *sched)
{
	struct learned *learned = learned_of(sched->placement);
	sched->learned_ns = croft_now_ns();
	sched_unlock(sched);
	struct croft_error err = CROFT_ERROR_INIT;
	if (!learned_write(learned, sched->journal_path, &err))
		croft_log(CROFT_LOG_WARNING, "keeping what was learned of jobs: %s", err.message);
	learned_free(learned);
	sched_lock(sched);
}

static void restore_learned(struct croft_sched *sched)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (learned_read(sched->placement, sched->journal_path, &err) < 0)
		croft_log(CROFT_LOG_WARNING, "what was learned of jobs is lost: %s", err.message);
	sched->learned_ns = croft_now_ns();
}

/* Without the lock, which is taken at the end only. What has no room now stays in the journal, and may have it later. */
static void put_lost_results(struct croft_sched *sched)
{
	struct croft_error err = CROFT_ERROR_INIT;
	bool all = results_lost_put(sched->lost, &err);
	if (!all && !sched->lost_ns) /* said once */
		croft_log(CROFT_LOG_WARNING, "results of before the restart are missing from the action cache, and are "
			"tried again: %s", err.message);
	sched_lock(sched);
	sched->lost_ns = croft_now_ns();
	if (all) {
		results_lost_destroy(sched->lost);
		sched->lost = NULL;
	}
	sched_unlock(sched);
}

/* Until the next tick; for a shorter time while words are held. */
static void ticker_sleep(struct croft_sched *sched, uint64_t until_ns)
{
	uint64_t soon_ns = croft_now_ns() + HOLD_MS * UINT64_C(1000000) / 2;
	sched->ticks_slowly = TAILQ_EMPTY(&sched->held) && soon_ns < until_ns;
	if (!sched->ticks_slowly && soon_ns < until_ns)
		until_ns = soon_ns;
	struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
	pthread_cond_timedwait(&sched->tick, &sched->lock, &until);
	sched->ticks_slowly = false;
}

static void *ticker_thread(void *user)
{
	struct croft_sched *sched = user;
	uint64_t next_ns = 0;
	SCHED_LOCKED(sched);
	while (!sched->stopping) {
		sched_write_down(sched);
		held_tell(sched);
		if (croft_now_ns() < next_ns) {
			ticker_sleep(sched, next_ns);
			continue;
		}
		next_ns = croft_now_ns() + TICK_MS * UINT64_C(1000000);
		agents_tick(sched);
		unfit_tick(sched);
		alone_tick(sched);
		tasks_expire(sched, EXPIRE_WITH_TICK);
		dispatch(sched); /* agents that refused a while ago may be asked again */
		if (croft_now_ns() - sched->learned_ns >= LEARNED_NS)
			keep_learned(sched);
		if (sched->lost && croft_now_ns() - sched->lost_ns >= LOST_NS) {
			sched_unlock(sched);
			put_lost_results(sched);
			sched_lock(sched);
		}
	}
	keep_learned(sched);
	return NULL;
}

struct restore {
	struct croft_sched *sched;
	struct results_lost *lost;
	char (*names)[NAME_TEXT]; /* of tasks that earlier versions kept under them; owned */
	size_t name_count;
};

static bool restore(void *user, struct croft_slice key, struct croft_slice value,
	struct croft_error *err)
{
	struct restore *restore = user;
	struct croft_sched *sched = restore->sched;
	if (draining_restore(sched, key, value))
		return true;
	struct task *task = task_restore(sched, value, restore->lost, err);
	if (task && key.size != TASK_KEY) {
		restore->names = croft_realloc(restore->names, restore->name_count + 1, NAME_TEXT);
		memcpy(restore->names[restore->name_count++], task->id, NAME_TEXT);
		task_changed(sched, task); /* it gets its new key */
	}
	return task != NULL;
}

/* Of tasks that ended just before a crash; before clients ask. */
static void put_lost_accounts(struct croft_sched *sched)
{
	struct task *task, **tasks = croft_array(sched->completed_count + 1, sizeof(struct task *));
	size_t count = 0;
	TAILQ_FOREACH (task, &sched->completed, queue_link)
		if (task->account)
			tasks[count++] = task;
	accounts_put(sched, tasks, count);
	for (size_t i = 0; i < count; i++)
		account_drop(tasks[i]);
	free(tasks);
}

static bool restore_all(struct croft_sched *sched, struct croft_error *err)
{
	struct restore all = {.sched = sched, .lost = results_lost_create(sched->store)};
	sched_lock(sched);
	bool ok = croft_journal_each(sched->journal, restore, &all, err);
	sched_unlock(sched);
	sched->lost = all.lost;
	put_lost_results(sched);
	put_lost_accounts(sched);
	for (size_t i = 0; ok && i < all.name_count; i++)
		croft_journal_put(sched->journal, croft_slice_str(all.names[i]), CROFT_SLICE(NULL, 0), false,
			NULL, NULL);
	free(all.names);
	return ok;
}

static bool read_directory(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *err)
{
	return croft_store_get(user, digest, arena, bytes, err);
}

static void set_defaults(struct croft_sched *sched, const struct croft_sched_config *config)
{
	sched->config = *config;
	if (!sched->config.max_attempts)
		sched->config.max_attempts = DEFAULT_ATTEMPTS;
	if (!sched->config.heartbeat_ms)
		sched->config.heartbeat_ms = DEFAULT_HEARTBEAT_MS;
	if (!sched->config.reconnect_ms)
		sched->config.reconnect_ms = RECONNECT_HEARTBEATS * sched->config.heartbeat_ms;
	if (!sched->config.queue_limit)
		sched->config.queue_limit = DEFAULT_QUEUE;
	if (!sched->config.tenant_limit)
		sched->config.tenant_limit = DEFAULT_TENANT;
	if (!sched->config.unfit_ms)
		sched->config.unfit_ms = DEFAULT_UNFIT_MS;
	if (!sched->config.abandon_ms)
		sched->config.abandon_ms = DEFAULT_ABANDON_MS;
	if (!sched->config.stall_cap_ms)
		sched->config.stall_cap_ms = DEFAULT_STALL_CAP_MS;
	sched->config.blob_url = croft_strdup(config->blob_url ? config->blob_url : "");
	sched->config.blob_key = croft_strdup(config->blob_key ? config->blob_key : "");
	sched->config.agent_key = config->agent_key ? croft_strdup(config->agent_key) : NULL;
	sched->config.path = NULL;
}

struct croft_sched *croft_sched_open(const struct croft_sched_config *config,
	struct croft_error *err)
{
	struct croft_sched *sched = croft_zalloc(sizeof(*sched));
	set_defaults(sched, config);
	sched->store = config->store;
	sched->upstream = config->upstream;
	sched->profiles = profiles_open(sched->store);
	sched->started_ns = croft_now_ns();
	pthread_mutex_init(&sched->lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&sched->log_changed, &attributes);
	pthread_cond_init(&sched->record_written, &attributes);
	pthread_cond_init(&sched->tick, &attributes);
	pthread_condattr_destroy(&attributes);
	TAILQ_INIT(&sched->queue);
	STAILQ_INIT(&sched->changed);
	TAILQ_INIT(&sched->completed);
	TAILQ_INIT(&sched->held);
	TAILQ_INIT(&sched->alone);
	struct croft_placement_config placement = {.seed = sched->started_ns};
	if (!croft_policy_parse(config->policy, &placement.policy, err)) {
		sched->stopping = true;
		croft_sched_close(sched);
		return NULL;
	}
	sched->placement = croft_placement_create(&placement);
	sched->roots = croft_roots_create(&(struct croft_tree_source){read_directory, sched->store});
	sched->journal_path = croft_strdup(config->path);
	restore_learned(sched);
	sched->journal = croft_journal_open(config->path, err);
	if (sched->journal)
		croft_journal_around(sched->journal, announcements_begin, announcements_end, sched);
	if (!sched->journal || !restore_all(sched, err)) {
		sched->stopping = true;
		croft_sched_close(sched);
		return NULL;
	}
	placed_restored(sched);
	if (config->log_path)
		sched->oplog = oplog_open(config->log_path, config->log_bytes);
	finisher_open(sched);
	if (sched->queued || sched->running)
		croft_log(CROFT_LOG_INFO, "going on with %zu queued and %zu running operations",
			sched->queued, sched->running);
	if (pthread_create(&sched->ticker, NULL, ticker_thread, sched) != 0)
		abort();
	pthread_setname_np(sched->ticker, "ticker");
	return sched;
}

void croft_sched_serve(struct croft_sched *sched, struct croft_server *server)
{
	croft_server_add(server, execution_methods, 2, sched);
	croft_server_add(server, operations_methods, 5, sched);
	croft_server_add(server, agents_methods, 1, sched);
	croft_server_add(server, farm_methods, 4, sched);
}

static void free_tasks(struct croft_sched *sched)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		while (!LIST_EMPTY(&sched->leases[i])) {
			struct task *task = LIST_FIRST(&sched->leases[i]);
			LIST_REMOVE(task, lease_link);
			task_free(sched, task);
		}
	}
	struct task *task;
	while ((task = TAILQ_FIRST(&sched->completed))) {
		TAILQ_REMOVE(&sched->completed, task, queue_link);
		task_free(sched, task);
	}
	while ((task = TAILQ_FIRST(&sched->queue))) {
		TAILQ_REMOVE(&sched->queue, task, queue_link);
		task_free(sched, task);
	}
	classes_free(sched);
	croft_placement_destroy(sched->placement);
	croft_roots_destroy(sched->roots);
}

void croft_sched_close(struct croft_sched *sched)
{
	if (!sched)
		return;
	sched_lock(sched);
	bool has_ticker = !sched->stopping;
	sched->stopping = true;
	pthread_cond_broadcast(&sched->tick);
	pthread_cond_broadcast(&sched->log_changed);
	sched_unlock(sched);
	if (has_ticker)
		pthread_join(sched->ticker, NULL);
	finisher_close(sched);
	oplog_close(sched->oplog);
	croft_journal_close(sched->journal);
	profiles_close(sched->profiles);
	results_lost_destroy(sched->lost);
	free_tasks(sched);
	while (!LIST_EMPTY(&sched->agents))
		agent_free(LIST_FIRST(&sched->agents));
	draining_free(sched);
	free((void *)sched->config.blob_url);
	free((void *)sched->config.blob_key);
	free((void *)sched->config.agent_key);
	free(sched->journal_path);
	pthread_cond_destroy(&sched->log_changed);
	pthread_cond_destroy(&sched->record_written);
	pthread_cond_destroy(&sched->tick);
	pthread_mutex_destroy(&sched->lock);
	free(sched);
}
