/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/escape/world.h"

#include "proto/base/io.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <net/if.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SLOTS = 2 };
static const char text[] = "secret of the host";

void stop(const char *format, ...)
{
	int failure = errno;
	va_list args;
	va_start(args, format);
	fprintf(stderr, "escape: ");
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, " (%s)\n", strerror(failure));
	exit(1);
}

static void write_file(const char *folder, const char *name, const char *content, mode_t mode)
{
	char path[512];
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	unlink(path);
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, mode);
	if (fd < 0 || write(fd, content, strlen(content)) != (ssize_t)strlen(content) ||
		fchmod(fd, mode) < 0)
		stop("writing %s", path);
	close(fd);
}

static void copy_file(const char *from, const char *to, mode_t mode)
{
	char buffer[65536];
	ssize_t got = -1;
	int source = open(from, O_RDONLY | O_CLOEXEC);
	int target = open(to, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0700);
	if (source < 0 || target < 0)
		stop("copying %s to %s", from, to);
	while ((got = read(source, buffer, sizeof(buffer))) > 0)
		if (write(target, buffer, (size_t)got) != got)
			stop("writing %s", to);
	if (got < 0 || fchmod(target, mode) < 0)
		stop("copying %s to %s", from, to);
	close(source);
	close(target);
}

void world_restore(const struct world *world, const char *probe)
{
	static const char *const folders[] = {
		"", "/bin", "/etc", "/proc", "/dev", "/tmp", "/out-folder"};
	char path[512];
	struct croft_error err = CROFT_ERROR_INIT;
	if (!croft_remove_tree(AT_FDCWD, world->root, &err))
		stop("%s", err.message);
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", world->root, folders[i]);
		if (mkdir(path, 0755) < 0)
			stop("making %s", path);
	}
	chmod(path, 0777);
	write_file(world->root, "etc/input", "input\n", 0644);
	write_file(world->root, "etc/escape-sandbox", "sandbox\n", 0644);
	snprintf(path, sizeof(path), "%s/bin/probe", world->root);
	copy_file(probe, path, 0755);
	snprintf(path, sizeof(path), "%s/bin/setuid", world->root);
	copy_file(probe, path, 0755);
	/* Of a user that no job is: what is root's belongs to the job's own user inside. */
	if (geteuid() == 0 && (chown(path, 7, 7) < 0 || chmod(path, 04755) < 0))
		stop("giving %s to another user", path);
	snprintf(path, sizeof(path), "%s/etc/device", world->root);
	if (geteuid() == 0 && (mknod(path, S_IFCHR | 0666, makedev(1, 5)) < 0 || chmod(path, 0666) < 0))
		stop("making a device node %s", path);
}

/* A process that jobs would like to reach: of the kernel id that user 0 of every slot has. */
static void start_victim(struct world *world)
{
	int ready[2];
	if (pipe(ready) < 0 || (world->victim = fork()) < 0)
		stop("starting a process");
	if (world->victim == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (geteuid() == 0 && (setresgid(world->uid_base, world->uid_base, world->uid_base) < 0 ||
								 setresuid(world->uid_base, world->uid_base, world->uid_base) < 0))
			_exit(1);
		prctl(PR_SET_DUMPABLE, 1);
		if (write(ready[1], "r", 1) < 0)
			_exit(1);
		for (;;)
			pause();
	}
	char byte;
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		stop("the victim did not start");
	close(ready[0]);
}

void world_revive(struct world *world)
{
	if (waitpid(world->victim, NULL, WNOHANG) == world->victim)
		start_victim(world);
}

static void listen_on(int fd, const void *address, size_t size)
{
	if (fd < 0 || bind(fd, address, (socklen_t)size) < 0 || listen(fd, 16) < 0)
		stop("making a server");
}

static void make_servers(struct world *world)
{
	struct sockaddr_in loopback = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(loopback);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	listen_on(fd, &loopback, sizeof(loopback));
	getsockname(fd, (struct sockaddr *)&loopback, &size);
	world->port = ntohs(loopback.sin_port);

	struct sockaddr_un local = {.sun_family = AF_UNIX};
	snprintf(world->abstract, sizeof(world->abstract), "croft-escape-%d", getpid());
	strcpy(local.sun_path + 1, world->abstract);
	listen_on(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), &local,
		offsetof(struct sockaddr_un, sun_path) + 1 + strlen(world->abstract));

	memset(&local.sun_path, 0, sizeof(local.sun_path));
	snprintf(world->socket_path, sizeof(world->socket_path), "%s/socket", world->folder);
	strcpy(local.sun_path, world->socket_path);
	listen_on(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), &local, sizeof(local));
	chmod(world->socket_path, 0777);
}

static void make_ipc(struct world *world)
{
	world->memory_key = 0x63726f00 ^ getpid();
	world->memory = shmget(world->memory_key, 4096, IPC_CREAT | IPC_EXCL | 0666);
	snprintf(world->queue, sizeof(world->queue), "/croft-escape-%d", getpid());
	struct mq_attr small = {.mq_maxmsg = 1, .mq_msgsize = 16};
	mqd_t queue = mq_open(world->queue, O_CREAT | O_EXCL | O_RDWR, 0666, &small);
	if (world->memory < 0 || queue == (mqd_t)-1 || fchmod(queue, 0666) < 0)
		stop("making shared memory and a queue");
	mq_close(queue);
}

/* What a careless agent would pass on to jobs. */
static void be_careless(void)
{
	static const int raised[] = {RLIMIT_CORE, RLIMIT_MEMLOCK};
	struct rlimit files = {131072, 131072}, most = {RLIM_INFINITY, RLIM_INFINITY};
	int input[2];
	if (pipe(input) < 0 || dup2(input[0], 0) < 0 || setenv("CROFT_ESCAPE_SECRET", text, 1) < 0)
		stop("preparing descriptors");
	for (size_t i = 0; geteuid() == 0 && i < sizeof(raised) / sizeof(raised[0]); i++)
		setrlimit(raised[i], &most);
	setrlimit(RLIMIT_NOFILE, &files);
	/* A terminal of the host, for /dev/pts not to be empty there. */
	if (posix_openpt(O_RDWR | O_NOCTTY) < 0)
		stop("making a terminal");
}

static bool has_interfaces(void)
{
	struct if_nameindex *all = if_nameindex();
	bool found = false;
	for (struct if_nameindex *at = all; at && at->if_index; at++)
		found |= strcmp(at->if_name, "lo") != 0 && strcmp(at->if_name, "sit0") != 0;
	if_freenameindex(all);
	return found;
}

void world_make(struct world *world, const char *probe)
{
	struct croft_error err = CROFT_ERROR_INIT;
	const char *limits = "";
	*world = (struct world){.text = text,
		.uid_base = 0x71000000u + ((uint32_t)getpid() & 0xfff) * SLOTS * IDS_PER_SLOT};
	strcpy(world->folder, "/tmp/croft-escape-XXXXXX");
	if (!mkdtemp(world->folder) || chmod(world->folder, 0755) < 0)
		stop("making %s", world->folder);
	snprintf(world->root, sizeof(world->root), "%s/root", world->folder);
	snprintf(world->state, sizeof(world->state), "%s/state", world->folder);
	snprintf(world->secret, sizeof(world->secret), "%s/secret", world->folder);
	mkdir(world->state, 0755);
	write_file(world->folder, "secret", text, 0644);
	gethostname(world->host_name, sizeof(world->host_name) - 1);
	world_restore(world, probe);
	start_victim(world);
	be_careless();
	struct croft_arena *arena = croft_arena_create();
	world->launcher = croft_launcher_start(
		&(struct croft_launcher_config){
			.state = world->state, .slots = SLOTS, .uid_base = world->uid_base,
			/* Whichever slot a job gets, the victim has its ids. */
			.shared_uids = true},
		arena, &limits, &err);
	if (!world->launcher)
		stop("%s", err.message);
	if (*limits)
		printf("not enforced here: %s", limits);
	int landlock = landlock_version();
	world->has = (strstr(limits, "memory") ? 0 : ESCAPE_CGROUPS) |
		(has_interfaces() ? ESCAPE_INTERFACES : 0) | (landlock ? ESCAPE_LANDLOCK : 0) |
		(landlock_scopes(landlock) ? ESCAPE_SCOPES : 0) | (geteuid() == 0 ? ESCAPE_ROOT : 0);
	croft_arena_destroy(arena);
	make_servers(world);
	make_ipc(world);
}

void world_end(struct world *world)
{
	struct croft_error err = CROFT_ERROR_INIT;
	croft_launcher_stop(world->launcher);
	kill(world->victim, SIGKILL);
	waitpid(world->victim, NULL, 0);
	shmctl(world->memory, IPC_RMID, NULL);
	mq_unlink(world->queue);
	if (!croft_remove_tree(AT_FDCWD, world->folder, &err))
		stop("%s", err.message);
}

static bool belongs_to_tests(const struct world *world, const char *pid)
{
	char path[64], status[4096];
	snprintf(path, sizeof(path), "/proc/%s/status", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t got = read(fd, status, sizeof(status) - 1);
	close(fd);
	if (got <= 0)
		return false;
	status[got] = '\0';
	const char *at = strstr(status, "\nUid:");
	unsigned long uid = at ? strtoul(at + 5, NULL, 10) : 0;
	/* An ordinary user's jobs have its own id: by the name that probes have. */
	if (geteuid() != 0)
		return uid == geteuid() && strncmp(status, "Name:\tprobe\n", 12) == 0 && !strstr(status, "\nState:\tZ");
	return uid >= world->uid_base && uid < world->uid_base + SLOTS * IDS_PER_SLOT &&
		!strstr(status, "\nState:\tZ") && !strstr(status, "\nState:\tX") &&
		/* Sandboxes made ahead wait under this name, which no probe takes. */
		strncmp(status, "Name:\tcroft-ready\n", 18) != 0;
}

static unsigned count_leftovers(const struct world *world, bool kill_them)
{
	unsigned count = 0;
	DIR *dir = opendir("/proc");
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		pid_t pid = (pid_t)atoi(entry->d_name);
		if (pid <= 1 || pid == world->victim || !belongs_to_tests(world, entry->d_name))
			continue;
		count++;
		if (kill_them)
			kill(pid, SIGKILL);
	}
	if (dir)
		closedir(dir);
	return count;
}

unsigned world_leftovers(const struct world *world, bool kill_them)
{
	unsigned count = count_leftovers(world, kill_them);
	/* The next to count must not find those that die still. */
	for (int i = 0; kill_them && i < 1000 && count_leftovers(world, true) > 0; i++)
		usleep(10000);
	return count;
}
