/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fs/http/http.h"

#include <strings.h>

/* Finding the end ------------------------------------------------------------------------------ */

ssize_t http_head_size(struct croft_slice data, size_t *looked)
{
	const char *text = data.data;
	size_t most = data.size < HTTP_HEAD_MAX ? data.size : HTTP_HEAD_MAX;
	for (size_t at = *looked; at < most;) {
		const char *feed = memchr(text + at, '\n', most - at);
		size_t end = feed ? (size_t)(feed - text) : most;
		if (memchr(text + at, '\0', end - at))
			return -1;
		if (!feed) {
			*looked = most;
			break;
		}
		if (end == 0 || text[end - 1] != '\r')
			return -1;
		if (end >= 3 && text[end - 2] == '\n')
			return (ssize_t)end + 1;
		at = *looked = end + 1;
	}
	return data.size >= HTTP_HEAD_MAX ? -1 : 0;
}

/* Words ---------------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_token(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

static struct croft_slice part(const char *start, const char *end)
{
	return CROFT_SLICE(start, (size_t)(end - start));
}

static bool is_word(struct croft_slice text, const char *word)
{
	return text.size == strlen(word) && strncasecmp(text.data, word, text.size) == 0;
}

static struct croft_slice trim(struct croft_slice text)
{
	const char *start = text.data, *end = start + text.size;
	while (start < end && (*start == ' ' || *start == '\t'))
		start++;
	while (end > start && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	return part(start, end);
}

/* Cuts the text at the separator: *first is what stood before it, trimmed. False at the end. */
static bool next_part(struct croft_slice *text, char separator, struct croft_slice *first)
{
	if (!text->data)
		return false;
	const char *start = text->data, *end = start + text->size;
	const char *cut = memchr(start, separator, text->size);
	*first = trim(part(start, cut ? cut : end));
	*text = cut ? part(cut + 1, end) : CROFT_SLICE(NULL, 0);
	return true;
}

/* All of the text, decimal digits only. */
static bool parse_number(struct croft_slice text, uint64_t *number)
{
	const char *digits = text.data;
	*number = 0;
	for (size_t i = 0; i < text.size; i++)
		if (!is_digit(digits[i]) || __builtin_mul_overflow(*number, 10, number) ||
			__builtin_add_overflow(*number, (uint64_t)(digits[i] - '0'), number))
			return false;
	return text.size > 0;
}

/* Fields --------------------------------------------------------------------------------------- */

struct fields {
	struct http_head *head;
	bool close, keep_alive, transfer_coded;
};

static int take_length(struct http_head *head, struct croft_slice value)
{
	uint64_t length;
	/* The same length twice is allowed (RFC 9110, 8.6), but no one has cause to send it. */
	if (head->has_length || !parse_number(value, &length) || length > INT64_MAX)
		return 400;
	head->has_length = true;
	head->length = length;
	return 0;
}

static int take_transfer_coding(struct fields *fields, struct croft_slice value)
{
	if (fields->transfer_coded)
		return 400;
	fields->transfer_coded = true;
	fields->head->chunked = is_word(value, "chunked");
	return fields->head->chunked ? 0 : 501;
}

static void take_connection(struct fields *fields, struct croft_slice value)
{
	struct croft_slice option;
	while (next_part(&value, ',', &option)) {
		fields->close |= is_word(option, "close");
		fields->keep_alive |= is_word(option, "keep-alive");
	}
}

static void take_accepted_codings(struct http_head *head, struct croft_slice value)
{
	struct croft_slice coding, name, weight;
	while (next_part(&value, ',', &coding)) {
		if (!next_part(&coding, ';', &name) || !is_word(name, "zstd"))
			continue;
		bool refused = false;
		while (next_part(&coding, ';', &weight))
			refused |= is_word(weight, "q=0") || is_word(weight, "q=0.0") ||
				is_word(weight, "q=0.00") || is_word(weight, "q=0.000");
		head->accepts_zstd = !refused;
	}
}

/* Only one range of bytes; anything else is as if it were not there (RFC 9110, 14.2). */
static void take_range(struct http_range *place, struct croft_slice value)
{
	struct http_range range = {.there = true, .last = UINT64_MAX};
	struct croft_slice unit, first;
	if (place->there || !next_part(&value, '=', &unit) || !is_word(unit, "bytes") ||
		!next_part(&value, '-', &first) || !value.data)
		return;
	struct croft_slice last = trim(value);
	if (first.size == 0) {
		range.suffix = true;
		if (!parse_number(last, &range.last))
			return;
	} else if (!parse_number(first, &range.first) ||
		(last.size > 0 && (!parse_number(last, &range.last) || range.last < range.first))) {
		return;
	}
	*place = range;
}

/* "bytes 100-199/1000" */
static void take_content_range(struct http_head *head, struct croft_slice value)
{
	struct croft_slice unit, first;
	head->has_content_range = next_part(&value, ' ', &unit) && is_word(unit, "bytes") &&
		next_part(&value, '-', &first) && parse_number(first, &head->content_first);
}

static void take_content_coding(struct http_head *head, struct croft_slice value)
{
	if (is_word(value, "zstd") && !head->is_zstd)
		head->is_zstd = true;
	else if (!is_word(value, "identity"))
		head->unknown_coding = true;
}

static int take_field(struct fields *fields, struct croft_slice name, struct croft_slice value)
{
	struct http_head *head = fields->head;
	if (is_word(name, "content-length"))
		return take_length(head, value);
	if (is_word(name, "transfer-encoding"))
		return take_transfer_coding(fields, value);
	if (is_word(name, "connection"))
		take_connection(fields, value);
	else if (is_word(name, "expect"))
		head->expect_continue = is_word(value, "100-continue");
	else if (is_word(name, "accept-encoding"))
		take_accepted_codings(head, value);
	else if (is_word(name, "content-encoding"))
		take_content_coding(head, value);
	else if (is_word(name, "range"))
		take_range(&head->range, value);
	else if (is_word(name, "croft-piece"))
		take_range(&head->piece, value);
	else if (is_word(name, "croft-piece-digest"))
		head->piece_digest = value;
	else if (is_word(name, "if-range"))
		head->if_range = value;
	else if (is_word(name, "authorization"))
		head->authorization = value;
	else if (is_word(name, "content-range"))
		take_content_range(head, value);
	return 0;
}

/* Cuts the next line off, without its CR LF; the head is known to end in an empty line. */
static struct croft_slice next_line(struct croft_slice *text)
{
	const char *start = text->data, *end = start + text->size;
	const char *feed = memchr(start, '\n', text->size);
	*text = part(feed + 1, end);
	return part(start, feed - 1);
}

static int parse_fields(struct croft_slice text, struct http_head *head)
{
	struct fields fields = {.head = head};
	for (;;) {
		struct croft_slice line = next_line(&text);
		const char *start = line.data, *end = start + line.size, *colon = start;
		if (line.size == 0)
			break;
		if (memchr(start, '\r', line.size))
			return 400;
		/* No blank in front of the name (a folded line) or before the colon. */
		while (colon < end && is_token(*colon))
			colon++;
		if (colon == start || colon == end || *colon != ':')
			return 400;
		int status = take_field(&fields, part(start, colon), trim(part(colon + 1, end)));
		if (status)
			return status;
	}
	/* A length beside chunks is how requests are smuggled (RFC 9112, 6.3). */
	if (head->chunked && (head->has_length || head->minor_version == 0))
		return 400;
	head->keep_alive = !fields.close && (head->minor_version == 1 || fields.keep_alive);
	return 0;
}

/* First lines ---------------------------------------------------------------------------------- */

/* "HTTP/1.0" or "HTTP/1.1": 0, else the status to answer with. */
static int parse_version(struct croft_slice text, struct http_head *head)
{
	const char *version = text.data;
	if (text.size != 8 || memcmp(version, "HTTP/", 5) != 0 || !is_digit(version[5]) ||
		version[6] != '.' || !is_digit(version[7]))
		return 400;
	head->minor_version = version[7] != '0';
	return version[5] == '1' ? 0 : 505;
}

static enum http_method method_of(struct croft_slice word)
{
	static const struct {
		const char *name;
		enum http_method method;
	} methods[] = {
		{"GET", HTTP_GET}, {"HEAD", HTTP_HEAD}, {"PUT", HTTP_PUT}, {"POST", HTTP_POST}};
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
		if (croft_slice_equal(word, croft_slice_str(methods[i].name)))
			return methods[i].method;
	return HTTP_UNKNOWN;
}

int http_parse_request(struct croft_slice text, struct http_head *head)
{
	*head = (struct http_head){0};
	struct croft_slice line = next_line(&text);
	const char *start = line.data, *end = start + line.size;
	const char *first = memchr(start, ' ', line.size);
	if (!first || first == start)
		return 400;
	const char *second = memchr(first + 1, ' ', (size_t)(end - first - 1));
	if (!second || second == first + 1)
		return 400;
	for (const char *c = start; c < first; c++)
		if (!is_token(*c))
			return 400;
	for (const char *c = first + 1; c < second; c++)
		if (*c <= ' ' || *c > '~')
			return 400;
	head->method = method_of(part(start, first));
	head->target = part(first + 1, second);
	int status = parse_version(part(second + 1, end), head);
	return status ? status : parse_fields(text, head);
}

/* "HTTP/1.1 200 OK" */
bool http_parse_answer(struct croft_slice text, struct http_head *head)
{
	*head = (struct http_head){0};
	struct croft_slice line = next_line(&text);
	const char *start = line.data;
	uint64_t status;
	if (line.size < 12 || start[8] != ' ' || (line.size > 12 && start[12] != ' ') ||
		parse_version(CROFT_SLICE(start, 8), head) != 0 ||
		!parse_number(CROFT_SLICE(start + 9, 3), &status) || status < 100)
		return false;
	head->status = (int)status;
	return parse_fields(text, head) == 0;
}

/* -------------------------------------------------------------------------------------------- */

bool http_range_resolve(const struct http_range *range, uint64_t size, uint64_t *start,
	uint64_t *end)
{
	*start = 0;
	*end = size;
	if (!range->there)
		return true;
	if (range->suffix) {
		*start = range->last < size ? size - range->last : 0;
		return range->last > 0 && size > 0;
	}
	*start = range->first;
	if (range->last < size)
		*end = range->last + 1;
	return range->first < size;
}

const char *http_reason(int status)
{
	switch (status) {
	case 200: return "OK";
	case 206: return "Partial Content";
	case 400: return "Bad Request";
	case 401: return "Unauthorized";
	case 403: return "Forbidden";
	case 404: return "Not Found";
	case 405: return "Method Not Allowed";
	case 408: return "Request Timeout";
	case 409: return "Conflict";
	case 411: return "Length Required";
	case 413: return "Content Too Large";
	case 415: return "Unsupported Media Type";
	case 416: return "Range Not Satisfiable";
	case 417: return "Expectation Failed";
	case 431: return "Request Header Fields Too Large";
	case 500: return "Internal Server Error";
	case 501: return "Not Implemented";
	case 503: return "Service Unavailable";
	case 505: return "HTTP Version Not Supported";
	case 507: return "Insufficient Storage";
	default: return "Status";
	}
}

bool http_split_address(const char *address, char *host, size_t host_room, char *port,
	size_t port_room)
{
	const char *colon = address ? strrchr(address, ':') : NULL;
	if (!colon)
		return false;
	const char *start = address, *end = colon;
	if (*start == '[') {
		if (end == start || end[-1] != ']')
			return false;
		start++;
		end--;
	} else if (memchr(start, ':', (size_t)(end - start))) {
		return false;
	}
	size_t host_size = (size_t)(end - start), port_size = strlen(colon + 1);
	if (host_size >= host_room || port_size == 0 || port_size >= port_room)
		return false;
	memcpy(host, start, host_size);
	host[host_size] = '\0';
	memcpy(port, colon + 1, port_size + 1);
	return true;
}
