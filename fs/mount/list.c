/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* READDIR and READDIRPLUS. */
#include "fs/mount/internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <linux/fuse.h>

enum { LISTED_AT_ONCE = 512 /* subdirectories whose messages are fetched together */ };

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
				entry = mount_entry_of(request->mount, node);
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
	struct croft_digest digest = directory_entry_digest(entry);
	uint64_t ino = node_directory_ino(listing->parent->ino,
		directory_name(listing->directory, entry), &digest);
	struct directory *child;
	struct croft_error err;
	/* One whose message cannot be had is listed all the same; looking it up says why. */
	if (!listing->request->plus || mount_load_directory(mount, &digest, &child, &err) != LOADED)
		return list(listing, name, ino, S_IFDIR, NULL, next);
	node = directory_self(child, ino);
	directory_cache_release(mount->directories, child);
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
		digests[count] = directory_entry_digest(entry);
		struct directory *known =
			directory_cache_get(request->mount->directories, &digests[count]);
		if (known)
			directory_cache_release(request->mount->directories, known);
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

bool run_list(struct request *request)
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
			return request_await_directory(request, loaded, &digest, &err);
		if (request->plus && mount->fetcher && !request->children_tried) {
			struct croft_digest missing[LISTED_AT_ONCE];
			size_t count = missing_children(request, listing.directory, missing);
			request->children_tried = true;
			if (count) {
				directory_cache_release(mount->directories, listing.directory);
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
		directory_cache_release(mount->directories, listing.directory);
	return true;
}
