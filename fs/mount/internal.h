/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of fs/mount share: the mount and a request of the kernel's.
 *
 *	session.c    the FUSE device: mounting, INIT, threads, the end
 *	operations.c what each request does
 *	list.c       listing directories
 *	partial.c    reading large files by chunks
 *	siblings.c   small files that are read one after the other
 *	ahead.c      the directories of a tree
 *	counters.c   what was fetched, for who asks
 *	view.c       directories in which others say what stands where
 *	ring*.c      FUSE over io_uring
 *	saved.c      what passes to the process that goes on with a mount
 *	wait.c       requests that wait for a fetch
 */
#ifndef CROFT_FS_MOUNT_INTERNAL_H
#define CROFT_FS_MOUNT_INTERNAL_H

#include "fs/mount.h"
#include "fs/mount/account.h"
#include "fs/mount/blobs.h"
#include "fs/mount/directory.h"
#include "fs/mount/node.h"
#include "fs/mount/partial.h"
#include "fs/mount/ring.h"
#include "fs/mount/siblings.h"
#include "fs/mount/saved.h"

#include <stdatomic.h>

#include <fuse_lowlevel.h>

struct waiting;
struct views;
struct view_answer;

/* For so long what may change is remembered. */
#define CHANGING_S 1.0

struct croft_mount {
	struct croft_store *store;
	struct croft_fetcher *fetcher; /* or NULL */
	uint32_t uid, gid;
	unsigned threads;

	struct nodes *nodes;
	struct directory_cache *directories;
	struct blobs *blobs;
	struct partials *partials;
	struct siblings *siblings;
	struct accounts *accounts;
	struct waiting *waiting;
	struct views *views; /* or NULL */

	struct fuse_session *session;
	char *mountpoint;
	int wake_fd;            /* wakes croft_mount_run: something changed */
	atomic_bool stopped;    /* croft_mount_stop was called */
	uint64_t offered_flags; /* by the kernel's INIT */
	bool classic;           /* as its maker wants */
	bool ringed;            /* INIT asked for FUSE over io_uring */
	struct rings *rings;    /* or NULL */
	bool held;              /* they are stopped, and a request lies in each entry */
	bool answering_init;
	struct saved_init init;
	bool resumed;                              /* it was mounted by another process */
	struct resumed_request *resumed_requests;  /* that waited there */
	atomic_bool suspended;                     /* croft_mount_suspend was called */
	bool left;                                 /* croft_mount_save: somebody else goes on */
};

/* As the kernel sent it. */
struct resumed_request {
	struct resumed_request *next;
	size_t size;
	char message[];
};

/* One request of the kernel. It starts on the stack of the thread that read it. If it must wait for
 * a blob it moves to the heap, and is run again from its start when the blob has come. */
struct request {
	struct croft_mount *mount;
	fuse_req_t fuse; /* NULL when it was answered while it waited */
	struct fuse_in_header header;
	/* True: answered; false: it waits, and is out of the caller's hands. */
	bool (*run)(struct request *request);
	uint64_t node;
	uint64_t offset;
	size_t size;
	char *name;          /* LOOKUP; on the heap when waiting */
	bool plus;           /* READDIRPLUS */
	bool children_tried; /* READDIRPLUS: the messages below were asked for once */
	bool recipe_tried;   /* READ: the origin was asked what chunks the blob has */
	bool whole;          /* READ: it is not to be had by chunks */
	char *piece;         /* READ: the bytes, which came with the recipe; or NULL */
	bool changing;       /* LOOKUP: what stands at the name is another's word */
	char *folder;        /* of a view, which is asked: its path; on the heap, or NULL */
	struct view_answer *answer; /* what it said; or NULL */

	/* Of requests that wait (guarded by the lock of `waiting`). */
	bool on_heap;
	struct waiting *waiting;
	enum {
		WAIT_FILE,
		WAIT_DIRECTORY,
		WAIT_RECIPE,
		WAIT_CHUNKS,
		WAIT_VIEW,
		FETCH_AHEAD,
		DIRECTORIES_AHEAD
	} kind; /* for what */
	bool new_file;      /* CHUNKS: the first of the file that this mount fetches */
	bool optional;      /* the blobs not coming is no failure of the request */
	unsigned waits;     /* times that it waited */
	unsigned pending;   /* blobs that have not come yet */
	uint64_t group;
	pid_t pid;
	struct croft_error failure; /* of the blob that it waited for last */
	struct croft_digest failed;
	struct ahead *ahead; /* it is nobody's: directories are fetched ahead (ahead.c); or NULL */
	struct request *previous, *next;
};

/* wait.c ------------------------------------------------------------------------------------ */

struct waiting *waiting_create(struct croft_mount *mount);
/* Runs requests that have what they waited for, until waiting_close. */
void *waiting_serve(void *waiting);
/* Answers those whose process was killed. Returns the milliseconds after which to look again;
 * -1: none waits. */
int waiting_look(struct waiting *waiting);
/* Answers all with ENOTCONN and runs none any more. Fetches that are under way end into nothing. */
void waiting_close(struct waiting *waiting);
/* Answers none and runs none any more: those that have what they waited for, or will hear that they do not get
 * it, are kept. */
void waiting_keep(struct waiting *waiting);
/* All of them, once nothing is under way; borrowed. */
struct request *waiting_kept(struct waiting *waiting);
void waiting_release(struct waiting *waiting);

/* For run to return with: fetches the blobs, which are not in the store, and then runs the request
 * again from its start; `optional`: whether or not they came. Fails it at once when fetching was
 * tried. */
bool request_wait(struct request *request, const struct croft_digest *digests, size_t count,
	bool directories, bool optional);
/* Likewise: the origin is asked of what chunks the blob is made, which the partials then know, and for the bytes
 * that are to be read, which `piece` then is if they came along. */
bool request_wait_recipe(struct request *request, const struct croft_digest *digest);
/* Likewise: parts of a file. */
bool request_wait_chunks(struct request *request, const struct croft_digest *digests, size_t count,
	bool new_file);
/* Likewise: the view is asked about what the request is about in the folder; `answer` is then there. */
bool request_wait_view(struct request *request, const char *folder);
/* The view has said it; any thread. */
void request_view_answered(struct request *request);
/* Nobody waits for these. */
void request_fetch_ahead(struct croft_mount *mount, const struct croft_digest *digests,
	size_t count, uint64_t group);
/* Runs a request that nobody sent again when these, which are fetched in the background, have come or will not. False:
 * the mount is at its end, and the request still the caller's. */
bool request_wait_ahead(struct request *request, const struct croft_digest *digests, size_t count);
void request_free(struct request *request);
/* Who is to be charged. */
uint64_t request_group(const struct request *request);
/* EIO, said in the log and in the account. Returns true. */
bool request_fail(struct request *request, const struct croft_digest *digest,
	const struct croft_error *err);

/* unmount.c --------------------------------------------------------------------------------- */

/* 0 or an errno. */
int mount_detach(const char *path, bool lazily);

/* ahead.c ----------------------------------------------------------------------------------- */

struct ahead;
void ahead_begin(struct croft_mount *mount, const struct croft_digest *root, uint64_t group);
void ahead_destroy(struct ahead *ahead);

/* counters.c ------------------------------------------------------------------------------- */

void mount_on_ioctl(fuse_req_t fuse, fuse_ino_t node, unsigned command, void *argument, struct fuse_file_info *file,
	unsigned flags, const void *in, size_t in_size, size_t out_size);

/* view.c ------------------------------------------------------------------------------------ */

struct views *views_create(const struct croft_mount_view *views, size_t count, struct croft_error *err);
/* Once nobody can ask any more; who has asked hears of it first. */
void views_destroy(struct views *views);
size_t views_count(const struct views *views);
/* The directory of a view, with its ino; its target is the view's. False: there are no more. */
bool views_at(const struct views *views, size_t position, struct node *node);
/* Answers a LOOKUP or READDIR in a folder; as `run` of a request. */
bool view_look_up(struct request *request, const struct node *folder);
bool view_list(struct request *request, const struct node *folder);
/* request_wait_view's: says so by request_view_answered. */
void views_ask(struct views *views, struct request *request);
void view_answer_free(struct view_answer *answer);

/* operations.c ------------------------------------------------------------------------------ */

enum loaded { LOADED, MISSING, BAD };
/* From the cache or the store, to be released. */
enum loaded mount_load_directory(struct croft_mount *mount, const struct croft_digest *digest,
	struct directory **directory, struct croft_error *err);
/* For run to return with when one did not load. */
bool request_await_directory(struct request *request, enum loaded loaded,
	const struct croft_digest *digest, const struct croft_error *err);
/* For an answer that the kernel counts as a look-up. */
struct fuse_entry_param mount_entry_of(struct croft_mount *mount, const struct node *node);

/* Answers a LOOKUP: this; the tree that stands at the request's name in that directory; nothing. True: answered. */
bool reply_node(struct request *request, const struct node *node);
bool reply_tree(struct request *request, const struct node *parent, const struct croft_digest *digest);
bool reply_absent(struct request *request, double remembered_s);
bool reply_error(struct request *request, int code);

extern const struct fuse_lowlevel_ops mount_operations;

/* list.c ------------------------------------------------------------------------------------ */

/* `run` of READDIR and READDIRPLUS. */
bool run_list(struct request *request);

#endif
