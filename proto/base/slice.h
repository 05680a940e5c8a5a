/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Borrowed byte strings. A slice never owns its bytes and promises no NUL behind them.
 */
#ifndef CROFT_BASE_SLICE_H
#define CROFT_BASE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct croft_slice {
	const void *data;
	size_t size;
};

#define CROFT_SLICE(data_, size_) ((struct croft_slice){(data_), (size_)})

static inline struct croft_slice croft_slice_str(const char *text)
{
	return (struct croft_slice){text, text ? strlen(text) : 0};
}

static inline bool croft_slice_equal(struct croft_slice a, struct croft_slice b)
{
	return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* Byte order, shorter first on a tie: the order REAPI asks of names in a Directory. */
static inline int croft_slice_compare(struct croft_slice a, struct croft_slice b)
{
	size_t common = a.size < b.size ? a.size : b.size;
	int order = common ? memcmp(a.data, b.data, common) : 0;
	return order ? order : (a.size > b.size) - (a.size < b.size);
}

#endif
