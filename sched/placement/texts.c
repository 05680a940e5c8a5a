/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sets of "name=value", as sorted arrays and as one key. */
#include "sched/placement/internal.h"

#include "proto/base/arena.h"

#include <stdlib.h>

static int compare_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

char **sorted_copy(const char *const *texts, size_t count)
{
	char **copy = croft_array(count + 1, sizeof(char *));
	for (size_t i = 0; i < count; i++)
		copy[i] = croft_strdup(texts[i]);
	if (count)
		qsort(copy, count, sizeof(char *), compare_text);
	return copy;
}

char *joined(char *const *texts, size_t count)
{
	size_t size = 1;
	for (size_t i = 0; i < count; i++)
		size += strlen(texts[i]) + 1;
	char *key = croft_alloc(size), *at = key;
	for (size_t i = 0; i < count; i++) {
		at = stpcpy(at, texts[i]);
		*at++ = '\n';
	}
	*at = '\0';
	return key;
}

void free_texts(char **texts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(texts[i]);
	free(texts);
}
