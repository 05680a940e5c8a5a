/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static enum croft_code code_of_errno(int sys_errno)
{
	switch (sys_errno) {
	case ENOSPC:
	case EDQUOT:
	case EMFILE:
	case ENFILE:
		return CROFT_RESOURCE_EXHAUSTED;
	case ENOENT:
		return CROFT_NOT_FOUND;
	case EEXIST:
		return CROFT_ALREADY_EXISTS;
	case EACCES:
	case EPERM:
		return CROFT_PERMISSION_DENIED;
	default:
		return CROFT_INTERNAL;
	}
}

bool croft_error_set(struct croft_error *err, enum croft_code code, const char *format, ...)
{
	if (!err)
		return false;
	va_list args;
	va_start(args, format);
	char text[sizeof(err->message)];
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	err->code = code;
	err->sys_errno = 0;
	memcpy(err->message, text, sizeof(text));
	return false;
}

bool croft_error_errno(struct croft_error *err, int sys_errno, const char *format, ...)
{
	if (!err)
		return false;
	char text[sizeof(err->message)];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	char reason[128];
	croft_error_set(err, code_of_errno(sys_errno), "%s: %s", text,
		strerror_r(sys_errno, reason, sizeof(reason)));
	err->sys_errno = sys_errno;
	return false;
}

bool croft_error_wrap(struct croft_error *err, const char *format, ...)
{
	if (!err)
		return false;
	char text[sizeof(err->message)];
	va_list args;
	va_start(args, format);
	int used = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (used >= 0 && (size_t)used < sizeof(text))
		snprintf(text + used, sizeof(text) - (size_t)used, ": %s", err->message);
	memcpy(err->message, text, sizeof(text));
	return false;
}

const char *croft_code_name(enum croft_code code)
{
	static const char *const names[] = {"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT",
		"DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
		"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"};
	return (unsigned)code < sizeof(names) / sizeof(names[0]) ? names[code] : "UNKNOWN";
}
