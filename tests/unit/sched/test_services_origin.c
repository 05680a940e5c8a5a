/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* FetchBlob of what nobody pushed: from a small HTTP server, where that is allowed. */
#include "build/bazel/remote/asset/v1/remote_asset.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "proto/base/cleanup.h"
#include "tests/unit/pack.h"
#include "tests/unit/sched/loopback.h"

#include "fs/tree.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

/* "hello" */
#define GOOD_SHA256 "sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="
#define OTHER_SHA256 "sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCU="

static struct loopback loopback;
static struct croft_error err;
static int listener, origin_port;
static pthread_t origin;
static unsigned asked; /* atomic: requests that came */

/* What /in/archive is. */
static pthread_mutex_t archive_lock = PTHREAD_MUTEX_INITIALIZER; /* guards: what follows */
static const void *archive_bytes;
static size_t archive_size;

static void set_archive(const void *bytes, size_t size)
{
	pthread_mutex_lock(&archive_lock);
	archive_bytes = bytes;
	archive_size = size;
	pthread_mutex_unlock(&archive_lock);
}

/* Who asked may be gone before the end. */
static void send_archive(int fd)
{
	pthread_mutex_lock(&archive_lock);
	const char *bytes = archive_bytes;
	size_t size = archive_size;
	pthread_mutex_unlock(&archive_lock);
	char head[128];
	snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", size);
	send(fd, head, strlen(head), MSG_NOSIGNAL);
	for (ssize_t done; size > 0 && (done = send(fd, bytes, size, MSG_NOSIGNAL)) > 0; size -= (size_t)done)
		bytes += done;
}

static const char *answer_to(const char *request)
{
	if (strncmp(request, "GET /in/good ", 13) == 0)
		return "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
	if (strncmp(request, "GET /in/near ", 13) == 0)
		return "HTTP/1.1 302 x\r\nLocation: good\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
	if (strncmp(request, "GET /in/round ", 14) == 0)
		return "HTTP/1.1 302 x\r\nLocation: round\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
	if (strncmp(request, "GET /in/away ", 13) == 0)
		return "HTTP/1.1 302 x\r\nLocation: /out/good\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
	if (strncmp(request, "GET /in/short ", 14) == 0)
		return "HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\nhello";
	if (strncmp(request, "GET /in/broken ", 15) == 0)
		return "HTTP/1.1 500 x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
	if (strncmp(request, "GET /out/", 9) == 0)
		return "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret";
	return "HTTP/1.1 404 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
}

static void *serve(void *unused)
{
	for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0; close(fd)) {
		char request[4096];
		size_t size = 0;
		ssize_t got;
		request[0] = '\0';
		while (!strstr(request, "\r\n\r\n") && size + 1 < sizeof(request) &&
			(got = recv(fd, request + size, sizeof(request) - 1 - size, 0)) > 0)
			request[size += (size_t)got] = '\0';
		__atomic_fetch_add(&asked, 1, __ATOMIC_RELAXED);
		if (strncmp(request, "GET /in/archive", 15) == 0) {
			send_archive(fd);
			continue;
		}
		const char *answer = answer_to(request);
		send(fd, answer, strlen(answer), MSG_NOSIGNAL);
	}
	return NULL;
}

static int set_up(void **state)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_return_code(bind(listener, (struct sockaddr *)&address, length), 0);
	assert_return_code(listen(listener, 16), 0);
	assert_return_code(getsockname(listener, (struct sockaddr *)&address, &length), 0);
	origin_port = ntohs(address.sin_port);
	__atomic_store_n(&asked, 0, __ATOMIC_RELAXED);
	assert_int_equal(pthread_create(&origin, NULL, serve, NULL), 0);
	static char prefix[64];
	static const char *prefixes[] = {prefix};
	snprintf(prefix, sizeof(prefix), "http://127.0.0.1:%d/in/", origin_port);
	loopback.origins = prefixes;
	loopback.origin_count = 1;
	loopback_start(&loopback);
	err = CROFT_ERROR_INIT;
	return 0;
}

static int tear_down(void **state)
{
	shutdown(listener, SHUT_RDWR);
	pthread_join(origin, NULL); /* it reads what the arena holds */
	loopback_stop(&loopback);
	close(listener);
	return 0;
}

static const Asset__FetchBlobResponse *fetch_of(char **uris, size_t count, const char *name, const char *value)
{
	Asset__FetchBlobRequest request = ASSET__FETCH_BLOB_REQUEST__INIT;
	Asset__Qualifier qualifier = ASSET__QUALIFIER__INIT, *qualifiers[] = {&qualifier};
	qualifier.name = (char *)name;
	qualifier.value = (char *)value;
	request.n_uris = count;
	request.uris = uris;
	request.n_qualifiers = name != NULL;
	request.qualifiers = qualifiers;
	const Asset__FetchBlobResponse *answer = croft_unary(loopback.channel, NULL,
		"/build.bazel.remote.asset.v1.Fetch/FetchBlob", &request.base,
		&asset__fetch_blob_response__descriptor, loopback.arena, &err);
	assert_ok(answer, err);
	return answer;
}

static const Asset__FetchBlobResponse *fetch_uri(const char *uri, const char *name, const char *value)
{
	return fetch_of((char *[]){(char *)uri}, 1, name, value);
}

static const Asset__FetchBlobResponse *fetch(const char *path, const char *name, const char *value)
{
	return fetch_uri(
		croft_arena_printf(loopback.arena, "http://127.0.0.1:%d%s", origin_port, path), name, value);
}

static void assert_hello(const Asset__FetchBlobResponse *answer)
{
	struct croft_digest digest = croft_digest_of("hello", 5);
	struct croft_slice bytes;
	assert_int_equal(answer->status->code, CROFT_OK);
	assert_string_equal(answer->blob_digest->hash, croft_digest_to_message(&digest, loopback.arena)->hash);
	assert_int_equal(answer->blob_digest->size_bytes, 5);
	assert_ok(croft_store_get(loopback.store, &digest, loopback.arena, &bytes, &err), err);
	assert_memory_equal(bytes.data, "hello", 5);
}

static void what_an_origin_has_is_fetched_once(void **state)
{
	assert_hello(fetch("/in/good", NULL, NULL));
	assert_int_equal(__atomic_load_n(&asked, __ATOMIC_RELAXED), 1);
	assert_hello(fetch("/in/good", NULL, NULL));
	assert_int_equal(__atomic_load_n(&asked, __ATOMIC_RELAXED), 1);
	assert_hello(fetch("/in/near", NULL, NULL));
	assert_int_equal(__atomic_load_n(&asked, __ATOMIC_RELAXED), 3);
}

static void bytes_of_another_hash_are_refused(void **state)
{
	assert_hello(fetch("/in/good", "checksum.sri", GOOD_SHA256));
	assert_hello(fetch("/in/good", "checksum.sri", "md5-x " OTHER_SHA256 " " GOOD_SHA256));
	assert_int_equal(fetch("/in/good", "checksum.sri", OTHER_SHA256)->status->code, CROFT_ABORTED);
	/* A weaker hash that is right does not make up for a stronger one. */
	assert_int_equal(fetch("/in/good", "checksum.sri", GOOD_SHA256 " sha384-"
		"LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCRLPJNul+wow4m6Dsqxbnin")->status->code, CROFT_ABORTED);
	assert_int_equal(fetch("/in/good", "checksum.sri", "md5-x")->status->code, CROFT_INVALID_ARGUMENT);
	/* What we do not know might change what is meant. */
	__atomic_store_n(&asked, 0, __ATOMIC_RELAXED);
	const Asset__FetchBlobResponse *answer = fetch("/in/good", "vcs.branch", "x");
	assert_int_equal(answer->status->code, CROFT_INVALID_ARGUMENT);
	assert_non_null(strstr(answer->status->message, "'vcs.branch' is not supported"));
	assert_non_null(strstr(answer->status->message, "checksum.sri"));
	assert_int_equal(__atomic_load_n(&asked, __ATOMIC_RELAXED), 0);
}

static void nothing_is_fetched_from_elsewhere(void **state)
{
	static const char *const paths[] = {
		"/out/good", "/in/../out/good", "/in/%2e%2e/out/good", "/in/..%2fout/good", "/in", "/inside"};
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		assert_int_equal(fetch(paths[i], NULL, NULL)->status->code, CROFT_NOT_FOUND);
	static const char *const uris[] = {
		"file:///etc/passwd", "http://127.0.0.1/in/good", "http://127.0.0.1@localhost/in/good", "x"};
	for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++)
		assert_int_equal(fetch_uri(uris[i], NULL, NULL)->status->code, CROFT_NOT_FOUND);
	assert_int_equal(__atomic_load_n(&asked, __ATOMIC_RELAXED), 0);
	assert_int_equal(fetch("/in/away", NULL, NULL)->status->code, CROFT_PERMISSION_DENIED);
	assert_int_equal(__atomic_load_n(&asked, __ATOMIC_RELAXED), 1);
}

static void an_origins_failures_are_told(void **state)
{
	assert_int_equal(fetch("/in/none", NULL, NULL)->status->code, CROFT_NOT_FOUND);
	assert_int_equal(fetch("/in/broken", NULL, NULL)->status->code, CROFT_UNAVAILABLE);
	assert_int_equal(fetch("/in/short", NULL, NULL)->status->code, CROFT_UNAVAILABLE);
	assert_int_equal(fetch("/in/round", NULL, NULL)->status->code, CROFT_UNAVAILABLE);
	struct croft_digest hello = croft_digest_of("hello", 5);
	bool there;
	assert_ok(croft_store_has(loopback.store, &hello, 1, &there, &err), err);
	assert_false(there);
}

static void a_failure_names_the_uri_that_it_is_of(void **state)
{
	char *uris[] = {(char *)"http://elsewhere/x",
		croft_arena_printf(loopback.arena, "http://127.0.0.1:%d/in/none", origin_port),
		croft_arena_printf(loopback.arena, "http://127.0.0.1:%d/in/broken", origin_port)};
	const Asset__FetchBlobResponse *answer = fetch_of(uris, 3, NULL, NULL);
	assert_int_equal(answer->status->code, CROFT_UNAVAILABLE);
	assert_string_equal(answer->uri, uris[2]);
	answer = fetch_of(uris, 1, NULL, NULL);
	assert_int_equal(answer->status->code, CROFT_NOT_FOUND);
	assert_string_equal(answer->uri, uris[0]);
}

static void prefixes_are_whole_paths(void **state)
{
	static const char *const wrong[] = {"http://host/path", "ftp://host/", "host/", "", "http://host/%2e/"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct croft_services_config config = {
			.store = loopback.store, .asset_origins = &wrong[i], .asset_origin_count = 1};
		assert_null(croft_services_create(&config, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
		err = CROFT_ERROR_INIT;
	}
}

/* Directories -------------------------------------------------------------------------------------- */

/* What the origin gives from now on. */
static void give_packed(int format, int filter, const struct packed *entries, size_t count)
{
	enum { ROOM = 16 << 20 };
	char *bytes = croft_arena_alloc(loopback.arena, ROOM);
	set_archive(bytes, pack(format, filter, entries, count, bytes, ROOM));
}

static const Asset__FetchDirectoryResponse *fetch_directory(const char *name, const char *value)
{
	static unsigned serial; /* another asset each time */
	Asset__FetchDirectoryRequest request = ASSET__FETCH_DIRECTORY_REQUEST__INIT;
	Asset__Qualifier qualifier = ASSET__QUALIFIER__INIT, *qualifiers[] = {&qualifier};
	char *uri = croft_arena_printf(
		loopback.arena, "http://127.0.0.1:%d/in/archive?%u", origin_port, serial++);
	qualifier.name = (char *)name;
	qualifier.value = (char *)value;
	request.n_uris = 1;
	request.uris = &uri;
	request.n_qualifiers = name != NULL;
	request.qualifiers = qualifiers;
	const Asset__FetchDirectoryResponse *answer = croft_unary(loopback.channel, NULL,
		"/build.bazel.remote.asset.v1.Fetch/FetchDirectory", &request.base,
		&asset__fetch_directory_response__descriptor, loopback.arena, &err);
	assert_ok(answer, err);
	return answer;
}

static bool read_stored(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *failure)
{
	return croft_store_get(loopback.store, digest, arena, bytes, failure);
}

static struct croft_tree_entry entry_at(const Asset__FetchDirectoryResponse *answer, const char *path)
{
	struct croft_tree_source source = {read_stored, NULL};
	struct croft_tree_entry entry;
	struct croft_digest root;
	if (answer->status->code)
		fail_msg("%s", answer->status->message);
	assert_ok(croft_digest_from_message(answer->root_directory_digest, "root", &root, &err), err);
	assert_ok(croft_tree_lookup(&source, &root, croft_slice_str(path), loopback.arena, &entry, &err), err);
	return entry;
}

static void assert_file(const Asset__FetchDirectoryResponse *answer, const char *path, const void *data, size_t size)
{
	struct croft_tree_entry entry = entry_at(answer, path);
	struct croft_slice bytes;
	assert_int_equal(entry.kind, CROFT_ENTRY_FILE);
	assert_ok(croft_store_get(loopback.store, &entry.digest, loopback.arena, &bytes, &err), err);
	assert_int_equal(bytes.size, size);
	assert_memory_equal(bytes.data, data, size);
}

static void archives_become_trees(void **state)
{
	enum { LARGE = 3 << 20 };
	char *large = croft_arena_alloc(loopback.arena, LARGE);
	fill_noise(large, LARGE, 1);
	const struct packed entries[] = {
		{.path = "./top/", .type = AE_IFDIR, .mode = 0755},
		{.path = "top/run", .data = "#!", .mode = 0755},
		{.path = "top/sub//deep/large", .data = large, .size = LARGE},
		{.path = "top/link", .type = AE_IFLNK, .symlink = "../anywhere"},
		{.path = "top/empty", .data = ""},
		{.path = "top/twice", .data = "first"},
		{.path = "top/twice", .data = "second"},
		{.path = "top/same", .hard_link = "top/run"},
	};
	const int kinds[][2] = {{ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_NONE},
		{ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_GZIP},
		{ARCHIVE_FORMAT_TAR_GNUTAR, ARCHIVE_FILTER_ZSTD}, {ARCHIVE_FORMAT_ZIP, ARCHIVE_FILTER_NONE}};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		bool zip = kinds[i][0] == ARCHIVE_FORMAT_ZIP; /* which has no hard links */
		give_packed(kinds[i][0], kinds[i][1], entries, zip ? 7 : 8);
		const Asset__FetchDirectoryResponse *answer = fetch_directory(NULL, NULL);
		assert_file(answer, "top/run", "#!", 2);
		assert_true(entry_at(answer, "top/run").executable);
		assert_file(answer, "top/sub/deep/large", large, LARGE);
		assert_false(entry_at(answer, "top/sub/deep/large").executable);
		assert_file(answer, "top/empty", "", 0);
		assert_file(answer, "top/twice", "second", 6);
		assert_true(croft_slice_equal(entry_at(answer, "top/link").target, croft_slice_str("../anywhere")));
		if (!zip)
			assert_file(answer, "top/same", "#!", 2);
		answer = fetch_directory("directory", "top/sub");
		assert_file(answer, "deep/large", large, LARGE);
		assert_int_equal(fetch_directory("directory", "top/run")->status->code, CROFT_INVALID_ARGUMENT);
		assert_int_equal(fetch_directory("directory", "none")->status->code, CROFT_NOT_FOUND);
	}
}

static void an_archive_is_verified_before_it_is_unpacked(void **state)
{
	const struct packed entries[] = {{.path = "f", .data = "verified"}};
	give_packed(ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_NONE, entries, 1);
	struct croft_digest digest = croft_digest_of(archive_bytes, archive_size), file = croft_digest_of("verified", 8);
	assert_int_equal(fetch_directory("checksum.sri", OTHER_SHA256)->status->code, CROFT_ABORTED);
	bool there;
	assert_ok(croft_store_has(loopback.store, &file, 1, &there, &err), err);
	assert_false(there);
	char sri[64] = "sha256-";
	EVP_EncodeBlock((unsigned char *)sri + 7, digest.hash, CROFT_HASH_SIZE);
	assert_file(fetch_directory("checksum.sri", sri), "f", "verified", 8);
	const Asset__FetchDirectoryResponse *answer = fetch_directory("vcs.commit", "1234");
	assert_int_equal(answer->status->code, CROFT_INVALID_ARGUMENT);
	assert_non_null(strstr(answer->status->message, "vcs.commit"));
	assert_non_null(strstr(answer->status->message, "and directory"));
}

static void hostile_archives_are_refused(void **state)
{
	static const struct packed bad[][2] = {
		{{.path = "../out", .data = "x"}},
		{{.path = "a/../../out", .data = "x"}},
		{{.path = "/etc/out", .data = "x"}},
		{{.path = "a", .type = AE_IFLNK, .symlink = "/etc"}, {.path = "a/out", .data = "x"}},
		{{.path = "a", .data = "x"}, {.path = "a/b", .data = "x"}},
		{{.path = "null", .type = AE_IFCHR}},
		{{.path = "a", .data = "x"}, {.path = "b", .hard_link = "../a"}},
		{{.path = "a", .data = "x"}, {.path = "b", .hard_link = "none"}},
		{{.path = ".", .data = "x"}},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		give_packed(ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_NONE, bad[i], bad[i][1].path ? 2 : 1);
		const Asset__FetchDirectoryResponse *answer = fetch_directory(NULL, NULL);
		if (answer->status->code != CROFT_INVALID_ARGUMENT)
			fail_msg("archive %zu: %d %s", i, answer->status->code, answer->status->message);
	}
	/* Deeper than any tree; cut off; and none at all. */
	char deep[700];
	for (size_t i = 0; i < sizeof(deep) - 1; i++)
		deep[i] = i % 2 ? '/' : 'd';
	deep[sizeof(deep) - 1] = '\0';
	const struct packed nested[] = {{.path = deep, .data = "x"}};
	give_packed(ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_NONE, nested, 1);
	assert_int_equal(fetch_directory(NULL, NULL)->status->code, CROFT_INVALID_ARGUMENT);
	const struct packed good[] = {{.path = "f", .data = "some bytes"}};
	give_packed(ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_GZIP, good, 1);
	set_archive(archive_bytes, archive_size / 2);
	assert_int_equal(fetch_directory(NULL, NULL)->status->code, CROFT_INVALID_ARGUMENT);
	set_archive("this is a page, and no archive", 30);
	assert_int_equal(fetch_directory(NULL, NULL)->status->code, CROFT_INVALID_ARGUMENT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_an_origin_has_is_fetched_once),
		TEST(bytes_of_another_hash_are_refused),
		TEST(nothing_is_fetched_from_elsewhere),
		TEST(an_origins_failures_are_told),
		TEST(a_failure_names_the_uri_that_it_is_of),
		TEST(prefixes_are_whole_paths),
		TEST(archives_become_trees),
		TEST(an_archive_is_verified_before_it_is_unpacked),
		TEST(hostile_archives_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
