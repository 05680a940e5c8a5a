/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What each request of the kernel does. None blocks on the network: what is not in the store is
 * fetched while the request waits (wait.c), and the request is then run again.
 */
#include "fs/mount/internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <sys/statvfs.h>

/* Everything is immutable: the kernel need never ask again. */
static const double forever_s = 1e9;

enum {
	READ_LIMIT = 32 << 20,          /* more than the kernel ever asks for in one request */
	MESSAGE_LIMIT = 1 << 30,        /* of a Directory */
};

/* Directories --------------------------------------------------------------------------------- */

enum loaded mount_load_directory(struct croft_mount *mount, const struct croft_digest *digest,
	struct directory **directory, struct croft_error *err)
{
	*directory = directory_cache_get(mount->directories, digest);
	if (*directory)
		return LOADED;
	if (digest->size_bytes > MESSAGE_LIMIT) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "no Directory has so many bytes");
		return BAD;
	}
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice bytes = {"", 0};
	if (!croft_digest_is_empty(digest) &&
		!croft_store_get(mount->store, digest, arena, &bytes, err))
		/* A copy that went bad is quarantined: a good one may be had. */
		return err->code == CROFT_NOT_FOUND || err->code == CROFT_DATA_LOSS ? MISSING : BAD;
	*directory = directory_decode(digest, bytes, err);
	if (!*directory)
		return BAD;
	*directory = directory_cache_put(mount->directories, *directory);
	return LOADED;
}

/* What run is to return when a directory did not load. */
bool request_await_directory(struct request *request, enum loaded loaded,
	const struct croft_digest *digest, const struct croft_error *err)
{
	if (loaded == BAD)
		return request_fail(request, digest, err);
	return request_wait(request, digest, 1, true, false);
}

/* Attributes ---------------------------------------------------------------------------------- */

static void fill_stat(const struct croft_mount *mount, const struct node *node, struct stat *stat)
{
	memset(stat, 0, sizeof(*stat));
	stat->st_ino = node->ino;
	stat->st_uid = mount->uid;
	stat->st_gid = mount->gid;
	stat->st_blksize = 4096;
	stat->st_mtim.tv_sec = node->mtime_s;
	stat->st_mtim.tv_nsec = node->mtime_ns;
	if (node->kind == NODE_FOLDER) /* so that the kernel does not think it to be as it was */
		clock_gettime(CLOCK_REALTIME, &stat->st_mtim);
	stat->st_atim = stat->st_ctim = stat->st_mtim;
	if (node->kind == NODE_FILE || node->kind == NODE_SYMLINK) {
		stat->st_mode = node->mode | (node->kind == NODE_FILE ? S_IFREG : S_IFLNK);
		stat->st_nlink = 1;
		stat->st_size = (off_t)node->size;
	} else {
		stat->st_mode = S_IFDIR | node->mode;
		/* How many directories a folder has is not known, which 1 says. */
		stat->st_nlink = node->kind == NODE_FOLDER ? 1 : node->links;
		stat->st_size =
			node->kind == NODE_FOLDER ? 0 : (off_t)node_directory_size(node->message_size);
	}
	/* Whole blocks, as an image of the tree has them (fs/daemon/erofs.c). */
	stat->st_blocks = (stat->st_size / 4096 + (stat->st_size % 4096 != 0)) * 8;
}

struct fuse_entry_param mount_entry_of(struct croft_mount *mount, const struct node *node)
{
	struct fuse_entry_param entry = {
		.ino = node->kind == NODE_BY_DIGEST ? NODE_ID_BY_DIGEST
						    : nodes_intern(mount->nodes, node),
		.attr_timeout = node->kind == NODE_FOLDER ? CHANGING_S : forever_s,
		.entry_timeout = forever_s,
	};
	fill_stat(mount, node, &entry.attr);
	return entry;
}

bool reply_node(struct request *request, const struct node *node)
{
	struct fuse_entry_param entry = mount_entry_of(request->mount, node);
	if (request->changing)
		entry.entry_timeout = CHANGING_S;
	if (fuse_reply_entry(request->fuse, &entry) != 0)
		nodes_forget(request->mount->nodes, entry.ino, 1);
	return true;
}

/* A file or symlink at that place of the directory that the request is about. */
static bool reply_child(struct request *request, const struct node *node, size_t place)
{
	struct fuse_entry_param entry = mount_entry_of(request->mount, node);
	if (node->kind == NODE_FILE)
		siblings_note(request->mount->siblings, entry.ino, request->node, place);
	if (fuse_reply_entry(request->fuse, &entry) != 0)
		nodes_forget(request->mount->nodes, entry.ino, 1);
	return true;
}

bool reply_absent(struct request *request, double remembered_s)
{
	struct fuse_entry_param entry = {.ino = 0, .entry_timeout = remembered_s};
	fuse_reply_entry(request->fuse, &entry);
	return true;
}

bool reply_error(struct request *request, int code)
{
	fuse_reply_err(request->fuse, code);
	return true;
}

/* LOOKUP -------------------------------------------------------------------------------------- */

/* A directory's mode and times are in its own message: one on the path is fetched when it is looked
 * up, which whoever walks on needs anyway. */
static bool reply_directory(struct request *request, const struct node *parent,
	struct croft_slice name, const struct croft_digest *digest)
{
	struct croft_mount *mount = request->mount;
	struct directory *directory;
	struct croft_error err;
	enum loaded loaded = mount_load_directory(mount, digest, &directory, &err);
	if (loaded != LOADED)
		return request_await_directory(request, loaded, digest, &err);
	struct node node = directory_self(directory,
		node_directory_ino(parent->ino, name, digest));
	directory_cache_release(mount->directories, directory);
	return reply_node(request, &node);
}

bool reply_tree(struct request *request, const struct node *parent, const struct croft_digest *digest)
{
	struct directory *directory;
	struct croft_error err;
	enum loaded loaded = mount_load_directory(request->mount, digest, &directory, &err);
	if (loaded == LOADED)
		directory_cache_release(request->mount->directories, directory);
	else if (loaded == MISSING && request->waits == (request->answer != NULL)) /* the first time */
		ahead_begin(request->mount, digest, request_group(request));
	return reply_directory(request, parent, croft_slice_str(request->name), digest);
}

static bool lookup_in_directory(struct request *request, const struct node *parent)
{
	struct croft_mount *mount = request->mount;
	struct croft_digest digest = node_digest(parent);
	struct directory *directory;
	struct croft_error err;
	enum loaded loaded = mount_load_directory(mount, &digest, &directory, &err);
	if (loaded != LOADED)
		return request_await_directory(request, loaded, &digest, &err);
	struct croft_slice name = croft_slice_str(request->name);
	const struct directory_entry *entry = directory_find(directory, name);
	bool answered;
	if (!entry) {
		answered = reply_absent(request, forever_s);
	} else if (entry->kind == NODE_DIRECTORY) {
		struct croft_digest child = directory_entry_digest(entry);
		answered = reply_directory(request, parent, name, &child);
	} else {
		struct node node = directory_node(directory, entry);
		answered = reply_child(request, &node, (size_t)(entry - directory->entries));
	}
	directory_cache_release(mount->directories, directory);
	return answered;
}

/* "<hash>-<size>" exactly as it is written; other spellings would be other places. */
static bool parse_name(const char *name, struct croft_digest *digest)
{
	char text[CROFT_DIGEST_TEXT];
	if (!croft_digest_parse(croft_slice_str(name), digest, NULL))
		return false;
	croft_digest_format(digest, '-', text);
	return strcmp(text, name) == 0 && digest->size_bytes <= MESSAGE_LIMIT;
}

static bool lookup_by_digest(struct request *request, const struct node *parent)
{
	struct croft_digest digest;
	if (!parse_name(request->name, &digest))
		return reply_absent(request, forever_s);
	struct directory *directory;
	struct croft_error err;
	/* What is nowhere now may come to be. */
	enum loaded loaded = mount_load_directory(request->mount, &digest, &directory, &err);
	if (loaded == MISSING &&
		(!request->mount->fetcher || request->failure.code == CROFT_NOT_FOUND))
		return reply_error(request, ENOENT);
	if (loaded == LOADED)
		directory_cache_release(request->mount->directories, directory);
	return reply_tree(request, parent, &digest);
}

static bool lookup_in_root(struct request *request)
{
	struct node child;
	if (strcmp(request->name, "by-digest") == 0) {
		nodes_get(request->mount->nodes, NODE_ID_BY_DIGEST, &child);
		return reply_node(request, &child);
	}
	for (size_t i = 0; views_at(request->mount->views, i, &child); i++)
		if (strcmp(request->name, child.target) == 0)
			return reply_node(request, &child);
	return reply_absent(request, forever_s);
}

static bool run_lookup(struct request *request)
{
	struct node parent;
	if (!nodes_get(request->mount->nodes, request->node, &parent))
		return reply_error(request, ESTALE);
	switch (parent.kind) {
	case NODE_ROOT:
		return lookup_in_root(request);
	case NODE_FOLDER:
		return view_look_up(request, &parent);
	case NODE_BY_DIGEST:
		return lookup_by_digest(request, &parent);
	case NODE_DIRECTORY:
		return lookup_in_directory(request, &parent);
	default:
		return reply_error(request, ENOTDIR);
	}
}

/* GETATTR, READLINK --------------------------------------------------------------------------- */

static bool run_getattr(struct request *request)
{
	struct croft_mount *mount = request->mount;
	struct node node;
	if (!nodes_get(mount->nodes, request->node, &node))
		return reply_error(request, ESTALE);
	if (node.kind == NODE_DIRECTORY && node.mode == 0) {
		struct croft_digest digest = node_digest(&node);
		struct directory *directory;
		struct croft_error err;
		enum loaded loaded = mount_load_directory(mount, &digest, &directory, &err);
		if (loaded == MISSING && !request->on_heap)
			ahead_begin(mount, &digest, request_group(request));
		if (loaded != LOADED)
			return request_await_directory(request, loaded, &digest, &err);
		node = directory_self(directory, node.ino);
		directory_cache_release(mount->directories, directory);
	}
	struct stat stat;
	fill_stat(mount, &node, &stat);
	fuse_reply_attr(request->fuse, &stat, node.kind == NODE_FOLDER ? CHANGING_S : forever_s);
	return true;
}

static bool run_readlink(struct request *request)
{
	struct node node;
	if (!nodes_get(request->mount->nodes, request->node, &node))
		return reply_error(request, ESTALE);
	if (node.kind != NODE_SYMLINK)
		return reply_error(request, EINVAL);
	fuse_reply_readlink(request->fuse, node.target);
	return true;
}

/* READ ---------------------------------------------------------------------------------------- */

static bool run_read(struct request *request)
{
	struct croft_mount *mount = request->mount;
	struct node node;
	if (!nodes_get(mount->nodes, request->node, &node))
		return reply_error(request, ESTALE);
	if (node.kind != NODE_FILE)
		return reply_error(request, EISDIR);
	if (request->offset >= node.size) {
		fuse_reply_buf(request->fuse, NULL, 0);
		return true;
	}
	if (request->offset == 0)
		siblings_read(request, &node);
	struct croft_digest digest = node_digest(&node);
	struct croft_error err;
	struct open_blob *blob = blobs_open(mount->blobs, &digest, &err);
	ssize_t size = -1;
	CROFT_CLEANUP_FREE char *buffer = NULL;
	size_t wanted = node.size - request->offset < request->size
		? (size_t)(node.size - request->offset) : request->size;
	if (blob) {
		buffer = croft_alloc(wanted);
		size = croft_store_blob_read(blobs_blob(blob), buffer, wanted, request->offset, &err);
		blobs_release(mount->blobs, blob, size < 0);
	}
	if (size >= 0) {
		fuse_reply_buf(request->fuse, buffer, (size_t)size);
		return true;
	}
	if (err.code != CROFT_NOT_FOUND && err.code != CROFT_DATA_LOSS)
		return request_fail(request, &digest, &err);
	switch (partial_read(request, &digest, wanted)) {
	case PARTIAL_ANSWERED:
		return true;
	case PARTIAL_WAITS:
		return false;
	default:
		siblings_missed(request, &node);
		return request_wait(request, &digest, 1, false, false);
	}
}

/* From libfuse -------------------------------------------------------------------------------- */

static void start(fuse_req_t fuse, bool (*run)(struct request *), fuse_ino_t node, size_t size,
	off_t offset, const char *name, bool plus)
{
	struct request request = {
		.mount = fuse_req_userdata(fuse),
		.fuse = fuse,
		.header = taken_header,
		.run = run,
		.node = node,
		.size = size < READ_LIMIT ? size : READ_LIMIT,
		.offset = (uint64_t)offset,
		.name = (char *)name,
		.plus = plus,
	};
	run(&request);
}

static void on_lookup(fuse_req_t fuse, fuse_ino_t parent, const char *name)
{
	start(fuse, run_lookup, parent, 0, 0, name, false);
}

static void on_getattr(fuse_req_t fuse, fuse_ino_t node, struct fuse_file_info *file)
{
	start(fuse, run_getattr, node, 0, 0, NULL, false);
}

static void on_readlink(fuse_req_t fuse, fuse_ino_t node)
{
	start(fuse, run_readlink, node, 0, 0, NULL, false);
}

static void on_readdir(fuse_req_t fuse, fuse_ino_t node, size_t size, off_t offset,
	struct fuse_file_info *file)
{
	start(fuse, run_list, node, size, offset, NULL, false);
}

static void on_readdirplus(fuse_req_t fuse, fuse_ino_t node, size_t size, off_t offset,
	struct fuse_file_info *file)
{
	start(fuse, run_list, node, size, offset, NULL, true);
}

static void on_read(fuse_req_t fuse, fuse_ino_t node, size_t size, off_t offset,
	struct fuse_file_info *file)
{
	start(fuse, run_read, node, size, offset, NULL, false);
}

/* With ENOSYS the kernel opens by itself from then on, keeping its caches (FUSE_NO_OPEN_SUPPORT). */
static void on_open(fuse_req_t fuse, fuse_ino_t node, struct fuse_file_info *file)
{
	fuse_reply_err(fuse, ENOSYS);
}

static void on_forget(fuse_req_t fuse, fuse_ino_t node, uint64_t lookups)
{
	struct croft_mount *mount = fuse_req_userdata(fuse);
	nodes_forget(mount->nodes, node, lookups);
	fuse_reply_none(fuse);
}

static void on_forget_multi(fuse_req_t fuse, size_t count, struct fuse_forget_data *forgets)
{
	struct croft_mount *mount = fuse_req_userdata(fuse);
	for (size_t i = 0; i < count; i++)
		nodes_forget(mount->nodes, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(fuse);
}

static void on_statfs(fuse_req_t fuse, fuse_ino_t node)
{
	struct statvfs stat = {.f_bsize = 4096, .f_frsize = 4096, .f_namemax = 255};
	fuse_reply_statfs(fuse, &stat);
}

static void on_init(void *user, struct fuse_conn_info *connection)
{
	struct croft_mount *mount = user;
	if (mount->resumed) { /* it was agreed on by another process */
		connection->want = mount->init.want & connection->capable;
		return;
	}
	connection->want |= connection->capable &
		(FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
			FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_NO_OPEN_SUPPORT |
			FUSE_CAP_NO_OPENDIR_SUPPORT | FUSE_CAP_EXPLICIT_INVAL_DATA);
	/* Always READDIRPLUS: whoever lists will look. Nothing changes under the kernel's caches. */
	connection->want &= ~(unsigned)(FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_AUTO_INVAL_DATA |
		FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	connection->time_gran = 1;
	/* Read-ahead that waits for a fetch must not hold up what is here. */
	connection->max_background = 1024;
	connection->congestion_threshold = 1024;
	mount->init.want = connection->want;
}

const struct fuse_lowlevel_ops mount_operations = {
	.init = on_init,
	.lookup = on_lookup,
	.forget = on_forget,
	.forget_multi = on_forget_multi,
	.getattr = on_getattr,
	.readlink = on_readlink,
	.open = on_open,
	.opendir = on_open,
	.read = on_read,
	.readdir = on_readdir,
	.readdirplus = on_readdirplus,
	.statfs = on_statfs,
	.ioctl = mount_on_ioctl,
};
