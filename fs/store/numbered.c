/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files whose names are numbers: segments and lease logs. */
#include "fs/store/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int by_number(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
	return (left > right) - (left < right);
}

bool store_list_numbered(int dir_fd, uint32_t **numbers, size_t *count, struct croft_error *err)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir) {
		croft_error_errno(err, errno, "listing it");
		if (fd >= 0)
			close(fd);
		return false;
	}
	size_t room = 16;
	*count = 0;
	*numbers = croft_array(room, sizeof(**numbers));
	for (struct dirent *entry; (entry = readdir(dir));) {
		char *end;
		unsigned long number = strtoul(entry->d_name, &end, 16);
		if (strlen(entry->d_name) != 8 || *end || number == 0)
			continue;
		if (*count == room)
			*numbers = croft_realloc(*numbers, room *= 2, sizeof(**numbers));
		(*numbers)[(*count)++] = (uint32_t)number;
	}
	closedir(dir);
	qsort(*numbers, *count, sizeof(**numbers), by_number);
	return true;
}
