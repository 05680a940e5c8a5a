/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sched/plane_key.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { RANDOM = 24, MOST = 128 };

static bool make(const char *path, struct croft_error *err)
{
	unsigned char random[RANDOM];
	char text[2 * RANDOM + 2];
	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return croft_error_errno(err, errno, "getting random bytes");
	for (size_t i = 0; i < RANDOM; i++)
		snprintf(text + 2 * i, 3, "%02x", random[i]);
	strcat(text, "\n");
	/* As a whole or not at all: what a crash cut off would be another key than the one agents were told. */
	char part[4096];
	if (snprintf(part, sizeof(part), "%s.new", path) >= (int)sizeof(part))
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: the path is too long", path);
	CROFT_CLEANUP_FD int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return croft_error_errno(err, errno, "making %s", part);
	if (!croft_write_all(fd, text, strlen(text), part, err))
		return false;
	if (fsync(fd) != 0 || rename(part, path) != 0)
		return croft_error_errno(err, errno, "writing %s", path);
	return true;
}

const char *plane_key_read(const char *path, struct croft_arena *arena, struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT) {
		if (!make(path, err))
			return NULL;
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	char text[MOST + 2];
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (size < 0) {
		croft_error_errno(err, errno, "reading the blob plane's key from %s", path);
		return NULL;
	}
	text[size] = '\0';
	text[strcspn(text, "\r\n")] = '\0';
	size_t length = strlen(text);
	if (length < 16 || length > MOST || strpbrk(text, " \t:")) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%s: a blob plane's key is one line of 16 to %d characters without blanks or colons; remove the "
			"file for a new one",
			path, MOST);
		return NULL;
	}
	return croft_arena_strdup(arena, text);
}
