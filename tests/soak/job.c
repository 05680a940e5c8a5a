/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs of the soak: what each of them leaves, or does until it is stopped, is its argument. */
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int good(void)
{
	FILE *file = fopen("/tmp/made", "w");
	return !file || fputs("made\n", file) < 0 || fclose(file) != 0;
}

static int wait_for_ever(void)
{
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_IGN);
	while (pause() < 0)
		;
	return 1;
}

static int need_memory(void)
{
	char *memory;
	while ((memory = malloc(1 << 20)))
		memset(memory, 1, 1 << 20);
	return 1;
}

static int leave_daemon(void)
{
	if (fork() == 0) {
		setsid();
		if (fork() == 0)
			wait_for_ever();
	}
	return 0;
}

static int fork_on(void)
{
	for (;;)
		if (fork() < 0)
			return 1;
}

static int flood(void)
{
	char text[4096];
	memset(text, 'x', sizeof(text));
	for (;;)
		if (write(1, text, sizeof(text)) < 0)
			return 1;
}

/* To itself: traces in the network namespace. */
static int talk(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int server = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
	return bind(server, (void *)&address, sizeof(address)) < 0 || listen(server, 1) < 0 ||
		getsockname(server, (void *)&address, &size) < 0 ||
		connect(client, (void *)&address, size) < 0;
}

static int leave_ipc(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0soak"};
	int fd = open("/dev/shm/left", O_CREAT | O_RDWR, 0600), ends[2];
	if (fd < 0 || ftruncate(fd, 1 << 20) < 0 || shmget(1, 4096, IPC_CREAT | 0600) < 0 ||
		msgget(1, IPC_CREAT | 0600) < 0 ||
		bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, sizeof(address)) < 0 ||
		socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
		return 1;
	return 0;
}

static int leave_closed_folders(void)
{
	char path[64];
	for (int i = 0; i < 20; i++) {
		snprintf(path, sizeof(path), "/tmp/%d", i);
		if (mkdir(path, 0700) < 0 || mkdir(strcat(path, "/below"), 0) < 0)
			return 1;
		path[strlen(path) - 6] = '\0';
		if (chmod(path, 0) < 0)
			return 1;
	}
	return 0;
}

static int crash(void)
{
	return raise(SIGSEGV);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} kinds[] = {{"good", good}, {"wait", wait_for_ever}, {"memory", need_memory},
		{"daemon", leave_daemon}, {"fork", fork_on}, {"flood", flood}, {"talk", talk},
		{"ipc", leave_ipc}, {"closed", leave_closed_folders}, {"crash", crash}};
	/* Some of them would harm a machine that does not confine them. */
	if (argc != 2 || getpid() == 1 || access("/soak", F_OK) < 0)
		return 3;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(argv[1], kinds[i].name) == 0)
			return kinds[i].run();
	return 2;
}
