/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who caused which fetch, and how long whom it kept waiting. Groups are pid namespaces. */
#ifndef CROFT_FS_MOUNT_ACCOUNT_H
#define CROFT_FS_MOUNT_ACCOUNT_H

#include "fs/mount.h"

#include <sys/types.h>

struct accounts;

struct accounts *accounts_create(void);
void accounts_destroy(struct accounts *accounts);

void accounts_begin(struct accounts *accounts, uint64_t group);
bool accounts_read(struct accounts *accounts, uint64_t group, struct croft_mount_account *account);
bool accounts_end(struct accounts *accounts, uint64_t group, struct croft_mount_account *account);

/* For a successor (saved.c): the account at that position, of all that there are; what was saved begins anew. */
bool accounts_at(struct accounts *accounts, size_t position, uint64_t *group,
	struct croft_mount_account *account);
void accounts_restore(struct accounts *accounts, uint64_t group,
	const struct croft_mount_account *account);

/* The pid namespace of a thread as this process sees it; 0: there is none (any more), or nobody
 * keeps accounts. */
uint64_t accounts_group_of(struct accounts *accounts, pid_t pid);

/* A thread of the group starts and ends to wait. */
void accounts_wait(struct accounts *accounts, uint64_t group);
void accounts_resume(struct accounts *accounts, uint64_t group);
void accounts_charge(struct accounts *accounts, uint64_t group, bool directory, uint64_t blobs,
	uint64_t bytes);
void accounts_error(struct accounts *accounts, uint64_t group, const char *message);

#endif
