/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon's life: takes the state directory, clears what a crashed predecessor left, starts store,
 * plane, fetcher and mount, serves, and ends them in an order in which nobody waits for what is gone.
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

enum { PREDECESSOR_MS = 10000, STALE_MOUNTS = 64 };

struct life {
	const struct croft_daemon_config *config;
	char mountpoint[PATH_MAX], cache[PATH_MAX];
	int lock_fd, listen_fd, signal_fd, stop_fd;
	struct croft_store *store;
	struct croft_fetcher *fetcher;
	struct croft_plane *plane;
	struct measurer *measurer;
	struct prefetcher *prefetcher;
	struct croft_mount *mount;
	struct server *server;
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

static bool start_mount(struct life *life, struct croft_error *err)
{
	const struct croft_daemon_config *config = life->config;
	life->mount = croft_mount_create(
		&(struct croft_mount_config){
			.mountpoint = life->mountpoint,
			.store = life->store,
			.fetcher = life->fetcher,
			.allow_other = geteuid() == 0,
			.uid = config->uid,
			.gid = config->gid,
		},
		err);
	if (!life->mount)
		return false;
	int result = pthread_create(&life->mount_thread, NULL, run_mount, life);
	if (result != 0)
		return croft_error_errno(err, result, "starting a thread");
	pthread_setname_np(life->mount_thread, "fs-mount");
	life->mount_running = true;
	return true;
}

static bool start(struct life *life, struct croft_error *err)
{
	const struct croft_daemon_config *config = life->config;
	raise_descriptor_limit();
	if (!croft_make_directories(config->state, err) || !take_signals(life, err) ||
		!take_lock(life, err) || !clear_mountpoint(life, err))
		return false;
	life->store = croft_store_open(
		&(struct croft_store_config){
			.path = life->cache, .budget_bytes = config->budget_bytes, .chunked = true},
		err);
	if (!life->store)
		return croft_error_wrap(err, "opening the cache");
	if (config->origin) {
		life->fetcher = croft_fetcher_start(
			&(struct croft_fetcher_config){.store = life->store, .origin = config->origin},
			err);
		if (!life->fetcher)
			return croft_error_wrap(err, "starting to fetch from %s", config->origin);
	}
	if (config->plane_address) {
		life->plane = croft_plane_start(
			&(struct croft_plane_config){
				.address = config->plane_address, .store = life->store},
			err);
		if (!life->plane)
			return croft_error_wrap(err, "serving on %s", config->plane_address);
	}
	life->measurer = measurer_create(life->store, life->fetcher);
	life->prefetcher = prefetcher_create(life->store, life->fetcher);
	if (!start_mount(life, err))
		return false;
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
		.measurer = life->measurer,
		.prefetcher = life->prefetcher,
		.stop_fd = life->stop_fd,
	};
	life->server = server_start(&server, life->listen_fd, err);
	return life->server != NULL;
}

static void wait_for_end(struct life *life)
{
	struct pollfd polled[] = {
		{.fd = life->signal_fd, .events = POLLIN},
		{.fd = life->stop_fd, .events = POLLIN},
	};
	while (poll(polled, 2, -1) < 0)
		;
}

static void end(struct life *life)
{
	/* First what serves programs: their requests end, and the mount is gone for newcomers. */
	if (life->mount)
		croft_mount_stop(life->mount);
	if (life->mount_running)
		pthread_join(life->mount_thread, NULL);
	/* Ends what agents wait for, too. */
	croft_fetcher_stop(life->fetcher);
	server_stop(life->server);
	croft_mount_destroy(life->mount);
	measurer_destroy(life->measurer);
	prefetcher_destroy(life->prefetcher);
	croft_plane_stop(life->plane);
	croft_store_close(life->store);
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

bool daemon_main(const struct croft_daemon_config *config, int ready_fd, struct croft_error *err)
{
	struct life *life = croft_zalloc(sizeof(*life));
	life->config = config;
	life->lock_fd = life->listen_fd = life->signal_fd = life->stop_fd = -1;
	bool ok = absolute_paths(life, err) && start(life, err);
	if (ok) {
		croft_log(CROFT_LOG_INFO, "serving %s", life->mountpoint);
		say_ready(ready_fd, "ok");
		wait_for_end(life);
	} else {
		say_ready(ready_fd, err->message);
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
	return daemon_main(config, -1, err);
}
