/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/http/http.h"

/* Chunk extensions and trailers mean nothing to us; this much of them is swallowed. */
enum { EXTRA_MAX = 4096 };

/* Where in "<hex>[;extension]CRLF data CRLF … 0 CRLF [trailer CRLF]… CRLF" the reader stands. */
enum state {
	PLAIN, /* not chunked: data for as long as `left` lasts */
	SIZE,
	EXTENSION,
	SIZE_FEED,
	DATA,
	DATA_RETURN,
	DATA_FEED,
	TRAILER_START,
	TRAILER,
	TRAILER_FEED,
	LAST_FEED,
	FINISHED,
	BROKEN,
};

void http_body_init_request(struct http_body *body, const struct http_head *head)
{
	*body = (struct http_body){.chunked = head->chunked, .left = head->length};
	body->state = head->chunked ? SIZE : PLAIN;
}

void http_body_init_answer(struct http_body *body, const struct http_head *head, bool head_only)
{
	*body = (struct http_body){.chunked = head->chunked, .left = head->length};
	body->state = head->chunked ? SIZE : PLAIN;
	if (head_only || head->status < 200 || head->status == 204 || head->status == 304)
		body->state = FINISHED;
	else if (!head->chunked && !head->has_length)
		body->until_close = true;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static enum state chunk_size(struct http_body *body, char c)
{
	int value = hex_value(c);
	if (value >= 0 && body->digits < 15) {
		body->left = body->left << 4 | (unsigned)value;
		body->digits++;
		return SIZE;
	}
	if (value >= 0 || body->digits == 0)
		return BROKEN;
	return c == '\r' ? SIZE_FEED : c == ';' ? EXTENSION : BROKEN;
}

/* One byte of framing. */
static enum state frame(struct http_body *body, char c)
{
	switch ((enum state)body->state) {
	case SIZE:
		return chunk_size(body, c);
	case EXTENSION:
		if (c == '\r')
			return SIZE_FEED;
		return c != '\n' && ++body->extra <= EXTRA_MAX ? EXTENSION : BROKEN;
	case SIZE_FEED:
		if (c != '\n')
			return BROKEN;
		return body->left > 0 ? DATA : TRAILER_START;
	case DATA_RETURN:
		return c == '\r' ? DATA_FEED : BROKEN;
	case DATA_FEED:
		body->digits = 0;
		return c == '\n' ? SIZE : BROKEN;
	case TRAILER_START:
		if (c == '\r')
			return LAST_FEED;
		__attribute__((fallthrough));
	case TRAILER:
		if (c == '\r')
			return TRAILER_FEED;
		return c != '\n' && ++body->extra <= EXTRA_MAX ? TRAILER : BROKEN;
	case TRAILER_FEED:
		return c == '\n' ? TRAILER_START : BROKEN;
	case LAST_FEED:
		return c == '\n' ? FINISHED : BROKEN;
	default:
		return BROKEN;
	}
}

static void take(struct croft_slice *in, size_t size)
{
	in->data = (const char *)in->data + size;
	in->size -= size;
}

static enum http_step data(struct http_body *body, struct croft_slice *in,
	struct croft_slice *piece)
{
	size_t size = in->size;
	if (!body->until_close) {
		size = size < body->left ? size : (size_t)body->left;
		body->left -= size;
	}
	*piece = CROFT_SLICE(in->data, size);
	take(in, size);
	if (body->state == DATA && body->left == 0)
		body->state = DATA_RETURN;
	return HTTP_DATA;
}

enum http_step http_body_next(struct http_body *body, struct croft_slice *in,
	struct croft_slice *piece)
{
	for (;;) {
		if (body->state == BROKEN)
			return HTTP_BAD;
		if (body->state == PLAIN && !body->until_close && body->left == 0)
			body->state = FINISHED;
		if (body->state == FINISHED)
			return HTTP_END;
		if (in->size == 0)
			return HTTP_MORE;
		if (body->state == PLAIN || body->state == DATA)
			return data(body, in, piece);
		char c = *(const char *)in->data;
		take(in, 1);
		body->state = (int)frame(body, c);
	}
}
