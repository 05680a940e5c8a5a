/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proto/base/arena.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BLOCK = 4096, LARGEST_BLOCK = 1 << 20, ALIGNMENT = 16 };

struct block {
	struct block *next;
	size_t size;
	size_t used;
	_Alignas(ALIGNMENT) unsigned char data[];
};

struct croft_arena {
	struct block *blocks; /* the newest first; only it is allocated from */
	size_t used;
};

/* First blocks that this thread has no use for at the moment: most arenas live for one call, and larger
 * pieces than malloc keeps per thread cost it much. */
enum { SPARE_BLOCKS = 8 };
/* Sanitizers are to see every arena as a piece of its own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { KEEPS_SPARES = 0 };
#else
enum { KEEPS_SPARES = 1 };
#endif
struct spare {
	struct block *blocks;
	unsigned count;
};
static __thread struct spare spare;
static pthread_key_t spare_key;

static void free_spare(void *user)
{
	struct spare *mine = user;
	while (mine->blocks) {
		struct block *next = mine->blocks->next;
		free(mine->blocks);
		mine->blocks = next;
	}
	mine->count = SPARE_BLOCKS; /* the thread ends: nothing is kept any more */
}

static void make_key(void)
{
	if (pthread_key_create(&spare_key, free_spare) != 0)
		abort();
}

/* False: it is to be freed. */
static bool keep_spare(struct block *block)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	if (!KEEPS_SPARES || block->size != FIRST_BLOCK || spare.count >= SPARE_BLOCKS)
		return false;
	pthread_once(&once, make_key);
	pthread_setspecific(spare_key, &spare);
	block->next = spare.blocks;
	spare.blocks = block;
	spare.count++;
	return true;
}

static struct block *block_create(size_t size)
{
	struct block *block = croft_alloc(sizeof(*block) + size);
	block->next = NULL;
	block->size = size;
	block->used = 0;
	return block;
}

static struct block *first_block(void)
{
	struct block *block = spare.blocks;
	if (!block)
		return block_create(FIRST_BLOCK);
	spare.blocks = block->next;
	spare.count--;
	block->next = NULL;
	block->used = 0;
	return block;
}

struct croft_arena *croft_arena_create(void)
{
	struct croft_arena *arena = croft_alloc(sizeof(*arena));
	arena->blocks = first_block();
	arena->used = 0;
	return arena;
}

void croft_arena_destroy(struct croft_arena *arena)
{
	if (!arena)
		return;
	for (struct block *block = arena->blocks, *next; block; block = next) {
		next = block->next;
		if (!keep_spare(block))
			free(block);
	}
	free(arena);
}

void croft_arena_reset(struct croft_arena *arena)
{
	while (arena->blocks->next) {
		struct block *next = arena->blocks->next;
		free(arena->blocks);
		arena->blocks = next;
	}
	arena->blocks->used = 0;
	arena->used = 0;
}

void *croft_arena_alloc(struct croft_arena *arena, size_t size)
{
	size_t rounded;
	if (__builtin_add_overflow(size, ALIGNMENT - 1, &rounded))
		abort();
	rounded &= ~(size_t)(ALIGNMENT - 1);
	struct block *block = arena->blocks;
	if (block->size - block->used < rounded) {
		size_t grown = block->size * 2 < LARGEST_BLOCK ? block->size * 2 : LARGEST_BLOCK;
		block = block_create(rounded > grown ? rounded : grown);
		block->next = arena->blocks;
		arena->blocks = block;
	}
	void *memory = block->data + block->used;
	block->used += rounded;
	arena->used += rounded;
	return memory;
}

void *croft_arena_zalloc(struct croft_arena *arena, size_t size)
{
	void *memory = croft_arena_alloc(arena, size);
	memset(memory, 0, size);
	return memory;
}

void *croft_arena_array(struct croft_arena *arena, size_t count, size_t size)
{
	size_t total;
	if (__builtin_mul_overflow(count, size, &total))
		abort();
	return croft_arena_zalloc(arena, total);
}

void *croft_arena_copy(struct croft_arena *arena, const void *data, size_t size)
{
	void *memory = croft_arena_alloc(arena, size);
	if (size)
		memcpy(memory, data, size);
	return memory;
}

char *croft_arena_strndup(struct croft_arena *arena, const void *data, size_t size)
{
	char *text = croft_arena_alloc(arena, size + 1);
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	return text;
}

char *croft_arena_strdup(struct croft_arena *arena, const char *text)
{
	return croft_arena_strndup(arena, text, strlen(text));
}

char *croft_arena_printf(struct croft_arena *arena, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int size = vsnprintf(NULL, 0, format, args);
	va_end(args);
	if (size < 0)
		abort();
	char *text = croft_arena_alloc(arena, (size_t)size + 1);
	va_start(args, format);
	vsnprintf(text, (size_t)size + 1, format, args);
	va_end(args);
	return text;
}

size_t croft_arena_used(const struct croft_arena *arena)
{
	return arena->used;
}

void *croft_alloc(size_t size)
{
	void *memory = malloc(size ? size : 1);
	if (!memory)
		abort();
	return memory;
}

void *croft_zalloc(size_t size)
{
	void *memory = calloc(1, size ? size : 1);
	if (!memory)
		abort();
	return memory;
}

void *croft_array(size_t count, size_t size)
{
	void *memory = calloc(count ? count : 1, size ? size : 1);
	if (!memory)
		abort();
	return memory;
}

void *croft_realloc(void *memory, size_t count, size_t size)
{
	size_t total;
	if (__builtin_mul_overflow(count, size, &total))
		abort();
	memory = realloc(memory, total ? total : 1);
	if (!memory)
		abort();
	return memory;
}

char *croft_strdup(const char *text)
{
	char *copy = strdup(text);
	if (!copy)
		abort();
	return copy;
}
