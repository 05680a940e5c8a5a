/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Takes answers apart. Nothing in them is believed: sizes and order are checked here, bytes by the
 * store. */
#include "fs/fetch/internal.h"

#include "proto/base/arena.h"

#include <stdlib.h>

enum { DRAIN_MAX = 64 * 1024 };

static bool broken(struct fetch_connection *connection, const char *what)
{
	struct croft_error err = CROFT_ERROR_INIT;
	croft_error_set(&err, CROFT_UNAVAILABLE, "%s: %s", connection->source->name, what);
	fetch_connection_close(connection, &err);
	return false;
}

void fetch_answer_moved(struct fetch_connection *connection, struct fetch_wanted *wanted,
	uint64_t size)
{
	struct croft_fetcher *fetcher = connection->source->fetcher;
	wanted->moved_bytes += size;
	fetch_hedge_gave(connection->source);
	fetch_count(fetcher, bytes, size);
	if (connection->source->index != 0)
		fetch_count(fetcher, from_peers_bytes, size);
	if (wanted->background)
		fetch_count(fetcher, background_bytes, size);
}

/* The one whose turn it is is dealt with. */
static struct fetch_wanted *take(struct fetch_connection *connection)
{
	struct fetch_wanted *wanted = connection->asked[connection->asked_at];
	connection->asked[connection->asked_at++] = NULL;
	connection->got = 0;
	if (wanted->intake)
		wanted->intake->connection = NULL;
	return wanted;
}

/* Heads ---------------------------------------------------------------------------------------- */

static void single_failed(struct fetch_connection *connection, int status)
{
	struct croft_error err = CROFT_ERROR_INIT;
	croft_error_set(&err, CROFT_UNAVAILABLE, "%s answered %d", connection->source->name, status);
	fetch_failed(take(connection), connection->source, &err);
}

/* What an answer's head says about the one blob; false: the connection was closed. */
static bool begin_single(struct fetch_connection *connection, const struct http_head *head)
{
	struct fetch_wanted *wanted = connection->asked[0];
	uint64_t size = wanted->digest.size_bytes;
	uint64_t have = wanted->intake ? wanted->intake->received : 0;
	if (head->status == 404 || head->status == 410) {
		fetch_refused(take(connection), connection->source);
		return true;
	}
	if ((head->status != 200 && head->status != 206) || head->is_zstd || head->unknown_coding) {
		single_failed(connection, head->status);
		return true;
	}
	uint64_t first = head->status == 206 ? head->content_first : 0;
	if ((head->status == 206 && !head->has_content_range) || first > have)
		return broken(connection, "an answer with another range than asked for");
	if (head->has_length && head->length != size - first) {
		struct croft_error err = CROFT_ERROR_INIT;
		croft_error_set(&err, CROFT_INVALID_ARGUMENT, "%llu bytes where %llu were expected",
			(unsigned long long)head->length, (unsigned long long)(size - first));
		fetch_wrong(connection->source->fetcher, take(connection), connection->source, &err);
		fetch_connection_close(connection, NULL);
		return false;
	}
	connection->skip = have - first;
	return true;
}

static bool begin_recipe(struct fetch_connection *connection, const struct http_head *head)
{
	struct fetch_recipe *recipe = connection->recipe;
	if (fetch_recipe_begin(recipe, head))
		return true;
	/* What the body says is of no interest. */
	connection->recipe = NULL;
	connection->asked_at = connection->asked_count = 1;
	connection->asked[0] = NULL;
	fetch_recipe_give_up(recipe);
	return true;
}

static bool begin_batch(struct fetch_connection *connection, const struct http_head *head)
{
	if (head->status == 200 && !head->is_zstd && !head->unknown_coding)
		return true;
	if (head->status != 404 && head->status != 405 && head->status != 501)
		return broken(connection, "a batch was answered with an error");
	/* It has blobs, perhaps, but knows nothing of batches. */
	connection->source->no_batch = true;
	fetch_connection_close(connection, NULL);
	return false;
}

static bool use_head(struct fetch_connection *connection)
{
	struct croft_slice in = {
		connection->in + connection->in_start, connection->in_end - connection->in_start};
	struct http_head head;
	ssize_t size = http_head_size(in, &connection->looked);
	if (size == 0)
		return false;
	if (size < 0 || !http_parse_answer(CROFT_SLICE(in.data, (size_t)size), &head))
		return broken(connection, "a malformed answer");
	connection->in_start += (size_t)size;
	connection->looked = 0;
	if (head.status < 200)
		return true;
	connection->stage = FETCH_BODY;
	connection->keep = head.keep_alive;
	http_body_init_answer(&connection->body, &head, false);
	return connection->recipe ? begin_recipe(connection, &head)
		: connection->batch   ? begin_batch(connection, &head)
							  : begin_single(connection, &head);
}

/* Bodies --------------------------------------------------------------------------------------- */

static void small_is_complete(struct fetch_connection *connection)
{
	struct fetch_wanted *wanted = take(connection);
	wanted->source = connection->source;
	fetch_store(connection->source->fetcher, wanted);
}

/* Of a small blob; returns how many bytes it took. */
static size_t take_small(struct fetch_connection *connection, struct croft_slice piece)
{
	struct fetch_wanted *wanted = connection->asked[connection->asked_at];
	uint64_t left = wanted->digest.size_bytes - connection->got;
	size_t size = piece.size < left ? piece.size : (size_t)left;
	if (!wanted->data)
		wanted->data = croft_alloc((size_t)wanted->digest.size_bytes);
	memcpy(wanted->data + connection->got, piece.data, size);
	connection->got += size;
	fetch_answer_moved(connection, wanted, size);
	if (connection->got == wanted->digest.size_bytes) {
		connection->in_blob = false;
		small_is_complete(connection);
	}
	return size;
}

/* "<sha256>-<size> <status>", for the one whose turn it is. */
static bool use_line(struct fetch_connection *connection)
{
	struct fetch_wanted *wanted = connection->asked[connection->asked_at];
	char expected[CROFT_DIGEST_TEXT];
	croft_digest_format(&wanted->digest, '-', expected);
	size_t size = strlen(expected);
	if (connection->line_size != size + 4 || memcmp(connection->line, expected, size) != 0 ||
		connection->line[size] != ' ')
		return broken(connection, "a batch with another blob than asked for");
	const char *status = connection->line + size + 1;
	connection->line_size = 0;
	if (memcmp(status, "200", 3) == 0) {
		connection->in_blob = true;
	} else if (memcmp(status, "404", 3) == 0) {
		fetch_refused(take(connection), connection->source);
	} else {
		single_failed(connection, 500);
	}
	return true;
}

/* Returns how many bytes it took; 0: the connection was closed. */
static size_t take_line(struct fetch_connection *connection, struct croft_slice piece)
{
	const char *feed = memchr(piece.data, '\n', piece.size);
	size_t size = feed ? (size_t)(feed - (const char *)piece.data) : piece.size;
	if (connection->asked_at == connection->asked_count ||
		connection->line_size + size > sizeof(connection->line)) {
		broken(connection, "a malformed batch");
		return 0;
	}
	memcpy(connection->line + connection->line_size, piece.data, size);
	connection->line_size += size;
	if (!feed)
		return size;
	return use_line(connection) ? size + 1 : 0;
}

static bool take_batch(struct fetch_connection *connection, struct croft_slice piece)
{
	while (piece.size > 0) {
		size_t used = (connection->in_blob ? take_small : take_line)(connection, piece);
		if (used == 0)
			return false;
		piece = CROFT_SLICE((const char *)piece.data + used, piece.size - used);
	}
	return true;
}

/* There is room for all of it. */
void fetch_answer_large(struct fetch_connection *connection, size_t size)
{
	struct fetch_wanted *wanted = connection->asked[0];
	struct fetch_intake *intake = wanted->intake;
	fetch_answer_moved(connection, wanted, size);
	intake->givers |= fetch_source_bit(connection->source);
	if (!intake->whole) /* what came stays, whatever follows */
		wanted->trouble_ns = 0;
	fetch_intake_filled(intake, size);
	if (intake->received == wanted->digest.size_bytes) {
		take(connection);
		wanted->state = FETCH_STORING;
		intake->connection = NULL;
	}
	fetch_intake_go(intake);
}

static bool take_large(struct fetch_connection *connection, struct croft_slice piece)
{
	struct fetch_wanted *wanted = connection->asked[0];
	size_t room;
	char *place = fetch_intake_room(wanted->intake, &room);
	if (piece.size > wanted->digest.size_bytes - wanted->intake->received)
		return broken(connection, "more bytes than the blob has");
	memcpy(place, piece.data, piece.size);
	fetch_answer_large(connection, piece.size);
	return true;
}

static bool take_single(struct fetch_connection *connection, struct croft_slice piece)
{
	if (connection->asked_at == 1) { /* an error's text, or what comes behind a blob */
		connection->got += piece.size;
		return connection->got <= DRAIN_MAX || broken(connection, "more bytes than the blob has");
	}
	size_t skip = piece.size < connection->skip ? piece.size : (size_t)connection->skip;
	connection->skip -= skip;
	piece = CROFT_SLICE((const char *)piece.data + skip, piece.size - skip);
	if (piece.size == 0)
		return true;
	if (fetch_is_large(connection->asked[0]))
		return take_large(connection, piece);
	size_t used = take_small(connection, piece);
	piece = CROFT_SLICE((const char *)piece.data + used, piece.size - used);
	return piece.size == 0 || take_single(connection, piece);
}

static bool take_recipe(struct fetch_connection *connection, struct croft_slice piece)
{
	return fetch_recipe_take(connection->recipe, piece) || broken(connection, "an endless recipe");
}

bool fetch_answer_finished(struct fetch_connection *connection)
{
	struct fetch_recipe *recipe = connection->recipe;
	connection->recipe = NULL;
	if (recipe)
		fetch_recipe_finished(recipe);
	if (connection->asked_at < connection->asked_count)
		return broken(connection, "the answer ends early");
	fetch_source_worked(connection->source);
	connection->source->slow = 0;
	fetch_connection_idle(connection);
	return false;
}

/* As much as may be looked at now: a large blob's bytes must have a place to go. */
static size_t most_of_body(const struct fetch_connection *connection)
{
	size_t size = connection->in_end - connection->in_start, room;
	if (connection->recipe || connection->batch || connection->asked_at == 1 || connection->skip > 0 ||
		!fetch_is_large(connection->asked[0]))
		return size;
	fetch_intake_room(connection->asked[0]->intake, &room);
	return size < room ? size : room;
}

static bool use_body(struct fetch_connection *connection)
{
	size_t size = most_of_body(connection);
	if (size == 0 && connection->in_end > connection->in_start)
		return false;
	struct croft_slice in = {connection->in + connection->in_start, size}, piece;
	if (connection->skip > 0 && in.size > connection->skip)
		in.size = (size_t)connection->skip;
	size_t before = in.size;
	enum http_step step = http_body_next(&connection->body, &in, &piece);
	connection->in_start += before - in.size;
	switch (step) {
	case HTTP_DATA:
		return connection->recipe ? take_recipe(connection, piece)
			: connection->batch   ? take_batch(connection, piece)
								  : take_single(connection, piece);
	case HTTP_END:
		return fetch_answer_finished(connection);
	case HTTP_BAD:
		return broken(connection, "malformed chunks");
	default:
		return false;
	}
}

bool fetch_answer_use(struct fetch_connection *connection)
{
	switch (connection->stage) {
	case FETCH_HEAD:
		return connection->in_end > connection->in_start && use_head(connection);
	case FETCH_BODY:
		return use_body(connection);
	default:
		return false;
	}
}
