/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Traces of jobs: what each reads, how long it runs, when it came. The format is documented in
 * docs/locality.md; files may be compressed with zstd.
 */
#ifndef CROFT_BENCH_LOCALITY_TRACE_H
#define CROFT_BENCH_LOCALITY_TRACE_H

#include "proto/base/arena.h"
#include "proto/base/error.h"

#include <stdint.h>

struct trace_read {
	uint32_t root;
	float share; /* of its bytes that the job reads */
};

struct trace_job {
	uint32_t kind, family, tenant; /* texts */
	int32_t priority;
	double arrival_seconds, run_seconds;
	struct trace_read *reads;
	uint32_t read_count;
	uint32_t *after; /* jobs that must have ended before */
	uint32_t after_count;
};

struct trace_root {
	char *name;
	uint64_t bytes;
};

struct trace {
	struct croft_arena *arena;
	char **notes; /* "key text" */
	size_t note_count, note_room;
	char **texts; /* kinds, families, tenants; text 0 is "" */
	size_t text_count, text_room;
	struct trace_root *roots;
	size_t root_count, root_room;
	struct trace_job *jobs;
	size_t job_count, job_room;
};

struct trace *trace_create(void);
void trace_destroy(struct trace *trace);
void trace_note(struct trace *trace, const char *key, const char *text);
uint32_t trace_text(struct trace *trace, const char *text); /* always a new one */
uint32_t trace_root(struct trace *trace, const char *name, uint64_t bytes);
struct trace_job *trace_job(struct trace *trace); /* to be filled in; valid until the next */

struct trace *trace_read_file(const char *path, struct croft_error *err);
bool trace_write_file(const struct trace *trace, const char *path, struct croft_error *err);

#endif
