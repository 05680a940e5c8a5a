/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What people and programs read: sizes, tables, JSON, progress. */
#ifndef CROFT_CLI_OUTPUT_H
#define CROFT_CLI_OUTPUT_H

#include "fs/digest.h"
#include "proto/base/error.h"
#include "proto/base/slice.h"

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

enum { SIZE_TEXT = 24 };

/* "1.9 KiB"; returns text. */
const char *format_size(uint64_t bytes, char text[SIZE_TEXT]);
/* "4.2 s", "3 min 20 s", "2 h 5 min", "3 d 4 h" */
const char *format_duration(uint64_t milliseconds, char text[SIZE_TEXT]);

/* Names are bytes. On a terminal, control bytes are shown as \xNN; elsewhere bytes stay bytes. */
void print_name(struct croft_slice name, FILE *out);

/* A JSON string of any bytes: what is not UTF-8 becomes U+FFFD. */
json_t *json_bytes(struct croft_slice bytes);
/* The same as a member of an object, for names and targets, which are any bytes: where that is not all of them, KEY_base64
 * says which they are. */
void json_set_bytes(json_t *object, const char *key, struct croft_slice bytes);
json_t *json_digest(const struct croft_digest *digest);
/* Prints and releases it; false with err when it cannot be written. */
bool json_print(json_t *value, struct croft_error *err);

/* All of standard output reached its file; to be asked before exiting with success. */
bool output_flush(struct croft_error *err);

/* One line on standard error that is written over, when that is a terminal; nothing otherwise. */
void progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
void progress_clear(void);

/* "croft: warning: …" on standard error. */
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
