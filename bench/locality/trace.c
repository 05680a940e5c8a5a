/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench/locality/trace.h"

#include "proto/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#define NAME "croft-locality-trace"
#define HEADER NAME " 1"
static const size_t MOST_BYTES = (size_t)4 << 30;

/* Building ------------------------------------------------------------------------------------------ */

#define GROW(array, count, room)                                                                   \
	do {                                                                                           \
		if ((count) == (room)) {                                                                   \
			(room) = (room) * 2 + 64;                                                              \
			(array) = croft_realloc((array), (room), sizeof(*(array)));                            \
		}                                                                                          \
	} while (0)

struct trace *trace_create(void)
{
	struct trace *trace = croft_zalloc(sizeof(*trace));
	trace->arena = croft_arena_create();
	trace_text(trace, "");
	return trace;
}

void trace_destroy(struct trace *trace)
{
	if (!trace)
		return;
	croft_arena_destroy(trace->arena);
	free(trace->notes);
	free(trace->texts);
	free(trace->roots);
	free(trace->jobs);
	free(trace);
}

void trace_note(struct trace *trace, const char *key, const char *text)
{
	GROW(trace->notes, trace->note_count, trace->note_room);
	trace->notes[trace->note_count++] = croft_arena_printf(trace->arena, "%s %s", key, text);
}

uint32_t trace_text(struct trace *trace, const char *text)
{
	GROW(trace->texts, trace->text_count, trace->text_room);
	trace->texts[trace->text_count] = croft_arena_strdup(trace->arena, text);
	return (uint32_t)trace->text_count++;
}

uint32_t trace_root(struct trace *trace, const char *name, uint64_t bytes)
{
	GROW(trace->roots, trace->root_count, trace->root_room);
	trace->roots[trace->root_count] =
		(struct trace_root){croft_arena_strdup(trace->arena, name), bytes};
	return (uint32_t)trace->root_count++;
}

struct trace_job *trace_job(struct trace *trace)
{
	GROW(trace->jobs, trace->job_count, trace->job_room);
	struct trace_job *job = &trace->jobs[trace->job_count++];
	*job = (struct trace_job){0};
	return job;
}

/* Reading ------------------------------------------------------------------------------------------- */

/* One line's words. A parser that fails leaves `wrong` set, and the rest of the line is not believed. */
struct line {
	char *at;
	unsigned number;
	bool wrong;
};

static char *word(struct line *line)
{
	char *word = strsep(&line->at, " ");
	if (!word || !*word)
		line->wrong = true;
	return word ? word : (char *)"";
}

static double number(struct line *line, const char *text, double most)
{
	char *end;
	double value = strtod(text, &end);
	if (end == text || *end || !(value >= 0 && value <= most))
		line->wrong = true;
	return value;
}

static uint32_t below(struct line *line, const char *text, size_t count)
{
	double value = number(line, text, 4e9);
	if (value >= (double)count)
		line->wrong = true;
	return line->wrong ? 0 : (uint32_t)value;
}

static size_t items(const char *list)
{
	size_t count = 1;
	if (strcmp(list, "-") == 0)
		return 0;
	for (; *list; list++)
		count += *list == ',';
	return count;
}

static void read_reads(struct trace *trace, struct line *line, struct trace_job *job, char *list)
{
	size_t count = items(list);
	job->reads = croft_arena_array(trace->arena, count, sizeof(*job->reads));
	for (size_t i = 0; i < count && !line->wrong; i++) {
		char *item = strsep(&list, ","), *share = strchr(item, ':');
		job->reads[i].share = 1;
		if (share) {
			*share++ = '\0';
			job->reads[i].share = (float)(number(line, share, 1000) / 1000);
		}
		job->reads[i].root = below(line, item, trace->root_count);
		job->read_count++;
	}
}

static void read_after(struct trace *trace, struct line *line, struct trace_job *job, char *list)
{
	size_t count = items(list);
	job->after = croft_arena_array(trace->arena, count, sizeof(*job->after));
	for (size_t i = 0; i < count && !line->wrong; i++)
		job->after[job->after_count++] = below(line, strsep(&list, ","), trace->job_count - 1);
}

static void read_job(struct trace *trace, struct line *line)
{
	struct trace_job job = {0};
	job.kind = below(line, word(line), trace->text_count);
	job.family = below(line, word(line), trace->text_count);
	job.tenant = below(line, word(line), trace->text_count);
	const char *priority = word(line);
	bool negative = *priority == '-';
	int32_t value = (int32_t)number(line, priority + negative, INT32_MAX);
	job.priority = negative ? -value : value;
	job.arrival_seconds = number(line, word(line), 1e15) / 1000;
	job.run_seconds = number(line, word(line), 1e12) / 1000;
	struct trace_job *stored = trace_job(trace);
	read_reads(trace, line, &job, word(line));
	read_after(trace, line, &job, word(line));
	*stored = job;
}

static void read_line(struct trace *trace, struct line *line)
{
	char *what = word(line);
	if (strcmp(what, "job") == 0) {
		read_job(trace, line);
	} else if (strcmp(what, "root") == 0) {
		uint64_t bytes = (uint64_t)number(line, word(line), 1e18);
		trace_root(trace, line->at ? line->at : "", bytes);
		line->at = NULL;
	} else if (strcmp(what, "text") == 0) {
		trace_text(trace, line->at ? line->at : "");
		line->at = NULL;
	} else if (strcmp(what, "note") == 0) {
		char *key = word(line);
		trace_note(trace, key, line->at ? line->at : "");
		line->at = NULL;
	} else {
		line->wrong = true;
	}
}

static bool parse(struct trace *trace, char *text, const char *path, struct croft_error *err)
{
	struct line line = {NULL, 1, false};
	char *header = strsep(&text, "\n");
	if (header && strncmp(header, NAME " ", strlen(NAME " ")) == 0 && strcmp(header, HEADER) != 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"%s is a trace of another version: \"" HEADER "\" is what is read here", path);
	if (!header || strcmp(header, HEADER) != 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s does not begin with \"%s\"", path, HEADER);
	while (text && *text) {
		line.at = strsep(&text, "\n");
		line.number++;
		if (*line.at == '\0' || *line.at == '#')
			continue;
		read_line(trace, &line);
		if (line.wrong)
			return croft_error_set(err, CROFT_INVALID_ARGUMENT,
				"%s, line %u is not a line of a trace (docs/locality.md)", path, line.number);
	}
	return true;
}

/* Plain or zstd; NUL behind it. */
static char *unpacked(char *data, size_t size, const char *path, struct croft_error *err)
{
	static const unsigned char magic[] = {0x28, 0xb5, 0x2f, 0xfd};
	if (size < 4 || memcmp(data, magic, 4) != 0)
		return data;
	unsigned long long whole = ZSTD_getFrameContentSize(data, size);
	if (whole > MOST_BYTES) { /* both special values are */
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "%s: the zstd frame does not say its size", path);
		free(data);
		return NULL;
	}
	char *text = croft_alloc(whole + 1);
	size_t got = ZSTD_decompress(text, whole, data, size);
	free(data);
	if (ZSTD_isError(got) || got != whole) {
		croft_error_set(err, CROFT_DATA_LOSS, "%s: %s", path, ZSTD_getErrorName(got));
		free(text);
		return NULL;
	}
	text[whole] = '\0';
	return text;
}

struct trace *trace_read_file(const char *path, struct croft_error *err)
{
	char *text;
	size_t size;
	if (!croft_read_file(AT_FDCWD, path, MOST_BYTES, &text, &size, err) ||
		!(text = unpacked(text, size, path, err)))
		return NULL;
	struct trace *trace = trace_create();
	trace->text_count = 0; /* the file has its own "" */
	bool read = parse(trace, text, path, err);
	free(text);
	if (!read) {
		trace_destroy(trace);
		return NULL;
	}
	return trace;
}

/* Writing ------------------------------------------------------------------------------------------- */

static void write_job(FILE *file, const struct trace_job *job)
{
	fprintf(file, "job %u %u %u %d %.0f %.0f ", job->kind, job->family, job->tenant, job->priority,
		job->arrival_seconds * 1000, job->run_seconds * 1000);
	for (uint32_t i = 0; i < job->read_count; i++) {
		fprintf(file, "%s%u", i ? "," : "", job->reads[i].root);
		if (job->reads[i].share < 1)
			fprintf(file, ":%.4g", (double)job->reads[i].share * 1000);
	}
	fputs(job->read_count ? " " : "- ", file);
	for (uint32_t i = 0; i < job->after_count; i++)
		fprintf(file, "%s%u", i ? "," : "", job->after[i]);
	fputs(job->after_count ? "\n" : "-\n", file);
}

bool trace_write_file(const struct trace *trace, const char *path, struct croft_error *err)
{
	char *text = NULL;
	size_t size = 0;
	FILE *file = open_memstream(&text, &size);
	if (!file)
		abort();
	fputs(HEADER "\n", file);
	for (size_t i = 0; i < trace->note_count; i++)
		fprintf(file, "note %s\n", trace->notes[i]);
	for (size_t i = 0; i < trace->text_count; i++)
		fprintf(file, "text %s\n", trace->texts[i]);
	for (size_t i = 0; i < trace->root_count; i++)
		fprintf(file, "root %" PRIu64 " %s\n", trace->roots[i].bytes, trace->roots[i].name);
	for (size_t i = 0; i < trace->job_count; i++)
		write_job(file, &trace->jobs[i]);
	fclose(file);
	size_t length = strlen(path);
	bool written;
	if (length > 4 && strcmp(path + length - 4, ".zst") == 0) {
		size_t room = ZSTD_compressBound(size);
		char *packed = croft_alloc(room);
		size_t got = ZSTD_compress(packed, room, text, size, 9);
		written = ZSTD_isError(got)
			? croft_error_set(err, CROFT_INTERNAL, "%s: %s", path, ZSTD_getErrorName(got))
			: croft_write_file(AT_FDCWD, path, packed, got, 0644, err);
		free(packed);
	} else {
		written = croft_write_file(AT_FDCWD, path, text, size, 0644, err);
	}
	free(text);
	return written;
}
