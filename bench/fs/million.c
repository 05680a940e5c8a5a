/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory of the filesystem daemon when the kernel knows a tree of a million files, each another content: every one
 * was looked at, none is there to be read. This program is its own daemon. */
#include "fs/daemon.h"
#include "fs/tree.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DIRECTORIES = 1000, FILES = 1000 };
static const double goal = 150;

static struct croft_daemon *daemon_;

static void die(const char *what, const struct croft_error *err)
{
	fprintf(stderr, "bench fs million: %s: %s\n", what, err ? err->message : strerror(errno));
	if (daemon_)
		croft_daemon_detach(daemon_, false);
	exit(1);
}

static bool no_source(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *err)
{
	return croft_error_set(err, CROFT_NOT_FOUND, "no source");
}

static bool adopt(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	CROFT_CLEANUP_FD int fd = memfd_create("directory", MFD_CLOEXEC);
	return croft_pwrite_all(fd, bytes.data, bytes.size, 0, "a memory file", err) &&
		croft_daemon_adopt(daemon_, digest, fd, err);
}

static struct croft_digest make_tree(void)
{
	static const struct croft_tree_source source = {no_source, NULL};
	struct croft_tree_builder *builder = croft_tree_builder_create(&source);
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest root;
	char path[64];
	for (unsigned i = 0; i < DIRECTORIES * FILES; i++) {
		int size = snprintf(path, sizeof(path), "directory-%u/some-file-%u.h", i / FILES, i % FILES);
		struct croft_tree_entry entry = {
			.kind = CROFT_ENTRY_FILE, .digest = croft_digest_of(path, (size_t)size)};
		if (!croft_tree_builder_add(builder, croft_slice_str(path), &entry, &err))
			die("making the tree", &err);
	}
	if (!croft_tree_builder_finish(builder, adopt, NULL, &root, &err))
		die("giving the daemon the tree", &err);
	croft_tree_builder_destroy(builder);
	return root;
}

/* With READDIRPLUS each entry that is listed is one that the kernel knows; holding the directories open keeps it from
 * forgetting these at least. */
static unsigned look_at_all(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	unsigned count = 0;
	if (!directory)
		die(name, NULL);
	for (struct dirent *entry; (entry = readdir(directory));) {
		struct stat stat;
		if (entry->d_name[0] == '.')
			continue;
		if (fstatat(fd, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) != 0)
			die(entry->d_name, NULL);
		count += S_ISDIR(stat.st_mode) ? look_at_all(fd, entry->d_name) : 1;
	}
	closedir(directory);
	return count;
}

/* The most that it ever had, in MB: pages of the index that the kernel may take back included. */
static double peak_megabytes(int pid)
{
	char path[64], line[256];
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	FILE *file = fopen(path, "re");
	unsigned long kilobytes = 0;
	while (file && fgets(line, sizeof(line), file) && sscanf(line, "VmHWM: %lu", &kilobytes) != 1)
		;
	if (file)
		fclose(file);
	return (double)kilobytes / 1024;
}

static int child(void)
{
	char path[64], text[64] = "";
	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	return read(fd, text, sizeof(text) - 1) > 0 ? atoi(text) : 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "fs-daemon") == 0)
		return croft_daemon_command(argc - 1, argv + 1);
	struct croft_error err = CROFT_ERROR_INIT;
	char state[] = "/var/tmp/croft-million-XXXXXX", path[PATH_MAX], text[CROFT_DIGEST_TEXT];
	if (!mkdtemp(state))
		die("a folder", NULL);
	daemon_ = croft_daemon_attach(
		&(struct croft_daemon_config){.state = state, .budget_bytes = 1 << 30}, &err);
	if (!daemon_)
		die("starting the daemon", &err);
	struct croft_digest root = make_tree();
	croft_digest_format(&root, '-', text);
	snprintf(path, sizeof(path), "%s/by-digest/%s", croft_daemon_mountpoint(daemon_), text);
	uint64_t start = croft_now_ns();
	unsigned count = look_at_all(AT_FDCWD, path);
	double seconds = (double)(croft_now_ns() - start) / 1e9, megabytes = peak_megabytes(child());
	croft_daemon_detach(daemon_, false);
	if (!croft_remove_tree(AT_FDCWD, state, &err))
		die("cleaning up", &err);
	printf("%u files were looked at in %.1f s\n", count, seconds);
	printf("BAR fs-daemon-megabytes-million-files %.0f <%.0f %s\n", megabytes, goal,
		megabytes < goal && count == DIRECTORIES * FILES ? "ok" : "short");
	return 0;
}
