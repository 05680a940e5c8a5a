/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A region of memory that is freed as a whole: one per request or operation.
 *
 *	struct croft_arena *arena = croft_arena_create();
 *	char *name = croft_arena_printf(arena, "blobs/%s", hash);
 *	croft_arena_destroy(arena);
 *
 * Not thread-safe. Out of memory aborts. Memory is aligned for any type.
 */
#ifndef CROFT_BASE_ARENA_H
#define CROFT_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct croft_arena;

struct croft_arena *croft_arena_create(void);
void croft_arena_destroy(struct croft_arena *arena); /* NULL is fine */

/* Frees all that was allocated, keeps the first block for reuse. */
void croft_arena_reset(struct croft_arena *arena);

void *croft_arena_alloc(struct croft_arena *arena, size_t size);
void *croft_arena_zalloc(struct croft_arena *arena, size_t size);
/* count * size, checked for overflow (which aborts); zeroed. */
void *croft_arena_array(struct croft_arena *arena, size_t count, size_t size);
void *croft_arena_copy(struct croft_arena *arena, const void *data, size_t size);
/* A NUL-terminated copy. */
char *croft_arena_strdup(struct croft_arena *arena, const char *text);
char *croft_arena_strndup(struct croft_arena *arena, const void *data, size_t size);
char *croft_arena_printf(struct croft_arena *arena, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

size_t croft_arena_used(const struct croft_arena *arena);

/* Plain heap, aborting when it is used up. */
void *croft_alloc(size_t size);
void *croft_zalloc(size_t size);
void *croft_array(size_t count, size_t size);
void *croft_realloc(void *memory, size_t count, size_t size);
char *croft_strdup(const char *text);

#endif
