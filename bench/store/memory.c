/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory of a store with many blobs: fills one in PATH with COUNT blobs of 8 bytes, opens it anew in a
 * process of its own and looks for a tenth of them, all over the index. Prints what that process holds then,
 * in MB: all that is resident, and what of it is not the page cache's.
 *
 *	bench-store-memory PATH COUNT
 */
#include "fs/store.h"
#include "proto/base/cleanup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BATCH = 4096 };

static struct croft_store *open_store(const char *path)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_store *store = croft_store_open(
		&(struct croft_store_config){.path = path, .durable = true, .lease_ms = 60000}, &err);
	if (!store) {
		fprintf(stderr, "%s\n", err.message);
		exit(1);
	}
	return store;
}

static void fill(struct croft_store *store, uint64_t count)
{
	static uint64_t numbers[BATCH];
	static struct croft_digest digests[BATCH];
	static struct croft_slice data[BATCH];
	static struct croft_error errors[BATCH];
	for (uint64_t at = 0; at < count; at += BATCH) {
		for (size_t i = 0; i < BATCH; i++) {
			numbers[i] = at + i;
			data[i] = CROFT_SLICE(&numbers[i], sizeof(numbers[i]));
			digests[i] = croft_digest_of(&numbers[i], sizeof(numbers[i]));
		}
		if (!croft_store_put_many(store, digests, data, BATCH, errors)) {
			fprintf(stderr, "%s\n", errors[0].message);
			exit(1);
		}
	}
}

static void look(struct croft_store *store, uint64_t count)
{
	static struct croft_digest digests[BATCH];
	static bool missing[BATCH];
	struct croft_error err = CROFT_ERROR_INIT;
	for (uint64_t at = 0; at < count / 10; at += BATCH) {
		for (size_t i = 0; i < BATCH; i++) {
			uint64_t number = (at + i) * 7919 % count;
			digests[i] = croft_digest_of(&number, sizeof(number));
		}
		if (!croft_store_find_missing(store, digests, BATCH, missing, &err)) {
			fprintf(stderr, "%s\n", err.message);
			exit(1);
		}
		for (size_t i = 0; i < BATCH; i++)
			if (missing[i]) {
				fprintf(stderr, "a blob of the first %llu is missing\n", (unsigned long long)count);
				exit(1);
			}
	}
}

static unsigned long status_kib(const char *name)
{
	char line[256];
	unsigned long kib = 0;
	FILE *file = fopen("/proc/self/status", "re");
	while (file && fgets(line, sizeof(line), file))
		if (strncmp(line, name, strlen(name)) == 0)
			sscanf(line + strlen(name), " %lu", &kib);
	if (file)
		fclose(file);
	return kib;
}

int main(int argc, char **argv)
{
	uint64_t count = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
	if (count < 10 * BATCH) {
		fprintf(stderr, "bench-store-memory PATH COUNT, from %d on\n", 10 * BATCH);
		return 2;
	}
	pid_t child = fork();
	if (child == 0) {
		struct croft_store *store = open_store(argv[1]);
		fill(store, count);
		fprintf(stderr, "filling: at most %lu MB resident\n", status_kib("VmHWM:") / 1000);
		croft_store_close(store);
		exit(0);
	}
	int status;
	if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
		return 1;
	struct croft_store *store = open_store(argv[1]);
	look(store, count);
	printf("%lu %lu\n", status_kib("VmRSS:") * 1024 / 1000000, status_kib("RssAnon:") * 1024 / 1000000);
	croft_store_close(store);
	return 0;
}
