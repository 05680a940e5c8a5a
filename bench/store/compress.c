/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What compressing at rest would save, and cost. Each file named by standard input is cut as the store cuts it, and
 * each piece compressed alone, as a record would be: by kind of content, which share of the bytes is left, and how fast
 * it goes in and comes out on one core, beside the hashing and checking that every byte has anyway.
 *
 *	bench-store-compress LEVEL < FILES
 */
#include "fs/digest.h"
#include "proto/base/cleanup.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

enum { PIECE = 512 * 1024, HEAD = 64, KINDS = 4 };

/* A piece that does not get smaller by a tenth would stay as it is. */
static const char *const names[KINDS] = {"programs", "text", "compressed", "other"};

struct kind {
	uint64_t files, bytes, left;
	double in, out; /* seconds */
};

static struct kind kinds[KINDS];
static double hashing, checking;

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static struct kind *kind_of(const unsigned char *data, size_t size)
{
	static const char *const packed[] = {
		"\x1f\x8b", "BZh", ("\xfd" "7zXZ"), "\x28\xb5\x2f\xfd", "PK\x03\x04", "\x89PNG", "\xff\xd8\xff"};
	if (size >= 4 && (memcmp(data, "\x7f" "ELF", 4) == 0 || memcmp(data, "!<ar", 4) == 0))
		return &kinds[0];
	for (size_t i = 0; i < sizeof(packed) / sizeof(packed[0]); i++)
		if (size >= strlen(packed[i]) && memcmp(data, packed[i], strlen(packed[i])) == 0)
			return &kinds[2];
	size_t looked = size < 4096 ? size : 4096;
	return memchr(data, '\0', looked) ? &kinds[3] : &kinds[1];
}

static void measure(ZSTD_CCtx *in, ZSTD_DCtx *out, int level, struct kind *kind, const unsigned char *data, size_t size)
{
	size_t room = ZSTD_compressBound(size);
	CROFT_CLEANUP_FREE void *packed = malloc(room), *back = malloc(size);
	if (!packed || !back)
		abort();
	memset(packed, 0, room); /* so that no page comes about while it is measured */
	memset(back, 0, size);
	double start = now();
	size_t got = ZSTD_compressCCtx(in, packed, room, data, size, level);
	kind->in += now() - start;
	if (ZSTD_isError(got))
		abort();
	bool kept = HEAD + got < HEAD + size - size / 10;
	start = now();
	if (kept && (ZSTD_decompressDCtx(out, back, size, packed, got) != size || memcmp(back, data, size) != 0))
		abort();
	kind->out += now() - start;
	kind->bytes += size;
	kind->left += kept ? got : size;
	start = now();
	croft_digest_of(data, size);
	hashing += now() - start;
	start = now();
	volatile XXH64_hash_t sum = XXH3_64bits(data, size);
	(void)sum;
	checking += now() - start;
}

static void measure_file(ZSTD_CCtx *in, ZSTD_DCtx *out, int level, const char *path)
{
	struct stat st;
	CROFT_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size == 0)
		return;
	unsigned char *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (data == MAP_FAILED)
		return;
	struct kind *kind = kind_of(data, (size_t)st.st_size);
	kind->files++;
	for (size_t at = 0; at < (size_t)st.st_size; at += PIECE)
		measure(in, out, level, kind, data + at,
			(size_t)st.st_size - at < PIECE ? (size_t)st.st_size - at : PIECE);
	munmap(data, (size_t)st.st_size);
}

static void report(const char *name, const struct kind *kind)
{
	if (kind->bytes)
		printf("  compress: %-10s %6llu files %7.1f MB, %.2f of it left; in %.0f MB/s, out %.0f MB/s\n", name,
			(unsigned long long)kind->files, (double)kind->bytes / 1e6,
			(double)kind->left / (double)kind->bytes, (double)kind->bytes / 1e6 / kind->in,
			(double)kind->bytes / 1e6 / kind->out);
}

int main(int argc, char **argv)
{
	int level = argc == 2 ? atoi(argv[1]) : 0;
	ZSTD_CCtx *in = ZSTD_createCCtx();
	ZSTD_DCtx *out = ZSTD_createDCtx();
	char *line = NULL;
	size_t room = 0;
	if (level < 1 || !in || !out) {
		fprintf(stderr, "usage: bench-store-compress LEVEL < FILES\n");
		return 2;
	}
	for (ssize_t size; (size = getline(&line, &room, stdin)) > 0;) {
		if (line[size - 1] == '\n')
			line[size - 1] = '\0';
		measure_file(in, out, level, line);
	}
	struct kind all = {0};
	for (size_t i = 0; i < KINDS; i++) {
		report(names[i], &kinds[i]);
		all.files += kinds[i].files;
		all.bytes += kinds[i].bytes;
		all.left += kinds[i].left;
		all.in += kinds[i].in;
		all.out += kinds[i].out;
	}
	report("all", &all);
	printf("  compress: level %d; SHA-256 %.0f MB/s, XXH3 %.0f MB/s\n", level, (double)all.bytes / 1e6 / hashing,
		(double)all.bytes / 1e6 / checking);
	free(line);
	ZSTD_freeCCtx(in);
	ZSTD_freeDCtx(out);
	return 0;
}
