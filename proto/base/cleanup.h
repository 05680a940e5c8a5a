/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Resources that end with their scope: `CROFT_CLEANUP_FD int fd = open(…);`
 */
#ifndef CROFT_BASE_CLEANUP_H
#define CROFT_BASE_CLEANUP_H

#include "proto/base/arena.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static inline void croft_cleanup_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void croft_cleanup_free(void *memory)
{
	free(*(void **)memory);
}

static inline void croft_cleanup_arena(struct croft_arena **arena)
{
	croft_arena_destroy(*arena);
}

static inline void croft_cleanup_unlock(pthread_mutex_t **mutex)
{
	if (*mutex)
		pthread_mutex_unlock(*mutex);
}

#define CROFT_CLEANUP_FD __attribute__((cleanup(croft_cleanup_fd), unused))
#define CROFT_CLEANUP_FREE __attribute__((cleanup(croft_cleanup_free), unused))
#define CROFT_CLEANUP_ARENA __attribute__((cleanup(croft_cleanup_arena), unused))

/* Holds the mutex to the end of the scope: `CROFT_LOCKED(&store->lock);` */
#define CROFT_LOCKED(mutex) CROFT_LOCKED_AT(mutex, __LINE__)
#define CROFT_LOCKED_AT(mutex, line) CROFT_LOCKED_NAMED(mutex, line)
#define CROFT_LOCKED_NAMED(mutex, line)                                                            \
	__attribute__((cleanup(croft_cleanup_unlock), unused)) pthread_mutex_t *locked_##line =    \
		(pthread_mutex_lock(mutex), (mutex))

#endif
