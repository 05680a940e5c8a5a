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
	LISTED_AT_ONCE = 512,           /* subdirectories whose messages are fetched together */
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

static void release_directory(struct croft_mount *mount, struct directory *directory)
{
	directory_cache_release(mount->directories, directory);
}

static struct croft_digest entry_digest(const struct directory_entry *entry)
{
	struct croft_digest digest = {.size_bytes = entry->size};
	memcpy(digest.hash, entry->hash, sizeof(digest.hash));
	return digest;
}

/* What run is to return when a directory did not load. */
static bool await_directory(struct request *request, enum loaded loaded,
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
		stat->st_size = node->kind == NODE_FOLDER ? 0 : node->message_size;
	}
	stat->st_blocks = (stat->st_size + 511) / 512;
}

static struct fuse_entry_param entry_of(struct croft_mount *mount, const struct node *node)
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
	struct fuse_entry_param entry = entry_of(request->mount, node);
	if (request->changing)
		entry.entry_timeout = CHANGING_S;
	if (fuse_reply_entry(request->fuse, &entry) != 0)
		nodes_forget(request->mount->nodes, entry.ino, 1);
	return true;
}

/* A file or symlink at that place of the directory that the request is about. */
static bool reply_child(struct request *request, const struct node *node, size_t place)
{
	struct fuse_entry_param entry = entry_of(request->mount, node);
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
		return await_directory(request, loaded, digest, &err);
	struct node node = directory_self(directory,
		node_directory_ino(parent->ino, name, digest));
	release_directory(mount, directory);
	return reply_node(request, &node);
}

bool reply_tree(struct request *request, const struct node *parent, const struct croft_digest *digest)
{
	struct directory *directory;
	struct croft_error err;
	enum loaded loaded = mount_load_directory(request->mount, digest, &directory, &err);
	if (loaded == LOADED)
		release_directory(request->mount, directory);
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
		return await_directory(request, loaded, &digest, &err);
	struct croft_slice name = croft_slice_str(request->name);
	const struct directory_entry *entry = directory_find(directory, name);
	bool answered;
	if (!entry) {
		answered = reply_absent(request, forever_s);
	} else if (entry->kind == NODE_DIRECTORY) {
		struct croft_digest child = entry_digest(entry);
		answered = reply_directory(request, parent, name, &child);
	} else {
		struct node node = directory_node(directory, entry);
		answered = reply_child(request, &node, (size_t)(entry - directory->entries));
	}
	release_directory(mount, directory);
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
		release_directory(request->mount, directory);
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
			return await_directory(request, loaded, &digest, &err);
		node = directory_self(directory, node.ino);
		release_directory(mount, directory);
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

/* READDIR, READDIRPLUS ------------------------------------------------------------------------ */

struct listing {
	struct request *request;
	const struct node *parent;
	struct directory *directory; /* NULL: the mount's own directories */
	char *buffer;
	size_t used;
};

/* Adds an entry without attributes, or one whose lookup the kernel then owes (`node`). */
static bool list(struct listing *listing, const char *name, uint64_t ino, mode_t type,
	const struct node *node, off_t next)
{
	struct request *request = listing->request;
	char *to = listing->buffer + listing->used;
	size_t room = request->size - listing->used, need;
	struct fuse_entry_param entry = {.attr.st_ino = ino, .attr.st_mode = type};
	if (!request->plus) {
		need = fuse_add_direntry(request->fuse, to, room, name, &entry.attr, next);
	} else {
		/* Asked for its size first: adding a lookup and taking it back is dearer. */
		need = fuse_add_direntry_plus(request->fuse, NULL, 0, name, NULL, 0);
		if (need <= room) {
			if (node)
				entry = entry_of(request->mount, node);
			if (node && node->kind == NODE_FILE)
				siblings_note(request->mount->siblings, entry.ino, request->node,
					(size_t)next - 3); /* behind the dots; `next` is one further */
			fuse_add_direntry_plus(request->fuse, to, room, name, &entry, next);
		}
	}
	if (need > room)
		return false;
	listing->used += need;
	return true;
}

static bool list_entry(struct listing *listing, const struct directory_entry *entry, off_t next)
{
	struct croft_mount *mount = listing->request->mount;
	const char *name = listing->directory->names + entry->name;
	struct node node;
	if (entry->kind != NODE_DIRECTORY) {
		node = directory_node(listing->directory, entry);
		return list(listing, name, node.ino, entry->kind == NODE_FILE ? S_IFREG : S_IFLNK, &node,
			next);
	}
	struct croft_digest digest = entry_digest(entry);
	uint64_t ino = node_directory_ino(listing->parent->ino,
		directory_name(listing->directory, entry), &digest);
	struct directory *child;
	struct croft_error err;
	/* One whose message cannot be had is listed all the same; looking it up says why. */
	if (!listing->request->plus || mount_load_directory(mount, &digest, &child, &err) != LOADED)
		return list(listing, name, ino, S_IFDIR, NULL, next);
	node = directory_self(child, ino);
	release_directory(mount, child);
	return list(listing, name, ino, S_IFDIR, &node, next);
}

/* The messages of the subdirectories that this answer may hold and that are not here yet, to be
 * fetched in as few round trips as there can be. */
static size_t missing_children(struct request *request, const struct directory *directory,
	struct croft_digest *missing)
{
	struct croft_digest digests[LISTED_AT_ONCE];
	bool absent[LISTED_AT_ONCE];
	size_t count = 0, room = request->size, missing_count = 0;
	if (directory->subdirectories == 0)
		return 0;
	for (size_t i = request->offset < 2 ? 0 : request->offset - 2;
		i < directory->count && count < LISTED_AT_ONCE; i++) {
		const struct directory_entry *entry = &directory->entries[i];
		size_t need = fuse_add_direntry_plus(request->fuse, NULL, 0,
			directory->names + entry->name, NULL, 0);
		if (need > room)
			break;
		room -= need;
		if (entry->kind != NODE_DIRECTORY || entry->size == 0)
			continue;
		digests[count] = entry_digest(entry);
		struct directory *known =
			directory_cache_get(request->mount->directories, &digests[count]);
		if (known)
			release_directory(request->mount, known);
		else
			count++;
	}
	if (!count || !croft_store_find_missing(request->mount->store, digests, count, absent, NULL))
		return 0;
	for (size_t i = 0; i < count; i++)
		if (absent[i])
			missing[missing_count++] = digests[i];
	return missing_count;
}

static void list_root(struct listing *listing, uint64_t place)
{
	struct croft_mount *mount = listing->request->mount;
	struct node child;
	nodes_get(mount->nodes, NODE_ID_BY_DIGEST, &child);
	if (place == 0 && !list(listing, "by-digest", child.ino, S_IFDIR, &child, 3))
		return;
	for (place += place == 0; views_at(mount->views, place - 1, &child); place++)
		if (!list(listing, child.target, child.ino, S_IFDIR, &child, (off_t)place + 3))
			return;
}

static void list_all(struct listing *listing)
{
	static const char *const dots[] = {".", ".."};
	uint64_t offset = listing->request->offset;
	for (; offset < 2; offset++)
		if (!list(listing, dots[offset], offset == 0 ? listing->parent->ino : NODE_ID_ROOT,
			    S_IFDIR, NULL, (off_t)offset + 1))
			return;
	if (listing->parent->kind == NODE_ROOT)
		list_root(listing, offset - 2);
	if (!listing->directory)
		return;
	for (; offset - 2 < listing->directory->count; offset++)
		if (!list_entry(listing, &listing->directory->entries[offset - 2],
			    (off_t)offset + 1))
			return;
}

/* The kernel did not take the answer (its process was killed): it owes no lookups. */
static void forget_listed(struct croft_mount *mount, const char *buffer, size_t used)
{
	struct fuse_direntplus entry;
	for (size_t at = 0; at < used; at += (size_t)FUSE_DIRENTPLUS_SIZE(&entry)) {
		memcpy(&entry, buffer + at, sizeof(entry));
		nodes_forget(mount->nodes, entry.entry_out.nodeid, 1);
	}
}

static bool run_readdir(struct request *request)
{
	struct croft_mount *mount = request->mount;
	struct node parent;
	if (!nodes_get(mount->nodes, request->node, &parent))
		return reply_error(request, ESTALE);
	if (parent.kind == NODE_FOLDER)
		return view_list(request, &parent);
	struct listing listing = {.request = request, .parent = &parent};
	if (parent.kind == NODE_DIRECTORY) {
		struct croft_digest digest = node_digest(&parent);
		struct croft_error err;
		enum loaded loaded = mount_load_directory(mount, &digest, &listing.directory, &err);
		if (loaded != LOADED)
			return await_directory(request, loaded, &digest, &err);
		if (request->plus && mount->fetcher && !request->children_tried) {
			struct croft_digest missing[LISTED_AT_ONCE];
			size_t count = missing_children(request, listing.directory, missing);
			request->children_tried = true;
			if (count) {
				release_directory(mount, listing.directory);
				return request_wait(request, missing, count, true, true);
			}
		}
	} else if (parent.kind != NODE_ROOT && parent.kind != NODE_BY_DIGEST) {
		return reply_error(request, ENOTDIR);
	}
	CROFT_CLEANUP_FREE char *buffer = croft_alloc(request->size);
	listing.buffer = buffer;
	list_all(&listing);
	if (fuse_reply_buf(request->fuse, buffer, listing.used) != 0 && request->plus)
		forget_listed(mount, buffer, listing.used);
	if (listing.directory)
		release_directory(mount, listing.directory);
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
	start(fuse, run_readdir, node, size, offset, NULL, false);
}

static void on_readdirplus(fuse_req_t fuse, fuse_ino_t node, size_t size, off_t offset,
	struct fuse_file_info *file)
{
	start(fuse, run_readdir, node, size, offset, NULL, true);
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
};
