/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of fs/plane share.
 *
 * One ring thread owns all connections. A connection reads a head, then serves that one request to
 * its end before it looks at the next; what is pipelined behind it waits in the kernel, and at most
 * one receive's worth in `in`. Store calls that may wait for the disk run on the ring's workers; a
 * request belongs to one worker at most at a time.
 *
 * Memory: a waiting connection holds its struct alone; a request in progress up to two buffers.
 */
#ifndef CROFT_FS_PLANE_INTERNAL_H
#define CROFT_FS_PLANE_INTERNAL_H

#include "fs/http/http.h"
#include "fs/plane.h"
#include "fs/private.h"
#include "fs/ring/ring.h"
#include "fs/tls/relay.h"

#include <netinet/in.h>

enum {
	PLANE_RECEIVE = 16 * 1024,  /* one receive while waiting for a head */
	PLANE_BUFFER = 128 * 1024,  /* of a request, each of two */
	PLANE_SMALL = 64 * 1024,    /* blobs up to this are answered from one buffer */
	PLANE_REQUESTS = 512,       /* in progress at once; others wait their turn */
	PLANE_SPARE = 32,           /* requests whose buffers are kept for the next ones */
	PLANE_ZSTD = 64,            /* answers compressed at once, each of which takes 1 to 4 MB; more go as they are */
	PLANE_BATCH = 4096,         /* digests in one /batch */
	PLANE_PIECE = 128 * 1024,   /* bytes that may come with a recipe */
	PLANE_COLLECT = 64 << 20,   /* bytes of a body that is kept in memory: an action cache's value */
	PLANE_COLLECT_ALL = 256 << 20, /* of all of them */
	PLANE_KEPT = 8,             /* blobs that are open without being read */
	PLANE_PROGRESS = 64 * 1024, /* bytes either way that count as being alive */
};

struct plane_buffer {
	char *data;
	size_t start, end; /* what is in it: [start, end) */
};

enum plane_phase {
	PLANE_HEAD,   /* waiting for a whole head */
	PLANE_TURN,   /* has one, waits for its turn */
	PLANE_BODY,   /* receiving */
	PLANE_ANSWER, /* working, sending */
	PLANE_LINGER, /* answered and about to close: swallowing what the client still sends */
};

struct plane_connection {
	struct croft_plane *plane;
	struct plane_connection *previous, *next; /* by deadline, soonest first */
	struct plane_connection *next_turn;
	uint64_t deadline_ns;
	uint64_t progress; /* bytes since the deadline was set */
	int fd;
	enum plane_phase phase;
	bool closing;              /* freed when nothing is under way any more */
	bool receiving, sending;   /* operations of the ring under way */
	bool reading_ahead;        /* the receive is into a provided buffer */
	struct ring_event received, sent;
	char *in; /* received and not used yet */
	size_t in_start, in_end, in_room;
	size_t looked; /* see http_head_size */
	uint64_t swallowed;
	struct plane_request *request;
};

enum plane_kind { PLANE_NOTHING, PLANE_BLOB, PLANE_ACTION, PLANE_BATCHES, PLANE_CHUNKS };

struct plane_request {
	struct croft_plane *plane;
	struct plane_connection *connection;
	struct plane_request *next_spare;
	struct http_head head; /* its slices are not to be used once the head is */
	enum plane_kind kind;
	struct croft_digest digest; /* of a blob by URL: the size is found out */
	char *instance; /* that the path names; NULL: none */
	bool sees_all;
	struct http_range range;
	struct http_range piece; /* wanted beside a recipe */
	bool close;   /* the connection, after the answer */
	struct croft_arena *arena;
	struct ring_work work;
	bool working;
	void (*then)(struct plane_request *request); /* after the work, on the ring's thread */

	/* Two buffers in turn: `fill` is being filled, `drain` emptied. */
	struct plane_buffer buffers[2];
	unsigned fill, drain;

	/* Request body. */
	struct http_body body;
	bool body_ended;
	bool (*take)(struct plane_request *request, struct croft_slice data,
		struct croft_error *err); /* NULL: nobody wants it */
	bool take_blocks;             /* it belongs on a worker */
	bool failed_taking;
	void (*finish)(struct plane_request *request);
	struct croft_store_writer *writer;
	char *collected; /* a body that is kept in memory */
	size_t collected_size, collected_room;
	struct croft_error failure;
	int failure_status; /* 0: none */

	/* Answer. */
	bool produced; /* all that `produce` has to say */
	bool broken;   /* the connection must be cut: the answer cannot be finished */
	bool chunked;
	bool (*produce)(struct plane_request *request, struct plane_buffer *buffer,
		struct croft_error *err);
	struct croft_store_blob *blob;
	uint64_t position, end; /* of the blob, still to be sent */
	uint64_t position_before;
	int file; /* ≥ 0: by sendfile */
	uint64_t file_offset; /* of the blob's first byte, were it there */
	uint64_t file_end;    /* of the blob: what comes behind it is somewhere else */
	bool nonblocking, polling;
	bool sends_here;    /* the worker that produces sends, too */
	uint64_t sent_here; /* by it, in this turn */
	struct croft_slice value; /* of a record, in the arena */
	struct ZSTD_CCtx_s *zstd;
	char *zstd_in;
	size_t zstd_start, zstd_end;

	/* /batch */
	struct croft_digest *digests;
	size_t digest_count, digest_at;
	bool *hidden; /* of each digest; NULL: none is */
	char line[CROFT_DIGEST_TEXT + 1];
	size_t line_size;
};

struct croft_plane {
	struct croft_plane_config config;
	char authorization[HTTP_AUTHORIZATION]; /* that requests must have; "": none */
	char full_authorization[HTTP_AUTHORIZATION]; /* of those who see all */
	char *instance_name;
	struct ring *ring;
	struct tls_relay *tls; /* NULL: none */
	int listen_fd, port;
	bool stopping, accepting;
	bool full; /* what is under way is not accepting but waiting for somebody who wants in */
	struct ring_event accepted;
	struct ring_post begin, stop;
	struct ring_timer timer; /* deadlines */
	struct ring_timer stalled; /* somebody waits for his turn */
	unsigned compressing;      /* answers that hold a compressor */
	struct plane_kept {
		struct croft_store_blob *blob; /* NULL: free */
		struct croft_digest digest;
		uint64_t until_ns;
	} kept[PLANE_KEPT];
	struct ring_timer forget; /* what is kept */
	struct ring_timer again; /* accepting after running out of something */
	uint64_t idle_ns;
	struct plane_connection *first, *last; /* by deadline */
	unsigned connections;
	struct plane_connection *turns, **last_turn;
	unsigned requests, spares;
	size_t collected; /* room of all bodies that are kept in memory */
	struct plane_request *spare;
	struct croft_plane_stat stat; /* atomic */
};

/* connection.c */
void plane_connection_start(struct croft_plane *plane, int fd);
/* Cuts it, whatever it is at. */
void plane_connection_close(struct plane_connection *connection);
/* The longest waiting one of those that wait for a request; false: there is none. */
bool plane_close_an_idle_one(struct croft_plane *plane);
void plane_touch(struct plane_connection *connection, size_t progress);
/* The request was answered: on with the next one, or the end. */
void plane_answered(struct plane_connection *connection);
/* Frees it if it is closing and nothing of it is under way. */
void plane_settle(struct plane_connection *connection);
void plane_send(struct plane_connection *connection, const void *data, size_t size, int flags);
void plane_receive(struct plane_connection *connection, void *buffer, size_t size);
void plane_accept(struct croft_plane *plane);
void plane_set_timer(struct croft_plane *plane);

/* Bytes that belong to what comes next, and their use. */
void plane_keep(struct plane_connection *connection, const void *data, size_t size);
void plane_used(struct plane_connection *connection, size_t size);

/* kept.c: open blobs for who asks for them next; NULL: not kept. */
struct croft_store_blob *plane_kept_take(struct croft_plane *plane, const struct croft_digest *digest);
void plane_kept_give(struct croft_plane *plane, const struct croft_digest *digest,
	struct croft_store_blob *blob);
void plane_kept_close(struct croft_plane *plane);

/* request.c */
void plane_request_free_spares(struct croft_plane *plane);
/* Takes the head that stands in front of connection->in. */
void plane_request_begin(struct plane_connection *connection, struct croft_slice head);
void plane_request_refuse(struct plane_connection *connection, int status, const char *why);
void plane_request_free(struct plane_request *request);
/* Whose action cache it is about. */
const char *plane_instance(const struct plane_request *request);
/* Who asks, where that decides about what blobs there are. */
struct croft_slice plane_tenant(const struct plane_request *request);
/* On a worker, then `then` on the ring's thread. */
void plane_request_work(struct plane_request *request, void (*work)(struct ring_work *work),
	void (*then)(struct plane_request *request));
struct plane_request *plane_request_of(struct ring_work *work);

/* answer.c. An answer's head goes to the fill buffer; plane_answer_begin sends it and what `produce`,
 * on a worker, writes behind it. An answer that fits a buffer is produced at once by plane_produce. */
struct plane_buffer *plane_buffer_ready(struct plane_request *request, unsigned which);
size_t plane_room(const struct plane_buffer *buffer);
void plane_print(struct plane_buffer *buffer, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void plane_head(struct plane_request *request, int status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void plane_produce(struct plane_request *request);
/* Finds the file for what is to be sent next; false: there is none. */
bool plane_find_file(struct plane_request *request);
void plane_answer_begin(struct plane_request *request);
/* 200 with `value`; `fields` are further lines of the head. */
void plane_answer_value(struct plane_request *request, const char *type, const char *fields);
void plane_answer_error(struct plane_request *request, const struct croft_error *err);
void plane_answer_status(struct plane_request *request, int status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void plane_answer_sent(struct plane_request *request, int result);
int plane_status_of(const struct croft_error *err);

/* body.c: hands the request's body to `take`, piece by piece, then calls `finish`. */
void plane_body_begin(struct plane_request *request);
void plane_body_continue(struct plane_request *request);
void plane_body_received(struct plane_request *request, int result);
/* A `take` that collects in memory; OUT_OF_RANGE past PLANE_COLLECT, UNAVAILABLE past
 * PLANE_COLLECT_ALL. */
bool plane_collect(struct plane_request *request, struct croft_slice data, struct croft_error *err);

/* get.c, put.c, batch.c, action.c */
void plane_get(struct plane_request *request);
/* The same, once it is known that the store has `digest`. */
void plane_get_found(struct plane_request *request);
void plane_put(struct plane_request *request);
void plane_batch(struct plane_request *request);
void plane_action_get(struct plane_request *request);

/* chunks.c */
void plane_chunks_get(struct plane_request *request);
void plane_action_put(struct plane_request *request);

#endif
