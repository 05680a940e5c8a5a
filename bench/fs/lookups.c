/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Look-ups per second that the mount answers, one at a time, from two threads and from eight: by FUSE over
 * io_uring, by /dev/fuse with one thread, and, to know what the latter is worth, by libfuse's own loop with one
 * thread over a file system that does nothing. Every name is asked for once in a new mount, so that the kernel
 * answers none itself.
 *
 * What /dev/fuse does for one client hangs upon where the kernel wakes its thread: on the client's CPU, as a ring's
 * thread always is, or on another, which has to be woken as well. So both are measured too, with client and thread
 * held in their places. */
#include "fs/mount.h"
#include "fs/tree.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { NAMES = 40000, PAIRS = 5, CLIENTS_AT_MOST = 8 };
static const double goal = 3;

static char folder[64], mountpoint[80];
static struct croft_store *store;
static struct croft_digest tree;

static void die(const char *what, const struct croft_error *err)
{
	fprintf(stderr, "bench fs lookups: %s: %s\n", what, err->message);
	exit(1);
}

static bool no_source(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *err)
{
	return croft_error_set(err, CROFT_NOT_FOUND, "no source");
}

static bool put(void *user, const struct croft_digest *digest, struct croft_slice bytes,
	struct croft_error *err)
{
	return croft_store_put(store, digest, bytes, err);
}

static void make_tree(void)
{
	struct croft_error err = CROFT_ERROR_INIT;
	static const struct croft_tree_source source = {no_source, NULL};
	struct croft_tree_builder *builder = croft_tree_builder_create(&source);
	for (int i = 0; i < NAMES; i++) {
		char name[32];
		int size = snprintf(name, sizeof(name), "file-%d", i);
		struct croft_tree_entry entry = {.kind = CROFT_ENTRY_FILE,
			.digest = croft_digest_of(name, (size_t)size)};
		if (!croft_tree_builder_add(builder, croft_slice_str(name), &entry, &err))
			die("adding a file", &err);
	}
	if (!croft_tree_builder_finish(builder, put, NULL, &tree, &err))
		die("making a tree", &err);
	croft_tree_builder_destroy(builder);
}

/* Whether the kernel offers it to new mounts: a setting of the machine, which the caller puts back.
 * Returns what it was. */
static char set_offer(char wanted)
{
	CROFT_CLEANUP_FD int fd = open("/sys/module/fuse/parameters/enable_uring", O_RDWR | O_CLOEXEC);
	char before;
	if (fd < 0 || read(fd, &before, 1) != 1 || pwrite(fd, &wanted, 1, 0) != 1) {
		perror("bench fs lookups: enable_uring");
		exit(1);
	}
	return before;
}

/* CPUs of the client and of the thread that serves it by /dev/fuse; -1: any. */
struct places {
	int client, server;
};
static struct places places = {-1, -1};

static void stay_on(int cpu)
{
	cpu_set_t own;
	CPU_ZERO(&own);
	CPU_SET(cpu < 0 ? 0 : cpu, &own);
	if (cpu >= 0 && sched_setaffinity(0, sizeof(own), &own) != 0) {
		perror("bench fs lookups: staying on a CPU");
		exit(1);
	}
}

static void *run_mount(void *user)
{
	stay_on(places.server);
	struct croft_error err = CROFT_ERROR_INIT;
	if (!croft_mount_run(user, &err))
		die("serving the mount", &err);
	return NULL;
}

struct client {
	pthread_t thread;
	int first, step;
	bool failed;
};

static void *look(void *user)
{
	struct client *client = user;
	stay_on(places.client);
	for (int i = client->first; i < NAMES && !client->failed; i += client->step) {
		char path[128];
		struct stat stat_of;
		snprintf(path, sizeof(path), "%s/file-%d", mountpoint, i);
		client->failed = stat(path, &stat_of) != 0;
	}
	return NULL;
}

static double seconds(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Asks for all names. Returns look-ups a second. */
static double look_up_all(int count)
{
	struct stat stat_of; /* the tree itself is read before the clock starts */
	bool failed = stat(mountpoint, &stat_of) != 0;
	struct client clients[CLIENTS_AT_MOST] = {0};
	double start = seconds();
	for (int i = 0; i < count; i++) {
		clients[i].first = i;
		clients[i].step = count;
		pthread_create(&clients[i].thread, NULL, look, &clients[i]);
	}
	for (int i = 0; i < count; i++) {
		pthread_join(clients[i].thread, NULL);
		failed = failed || clients[i].failed;
	}
	double took = seconds() - start;
	if (failed) {
		fprintf(stderr, "bench fs lookups: a name was not found\n");
		exit(1);
	}
	return NAMES / took;
}

/* libfuse alone ------------------------------------------------------------------------------- */

static struct stat plain_stat(fuse_ino_t ino)
{
	return (struct stat){.st_ino = ino, .st_nlink = 1,
		.st_mode = ino == FUSE_ROOT_ID ? S_IFDIR | 0555 : S_IFREG | 0444};
}

static void plain_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	fuse_ino_t ino = 2 + strtoul(name + strlen("file-"), NULL, 10);
	struct fuse_entry_param entry = {.ino = ino, .attr_timeout = 1e9, .entry_timeout = 1e9, .attr = plain_stat(ino)};
	fuse_reply_entry(request, &entry);
}

static void plain_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *file)
{
	struct stat stat_of = plain_stat(ino);
	fuse_reply_attr(request, &stat_of, 1e9);
}

static void *run_plain(void *user)
{
	fuse_session_loop(user);
	return NULL;
}

static double measure_libfuse(int count)
{
	static const struct fuse_lowlevel_ops operations = {.lookup = plain_lookup, .getattr = plain_getattr};
	char *arguments[] = {"lookups", "-o", "ro,default_permissions", NULL};
	struct fuse_args args = FUSE_ARGS_INIT(3, arguments);
	struct fuse_session *session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
	pthread_t server;
	if (!session || fuse_session_mount(session, mountpoint) != 0 ||
		pthread_create(&server, NULL, run_plain, session) != 0) {
		fprintf(stderr, "bench fs lookups: libfuse did not mount\n");
		exit(1);
	}
	double rate = look_up_all(count);
	fuse_session_exit(session);
	fuse_session_unmount(session);
	pthread_join(server, NULL);
	fuse_session_destroy(session);
	fuse_opt_free_args(&args);
	return rate;
}

/* The mount ----------------------------------------------------------------------------------- */

/* Look-ups a second. */
static double measure(bool rings, int count)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_mount_config config = {.mountpoint = mountpoint, .store = store, .root = &tree,
		.threads = 1};
	/* The kernel offers it, or does not, in the exchange that is over when this returns. */
	char before = set_offer(rings ? 'Y' : 'N');
	struct croft_mount *mount = croft_mount_create(&config, &err);
	set_offer(before);
	if (!mount)
		die("mounting", &err);
	pthread_t server;
	pthread_create(&server, NULL, run_mount, mount);
	double rate = look_up_all(count);
	croft_mount_stop(mount);
	pthread_join(server, NULL);
	croft_mount_destroy(mount);
	return rate;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *values)
{
	qsort(values, PAIRS, sizeof(*values), by_value);
	return values[PAIRS / 2];
}

/* Of one client, with both held in their places. */
static double measure_placed(struct places where)
{
	double rates[PAIRS];
	places = where;
	for (int i = 0; i < PAIRS; i++)
		rates[i] = measure(false, 1);
	places = (struct places){-1, -1};
	return median(rates);
}

/* The first two CPUs that this process may use. */
static void compare_places(void)
{
	cpu_set_t all;
	int cpus[2], count = 0;
	sched_getaffinity(0, sizeof(all), &all);
	for (int cpu = 0; cpu < CPU_SETSIZE && count < 2; cpu++)
		if (CPU_ISSET(cpu, &all))
			cpus[count++] = cpu;
	if (count < 2)
		return;
	double beside = measure_placed((struct places){cpus[0], cpus[0]});
	double apart = measure_placed((struct places){cpus[0], cpus[1]});
	printf("  1 client, /dev/fuse with its thread on the client's CPU: %.0f look-ups a second; on another: %.0f\n",
		beside, apart);
	fflush(stdout);
}

static void compare(int clients)
{
	double ratios[PAIRS], by_rings[PAIRS], classic[PAIRS], plain[PAIRS];
	for (int i = 0; i < PAIRS; i++) {
		plain[i] = measure_libfuse(clients);
		classic[i] = measure(false, clients);
		by_rings[i] = measure(true, clients);
		ratios[i] = by_rings[i] / classic[i];
	}
	double ratio = median(ratios);
	printf("  %d client%s: %.0f look-ups a second by io_uring, %.0f by /dev/fuse with one thread, %.0f by libfuse's "
	       "loop\n",
		clients, clients > 1 ? "s" : "", median(by_rings), median(classic), median(plain));
	printf("BAR uring-lookups-%d-client %.3f >=%g %s\n", clients, ratio, goal,
		ratio >= goal ? "ok" : "short");
	fflush(stdout);
}

int main(void)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) != 0 ||
		access("/sys/module/fuse/parameters/enable_uring", W_OK) != 0) {
		printf("FUSE over io_uring: skipped; needs root and Linux 6.14\n");
		return 0;
	}
	snprintf(folder, sizeof(folder), "/tmp/croft-lookups-XXXXXX");
	if (!mkdtemp(folder)) {
		perror("bench fs lookups: a temporary directory");
		return 1;
	}
	char path[80];
	snprintf(path, sizeof(path), "%s/store", folder);
	snprintf(mountpoint, sizeof(mountpoint), "%s/mnt", folder);
	mkdir(path, 0755);
	mkdir(mountpoint, 0755);
	store = croft_store_open(&(struct croft_store_config){.path = path, .budget_bytes = 1 << 28},
		&err);
	if (!store)
		die("opening a store", &err);
	make_tree();
	printf("FUSE over io_uring: look-ups a second by those of /dev/fuse with one thread\n");
	static const int counts[] = {1, 2, CLIENTS_AT_MOST};
	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++)
		compare(counts[i]);
	compare_places();
	croft_store_close(store);
	if (!croft_remove_tree(AT_FDCWD, folder, &err))
		die("cleaning up", &err);
	return 0;
}
