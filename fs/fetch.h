/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fetcher: brings blobs from blob planes into a local store, on one io_uring thread.
 *
 *	croft_fetch(fetcher, &(struct croft_fetch_request){.digest = …, .done = …, .user = …});
 *
 * Requests for the same blob share one fetch. Foreground requests always go before background ones
 * (a background request that someone then needs moves to the front). Small blobs that are asked for
 * together travel in one /batch round trip; large ones stream to a file of the store. Every blob is
 * verified before `done` hears of it. Failures are tried again with backoff on the same and on the
 * other sources, until `deadline_ms`.
 *
 * Small blobs come from the origin, whose batches are quicker; larger ones (chunks of large files among
 * them) from peers while one has a free connection, else from the origin as well. What a peer lets wait
 * goes on from the origin.
 */
#ifndef CROFT_FS_FETCH_H
#define CROFT_FS_FETCH_H

#include "fs/store.h"
#include "proto/rpc/server.h" /* struct croft_tls */

struct croft_fetcher;

struct croft_fetcher_config {
	struct croft_store *store; /* borrowed: where blobs go */
	const char *origin;        /* "host:port" of the farm's blob plane, "https://host:port" when it has TLS */
	/* With TLS, of peers too: authorities and own certificate; NULL: the system's, and none. */
	const struct croft_tls *tls;
	const char *instance;      /* as which the planes are asked; NULL: none is named */
	const char *key;           /* of its planes, the peers' too; NULL: none is asked for */
	unsigned connections;      /* per source; 0: 4 */
	unsigned deadline_ms;      /* of one blob without progress; 0: 60 s */
	unsigned hedge_ms;         /* how long a peer may let a blob wait before the origin is asked for the
	                            * rest; 0: some times what the origin usually takes to answer */
};

struct croft_fetcher *croft_fetcher_start(const struct croft_fetcher_config *config,
	struct croft_error *err);
/* Pending requests end with CANCELLED. */
void croft_fetcher_stop(struct croft_fetcher *fetcher);

struct croft_fetch_request {
	struct croft_digest digest;
	bool background;
	/* Called once, on the fetcher's thread or, when the blob is there already, before croft_fetch
	 * returns. It must not block. `moved_bytes` is what this fetch moved over the network: 0 for
	 * requests that shared somebody else's, and for blobs that were there. */
	void (*done)(void *user, const struct croft_digest *digest, uint64_t moved_bytes,
		const struct croft_error *err /* NULL: it is in the store */);
	void *user;
};
void croft_fetch(struct croft_fetcher *fetcher, const struct croft_fetch_request *request);
/* The requests are queued together, so that small blobs share round trips. */
void croft_fetch_many(struct croft_fetcher *fetcher, const struct croft_fetch_request *requests,
	size_t count);
/* Blocks until the blob is in the store. */
bool croft_fetch_wait(struct croft_fetcher *fetcher, const struct croft_digest *digest,
	uint64_t *moved_bytes, struct croft_error *err);

/* How the origin keeps a large blob: the chunks that it is made of, each of which can be fetched as a blob. */
struct croft_recipe {
	const struct croft_digest *chunks;
	size_t count; /* 0: it is in one piece, or the origin could not be asked */
	const struct croft_error *err; /* NULL, or why: nobody answered until the deadline, as of a blob */
	/* The bytes that were wanted, on the origin's word like the recipe itself; empty: it did not send them, or
	 * somebody else's came, who had asked already. */
	struct croft_slice piece;
	uint64_t moved_bytes; /* as for a blob */
};

struct croft_recipe_request {
	struct croft_digest digest;
	bool background;
	uint64_t offset, size; /* bytes wanted with the answer; size 0: none */
	/* Called once, on the fetcher's thread; it must not block. The recipe is borrowed. */
	void (*done)(void *user, const struct croft_digest *digest, const struct croft_recipe *recipe);
	void *user;
};
enum { CROFT_RECIPE_PIECE = 128 * 1024 }; /* more than that never comes with it */
void croft_fetch_recipe(struct croft_fetcher *fetcher, const struct croft_recipe_request *request);

/* The origin is somewhere else now; what waits for it is asked for there. The key is the same, and with or without
 * TLS as before. */
bool croft_fetcher_set_origin(struct croft_fetcher *fetcher, const char *origin, struct croft_error *err);

/* Sources beside the origin, "host:port"; strings are copied. A source that sends wrong bytes is
 * dropped. */
void croft_fetcher_set_peers(struct croft_fetcher *fetcher, const char *const *peers, size_t count);

struct croft_fetch_stat {
	uint64_t blobs, bytes, from_peers_bytes, background_bytes, retries, failures, bad_bytes;
	uint64_t hedges; /* blobs that were taken from a peer that let them wait, to the origin */
	uint64_t fetching_blobs, fetching_bytes; /* asked for, and not here yet */
};
/* How long the origin usually takes to answer; 0: not known yet. */
uint64_t croft_fetch_round_trip_ns(const struct croft_fetcher *fetcher);
void croft_fetch_stat(const struct croft_fetcher *fetcher, struct croft_fetch_stat *stat);

#endif
