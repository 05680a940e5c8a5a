/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/mount/account.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct entry {
	uint64_t group;
	struct croft_mount_account account;
	unsigned waiting;
	uint64_t waiting_since_ns;
	struct entry *next;
};

struct accounts {
	pthread_mutex_t lock; /* guards: entries */
	struct entry *entries; /* one per running job: few */
};

struct accounts *accounts_create(void)
{
	struct accounts *accounts = croft_zalloc(sizeof(*accounts));
	pthread_mutex_init(&accounts->lock, NULL);
	return accounts;
}

void accounts_destroy(struct accounts *accounts)
{
	if (!accounts)
		return;
	for (struct entry *entry = accounts->entries, *next; entry; entry = next) {
		next = entry->next;
		free(entry);
	}
	pthread_mutex_destroy(&accounts->lock);
	free(accounts);
}

static struct entry *find(struct accounts *accounts, uint64_t group)
{
	struct entry *entry = group ? accounts->entries : NULL;
	while (entry && entry->group != group)
		entry = entry->next;
	return entry;
}

/* The kernel uses a namespace's inode number again when it is gone: a new beginning is a new account. */
void accounts_begin(struct accounts *accounts, uint64_t group)
{
	CROFT_LOCKED(&accounts->lock);
	struct entry *entry = find(accounts, group);
	if (!entry) {
		entry = croft_zalloc(sizeof(*entry));
		entry->group = group;
		entry->next = accounts->entries;
		accounts->entries = entry;
	}
	memset(&entry->account, 0, sizeof(entry->account));
	entry->waiting = 0;
}

static void copy_out(const struct entry *entry, struct croft_mount_account *account)
{
	*account = entry->account;
	if (entry->waiting)
		account->stall_ns += croft_now_ns() - entry->waiting_since_ns;
}

bool accounts_read(struct accounts *accounts, uint64_t group, struct croft_mount_account *account)
{
	CROFT_LOCKED(&accounts->lock);
	struct entry *entry = find(accounts, group);
	if (entry)
		copy_out(entry, account);
	return entry != NULL;
}

bool accounts_end(struct accounts *accounts, uint64_t group, struct croft_mount_account *account)
{
	CROFT_LOCKED(&accounts->lock);
	struct entry *entry = find(accounts, group);
	if (!entry)
		return false;
	copy_out(entry, account);
	struct entry **link = &accounts->entries;
	while (*link != entry)
		link = &(*link)->next;
	*link = entry->next;
	free(entry);
	return true;
}

bool accounts_at(struct accounts *accounts, size_t position, uint64_t *group,
	struct croft_mount_account *account)
{
	CROFT_LOCKED(&accounts->lock);
	struct entry *entry = accounts->entries;
	while (entry && position-- > 0)
		entry = entry->next;
	if (!entry)
		return false;
	*group = entry->group;
	copy_out(entry, account);
	return true;
}

void accounts_restore(struct accounts *accounts, uint64_t group,
	const struct croft_mount_account *account)
{
	accounts_begin(accounts, group);
	CROFT_LOCKED(&accounts->lock);
	find(accounts, group)->account = *account;
}

static bool nobody(struct accounts *accounts)
{
	CROFT_LOCKED(&accounts->lock);
	return accounts->entries == NULL;
}

uint64_t accounts_group_of(struct accounts *accounts, pid_t pid)
{
	if (pid <= 0 || nobody(accounts))
		return 0;
	char path[64], text[64];
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)pid);
	ssize_t size = readlink(path, text, sizeof(text) - 1);
	if (size <= 0)
		return 0;
	text[size] = '\0';
	const char *number = strchr(text, '[');
	return number ? strtoull(number + 1, NULL, 10) : 0;
}

void accounts_wait(struct accounts *accounts, uint64_t group)
{
	CROFT_LOCKED(&accounts->lock);
	struct entry *entry = find(accounts, group);
	if (entry && entry->waiting++ == 0)
		entry->waiting_since_ns = croft_now_ns();
}

void accounts_resume(struct accounts *accounts, uint64_t group)
{
	CROFT_LOCKED(&accounts->lock);
	struct entry *entry = find(accounts, group);
	/* None waits in an account that was begun after this thread started to. */
	if (entry && entry->waiting && --entry->waiting == 0)
		entry->account.stall_ns += croft_now_ns() - entry->waiting_since_ns;
}

void accounts_charge(struct accounts *accounts, uint64_t group, bool directory, uint64_t blobs,
	uint64_t bytes)
{
	CROFT_LOCKED(&accounts->lock);
	struct entry *entry = find(accounts, group);
	if (!entry)
		return;
	if (directory) {
		entry->account.directory_blobs += blobs;
		entry->account.directory_bytes += bytes;
	} else {
		entry->account.fetched_files += blobs;
		entry->account.fetched_bytes += bytes;
	}
}

void accounts_error(struct accounts *accounts, uint64_t group, const char *message)
{
	CROFT_LOCKED(&accounts->lock);
	struct entry *entry = find(accounts, group);
	if (entry && entry->account.errors++ == 0)
		snprintf(entry->account.first_error, sizeof(entry->account.first_error), "%s",
			message);
}
