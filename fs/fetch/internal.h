/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of fs/fetch share. All of it belongs to the fetcher's ring thread, but for
 * `incoming`, the statistics, and what a worker holds while it works.
 *
 * A wanted blob goes QUEUED → MOVING (asked for on a connection) → STORING (its bytes are with a
 * worker) → gone; or back to QUEUED, when a source failed. Small blobs arrive in memory and go to the
 * store in groups (store.c); large ones go through an intake that outlives the connection, so that
 * another source can go on where one broke off.
 */
#ifndef CROFT_FS_FETCH_INTERNAL_H
#define CROFT_FS_FETCH_INTERNAL_H

#include "fs/digest_map.h"
#include "fs/fetch.h"
#include "fs/http/http.h"
#include "fs/ring/ring.h"
#include "fs/tls/relay.h"

#include <pthread.h>
#include <sys/socket.h>

enum {
	FETCH_SMALL = 64 * 1024,        /* blobs up to this travel in batches */
	FETCH_BATCH_COUNT = 256,        /* in one batch */
	FETCH_BATCH_BYTES = 1 << 20,    /* in one batch */
	FETCH_BUFFER = 64 * 1024,       /* of a connection */
	FETCH_INTAKE = 256 * 1024,      /* each of two buffers of a large blob */
	FETCH_STORING_BYTES = 16 << 20, /* small blobs waiting for a worker: no more is asked for */
	FETCH_INTAKES = 32,             /* large blobs under way */
	FETCH_SOURCES = 64,             /* the origin and its peers */
	FETCH_ADDRESSES = 8,            /* of one source */
	FETCH_WRONG = 4,                /* wrong copies of one blob before it is given up */
};

struct fetch_waiter {
	struct croft_fetch_request request;
	struct croft_recipe_request recipe; /* `done` not NULL: it waits for a recipe, not for a blob */
	struct fetch_waiter *next;
};

enum fetch_state { FETCH_QUEUED, FETCH_MOVING, FETCH_STORING };

struct fetch_wanted {
	struct croft_digest digest;
	struct fetch_waiter *waiters, **last_waiter;
	enum fetch_state state;
	bool background;
	struct fetch_wanted *previous, *next; /* in its queue */
	uint64_t moved_bytes;
	uint64_t since_ns;   /* when it was asked for */
	uint64_t trouble_ns; /* of the first failure since something last went well; 0: none */
	/* A bit per source: */
	uint64_t refused; /* it said that it has none */
	uint64_t failed;  /* it failed at this one; asked again after the others */
	unsigned wrong, attempts;
	bool hedged; /* a peer let it wait: the origin is asked first */
	uint64_t retry_ns; /* not before */
	struct croft_error failure; /* the last one */
	struct fetch_intake *intake;
	/* Small: */
	char *data;
	struct fetch_source *source; /* where the data are from */
	struct fetch_wanted *next_stored;
};

struct fetch_queue {
	struct fetch_wanted *first, *last;
};

/* A large blob on its way into the store. */
struct fetch_intake {
	struct croft_fetcher *fetcher;
	struct fetch_wanted *wanted; /* NULL: abandoned, goes when the work is done */
	struct fetch_connection *connection; /* that fills it; or NULL */
	struct ring_work work;
	struct croft_digest digest;
	struct croft_store_writer *writer;
	char *buffers[2];
	size_t size[2];     /* bytes in each */
	unsigned fill;      /* the one that is being filled; the other is the worker's */
	uint64_t received;  /* bytes taken in so far */
	uint64_t givers;    /* bit per source that gave some of them */
	bool whole;         /* take all from one source: to find out who lies */
	bool receiving; /* into the buffer that is being filled: it must stay where it is */
	bool working, last, committed;
	struct croft_error failure;
};

struct fetch_source {
	struct croft_fetcher *fetcher;
	char *name;
	unsigned index;
	bool used, listed, bad;
	bool no_batch; /* it knows no /batch */
	unsigned failures; /* in a row */
	uint64_t ready_ns; /* not to be bothered before */
	/* Peers that let us wait or have nothing of what they are asked for: */
	unsigned slow, misses; /* in a row */
	uint64_t paused_ns;    /* until then others are asked */
	struct fetch_connection *connections;
	unsigned connection_count, busy, busy_background;
	/* Its addresses. */
	bool resolving;
	struct ring_work resolve;
	struct addrinfo *found; /* the worker's result */
	struct sockaddr_storage addresses[FETCH_ADDRESSES];
	socklen_t address_sizes[FETCH_ADDRESSES];
	unsigned address_count, next_address;
	struct croft_error resolve_error, last_error;
};

enum fetch_stage { FETCH_CONNECTING, FETCH_IDLE, FETCH_HEAD, FETCH_BODY };

struct fetch_connection {
	struct fetch_source *source;
	struct fetch_connection *next;
	int fd;
	enum fetch_stage stage;
	bool closing, sending, receiving, connecting;
	bool in_use; /* its answer is being taken apart: it must not go away */
	struct fetch_intake *direct; /* whose buffer the receive under way goes to; or NULL */
	bool reused;     /* has answered before */
	bool answered;   /* some of the answer has come */
	bool busy, background; /* counted as such */
	bool keep;       /* after this answer */
	struct ring_event connected, sent, received;
	struct ring_timer stall;
	uint64_t progress; /* bytes since the stall timer was set */
	struct ring_timer hedge;
	uint64_t hedge_progress; /* bytes since that one was set */
	uint64_t asked_ns;
	struct sockaddr_storage address;
	socklen_t address_size;
	char *request;
	size_t request_size, request_sent, request_room;
	char *in;
	size_t in_start, in_end, looked;
	struct http_body body;
	struct fetch_recipe *recipe; /* what was asked for; or NULL: */
	/* What was asked for; those that were dealt with are NULL. */
	struct fetch_wanted *asked[FETCH_BATCH_COUNT];
	size_t asked_count, asked_at;
	bool batch;
	bool in_blob; /* of a batch: its bytes are coming, not a line */
	char line[CROFT_DIGEST_TEXT + 8];
	size_t line_size;
	uint64_t skip; /* bytes of the body that we have already */
	uint64_t got;  /* bytes of the blob that is arriving */
};

struct croft_fetcher {
	struct croft_store *store;
	struct ring *ring;
	struct tls_relay *tls; /* NULL: none */
	unsigned connections;
	uint64_t deadline_ns, stall_ns;
	uint64_t hedge_ns;  /* as configured; 0: it follows answer_ns */
	uint64_t answer_ns; /* that the origin usually takes; 0: not known. Atomic: others read it */
	char *prefix; /* of paths: "/INSTANCE", or "" */
	char authorization[HTTP_AUTHORIZATION + 20]; /* the line of it in requests; "": none */
	bool stopping;
	struct ring_post begin, stop, wake;
	struct ring_timer timer, retry; /* deadlines; when something may be tried again */
	bool pumping, pump_again;
	struct croft_digest_map *wanted;
	struct croft_digest_map *recipes; /* that are wanted */
	struct fetch_recipe *recipe_queues[2]; /* [background] */
	struct fetch_queue queues[2][2]; /* [background][large] */
	struct fetch_source sources[FETCH_SOURCES]; /* the origin is the first */
	unsigned turn;                              /* among peers */
	unsigned connection_count, works, intakes;
	uint64_t dark_ns; /* since when no source answers; 0: one does */
	/* Small blobs for the store. */
	struct fetch_wanted *stored_first, **stored_last;
	uint64_t storing_bytes;
	unsigned storing_groups;

	char *moved_origin; /* where it is to be asked from now on, as soon as nobody looks up its old name; or NULL */

	pthread_mutex_t lock; /* guards: incoming, last_incoming, woken, peers, new_origin */
	struct fetch_waiter *incoming, **last_incoming;
	struct fetch_peers *peers; /* the newest list, not yet looked at */
	char *new_origin;          /* likewise; or NULL */
	bool woken;
	struct croft_fetch_stat stat; /* atomic */
};

#define fetch_count(fetcher, field, by)                                                            \
	__atomic_fetch_add(&(fetcher)->stat.field, (by), __ATOMIC_RELAXED)

/* wanted.c */
void fetch_wake(struct croft_fetcher *fetcher, uint64_t at_ns);
void fetch_want(struct croft_fetcher *fetcher, struct fetch_waiter *waiter);
void fetch_enqueue(struct croft_fetcher *fetcher, struct fetch_wanted *wanted, bool at_front);
void fetch_dequeue(struct croft_fetcher *fetcher, struct fetch_wanted *wanted);
/* Calls the waiters and forgets it; err NULL: it is in the store. */
void fetch_finish(struct croft_fetcher *fetcher, struct fetch_wanted *wanted,
	const struct croft_error *err);
/* The source cannot or will not give it: on to another, or the end of it. */
void fetch_refused(struct fetch_wanted *wanted, struct fetch_source *source);
void fetch_failed(struct fetch_wanted *wanted, struct fetch_source *source,
	const struct croft_error *err);
/* source NULL: several gave parts of it. */
void fetch_wrong(struct croft_fetcher *fetcher, struct fetch_wanted *wanted,
	struct fetch_source *source, const struct croft_error *err);
/* Queued, and nobody can be asked for it now: may anybody ever? */
void fetch_reconsider(struct croft_fetcher *fetcher, struct fetch_wanted *wanted);
void fetch_check_deadlines(struct croft_fetcher *fetcher);
static inline bool fetch_is_large(const struct fetch_wanted *wanted)
{
	return wanted->digest.size_bytes > FETCH_SMALL;
}

/* wanted.c: what the source said and did is forgotten. */
void fetch_forgive(struct croft_fetcher *fetcher, struct fetch_source *source);

/* recipe.c */
struct fetch_recipe;
void fetch_recipe_want(struct croft_fetcher *fetcher, struct fetch_waiter *waiter);
void fetch_recipes_pump(struct croft_fetcher *fetcher, bool background);
/* Those that were queued before then cannot be had. */
void fetch_recipes_end(struct croft_fetcher *fetcher, uint64_t before_ns);
bool fetch_recipe_is_background(const struct fetch_recipe *recipe);
/* The request's text; returns its length. */
int fetch_recipe_write(const struct fetch_recipe *recipe, char *text, size_t room);
/* Its connection ended before the answer did. */
void fetch_recipe_again(struct fetch_recipe *recipe);
/* Of the answer: the head, which may be no recipe's; some of the body; the end. What returns false leaves it to be
 * given up. */
bool fetch_recipe_begin(struct fetch_recipe *recipe, const struct http_head *head);
bool fetch_recipe_take(struct fetch_recipe *recipe, struct croft_slice data);
void fetch_recipe_finished(struct fetch_recipe *recipe);
void fetch_recipe_give_up(struct fetch_recipe *recipe);

/* pump.c: gives queued blobs to connections. */
void fetch_pump(struct croft_fetcher *fetcher);

/* source.c */
struct fetch_peers;
struct fetch_peers *fetch_peers_create(const char *const *names, size_t count);
void fetch_peers_destroy(struct fetch_peers *peers);
void fetch_peers_apply(struct croft_fetcher *fetcher, struct fetch_peers *peers);
/* On the ring's thread: takes `moved_origin` up, if it can be now. */
void fetch_origin_move(struct croft_fetcher *fetcher);
void fetch_source_add(struct croft_fetcher *fetcher, unsigned index, const char *name);
void fetch_source_resolve(struct fetch_source *source);
void fetch_source_worked(struct fetch_source *source);
void fetch_source_failed(struct fetch_source *source, const struct croft_error *err);
/* It sent wrong bytes. */
void fetch_source_lied(struct fetch_source *source);
bool fetch_source_usable(const struct fetch_source *source);
/* For one request more. */
bool fetch_source_has_room(const struct fetch_source *source, bool background);
static inline uint64_t fetch_source_bit(const struct fetch_source *source)
{
	return UINT64_C(1) << source->index;
}

/* connection.c */
/* One that is idle or newly made; NULL: none may be had now. */
struct fetch_connection *fetch_connection_get(struct fetch_source *source);
/* Asks for what is in `asked`. */
void fetch_connection_ask(struct fetch_connection *connection);
/* With an error: the source's fault. */
void fetch_connection_close(struct fetch_connection *connection, const struct croft_error *err);
void fetch_connection_go(struct fetch_connection *connection);
void fetch_connection_idle(struct fetch_connection *connection);
void fetch_settle(struct croft_fetcher *fetcher);

/* hedge.c: for every request on a connection; what came of the answer, `first` for its first bytes; a
 * source gave bytes, or had not what it was asked for. */
void fetch_hedge_begin(struct fetch_connection *connection);
void fetch_hedge_end(struct fetch_connection *connection);
void fetch_hedge_received(struct fetch_connection *connection, size_t size, bool first);
void fetch_hedge_gave(struct fetch_source *source);
void fetch_hedge_missed(struct fetch_source *source);

/* answer.c: true when it used some of what is in `in`. */
bool fetch_answer_use(struct fetch_connection *connection);
/* So many bytes of a large blob came in the intake's room. */
void fetch_answer_large(struct fetch_connection *connection, size_t size);
/* The body is at its end; always false. */
bool fetch_answer_finished(struct fetch_connection *connection);
void fetch_answer_moved(struct fetch_connection *connection, struct fetch_wanted *wanted,
	uint64_t size);

/* intake.c */
void fetch_intake_create(struct croft_fetcher *fetcher, struct fetch_wanted *wanted);
/* Where the next bytes go; size 0: not now. */
char *fetch_intake_room(struct fetch_intake *intake, size_t *size);
void fetch_intake_filled(struct fetch_intake *intake, size_t size);
/* Lets a worker take what is there, if there is anything and it may. */
void fetch_intake_go(struct fetch_intake *intake);
/* Goes away, with what it took in: at once or when nobody is at work on it any more. */
void fetch_intake_abandon(struct fetch_intake *intake);
void fetch_intake_left(struct fetch_intake *intake);

/* store.c */
/* Its bytes are complete. They are written after fetch_store_go, which whoever received calls. */
void fetch_store(struct croft_fetcher *fetcher, struct fetch_wanted *wanted);
void fetch_store_go(struct croft_fetcher *fetcher);

#endif
