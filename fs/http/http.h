/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to fs: HTTP/1.1 heads and message bodies, as the blob plane and the fetcher use them
 * (RFC 9110, RFC 9112). Strict, since both sides may be hostile: what two readers could take in two
 * ways (bare line feeds, folded lines, two lengths, a length beside chunks) is refused.
 *
 *	ssize_t size = http_head_size(bytes, &looked);    // 0: more has to come
 *	int status = http_parse_request(CROFT_SLICE(bytes.data, size), &head);
 *	http_body_init(&body, &head);
 *	while ((step = http_body_next(&body, &bytes, &piece)) == HTTP_DATA)
 *		take(piece);
 *
 * Nothing is copied: slices point into what was given.
 */
#ifndef CROFT_FS_HTTP_HTTP_H
#define CROFT_FS_HTTP_HTTP_H

#include "proto/base/slice.h"

#include <sys/types.h>

enum { HTTP_HEAD_MAX = 8192, HTTP_KEY_MAX = 128, HTTP_AUTHORIZATION = 256 };

enum http_method { HTTP_UNKNOWN, HTTP_GET, HTTP_HEAD, HTTP_PUT, HTTP_POST };

struct http_range {
	bool there;
	bool suffix;          /* "bytes=-last": the last so many */
	uint64_t first, last; /* last UINT64_MAX: to the end */
};

struct http_head {
	enum http_method method;   /* requests */
	struct croft_slice target; /* requests: the path, as sent */
	int status;                /* answers */
	int minor_version;         /* 0 or 1 */
	bool keep_alive;           /* may more follow on this connection? */
	bool chunked;
	bool has_length;
	uint64_t length;
	bool expect_continue;
	bool accepts_zstd;
	bool is_zstd;         /* Content-Encoding: zstd */
	bool unknown_coding;  /* Content-Encoding of another kind */
	struct http_range range;
	struct http_range piece; /* requests: "Croft-Piece: bytes=…", beside a recipe */
	struct croft_slice piece_digest; /* answers: "Croft-Piece-Digest", as sent */
	struct croft_slice if_range;
	struct croft_slice authorization; /* as sent */
	bool has_content_range; /* answers: "bytes first-…" */
	uint64_t content_first;
};

/* How long the head at the start of `data` is, with the empty line that ends it. 0: it does not end
 * yet; -1: it never will (too long, a bare line feed, a NUL). *looked keeps what was looked at
 * already from call to call on the same growing bytes: start with 0. */
ssize_t http_head_size(struct croft_slice data, size_t *looked);

/* 0, or the status to answer with: 400, 501 (a transfer coding), 505 (not HTTP/1). */
int http_parse_request(struct croft_slice text, struct http_head *head);
bool http_parse_answer(struct croft_slice text, struct http_head *head);

/* The bytes [*start, *end) of `size` that the range asks for; false: none of them is there (416). */
bool http_range_resolve(const struct http_range *range, uint64_t size, uint64_t *start,
	uint64_t *end);

const char *http_reason(int status);

/* "host:port", "[v6]:port" or ":port" (host ""); false when it is none or too long. */
bool http_split_address(const char *address, char *host, size_t host_room, char *port,
	size_t port_room);

/* What a client that knows the plane's key sends as Authorization; "" for none (NULL or ""). False: it is too
 * long. */
bool http_key_authorization(const char *key, char text[HTTP_AUTHORIZATION]);
/* In constant time. Anything will do where no key is asked for. */
bool http_key_matches(const char *authorization, struct croft_slice value);

/* Bodies --------------------------------------------------------------------------------------- */

struct http_body {
	bool chunked, until_close;
	int state;
	uint64_t left;  /* of the body, or of the chunk */
	unsigned extra; /* bytes of chunk extensions and trailers so far */
	unsigned digits;
};

enum http_step { HTTP_MORE /* bytes have to come */, HTTP_DATA, HTTP_END, HTTP_BAD };

void http_body_init_request(struct http_body *body, const struct http_head *head);
/* `head_only`: what it answers was a HEAD. */
void http_body_init_answer(struct http_body *body, const struct http_head *head, bool head_only);
/* Takes bytes from the front of *in: framing, and one *piece of data (HTTP_DATA). After HTTP_END *in
 * is what follows the body. */
enum http_step http_body_next(struct http_body *body, struct croft_slice *in,
	struct croft_slice *piece);

#endif
