/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the agent asks of its daemon: each function one request and its answer. */
#include "fs/daemon/client.h"

#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { STAGE_TRIES = 10 };

static bool account_call(struct croft_daemon *daemon, enum daemon_op op, uint64_t pid_namespace,
	struct croft_mount_account *account, struct croft_error *err)
{
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	struct daemon_request request = {.op = op, .pid_namespace = pid_namespace};
	if (!daemon_call(daemon, &request, -1, answer, err))
		return false;
	if (account)
		*account = answer->account;
	return true;
}

bool croft_daemon_account_begin(struct croft_daemon *daemon, uint64_t pid_namespace,
	struct croft_error *err)
{
	return account_call(daemon, OP_ACCOUNT_BEGIN, pid_namespace, NULL, err);
}

bool croft_daemon_account_read(struct croft_daemon *daemon, uint64_t pid_namespace,
	struct croft_mount_account *account, struct croft_error *err)
{
	return account_call(daemon, OP_ACCOUNT_READ, pid_namespace, account, err);
}

bool croft_daemon_account_end(struct croft_daemon *daemon, uint64_t pid_namespace,
	struct croft_mount_account *account, struct croft_error *err)
{
	return account_call(daemon, OP_ACCOUNT_END, pid_namespace, account, err);
}

bool croft_daemon_adopt(struct croft_daemon *daemon, const struct croft_digest *digest, int fd,
	struct croft_error *err)
{
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	struct daemon_request request = {.op = OP_ADOPT, .digest = *digest};
	return daemon_call(daemon, &request, fd, answer, err);
}

bool croft_daemon_set_peers(struct croft_daemon *daemon, const char *const *peers, size_t count,
	struct croft_error *err)
{
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	struct daemon_request request = {.op = OP_SET_PEERS};
	for (size_t i = 0; i < count; i++) {
		size_t size = strlen(peers[i]) + 1;
		if (size > sizeof(request.text) - request.text_size)
			break; /* those that come first are thought the best */
		memcpy(request.text + request.text_size, peers[i], size);
		request.text_size += (uint32_t)size;
		request.peer_count++;
	}
	return daemon_call(daemon, &request, -1, answer, err);
}

static bool same(const char *one, const char *other)
{
	return one && other ? strcmp(one, other) == 0 : one == other;
}

/* From here on every daemon that is started has it. */
static bool note_origin(struct croft_daemon *daemon, const char *origin, const char *plane_key,
	bool *same_key, bool *same_origin)
{
	CROFT_LOCKED(&daemon->starting);
	*same_origin = same(daemon->config.origin, origin);
	/* A fetcher cannot change to TLS, or from it: another daemon can. */
	bool was_secure = daemon->config.origin && strncmp(daemon->config.origin, "https://", 8) == 0;
	*same_key = same(daemon->config.plane_key, plane_key);
	bool same_scheme = (origin && strncmp(origin, "https://", 8) == 0) == was_secure;
	if (!*same_origin)
		daemon->config.origin = croft_arena_strdup(daemon->arena, origin);
	if (!*same_key)
		daemon->config.plane_key = plane_key ? croft_arena_strdup(daemon->arena, plane_key) : NULL;
	bool changed = !*same_origin || !*same_key;
	*same_key &= same_scheme;
	return changed;
}

bool croft_daemon_set_origin(struct croft_daemon *daemon, const char *origin, const char *plane_key,
	struct croft_error *err)
{
	bool same_key, same_origin;
	if (!note_origin(daemon, origin, plane_key, &same_key, &same_origin))
		return true;
	if (!same_key)
		return daemon_ensure_running(daemon, err);
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	struct daemon_request request = {.op = OP_SET_ORIGIN};
	if (strlen(origin) >= sizeof(request.text))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "the origin's address is too long");
	request.text_size = (uint32_t)strlen(origin);
	memcpy(request.text, origin, request.text_size);
	return daemon_call(daemon, &request, -1, answer, err);
}

/* A staged tree that another needs the room of may go before it is locked here. */
static int lock_staged(const char *path, struct croft_error *err)
{
	struct stat locked, named;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) == 0 && fstat(fd, &locked) == 0 &&
		lstat(path, &named) == 0 && locked.st_ino == named.st_ino)
		return fd;
	croft_error_errno(err, errno, "using the staged tree %s", path);
	if (fd >= 0)
		close(fd);
	return -1;
}

/* A job does well without. */
static void find_standin(struct croft_daemon *daemon, const struct croft_digest *root,
	struct croft_staged *staged)
{
	if (!__atomic_load_n(&daemon->standins, __ATOMIC_RELAXED))
		return;
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	struct daemon_request request = {.op = OP_STAGE, .digest = *root};
	if (!daemon_call(daemon, &request, -1, answer, NULL) || !answer->staged.path[0])
		return;
	staged->hold = lock_staged(answer->staged.path, NULL);
	if (staged->hold >= 0)
		snprintf(staged->standin, sizeof(staged->standin), "%s", answer->staged.path);
}

bool croft_daemon_stage(struct croft_daemon *daemon, const struct croft_digest *root,
	struct croft_staged *staged, struct croft_error *err)
{
	if (__atomic_load_n(&daemon->staging, __ATOMIC_RELAXED) == CROFT_STAGING_FUSE) {
		char text[CROFT_DIGEST_TEXT];
		croft_digest_format(root, '-', text);
		int size = snprintf(staged->path, sizeof(staged->path), "%s/by-digest/%s",
			daemon->mountpoint, text);
		if (size >= PATH_MAX)
			return croft_error_set(
				err, CROFT_INVALID_ARGUMENT, "the agent's --state is too long a path");
		find_standin(daemon, root, staged);
		return true;
	}
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	struct croft_error failed = CROFT_ERROR_INIT;
	for (unsigned tries = 0; tries < STAGE_TRIES; tries++) {
		struct daemon_request request = {.op = OP_STAGE, .digest = *root};
		if (!daemon_call(daemon, &request, -1, answer, err))
			return false;
		snprintf(staged->path, sizeof(staged->path), "%s", answer->staged.path);
		staged->fetched_files += answer->staged.fetched_files;
		staged->fetched_bytes += answer->staged.fetched_bytes;
		staged->hold = lock_staged(staged->path, &failed);
		if (staged->hold >= 0)
			return true;
	}
	*err = failed;
	return false;
}

void croft_daemon_unstage(struct croft_staged *staged)
{
	if (staged->hold >= 0)
		close(staged->hold);
	staged->hold = -1;
}

bool croft_daemon_measure(struct croft_daemon *daemon, const struct croft_digest *root,
	struct croft_tree_totals *totals, struct croft_error *err)
{
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	struct daemon_request request = {.op = OP_MEASURE, .digest = *root};
	if (!daemon_call(daemon, &request, -1, answer, err))
		return false;
	*totals = answer->totals;
	return true;
}

bool croft_daemon_present(struct croft_daemon *daemon, const struct croft_digest *root,
	bool directory, uint64_t *bytes, struct croft_error *err)
{
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	struct daemon_request request = {
		.op = OP_PRESENT, .digest = *root, .is_directory = directory};
	if (!daemon_call(daemon, &request, -1, answer, err))
		return false;
	*bytes = answer->present_bytes;
	return true;
}

bool croft_daemon_stat(struct croft_daemon *daemon, struct croft_daemon_stat *stat,
	struct croft_error *err)
{
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	struct daemon_request request = {.op = OP_STAT};
	if (!daemon_call(daemon, &request, -1, answer, err))
		return false;
	*stat = answer->stat;
	return true;
}

/* A memory file with the bytes, to be passed. */
static int memory_file(const void *data, size_t size, struct croft_error *err)
{
	int fd = memfd_create("croft-list", MFD_CLOEXEC);
	if (fd < 0)
		croft_error_errno(err, errno, "making a memory file");
	if (fd < 0 || croft_pwrite_all(fd, data, size, 0, "a memory file", err))
		return fd;
	close(fd);
	return -1;
}

bool croft_daemon_prefetch(struct croft_daemon *daemon, uint64_t pid_namespace,
	const struct croft_prefetch_wish *wishes, size_t count, struct croft_error *err)
{
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	struct daemon_request request = {.op = OP_PREFETCH, .pid_namespace = pid_namespace};
	CROFT_CLEANUP_FD int fd = memory_file(wishes, count * sizeof(*wishes), err);
	return fd >= 0 && daemon_call(daemon, &request, fd, answer, err);
}

bool croft_daemon_touched(struct croft_daemon *daemon, uint64_t pid_namespace,
	const struct croft_digest *root, struct croft_slice paths, struct croft_digest *digests,
	size_t count, struct croft_prefetch_account *account, struct croft_read_range **ranges,
	size_t *range_count, struct croft_error *err)
{
	struct daemon_answer *answer = croft_alloc(sizeof(*answer));
	CROFT_CLEANUP_FREE void *owned = answer;
	if (paths.size > UINT32_MAX)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "the paths are too long");
	struct daemon_request request = {.op = OP_TOUCHED, .pid_namespace = pid_namespace,
		.digest = *root, .list_size = (uint32_t)paths.size};
	CROFT_CLEANUP_FD int fd = memory_file(paths.data, paths.size, err);
	if (fd < 0 || !daemon_call(daemon, &request, fd, answer, err))
		return false;
	size_t digests_size = count * sizeof(*digests);
	*range_count = answer->touched.range_count;
	*ranges = croft_array(*range_count + 1, sizeof(**ranges));
	*account = answer->touched.prefetch;
	if (croft_pread_all(fd, digests, digests_size, paths.size,
			"what the filesystem daemon says of opened files", err) &&
		croft_pread_all(fd, *ranges, *range_count * sizeof(**ranges), paths.size + digests_size,
			"what the filesystem daemon says was read", err))
		return true;
	free(*ranges);
	return false;
}
