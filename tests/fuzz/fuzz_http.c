/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * HTTP heads and bodies. A body is taken apart twice, in pieces and byte by byte: both must give the same
 * bytes and end the same way.
 */
#include "fs/http/http.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
	enum http_step end;
	uint64_t bytes, sum, left;
};

/* `most` bytes come at a time. */
static struct outcome read_body(struct http_body body, const uint8_t *data, size_t size, size_t most)
{
	struct outcome outcome = {.end = HTTP_MORE};
	for (size_t at = 0; at < size && outcome.end == HTTP_MORE;) {
		size_t part = size - at < most ? size - at : most;
		struct croft_slice in = {data + at, part}, piece;
		enum http_step step;
		while ((step = http_body_next(&body, &in, &piece)) == HTTP_DATA) {
			const uint8_t *bytes = piece.data;
			if (bytes < data || bytes + piece.size > data + size)
				abort();
			for (size_t i = 0; i < piece.size; i++)
				outcome.sum = outcome.sum * 31 + bytes[i];
			outcome.bytes += piece.size;
		}
		at += part - in.size;
		outcome.end = step;
		outcome.left = size - at;
		if (step == HTTP_MORE && in.size > 0)
			abort();
	}
	return outcome;
}

static void compare(struct http_body body, const uint8_t *data, size_t size)
{
	struct outcome whole = read_body(body, data, size, SIZE_MAX), single = read_body(body, data, size, 1);
	if (whole.bytes != single.bytes || whole.sum != single.sum || whole.end != single.end ||
		(whole.end == HTTP_END && whole.left != single.left))
		abort();
}

/* Found at once and found while it grows are the same. */
static ssize_t head_size(const uint8_t *data, size_t size)
{
	size_t looked = 0, again = 0;
	ssize_t whole = http_head_size(CROFT_SLICE(data, size), &looked);
	for (size_t i = 1; i <= size; i++) {
		ssize_t now = http_head_size(CROFT_SLICE(data, i), &again);
		if (now > 0 && now != whole)
			abort();
		if (now != 0)
			break;
	}
	if (whole > (ssize_t)size || whole > HTTP_HEAD_MAX)
		abort();
	return whole;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	ssize_t head_bytes = head_size(data, size);
	if (head_bytes <= 0)
		return 0;
	struct croft_slice text = {data, (size_t)head_bytes};
	struct http_head head;
	struct http_body body;
	if (http_parse_request(text, &head) == 0) {
		uint64_t start, end;
		if (head.range.there && http_range_resolve(&head.range, 1000, &start, &end) &&
			(start >= end || end > 1000))
			abort();
		http_body_init_request(&body, &head);
		compare(body, data + head_bytes, size - (size_t)head_bytes);
	}
	if (http_parse_answer(text, &head)) {
		http_body_init_answer(&body, &head, false);
		compare(body, data + head_bytes, size - (size_t)head_bytes);
	}
	return 0;
}
