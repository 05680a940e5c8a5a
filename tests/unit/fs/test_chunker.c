/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Vectors: fastcdc2020_test_vectors.txt of github.com/bazelbuild/remote-apis, and the picture that they
 * are about, which is in the public domain. */
#include "fs/chunker.h"
#include "fs/digest.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <unistd.h>

enum { PICTURE_BYTES = 109466 };

struct vector {
	size_t offset, size;
	const char *hash;
};

static uint8_t picture[PICTURE_BYTES];

static void check(uint32_t seed, const struct vector *vectors, size_t count)
{
	const struct croft_chunking chunking = {4096, 16384, 65535, seed};
	size_t at = 0;
	for (size_t i = 0; i < count; i++) {
		size_t size = croft_chunk_cut(&chunking, picture + at, PICTURE_BYTES - at);
		assert_int_equal(at, vectors[i].offset);
		assert_int_equal(size, vectors[i].size);
		struct croft_digest digest = croft_digest_of(picture + at, size);
		char text[CROFT_HASH_TEXT];
		croft_hash_format(digest.hash, text);
		assert_string_equal(text, vectors[i].hash);
		at += size;
	}
	assert_int_equal(at, PICTURE_BYTES);
}

static void the_published_vectors_are_met(void **state)
{
	static const struct vector vectors[] = {
		{0, 19186, "0f9efa589121d5d9e9e2c4ace91337d77cae866537143f6f15a0ffd525a77c2d"},
		{19186, 19279, "c7c86a165573c16448cda35c9169742e85645af42be22889f8b96b8ee0ec7cb0"},
		{38465, 17354, "bc88521e28a8b4479cdea5f75aa721a24f3a0a7d0be903aa6d505c574e51e89d"},
		{55819, 16387, "4b8dac2652e4685c629d2bb1ae9d4448e676b86f2e67ca0b2fff3d9580184b79"},
		{72206, 19940, "c0a7062da6f2386c28e086ee0cedd5732252741269838773cff1ddb05b2df6ed"},
		{92146, 17320, "7fa5b12134dc75cd2ac8dc60d3a8f3c8d22f0ee9d4cf74a4aa937e2a0d2d79a5"},
	};
	check(0, vectors, sizeof(vectors) / sizeof(vectors[0]));
}

static void the_published_vectors_with_a_seed_are_met(void **state)
{
	static const struct vector vectors[] = {
		{0, 17635, "cb3a9d80a3569772d4ed331ca37ab0c862c759897b890fc1aac90a4f2ea3a407"},
		{17635, 17334, "d758c6b7b0b7eef1e996f8ccd17de6c645360b03a26c35541e7581348ac08944"},
		{34969, 19136, "24846aefd89e510594bae3e9d7d5ea5012067601512610fed126a3c57ba993f5"},
		{54105, 17467, "efa785e1fefb49f190e665f72fd246c1442079874508c312196da1fb3040d00b"},
		{71572, 23593, "a2f557bdd8d40d8faada963ad5f91ec54b10ccee7c5ae72754a65137592dc607"},
		{95165, 14301, "e131100b4a7147ccad19dc63c4a2fac1f5d8b644e1373eeb6803825024234efc"},
	};
	check(666, vectors, sizeof(vectors) / sizeof(vectors[0]));
}

static void chunks_keep_their_bounds(void **state)
{
	CROFT_CLEANUP_FREE uint8_t *zeros = croft_zalloc(3 * CROFT_CHUNK_MOST);
	assert_int_equal(croft_chunk_cut(&croft_chunking, zeros, 3 * CROFT_CHUNK_MOST), CROFT_CHUNK_MOST);
	assert_int_equal(croft_chunk_cut(&croft_chunking, zeros, CROFT_CHUNK_LEAST), CROFT_CHUNK_LEAST);
	assert_int_equal(croft_chunk_cut(&croft_chunking, zeros, 1), 1);
	assert_int_equal(croft_chunk_cut(&croft_chunking, zeros, CROFT_CHUNK_LEAST + 1), CROFT_CHUNK_LEAST + 1);
}

int main(void)
{
	CROFT_CLEANUP_FD int fd = open(CROFT_TEST_DATA "/SekienAkashita.jpg", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || !croft_pread_all(fd, picture, PICTURE_BYTES, 0, "the picture", NULL))
		return 1;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_published_vectors_are_met),
		cmocka_unit_test(the_published_vectors_with_a_seed_are_met),
		cmocka_unit_test(chunks_keep_their_bounds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
