/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A store whose log is replayed from any bytes: records (with right checksums, or nobody would look
 * further), recipes and what stands between them. It opens, can be read and checked, and never gives out a
 * blob that is not its digest's bytes.
 */
#include "fs/store.h"
#include "fs/store/internal.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST = 1 << 16, RECORDS = 64 };

/* In memory: a new store syncs its index. */
static char place[] = "/dev/shm/croft-fuzz-segment-XXXXXX";

struct segment {
	uint8_t bytes[MOST];
	size_t size;
	struct croft_digest digests[RECORDS];
	size_t count;
};

static void remove_place(void)
{
	croft_remove_tree(AT_FDCWD, place, NULL);
}

/* From six bytes of the input and what follows them. */
static size_t add_record(struct segment *segment, const uint8_t *data, size_t size)
{
	size_t payload_size = data[1] | (size_t)(data[2] & 7) << 8;
	payload_size = payload_size < size - 6 ? payload_size : size - 6;
	struct croft_slice payload = {data + 6, payload_size};
	size_t bytes = store_record_bytes(payload_size);
	if (segment->count == RECORDS || segment->size + bytes > MOST)
		return 6 + payload_size;
	struct croft_digest digest = croft_digest_of(payload.data, payload.size);
	/* A recipe of what came before, or of nonsense. */
	struct croft_digest chunks[2];
	if (data[0] % 8 == 3 && segment->count > 0) {
		for (size_t i = 0; i < 2; i++)
			chunks[i] = segment->digests[data[3 + i] % segment->count];
		payload = CROFT_SLICE(chunks, sizeof(chunks));
		bytes = store_record_bytes(sizeof(chunks));
		digest.size_bytes = chunks[0].size_bytes + chunks[1].size_bytes + (data[5] & 1);
		if (segment->size + bytes > MOST)
			return 6 + payload_size;
	} else if (data[0] & 0x40) {
		digest.size_bytes += data[5];
	}
	segment->digests[segment->count++] = digest;
	struct store_record record;
	store_record_fill(&record, data[0] % 8, &digest, data[0] & 0x80 ? data[4] : 1, payload);
	memcpy(segment->bytes + segment->size, &record, STORE_HEADER);
	memcpy(segment->bytes + segment->size + STORE_HEADER, payload.data, payload.size);
	if (data[0] & 0x20)
		segment->bytes[segment->size + data[3] % STORE_HEADER] ^= data[4];
	segment->size += bytes;
	return 6 + payload_size;
}

static void check(struct croft_store *store, const struct segment *segment)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	for (size_t i = 0; i < segment->count; i++) {
		struct croft_slice bytes;
		struct croft_store_blob *blob = croft_store_open_blob(store, &segment->digests[i], NULL);
		char buffer[64];
		if (blob)
			croft_store_blob_read(blob, buffer, sizeof(buffer), 1, NULL);
		croft_store_blob_close(blob);
		if (segment->digests[i].size_bytes < MOST &&
			croft_store_get(store, &segment->digests[i], arena, &bytes, NULL) &&
			bytes.size != segment->digests[i].size_bytes)
			abort();
	}
	struct croft_fsck_report report;
	if (!croft_store_fsck(store, true, NULL, NULL, &report, NULL))
		abort();
	/* What fsck left is what it is said to be. */
	for (size_t i = 0; i < segment->count; i++) {
		struct croft_slice bytes;
		/* Blobs of no bytes are not looked up. */
		if (segment->digests[i].size_bytes >= MOST || croft_digest_is_empty(&segment->digests[i]) ||
			!croft_store_get(store, &segment->digests[i], arena, &bytes, NULL))
			continue;
		struct croft_digest got = croft_digest_of(bytes.data, bytes.size);
		if (!croft_digest_equal(&got, &segment->digests[i]))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool made;
	static struct segment segment;
	char path[128];
	if (!made) {
		if (!mkdtemp(place))
			abort();
		atexit(remove_place);
		made = true;
	}
	memset(&segment, 0, sizeof(segment));
	while (size >= 6) {
		size_t used = add_record(&segment, data, size);
		data += used;
		size -= used;
	}
	snprintf(path, sizeof(path), "%s/store", place);
	croft_remove_tree(AT_FDCWD, path, NULL);
	struct croft_store_config config = {
		.path = path, .chunked = true, .budget_bytes = 1 << 28, .budget_inodes = 1000};
	croft_store_close(croft_store_open(&config, NULL));
	char file[160];
	snprintf(file, sizeof(file), "%s/segments/00000001", path);
	if (!croft_write_file(AT_FDCWD, file, segment.bytes, segment.size, 0644, NULL))
		abort();
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store *store = croft_store_open(&config, &err);
	if (!store) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
	check(store, &segment);
	croft_store_close(store);
	return 0;
}
