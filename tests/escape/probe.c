/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/escape/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct probe *const groups[] = {file_probes, process_probes, kernel_probes,
	network_probes, host_probes, limit_probes};

enum verdict say(enum verdict verdict, const char *format, ...)
{
	int failure = errno;
	size_t size = strlen(format);
	va_list args;
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	if (size > 2 && strcmp(format + size - 2, ": ") == 0)
		printf("%s", strerror(failure));
	putchar('\n');
	fflush(stdout);
	return verdict;
}

enum verdict judge(bool possible, const char *what)
{
	return possible ? say(ESCAPED, "%s is possible", what) : say(CONTAINED, "%s: %m", what);
}

enum verdict judge_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);
	char what[512];
	snprintf(what, sizeof(what), "opening %s", path);
	enum verdict verdict = judge(fd >= 0, what);
	if (fd >= 0)
		close(fd);
	return verdict;
}

const char *read_text(const char *path)
{
	static char text[65536];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	size_t size = 0;
	ssize_t got;
	while (size < sizeof(text) - 1 && (got = read(fd, text + size, sizeof(text) - 1 - size)) > 0)
		size += (size_t)got;
	text[size] = '\0';
	close(fd);
	return text;
}

/* On a host, as root, these would do what they try. The file is in the tests' root and nowhere else. */
static bool in_sandbox(void)
{
	char marker[32] = "";
	int fd = open("/etc/escape-sandbox", O_RDONLY);
	ssize_t got = fd < 0 ? -1 : read(fd, marker, sizeof(marker) - 1);
	if (fd >= 0)
		close(fd);
	return got == 8 && strcmp(marker, "sandbox\n") == 0 && access("/usr", F_OK) < 0 &&
		access("/bin/probe", F_OK) == 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--list") == 0) {
		for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
			for (const struct probe *probe = groups[i]; probe->name; probe++)
				puts(probe->name);
		return 0;
	}
	if (argc < 2 || !in_sandbox()) {
		fprintf(stderr, "probe: this runs inside the sandboxes of tests/escape only\n");
		return BROKEN;
	}
	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
		for (const struct probe *probe = groups[i]; probe->name; probe++)
			if (strcmp(probe->name, argv[1]) == 0)
				return (int)probe->run(argc > 2 ? argv[2] : "");
	return (int)say(BROKEN, "there is no probe %s", argv[1]);
}
