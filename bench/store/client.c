/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One client for every REAPI store, on the bare gRPC core, so that as little as can be of what is
 * measured is the client: requests are encoded before the clock starts, answers checked after it
 * stopped. Prints the seconds that the work took.
 *
 *	bench-store find TARGET COUNT SEED CALLS     FindMissingBlobs; every second blob is there
 *	bench-store update TARGET COUNT SIZE SEED    BatchUpdateBlobs, four calls at a time
 *	bench-store read TARGET COUNT SIZE SEED      BatchReadBlobs of what `update` put there, likewise
 *	bench-store write TARGET BYTES SEED          ByteStream.Write of one blob
 *	bench-store small TARGET COUNT SIZE SEED AT_ONCE  a ByteStream.Write for each, as Bazel does
 *	bench-store stream TARGET BYTES SEED [check] ByteStream.Read of it
 *	bench-store put-tree TARGET                  uploads the files named by standard input
 *	bench-store tree TARGET READERS              reads them, a ByteStream.Read each
 *	bench-store empty                            serves ByteStream, with handlers that only send and
 *	                                             receive; prints its port
 */
#include "bench/store/core.h"
#include "fs/digest.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/rpc/message.h"

#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"
#include "google/bytestream/bytestream.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	BATCH_BYTES = 2 << 20, /* below every server's limit of 4 MiB for a message */
	CALLERS = 4,
	CONNECTIONS = 4,
	PIECE = 1 << 20, /* of a ByteStream.Write */
};

#define CAS "/build.bazel.remote.execution.v2.ContentAddressableStorage/"
#define BYTE_STREAM "/google.bytestream.ByteStream/"

static const char *target;
static struct croft_arena *arena;

static void make_bytes(unsigned char *bytes, size_t size, uint64_t seed)
{
	uint64_t x = 0x9e3779b97f4a7c15u * (seed + 1);
	for (size_t i = 0; i < size; i += 8) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		memcpy(bytes + i, &x, size - i < 8 ? size - i : 8);
	}
}

static Reapi__Digest *digest_message(const struct croft_digest *digest)
{
	return croft_digest_to_message(digest, arena);
}

/* Calls one after the other, by several threads ------------------------------------------------- */

struct work {
	const char *path;
	grpc_byte_buffer **requests, **answers;
	size_t count;
	atomic_size_t next;
	struct connection *connections[CONNECTIONS];
	atomic_uint callers;
};

static void *call_in_turn(void *user)
{
	struct work *work = user;
	struct connection *connection =
		work->connections[atomic_fetch_add(&work->callers, 1) % CONNECTIONS];
	for (size_t i; (i = atomic_fetch_add(&work->next, 1)) < work->count;)
		work->answers[i] = connection_unary(connection, work->path, work->requests[i]);
	return NULL;
}

static double run_work(struct work *work, unsigned callers)
{
	pthread_t threads[CALLERS];
	work->answers = croft_array(work->count, sizeof(*work->answers));
	for (unsigned i = 0; i < CONNECTIONS; i++)
		work->connections[i] = connection_open(target);
	double start = seconds_now();
	for (unsigned i = 0; i < callers; i++)
		if (pthread_create(&threads[i], NULL, call_in_turn, work) != 0)
			abort();
	for (unsigned i = 0; i < callers; i++)
		pthread_join(threads[i], NULL);
	double took = seconds_now() - start;
	for (unsigned i = 0; i < CONNECTIONS; i++)
		connection_close(work->connections[i]);
	return took;
}

static void *decode(const ProtobufCMessageDescriptor *type, grpc_byte_buffer *buffer)
{
	static const struct croft_message_limits limits = {64u << 20, 512u << 20, 32};
	struct croft_error err = CROFT_ERROR_INIT;
	void *message = croft_message_decode(type, core_bytes(buffer, arena), arena, &limits, &err);
	if (!message)
		core_fail("answer: %s", err.message);
	return message;
}

/* FindMissingBlobs ------------------------------------------------------------------------------- */

static double find(size_t count, uint64_t seed, size_t calls)
{
	Reapi__FindMissingBlobsRequest request = REAPI__FIND_MISSING_BLOBS_REQUEST__INIT;
	request.n_blob_digests = count;
	request.blob_digests = croft_arena_array(arena, count, sizeof(void *));
	unsigned char bytes[4096];
	for (size_t i = 0; i < count; i++) {
		make_bytes(bytes, sizeof(bytes), i % 2 ? seed + i : ~(seed + i));
		struct croft_digest digest = croft_digest_of(bytes, sizeof(bytes));
		request.blob_digests[i] = digest_message(&digest);
	}
	grpc_byte_buffer *encoded = core_encode(&request.base);
	struct work work = {.path = CAS "FindMissingBlobs", .count = calls};
	work.requests = croft_array(calls, sizeof(*work.requests));
	for (size_t i = 0; i < calls; i++)
		work.requests[i] = encoded;
	double took = run_work(&work, 1);
	for (size_t i = 0; i < calls; i++) {
		const Reapi__FindMissingBlobsResponse *answer =
			decode(&reapi__find_missing_blobs_response__descriptor, work.answers[i]);
		if (answer->n_missing_blob_digests != (count + 1) / 2)
			core_fail("%zu of %zu blobs are missing, expected half", answer->n_missing_blob_digests,
				count);
	}
	return took;
}

/* Batches ----------------------------------------------------------------------------------------- */

static grpc_byte_buffer *update_request(size_t first, size_t count, size_t size, uint64_t seed)
{
	Reapi__BatchUpdateBlobsRequest request = REAPI__BATCH_UPDATE_BLOBS_REQUEST__INIT;
	request.n_requests = count;
	request.requests = croft_arena_array(arena, count, sizeof(void *));
	for (size_t i = 0; i < count; i++) {
		Reapi__BatchUpdateBlobsRequest__Request *one = croft_arena_alloc(arena, sizeof(*one));
		reapi__batch_update_blobs_request__request__init(one);
		unsigned char *bytes = croft_arena_alloc(arena, size);
		make_bytes(bytes, size, seed + first + i);
		struct croft_digest digest = croft_digest_of(bytes, size);
		one->digest = digest_message(&digest);
		one->data = (ProtobufCBinaryData){size, bytes};
		request.requests[i] = one;
	}
	return core_encode(&request.base);
}

static grpc_byte_buffer *read_request(size_t first, size_t count, size_t size, uint64_t seed)
{
	Reapi__BatchReadBlobsRequest request = REAPI__BATCH_READ_BLOBS_REQUEST__INIT;
	request.n_digests = count;
	request.digests = croft_arena_array(arena, count, sizeof(void *));
	CROFT_CLEANUP_FREE unsigned char *bytes = croft_alloc(size);
	for (size_t i = 0; i < count; i++) {
		make_bytes(bytes, size, seed + first + i);
		struct croft_digest digest = croft_digest_of(bytes, size);
		request.digests[i] = digest_message(&digest);
	}
	return core_encode(&request.base);
}

static void check_updated(grpc_byte_buffer *buffer, size_t count)
{
	const Reapi__BatchUpdateBlobsResponse *answer =
		decode(&reapi__batch_update_blobs_response__descriptor, buffer);
	if (answer->n_responses != count)
		core_fail("%zu answers for %zu blobs", answer->n_responses, count);
	for (size_t i = 0; i < count; i++)
		if (answer->responses[i]->status && answer->responses[i]->status->code)
			core_fail("a blob was refused: %s", answer->responses[i]->status->message);
}

static void check_read(grpc_byte_buffer *buffer, size_t count)
{
	const Reapi__BatchReadBlobsResponse *answer =
		decode(&reapi__batch_read_blobs_response__descriptor, buffer);
	if (answer->n_responses != count)
		core_fail("%zu answers for %zu blobs", answer->n_responses, count);
	for (size_t i = 0; i < count; i++) {
		const Reapi__BatchReadBlobsResponse__Response *one = answer->responses[i];
		struct croft_digest got = croft_digest_of(one->data.data, one->data.len), wanted;
		struct croft_error err = CROFT_ERROR_INIT;
		if (!croft_digest_from_message(one->digest, "answer", &wanted, &err) ||
			!croft_digest_equal(&got, &wanted))
			core_fail("other bytes came than blob %s has", one->digest->hash);
	}
}

static double batches(bool update, size_t count, size_t size, uint64_t seed)
{
	size_t each = BATCH_BYTES / (size + 100);
	struct work work = {.path = update ? CAS "BatchUpdateBlobs" : CAS "BatchReadBlobs",
		.count = (count + each - 1) / each};
	work.requests = croft_array(work.count, sizeof(*work.requests));
	for (size_t i = 0; i < work.count; i++) {
		size_t part = count - i * each < each ? count - i * each : each;
		work.requests[i] = (update ? update_request : read_request)(i * each, part, size, seed);
		croft_arena_reset(arena);
	}
	double took = run_work(&work, CALLERS);
	for (size_t i = 0; i < work.count; i++) {
		size_t part = count - i * each < each ? count - i * each : each;
		(update ? check_updated : check_read)(work.answers[i], part);
		croft_arena_reset(arena);
	}
	return took;
}

/* Streams ----------------------------------------------------------------------------------------- */

/* Piece i of the large blob: the same random bytes, with its number and the seed in front. */
static void make_piece(unsigned char *bytes, uint64_t seed, uint64_t i)
{
	memcpy(bytes, &seed, 8);
	memcpy(bytes + 8, &i, 8);
}

static struct croft_digest large_digest(uint64_t size, uint64_t seed)
{
	CROFT_CLEANUP_FREE unsigned char *bytes = croft_alloc(PIECE);
	struct croft_hasher *hasher = croft_hasher_create(CROFT_DIGEST_SHA256);
	make_bytes(bytes, PIECE, 1);
	for (uint64_t at = 0; at < size; at += PIECE) {
		make_piece(bytes, seed, at / PIECE);
		croft_hasher_update(hasher, bytes, size - at < PIECE ? (size_t)(size - at) : PIECE);
	}
	struct croft_digest digest = croft_hasher_finish(hasher);
	croft_hasher_destroy(hasher);
	return digest;
}

static grpc_byte_buffer *write_message(const char *name, uint64_t at, const void *data, size_t size,
	bool last)
{
	Bytestream__WriteRequest request = BYTESTREAM__WRITE_REQUEST__INIT;
	request.resource_name = (char *)(at ? "" : name);
	request.write_offset = (int64_t)at;
	request.finish_write = last;
	request.data = (ProtobufCBinaryData){size, (uint8_t *)data};
	return core_encode(&request.base);
}

static void write_name(const struct croft_digest *digest, char name[256])
{
	static unsigned count;
	char text[CROFT_DIGEST_TEXT];
	croft_digest_format(digest, '/', text);
	snprintf(name, 256, "uploads/%08x-0000-4000-8000-%012x/blobs/%s", (unsigned)getpid(), ++count,
		text);
}

static void send_once(struct stream *stream, grpc_byte_buffer *message)
{
	stream_send(stream, message);
	grpc_byte_buffer_destroy(message);
}

static double write_large(uint64_t size, uint64_t seed)
{
	struct croft_digest digest = large_digest(size, seed);
	char name[256];
	write_name(&digest, name);
	CROFT_CLEANUP_FREE unsigned char *bytes = croft_alloc(PIECE);
	make_bytes(bytes, PIECE, 1);
	struct connection *connection = connection_open(target);
	double start = seconds_now();
	struct stream *stream = stream_open(connection, BYTE_STREAM "Write");
	for (uint64_t at = 0; at < size; at += PIECE) {
		size_t part = size - at < PIECE ? (size_t)(size - at) : PIECE;
		make_piece(bytes, seed, at / PIECE);
		send_once(stream, write_message(name, at, bytes, part, at + part == size));
	}
	stream_half_close(stream);
	grpc_byte_buffer *answer = stream_receive(stream);
	stream_end(stream);
	double took = seconds_now() - start;
	if (!answer)
		core_fail("the write was not answered");
	const Bytestream__WriteResponse *response = decode(&bytestream__write_response__descriptor, answer);
	if (response->committed_size != (int64_t)size)
		core_fail("%" PRId64 " bytes were taken of %" PRIu64, response->committed_size, size);
	connection_close(connection);
	return took;
}

static double write_small(size_t count, size_t size, uint64_t seed, unsigned at_once)
{
	enum { BAZELS = 2 }; /* connections */
	grpc_byte_buffer **requests = croft_array(count, sizeof(*requests));
	struct connection *connections[BAZELS];
	CROFT_CLEANUP_FREE unsigned char *bytes = croft_alloc(size + 8);
	for (size_t i = 0; i < count; i++) {
		char name[256];
		make_bytes(bytes, size, seed + i);
		struct croft_digest digest = croft_digest_of(bytes, size);
		write_name(&digest, name);
		requests[i] = write_message(name, 0, bytes, size, true);
	}
	for (unsigned i = 0; i < BAZELS; i++)
		connections[i] = connection_open(target);
	double start = seconds_now();
	call_at_once(connections, BAZELS, BYTE_STREAM "Write", requests, count, at_once, NULL);
	double took = seconds_now() - start;
	for (unsigned i = 0; i < BAZELS; i++)
		connection_close(connections[i]);
	return took;
}

static grpc_byte_buffer *stream_request(const struct croft_digest *digest)
{
	char text[CROFT_DIGEST_TEXT], name[128];
	croft_digest_format(digest, '/', text);
	snprintf(name, sizeof(name), "blobs/%s", text);
	Bytestream__ReadRequest request = BYTESTREAM__READ_REQUEST__INIT;
	request.resource_name = name;
	return core_encode(&request.base);
}

/* Bytes that came; into the hasher if there is one. */
static uint64_t read_stream(struct connection *connection, grpc_byte_buffer *request,
	struct croft_hasher *hasher)
{
	uint64_t got = 0;
	struct stream *stream = stream_open(connection, BYTE_STREAM "Read");
	send_once(stream, request);
	stream_half_close(stream);
	for (grpc_byte_buffer *buffer; (buffer = stream_receive(stream));) {
		if (hasher) {
			const Bytestream__ReadResponse *response =
				decode(&bytestream__read_response__descriptor, buffer);
			croft_hasher_update(hasher, response->data.data, response->data.len);
			got += response->data.len;
			croft_arena_reset(arena);
		} else {
			got += core_payload_size(buffer);
			grpc_byte_buffer_destroy(buffer);
		}
	}
	stream_end(stream);
	return got;
}

static double stream_large(uint64_t size, uint64_t seed, bool check)
{
	/* What nobody looks into needs no name of its own. */
	struct croft_digest digest = large_digest(size, seed);
	struct connection *connection = connection_open(target);
	grpc_byte_buffer *request = stream_request(&digest);
	struct croft_hasher *hasher = check ? croft_hasher_create(CROFT_DIGEST_SHA256) : NULL;
	double start = seconds_now();
	uint64_t got = read_stream(connection, request, hasher);
	double took = seconds_now() - start;
	if (got != size)
		core_fail("%" PRIu64 " bytes came of %" PRIu64, got, size);
	if (hasher) {
		struct croft_digest came = croft_hasher_finish(hasher);
		if (!croft_digest_equal(&came, &digest))
			core_fail("other bytes came than were written");
		croft_hasher_destroy(hasher);
	}
	connection_close(connection);
	return took;
}

/* A tree of files ------------------------------------------------------------------------------------ */

struct file {
	char *path;
	struct croft_digest digest;
};

static unsigned char *read_file(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		core_fail("%s: %s", path, strerror(errno));
	*size = (size_t)st.st_size;
	unsigned char *bytes = croft_alloc(*size + 1);
	struct croft_error err = CROFT_ERROR_INIT;
	if (!croft_pread_all(fd, bytes, *size, 0, path, &err))
		core_fail("%s", err.message);
	close(fd);
	return bytes;
}

static struct file *list_files(size_t *count)
{
	struct file *files = NULL;
	char line[4096];
	*count = 0;
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		size_t size;
		CROFT_CLEANUP_FREE unsigned char *bytes = read_file(line, &size);
		if (size == 0)
			continue;
		files = croft_realloc(files, *count + 1, sizeof(*files));
		files[(*count)++] = (struct file){croft_strdup(line), croft_digest_of(bytes, size)};
	}
	return files;
}

static double put_tree(void)
{
	size_t count, size;
	struct file *files = list_files(&count);
	struct connection *connection = connection_open(target);
	double start = seconds_now();
	for (size_t i = 0; i < count; i++) {
		CROFT_CLEANUP_FREE unsigned char *bytes = read_file(files[i].path, &size);
		char name[256];
		write_name(&files[i].digest, name);
		struct stream *stream = stream_open(connection, BYTE_STREAM "Write");
		for (uint64_t at = 0; at < size && !stream_is_over(stream); at += PIECE) {
			size_t part = size - at < PIECE ? size - (size_t)at : PIECE;
			send_once(stream, write_message(name, at, bytes + at, part, at + part == size));
		}
		stream_half_close(stream);
		grpc_byte_buffer *answer = stream_receive(stream);
		if (answer)
			grpc_byte_buffer_destroy(answer);
		stream_end(stream);
	}
	double took = seconds_now() - start;
	connection_close(connection);
	return took;
}

static double read_tree(unsigned readers)
{
	size_t count;
	struct file *files = list_files(&count);
	grpc_byte_buffer **requests = croft_array(count, sizeof(*requests));
	uint64_t *came = croft_array(count, sizeof(*came));
	struct connection *connections[CONNECTIONS];
	for (size_t i = 0; i < count; i++)
		requests[i] = stream_request(&files[i].digest);
	for (unsigned i = 0; i < CONNECTIONS; i++)
		connections[i] = connection_open(target);
	double start = seconds_now();
	call_at_once(connections, CONNECTIONS, BYTE_STREAM "Read", requests, count, readers, came);
	double took = seconds_now() - start;
	for (size_t i = 0; i < count; i++)
		if (came[i] != files[i].digest.size_bytes)
			core_fail("%s: %" PRIu64 " bytes came of %" PRIu64, files[i].path, came[i],
				files[i].digest.size_bytes);
	return took;
}

/* ------------------------------------------------------------------------------------------------- */

static uint64_t number(char **argv, int argc, int at)
{
	char *end;
	uint64_t value = at < argc ? strtoull(argv[at], &end, 10) : 0;
	if (at >= argc || *end || end == argv[at]) {
		fprintf(stderr, "bench-store: argument %d must be a number; see the top of client.c\n", at);
		exit(2);
	}
	return value;
}

static bool run(int argc, char **argv, double *took)
{
	const char *what = argv[1];
	if (strcmp(what, "find") == 0)
		*took = find(number(argv, argc, 3), number(argv, argc, 4), number(argv, argc, 5));
	else if (strcmp(what, "update") == 0 || strcmp(what, "read") == 0)
		*took = batches(*what == 'u', number(argv, argc, 3), number(argv, argc, 4),
			number(argv, argc, 5));
	else if (strcmp(what, "write") == 0)
		*took = write_large(number(argv, argc, 3), number(argv, argc, 4));
	else if (strcmp(what, "small") == 0)
		*took = write_small(number(argv, argc, 3), number(argv, argc, 4), number(argv, argc, 5),
			(unsigned)number(argv, argc, 6));
	else if (strcmp(what, "stream") == 0)
		*took = stream_large(number(argv, argc, 3), number(argv, argc, 4), argc > 5);
	else if (strcmp(what, "put-tree") == 0)
		*took = put_tree();
	else if (strcmp(what, "tree") == 0)
		*took = read_tree((unsigned)number(argv, argc, 3));
	else
		return false;
	return true;
}

int main(int argc, char **argv)
{
	double took;
	grpc_init();
	if (argc == 2 && strcmp(argv[1], "empty") == 0)
		return serve_empty();
	if (argc < 3) {
		fprintf(stderr, "bench-store: see the top of client.c\n");
		return 2;
	}
	target = argv[2];
	arena = croft_arena_create();
	if (!run(argc, argv, &took)) {
		fprintf(stderr, "bench-store: there is no '%s'\n", argv[1]);
		return 2;
	}
	printf("%.6f\n", took);
	fflush(stdout);
	_exit(0); /* nobody needs what the answers took back */
}
