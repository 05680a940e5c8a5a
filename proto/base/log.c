/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static const char *log_role = "croft";
static enum croft_log_level log_most = CROFT_LOG_INFO;

void croft_log_setup(const char *role, enum croft_log_level most)
{
	log_role = role;
	log_most = most;
}

void croft_log(enum croft_log_level level, const char *format, ...)
{
	static const char *const names[] = {"error: ", "warning: ", "", "debug: "};
	if (level > log_most)
		return;
	char line[1024];
	int used = snprintf(line, sizeof(line), "croft %s: %s", log_role, names[level]);
	va_list args;
	va_start(args, format);
	int more = vsnprintf(line + used, sizeof(line) - (size_t)used - 1, format, args);
	va_end(args);
	used += more < 0 ? 0 : more;
	if ((size_t)used > sizeof(line) - 2)
		used = sizeof(line) - 2;
	line[used++] = '\n';
	/* One write, so that lines of several threads and processes do not mix. */
	if (write(STDERR_FILENO, line, (size_t)used) < 0)
		return;
}
