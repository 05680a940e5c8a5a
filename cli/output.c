/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/output.h"

#include "proto/base/arena.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *format_size(uint64_t bytes, char text[SIZE_TEXT])
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	if (bytes < 1024) {
		snprintf(text, SIZE_TEXT, "%" PRIu64 " B", bytes);
		return text;
	}
	double value = (double)bytes / 1024;
	size_t unit = 0;
	for (; value >= 1023.95 && unit < 5; unit++)
		value /= 1024;
	snprintf(text, SIZE_TEXT, "%.1f %s", value, units[unit]);
	return text;
}

const char *format_duration(uint64_t milliseconds, char text[SIZE_TEXT])
{
	uint64_t seconds = milliseconds / 1000;
	if (milliseconds < 60000)
		snprintf(text, SIZE_TEXT, "%.1f s", (double)milliseconds / 1000);
	else if (seconds < 3600)
		snprintf(text, SIZE_TEXT, "%" PRIu64 " min %" PRIu64 " s", seconds / 60, seconds % 60);
	else if (seconds < 86400)
		snprintf(text, SIZE_TEXT, "%" PRIu64 " h %" PRIu64 " min", seconds / 3600,
			seconds / 60 % 60);
	else
		snprintf(text, SIZE_TEXT, "%" PRIu64 " d %" PRIu64 " h", seconds / 86400,
			seconds / 3600 % 24);
	return text;
}

void print_name(struct croft_slice name, FILE *out)
{
	if (!isatty(fileno(out))) {
		fwrite(name.data, 1, name.size, out);
		return;
	}
	const unsigned char *bytes = name.data;
	for (size_t i = 0; i < name.size; i++)
		fprintf(out, bytes[i] < 0x20 || bytes[i] == 0x7f ? "\\x%02x" : "%c", bytes[i]);
}

/* The size of the UTF-8 sequence that starts here, or 0 when none does. */
static size_t utf8_size(const unsigned char *at, size_t left)
{
	size_t size = at[0] < 0x80 ? 1 : at[0] >= 0xc2 && at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
	if (at[0] >= 0x80 && (at[0] < 0xc2 || at[0] > 0xf4))
		return 0;
	if (size > left)
		return 0;
	for (size_t i = 1; i < size; i++)
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	bool overlong = (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xf0 && at[1] < 0x90);
	bool outside = (at[0] == 0xed && at[1] >= 0xa0) || (at[0] == 0xf4 && at[1] >= 0x90);
	return overlong || outside ? 0 : size;
}

json_t *json_bytes(struct croft_slice bytes)
{
	const unsigned char *from = bytes.data;
	char *text = croft_alloc(bytes.size * 3 + 1);
	size_t used = 0;
	for (size_t at = 0; at < bytes.size;) {
		size_t size = utf8_size(from + at, bytes.size - at);
		memcpy(text + used, size ? (const char *)from + at : "\xef\xbf\xbd", size ? size : 3);
		used += size ? size : 3;
		at += size ? size : 1;
	}
	json_t *value = json_stringn(text, used);
	free(text);
	if (!value)
		abort();
	return value;
}

void json_set_bytes(json_t *object, const char *key, struct croft_slice bytes)
{
	json_t *text = json_bytes(bytes);
	bool all = croft_slice_equal(CROFT_SLICE(json_string_value(text), json_string_length(text)), bytes);
	json_object_set_new(object, key, text);
	if (all)
		return;
	CROFT_CLEANUP_FREE unsigned char *base64 = croft_alloc((bytes.size + 2) / 3 * 4 + 1);
	CROFT_CLEANUP_FREE char *base64_key = croft_alloc(strlen(key) + sizeof("_base64"));
	EVP_EncodeBlock(base64, bytes.data, (int)bytes.size);
	strcat(strcpy(base64_key, key), "_base64");
	json_object_set_new(object, base64_key, json_string((const char *)base64));
}

json_t *json_digest(const struct croft_digest *digest)
{
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '-', text);
	return json_string(text);
}

bool json_print(json_t *value, struct croft_error *err)
{
	int failed = json_dumpf(value, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	json_decref(value);
	if (failed)
		return croft_error_set(err, CROFT_INTERNAL, "writing JSON to standard output failed");
	putchar('\n');
	return output_flush(err);
}

bool output_flush(struct croft_error *err)
{
	errno = 0;
	if (fflush(stdout) == 0 && !ferror(stdout))
		return true;
	return croft_error_errno(err, errno ? errno : EIO, "writing to standard output");
}

/* guards: progress_shown, progress_due */
static pthread_mutex_t progress_lock = PTHREAD_MUTEX_INITIALIZER;
static bool progress_shown;
static uint64_t progress_due;

void progress(const char *format, ...)
{
	if (!isatty(STDERR_FILENO))
		return;
	pthread_mutex_lock(&progress_lock);
	uint64_t now = croft_now_ns();
	if (now >= progress_due) {
		progress_due = now + 100 * 1000000u;
		va_list args;
		va_start(args, format);
		fputs("\r\033[K", stderr);
		vfprintf(stderr, format, args);
		fflush(stderr);
		va_end(args);
		progress_shown = true;
	}
	pthread_mutex_unlock(&progress_lock);
}

void progress_clear(void)
{
	pthread_mutex_lock(&progress_lock);
	if (progress_shown)
		fputs("\r\033[K", stderr);
	progress_shown = false;
	progress_due = 0;
	pthread_mutex_unlock(&progress_lock);
}

void warn(const char *format, ...)
{
	progress_clear();
	va_list args;
	va_start(args, format);
	flockfile(stderr);
	fputs("croft: warning: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	funlockfile(stderr);
	va_end(args);
}
