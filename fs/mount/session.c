/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The FUSE device: mounting, the INIT exchange, the threads, and the end. */
#include "fs/mount/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

/* Since Linux 6.12 (include/uapi/linux/fuse.h); not in Debian 12's headers. */
#ifndef FUSE_ALLOW_IDMAP
#define FUSE_ALLOW_IDMAP (1ULL << 40)
#endif

enum {
	DIRECTORY_CACHE_BYTES = 32 << 20,
	THREADS_AT_MOST = 4,
	REQUEST_PAGES = 257, /* as libfuse has it: what the kernel was told may come at once */
	/* Wakes threads that wait for a request; ignored where it has no handler. */
	WAKE_SIGNAL = SIGURG,
	WAKE_INTERVAL_NS = 1000000,
	/* What a file's sequential reader has ahead of it; the kernel's own 128 KiB are made for disks. */
	READ_AHEAD_KB = 1024,
};

/* libfuse 3.14 does not know the newer flags of INIT: what the kernel offers is noted when the
 * request is read, and what is wanted of it is put into the answer when that is written. */

static ssize_t read_device(int fd, void *buffer, size_t size, void *user)
{
	struct croft_mount *mount = user;
	ssize_t got = read(fd, buffer, size);
	if (!mount->answering_init || got < 0)
		return got;
	mount->init.size = got < SAVED_INIT_BYTES ? (uint32_t)got : SAVED_INIT_BYTES;
	memcpy(mount->init.request, buffer, mount->init.size);
	const struct fuse_in_header *header = buffer;
	struct fuse_init_in init = {0};
	size_t body = (size_t)got - sizeof(*header);
	if ((size_t)got > sizeof(*header) && header->opcode == FUSE_INIT) {
		memcpy(&init, header + 1, body < sizeof(init) ? body : sizeof(init));
		mount->offered_flags = init.flags;
		if (init.flags & FUSE_INIT_EXT)
			mount->offered_flags |= (uint64_t)init.flags2 << 32;
	}
	return got;
}

static void extend_init(struct croft_mount *mount, struct fuse_init_out *init)
{
	/* libfuse 3.14 is asked for it and forgets to say so: without it a look-up that waits for a fetch holds up
	 * every other in its directory. */
	init->flags |= (uint32_t)mount->offered_flags & FUSE_PARALLEL_DIROPS;
	/* So that a sandbox can show a tree's files as its own user's by an idmapped mount. */
	uint64_t flags = mount->offered_flags & FUSE_ALLOW_IDMAP;
	if (mount->uid != 0) /* another owner than root is meant as it stands */
		flags = 0;
	if (mount->offered_flags & RINGS_INIT_FLAG && !mount->classic && rings_possible()) {
		flags |= RINGS_INIT_FLAG;
		mount->ringed = true;
		/* They size the buffers of each entry; nothing is ever written. */
		init->max_pages = RINGS_PAYLOAD_PAGES;
		init->max_write = 4096;
		init->max_background = RINGS_BACKGROUND;
		init->congestion_threshold = RINGS_BACKGROUND;
	}
	if (!flags)
		return;
	init->flags |= FUSE_INIT_EXT;
	init->flags2 |= (uint32_t)(flags >> 32);
}

static ssize_t write_device(int fd, struct iovec *parts, int count, void *user)
{
	struct croft_mount *mount = user;
	const struct fuse_out_header *header = parts[0].iov_base;
	if (mount->rings && rings_answer(mount->rings, parts, count))
		return (ssize_t)header->len;
	if (mount->answering_init && mount->resumed)
		return (ssize_t)header->len; /* the kernel did not ask */
	if (!mount->answering_init || header->error || count != 2 ||
		parts[1].iov_len != sizeof(struct fuse_init_out))
		return writev(fd, parts, count);
	struct fuse_init_out init;
	memcpy(&init, parts[1].iov_base, sizeof(init));
	extend_init(mount, &init);
	struct iovec extended[2] = {parts[0], {&init, sizeof(init)}};
	return writev(fd, extended, 2);
}

static bool use_device(struct croft_mount *mount, int fd, struct croft_error *err)
{
	static const struct fuse_custom_io device = {.read = read_device, .writev = write_device};
	int result = fuse_session_custom_io(mount->session, &device, fd);
	return result == 0 || croft_error_errno(err, -result, "taking over /dev/fuse");
}

/* libfuse hears what the kernel said to the process before. */
static bool repeat_init(struct croft_mount *mount, int device, struct croft_error *err)
{
	int fd = fcntl(device, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return croft_error_errno(err, errno, "taking over /dev/fuse");
	if (!use_device(mount, fd, err))
		return false;
	struct fuse_buf buffer = {.mem = mount->init.request, .size = mount->init.size};
	mount->answering_init = true;
	fuse_session_process_buf(mount->session, &buffer);
	mount->answering_init = false;
	return !fuse_session_exited(mount->session) ||
		croft_error_set(err, CROFT_FAILED_PRECONDITION, "the mount was agreed on otherwise");
}

/* Reads and answers the one request that comes before all others. */
static bool exchange_init(struct croft_mount *mount, struct croft_error *err)
{
	if (!use_device(mount, fuse_session_fd(mount->session), err))
		return false;
	int result;
	struct fuse_buf buffer = {0};
	mount->answering_init = true;
	do
		result = fuse_session_receive_buf(mount->session, &buffer);
	while (result == -EINTR);
	if (result > 0)
		fuse_session_process_buf(mount->session, &buffer);
	mount->answering_init = false;
	free(buffer.mem);
	if (result <= 0 || fuse_session_exited(mount->session))
		return croft_error_errno(err, result < 0 ? -result : ENODEV,
			"the first exchange with the kernel on %s", mount->mountpoint);
	return true;
}

/* The kernel takes no more than its default from INIT; as root more can be set. */
static void set_read_ahead(const struct croft_mount *mount)
{
	struct statx stat;
	char path[96], text[16];
	/* Must not ask the daemon, which does not serve yet. */
	if (statx(AT_FDCWD, mount->mountpoint, AT_STATX_DONT_SYNC, 0, &stat) != 0)
		return;
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", stat.stx_dev_major,
		stat.stx_dev_minor);
	CROFT_CLEANUP_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
	int size = snprintf(text, sizeof(text), "%d", READ_AHEAD_KB);
	if (fd < 0 || write(fd, text, (size_t)size) < 0)
		croft_log(CROFT_LOG_DEBUG, "%s: %s; reading ahead less", path, strerror(errno));
}

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#else
#define __lsan_disable()
#define __lsan_enable()
#endif

/* libfuse frees its copy of the path when it unmounts, which one that was handed over never does. */
static int mount_session(struct croft_mount *mount)
{
	__lsan_disable();
	int result = fuse_session_mount(mount->session, mount->mountpoint);
	__lsan_enable();
	return result;
}

static bool open_session(struct croft_mount *mount, const struct croft_mount_config *config,
	struct croft_error *err)
{
	char options[160];
	snprintf(options, sizeof(options), "default_permissions,ro,nosuid,nodev,fsname=croft,subtype=croft%s",
		config->allow_other ? ",allow_other" : "");
	char *arguments[] = {"croft", "-o", options, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(3, arguments);
	mount->session = fuse_session_new(&args, &mount_operations, sizeof(mount_operations), mount);
	fuse_opt_free_args(&args);
	if (!mount->session)
		return croft_error_set(err, CROFT_INTERNAL, "libfuse made no session");
	if (config->saved) {
		mount->resumed = true;
		return saved_read(mount, config->saved->state, err) &&
			repeat_init(mount, config->saved->device, err);
	}
	errno = 0;
	if (mount_session(mount) == 0)
		return exchange_init(mount, err);
	/* libfuse has said on standard error what it was. */
	if (access("/dev/fuse", R_OK | W_OK) != 0 && errno == EACCES)
		return croft_error_set(err, CROFT_PERMISSION_DENIED,
			"/dev/fuse may be used by root only on this machine: distributions give it mode 0666");
	if (access("/dev/fuse", R_OK | W_OK) != 0)
		return croft_error_errno(err, errno, "/dev/fuse");
	bool lacks_helper = geteuid() != 0 && access("/usr/bin/fusermount3", X_OK) != 0;
	return croft_error_set(err, CROFT_FAILED_PRECONDITION, "FUSE could not be mounted on %s%s", mount->mountpoint,
		lacks_helper ? ": who is not root needs /usr/bin/fusermount3 for that, of the package fuse3" : "");
}

static void set_roots(struct croft_mount *mount, const struct croft_digest *root)
{
	struct node node = {.kind = NODE_DIRECTORY, .ino = NODE_ID_ROOT};
	if (root) {
		/* Its mode, times and links are in its message, which is read when they are asked for. */
		memcpy(node.hash, root->hash, sizeof(node.hash));
		node.message_size = (uint32_t)root->size_bytes;
	} else {
		node = (struct node){.kind = NODE_ROOT, .ino = NODE_ID_ROOT, .mode = 0555,
			.links = 3 + (uint32_t)views_count(mount->views)};
	}
	nodes_set(mount->nodes, NODE_ID_ROOT, &node);
	node = (struct node){.kind = NODE_BY_DIGEST, .ino = NODE_ID_BY_DIGEST, .mode = 0555,
		.links = 2};
	nodes_set(mount->nodes, NODE_ID_BY_DIGEST, &node);
}

static unsigned thread_count(unsigned wanted)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (wanted)
		return wanted;
	return cpus < 2 ? 2 : cpus < THREADS_AT_MOST ? (unsigned)cpus : THREADS_AT_MOST;
}

struct croft_mount *croft_mount_create(const struct croft_mount_config *config,
	struct croft_error *err)
{
	if (config->root && config->root->size_bytes > INT32_MAX) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "no Directory has so many bytes");
		return NULL;
	}
	struct croft_mount *mount = croft_zalloc(sizeof(*mount));
	mount->store = config->store;
	mount->fetcher = config->fetcher;
	mount->uid = config->uid;
	mount->gid = config->gid;
	mount->classic = config->classic;
	mount->threads = thread_count(config->threads);
	mount->mountpoint = croft_strdup(config->mountpoint);
	mount->nodes = nodes_create();
	mount->directories = directory_cache_create(DIRECTORY_CACHE_BYTES);
	mount->blobs = blobs_create(config->store);
	mount->partials = partials_create(config->store);
	mount->siblings = siblings_create();
	mount->accounts = accounts_create();
	mount->waiting = waiting_create(mount);
	mount->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	bool ok = mount->wake_fd >= 0 || croft_error_errno(err, errno, "eventfd");
	if (ok && config->view_count && !config->root)
		ok = (mount->views = views_create(config->views, config->view_count, err)) != NULL;
	set_roots(mount, config->root);
	ok = ok && open_session(mount, config, err);
	if (ok && mount->ringed && !mount->rings)
		ok = (mount->rings = rings_create(mount->session, err)) != NULL;
	if (ok) {
		set_read_ahead(mount);
		return mount;
	}
	mount->left = config->saved != NULL; /* it is still the other process's */
	croft_mount_destroy(mount);
	return NULL;
}

/* A thread that reads requests. */
struct worker {
	struct croft_mount *mount;
	pthread_t thread;
	int result; /* -errno that ended it */
};

static void *work(void *user)
{
	struct worker *worker = user;
	struct croft_mount *mount = worker->mount;
	struct fuse_buf buffer = {0};
	sigset_t wake;
	sigemptyset(&wake);
	sigaddset(&wake, WAKE_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &wake, NULL);
	/* libfuse's own function throws away a request that it reads while the session is told to exit. */
	size_t room = REQUEST_PAGES * (size_t)getpagesize();
	buffer.mem = croft_alloc(room);
	while (!fuse_session_exited(mount->session)) {
		ssize_t size = read_device(fuse_session_fd(mount->session), buffer.mem, room, mount);
		if (size < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
			continue;
		if (size < (ssize_t)sizeof(taken_header)) {
			worker->result = size < 0 && errno != ENODEV ? -errno : 0; /* ENODEV: unmounted */
			break;
		}
		buffer.size = (size_t)size;
		memcpy(&taken_header, buffer.mem, sizeof(taken_header));
		fuse_session_process_buf(mount->session, &buffer);
	}
	free(buffer.mem);
	croft_mount_stop(mount);
	return NULL;
}

static void woken(int number)
{
}

/* A read that waits for a request is interrupted by a signal; one that is about to has not seen it. Cancelling the
 * thread would be simpler, but might come upon a request that was read and is not yet known to have been. Joined
 * without a limit it might wait for one that missed the signal; the calls with a limit wait by the time of day, or
 * are not known to the thread sanitizer. */
static void end_worker(struct worker *worker)
{
	do {
		pthread_kill(worker->thread, WAKE_SIGNAL);
		nanosleep(&(struct timespec){.tv_nsec = WAKE_INTERVAL_NS}, NULL);
	} while (pthread_tryjoin_np(worker->thread, NULL) == EBUSY);
}

static bool start_thread(pthread_t *thread, void *(*run)(void *), void *user, const char *name,
	struct croft_error *err)
{
	int result = pthread_create(thread, NULL, run, user);
	if (result != 0)
		return croft_error_errno(err, result, "starting a thread");
	pthread_setname_np(*thread, name);
	return true;
}

static void sleep_until_stopped(struct croft_mount *mount)
{
	while (!atomic_load(&mount->stopped)) {
		struct pollfd wake = {.fd = mount->wake_fd, .events = POLLIN};
		eventfd_t value;
		poll(&wake, 1, waiting_look(mount->waiting));
		if (wake.revents & POLLIN)
			eventfd_read(mount->wake_fd, &value);
	}
}

/* The kernel holds requests back until the rings are there or refused. */
static void start_rings(struct croft_mount *mount)
{
	struct croft_error refusal = CROFT_ERROR_INIT;
	if (rings_start(mount->rings, &refusal)) {
		croft_log(CROFT_LOG_INFO, "FUSE over io_uring");
		if (mount->resumed)
			rings_kick_fresh(mount->rings, mount->mountpoint);
	} else {
		croft_log(CROFT_LOG_WARNING, "FUSE over io_uring: %s; going on with /dev/fuse",
			refusal.message);
	}
}

bool croft_mount_run(struct croft_mount *mount, struct croft_error *err)
{
	/* Those that answer what had to wait; as many as read, so that neither starves the other. */
	unsigned count = mount->threads, readers = 0, answerers = 0;
	struct sigaction action = {.sa_handler = woken};
	sigaction(WAKE_SIGNAL, &action, NULL);
	struct worker *workers = croft_array(count, sizeof(*workers));
	pthread_t *answering = croft_array(count, sizeof(*answering));
	bool ok = true;
	while (ok && answerers < count) {
		ok = start_thread(&answering[answerers], waiting_serve, mount->waiting, "fs-answer", err);
		answerers += ok;
	}
	if (ok)
		saved_run_requests(mount);
	if (ok && mount->rings)
		rings_run_kept(mount->rings);
	while (ok && readers < count) {
		workers[readers].mount = mount;
		ok = start_thread(&workers[readers].thread, work, &workers[readers], "fs-fuse", err);
		readers += ok;
	}
	if (ok && mount->rings)
		start_rings(mount);
	if (ok)
		sleep_until_stopped(mount);

	fuse_session_exit(mount->session);
	for (unsigned i = 0; i < readers; i++) {
		end_worker(&workers[i]);
		if (ok && workers[i].result < 0)
			ok = croft_error_errno(err, -workers[i].result, "reading from /dev/fuse");
	}
	if (ok && atomic_load(&mount->suspended))
		waiting_keep(mount->waiting);
	else
		waiting_close(mount->waiting);
	for (unsigned i = 0; i < answerers; i++)
		pthread_join(answering[i], NULL);
	/* Only now: what was answered last went by them. */
	if (mount->rings) {
		mount->held = ok && atomic_load(&mount->suspended) && rings_hold(mount->rings);
		rings_stop(mount->rings);
	}
	free(answering);
	free(workers);
	return ok;
}

void croft_mount_stop(struct croft_mount *mount)
{
	int saved = errno;
	atomic_store(&mount->stopped, true);
	eventfd_write(mount->wake_fd, 1);
	errno = saved;
}

const char *croft_mount_bound(struct croft_mount *mount)
{
	if (mount->views)
		return "its views are its process's";
	return mount->rings ? rings_bound(mount->rings, mount->mountpoint) : NULL;
}

void croft_mount_suspend(struct croft_mount *mount)
{
	atomic_store(&mount->suspended, true);
	croft_mount_stop(mount);
}

/* Whoever unmounted it has ended it; what is mounted there now is somebody else's. */
static bool is_mounted(const struct croft_mount *mount)
{
	struct pollfd device = {.fd = fuse_session_fd(mount->session)};
	return device.fd >= 0 && poll(&device, 1, 0) >= 0 && !(device.revents & POLLERR);
}

bool croft_mount_save(struct croft_mount *mount, struct croft_mount_saved *saved,
	struct croft_error *err)
{
	if (!is_mounted(mount))
		return croft_error_set(err, CROFT_FAILED_PRECONDITION, "%s was unmounted",
			mount->mountpoint);
	if (mount->ringed && !mount->held)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION, "the rings of %s were not held",
			mount->mountpoint);
	saved->state = memfd_create("croft-mount", MFD_CLOEXEC);
	saved->device = fcntl(fuse_session_fd(mount->session), F_DUPFD_CLOEXEC, 3);
	if (saved->state < 0 || saved->device < 0)
		croft_error_errno(err, errno, "saving the mount %s", mount->mountpoint);
	else if (saved_write(mount, saved->state, err))
		return mount->left = true;
	if (saved->state >= 0)
		close(saved->state);
	if (saved->device >= 0)
		close(saved->device);
	return false;
}

bool croft_mount_unmount_idle(struct croft_mount *mount)
{
	return !is_mounted(mount) || mount_detach(mount->mountpoint, false) == 0;
}

static void end_session(struct croft_mount *mount)
{
	/* Detaches the mount even where it is busy; closing the device ends every request that
	 * is still under way. */
	if (mount->resumed && !mount->left && is_mounted(mount))
		mount_detach(mount->mountpoint, true);
	else if (!mount->resumed && !mount->left)
		fuse_session_unmount(mount->session);
	fuse_session_destroy(mount->session);
	for (struct resumed_request *request; (request = mount->resumed_requests);) {
		mount->resumed_requests = request->next;
		free(request);
	}
}

void croft_mount_destroy(struct croft_mount *mount)
{
	if (!mount)
		return;
	waiting_close(mount->waiting);
	if (mount->session)
		end_session(mount);
	views_destroy(mount->views);
	rings_destroy(mount->rings);
	waiting_release(mount->waiting);
	accounts_destroy(mount->accounts);
	partials_destroy(mount->partials);
	siblings_destroy(mount->siblings);
	blobs_destroy(mount->blobs);
	directory_cache_destroy(mount->directories);
	nodes_destroy(mount->nodes);
	if (mount->wake_fd >= 0)
		close(mount->wake_fd);
	free(mount->mountpoint);
	free(mount);
}

void croft_mount_learn_chunks(struct croft_mount *mount, const struct croft_digest *file,
	const struct croft_digest *chunks, size_t count)
{
	partials_learn(mount->partials, file, chunks, count);
}

size_t croft_mount_read_ranges(struct croft_mount *mount, const struct croft_digest *file,
	struct croft_mount_range *ranges, size_t most)
{
	return partials_ranges(mount->partials, file, ranges, most);
}

void croft_mount_account_begin(struct croft_mount *mount, uint64_t pid_namespace)
{
	accounts_begin(mount->accounts, pid_namespace);
}

bool croft_mount_account_read(struct croft_mount *mount, uint64_t pid_namespace,
	struct croft_mount_account *account)
{
	return accounts_read(mount->accounts, pid_namespace, account);
}

bool croft_mount_account_end(struct croft_mount *mount, uint64_t pid_namespace,
	struct croft_mount_account *account)
{
	return accounts_end(mount->accounts, pid_namespace, account);
}
