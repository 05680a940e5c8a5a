/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One line on standard error per event of a daemon: "croft agent: warning: …". Libraries return
 * errors; only what nobody can be told of is logged.
 */
#ifndef CROFT_BASE_LOG_H
#define CROFT_BASE_LOG_H

enum croft_log_level { CROFT_LOG_ERROR, CROFT_LOG_WARNING, CROFT_LOG_INFO, CROFT_LOG_DEBUG };

/* `role` (such as "agent") is borrowed for the process's life. Call before any thread starts. */
void croft_log_setup(const char *role, enum croft_log_level most);
void croft_log(enum croft_log_level level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
