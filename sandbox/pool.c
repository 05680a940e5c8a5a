/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The launcher and its cells, from the agent's side.
 */
#include "sandbox/internal.h"

#include "proto/base/io.h"
#include "proto/base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

struct cell {
	int socket;
	bool ready; /* its keeper said so, and has had no job since */
	bool taken; /* and it is somebody's, who has not asked for anything yet */
	uint64_t pid_namespace;
};

struct croft_launcher {
	pid_t pid;
	struct launcher_context context;
	char *state;
	int socket;

	pthread_mutex_t lock; /* guards: cells, busy */
	pthread_cond_t freed;
	struct cell *cells;
	bool *busy; /* slots */
};

const struct launcher_context *pool_context(const struct croft_launcher *launcher)
{
	return &launcher->context;
}

/* The launcher --------------------------------------------------------------------------------------- */

static bool empty_state(const char *state, unsigned cells, struct croft_error *err)
{
	for (unsigned cell = 0; cell < cells; cell++) {
		char path[4096];
		snprintf(path, sizeof(path), "%s/%u", state, cell);
		if (!croft_remove_tree(AT_FDCWD, path, err))
			return false;
	}
	return true;
}

static const char STAGING[] = "croft-roots-";

static const char *staging_parent(void)
{
	return access("/run", W_OK) == 0 ? "/run" : "/tmp";
}

/* Agents that were killed leave theirs, and not every state directory is used again. Whoever uses one holds it. */
static void remove_abandoned_staging(const char *parent)
{
	DIR *dir = opendir(parent);
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		struct stat st;
		if (strncmp(entry->d_name, STAGING, strlen(STAGING)) != 0)
			continue;
		CROFT_CLEANUP_FD int held =
			openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (held < 0 || fstat(held, &st) < 0 || st.st_uid != geteuid() || flock(held, LOCK_EX | LOCK_NB) < 0)
			continue;
		for (unsigned cell = 0;; cell++) {
			char name[16];
			snprintf(name, sizeof(name), "%u", cell);
			if (unlinkat(held, name, AT_REMOVEDIR) < 0)
				break;
		}
		unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR);
	}
	if (dir)
		closedir(dir);
}

/* Makes and holds it. Somebody may have taken it for abandoned before it was held. */
static bool hold_staging(struct launcher_context *context, struct croft_error *err)
{
	struct stat here, held;
	for (;;) {
		if (!croft_make_directories(context->staging, err))
			return false;
		int fd = open(context->staging, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 && errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
			return croft_error_errno(err, errno, "opening %s", context->staging);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0 || fstat(fd, &held) < 0 || held.st_uid != geteuid()) {
			if (fd >= 0)
				close(fd);
			return croft_error_set(err, CROFT_FAILED_PRECONDITION,
				"%s is not a directory of this user: remove it", context->staging);
		}
		/* Those who die may hold it still. */
		if (flock(fd, LOCK_SH) == 0 && lstat(context->staging, &here) == 0 && here.st_ino == held.st_ino &&
			here.st_dev == held.st_dev) {
			context->staging_lock = fd;
			return true;
		}
		close(fd);
	}
}

/* Init, who is nobody on the host, must be able to walk to its root, and the state directory may be
 * closed to others. The name follows from the state directory, so that a killed agent's next start finds
 * and uses it again. Nothing but empty mount points is ever in it: the mounts are in no namespace but the
 * keepers'. */
static bool make_staging(struct launcher_context *context, struct croft_error *err)
{
	char *staging;
	uint32_t name = 2166136261u; /* FNV-1a */
	for (const char *at = context->state; *at; at++)
		name = (name ^ (unsigned char)*at) * 16777619u;
	int size = context->privileged
		? asprintf(&staging, "%s/%s%08x", staging_parent(), STAGING, name)
		: asprintf(&staging, "%s/roots", context->state);
	if (size < 0)
		abort();
	context->staging = staging;
	if (context->privileged)
		remove_abandoned_staging(staging_parent());
	if (!hold_staging(context, err))
		return false;
	for (unsigned cell = 0; cell < launcher_cells(context); cell++) {
		char path[4096];
		cell_root(context, cell, path, sizeof(path));
		if (!croft_make_directories(path, err))
			return false;
	}
	return true;
}

static void remove_staging(struct launcher_context *context)
{
	for (unsigned cell = 0; context->staging && cell < launcher_cells(context); cell++) {
		char path[4096];
		cell_root(context, cell, path, sizeof(path));
		rmdir(path);
	}
	if (context->staging)
		rmdir(context->staging);
	if (context->staging_lock >= 0)
		close(context->staging_lock);
	free((char *)context->staging);
}

static bool is_on_disk(const char *path)
{
	struct statfs fs;
	return statfs(path, &fs) < 0 || (fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC);
}

static bool may_trace(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct sets[2] = {{0}};
	return syscall(SYS_capget, &header, sets) == 0 && sets[0].effective & 1u << CAP_SYS_PTRACE;
}

static bool prepare_context(struct croft_launcher *launcher,
	const struct croft_launcher_config *config, struct croft_arena *arena, const char **limits,
	struct croft_error *err)
{
	struct launcher_context *context = &launcher->context;
	context->state = launcher->state;
	context->slots = config->slots;
	context->uid_base = config->uid_base ? config->uid_base : CROFT_DEFAULT_UID_BASE;
	context->shared_uids = config->shared_uids;
	context->privileged = geteuid() == 0;
	context->traces = context->privileged && may_trace();
	context->on_disk = is_on_disk(context->state);
	context->user_namespaces = croft_array(config->slots, sizeof(int));
	for (unsigned slot = 0; slot < config->slots; slot++)
		context->user_namespaces[slot] = context->privileged
			? launcher_user_namespace(context, cell_ids(context, slot * CELLS_PER_SLOT))
			: -1;
	const char *said = "";
	if (!context->privileged)
		said = croft_arena_printf(arena,
			"user ids (not started as root): jobs run under this user's id, which they share\n");
	else if (context->user_namespaces[0] < 0)
		said = croft_arena_printf(arena, "owners of inputs (no user namespace can be made)\n");
	else if (context->shared_uids)
		said = croft_arena_printf(arena,
			"user ids (FUSE maps owners since Linux 6.12): jobs at the same time share theirs\n");
	context->landlock = landlock_version();
	if (!context->landlock)
		said = croft_arena_printf(arena, "%sLandlock (this kernel has none that serves, or it is off)\n", said);
	context->cgroups = cgroups_open(launcher_cells(context), arena, &said);
	if (limits)
		*limits = said;
	if (!make_staging(context, err))
		return false;
	for (int profile = 0; profile < 3; profile++)
		if (!seccomp_compile((enum croft_seccomp)profile, false, &context->seccomp[profile], err) ||
			!seccomp_compile((enum croft_seccomp)profile, true, &context->sorted[profile], err))
			return false;
	return true;
}

/* The launcher's ends are in `ends`. */
static bool make_sockets(struct croft_launcher *launcher, struct launcher_sockets *ends,
	struct croft_error *err)
{
	unsigned cells = launcher_cells(&launcher->context);
	int pair[2];
	launcher->cells = croft_array(cells, sizeof(*launcher->cells));
	ends->cells = croft_array(cells, sizeof(int));
	ends->agent = -1;
	for (unsigned cell = 0; cell < cells; cell++)
		launcher->cells[cell].socket = ends->cells[cell] = -1;
	for (unsigned cell = 0; cell <= cells; cell++) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
			return croft_error_errno(err, errno, "making the launcher's sockets");
		*(cell < cells ? &launcher->cells[cell].socket : &launcher->socket) = pair[0];
		*(cell < cells ? &ends->cells[cell] : &ends->agent) = pair[1];
	}
	return true;
}

static bool fork_launcher(struct croft_launcher *launcher, struct croft_error *err)
{
	struct launcher_sockets ends;
	unsigned cells = launcher_cells(&launcher->context);
	bool ok = make_sockets(launcher, &ends, err);
	if (ok && (launcher->pid = fork()) < 0)
		ok = croft_error_errno(err, errno, "forking the launcher");
	if (ok && launcher->pid == 0) {
		close(launcher->socket);
		for (unsigned cell = 0; cell < cells; cell++)
			close(launcher->cells[cell].socket);
		launcher_main(&launcher->context, &ends);
	}
	for (unsigned cell = 0; cell < cells; cell++)
		if (ends.cells[cell] >= 0)
			close(ends.cells[cell]);
	if (ends.agent >= 0)
		close(ends.agent);
	free(ends.cells);
	return ok;
}

struct croft_launcher *croft_launcher_start(const struct croft_launcher_config *config,
	struct croft_arena *arena, const char **limits, struct croft_error *err)
{
	struct croft_launcher *launcher = croft_zalloc(sizeof(*launcher));
	launcher->state = realpath(config->state, NULL);
	launcher->socket = launcher->context.staging_lock = -1;
	launcher->busy = croft_array(config->slots, sizeof(bool));
	pthread_mutex_init(&launcher->lock, NULL);
	pthread_cond_init(&launcher->freed, NULL);
	if (!launcher->state)
		croft_error_errno(err, errno, "the sandboxes' directory %s", config->state);
	else if (empty_state(launcher->state, config->slots * CELLS_PER_SLOT, err) &&
		prepare_context(launcher, config, arena, limits, err) && fork_launcher(launcher, err))
		return launcher;
	croft_launcher_stop(launcher);
	return NULL;
}

void croft_launcher_stop(struct croft_launcher *launcher)
{
	if (!launcher)
		return;
	if (launcher->socket >= 0) {
		/* A child that the caller forked since may hold a copy: closing ours would not tell. */
		shutdown(launcher->socket, SHUT_RDWR);
		close(launcher->socket);
	}
	for (unsigned cell = 0; launcher->cells && cell < launcher_cells(&launcher->context); cell++) {
		if (launcher->cells[cell].socket < 0)
			continue;
		shutdown(launcher->cells[cell].socket, SHUT_RDWR);
		close(launcher->cells[cell].socket);
	}
	free(launcher->cells);
	if (launcher->pid > 0)
		waitpid(launcher->pid, NULL, 0);
	/* What was made ahead. */
	struct croft_error err = CROFT_ERROR_INIT;
	if (launcher->state && !empty_state(launcher->state, launcher_cells(&launcher->context), &err))
		fprintf(stderr, "croft: leaving the files of sandboxes behind: %s\n", err.message);
	cgroups_close(launcher->context.cgroups);
	remove_staging(&launcher->context);
	for (unsigned slot = 0; launcher->context.user_namespaces && slot < launcher->context.slots; slot++)
		if (launcher->context.user_namespaces[slot] >= 0)
			close(launcher->context.user_namespaces[slot]);
	for (int profile = 0; profile < 3; profile++) {
		free(launcher->context.seccomp[profile].filter);
		free(launcher->context.sorted[profile].filter);
	}
	free(launcher->context.user_namespaces);
	free(launcher->busy);
	free(launcher->state);
	pthread_mutex_destroy(&launcher->lock);
	pthread_cond_destroy(&launcher->freed);
	free(launcher);
}

/* Cells ---------------------------------------------------------------------------------------------- */

/* The last word is the one that holds: a keeper that died was replaced. With the lock held. */
static bool is_ready(struct cell *cell)
{
	struct ready ready;
	while (recv(cell->socket, &ready, sizeof(ready), MSG_DONTWAIT) == sizeof(ready)) {
		cell->ready = true;
		cell->pid_namespace = ready.pid_namespace;
	}
	return cell->ready;
}

static unsigned ready_cell(struct croft_launcher *launcher, unsigned slot)
{
	for (unsigned cell = slot * CELLS_PER_SLOT; cell < (slot + 1) * CELLS_PER_SLOT; cell++)
		if (is_ready(&launcher->cells[cell]))
			return cell;
	return UINT32_MAX;
}

/* A free slot, preferably with a sandbox that is ready. */
static unsigned take_slot(struct croft_launcher *launcher)
{
	CROFT_LOCKED(&launcher->lock);
	for (;;) {
		unsigned found = UINT32_MAX;
		for (unsigned slot = 0; slot < launcher->context.slots; slot++) {
			if (launcher->busy[slot])
				continue;
			if (found == UINT32_MAX)
				found = slot;
			if (ready_cell(launcher, slot) != UINT32_MAX) {
				found = slot;
				break;
			}
		}
		if (found != UINT32_MAX) {
			launcher->busy[found] = true;
			return found;
		}
		pthread_cond_wait(&launcher->freed, &launcher->lock);
	}
}

bool pool_take(struct croft_launcher *launcher, unsigned *cell, uint64_t *pid_namespace,
	struct croft_error *err)
{
	unsigned slot = take_slot(launcher);
	for (;;) {
		pthread_mutex_lock(&launcher->lock);
		*cell = ready_cell(launcher, slot);
		if (*cell != UINT32_MAX) {
			launcher->cells[*cell].ready = false;
			launcher->cells[*cell].taken = true;
			*pid_namespace = launcher->cells[*cell].pid_namespace;
		}
		pthread_mutex_unlock(&launcher->lock);
		if (*cell != UINT32_MAX)
			return true;
		struct pollfd fds[CELLS_PER_SLOT];
		for (unsigned i = 0; i < CELLS_PER_SLOT; i++)
			fds[i] = (struct pollfd){launcher->cells[slot * CELLS_PER_SLOT + i].socket, POLLIN, 0};
		if (poll(fds, CELLS_PER_SLOT, -1) < 0)
			continue;
		for (unsigned i = 0; i < CELLS_PER_SLOT; i++) {
			if (!(fds[i].revents & POLLHUP))
				continue;
			pool_release(launcher, slot * CELLS_PER_SLOT);
			return croft_error_set(err, CROFT_UNAVAILABLE, "the launcher of sandboxes is gone");
		}
	}
}

void pool_release(struct croft_launcher *launcher, unsigned cell)
{
	CROFT_LOCKED(&launcher->lock);
	/* Its keeper, which was asked for nothing, says nothing anew. */
	if (launcher->cells[cell].taken)
		launcher->cells[cell].ready = true;
	launcher->cells[cell].taken = false;
	launcher->busy[cell / CELLS_PER_SLOT] = false;
	pthread_cond_signal(&launcher->freed);
}

bool pool_request(struct croft_launcher *launcher, unsigned cell, const int fds[REQUEST_FDS],
	struct croft_error *err)
{
	char byte = 's';
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(REQUEST_FDS * sizeof(int))];
	} control = {0};
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	size_t count = fds[REQUEST_FDS - 1] < 0 ? REQUEST_FDS - 1 : REQUEST_FDS;
	header->cmsg_len = CMSG_LEN(count * sizeof(int));
	message.msg_controllen = CMSG_SPACE(count * sizeof(int));
	memcpy(CMSG_DATA(header), fds, count * sizeof(int));
	if (sendmsg(launcher->cells[cell].socket, &message, MSG_NOSIGNAL) != 1)
		return croft_error_errno(err, errno, "asking the launcher (is it gone?)");
	CROFT_LOCKED(&launcher->lock);
	launcher->cells[cell].taken = false;
	return true;
}
