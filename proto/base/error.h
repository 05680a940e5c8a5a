/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One error object, carried by the caller and filled by whoever fails.
 *
 *	struct croft_error err = CROFT_ERROR_INIT;
 *	if (!croft_store_open(path, &store, &err))
 *		return croft_error_wrap(&err, "starting the server");
 *
 * A function that can fail takes `struct croft_error *err` last, returns false (or NULL, or -1) and
 * has filled `err`; on success it leaves `err` alone. `err` may be NULL where the caller does not
 * care. Functions that set or wrap return false, so that they can stand in a return statement.
 * The object owns nothing: it can be copied and dropped.
 */
#ifndef CROFT_BASE_ERROR_H
#define CROFT_BASE_ERROR_H

#include <stdbool.h>

/* gRPC's status codes, with its numbers (grpc/status.h). */
enum croft_code {
	CROFT_OK = 0,
	CROFT_CANCELLED = 1,
	CROFT_UNKNOWN = 2,
	CROFT_INVALID_ARGUMENT = 3,
	CROFT_DEADLINE_EXCEEDED = 4,
	CROFT_NOT_FOUND = 5,
	CROFT_ALREADY_EXISTS = 6,
	CROFT_PERMISSION_DENIED = 7,
	CROFT_RESOURCE_EXHAUSTED = 8,
	CROFT_FAILED_PRECONDITION = 9,
	CROFT_ABORTED = 10,
	CROFT_OUT_OF_RANGE = 11,
	CROFT_UNIMPLEMENTED = 12,
	CROFT_INTERNAL = 13,
	CROFT_UNAVAILABLE = 14,
	CROFT_DATA_LOSS = 15,
	CROFT_UNAUTHENTICATED = 16,
};

struct croft_error {
	enum croft_code code;
	int sys_errno; /* 0 when no system call was at fault */
	char message[512];
};

#define CROFT_ERROR_INIT ((struct croft_error){CROFT_OK, 0, ""})

/* Sets code and sentence; a message too long for the object is cut. */
bool croft_error_set(struct croft_error *err, enum croft_code code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* For a failed system call: the code that fits errno (ENOSPC and EDQUOT give RESOURCE_EXHAUSTED,
 * ENOENT NOT_FOUND, EACCES and EPERM PERMISSION_DENIED, else INTERNAL), and ": strerror" behind the
 * sentence. */
bool croft_error_errno(struct croft_error *err, int sys_errno, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of the sentence. */
bool croft_error_wrap(struct croft_error *err, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* "NOT_FOUND" and so on; "UNKNOWN" for numbers outside the set. */
const char *croft_code_name(enum croft_code code);

#endif
