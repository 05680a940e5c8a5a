/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon's life: takes the state directory, clears what a crashed predecessor left (or takes the mount over from
 * one that runs), starts store, plane, fetcher and mount, serves, and ends them in an order in which nobody waits
 * for what is gone.
 */
#include "fs/daemon/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

enum {
	PREDECESSOR_MS = 10000,
	STALE_MOUNTS = 64,
	ORPHAN_MS = 600000,      /* without an agent */
	ORPHAN_LOOK_MS = 10000,  /* between two looks whether its mount is in use */
};

static const uint64_t STANDINS_FROM = 2ull << 30; /* of the budget */

struct life {
	const struct croft_daemon_config *config;
	char mountpoint[PATH_MAX], cache[PATH_MAX];
	int lock_fd, listen_fd, signal_fd, stop_fd;
	int predecessor;                /* socket of the daemon that handed over and is to hear that this one serves; -1 */
	struct croft_mount_saved saved; /* what it handed over, or this one is about to; -1 */
	struct croft_store *store;
	struct croft_fetcher *fetcher;
	struct croft_plane *plane;
	struct measurer *measurer;
	struct prefetcher *prefetcher;
	struct croft_mount *mount; /* or NULL, and */
	struct standins *standins; /* beside a mount, or NULL */
	struct stager *stager;
	struct server *server;
	bool ours; /* the state: no other daemon's */
	pthread_t mount_thread;
	bool mount_running;
	struct croft_error mount_error; /* why the mount ended */
};

/* A predecessor that was told to stop may still be at it. */
static bool take_lock(struct life *life, struct croft_error *err)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/lock", life->config->state);
	life->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (life->lock_fd < 0)
		return croft_error_errno(err, errno, "opening %s", path);
	for (int waited_ms = 0; flock(life->lock_fd, LOCK_EX | LOCK_NB) != 0; waited_ms += 10) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return croft_error_errno(err, errno, "locking %s", path);
		if (waited_ms >= PREDECESSOR_MS)
			return croft_error_set(err, CROFT_FAILED_PRECONDITION,
				"another filesystem daemon runs on %s", life->config->state);
		poll(NULL, 0, 10);
	}
	life->ours = true;
	return true;
}

/* Under the lock: whatever is mounted there has no daemon any more. */
static bool clear_mountpoint(struct life *life, struct croft_error *err)
{
	int stale = 0;
	while (stale < STALE_MOUNTS &&
		umount2(life->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		stale++;
	if (stale)
		croft_log(CROFT_LOG_WARNING, "unmounted %d that a predecessor left on %s", stale,
			life->mountpoint);
	return croft_make_directories(life->mountpoint, err) &&
		croft_make_directories(life->cache, err);
}

static void raise_descriptor_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static bool take_signals(struct life *life, struct croft_error *err)
{
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	/* Before any thread starts, so that none takes them. */
	int result = pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	life->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	life->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (result != 0 || life->signal_fd < 0 || life->stop_fd < 0)
		return croft_error_errno(err, errno, "preparing for signals");
	return true;
}

static void *run_mount(void *user)
{
	struct life *life = user;
	croft_mount_run(life->mount, &life->mount_error);
	eventfd_write(life->stop_fd, 1);
	return NULL;
}

static void forget_saved(struct life *life)
{
	if (life->saved.device >= 0) {
		close(life->saved.device);
		close(life->saved.state);
	}
	life->saved = (struct croft_mount_saved){-1, -1};
}

static bool make_mount(struct life *life, struct croft_error *err)
{
	const struct croft_daemon_config *config = life->config;
	bool resumed = life->saved.device >= 0;
	life->mount = croft_mount_create(
		&(struct croft_mount_config){
			.mountpoint = life->mountpoint,
			.saved = resumed ? &life->saved : NULL,
			.store = life->store,
			.fetcher = life->fetcher,
			.allow_other = geteuid() == 0,
			.uid = config->uid,
			.gid = config->gid,
			.classic = config->classic,
		},
		err);
	return life->mount || croft_error_wrap(err, "FUSE (--staging copy does without)");
}

/* The last step: what is read of the kernel from here on is answered here. */
static bool run(struct life *life, struct croft_error *err)
{
	if (life->predecessor >= 0 && !hand_over_confirm(life->predecessor, err))
		return false;
	if (life->predecessor >= 0)
		close(life->predecessor);
	life->predecessor = -1;
	forget_saved(life);
	if (!life->mount)
		return true;
	int result = pthread_create(&life->mount_thread, NULL, run_mount, life);
	if (result != 0)
		return croft_error_errno(err, result, "starting a thread");
	pthread_setname_np(life->mount_thread, "fs-mount");
	life->mount_running = true;
	return true;
}

/* What the directory is worked in with: the lock, and the mount if another daemon hands it over. */
static bool take_state(struct life *life, bool take_over, struct croft_error *err)
{
	if (!croft_make_directories(life->config->state, err))
		return false;
	if (!take_over)
		return take_lock(life, err) && clear_mountpoint(life, err);
	struct handed handed;
	if (life->config->staging > CROFT_STAGING_FUSE)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"trees are to be staged from now on: no mount is taken over");
	if (!hand_over_ask(life->config->state, &life->predecessor, &handed, err))
		return false;
	life->lock_fd = handed.lock_fd;
	life->listen_fd = handed.listen_fd;
	life->saved = handed.mount;
	life->ours = true;
	return true;
}

static bool start_stager(struct life *life, struct croft_error *err)
{
	const struct croft_daemon_config *config = life->config;
	struct croft_store_stat stat;
	char folder[PATH_MAX];
	croft_store_stat(life->store, &stat);
	if (snprintf(folder, sizeof(folder), "%.*s/staged", (int)(strrchr(life->cache, '/') - life->cache),
			life->cache) >= PATH_MAX)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: the path is too long", life->cache);
	life->stager = stager_create(
		&(struct stager_config){
			.folder = folder,
			.staging = config->staging,
			.budget_bytes = stat.budget_bytes, /* the other half: see open_store */
			.uid = config->uid,
			.gid = config->gid,
			.store = life->store,
			.fetcher = life->fetcher,
			.measurer = life->measurer,
		},
		err);
	if (life->stager)
		croft_log(CROFT_LOG_INFO, "staging whole trees (%s) in %s",
			croft_staging_name(stager_staging(life->stager)), folder);
	return life->stager != NULL;
}

static struct croft_store *open_store(struct life *life, uint64_t budget_bytes, uint64_t aside_from,
	struct croft_error *err)
{
	return croft_store_open(
		&(struct croft_store_config){.path = life->cache,
			.budget_bytes = budget_bytes,
			.aside_from = aside_from,
			.chunked = true},
		err);
}

static bool standins_folder(const struct life *life, char folder[PATH_MAX])
{
	return snprintf(folder, PATH_MAX, "%.*s/standins", (int)(strrchr(life->cache, '/') - life->cache),
		       life->cache) < PATH_MAX;
}

/* An eighth of the budget is theirs, where that is worth while. Without them all goes on. */
static void start_standins(struct life *life)
{
	const struct croft_daemon_config *config = life->config;
	struct croft_store_stat stat;
	struct croft_error err = CROFT_ERROR_INIT;
	char folder[PATH_MAX];
	croft_store_stat(life->store, &stat);
	if (!standins_folder(life, folder))
		return;
	if (life->mount && geteuid() == 0 && stat.budget_bytes >= STANDINS_FROM / 8 * 7)
		life->standins = standins_create(
			&(struct standins_config){
				.folder = folder,
				.budget_bytes = stat.budget_bytes / 7,
				.uid = config->uid,
				.gid = config->gid,
				.store = life->store,
			},
			&err);
	if (err.code != CROFT_OK)
		croft_log(err.code == CROFT_UNIMPLEMENTED ? CROFT_LOG_DEBUG : CROFT_LOG_WARNING,
			"trees get no stand-ins: %s", err.message);
	/* Those of a daemon before this one. */
	if (!life->standins)
		standins_clear(folder);
}

/* Where trees are staged half of the budget is theirs. The store alone knows what it may have when nothing
 * is said. */
static bool halve_store(struct life *life, struct croft_error *err)
{
	struct croft_store_stat stat;
	croft_store_stat(life->store, &stat);
	croft_store_close(life->store);
	life->store = open_store(life, stat.budget_bytes / 2, 0, err);
	return life->store != NULL;
}

static bool fuse_is_there(const struct croft_daemon_config *config)
{
	if (config->staging != CROFT_STAGING_AUTO)
		return config->staging == CROFT_STAGING_FUSE;
	/* Not access(): a container's device rules show in open() alone. */
	CROFT_CLEANUP_FD int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		return true;
	croft_log(CROFT_LOG_WARNING, "/dev/fuse: %s; staging whole trees instead", strerror(errno));
	return false;
}

static bool serve(struct life *life, struct croft_error *err)
{
	const struct croft_daemon_config *config = life->config;
	bool mounts = life->saved.device >= 0 || fuse_is_there(config);
	life->store = open_store(life, config->budget_bytes, mounts && geteuid() == 0 ? STANDINS_FROM : 0, err);
	if (!life->store || (!mounts && !halve_store(life, err)))
		return croft_error_wrap(err, "opening the cache");
	if (config->origin) {
		life->fetcher = croft_fetcher_start(
			&(struct croft_fetcher_config){.store = life->store, .origin = config->origin,
				.tls = &config->tls, .key = config->plane_key},
			err);
		if (!life->fetcher)
			return croft_error_wrap(err, "starting to fetch from %s", config->origin);
	}
	if (config->plane_address) {
		life->plane = croft_plane_start(
			&(struct croft_plane_config){
				.address = config->plane_address, .store = life->store, .key = config->plane_key,
				.tls = config->origin && strncmp(config->origin, "https://", 8) == 0 ? &config->tls : NULL},
			err);
		if (!life->plane)
			return croft_error_wrap(err, "serving on %s", config->plane_address);
	}
	life->measurer = measurer_create(life->store, life->fetcher);
	if (mounts ? !make_mount(life, err) : !start_stager(life, err))
		return false;
	start_standins(life);
	life->prefetcher = prefetcher_create(life->store, life->fetcher, life->mount, life->standins);
	if (life->listen_fd < 0)
		life->listen_fd = daemon_listen(config->state, err);
	if (life->listen_fd < 0)
		return false;
	struct server_config server = {
		.config = config,
		.mountpoint = life->mountpoint,
		.store = life->store,
		.fetcher = life->fetcher,
		.plane = life->plane,
		.mount = life->mount,
		.stager = life->stager,
		.standins = life->standins,
		.measurer = life->measurer,
		.prefetcher = life->prefetcher,
		.stop_fd = life->stop_fd,
	};
	life->server = server_start(&server, life->listen_fd, err);
	return life->server != NULL && run(life, err);
}

/* The mount of a daemon whose agent never came back goes when nobody uses it. Returns the milliseconds after which to
 * look again; -1: not any more. */
static int look_after_orphan(struct life *life)
{
	uint64_t allowed_ms = life->config->orphan_ms ? life->config->orphan_ms : ORPHAN_MS;
	uint64_t idle_ms = server_idle_ms(life->server);
	if (idle_ms < allowed_ms)
		return (int)(allowed_ms - idle_ms < INT32_MAX ? allowed_ms - idle_ms : INT32_MAX);
	if (life->mount ? !croft_mount_unmount_idle(life->mount) : stager_is_used(life->stager))
		return ORPHAN_LOOK_MS < allowed_ms ? ORPHAN_LOOK_MS : (int)allowed_ms;
	croft_log(CROFT_LOG_INFO, "no agent for %llu s, and nothing is open: ending",
		(unsigned long long)idle_ms / 1000);
	server_end(life->server);
	if (!life->mount)
		eventfd_write(life->stop_fd, 1);
	return -1;
}

/* The socket of the process that wants to take over; -1: it is to end. */
static int wait_for_end(struct life *life)
{
	bool orphan = false;
	for (;;) {
		struct pollfd polled[] = {
			{.fd = life->signal_fd, .events = POLLIN},
			{.fd = life->stop_fd, .events = POLLIN},
		};
		int look_ms = orphan ? -1 : look_after_orphan(life);
		orphan = look_ms < 0;
		if (poll(polled, 2, look_ms) <= 0)
			continue;
		eventfd_t value;
		if (polled[1].revents)
			eventfd_read(life->stop_fd, &value);
		return polled[0].revents ? -1 : server_successor(life->server);
	}
}

static void stop_serving(struct life *life, bool handing_over)
{
	/* First what serves programs: their requests end, and the mount is gone for newcomers. */
	if (life->mount && handing_over)
		croft_mount_suspend(life->mount);
	else if (life->mount)
		croft_mount_stop(life->mount);
	if (life->mount_running)
		pthread_join(life->mount_thread, NULL);
	life->mount_running = false;
	/* Ends what agents wait for, too. */
	croft_fetcher_stop(life->fetcher);
	server_stop(life->server, !handing_over);
	struct croft_error err = CROFT_ERROR_INIT;
	if (handing_over && !croft_mount_save(life->mount, &life->saved, &err))
		croft_log(CROFT_LOG_WARNING, "not handing over: %s", err.message);
	croft_mount_destroy(life->mount);
	standins_destroy(life->standins);
	stager_destroy(life->stager);
	measurer_destroy(life->measurer);
	prefetcher_destroy(life->prefetcher);
	croft_plane_stop(life->plane);
	croft_store_close(life->store);
	life->fetcher = NULL;
	life->server = NULL;
	life->mount = NULL;
	life->standins = NULL;
	life->stager = NULL;
	life->measurer = NULL;
	life->prefetcher = NULL;
	life->plane = NULL;
	life->store = NULL;
}

enum handing { GONE, WENT_ON, FAILED };

/* To the process behind that socket, which it closes. */
static enum handing hand_over(struct life *life, int successor, struct croft_error *err)
{
	stop_serving(life, true);
	enum handing handing = FAILED;
	if (life->saved.device < 0) {
		hand_over_refuse(successor, "its mount has gone");
		croft_error_set(err, CROFT_FAILED_PRECONDITION, "the mount went while it was handed over");
	} else if (hand_over_give(successor,
			   &(struct handed){life->lock_fd, life->listen_fd, life->saved})) {
		croft_log(CROFT_LOG_INFO, "handed over");
		handing = GONE;
	} else {
		croft_log(CROFT_LOG_WARNING, "who wanted to take over did not come to it: going on");
		eventfd_t value;
		eventfd_read(life->stop_fd, &value); /* of the mount's end */
		handing = serve(life, err) ? WENT_ON : FAILED;
	}
	close(successor);
	if (handing == GONE)
		forget_saved(life);
	life->ours = handing != GONE;
	return handing;
}

static void end(struct life *life)
{
	char folder[PATH_MAX];
	stop_serving(life, false);
	if (life->ours && standins_folder(life, folder))
		standins_clear(folder);
	forget_saved(life);
	int *fds[] = {&life->listen_fd, &life->signal_fd, &life->stop_fd};
	for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++)
		if (*fds[i] >= 0)
			close(*fds[i]);
	/* The socket stays: whoever connects hears that nobody listens. The lock goes last. */
	if (life->lock_fd >= 0)
		close(life->lock_fd);
}

static void say_ready(int ready_fd, const char *text)
{
	if (ready_fd < 0)
		return;
	croft_write_all(ready_fd, text, strlen(text), "the starter's pipe", NULL);
	close(ready_fd);
}

static bool absolute_paths(struct life *life, struct croft_error *err)
{
	char state[PATH_MAX];
	if (!croft_make_directories(life->config->state, err))
		return false;
	if (!realpath(life->config->state, state))
		return croft_error_errno(err, errno, "%s", life->config->state);
	if (snprintf(life->mountpoint, PATH_MAX, "%s/mnt", state) >= PATH_MAX ||
		snprintf(life->cache, PATH_MAX, "%s/cache", state) >= PATH_MAX)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: the path is too long", state);
	return true;
}

/* Serves until it is to end, or another process does it. */
static bool live(struct life *life, struct croft_error *err)
{
	enum handing handing = WENT_ON;
	while (handing == WENT_ON) {
		int successor = wait_for_end(life);
		if (successor < 0)
			return true;
		handing = hand_over(life, successor, err);
	}
	return handing == GONE;
}

static bool start(struct life *life, const struct daemon_start *start, struct croft_error *err)
{
	if (start->version && start->version != DAEMON_VERSION)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"this program's filesystem daemon is of version %d, its agent's of %u: restart the agent",
			DAEMON_VERSION, start->version);
	raise_descriptor_limit();
	return absolute_paths(life, err) && take_signals(life, err) &&
		take_state(life, start->take_over, err) && serve(life, err);
}

bool daemon_main(const struct croft_daemon_config *config, const struct daemon_start *how,
	struct croft_error *err)
{
	struct life *life = croft_zalloc(sizeof(*life));
	life->config = config;
	life->lock_fd = life->listen_fd = life->signal_fd = life->stop_fd = life->predecessor = -1;
	life->saved = (struct croft_mount_saved){-1, -1};
	bool ok = start(life, how, err);
	if (ok) {
		if (life->mount)
			croft_log(CROFT_LOG_INFO, "serving %s", life->mountpoint);
		say_ready(how->ready_fd, "ok");
		ok = live(life, err);
	} else {
		say_ready(how->ready_fd, err->message);
		/* Nothing was answered yet: the other goes on as soon as this process is gone. */
		if (life->predecessor >= 0)
			_exit(1);
	}
	end(life);
	if (ok && life->mount_error.code != CROFT_OK) {
		*err = life->mount_error;
		ok = false;
	}
	free(life);
	return ok;
}

bool croft_daemon_main(const struct croft_daemon_config *config, struct croft_error *err)
{
	return daemon_main(config, &(struct daemon_start){.ready_fd = -1}, err);
}
