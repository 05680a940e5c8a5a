/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of fs/daemon share.
 *
 *	daemon.c   the daemon's life
 *	server.c   answers on its socket
 *	gather.c   fetching many and waiting for all
 *	measure.c  totals below input roots
 *	stage.c    whole trees as plain files, where there is no FUSE
 *	copies.c   the files of these
 *	standin.c  trees that several jobs use, as the kernel reads them fastest
 *	hot.c      which of their files several jobs opened
 *	standin_folder.c one of these, on the disk
 *	standin_kernel.c whether the kernel can
 *	erofs.c    an image of a tree's names, and of some data
 *	prefetch.c fetching what a job is expected to read; what became of it
 *	opened.c   which content stands at the paths that a job opened
 *	present.c  how much of a tree the cache holds
 *	handover.c how another process takes the mount over
 *	command.c  the arguments of the hidden command
 *	client.c   the agent's side: the daemon's start and end
 *	calls.c    what the agent asks of it
 *	protocol.c what goes over the socket
 */
#ifndef CROFT_FS_DAEMON_INTERNAL_H
#define CROFT_FS_DAEMON_INTERNAL_H

#include "fs/daemon/protocol.h"
#include "fs/plane.h"

#include <stdatomic.h>

/* gather.c ---------------------------------------------------------------------------------- */

struct gathered {
	uint64_t files, bytes; /* moved over the network */
};
/* Adds to `gathered`, which may be NULL. Without a fetcher it does nothing. */
bool gather_all(struct croft_fetcher *fetcher, const struct croft_digest *digests, size_t count,
	bool background, struct gathered *gathered, struct croft_error *err);

/* measure.c --------------------------------------------------------------------------------- */

struct measurer;
/* Store and fetcher (which may be NULL) are borrowed. */
struct measurer *measurer_create(struct croft_store *store, struct croft_fetcher *fetcher);
void measurer_destroy(struct measurer *measurer);
/* Any thread. Directory messages that are not here are fetched, a level of the tree at a time. */
bool measurer_measure(struct measurer *measurer, const struct croft_digest *root,
	struct croft_tree_totals *totals, struct croft_error *err);

/* prefetch.c -------------------------------------------------------------------------------- */

struct prefetcher;
struct standins;
/* Store, fetcher, mount and stand-ins (which may be NULL, all but the first) are borrowed. */
struct prefetcher *prefetcher_create(struct croft_store *store, struct croft_fetcher *fetcher,
	struct croft_mount *mount, struct standins *standins);
/* After the fetcher was stopped. */
void prefetcher_destroy(struct prefetcher *prefetcher);
/* Any thread. Fetches what is not here of the wishes in the file, in their order, a few at a time and
 * behind everything that somebody waits for, until prefetch_end. */
bool prefetch_begin(struct prefetcher *prefetcher, uint64_t group, int wishes_fd,
	struct croft_error *err);
/* What became of it: `paths_fd` holds `size` bytes of the paths that the job opened; their digests (of size
 * UINT64_MAX: no file of the tree) are written behind them, then `range_count` struct croft_read_range. */
bool prefetch_end(struct prefetcher *prefetcher, uint64_t group, const struct croft_digest *root,
	int paths_fd, size_t size, struct croft_prefetch_account *account, size_t *range_count,
	struct croft_error *err);

/* opened.c ---------------------------------------------------------------------------------- */

struct opened;
struct opened *opened_create(struct croft_store *store); /* borrowed */
void opened_destroy(struct opened *opened);
/* Any thread. `count` paths in `size` bytes, each with a NUL behind it. Only Directory messages that are here are
 * looked into: a job has looked into those of what it opened. */
void opened_resolve(struct opened *opened, const struct croft_digest *root, const char *paths,
	size_t size, struct croft_digest *digests, size_t count);

/* stage.c ----------------------------------------------------------------------------------- */

struct stager;
struct stager_config {
	const char *folder; /* for its trees; emptied at start but for what jobs use */
	enum croft_staging staging; /* REFLINK, HARDLINK or COPY; AUTO: REFLINK where that works, else COPY */
	uint64_t budget_bytes;
	uint32_t uid, gid; /* who owns everything */
	struct croft_store *store;       /* borrowed, as all below */
	struct croft_fetcher *fetcher;   /* or NULL */
	struct measurer *measurer;
};
struct stager *stager_create(const struct stager_config *config, struct croft_error *err);
void stager_destroy(struct stager *stager);
enum croft_staging stager_staging(const struct stager *stager);
/* By a job. */
bool stager_is_used(struct stager *stager);
/* Any thread. The tree stands at `path`, complete, for as long as there is room, or its folder is locked. */
bool stager_stage(struct stager *stager, const struct croft_digest *root, char path[PATH_MAX],
	struct gathered *gathered, struct croft_error *err);

/* copies.c ---------------------------------------------------------------------------------- */

/* Files made of blobs. For REFLINK and HARDLINK each blob (with its mode and time) is first made a file in a
 * pool, of which those in the trees are clones or further names. */
struct copies;
struct copies_config {
	int folder; /* borrowed; the pool is made in it */
	enum croft_staging staging; /* as a stager's */
	uint32_t uid, gid;
	struct croft_store *store;
	struct croft_fetcher *fetcher;
	/* Called before bytes are added to the pool or to the tree that a file is for (the last argument of
	 * copies_put; NULL: the pool). */
	bool (*reserve)(void *user, void *tree, uint64_t bytes, struct croft_error *err);
	/* Of the pool's, bytes that were not added. */
	void (*release)(void *user, uint64_t bytes);
	void *user;
	/* Set: what is being written out fails. NULL: never. */
	const atomic_bool *stop;
};
struct copies *copies_create(const struct copies_config *config, struct croft_error *err);
void copies_destroy(struct copies *copies);
enum croft_staging copies_staging(const struct copies *copies);
struct directory_entry;
/* Makes the file that the entry of a Directory describes. */
bool copies_put(struct copies *copies, const struct directory_entry *file, int directory,
	const char *name, void *tree, struct croft_error *err);
/* Removes from the pool what no tree needs; the bytes that this freed. */
uint64_t copies_sweep(struct copies *copies);
/* What a file takes of a disk. */
static inline uint64_t copies_size(uint64_t bytes)
{
	return (bytes | 4095) + 1;
}

/* erofs.c ----------------------------------------------------------------------------------- */

struct directory;
struct erofs_source {
	/* The Directory, which is then the caller's: directory_free. */
	struct directory *(*read)(void *user, const struct croft_digest *digest, struct croft_error *err);
	/* Called as the image grows, with bytes of the disk. */
	bool (*reserve)(void *user, uint64_t bytes, struct croft_error *err);
	/* Whether the data of the file at the path, which is of no more than this size (0: of none), are to stand in the
	 * image; if so they are read. */
	uint64_t data_size_most;
	bool (*has_data)(void *user, const struct croft_digest *digest, struct croft_slice path);
	bool (*read_data)(void *user, const struct croft_digest *digest, void *to, struct croft_error *err);
	void *user;
	uint32_t uid, gid; /* who owns everything */
	uint64_t entries_at_most, bytes_at_most; /* of the disk */
};
/* Into the empty file. Where it would be too large the error is RESOURCE_EXHAUSTED; of trees that cannot be shown
 * as the mount does, or have too many entries, it is UNIMPLEMENTED. */
bool erofs_write(int fd, const struct croft_digest *root, const struct erofs_source *source,
	struct croft_error *err);

/* hot.c ------------------------------------------------------------------------------------- */

enum { HOT_SMALL_MOST = 64 << 10 }; /* bytes of a file whose data are to stand in an image */
struct hot_file {
	struct hot_file *next; /* in line */
	struct croft_digest digest;
	uint64_t image; /* the number of the last that was to have its data */
	uint8_t jobs;
	bool waits, made;
	char path[]; /* in the tree */
};
struct hot; /* files of one tree; nothing here is thread-safe */
/* `memory` is what all such files take; it outlives them. */
struct hot *hot_create(size_t *memory);
void hot_destroy(struct hot *hot);
/* A job opened the file. False: it would be a new one, and there is no memory. */
bool hot_note(struct hot *hot, struct croft_slice path, const struct croft_digest *digest, size_t memory_most);
/* NULL: it is not hot. */
struct hot_file *hot_find(struct hot *hot, struct croft_slice path);
/* The first of those that wait to be made; it is out of the line when it was tried. */
struct hot_file *hot_first(struct hot *hot);
void hot_made(struct hot *hot, struct hot_file *file, bool made);
/* As an image is begun, and stands: what it does not have by its `image` is to be made. */
void hot_image_begins(struct hot *hot);
void hot_image_stands(struct hot *hot, uint64_t image);
/* Small hot files are more than when the last was begun by a share of these: all that a tree has in its life cost some
 * times the last. */
bool hot_outgrew_image(const struct hot *hot);

/* standin_folder.c -------------------------------------------------------------------------- */

struct standin {
	uint64_t number; /* its folder's name */
	uint64_t bytes;
};
/* Stands before the names of those that are to be removed. */
#define STANDIN_HIDDEN "old-"
/* Where they are. All borrowed. */
struct standin_place {
	const char *folder;
	int trees_fd; /* the folder "trees" in it, in which each has its own */
	uint64_t budget_bytes;
	uint32_t uid, gid;
	struct croft_store *store;
	struct copies *copies;
	/* Called before bytes are added to a stand-in, as the copies' is. */
	bool (*reserve)(void *user, void *standin, uint64_t bytes, struct croft_error *err);
	void *user;
	const atomic_bool *stop;
};
/* Whether the image is to have the data of the file at the path, which are then read from the store. */
typedef bool standin_wants(void *user, const struct croft_digest *digest, struct croft_slice path);
/* With its image; nothing is left where that fails, and `bytes` says what was reserved. */
bool standin_make(const struct standin_place *place, struct standin *standin,
	const struct croft_digest *root, standin_wants *wants, void *user, struct croft_error *err);
/* Makes the file at the path, which appears whole. */
bool standin_copy(const struct standin_place *place, struct standin *standin, const char *path,
	const struct croft_digest *digest, struct croft_error *err);
/* False: somebody uses it. */
bool standin_hide(const struct standin_place *place, const struct standin *standin);
/* One that is hidden. */
bool standin_remove(const struct standin_place *place, const struct standin *standin, struct croft_error *err);
/* As found there, without what is mounted. */
uint64_t standin_disk_bytes(const struct standin_place *place, const struct standin *standin);
/* Its image; jobs have copies of the mount. */
void standin_unmount(const char *folder, const char *name);

/* standin.c --------------------------------------------------------------------------------- */

struct standins;
struct standins_config {
	const char *folder; /* for them; emptied at start but for what jobs use */
	uint64_t budget_bytes;
	uint32_t uid, gid;         /* who owns everything */
	struct croft_store *store; /* borrowed */
};
/* UNIMPLEMENTED: not with this kernel. */
struct standins *standins_create(const struct standins_config *config, struct croft_error *err);
/* What stands is left to a successor, or to standins_clear. */
void standins_destroy(struct standins *standins);
/* Nothing is left in the folder, nor mounted there, once no daemon goes on. What jobs use is theirs. */
void standins_clear(const char *folder);
/* Any thread; NULL notes nothing. A job with this root ended that had opened the files, as with opened_resolve. */
void standins_note(struct standins *standins, const struct croft_digest *root, const char *paths,
	const struct croft_digest *digests, size_t count);
/* Any thread; NULL has none. There may not be one any more by the time its folder is locked. */
bool standins_find(struct standins *standins, const struct croft_digest *root, char path[PATH_MAX]);
/* standin_kernel.c: tries it in the folder. */
bool standin_can_be(int folder, struct croft_error *err);

/* present.c --------------------------------------------------------------------------------- */

bool present_bytes(struct croft_store *store, const struct croft_digest *root, bool directory,
	uint64_t *bytes, struct croft_error *err);

/* server.c ---------------------------------------------------------------------------------- */

/* All borrowed. */
struct server_config {
	const struct croft_daemon_config *config;
	const char *mountpoint;
	struct croft_store *store;
	struct croft_fetcher *fetcher; /* or NULL */
	struct croft_plane *plane;     /* or NULL */
	struct croft_mount *mount;     /* NULL: trees are staged */
	struct stager *stager;         /* NULL: they are in the mount */
	struct standins *standins;     /* or NULL */
	struct measurer *measurer;
	struct prefetcher *prefetcher;
	int stop_fd; /* eventfd: OP_STOP was asked for */
};
struct server;
struct server *server_start(const struct server_config *config, int listen_fd,
	struct croft_error *err);
/* Ends connections; what they wait for in the fetcher must have been ended. With `keep_open` their sockets stay
 * open to the end of the process, which agents that stop it wait for. */
void server_stop(struct server *server, bool keep_open);
/* Milliseconds for which no agent has been connected. */
uint64_t server_idle_ms(struct server *server);
/* The connection of a process that asked to take over, which is then the caller's; -1: none did. */
int server_successor(struct server *server);
/* From now on agents are told that this daemon is ending, and nobody can take it over. */
void server_end(struct server *server);

/* handover.c -------------------------------------------------------------------------------- */

/* For so long the one that goes waits for the one that comes. */
enum { HAND_OVER_MS = 30000 };
/* The lock of the state directory, the socket for agents, the mount. */
struct handed {
	int lock_fd, listen_fd;
	struct croft_mount_saved mount;
};
/* The one that comes: asks; when it serves, confirms. Ending before that gives all back. */
bool hand_over_ask(const char *state, int *socket, struct handed *handed, struct croft_error *err);
bool hand_over_confirm(int socket, struct croft_error *err);
/* The one that goes. False: the other did not come to it and never will. */
bool hand_over_give(int socket, const struct handed *handed);
void hand_over_refuse(int socket, const char *reason);

/* command.c --------------------------------------------------------------------------------- */

/* How a daemon starts. */
struct daemon_start {
	int ready_fd;   /* where "ok" or the error's sentence goes, and is closed; -1: nowhere */
	bool take_over; /* the mount of the daemon that runs there */
	/* 0, or the DAEMON_VERSION of the agent that starts it: it may be older than the program. */
	uint32_t version;
};
/* NULL-terminated, in the arena. */
char **daemon_arguments(const struct croft_daemon_config *config, const struct daemon_start *start,
	struct croft_arena *arena);
char **daemon_environment(const struct croft_daemon_config *config, struct croft_arena *arena);

/* daemon.c */
bool daemon_main(const struct croft_daemon_config *config, const struct daemon_start *start,
	struct croft_error *err);

#endif
