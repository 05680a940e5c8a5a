/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Views beside by-digest: what they say is shown, changes are seen, and who waits for them can be killed. */
#include "tests/unit/fs/mount_main.h"

enum { MANY = 3000 };

/* "tree" and "folder/one" to "folder/MANY" are trees, "broken" and "away" are errors. */
struct view {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct croft_digest root;
	bool held, absent;
	unsigned asked; /* look-ups */
};

static struct view view = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, {{0}, 0}, false, false, 0};

static void set_view(const struct croft_digest *root, bool held, bool absent)
{
	CROFT_LOCKED(&view.lock);
	view.root = *root;
	view.held = held;
	view.absent = absent;
	pthread_cond_broadcast(&view.changed);
}

static unsigned view_asked(void)
{
	CROFT_LOCKED(&view.lock);
	return view.asked;
}

static bool look_up(void *user, const char *path, struct croft_view_place *place, struct croft_error *err)
{
	CROFT_LOCKED(&view.lock);
	view.asked++;
	while (view.held)
		pthread_cond_wait(&view.changed, &view.lock);
	*place = (struct croft_view_place){.kind = CROFT_VIEW_NOTHING, .root = view.root};
	if (strcmp(path, "broken") == 0)
		return croft_error_set(err, CROFT_DATA_LOSS, "it is broken");
	if (strcmp(path, "away") == 0)
		return croft_error_set(err, CROFT_UNAVAILABLE, "nobody is there");
	if (strcmp(path, "secret") == 0)
		return croft_error_set(err, CROFT_PERMISSION_DENIED, "it is not yours");
	if (strcmp(path, "folder") == 0)
		place->kind = CROFT_VIEW_FOLDER;
	else if (!view.absent && (strcmp(path, "tree") == 0 || strncmp(path, "folder/", 7) == 0))
		place->kind = CROFT_VIEW_TREE;
	return true;
}

static bool list(void *user, const char *path, croft_view_visit *visit, void *visitor, struct croft_error *err)
{
	char name[32];
	CROFT_LOCKED(&view.lock);
	if (strcmp(path, "folder") == 0) {
		for (int i = 0; i < MANY; i++) {
			snprintf(name, sizeof(name), "entry %d", i);
			visit(visitor, name);
		}
		return true;
	}
	visit(visitor, "folder");
	if (!view.absent)
		visit(visitor, "tree");
	return true;
}

static struct croft_digest small_tree(struct fixture *fixture, const char *text)
{
	struct croft_tree_builder *builder = new_tree();
	add_file(builder, "d/file", put(fixture, ON_FARM, text), false);
	return finish_tree(fixture, ON_FARM, builder);
}

static const char *at(struct fixture *fixture, const char *path)
{
	static char text[2][PATH_MAX];
	static unsigned turn;
	char *to = text[turn++ % 2];
	snprintf(to, PATH_MAX, "%s/%s", fixture->mountpoint, path);
	return to;
}

static void mount_view(struct fixture *fixture, const struct croft_digest *root)
{
	static const struct croft_mount_view shown = {"named", NULL, look_up, list};
	set_view(root, false, false);
	views = &shown;
	mount_it(fixture, true, NULL);
}

static void trees_stand_where_the_view_says(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root = small_tree(fixture, "text");
	mount_view(fixture, &root);
	assert_int_equal(count_entries(fixture->mountpoint), 4);
	assert_int_equal(count_entries(at(fixture, "named")), 4);
	assert_content(at(fixture, "named/tree/d/file"), "text");
	assert_content(at(fixture, "named/folder/x/d/file"), "text");
	assert_content(place(fixture, &root, "d/file"), "text");
	/* One content, one page cache. */
	assert_int_equal(stat_of(at(fixture, "named/tree/d/file")).st_ino,
		stat_of(place(fixture, &root, "d/file")).st_ino);
	assert_int_equal(open_error(at(fixture, "named/none")), ENOENT);
	assert_int_equal(open_error(at(fixture, "none")), ENOENT);
	assert_non_null(croft_mount_bound(fixture->mount));
}

static void errors_say_what_they_are(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root = small_tree(fixture, "text");
	mount_view(fixture, &root);
	assert_int_equal(open_error(at(fixture, "named/broken")), EIO);
	assert_int_equal(open_error(at(fixture, "named/away")), EHOSTDOWN);
	assert_int_equal(open_error(at(fixture, "named/secret")), EACCES);
	assert_content(at(fixture, "named/tree/d/file"), "text");
}

static void a_long_list_is_whole(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root = small_tree(fixture, "text");
	mount_view(fixture, &root);
	for (int round = 0; round < 2; round++)
		assert_int_equal(count_entries(at(fixture, "named/folder")), MANY + 2);
}

/* What is asked for by a condition that comes true by itself. */
#define eventually(condition) \
	for (int tries = 0; !(condition); tries++) { \
		assert_true(tries < 1000); \
		usleep(10000); \
	}

static void what_changes_is_seen(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest first = small_tree(fixture, "first"), second = small_tree(fixture, "second");
	mount_view(fixture, &first);
	CROFT_CLEANUP_FD int open_before = open(at(fixture, "named/tree/d/file"), O_RDONLY | O_CLOEXEC);
	assert_content(at(fixture, "named/tree/d/file"), "first");
	set_view(&second, false, false);
	eventually(stat_of(at(fixture, "named/tree/d/file")).st_size == 6);
	assert_content(at(fixture, "named/tree/d/file"), "second");
	char text[16];
	assert_int_equal(pread(open_before, text, sizeof(text), 0), 5);
	set_view(&second, false, true);
	eventually(open_error(at(fixture, "named/tree")) == ENOENT);
	eventually(count_entries(at(fixture, "named")) == 3);
	set_view(&first, false, false);
	eventually(open_error(at(fixture, "named/tree/d/file")) == 0);
	eventually(count_entries(at(fixture, "named")) == 4);
}

static void who_waits_for_a_view_can_be_killed(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root = small_tree(fixture, "text");
	mount_view(fixture, &root);
	set_view(&root, true, false);
	unsigned asked = view_asked();
	pid_t child = start_reader(at(fixture, "named/tree/d/file"));
	eventually(view_asked() > asked);
	/* What is known is not held up. */
	assert_content(place(fixture, &root, "d/file"), "text");
	kill(child, SIGKILL);
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	set_view(&root, false, false);
	assert_content(at(fixture, "named/tree/d/file"), "text");
}

static void *let_go(void *root)
{
	usleep(300000);
	set_view(root, false, false);
	return NULL;
}

/* The end comes while the view is asked, and what it says then is nobody's. */
static void the_end_waits_for_the_view_and_nobody_else(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest root = small_tree(fixture, "text");
	mount_view(fixture, &root);
	set_view(&root, true, false);
	unsigned asked = view_asked();
	pid_t children[6];
	for (int i = 0; i < 6; i++) {
		char name[32];
		snprintf(name, sizeof(name), "named/other %d", i);
		children[i] = start_reader(at(fixture, name));
	}
	eventually(view_asked() >= asked + 4);
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, let_go, &root), 0);
	unmount_it(fixture);
	pthread_join(thread, NULL);
	for (int i = 0; i < 6; i++) {
		int status;
		assert_int_equal(waitpid(children[i], &status, 0), children[i]);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 0);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		mount_test(trees_stand_where_the_view_says),
		mount_test(errors_say_what_they_are),
		mount_test(a_long_list_is_whole),
		mount_test(what_changes_is_seen),
		mount_test(who_waits_for_a_view_can_be_killed),
		mount_test(the_end_waits_for_the_view_and_nobody_else),
	};
	return run_mount_tests(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
