/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Archives into trees. Small files go to the upload from memory, large ones over files of a private
 * directory; both are sent off whenever enough has gathered, so that an archive of any size passes
 * through bounded space.
 */
#include "cli/load.h"

#include "cli/output.h"
#include "fs/unpack.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

static const uint64_t gathered_bytes = 64 << 20;

struct reading {
	struct load *load;
	const char *name;
	int fd;
	bool seekable;
};

static ssize_t read_bytes(void *user, void *buffer, size_t size, uint64_t offset, struct croft_error *err)
{
	struct reading *reading = user;
	for (;;) {
		ssize_t got = reading->seekable ? pread(reading->fd, buffer, size, (off_t)offset)
										: read(reading->fd, buffer, size);
		if (got >= 0)
			return got;
		if (errno != EINTR) {
			croft_error_errno(err, errno, "reading %s", reading->name);
			return -1;
		}
	}
}

/* Files ------------------------------------------------------------------------------------ */

static bool make_spool(struct load *load, struct croft_error *err)
{
	if (load->spool)
		return true;
	const char *parent = getenv("TMPDIR");
	char *path;
	if (asprintf(&path, "%s/croft-import-XXXXXX", parent && *parent ? parent : "/var/tmp") < 0)
		abort();
	if (!mkdtemp(path)) {
		croft_error_errno(err, errno, "making %s", path);
		free(path);
		return false;
	}
	load->spool = path;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return croft_error_errno(err, errno, "opening %s", path);
	load->spool_fd = fd;
	return true;
}

/* Sends what has gathered, and frees the space. */
static bool send_gathered(struct load *load, struct croft_error *err)
{
	struct croft_upload_stat stat;
	if (!croft_upload_flush(load->upload, &stat, err))
		return false;
	char name[24];
	for (; load->spooled_files; load->spooled_files--) {
		snprintf(name, sizeof(name), "%" PRIu64, load->spooled_files - 1);
		if (unlinkat(load->spool_fd, name, 0) < 0)
			return croft_error_errno(err, errno, "removing %s/%s", load->spool, name);
	}
	load->gathered_bytes = 0;
	return true;
}

static bool taken(struct reading *reading, const struct croft_digest *digest, struct croft_error *err)
{
	struct load *load = reading->load;
	load->files++;
	load->bytes += digest->size_bytes;
	load->gathered_bytes += digest->size_bytes;
	progress("%s: %" PRIu64 " files", reading->name, load->files);
	return load->gathered_bytes < gathered_bytes || send_gathered(load, err);
}

static bool take_small(void *user, const struct croft_digest *digest, struct croft_slice data, struct croft_error *err)
{
	struct reading *reading = user;
	return croft_upload_bytes(reading->load->upload, digest, data, err) && taken(reading, digest, err);
}

static int make_file(void *user, struct croft_error *err)
{
	struct load *load = ((struct reading *)user)->load;
	if (!make_spool(load, err))
		return -1;
	char name[24];
	snprintf(name, sizeof(name), "%" PRIu64, load->spooled_files);
	int fd = openat(load->spool_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		croft_error_errno(err, errno, "creating %s/%s", load->spool, name);
	else
		load->spooled_files++;
	return fd;
}

/* The file is the one that was made last. */
static bool take_large(void *user, const struct croft_digest *digest, int fd, struct croft_error *err)
{
	struct reading *reading = user;
	struct load *load = reading->load;
	char name[24];
	snprintf(name, sizeof(name), "%" PRIu64, load->spooled_files - 1);
	return croft_upload_file(load->upload, digest, load->spool_fd, name, err) && taken(reading, digest, err);
}

static void skip(void *user, const char *path)
{
	struct reading *reading = user;
	warn("%s: %s is left out: a tree cannot hold fifos and devices", reading->name, path);
	reading->load->skipped++;
}

/* ------------------------------------------------------------------------------------------ */

bool load_archive(struct load *load, const char *path, const char *under, struct croft_error *err)
{
	bool standard_input = !strcmp(path, "-");
	struct reading reading = {.load = load, .name = standard_input ? "standard input" : path,
		.fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC)};
	struct stat st;
	if (reading.fd < 0 || fstat(reading.fd, &st) < 0) {
		croft_error_errno(err, errno, "opening %s", path);
		if (!standard_input && reading.fd >= 0)
			close(reading.fd);
		return false;
	}
	reading.seekable = S_ISREG(st.st_mode) && (!standard_input || lseek(reading.fd, 0, SEEK_CUR) == 0);
	struct croft_unpacking archive = {
		.name = reading.name,
		.read = read_bytes,
		.seekable = reading.seekable,
		.size_bytes = (uint64_t)st.st_size,
		.builder = load->builder,
		.under = under,
		.keep = load->keep,
		.small = take_small,
		.make_file = make_file,
		.large = take_large,
		.skip = skip,
		.user = &reading,
	};
	bool ok = croft_unpack(&archive, err);
	if (!standard_input)
		close(reading.fd);
	return ok;
}
