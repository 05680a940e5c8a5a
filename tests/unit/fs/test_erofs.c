/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images of trees, mounted: to the last attribute what the Directory messages say; and what gets none. */
#include "fs/daemon/internal.h"

#include "fs/digest_map.h"
#include "fs/mount/directory.h"
#include "fs/tree.h"
#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "tests/unit/fs/standin_place.h"
#include "tests/unit/test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

enum { UID = 1234, GID = 70000, ENTRIES = 1000000 };
static const uint64_t MIB = 1 << 20;

/* Messages ---------------------------------------------------------------------------------------- */

struct world {
	struct croft_arena *arena;
	struct croft_digest_map *messages;
	size_t reads;
	uint64_t data_most; /* of files whose data stand in the image, but for those named "…-left" */
	bool data_fails;
	uint64_t bytes_at_most, reserved, room;
};

static bool reserve(void *user, uint64_t bytes, struct croft_error *err)
{
	struct world *world = user;
	world->reserved += bytes;
	return world->reserved <= world->room || croft_error_set(err, CROFT_UNAVAILABLE, "no room");
}

static struct directory *read_message(void *user, const struct croft_digest *digest,
	struct croft_error *err)
{
	struct world *world = user;
	struct croft_slice *bytes = croft_digest_map_get(world->messages, digest);
	world->reads++;
	if (croft_digest_is_empty(digest))
		return directory_decode(digest, CROFT_SLICE("", 0), err);
	if (!bytes) {
		croft_error_set(err, CROFT_NOT_FOUND, "no such blob");
		return NULL;
	}
	return directory_decode(digest, *bytes, err);
}

/* Of a file with this digest, at the offset: noise, zeros or a mixture. */
static char content(const struct croft_digest *digest, uint64_t at)
{
	bool zero = digest->hash[0] % 3 == 0 || (digest->hash[0] % 3 == 1 && at % 8192 >= 4096);
	return zero ? 0 : (char)(digest->hash[at % CROFT_HASH_SIZE] + at / CROFT_HASH_SIZE);
}

static bool is_left(struct croft_slice path)
{
	return path.size > 5 && memcmp((const char *)path.data + path.size - 5, "-left", 5) == 0;
}

static bool has_data(void *user, const struct croft_digest *digest, struct croft_slice path)
{
	struct world *world = user;
	assert_in_range(digest->size_bytes, 1, world->data_most);
	return !is_left(path);
}

static bool read_data(void *user, const struct croft_digest *digest, void *to, struct croft_error *err)
{
	for (uint64_t i = 0; i < digest->size_bytes; i++)
		((char *)to)[i] = content(digest, i);
	return !((struct world *)user)->data_fails || croft_error_set(err, CROFT_DATA_LOSS, "damaged");
}

static int set_up(void **state)
{
	struct world *world = croft_zalloc(sizeof(*world));
	world->arena = croft_arena_create();
	world->messages = croft_digest_map_create();
	world->bytes_at_most = world->room = 1024 * MIB;
	*state = world;
	return 0;
}

static int tear_down(void **state)
{
	struct world *world = *state;
	croft_digest_map_destroy(world->messages);
	croft_arena_destroy(world->arena);
	free(world);
	return 0;
}

/* A Directory that grows; nodes are added in the order of their names. */
struct making {
	struct world *world;
	Reapi__Directory message;
	size_t room;
};

static struct making make(struct world *world, size_t room)
{
	struct making making = {world, REAPI__DIRECTORY__INIT, room};
	making.message.files = croft_arena_array(world->arena, room, sizeof(void *));
	making.message.directories = croft_arena_array(world->arena, room, sizeof(void *));
	making.message.symlinks = croft_arena_array(world->arena, room, sizeof(void *));
	return making;
}

static Reapi__NodeProperties *properties(struct world *world, unsigned mode, int64_t seconds, int nanos)
{
	Reapi__NodeProperties *made = croft_arena_alloc(world->arena, sizeof(*made));
	reapi__node_properties__init(made);
	made->mtime = croft_arena_alloc(world->arena, sizeof(*made->mtime));
	google__protobuf__timestamp__init(made->mtime);
	made->mtime->seconds = seconds;
	made->mtime->nanos = nanos;
	made->unix_mode = croft_arena_alloc(world->arena, sizeof(*made->unix_mode));
	google__protobuf__uint32_value__init(made->unix_mode);
	made->unix_mode->value = mode;
	return made;
}

static Reapi__FileNode *add_file(struct making *making, const char *name, uint64_t size)
{
	struct croft_arena *arena = making->world->arena;
	struct croft_digest digest = size ? croft_digest_of(name, strlen(name)) : croft_digest_empty;
	Reapi__FileNode *node = croft_arena_alloc(arena, sizeof(*node));
	reapi__file_node__init(node);
	digest.size_bytes = size;
	node->name = croft_arena_strdup(arena, name);
	node->digest = croft_digest_to_message(&digest, arena);
	assert_true(making->message.n_files < making->room);
	return making->message.files[making->message.n_files++] = node;
}

static Reapi__SymlinkNode *add_symlink(struct making *making, const char *name, const char *target)
{
	Reapi__SymlinkNode *node = croft_arena_alloc(making->world->arena, sizeof(*node));
	reapi__symlink_node__init(node);
	node->name = croft_arena_strdup(making->world->arena, name);
	node->target = croft_arena_strdup(making->world->arena, target);
	assert_true(making->message.n_symlinks < making->room);
	return making->message.symlinks[making->message.n_symlinks++] = node;
}

static void add_directory(struct making *making, const char *name, struct croft_digest digest)
{
	Reapi__DirectoryNode *node = croft_arena_alloc(making->world->arena, sizeof(*node));
	reapi__directory_node__init(node);
	node->name = croft_arena_strdup(making->world->arena, name);
	node->digest = croft_digest_to_message(&digest, making->world->arena);
	assert_true(making->message.n_directories < making->room);
	making->message.directories[making->message.n_directories++] = node;
}

static struct croft_digest made(struct making *making)
{
	struct croft_arena *arena = making->world->arena;
	size_t size = reapi__directory__get_packed_size(&making->message);
	struct croft_slice *bytes = croft_arena_alloc(arena, sizeof(*bytes));
	uint8_t *packed = croft_arena_alloc(arena, size + 1);
	*bytes = CROFT_SLICE(packed, reapi__directory__pack(&making->message, packed));
	struct croft_digest digest = croft_digest_of(bytes->data, bytes->size);
	if (size)
		*croft_digest_map_at(making->world->messages, &digest) = bytes;
	return digest;
}

static char *repeated(struct world *world, char byte, size_t size)
{
	char *text = croft_arena_alloc(world->arena, size + 1);
	memset(text, byte, size);
	text[size] = '\0';
	return text;
}

/* Images ------------------------------------------------------------------------------------------ */

static bool write_image(struct world *world, int fd, const struct croft_digest *root,
	struct croft_error *err)
{
	world->reserved = world->reads = 0;
	const struct erofs_source source = {
		.read = read_message,
		.reserve = reserve,
		.data_size_most = world->data_most,
		.has_data = has_data,
		.read_data = read_data,
		.user = world,
		.uid = UID,
		.gid = GID,
		.entries_at_most = ENTRIES,
		.bytes_at_most = world->bytes_at_most,
	};
	return erofs_write(fd, root, &source, err);
}

/* On a disk: the kernel mounts no file of a tmpfs that it may swap. */
static int new_file(void)
{
	const char *folder = getenv("TMPDIR");
	int fd = open(folder ? folder : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	return fd;
}

/* No place: it goes with its last descriptor. */
static int mount_image(int fd)
{
	char path[64];
	CROFT_CLEANUP_FD int fs = fsopen("erofs", FSOPEN_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "source", path, 0) != 0 ||
		fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) != 0 ||
		fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) != 0)
		fail_msg("mounting an image: %s", strerror(errno));
	int mounted = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY);
	assert_true(mounted >= 0);
	return mounted;
}

/* What a mount shows, against the messages --------------------------------------------------------- */

static void assert_attributes(int at, const char *name, mode_t mode, uint64_t size, uint64_t links,
	int64_t mtime_s, uint32_t mtime_ns)
{
	struct stat stat;
	if (fstatat(at, name, &stat, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0)
		fail_msg("%s: %s", name, strerror(errno));
	assert_int_equal(stat.st_mode, mode);
	assert_int_equal(stat.st_size, size);
	assert_int_equal(stat.st_nlink, links);
	assert_int_equal(stat.st_uid, UID);
	assert_int_equal(stat.st_gid, GID);
	assert_int_equal(stat.st_mtim.tv_sec, mtime_s);
	assert_int_equal(stat.st_mtim.tv_nsec, mtime_ns);
	assert_int_equal(stat.st_blocks, (size + 4095) / 4096 * 8);
}

/* A file with data says where they are, and nothing else does. (Not inlined: trees are deep.) */
__attribute__((noinline)) static void assert_redirect(int at, const char *name, const char *path, uint64_t size)
{
	char link[64], value[PATH_MAX + 1];
	CROFT_CLEANUP_FD int fd = openat(at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t got = getxattr(link, "trusted.overlay.redirect", value, sizeof(value));
	if (size == 0) {
		assert_int_equal(got, -1);
		assert_int_equal(listxattr(link, value, sizeof(value)), 0);
		return;
	}
	assert_int_equal(got, strlen(path));
	assert_memory_equal(value, path, got);
	assert_int_equal(getxattr(link, "trusted.overlay.metacopy", value, sizeof(value)), 0);
	assert_int_equal(listxattr(link, value, sizeof(value)), 2 * sizeof("trusted.overlay.metacopy"));
}

/* By reading, by reading across what ends blocks, and as it is mapped, where the rest of the last page is zero. */
__attribute__((noinline)) static void assert_data(int at, const char *name, const struct croft_digest *digest)
{
	uint64_t size = digest->size_bytes;
	CROFT_CLEANUP_FREE char *wanted = croft_alloc(size), *got = croft_alloc(size + 1);
	for (uint64_t i = 0; i < size; i++)
		wanted[i] = content(digest, i);
	CROFT_CLEANUP_FD int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(flistxattr(fd, NULL, 0), 0);
	assert_int_equal(read(fd, got, size + 1), size);
	assert_memory_equal(got, wanted, size);
	for (uint64_t from = size > 4000 ? 4000 : size / 2; from < size; from += 4096) {
		size_t rest = size - from < 200 ? size - from : 200;
		assert_int_equal(pread(fd, got, 200, (off_t)from), rest);
		assert_memory_equal(got, wanted + from, rest);
	}
	char *mapped = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_true(mapped != MAP_FAILED);
	assert_memory_equal(mapped, wanted, size);
	for (uint64_t i = size; i % 4096; i++)
		assert_int_equal(mapped[i], 0);
	munmap(mapped, size);
}

__attribute__((noinline)) static void assert_link(int at, const char *name, const char *target)
{
	char read_target[PATH_MAX + 1];
	ssize_t got = readlinkat(at, name, read_target, sizeof(read_target));
	assert_int_equal(got, strlen(target));
	assert_memory_equal(read_target, target, got);
}

static int by_bytes(const void *one, const void *other)
{
	return strcmp(*(char *const *)one, *(char *const *)other);
}

/* "." and ".." stand among them, in the order of bytes. */
static void assert_listing(int at, const struct directory *directory)
{
	CROFT_CLEANUP_FREE const char **names = croft_array(directory->count + 2, sizeof(*names));
	for (size_t i = 0; i < directory->count; i++)
		names[i] = directory->names + directory->entries[i].name;
	names[directory->count] = ".";
	names[directory->count + 1] = "..";
	qsort(names, directory->count + 2, sizeof(*names), by_bytes);
	DIR *listing = fdopendir(openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	assert_non_null(listing);
	for (size_t i = 0; i < directory->count + 2; i++) {
		struct dirent *entry = readdir(listing);
		assert_non_null(entry);
		assert_string_equal(entry->d_name, names[i]);
		const struct directory_entry *node = directory_find(directory, croft_slice_str(names[i]));
		assert_int_equal(entry->d_type,
			!node || node->kind == NODE_DIRECTORY ? DT_DIR : node->kind == NODE_FILE ? DT_REG : DT_LNK);
	}
	assert_null(readdir(listing));
	closedir(listing);
}

static void assert_shown(struct world *world, const struct croft_digest *digest, int at, char *path)
{
	struct croft_error err = CROFT_ERROR_INIT;
	size_t path_size = strlen(path);
	struct directory *directory = read_message(world, digest, &err);
	assert_ok(directory, err);
	assert_attributes(at, "", S_IFDIR | directory->mode, node_directory_size(digest->size_bytes),
		directory->subdirectories + 2, directory->mtime_s, directory->mtime_ns);
	assert_listing(at, directory);
	for (size_t i = 0; i < directory->count; i++) {
		const struct directory_entry *entry = &directory->entries[i];
		const char *name = directory->names + entry->name;
		snprintf(path + path_size, PATH_MAX - path_size, "/%s", name);
		if (entry->kind == NODE_DIRECTORY) {
			struct croft_digest child = directory_entry_digest(entry);
			CROFT_CLEANUP_FD int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			assert_true(fd >= 0);
			assert_shown(world, &child, fd, path);
			continue;
		}
		assert_attributes(at, name, (entry->kind == NODE_FILE ? S_IFREG : S_IFLNK) | entry->mode,
			entry->size, 1, entry->mtime_s, entry->mtime_ns);
		struct croft_digest file = directory_entry_digest(entry);
		if (entry->kind == NODE_FILE && entry->size > 0 && entry->size <= world->data_most &&
			!is_left(croft_slice_str(path)))
			assert_data(at, name, &file);
		else if (entry->kind == NODE_FILE)
			assert_redirect(at, name, path, entry->size);
		else
			assert_link(at, name, directory->names + entry->target);
	}
	assert_int_equal(faccessat(at, "no such name", F_OK, AT_SYMLINK_NOFOLLOW), -1);
	assert_int_equal(errno, ENOENT);
	path[path_size] = '\0';
	directory_free(directory);
}

/* With CROFT_KEEP_IMAGES, a folder, for fsck.erofs. */
static void keep_image(int fd)
{
	static int count;
	char from[64], to[PATH_MAX];
	if (!getenv("CROFT_KEEP_IMAGES"))
		return;
	snprintf(from, sizeof(from), "/proc/self/fd/%d", fd);
	snprintf(to, sizeof(to), "%s/image-%d", getenv("CROFT_KEEP_IMAGES"), count++);
	assert_int_equal(linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW), 0);
}

static int assert_image(struct world *world, const struct croft_digest *root)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char path[2 * PATH_MAX] = "";
	struct stat stat;
	CROFT_CLEANUP_FD int fd = new_file();
	assert_ok(write_image(world, fd, root, &err), err);
	assert_int_equal(fstat(fd, &stat), 0);
	/* Room for it was asked for, to what the disk needs to find its blocks. */
	assert_in_range((uint64_t)stat.st_blocks * 512, 1, world->reserved + 65536);
	assert_in_range(world->reserved, 1, (uint64_t)stat.st_blocks * 512 + 4096);
	keep_image(fd);
	int mounted = mount_image(fd);
	assert_shown(world, root, mounted, path);
	return mounted;
}

static void shows(struct world *world, struct croft_digest root)
{
	close(assert_image(world, &root));
}

static enum croft_code refused(struct world *world, struct croft_digest root, uint64_t *disk)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct stat stat;
	CROFT_CLEANUP_FD int fd = new_file();
	assert_false(write_image(world, fd, &root, &err));
	assert_int_equal(fstat(fd, &stat), 0);
	*disk = (uint64_t)stat.st_blocks * 512;
	return err.code;
}

static void empty_directories_are_shown(void **state)
{
	struct making top = make(*state, 2);
	shows(*state, croft_digest_empty);
	add_directory(&top, "one", croft_digest_empty);
	add_directory(&top, "other", croft_digest_empty);
	shows(*state, made(&top));
}

static void modes_times_and_sizes_are_shown(void **state)
{
	static const int64_t times[] = {0, 1, -1, -2208988800, 2147483648, 4294967296, 253402300799, -62135596800};
	static const uint64_t sizes[] = {0, 1, 4095, 4096, 4097, 1ull << 32, (1ull << 32) + 1, 1ull << 43,
		(1ull << 43) + 1, INT64_MAX - 4096};
	struct making top = make(*state, 64);
	char name[32];
	for (size_t i = 0; i < 8; i++) {
		snprintf(name, sizeof(name), "a%zu", i);
		add_file(&top, name, sizes[i])->node_properties =
			properties(*state, (unsigned)(i << 9) | 0640, times[i], i % 2 ? 999999999 : (int)i);
	}
	for (size_t i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "b%zu", i);
		add_file(&top, name, sizes[i])->is_executable = i % 2;
		add_symlink(&top, name + 1, "target")->node_properties = properties(*state, 0600, times[i % 8], 5);
	}
	top.message.node_properties = properties(*state, 03750, -5, 123456789);
	shows(*state, made(&top));
}

static void symlinks_of_every_length_are_shown(void **state)
{
	struct making top = make(*state, 4096);
	char name[256];
	/* About all ends of blocks, and every length near the longest that stands with its inode. */
	for (size_t size = 1; size < PATH_MAX; size += size > 3990 || size < 100 ? 1 : 61) {
		snprintf(name, sizeof(name), "%04zu", size);
		add_symlink(&top, name, repeated(*state, 'a' + size % 26, size));
	}
	shows(*state, made(&top));
}

static void names_are_any_bytes(void **state)
{
	struct making top = make(*state, 1024);
	char name[256] = "";
	/* Strings of a message are UTF-8 by contract alone. */
	for (int byte = 1; byte < 256; byte++) {
		if (byte == '/')
			continue;
		snprintf(name, sizeof(name), "%c%s", byte, byte == '.' ? "." "." : "");
		add_file(&top, name, (uint64_t)byte);
		snprintf(name, sizeof(name), "%c%cz", byte, byte);
		if (byte == '.')
			continue;
		add_file(&top, name, 0);
	}
	for (int byte = 'a'; byte < 'z'; byte++) {
		char *full = repeated(*state, '\xff', 255);
		full[254] = (char)byte;
		add_symlink(&top, full, "here and there");
	}
	shows(*state, made(&top));
}

static void a_directory_of_20000_entries_is_shown(void **state)
{
	struct making top = make(*state, 20000), below = make(*state, 1);
	char name[256];
	add_file(&below, "file", 5);
	struct croft_digest other = made(&below);
	for (int i = 0; i < 20000; i++) {
		snprintf(name, sizeof(name), "%05d-%.*s", i, i * 7 % 240,
			repeated(*state, 'n', 240));
		if (i % 3 == 0)
			add_file(&top, name, (uint64_t)i);
		else if (i % 3 == 1)
			add_symlink(&top, name, "../somewhere/else");
		else
			add_directory(&top, name, i % 2 ? other : croft_digest_empty);
	}
	struct croft_digest root = made(&top);
	close(assert_image(*state, &root));
	assert_true(((struct world *)*state)->reserved > 5 * MIB);
}

/* Every size about the ends of blocks, and such as leave another much room behind them or none. */
static void data_of_small_files_are_shown(void **state)
{
	struct world *world = *state;
	struct making top = make(world, 1000), below = make(world, 1000);
	char name[32];
	world->data_most = 20000;
	for (size_t i = 0; i < 900; i++) {
		static const uint64_t about[] = {32, 64, 1000, 2048, 4032, 4096, 8192, 12288, 16384, 20000};
		snprintf(name, sizeof(name), "%03zu%s", i, i % 10 == 3 ? "-left" : "");
		add_file(i % 2 ? &top : &below, name, about[i % 11 % 10] + i % 7 - 3)->is_executable = i % 3 == 0;
	}
	add_directory(&top, "below", made(&below));
	shows(world, made(&top));
	/* Nor is anything asked for where none are wanted. */
	world->data_most = 0;
	shows(world, made(&top));
}

static void data_that_cannot_be_read_or_have_no_room_make_no_image(void **state)
{
	struct world *world = *state;
	struct making top = make(world, 10000);
	char name[32];
	uint64_t disk;
	world->data_most = 64 << 10;
	for (size_t i = 0; i < 10000; i++) {
		snprintf(name, sizeof(name), "%05zu", i);
		add_file(&top, name, i % 2 ? 3000 : 60000);
	}
	struct croft_digest root = made(&top);
	world->bytes_at_most = 100 * MIB;
	assert_int_equal(refused(world, root, &disk), CROFT_RESOURCE_EXHAUSTED);
	assert_in_range(disk, 0, MIB); /* that it is too much is known before it is written */
	world->bytes_at_most = 1024 * MIB;
	world->data_fails = true;
	assert_int_equal(refused(world, root, &disk), CROFT_DATA_LOSS);
	assert_in_range(disk, 0, MIB);
}

static struct croft_digest nested(struct world *world, unsigned depth, const char *name)
{
	struct making at = make(world, 1);
	add_file(&at, "f", 4);
	struct croft_digest digest = made(&at);
	while (depth-- > 0) {
		at = make(world, 2);
		add_directory(&at, name, digest);
		digest = made(&at);
	}
	return digest;
}

static void deep_trees_are_shown(void **state)
{
	struct rlimit files = {4096, 4096};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	shows(*state, nested(*state, 1000, "d"));
	shows(*state, nested(*state, 15, repeated(*state, 'd', 255)));
}

/* To the longest path that the kernel takes, where data stand for the names. */
static void an_overlay_reads_the_data_of_long_paths(void **state)
{
	char folder[] = "/var/tmp/croft-erofs-XXXXXX", read_data[5] = "", where[300];
	char *name = repeated(*state, 'd', 255);
	struct croft_error err = CROFT_ERROR_INIT;
	struct making at = make(*state, 1);
	/* 15 * 256 for the directories, so many for the file: with the first '/', 4095. */
	char *last = repeated(*state, 'f', 254);
	add_file(&at, last, 4);
	struct croft_digest root = made(&at);
	for (int i = 0; i < 15; i++) {
		at = make(*state, 1);
		add_directory(&at, name, root);
		root = made(&at);
	}
	CROFT_CLEANUP_FD int names = assert_image(*state, &root);
	assert_non_null(mkdtemp(folder));
	int files = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(files, "top", 0755), 0);
	assert_int_equal(mkdirat(files, "data", 0755), 0);
	CROFT_CLEANUP_FD int data = openat(files, "data", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int way = dup(data);
	for (int i = 0; i < 15; i++) {
		assert_int_equal(mkdirat(way, name, 0755), 0);
		int next = openat(way, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(way);
		way = next;
	}
	CROFT_CLEANUP_FD int file = openat(way, last, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(file, "data", 4), 4);
	close(way);
	CROFT_CLEANUP_FD int fs = fsopen("overlay", FSOPEN_CLOEXEC);
	snprintf(where, sizeof(where), "%s/top", folder);
	assert_int_equal(fsconfig(fs, FSCONFIG_SET_STRING, "metacopy", "off", 0), 0);
	assert_int_equal(fsconfig(fs, FSCONFIG_SET_STRING, "redirect_dir", "nofollow", 0), 0);
	assert_int_equal(fsconfig(fs, FSCONFIG_SET_STRING, "lowerdir+", where, 0), 0);
	assert_int_equal(fsconfig(fs, FSCONFIG_SET_FD, "lowerdir+", NULL, names), 0);
	assert_int_equal(fsconfig(fs, FSCONFIG_SET_FD, "datadir+", NULL, data), 0);
	assert_int_equal(fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0), 0);
	way = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY);
	for (int i = 0; i < 15; i++) {
		int next = openat(way, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(way);
		way = next;
	}
	int read_from = openat(way, last, O_RDONLY | O_CLOEXEC);
	if (read_from < 0)
		fail_msg("a file by a path of 4095 bytes: %s", strerror(errno));
	assert_int_equal(read(read_from, read_data, 5), 4);
	assert_string_equal(read_data, "data");
	close(read_from);
	close(way);
	close(files);
	assert_ok(croft_remove_tree(AT_FDCWD, folder, &err), err);
}

/* What gets none ---------------------------------------------------------------------------------- */

static void what_is_missing_or_too_deep_or_long_gets_no_image(void **state)
{
	struct making top = make(*state, 1), large = make(*state, 1);
	struct croft_digest absent = croft_digest_of("absent", 6);
	uint64_t disk;
	add_directory(&top, "there", absent);
	add_file(&large, "large", INT64_MAX);
	assert_int_equal(refused(*state, made(&large), &disk), CROFT_UNIMPLEMENTED);
	assert_int_equal(refused(*state, absent, &disk), CROFT_NOT_FOUND);
	assert_int_equal(refused(*state, made(&top), &disk), CROFT_NOT_FOUND);
	assert_int_equal(refused(*state, nested(*state, 1024, "d"), &disk), CROFT_UNIMPLEMENTED);
	assert_int_equal(refused(*state, nested(*state, 16, repeated(*state, 'd', 255)), &disk),
		CROFT_UNIMPLEMENTED);
}

static void a_tree_that_repeats_itself_is_not_followed(void **state)
{
	struct world *world = *state;
	struct making at = make(world, 2);
	uint64_t disk;
	world->bytes_at_most = 16 * MIB;
	add_file(&at, "f", 4);
	struct croft_digest digest = made(&at);
	for (int i = 0; i < 30; i++) {
		at = make(world, 2);
		add_directory(&at, "a", digest);
		add_directory(&at, "b", digest);
		digest = made(&at);
	}
	assert_int_equal(refused(world, digest, &disk), CROFT_RESOURCE_EXHAUSTED);
	assert_in_range(disk, 1, 18 * MIB);
	assert_in_range(world->reads, 1, 16 * MIB / 4096);
	/* Nor is room taken that is another's. */
	world->bytes_at_most = 1024 * MIB;
	world->room = 4 * MIB;
	assert_int_equal(refused(world, digest, &disk), CROFT_UNAVAILABLE);
	assert_in_range(disk, 1, 5 * MIB);
}

/* Sanitizers keep what is freed. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const uint64_t memory_most = 512 << 20;
#else
static const uint64_t memory_most = 64 << 20;
#endif

static uint64_t peak_bytes(void)
{
	struct rusage usage;
	assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
	return (uint64_t)usage.ru_maxrss * 1024;
}

/* Each file says its whole path: far more bytes than the messages have. */
static void memory_is_bounded_however_long_the_paths(void **state)
{
	struct world *world = *state;
	struct making at = make(world, 50000);
	char name[32];
	uint64_t disk;
	for (int i = 0; i < 50000; i++) {
		snprintf(name, sizeof(name), "%05d", i);
		add_file(&at, name, 1);
	}
	struct croft_digest root = made(&at);
	for (int i = 0; i < 15; i++) {
		at = make(world, 1);
		add_directory(&at, repeated(world, 'd', 255), root);
		root = made(&at);
	}
	uint64_t before = peak_bytes();
	world->bytes_at_most = 64 * MIB;
	assert_int_equal(refused(world, root, &disk), CROFT_RESOURCE_EXHAUSTED);
	assert_in_range(disk, 0, MIB); /* that it is too much is known before it is written */
	world->bytes_at_most = 1024 * MIB;
	struct croft_error err = CROFT_ERROR_INIT;
	CROFT_CLEANUP_FD int fd = new_file();
	assert_ok(write_image(world, fd, &root, &err), err);
	assert_in_range(world->reserved, 190 * MIB, 240 * MIB);
	assert_in_range(peak_bytes() - before, 0, memory_most);
}

int main(void)
{
	if (geteuid() != 0) {
		printf("skipped: mounting needs root\n");
		return 77;
	}
	if (!standins_can_be_here())
		return 77;
#define image_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		image_test(empty_directories_are_shown),
		image_test(modes_times_and_sizes_are_shown),
		image_test(symlinks_of_every_length_are_shown),
		image_test(names_are_any_bytes),
		image_test(a_directory_of_20000_entries_is_shown),
		image_test(data_of_small_files_are_shown),
		image_test(data_that_cannot_be_read_or_have_no_room_make_no_image),
		image_test(deep_trees_are_shown),
		image_test(an_overlay_reads_the_data_of_long_paths),
		image_test(what_is_missing_or_too_deep_or_long_gets_no_image),
		image_test(a_tree_that_repeats_itself_is_not_followed),
		image_test(memory_is_bounded_however_long_the_paths),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
