/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a mount has fetched, told to whoever may open something in it: by an ioctl, since anything that could be read
 * there would not be of the tree. */
#include "fs/mount/internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#define GET_COUNTERS _IOR('c', 0x46, struct croft_mount_counters)

void croft_mount_counters_of(const struct croft_fetcher *fetcher, struct croft_mount_counters *counters)
{
	struct croft_fetch_stat stat;
	croft_fetch_stat(fetcher, &stat);
	*counters = (struct croft_mount_counters){
		.fetched_blobs = stat.blobs,
		.fetched_bytes = stat.bytes,
		.from_peers_bytes = stat.from_peers_bytes,
		.background_bytes = stat.background_bytes,
		.waiting_blobs = stat.fetching_blobs,
		.waiting_bytes = stat.fetching_bytes,
		.retries = stat.retries,
		.failures = stat.failures,
		.bad_bytes = stat.bad_bytes,
	};
}

void mount_on_ioctl(fuse_req_t fuse, fuse_ino_t node, unsigned command, void *argument, struct fuse_file_info *file,
	unsigned flags, const void *in, size_t in_size, size_t out_size)
{
	const struct croft_mount *mount = fuse_req_userdata(fuse);
	struct croft_mount_counters counters = {0};
	if (command != GET_COUNTERS || out_size < sizeof(counters)) {
		fuse_reply_err(fuse, ENOTTY);
		return;
	}
	if (mount->fetcher)
		croft_mount_counters_of(mount->fetcher, &counters);
	fuse_reply_ioctl(fuse, 0, &counters, sizeof(counters));
}

bool croft_mount_ask_counters(const char *path, struct croft_mount_counters *counters, struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening %s", path);
	if (ioctl(fd, GET_COUNTERS, counters) == 0)
		return true;
	if (errno == ENOTTY || errno == ENOSYS || errno == EINVAL)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION, "%s is in no mount of croft's", path);
	return croft_error_errno(err, errno, "asking the mount at %s", path);
}
