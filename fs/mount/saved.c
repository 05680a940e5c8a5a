/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/mount/saved.h"

#include "fs/mount/internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <stdio.h>

_Thread_local struct fuse_in_header taken_header;

static const char saved_magic[8] = "croftfs1";
static const char ringed_magic[8] = "croftfs2"; /* and the rings behind all else */

struct saved_head {
	char magic[8];
	uint32_t uid, gid;
	struct saved_init init;
	uint64_t nodes, accounts, requests;
};

/* A target of `size` bytes follows a symlink's, a name of `name_size` bytes and no NUL a request's. */
struct saved_node {
	uint64_t id, ino, size;
	int64_t mtime_s;
	uint32_t mtime_ns, lookups, message_size, links;
	uint16_t mode;
	uint8_t kind, padding[5];
	uint8_t hash[CROFT_HASH_SIZE];
};

struct saved_account {
	uint64_t group, fetched_files, fetched_bytes, directory_blobs, directory_bytes, stall_ns, errors;
	char first_error[256];
};

struct saved_request {
	struct fuse_in_header header;
	uint64_t offset, size;
	uint32_t name_size, padding;
};

/* Writing ------------------------------------------------------------------------------------- */

static void put(FILE *file, const void *data, size_t size)
{
	if (size > 0)
		fwrite(data, 1, size, file); /* errors are looked for at the end */
}

static uint64_t write_nodes(struct croft_mount *mount, FILE *file)
{
	struct node node;
	uint64_t count = 0;
	for (uint64_t id = 0; nodes_next(mount->nodes, &id, &node); count++) {
		struct saved_node saved = {.id = id, .ino = node.ino, .mtime_s = node.mtime_s,
			.mtime_ns = node.mtime_ns, .lookups = node.lookups, .mode = node.mode,
			.kind = node.kind};
		if (node.kind == NODE_FILE || node.kind == NODE_SYMLINK) {
			saved.size = node.size;
		} else {
			saved.message_size = node.message_size;
			saved.links = node.links;
		}
		if (node.kind != NODE_SYMLINK)
			memcpy(saved.hash, node.hash, sizeof(saved.hash));
		put(file, &saved, sizeof(saved));
		if (node.kind == NODE_SYMLINK)
			put(file, node.target, node.size);
	}
	return count;
}

static uint64_t write_accounts(struct croft_mount *mount, FILE *file)
{
	struct croft_mount_account account;
	uint64_t group, count = 0;
	for (; accounts_at(mount->accounts, count, &group, &account); count++) {
		struct saved_account saved = {group, account.fetched_files, account.fetched_bytes,
			account.directory_blobs, account.directory_bytes, account.stall_ns,
			account.errors, {0}};
		memcpy(saved.first_error, account.first_error, sizeof(saved.first_error));
		put(file, &saved, sizeof(saved));
	}
	return count;
}

static uint64_t write_requests(struct croft_mount *mount, FILE *file)
{
	uint64_t count = 0;
	for (struct request *at = waiting_kept(mount->waiting); at; at = at->next) {
		if (mount->held && rings_has(mount->rings, at->header.unique))
			continue; /* it is written with them */
		count++;
		struct saved_request saved = {.header = at->header, .offset = at->offset,
			.size = at->size, .name_size = at->name ? (uint32_t)strlen(at->name) : 0};
		put(file, &saved, sizeof(saved));
		put(file, at->name, saved.name_size);
	}
	return count;
}

bool saved_write(struct croft_mount *mount, int fd, struct croft_error *err)
{
	int own = dup(fd);
	FILE *file = own < 0 ? NULL : fdopen(own, "w");
	if (!file)
		return croft_error_errno(err, errno, "opening the memory file of a mount");
	struct saved_head head = {.uid = mount->uid, .gid = mount->gid, .init = mount->init};
	memcpy(head.magic, mount->held ? ringed_magic : saved_magic, sizeof(head.magic));
	put(file, &head, sizeof(head));
	head.nodes = write_nodes(mount, file);
	head.accounts = write_accounts(mount, file);
	head.requests = write_requests(mount, file);
	if (mount->held)
		rings_write(mount->rings, file);
	rewind(file);
	put(file, &head, sizeof(head));
	bool ok = !ferror(file);
	if (fclose(file) == 0 && ok)
		return true;
	return croft_error_errno(err, errno, "writing down a mount");
}

/* Reading ------------------------------------------------------------------------------------- */

static bool get(FILE *file, void *data, size_t size)
{
	return fread(data, 1, size, file) == size;
}

static bool read_node(struct croft_mount *mount, FILE *file)
{
	struct saved_node saved;
	if (!get(file, &saved, sizeof(saved)))
		return false;
	struct node node = {.ino = saved.ino, .mtime_s = saved.mtime_s, .mtime_ns = saved.mtime_ns,
		.lookups = saved.lookups, .mode = saved.mode, .kind = saved.kind};
	CROFT_CLEANUP_FREE char *target = NULL;
	if (saved.kind == NODE_FILE || saved.kind == NODE_SYMLINK) {
		node.size = saved.size;
	} else {
		node.message_size = saved.message_size;
		node.links = saved.links;
	}
	if (saved.kind == NODE_SYMLINK) {
		if (saved.size >= PATH_MAX)
			return false;
		node.target = target = croft_alloc(saved.size + 1);
		if (!get(file, target, saved.size))
			return false;
	} else {
		memcpy(node.hash, saved.hash, sizeof(node.hash));
	}
	return nodes_restore(mount->nodes, saved.id, &node);
}

static bool read_account(struct croft_mount *mount, FILE *file)
{
	struct saved_account saved;
	if (!get(file, &saved, sizeof(saved)))
		return false;
	struct croft_mount_account account = {.fetched_files = saved.fetched_files,
		.fetched_bytes = saved.fetched_bytes,
		.directory_blobs = saved.directory_blobs,
		.directory_bytes = saved.directory_bytes,
		.stall_ns = saved.stall_ns,
		.errors = saved.errors};
	memcpy(account.first_error, saved.first_error, sizeof(account.first_error));
	accounts_restore(mount->accounts, saved.group, &account);
	return true;
}

/* As it would come from /dev/fuse. */
static struct resumed_request *message_of(const struct saved_request *saved, FILE *file)
{
	if (saved->name_size > NAME_MAX)
		return NULL;
	struct fuse_read_in reading = {.offset = saved->offset, .size = (uint32_t)saved->size};
	struct fuse_getattr_in asking = {0};
	size_t room = sizeof(saved->header) + sizeof(reading) + saved->name_size + 1;
	struct resumed_request *request = croft_zalloc(sizeof(*request) + room);
	char *arguments = request->message + sizeof(saved->header);
	size_t size = 0;
	bool ok = true;
	switch (saved->header.opcode) {
	case FUSE_LOOKUP:
		ok = get(file, arguments, saved->name_size);
		size = saved->name_size + 1;
		break;
	case FUSE_GETATTR:
		memcpy(arguments, &asking, size = sizeof(asking));
		break;
	case FUSE_READ:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
		memcpy(arguments, &reading, size = sizeof(reading));
		break;
	default:
		ok = false;
	}
	if (!ok) {
		free(request);
		return NULL;
	}
	struct fuse_in_header header = saved->header;
	header.len = (uint32_t)(sizeof(header) + size);
	memcpy(request->message, &header, sizeof(header));
	request->size = header.len;
	return request;
}

static bool read_request(struct croft_mount *mount, FILE *file)
{
	struct saved_request saved;
	struct resumed_request *request =
		get(file, &saved, sizeof(saved)) ? message_of(&saved, file) : NULL;
	if (!request)
		return false;
	request->next = mount->resumed_requests;
	mount->resumed_requests = request;
	return true;
}

static bool read_all(struct croft_mount *mount, FILE *file, const struct saved_head *head)
{
	for (uint64_t i = 0; i < head->nodes; i++)
		if (!read_node(mount, file))
			return false;
	nodes_restored(mount->nodes);
	for (uint64_t i = 0; i < head->accounts; i++)
		if (!read_account(mount, file))
			return false;
	for (uint64_t i = 0; i < head->requests; i++)
		if (!read_request(mount, file))
			return false;
	return true;
}

/* They go on here, as this process would make them or not at all. */
static bool read_rings(struct croft_mount *mount, FILE *file, struct croft_error *err)
{
	mount->ringed = true;
	mount->rings = rings_create(mount->session, err);
	return mount->rings && (rings_read(mount->rings, file) ||
		croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"the mount's rings cannot be had here: its memory lies elsewhere"));
}

bool saved_read(struct croft_mount *mount, int fd, struct croft_error *err)
{
	struct saved_head head;
	int own = dup(fd);
	FILE *file = own < 0 ? NULL : fdopen(own, "r");
	if (!file)
		return croft_error_errno(err, errno, "opening the memory file of a mount");
	rewind(file);
	bool ok = true;
	if (!get(file, &head, sizeof(head)) ||
		(memcmp(head.magic, saved_magic, sizeof(head.magic)) != 0 &&
			memcmp(head.magic, ringed_magic, sizeof(head.magic)) != 0) ||
		head.init.size > SAVED_INIT_BYTES)
		ok = croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"the mount was written down by another version");
	/* The kernel knows the owners, and asks no more. */
	else if (head.uid != mount->uid || head.gid != mount->gid)
		ok = croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"what the mount shows belongs to %u:%u, not to %u:%u", head.uid, head.gid,
			mount->uid, mount->gid);
	else if (!read_all(mount, file, &head))
		ok = croft_error_set(err, CROFT_DATA_LOSS, "what was written down of the mount is damaged");
	else if (memcmp(head.magic, ringed_magic, sizeof(head.magic)) == 0)
		ok = read_rings(mount, file, err);
	mount->init = head.init;
	fclose(file);
	return ok;
}

void saved_run_requests(struct croft_mount *mount)
{
	for (struct resumed_request *request; (request = mount->resumed_requests);) {
		mount->resumed_requests = request->next;
		struct fuse_buf buffer = {.mem = request->message, .size = request->size};
		memcpy(&taken_header, request->message, sizeof(taken_header));
		fuse_session_process_buf(mount->session, &buffer);
		free(request);
	}
}
