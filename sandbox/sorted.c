/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Directories read in the order of their names' bytes, whatever order their file system has. The calls that
 * read one are answered here in the kernel's place: at the beginning of a directory the whole of it is read by way
 * of the job's own open file, whose offset tells from then on which entry of our list is next. What is removed
 * meanwhile moves nothing, since the list stays as it was read; that is what the kernel promises, too.
 */
#include "sandbox/answers.h"

#include "proto/base/cleanup.h"
#include "proto/base/error.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL /* Linux 6.9, include/uapi/linux/pidfd.h */
#endif
#ifndef MQUEUE_MAGIC
#define MQUEUE_MAGIC 0x19800202 /* ipc/mqueue.c */
#endif

enum {
	AT_END = 1,           /* the offset behind every last entry; 0 is the beginning */
	LISTS_MOST = 128 << 20, /* bytes, all lists together */
	ANSWER_MOST = 64 << 10, /* bytes at a time: fewer than were asked for are as good */
};

struct entry {
	uint64_t inode;
	char *name;
	unsigned char type;
};

/* Its entries have the offsets from `first` on, which no other list has. */
struct list {
	struct list *next;
	uint64_t first;
	size_t count, bytes;
	struct entry *entries;
	char *names;
};

/* The last that was used comes first. */
struct sorted {
	struct list *lists;
	size_t bytes;
	uint64_t offset; /* the next list's */
};

struct sorted *sorted_create(void)
{
	struct sorted *sorted = croft_zalloc(sizeof(*sorted));
	sorted->offset = AT_END + 1;
	return sorted;
}

/* Lists ----------------------------------------------------------------------------------------------- */

static void list_destroy(struct list *list)
{
	free(list->entries);
	free(list->names);
	free(list);
}

static void forget_oldest(struct sorted *sorted)
{
	while (sorted->bytes > LISTS_MOST && sorted->lists && sorted->lists->next) {
		struct list **last = &sorted->lists;
		while ((*last)->next)
			last = &(*last)->next;
		sorted->bytes -= (*last)->bytes;
		list_destroy(*last);
		*last = NULL;
	}
}

static struct list *find_list(struct sorted *sorted, uint64_t offset)
{
	for (struct list **at = &sorted->lists; *at; at = &(*at)->next) {
		struct list *list = *at;
		if (offset < list->first || offset - list->first >= list->count)
			continue;
		*at = list->next;
		list->next = sorted->lists;
		sorted->lists = list;
		return list;
	}
	return NULL;
}

static bool is_dots(const char *name)
{
	return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

static int compare(const void *left, const void *right)
{
	const struct entry *a = left, *b = right;
	int dots = is_dots(b->name) - is_dots(a->name);
	return dots ? dots : strcmp(a->name, b->name);
}

/* As the kernel tells them: records one behind the other, to be kept. Its size, or minus errno. */
static ssize_t read_all(int directory, char **records)
{
	size_t used = 0, room = 64 << 10;
	*records = croft_alloc(room);
	for (;;) {
		ssize_t got = syscall(SYS_getdents64, directory, *records + used, room - used);
		if (got == 0)
			return (ssize_t)used;
		if (got < 0)
			return -errno;
		used += (size_t)got;
		if (used > LISTS_MOST / 2)
			return -ENOMEM;
		if (room - used < 32 << 10)
			*records = croft_realloc(*records, room *= 2, 1);
	}
}

/* NULL: `failure` is errno. */
static struct list *make_list(struct sorted *sorted, int directory, int *failure)
{
	struct list *list = croft_zalloc(sizeof(*list));
	ssize_t size = read_all(directory, &list->names), count = 0;
	for (ssize_t at = 0; at < size; count++)
		at += ((struct dirent64 *)(list->names + at))->d_reclen;
	list->entries = croft_array((size_t)count + 1, sizeof(struct entry));
	for (ssize_t at = 0; at < size;) {
		struct dirent64 *record = (struct dirent64 *)(list->names + at);
		list->entries[list->count++] = (struct entry){record->d_ino, record->d_name, record->d_type};
		at += record->d_reclen;
	}
	if (list->count == 0) { /* it failed; or it was removed, and has not even itself */
		*failure = size < 0 ? (int)-size : 0;
		list_destroy(list);
		return NULL;
	}
	qsort(list->entries, list->count, sizeof(struct entry), compare);
	list->bytes = (size_t)size + list->count * sizeof(struct entry);
	list->first = sorted->offset;
	sorted->offset += list->count;
	list->next = sorted->lists;
	sorted->lists = list;
	sorted->bytes += list->bytes;
	forget_oldest(sorted);
	return list;
}

/* Answers --------------------------------------------------------------------------------------------- */

/* What getdents, of old programs, returns: the type is the record's last byte. */
struct old_record {
	unsigned long inode, offset;
	unsigned short size;
	char name[];
};

static size_t put(bool old, char *to, size_t room, const struct entry *entry, uint64_t next)
{
	size_t name = strlen(entry->name) + 1;
	size_t size = old ? offsetof(struct old_record, name) + name + 1 : offsetof(struct dirent64, d_name) + name;
	size = (size + 7) & ~(size_t)7;
	if (size > room)
		return 0;
	memset(to, 0, size);
	if (old) {
		struct old_record *record = (struct old_record *)to;
		record->inode = entry->inode;
		record->offset = next;
		record->size = (unsigned short)size;
		memcpy(record->name, entry->name, name);
		to[size - 1] = (char)entry->type;
	} else {
		struct dirent64 *record = (struct dirent64 *)to;
		record->d_ino = entry->inode;
		record->d_off = (off64_t)next;
		record->d_reclen = (unsigned short)size;
		record->d_type = entry->type;
		memcpy(record->d_name, entry->name, name);
	}
	return size;
}

/* Of the list from `offset` on; moves that. */
static size_t fill(const struct list *list, bool old, char *to, size_t room, uint64_t *offset)
{
	size_t used = 0;
	while (*offset != AT_END) {
		size_t i = (size_t)(*offset - list->first);
		uint64_t next = i + 1 < list->count ? *offset + 1 : AT_END;
		size_t size = put(old, to + used, room - used, &list->entries[i], next);
		if (size == 0)
			break;
		used += size;
		*offset = next;
	}
	return used;
}

/* The kernel's own have an order of their own: processes by number. */
static bool is_kernels(int directory)
{
	struct statfs fs;
	if (fstatfs(directory, &fs) < 0)
		return true;
	return fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC || fs.f_type == DEVPTS_SUPER_MAGIC ||
		fs.f_type == MQUEUE_MAGIC || fs.f_type == CGROUP_SUPER_MAGIC || fs.f_type == CGROUP2_SUPER_MAGIC;
}

static int64_t answer(struct sorted *sorted, int directory, int memory, const struct seccomp_data *call)
{
	off_t at = lseek(directory, 0, SEEK_CUR);
	struct stat st;
	int failure = 0;
	if (at < 0 || fstat(directory, &st) < 0 || !S_ISDIR(st.st_mode) || is_kernels(directory))
		return ANSWER_BY_KERNEL;
	if (at == AT_END)
		return 0;
	struct list *list = at == 0 ? make_list(sorted, directory, &failure) : find_list(sorted, (uint64_t)at);
	if (!list)
		return at == 0 ? -failure : -EINVAL; /* nobody was told of such an offset, or it was too long ago */
	uint64_t offset = at == 0 ? list->first : (uint64_t)at;
	size_t room = (uint32_t)call->args[2] < ANSWER_MOST ? (uint32_t)call->args[2] : ANSWER_MOST;
	CROFT_CLEANUP_FREE char *records = croft_alloc(room + 1);
	size_t size = fill(list, call->nr != SYS_getdents64, records, room, &offset);
	if (size == 0)
		return -EINVAL;
	if (pwrite(memory, records, size, (off_t)call->args[1]) != (ssize_t)size)
		return -EFAULT;
	/* A file system that does not take our offsets: rather no answer than a wrong one. */
	return lseek(directory, (off_t)offset, SEEK_SET) == (off_t)offset ? (int64_t)size : -EOPNOTSUPP;
}

/* The caller is a thread, perhaps not its process's first, with files of its own. */
static int open_process(pid_t thread)
{
	int fd = (int)syscall(SYS_pidfd_open, thread, PIDFD_THREAD);
	if (fd >= 0 || errno != EINVAL)
		return fd;
	char path[64], line[128];
	int process = thread;
	snprintf(path, sizeof(path), "/proc/%d/status", thread);
	FILE *status = fopen(path, "re");
	while (status && fgets(line, sizeof(line), status) && sscanf(line, "Tgid: %d", &process) != 1)
		;
	if (status)
		fclose(status);
	return (int)syscall(SYS_pidfd_open, process, 0);
}

int64_t sorted_answer(struct sorted *sorted, int listener, const struct seccomp_notif *asked)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)asked->pid);
	CROFT_CLEANUP_FD int process = open_process((pid_t)asked->pid);
	CROFT_CLEANUP_FD int memory = open(path, O_RDWR | O_CLOEXEC);
	/* Numbers of processes are given again. If the call still waits now, these are its caller's. */
	if (!answers_still_waits(listener, asked))
		return -EINTR;
	if (process < 0 || memory < 0)
		return -EIO;
	CROFT_CLEANUP_FD int directory = (int)syscall(SYS_pidfd_getfd, process, (int)asked->data.args[0], 0);
	if (directory < 0)
		return errno == EBADF ? ANSWER_BY_KERNEL : -EIO;
	return answer(sorted, directory, memory, &asked->data);
}
