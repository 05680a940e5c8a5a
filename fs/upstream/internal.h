/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of fs/upstream share. */
#ifndef CROFT_FS_UPSTREAM_INTERNAL_H
#define CROFT_FS_UPSTREAM_INTERNAL_H

#include "fs/digest_map.h"
#include "fs/upstream.h"
#include "proto/base/cleanup.h"

enum {
	UPSTREAM_SMALL = 64 * 1024,  /* blobs up to this are gathered */
	UPSTREAM_GROUP = 256,        /* blobs in one group */
	UPSTREAM_GROUP_BYTES = 3000000,
	UPSTREAM_RESULT = 4 << 20,   /* bytes of an action cache's value */
	UPSTREAM_THREADS = 4,        /* of one caller */
};

/* What a kind of upstream can do. False: the upstream failed, and err says how; a blob that is not
 * there, or is not what it should be, is no failure. Groups are of small blobs, or one large one. */
struct upstream_kind {
	void *(*create)(struct croft_upstream *upstream, const char *url, struct croft_error *err);
	void (*destroy)(void *link);
	/* there[i]: worth fetching. */
	bool (*find)(void *link, const struct croft_digest *digests, size_t count, bool *there,
		struct croft_error *err);
	bool (*fetch)(void *link, const struct croft_digest *digests, size_t count,
		struct croft_error *err);
	bool (*fetch_hash)(void *link, const uint8_t hash[CROFT_HASH_SIZE], struct croft_error *err);
	bool (*send)(void *link, const struct croft_digest *digests, size_t count,
		struct croft_error *err);
	/* value->data NULL: it has none. */
	bool (*get_result)(void *link, const char *instance_name, const struct croft_digest *action,
		struct croft_arena *arena, struct croft_slice *value, struct croft_error *err);
	bool (*put_result)(void *link, const char *instance_name, const struct croft_digest *action,
		struct croft_slice value, struct croft_error *err);
};
extern const struct upstream_kind upstream_grpc, upstream_http;

struct upstream_sender;

struct croft_upstream {
	struct croft_store *store;
	char *url /* without a password */, *authority_file /* or NULL */;
	char *account_fields; /* of each request's head, to HTTP; or NULL */
	unsigned timeout_ms;
	const struct upstream_kind *kind;
	void *link;
	struct upstream_sender *sender;

	pthread_mutex_t lock; /* guards: what follows */
	pthread_cond_t arrived;
	struct croft_digest_map *coming; /* being fetched */
	unsigned failures;               /* in a row */
	uint64_t resting_until_ns;
	struct croft_upstream_stat stat; /* atomic */
};

#define upstream_count(upstream, field, by)                                                        \
	__atomic_fetch_add(&(upstream)->stat.field, (by), __ATOMIC_RELAXED)

/* May it be asked now? After a failure one at a time finds out whether it is back. */
bool upstream_is_up(struct croft_upstream *upstream);
/* Every request that was let through ends in one of these. */
void upstream_worked(struct croft_upstream *upstream);
void upstream_failed(struct croft_upstream *upstream, const struct croft_error *err);
/* A blob whose bytes are of another digest; said in the log. */
void upstream_lied(struct croft_upstream *upstream, const struct croft_error *err);

/* Runs jobs 0 to count-1, on a few threads when there are several; stops at the first failure. */
bool upstream_parallel(size_t count, bool (*job)(void *user, size_t index, struct croft_error *err),
	void *user, struct croft_error *err);
/* Runs `group` on groups: of small blobs, and each large one alone. */
bool upstream_in_groups(const struct croft_digest *digests, size_t count,
	bool (*group)(void *link, const struct croft_digest *digests, size_t count,
		struct croft_error *err),
	void *link, struct croft_error *err);

/* Stores a group of small blobs; those that are wrong or find no room are as if they were not there. */
void upstream_store(struct croft_upstream *upstream, const struct croft_digest *digests,
	const struct croft_slice *data, size_t count);
/* A large one. NULL: there is no room for it, or it is there by now. */
struct croft_store_writer *upstream_write(struct croft_upstream *upstream,
	const struct croft_digest *digest);
void upstream_written(struct croft_upstream *upstream, struct croft_store_writer *writer,
	const struct croft_digest *digest);

/* account.c: the URL without USER:PASSWORD@, and the line of a request's head that says them (NULL: none). Both in
 * the arena, or borrowed from the URL. No failure shows them. */
bool upstream_account(const char *url, struct croft_arena *arena, const char **plain, const char **fields,
	struct croft_error *err);

/* send.c */
struct upstream_sender *upstream_sender_start(struct croft_upstream *upstream,
	struct croft_error *err);
void upstream_sender_stop(struct upstream_sender *sender);

#endif
