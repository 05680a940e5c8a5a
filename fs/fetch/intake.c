/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A large blob on its way into the store: one buffer is received into while a worker hashes and
 * writes the other. It outlives connections, so that a blob whose source fails goes on with another.
 */
#include "fs/fetch/internal.h"

#include "proto/base/arena.h"

#include <stdlib.h>

void fetch_intake_create(struct croft_fetcher *fetcher, struct fetch_wanted *wanted)
{
	struct fetch_intake *intake = croft_zalloc(sizeof(*intake));
	intake->fetcher = fetcher;
	intake->wanted = wanted;
	intake->buffers[0] = croft_alloc(FETCH_INTAKE);
	intake->buffers[1] = croft_alloc(FETCH_INTAKE);
	wanted->intake = intake;
	fetcher->intakes++;
}

static void discard(struct fetch_intake *intake)
{
	intake->fetcher->intakes--;
	croft_store_writer_abort(intake->writer);
	free(intake->buffers[0]);
	free(intake->buffers[1]);
	free(intake);
}

void fetch_intake_left(struct fetch_intake *intake)
{
	intake->receiving = false;
	if (intake->wanted)
		fetch_intake_go(intake);
	else if (!intake->working)
		discard(intake);
}

void fetch_intake_abandon(struct fetch_intake *intake)
{
	intake->wanted->intake = NULL;
	intake->wanted = NULL;
	if (!intake->working && !intake->receiving)
		discard(intake);
}

/* With the worker ------------------------------------------------------------------------------- */

static void work(struct ring_work *work)
{
	struct fetch_intake *intake = ring_container(work, struct fetch_intake, work);
	unsigned drain = intake->fill ^ 1;
	if (!intake->writer)
		intake->writer =
			croft_store_write(intake->fetcher->store, &intake->digest, &intake->failure);
	if (!intake->writer || !croft_store_writer_append(intake->writer, intake->buffers[drain],
			intake->size[drain], &intake->failure) || !intake->last)
		return;
	struct croft_store_writer *writer = intake->writer;
	intake->writer = NULL;
	intake->committed = croft_store_writer_commit(writer, &intake->failure);
}

/* Whoever alone gave all of the bytes. */
static struct fetch_source *only_giver(const struct fetch_intake *intake)
{
	for (unsigned i = 0; i < FETCH_SOURCES; i++)
		if (intake->givers == fetch_source_bit(&intake->fetcher->sources[i]))
			return &intake->fetcher->sources[i];
	return NULL;
}

static void failed(struct fetch_intake *intake)
{
	struct croft_fetcher *fetcher = intake->fetcher;
	struct fetch_wanted *wanted = intake->wanted;
	struct croft_error err = intake->failure;
	bool wrong = intake->last && err.code == CROFT_INVALID_ARGUMENT;
	if (!wrong) {
		if (wanted->state == FETCH_QUEUED)
			fetch_dequeue(fetcher, wanted);
		fetch_finish(fetcher, wanted, &err);
		return;
	}
	struct fetch_source *source = only_giver(intake);
	bool whole = !source;
	fetch_intake_abandon(intake);
	if (whole) {
		/* One of several lied. Taken from one at a time, the next lie will name its source. */
		fetch_intake_create(fetcher, wanted);
		wanted->intake->whole = true;
	}
	fetch_wrong(fetcher, wanted, source, &err);
}

static void done(struct ring_work *work)
{
	struct fetch_intake *intake = ring_container(work, struct fetch_intake, work);
	struct croft_fetcher *fetcher = intake->fetcher;
	struct fetch_connection *connection = intake->connection;
	intake->working = false;
	intake->size[intake->fill ^ 1] = 0;
	fetcher->works--;
	if (!intake->wanted) {
		if (!intake->receiving)
			discard(intake);
	} else if (intake->committed) {
		fetch_finish(fetcher, intake->wanted, NULL);
	} else if (intake->failure.code != CROFT_OK) {
		if (connection) {
			connection->asked[0] = NULL;
			intake->connection = NULL;
			fetch_connection_close(connection, NULL);
		}
		failed(intake);
	} else {
		fetch_intake_go(intake);
		if (connection)
			fetch_connection_go(connection);
	}
	fetch_pump(fetcher);
	fetch_settle(fetcher);
}

void fetch_intake_go(struct fetch_intake *intake)
{
	if (intake->working || intake->receiving || intake->size[intake->fill] == 0)
		return;
	intake->fill ^= 1;
	intake->digest = intake->wanted->digest;
	intake->last = intake->received == intake->digest.size_bytes;
	intake->working = true;
	intake->work.work = work;
	intake->work.done = done;
	intake->fetcher->works++;
	ring_work(intake->fetcher->ring, &intake->work);
}

/* With the connection --------------------------------------------------------------------------- */

char *fetch_intake_room(struct fetch_intake *intake, size_t *size)
{
	*size = FETCH_INTAKE - intake->size[intake->fill];
	return intake->buffers[intake->fill] + intake->size[intake->fill];
}

void fetch_intake_filled(struct fetch_intake *intake, size_t size)
{
	intake->size[intake->fill] += size;
	intake->received += size;
}
