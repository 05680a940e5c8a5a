/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How the origin keeps large blobs: one short question each, on a connection like a blob, before the blobs. Only
 * the origin is asked: what a recipe says can be checked only when all of the blob is there. Bytes that are wanted
 * at once come along with the answer, if the origin is of a kind that can do that.
 */
#include "fs/fetch/internal.h"

#include "fs/chunker.h"
#include "proto/base/arena.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { ANSWER_MAX = 64 << 20 };

struct fetch_recipe {
	struct croft_fetcher *fetcher;
	struct croft_digest digest;
	struct fetch_recipe *next; /* in its queue */
	bool background, queued;
	uint64_t since_ns;
	uint64_t offset, size; /* of the piece that the first who asked wants */
	struct fetch_waiter *waiters;
	/* The answer. */
	char *text;
	size_t text_size, text_room;
	bool has_piece;
	struct croft_digest piece;
	struct croft_digest *chunks;
	size_t count; /* 0: it could not be had */
	struct croft_error failure; /* nobody answered in time */
};

/* Queues --------------------------------------------------------------------------------------- */

static struct fetch_recipe **place_in_queue(struct croft_fetcher *fetcher, bool background,
	const struct fetch_recipe *recipe)
{
	struct fetch_recipe **at = &fetcher->recipe_queues[background];
	while (*at && *at != recipe)
		at = &(*at)->next;
	return at;
}

static void enqueue(struct fetch_recipe *recipe)
{
	recipe->next = NULL;
	recipe->queued = true;
	*place_in_queue(recipe->fetcher, recipe->background, NULL) = recipe;
}

static void dequeue(struct fetch_recipe *recipe)
{
	*place_in_queue(recipe->fetcher, recipe->background, recipe) = recipe->next;
	recipe->queued = false;
}

static void tell(const struct fetch_waiter *waiter, const struct fetch_recipe *recipe,
	struct croft_slice piece, uint64_t moved_bytes)
{
	const struct croft_recipe_request *asked = &waiter->recipe;
	struct croft_recipe told = {.chunks = recipe->chunks, .count = recipe->count, .moved_bytes = moved_bytes,
		.err = recipe->failure.code == CROFT_OK ? NULL : &recipe->failure};
	if (piece.size > 0 && asked->size > 0 && asked->offset >= recipe->offset &&
		asked->size <= piece.size && asked->offset - recipe->offset <= piece.size - asked->size)
		told.piece = CROFT_SLICE(
			(const char *)piece.data + (asked->offset - recipe->offset), asked->size);
	asked->done(asked->user, &recipe->digest, &told);
}

/* Tells those who wait what there is to be told, and forgets it. */
static void finish(struct fetch_recipe *recipe, struct croft_slice piece)
{
	struct croft_fetcher *fetcher = recipe->fetcher;
	uint64_t moved = recipe->text_size;
	croft_digest_map_remove(fetcher->recipes, &recipe->digest);
	for (struct fetch_waiter *next, *at = recipe->waiters; at; at = next) {
		next = at->next;
		tell(at, recipe, piece, moved);
		moved = 0;
		free(at);
	}
	free(recipe->text);
	free(recipe->chunks);
	free(recipe);
}

void fetch_recipe_give_up(struct fetch_recipe *recipe)
{
	if (recipe->queued)
		dequeue(recipe);
	recipe->count = 0;
	finish(recipe, CROFT_SLICE(NULL, 0));
}

/* Whoever asks for the whole blob now would wait as long again. */
static void out_of_time(struct fetch_recipe *recipe)
{
	const struct croft_fetcher *fetcher = recipe->fetcher;
	char text[CROFT_DIGEST_TEXT];
	recipe->failure = fetcher->sources[0].last_error;
	if (recipe->failure.code == CROFT_OK)
		croft_error_set(&recipe->failure, CROFT_UNAVAILABLE, "no source answers");
	croft_digest_format(&recipe->digest, '/', text);
	croft_error_wrap(&recipe->failure, "blob %s did not come within %llu ms", text,
		(unsigned long long)(fetcher->deadline_ns / 1000000));
	fetch_recipe_give_up(recipe);
}

void fetch_recipe_want(struct croft_fetcher *fetcher, struct fetch_waiter *waiter)
{
	const struct croft_recipe_request *asked = &waiter->recipe;
	if (fetcher->stopping) {
		asked->done(asked->user, &asked->digest, &(struct croft_recipe){.count = 0});
		free(waiter);
		return;
	}
	void **place = croft_digest_map_at(fetcher->recipes, &asked->digest);
	struct fetch_recipe *recipe = *place;
	if (!recipe) {
		*place = recipe = croft_zalloc(sizeof(*recipe));
		recipe->fetcher = fetcher;
		recipe->digest = asked->digest;
		recipe->background = asked->background;
		recipe->offset = asked->offset;
		recipe->size = asked->size;
		recipe->since_ns = ring_now_ns(fetcher->ring);
		enqueue(recipe);
	} else if (recipe->background && !asked->background && recipe->queued) {
		dequeue(recipe);
		recipe->background = false;
		recipe->offset = asked->offset;
		recipe->size = asked->size;
		enqueue(recipe);
	}
	waiter->next = recipe->waiters;
	recipe->waiters = waiter;
}

void fetch_recipes_end(struct croft_fetcher *fetcher, uint64_t before_ns)
{
	for (int background = 0; background < 2; background++)
		for (struct fetch_recipe *next, *at = fetcher->recipe_queues[background]; at; at = next) {
			next = at->next;
			if (at->since_ns <= before_ns)
				out_of_time(at);
		}
}

/* Asking --------------------------------------------------------------------------------------- */

/* While the origin is in trouble, those who have other sources do without. */
static bool has_to_do_without(const struct croft_fetcher *fetcher)
{
	if (fetcher->sources[0].failures == 0)
		return false;
	for (unsigned i = 1; i < FETCH_SOURCES; i++)
		if (fetch_source_usable(&fetcher->sources[i]))
			return true;
	return false;
}

void fetch_recipes_pump(struct croft_fetcher *fetcher, bool background)
{
	struct fetch_source *origin = &fetcher->sources[0];
	for (struct fetch_recipe *recipe; (recipe = fetcher->recipe_queues[background]);) {
		if (has_to_do_without(fetcher)) {
			fetch_recipe_give_up(recipe);
			continue;
		}
		if (!fetch_source_usable(origin) || !fetch_source_has_room(origin, background))
			return;
		if (origin->address_count == 0) {
			fetch_source_resolve(origin);
			return;
		}
		struct fetch_connection *connection = fetch_connection_get(origin);
		if (!connection)
			return;
		dequeue(recipe);
		connection->recipe = recipe;
		fetch_connection_ask(connection);
	}
}

bool fetch_recipe_is_background(const struct fetch_recipe *recipe)
{
	return recipe->background;
}

int fetch_recipe_write(const struct fetch_recipe *recipe, char *text, size_t room)
{
	const struct croft_fetcher *fetcher = recipe->fetcher;
	char hash[CROFT_HASH_TEXT], piece[96] = "";
	croft_hash_format(recipe->digest.hash, hash);
	if (recipe->size > 0)
		snprintf(piece, sizeof(piece), "Croft-Piece: bytes=%" PRIu64 "-%" PRIu64 "\r\n",
			recipe->offset, recipe->offset + recipe->size - 1);
	return snprintf(text, room, "GET %s/chunks/%s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n", fetcher->prefix, hash,
		fetcher->sources[0].name, fetcher->authorization, piece);
}

/* Answers -------------------------------------------------------------------------------------- */

void fetch_recipe_again(struct fetch_recipe *recipe)
{
	recipe->text_size = 0;
	recipe->has_piece = false;
	struct croft_fetcher *fetcher = recipe->fetcher;
	/* Blobs may come all the while from an origin that always breaks off here. */
	if (fetcher->stopping)
		fetch_recipe_give_up(recipe);
	else if (ring_now_ns(fetcher->ring) - recipe->since_ns < fetcher->deadline_ns)
		enqueue(recipe);
	else if (fetcher->sources[0].failures > 0)
		out_of_time(recipe);
	else
		fetch_recipe_give_up(recipe);
}

bool fetch_recipe_begin(struct fetch_recipe *recipe, const struct http_head *head)
{
	if (head->status != 200 || head->is_zstd || head->unknown_coding)
		return false;
	recipe->has_piece = recipe->size > 0 && head->piece_digest.size > 0 &&
		croft_digest_parse(head->piece_digest, &recipe->piece, NULL) &&
		recipe->piece.size_bytes == recipe->size;
	return true;
}

bool fetch_recipe_take(struct fetch_recipe *recipe, struct croft_slice data)
{
	if (data.size > ANSWER_MAX - recipe->text_size)
		return false;
	if (data.size > recipe->text_room - recipe->text_size) {
		recipe->text_room = 2 * (recipe->text_size + data.size);
		recipe->text = croft_realloc(recipe->text, recipe->text_room, 1);
	}
	memcpy(recipe->text + recipe->text_size, data.data, data.size);
	recipe->text_size += data.size;
	return true;
}

/* Lines of "<sha256>-<size>" that have the blob's size together. */
static bool parse_lines(struct fetch_recipe *recipe, struct croft_slice text)
{
	uint64_t sum = 0;
	size_t room = 0;
	while (text.size > 0) {
		const char *feed = memchr(text.data, '\n', text.size);
		struct croft_slice line = {text.data, feed ? (size_t)(feed - (const char *)text.data) : 0};
		struct croft_digest chunk;
		if (!feed || !croft_digest_parse(line, &chunk, NULL) || chunk.size_bytes == 0 ||
			chunk.size_bytes > CROFT_CHUNK_MOST || recipe->digest.size_bytes - sum < chunk.size_bytes)
			return false;
		if (recipe->count == room) {
			room = room ? 2 * room : 64;
			recipe->chunks = croft_realloc(recipe->chunks, room, sizeof(*recipe->chunks));
		}
		recipe->chunks[recipe->count++] = chunk;
		sum += chunk.size_bytes;
		text = CROFT_SLICE(feed + 1, text.size - line.size - 1);
	}
	return sum == recipe->digest.size_bytes;
}

void fetch_recipe_finished(struct fetch_recipe *recipe)
{
	struct croft_slice text = {recipe->text, recipe->text_size}, piece = {NULL, 0};
	if (recipe->has_piece && recipe->piece.size_bytes <= text.size) {
		text.size -= (size_t)recipe->piece.size_bytes;
		piece = CROFT_SLICE(recipe->text + text.size, (size_t)recipe->piece.size_bytes);
		struct croft_digest is = croft_digest_of(piece.data, piece.size);
		if (!croft_digest_equal(&is, &recipe->piece))
			piece.size = 0;
	}
	fetch_count(recipe->fetcher, bytes, recipe->text_size);
	if (!parse_lines(recipe, text)) {
		recipe->count = 0;
		piece.size = 0;
	}
	finish(recipe, piece);
}
