/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stand-ins: when there is one, what it takes and when it goes; what a daemon that was killed left. */
#include "fs/daemon/internal.h"

#include "fs/tree.h"
#include "tests/unit/fs/standin_place.h"
#include "tests/unit/fs/store_place.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static const uint64_t MIB = 1 << 20;

/* Nothing here fetches. */
struct world {
	struct place *place;
	struct standins *standins;
	char folder[PATH_MAX];
};

static bool emit(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	struct world *world = user;
	return bytes.size == 0 || croft_store_put(world->place->store, digest, bytes, err);
}

static bool no_source(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *err)
{
	return croft_error_set(err, CROFT_NOT_FOUND, "no source");
}

static struct croft_digest blob(struct world *world, unsigned seed, size_t size, bool is_here)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char *data = croft_alloc(size);
	fill_noise(data, size, seed);
	struct croft_digest digest = croft_digest_of(data, size);
	if (is_here)
		assert_ok(croft_store_put(world->place->store, &digest, CROFT_SLICE(data, size), &err), err);
	free(data);
	return digest;
}

static void file_path(unsigned i, char path[32])
{
	snprintf(path, 32, i ? "below/file%u" : "below/file", i);
}

/* With these files, below/file, below/file1, and so on. */
static struct croft_digest tree_with(struct world *world, const struct croft_digest *files, unsigned count)
{
	static const struct croft_tree_source source = {no_source, NULL};
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest root;
	struct croft_tree_builder *builder = croft_tree_builder_create(&source);
	for (unsigned i = 0; i < count; i++) {
		struct croft_tree_entry entry = {.kind = CROFT_ENTRY_FILE, .digest = files[i]};
		char path[32];
		file_path(i, path);
		assert_ok(croft_tree_builder_add(builder, croft_slice_str(path), &entry, &err), err);
	}
	assert_ok(croft_tree_builder_finish(builder, emit, world, &root, &err), err);
	croft_tree_builder_destroy(builder);
	return root;
}

static struct croft_digest tree_of(struct world *world, struct croft_digest file)
{
	return tree_with(world, &file, 1);
}

static void start(struct world *world, uint64_t budget_bytes)
{
	struct croft_error err = CROFT_ERROR_INIT;
	world->standins = standins_create(
		&(struct standins_config){
			.folder = world->folder,
			.budget_bytes = budget_bytes,
			.store = world->place->store,
		},
		&err);
	assert_ok(world->standins, err);
}

static struct world *new_world(void)
{
	struct world *world = croft_zalloc(sizeof(*world));
	const char *base = getenv("TMPDIR");
	snprintf(world->folder, sizeof(world->folder), "%s/croft-standin-XXXXXX", base ? base : "/var/tmp");
	assert_non_null(mkdtemp(world->folder));
	return world;
}

static int set_up(void **state)
{
	struct world *world = new_world();
	world->place = place_create((struct croft_store_config){.budget_bytes = 256 * MIB, .chunked = true});
	*state = world;
	return 0;
}

static int tear_down(void **state)
{
	struct world *world = *state;
	standins_destroy(world->standins);
	standins_clear(world->folder);
	assert_int_equal(access(world->folder, F_OK), -1);
	place_destroy(world->place);
	free(world);
	return 0;
}

static void note(struct world *world, struct croft_digest root, const char *path,
	struct croft_digest digest)
{
	standins_note(world->standins, &root, path, &digest, 1);
}

/* A job opened the first of them. */
static void note_all(struct world *world, struct croft_digest root, const struct croft_digest *files, unsigned opened)
{
	char *paths = croft_alloc((size_t)opened * 32), *at = paths;
	for (unsigned i = 0; i < opened; i++, at += strlen(at) + 1)
		file_path(i, at);
	standins_note(world->standins, &root, paths, files, opened);
	free(paths);
}

static bool has_image(const char *folder)
{
	char path[PATH_MAX + 8];
	struct statfs fs;
	snprintf(path, sizeof(path), "%s/names", folder);
	return statfs(path, &fs) == 0 && fs.f_type == 0xE0F5E1E2;
}

/* What it has of the file at the path. */
enum where { ABSENT, IN_IMAGE, COPIED };
static enum where where(const char *folder, const char *path)
{
	char file[PATH_MAX + 64];
	struct stat stat;
	snprintf(file, sizeof(file), "%s/files/%s", folder, path);
	if (access(file, F_OK) == 0)
		return COPIED;
	snprintf(file, sizeof(file), "%s/names/%s", folder, path);
	return lstat(file, &stat) == 0 && getxattr(file, "trusted.overlay.metacopy", NULL, 0) < 0 ? IN_IMAGE : ABSENT;
}

/* There is one with the file, or at last there is none. */
static void await_file(struct world *world, struct croft_digest root, const char *file, bool there,
	char path[PATH_MAX])
{
	for (int tries = 0;; tries++) {
		bool found = standins_find(world->standins, &root, path);
		if (there ? found && where(path, file) != ABSENT : !found)
			return;
		assert_true(tries < 10000);
		usleep(1000);
	}
}

static void await(struct world *world, struct croft_digest root, bool there, char path[PATH_MAX])
{
	await_file(world, root, "below/file", there, path);
}

static void stand(struct world *world, struct croft_digest root, struct croft_digest file,
	char path[PATH_MAX])
{
	note(world, root, "below/file", file);
	note(world, root, "below/file", file);
	await(world, root, true, path);
	assert_true(has_image(path));
}

static unsigned count(const char *folder, const char *name)
{
	char path[PATH_MAX + 16];
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	DIR *listing = opendir(path);
	unsigned entries = 0;
	for (struct dirent *entry; listing && (entry = readdir(listing));)
		entries += entry->d_name[0] != '.';
	if (listing)
		closedir(listing);
	return entries;
}

static int use(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(flock(fd, LOCK_SH | LOCK_NB), 0);
	return fd;
}

/* ------------------------------------------------------------------------------------------------ */

static void a_second_job_makes_one(void **state)
{
	struct world *world = *state;
	char path[PATH_MAX];
	start(world, 64 * MIB);
	struct croft_digest file = blob(world, 1, 5000, true), root = tree_of(world, file);
	note(world, root, "below/file", file);
	assert_false(standins_find(world->standins, &root, path));
	stand(world, root, file, path);
}

static void the_least_recently_used_is_given_up_for_room_but_none_in_use(void **state)
{
	struct world *world = *state;
	char used_path[PATH_MAX], path[PATH_MAX];
	start(world, 8 * MIB);
	struct croft_digest files[4], roots[4];
	for (unsigned i = 0; i < 4; i++) {
		files[i] = blob(world, i, 3 * MIB, true);
		roots[i] = tree_of(world, files[i]);
	}
	stand(world, roots[0], files[0], used_path);
	CROFT_CLEANUP_FD int used = use(used_path);
	for (unsigned i = 1; i < 4; i++) {
		stand(world, roots[i], files[i], path);
		if (i > 1)
			assert_false(standins_find(world->standins, &roots[i - 1], path));
	}
	assert_true(standins_find(world->standins, &roots[0], path));
	assert_true(has_image(used_path));
	assert_int_equal(count(world->folder, "trees"), 2);
	assert_int_equal(count(world->folder, "files"), 2);
}

/* The room that a file would have taken is not lost with it. */
static void files_that_are_not_here_take_no_room(void **state)
{
	struct world *world = *state;
	char path[PATH_MAX];
	start(world, 8 * MIB);
	struct croft_digest file = blob(world, 1, MIB, true), root = tree_of(world, file);
	struct croft_digest gone = blob(world, 2, 3 * MIB, false), without = tree_of(world, gone);
	stand(world, root, file, path);
	for (unsigned i = 0; i < 10; i++) {
		/* The maker has come to the file when it has come to the one behind it. */
		char other[32];
		snprintf(other, sizeof(other), "other-%u", i);
		note(world, without, "below/file", gone);
		note(world, without, other, file);
		note(world, without, other, file);
		await_file(world, without, other, true, path);
	}
	assert_true(standins_find(world->standins, &root, path));
}

/* It would drive out all others, and then perhaps not fit. */
static void a_file_of_more_than_half_of_the_room_is_read_where_it_is(void **state)
{
	struct world *world = *state;
	char path[PATH_MAX], large_path[PATH_MAX + 32];
	start(world, 8 * MIB);
	struct croft_digest file = blob(world, 1, 3 * MIB, true), root = tree_of(world, file);
	struct croft_digest small = blob(world, 2, 100, true), other = tree_of(world, small);
	struct croft_digest large = blob(world, 3, 5 * MIB, true);
	stand(world, root, file, path);
	note(world, other, "large", large);
	note(world, other, "large", large);
	stand(world, other, small, path);
	snprintf(large_path, sizeof(large_path), "%s/files/large", path);
	assert_int_equal(access(large_path, F_OK), -1);
	assert_true(standins_find(world->standins, &root, path));
}

/* The content that blob() made, by reading and as it is mapped. */
static void assert_content(const char *folder, const char *path, unsigned seed, size_t size)
{
	char file[PATH_MAX + 64];
	CROFT_CLEANUP_FREE char *wanted = croft_alloc(size), *got = croft_alloc(size + 1);
	fill_noise(wanted, size, seed);
	snprintf(file, sizeof(file), "%s/names/%s", folder, path);
	CROFT_CLEANUP_FD int fd = open(file, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, got, size + 1), size);
	assert_memory_equal(got, wanted, size);
	char *mapped = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(mapped != MAP_FAILED);
	assert_memory_equal(mapped, wanted, size);
	munmap(mapped, size);
}

static void what_two_jobs_opened_stands_in_the_image_if_it_is_small(void **state)
{
	struct world *world = *state;
	static const size_t sizes[] = {1, 4032, 4033, 4096, 4097, HOT_SMALL_MOST - 1, HOT_SMALL_MOST, HOT_SMALL_MOST + 1, 100};
	enum { COUNT = sizeof(sizes) / sizeof(*sizes), LARGE = COUNT - 2, ONCE = COUNT - 1 };
	struct croft_digest files[COUNT];
	char path[PATH_MAX], file[32];
	start(world, 64 * MIB);
	for (unsigned i = 0; i < COUNT; i++)
		files[i] = blob(world, i, sizes[i], true);
	struct croft_digest root = tree_with(world, files, COUNT);
	note_all(world, root, files, COUNT);
	note_all(world, root, files, ONCE);
	file_path(LARGE, file);
	await_file(world, root, file, true, path);
	assert_int_equal(where(path, file), COPIED);
	for (unsigned i = 0; i < LARGE; i++) {
		file_path(i, file);
		assert_int_equal(where(path, file), IN_IMAGE);
		assert_content(path, file, i, sizes[i]);
	}
	file_path(ONCE, file);
	assert_int_equal(where(path, file), ABSENT);
}

static void what_the_cache_has_lost_is_left_to_the_tree(void **state)
{
	struct world *world = *state;
	char path[PATH_MAX];
	start(world, 64 * MIB);
	struct croft_digest files[] = {blob(world, 1, 5000, true), blob(world, 2, 5000, false)};
	struct croft_digest root = tree_with(world, files, 2);
	note_all(world, root, files, 2);
	note_all(world, root, files, 2);
	await(world, root, true, path);
	assert_int_equal(where(path, "below/file"), IN_IMAGE);
	assert_int_equal(where(path, "below/file1"), ABSENT);
	assert_content(path, "below/file", 1, 5000);
}

/* Which would be wrong bytes: it gets none before the cache knows. */
static void a_file_that_is_damaged_in_the_cache_is_in_no_image(void **state)
{
	struct world *world = *state;
	char path[PATH_MAX];
	start(world, 64 * MIB);
	struct croft_digest files[] = {blob(world, 1, 5000, true), blob(world, 2, 5000, true)};
	struct croft_digest root = tree_with(world, files, 2);
	place_damage(world->place, &files[1], 4000);
	for (int tries = 0; !standins_find(world->standins, &root, path); tries++) {
		note_all(world, root, files, 2);
		assert_true(tries < 10000);
		usleep(1000);
	}
	assert_int_equal(where(path, "below/file"), IN_IMAGE);
	assert_int_equal(where(path, "below/file1"), ABSENT);
}

/* The first is gone, and there is another. */
static void await_one(struct world *world, const char *first)
{
	for (int tries = 0; access(first, F_OK) == 0 || count(world->folder, "trees") != 1; tries++) {
		assert_true(tries < 10000);
		usleep(1000);
	}
}

static void an_image_that_lacks_more_than_it_has_is_made_anew(void **state)
{
	struct world *world = *state;
	enum { COUNT = 100, LARGE = COUNT };
	struct croft_digest files[COUNT + 1];
	char first[PATH_MAX], path[PATH_MAX], file[32];
	start(world, 8 * MIB);
	for (unsigned i = 0; i < COUNT; i++)
		files[i] = blob(world, i, 3000, true);
	files[LARGE] = blob(world, LARGE, MIB, true);
	struct croft_digest root = tree_with(world, files, COUNT + 1);
	stand(world, root, files[0], first);
	int used = use(first);
	/* A few are copied. */
	note_all(world, root, files, 10);
	note_all(world, root, files, 10);
	await_file(world, root, "below/file9", true, path);
	assert_string_equal(path, first);
	assert_int_equal(where(path, "below/file"), IN_IMAGE);
	assert_int_equal(where(path, "below/file9"), COPIED);
	note_all(world, root, files, COUNT + 1);
	note_all(world, root, files, COUNT + 1);
	file_path(LARGE, file);
	for (int tries = 0; strcmp(path, first) == 0 || where(path, file) != COPIED; tries++) {
		assert_true(standins_find(world->standins, &root, path));
		assert_true(tries < 10000);
		usleep(1000);
	}
	for (unsigned i = 0; i < COUNT; i++) {
		file_path(i, file);
		assert_int_equal(where(path, file), IN_IMAGE);
		assert_content(path, file, i, 3000);
	}
	/* Who uses the first keeps it. */
	assert_true(has_image(first));
	assert_content(first, "below/file", 0, 3000);
	assert_int_equal(count(world->folder, "trees"), 2);
	close(used);
	note(world, root, "below/file", files[0]);
	await_one(world, first);
	assert_true(has_image(path));
	file_path(LARGE, file);
	assert_int_equal(where(path, file), COPIED);
	assert_int_equal(count(world->folder, "files"), 1);
}

static void an_older_image_that_nobody_uses_goes_at_once(void **state)
{
	struct world *world = *state;
	enum { COUNT = 60 };
	struct croft_digest files[COUNT];
	char first[PATH_MAX], path[PATH_MAX];
	start(world, 64 * MIB);
	for (unsigned i = 0; i < COUNT; i++)
		files[i] = blob(world, i, 3000, true);
	struct croft_digest root = tree_with(world, files, COUNT);
	stand(world, root, files[0], first);
	note_all(world, root, files, COUNT);
	note_all(world, root, files, COUNT);
	await_one(world, first);
	assert_true(standins_find(world->standins, &root, path));
	assert_content(path, "below/file59", 59, 3000);
}

static void a_tree_whose_messages_are_not_here_gets_none(void **state)
{
	struct world *world = *state;
	char path[PATH_MAX];
	start(world, 64 * MIB);
	struct croft_digest file = blob(world, 1, 5000, true), root = tree_of(world, file);
	struct croft_digest gone = croft_digest_of("gone", 4);
	note(world, gone, "below/file", file);
	note(world, gone, "below/file", file);
	stand(world, root, file, path);
	for (int tries = 0; count(world->folder, "trees") > 1; tries++) {
		assert_true(tries < 10000);
		usleep(1000);
	}
	assert_false(standins_find(world->standins, &gone, path));
}

/* More trees than are remembered, one after the other. */
static void old_ones_make_way_for_new_trees(void **state)
{
	struct world *world = *state;
	char path[PATH_MAX];
	start(world, 64 * MIB);
	struct croft_digest file = blob(world, 0, 100, true);
	for (unsigned i = 1; i <= 70; i++) {
		struct croft_digest other = blob(world, i, 100, true), root = tree_of(world, other);
		for (int tries = 0; !standins_find(world->standins, &root, path); tries++) {
			note(world, root, "nothing", file);
			assert_true(tries < 10000);
			usleep(1000);
		}
	}
	assert_in_range(count(world->folder, "trees"), 60, 64);
}

static void a_daemon_that_was_killed_leaves_what_jobs_use(void **state)
{
	struct world *world = new_world();
	struct {
		char store[256], standins[2][PATH_MAX];
	} *left = croft_zalloc(sizeof(*left));
	struct croft_error err = CROFT_ERROR_INIT;
	char told[PATH_MAX];
	struct croft_digest roots[2], files[2];
	int pipe_fds[2];
	assert_int_equal(pipe(pipe_fds), 0);
	pid_t child = fork();
	world->place = place_create((struct croft_store_config){.budget_bytes = 256 * MIB, .chunked = true});
	for (unsigned i = 0; i < 2; i++) {
		files[i] = blob(world, i, 3 * MIB, true);
		roots[i] = tree_of(world, files[i]);
	}
	if (child == 0) {
		start(world, 8 * MIB);
		for (unsigned i = 0; i < 2; i++)
			stand(world, roots[i], files[i], left->standins[i]);
		memcpy(left->store, world->place->path, sizeof(left->store));
		if (!croft_write_all(pipe_fds[1], left, sizeof(*left), "paths", NULL))
			_exit(1);
		raise(SIGKILL);
	}
	close(pipe_fds[1]);
	for (size_t done = 0; done < sizeof(*left);) {
		ssize_t got = read(pipe_fds[0], (char *)left + done, sizeof(*left) - done);
		if (got <= 0)
			fail_msg("the other process made no stand-ins");
		done += (size_t)got;
	}
	close(pipe_fds[0]);
	assert_int_equal(waitpid(child, NULL, 0), child);
	int used = use(left->standins[1]);
	assert_true(has_image(left->standins[0]));
	start(world, 8 * MIB);
	assert_false(has_image(left->standins[0]));
	assert_int_equal(access(left->standins[0], F_OK), -1);
	assert_true(has_image(left->standins[1]));
	/* It is not known of which tree it is, takes its room, and goes when that is needed. */
	assert_false(standins_find(world->standins, &roots[1], told));
	stand(world, roots[0], files[0], told);
	assert_string_not_equal(told, left->standins[1]);
	note(world, roots[1], "below/file", files[1]);
	note(world, roots[1], "below/file", files[1]);
	for (int tries = 0; standins_find(world->standins, &roots[0], told); tries++) {
		assert_true(tries < 10000);
		usleep(1000);
	}
	assert_true(has_image(left->standins[1]));
	close(used);
	stand(world, roots[0], files[0], told);
	assert_false(has_image(left->standins[1]));
	assert_ok(croft_remove_tree(AT_FDCWD, left->store, &err), err);
	free(left);
	void *ended = world;
	tear_down(&ended);
}

int main(void)
{
	if (geteuid() != 0) {
		printf("skipped: mounting needs root\n");
		return 77;
	}
	if (!standins_can_be_here())
		return 77;
#define standin_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_daemon_that_was_killed_leaves_what_jobs_use),
		standin_test(a_second_job_makes_one),
		standin_test(the_least_recently_used_is_given_up_for_room_but_none_in_use),
		standin_test(files_that_are_not_here_take_no_room),
		standin_test(a_file_of_more_than_half_of_the_room_is_read_where_it_is),
		standin_test(what_two_jobs_opened_stands_in_the_image_if_it_is_small),
		standin_test(what_the_cache_has_lost_is_left_to_the_tree),
		standin_test(a_file_that_is_damaged_in_the_cache_is_in_no_image),
		standin_test(an_image_that_lacks_more_than_it_has_is_made_anew),
		standin_test(an_older_image_that_nobody_uses_goes_at_once),
		standin_test(a_tree_whose_messages_are_not_here_gets_none),
		standin_test(old_ones_make_way_for_new_trees),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
