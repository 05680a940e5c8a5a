/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A store in front of another server: one that speaks gRPC, an HTTP cache, and ones that misbehave. */
#include "fs/upstream.h"

#include "fs/action_value.h"
#include "fs/plane.h"
#include "proto/base/cleanup.h"
#include "proto/rpc/message.h"
#include "tests/unit/sched/loopback.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

enum { LARGE = 3 << 20, MANY = 400 };

/* The server behind, both ways, and the store in front. */
struct fixture {
	struct loopback behind;
	struct croft_plane *plane;
	char grpc[64], http[64];
	char folder[64];
	struct croft_store *store;
};

static int set_up(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct fixture *fixture = croft_zalloc(sizeof(*fixture));
	loopback_start(&fixture->behind);
	fixture->plane = croft_plane_start(&(struct croft_plane_config){.address = "127.0.0.1:0",
		.store = fixture->behind.store, .writable = true}, &err);
	assert_ok(fixture->plane, err);
	snprintf(fixture->grpc, sizeof(fixture->grpc), "grpc://127.0.0.1:%d",
		croft_server_port(fixture->behind.server));
	snprintf(fixture->http, sizeof(fixture->http), "http://127.0.0.1:%d",
		croft_plane_port(fixture->plane));
	snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/croft-test-upstream-XXXXXX");
	assert_non_null(mkdtemp(fixture->folder));
	fixture->store = croft_store_open(&(struct croft_store_config){
		.path = fixture->folder, .budget_bytes = 1 << 30}, &err);
	assert_ok(fixture->store, err);
	*state = fixture;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	croft_plane_stop(fixture->plane);
	loopback_stop(&fixture->behind);
	croft_store_close(fixture->store);
	assert_ok(croft_remove_tree(AT_FDCWD, fixture->folder, &err), err);
	free(fixture);
	return 0;
}

static struct croft_upstream *start(struct fixture *fixture, const char *url, unsigned timeout_ms)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_upstream *upstream = croft_upstream_start(&(struct croft_upstream_config){
		.store = fixture->store, .url = url, .timeout_ms = timeout_ms}, &err);
	assert_ok(upstream, err);
	return upstream;
}

/* Blobs ------------------------------------------------------------------------------------------ */

static struct croft_digest put(struct croft_store *store, size_t size, uint32_t seed)
{
	struct croft_error err = CROFT_ERROR_INIT;
	CROFT_CLEANUP_FREE char *data = croft_alloc(size + 1);
	fill_noise(data, size, seed);
	struct croft_digest digest = croft_digest_of(data, size);
	if (store)
		assert_ok(croft_store_put(store, &digest, CROFT_SLICE(data, size), &err), err);
	return digest;
}

static bool has(struct croft_store *store, const struct croft_digest *digest)
{
	bool missing = true;
	assert_true(croft_store_find_missing(store, digest, 1, &missing, NULL));
	return !missing;
}

static struct croft_upstream_stat stat_of(struct croft_upstream *upstream)
{
	struct croft_upstream_stat stat;
	croft_upstream_stat(upstream, &stat);
	return stat;
}

static void wait_until_sent(struct croft_upstream *upstream)
{
	while (stat_of(upstream).waiting > 0)
		poll(NULL, 0, 5);
}

/* ActionResult{output_files: {path: "a", digest}} */
static struct croft_slice result_naming(const struct croft_digest *output, struct croft_arena *arena)
{
	Reapi__OutputFile file = REAPI__OUTPUT_FILE__INIT, *files = &file;
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	file.path = (char *)"a";
	file.digest = croft_digest_to_message(output, arena);
	result.output_files = &files;
	result.n_output_files = 1;
	return croft_message_encode(&result.base, arena);
}

static bool get_value(struct croft_store *store, const char *instance_name,
	const struct croft_digest *action)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_slice value;
	struct croft_digest blob;
	return croft_action_value_get(
		store, instance_name, CROFT_EVERYTHING, action->hash, arena, &value, &blob, NULL);
}

/* Tests: both kinds ------------------------------------------------------------------------------ */

static void brings_blobs(struct fixture *fixture, const char *url, uint32_t seed)
{
	struct croft_digest digests[MANY];
	bool missing[MANY];
	struct croft_upstream *upstream = start(fixture, url, 0);
	for (uint32_t i = 0; i < MANY; i++)
		digests[i] = put(i % 5 == 4 ? NULL : fixture->behind.store,
			i == 0 ? LARGE : i == 1 ? 70000 : 1 + i * 30, seed + i);
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_upstream_find_missing(
		upstream, fixture->store, digests, MANY, missing, &err), err);
	for (uint32_t i = 0; i < MANY; i++)
		assert_int_equal(missing[i], i % 5 == 4);
	struct croft_upstream_stat stat = stat_of(upstream);
	assert_int_equal(stat.brought_blobs, MANY / 5 * 4);
	assert_int_equal(stat.failures, 0);
	/* Alone, and what nobody has. */
	struct croft_digest one = put(fixture->behind.store, 500, seed + MANY);
	struct croft_digest none = put(NULL, 500, seed + MANY + 1);
	croft_upstream_bring(upstream, &one, 1);
	croft_upstream_bring(upstream, &none, 1);
	assert_true(has(fixture->store, &one));
	assert_false(has(fixture->store, &none));
	assert_int_equal(stat_of(upstream).failures, 0);
	croft_upstream_stop(upstream);
}

static void brings_blobs_by_grpc(void **state)
{
	struct fixture *fixture = *state;
	brings_blobs(fixture, fixture->grpc, 1000);
}

static void brings_blobs_by_http(void **state)
{
	struct fixture *fixture = *state;
	brings_blobs(fixture, fixture->http, 2000);
}

static void brings_results(struct fixture *fixture, const char *url, const char *instance_name,
	uint32_t seed)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_upstream *upstream = start(fixture, url, 0);
	struct croft_digest output = put(fixture->behind.store, 4000, seed);
	struct croft_digest action = put(NULL, 100, seed + 1), other = put(NULL, 100, seed + 2);
	assert_ok(croft_action_value_put(fixture->behind.store, instance_name, CROFT_EVERYTHING, action.hash,
		result_naming(&output, arena), &err), err);
	croft_upstream_bring_result(upstream, instance_name, &action);
	assert_true(get_value(fixture->store, instance_name, &action));
	assert_true(has(fixture->store, &output));
	croft_upstream_bring_result(upstream, instance_name, &other);
	assert_false(get_value(fixture->store, instance_name, &other));
	/* Tenants are apart. */
	croft_upstream_bring_result(upstream, "stranger", &action);
	assert_false(get_value(fixture->store, "stranger", &action));
	assert_int_equal(stat_of(upstream).failures, 0);
	assert_int_equal(stat_of(upstream).brought_results, 1);
	croft_upstream_stop(upstream);
}

static void brings_results_with_their_outputs_by_grpc(void **state)
{
	struct fixture *fixture = *state;
	brings_results(fixture, fixture->grpc, "tenant", 3000);
}

static void brings_results_with_their_outputs_by_http(void **state)
{
	struct fixture *fixture = *state;
	brings_results(fixture, fixture->http, "", 3100);
}

static void sends_what_was_put(struct fixture *fixture, const char *url, uint32_t seed)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_upstream *upstream = start(fixture, url, 0);
	struct croft_digest digests[50], action = put(fixture->store, 100, seed);
	for (uint32_t i = 0; i < 50; i++)
		digests[i] = put(fixture->store, i == 0 ? LARGE : 1 + i * 100, seed + 1 + i);
	croft_upstream_send(upstream, digests, 49);
	croft_upstream_send(upstream, &digests[0], 1);
	/* The output was not sent on its own. */
	croft_upstream_send_result(upstream, "", &action, result_naming(&digests[49], arena));
	wait_until_sent(upstream);
	for (uint32_t i = 0; i < 50; i++)
		assert_true(has(fixture->behind.store, &digests[i]));
	assert_true(get_value(fixture->behind.store, "", &action));
	struct croft_upstream_stat stat = stat_of(upstream);
	assert_int_equal(stat.sent_blobs, 50);
	assert_int_equal(stat.sent_results, 1);
	assert_int_equal(stat.dropped, 0);
	croft_upstream_stop(upstream);
}

static void sends_what_was_put_by_grpc(void **state)
{
	struct fixture *fixture = *state;
	sends_what_was_put(fixture, fixture->grpc, 4000);
}

static void sends_what_was_put_by_http(void **state)
{
	struct fixture *fixture = *state;
	sends_what_was_put(fixture, fixture->http, 4100);
}

static void brings_and_sends_values_that_are_no_results(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_upstream *upstream = start(fixture, fixture->http, 0);
	struct croft_digest here = put(NULL, 10, 4200), there = put(NULL, 10, 4201);
	struct croft_slice value = croft_slice_str("\x01 not a message at all");
	assert_ok(croft_action_value_put(
		fixture->behind.store, "", CROFT_EVERYTHING, there.hash, value, &err), err);
	croft_upstream_bring_result(upstream, "",
		&(struct croft_digest){.hash = {0}, .size_bytes = 0});
	struct croft_digest unsized = there;
	unsized.size_bytes = 0;
	croft_upstream_bring_result(upstream, "", &unsized);
	assert_true(get_value(fixture->store, "", &there));
	croft_upstream_send_result(upstream, "", &here, value);
	wait_until_sent(upstream);
	assert_true(get_value(fixture->behind.store, "", &here));
	croft_upstream_stop(upstream);
}

static void brings_a_blob_by_its_hash_alone(void **state)
{
	struct fixture *fixture = *state;
	struct croft_upstream *upstream = start(fixture, fixture->http, 0);
	struct croft_digest small = put(fixture->behind.store, 100, 5000);
	struct croft_digest large = put(fixture->behind.store, LARGE, 5001);
	croft_upstream_bring_hash(upstream, small.hash);
	croft_upstream_bring_hash(upstream, large.hash);
	assert_true(has(fixture->store, &small));
	assert_true(has(fixture->store, &large));
	croft_upstream_stop(upstream);
}

struct crowd {
	struct croft_upstream *upstream;
	struct croft_digest *digests;
};

static void *bring_all(void *user)
{
	const struct crowd *crowd = user;
	croft_upstream_bring(crowd->upstream, crowd->digests, 20);
	return NULL;
}

static void brings_once_what_many_want(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest digests[20];
	struct crowd crowd = {start(fixture, fixture->grpc, 0), digests};
	pthread_t threads[8];
	for (uint32_t i = 0; i < 20; i++)
		digests[i] = put(fixture->behind.store, 100000, 6000 + i);
	for (int i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, bring_all, &crowd);
	for (int i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 20; i++)
		assert_true(has(fixture->store, &digests[i]));
	croft_upstream_stop(crowd.upstream);
}

static void a_user_and_password_of_the_url_are_shown_to_http_upstreams(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_plane *plane = croft_plane_start(&(struct croft_plane_config){.address = "127.0.0.1:0",
		.store = fixture->behind.store, .writable = true, .key = "a:b@c/d"}, &err);
	assert_ok(plane, err);
	static const char *const accounts[] = {"croft:a:b%40c%2Fd@", "croft:a:b@c%2fd@", "", "croft:other@"};
	for (uint32_t i = 0; i < 4; i++) {
		bool is_let_in = i < 2;
		char url[128];
		snprintf(url, sizeof(url), "http://%s127.0.0.1:%d", accounts[i], croft_plane_port(plane));
		struct croft_upstream *upstream = start(fixture, url, 0);
		struct croft_digest there = put(fixture->behind.store, 300, 5100 + i);
		croft_upstream_bring(upstream, &there, 1);
		assert_int_equal(has(fixture->store, &there), is_let_in);
		assert_int_equal(stat_of(upstream).failures > 0, !is_let_in);
		struct croft_digest here = put(fixture->store, 300, 5200 + i);
		croft_upstream_send(upstream, &here, 1);
		if (is_let_in)
			wait_until_sent(upstream);
		assert_int_equal(has(fixture->behind.store, &here), is_let_in);
		croft_upstream_stop(upstream);
	}
	croft_plane_stop(plane);
}

/* Tests: ones that misbehave --------------------------------------------------------------------- */

/* A server of canned answers, one connection after another, till the test closes it. */
struct fake {
	int fd, stop[2];
	char url[64];
	const char *answer; /* NULL: says nothing */
	size_t size;
	pthread_t thread;
};

static bool hear(const struct fake *fake, int fd)
{
	char head[8192];
	size_t size = 0;
	struct pollfd waits[] = {{fd, POLLIN, 0}, {fake->stop[0], POLLIN, 0}};
	while (size < 4 || memcmp(head + size - 4, "\r\n\r\n", 4) != 0)
		if (size == sizeof(head) || poll(waits, 2, -1) < 0 || waits[1].revents ||
			recv(fd, head + size++, 1, 0) != 1)
			return false;
	return true;
}

static void *answer_all(void *user)
{
	struct fake *fake = user;
	struct pollfd waits[] = {{fake->fd, POLLIN, 0}, {fake->stop[0], POLLIN, 0}};
	while (poll(waits, 2, -1) >= 0 && !waits[1].revents) {
		CROFT_CLEANUP_FD int fd = accept4(fake->fd, NULL, NULL, SOCK_CLOEXEC);
		struct pollfd end[] = {{fd, POLLRDHUP, 0}, {fake->stop[0], POLLIN, 0}};
		if (!hear(fake, fd))
			continue;
		if (fake->answer)
			send(fd, fake->answer, fake->size, MSG_NOSIGNAL);
		else
			poll(end, 2, -1);
	}
	return NULL;
}

static void fake_start(struct fake *fake, const char *answer, size_t size)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t address_size = sizeof(address);
	*fake = (struct fake){.answer = answer, .size = size};
	fake->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_return_code(bind(fake->fd, (struct sockaddr *)&address, address_size), 0);
	assert_return_code(listen(fake->fd, 100), 0);
	assert_return_code(getsockname(fake->fd, (struct sockaddr *)&address, &address_size), 0);
	assert_return_code(pipe2(fake->stop, O_CLOEXEC), 0);
	snprintf(fake->url, sizeof(fake->url), "http://127.0.0.1:%d", ntohs(address.sin_port));
	pthread_create(&fake->thread, NULL, answer_all, fake);
}

static void fake_stop(struct fake *fake)
{
	close(fake->stop[1]);
	pthread_join(fake->thread, NULL);
	close(fake->stop[0]);
	close(fake->fd);
}

static void takes_no_wrong_bytes(void **state)
{
	struct fixture *fixture = *state;
	static const char *const answers[] = {
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwrong",
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsize",
		"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nmuch too long",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nwrong\r\n0\r\n\r\n",
	};
	struct croft_digest digest = croft_digest_of("right", 5);
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		struct fake fake;
		fake_start(&fake, answers[i], strlen(answers[i]));
		struct croft_upstream *upstream = start(fixture, fake.url, 0);
		croft_upstream_bring(upstream, &digest, 1);
		assert_false(has(fixture->store, &digest));
		assert_int_equal(stat_of(upstream).wrong, 1);
		croft_upstream_bring_hash(upstream, digest.hash);
		assert_false(has(fixture->store, &digest));
		croft_upstream_stop(upstream);
		fake_stop(&fake);
	}
}

static void takes_no_result_without_its_outputs(void **state)
{
	struct fixture *fixture = *state;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_digest output = put(NULL, 4000, 7000), action = put(NULL, 10, 7001);
	/* The same answer to everything: a result to whoever asks for one, wrong bytes to others. */
	struct croft_slice value = result_naming(&output, arena);
	char *answer = croft_arena_alloc(arena, 1000);
	size_t head = (size_t)snprintf(answer, 1000,
		"HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", value.size);
	memcpy(answer + head, value.data, value.size);
	struct fake fake;
	fake_start(&fake, answer, head + value.size);
	struct croft_upstream *upstream = start(fixture, fake.url, 0);
	croft_upstream_bring_result(upstream, "", &action);
	assert_false(get_value(fixture->store, "", &action));
	assert_int_equal(stat_of(upstream).brought_results, 0);
	croft_upstream_stop(upstream);
	fake_stop(&fake);
}

static void survives_nonsense(void **state)
{
	struct fixture *fixture = *state;
	static const char *const answers[] = {"", "\r\n\r\n", "HTTP/1.1 200", "HTTP/1.1 xyz\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"};
	struct croft_digest digest = put(NULL, 5, 7100), other = put(fixture->store, 5, 7101);
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		struct fake fake;
		fake_start(&fake, answers[i], strlen(answers[i]));
		struct croft_upstream *upstream = start(fixture, fake.url, 1000);
		croft_upstream_bring_result(upstream, "", &digest);
		croft_upstream_send(upstream, &other, 1);
		croft_upstream_stop(upstream);
		assert_false(get_value(fixture->store, "", &digest));
		fake_stop(&fake);
	}
}

static void one_that_stalls_costs_one_timeout(void **state)
{
	struct fixture *fixture = *state;
	struct fake fake;
	struct croft_digest digest = put(NULL, 5, 7200);
	fake_start(&fake, NULL, 0);
	struct croft_upstream *upstream = start(fixture, fake.url, 200);
	for (int i = 0; i < 100; i++)
		croft_upstream_bring(upstream, &digest, 1);
	assert_in_range(stat_of(upstream).failures, 1, 20);
	croft_upstream_stop(upstream);
	fake_stop(&fake);
}

static void dead_ones_are_done_without_till_they_are_back(struct fixture *fixture, bool grpc)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char url[64], address[64];
	struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(place);
	int on = 1;
	/* Bound, so that nobody else gets the port, but not listening. */
	CROFT_CLEANUP_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	assert_return_code(bind(fd, (struct sockaddr *)&place, size), 0);
	assert_return_code(getsockname(fd, (struct sockaddr *)&place, &size), 0);
	snprintf(address, sizeof(address), "127.0.0.1:%d", ntohs(place.sin_port));
	snprintf(url, sizeof(url), "%s://%s", grpc ? "grpc" : "http", address);
	struct croft_upstream *upstream = start(fixture, url, 1000);
	struct croft_digest here = put(fixture->store, 300, 7300 + grpc);
	struct croft_digest there = put(fixture->behind.store, 300, 7310 + grpc);
	croft_upstream_bring(upstream, &there, 1);
	croft_upstream_send(upstream, &here, 1);
	assert_false(has(fixture->store, &there));
	assert_true(stat_of(upstream).failures > 0);
	if (!grpc) {
		struct croft_plane *plane = croft_plane_start(&(struct croft_plane_config){
			.address = address, .store = fixture->behind.store, .writable = true}, &err);
		assert_ok(plane, err);
		wait_until_sent(upstream);
		assert_true(has(fixture->behind.store, &here));
		while (!has(fixture->store, &there)) {
			croft_upstream_bring(upstream, &there, 1);
			poll(NULL, 0, 5);
		}
		croft_plane_stop(plane);
	}
	croft_upstream_stop(upstream);
}

static void a_dead_grpc_upstream_is_done_without(void **state)
{
	dead_ones_are_done_without_till_they_are_back(*state, true);
}

static void a_dead_http_upstream_is_done_without_till_it_is_back(void **state)
{
	dead_ones_are_done_without_till_they_are_back(*state, false);
}

static void refuses_urls_of_other_kinds(void **state)
{
	struct fixture *fixture = *state;
	static const char *const urls[] = {"", "cache", "https://", "ftp://cache", "http://", "s3://", "s3:///path", "s3://a b",
		"http://:80", "http://host:80:90",
		"http://user@host", "http://:secret@host", "http://us%3aer:secret@host", "http://user:secret%0@host",
		"http://user:secret%0d@host", "http://user:secret%@host", "http://user:secret\r\n@host",
		"http://user:secret@host:80:90", "http://user:secret@", "ftp://user:secret@host",
		"grpc://user:secret@host:80", "s3://user:secret@bucket"};
	for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
		struct croft_error err = CROFT_ERROR_INIT;
		assert_null(croft_upstream_start(
			&(struct croft_upstream_config){.store = fixture->store, .url = urls[i]}, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
		assert_null(strstr(err.message, "secret"));
	}
}

static void none_at_all_does_nothing(void **state)
{
	struct fixture *fixture = *state;
	struct croft_digest digest = put(NULL, 5, 7400);
	bool missing;
	croft_upstream_bring(NULL, &digest, 1);
	croft_upstream_bring_hash(NULL, digest.hash);
	croft_upstream_bring_result(NULL, "", &digest);
	croft_upstream_send(NULL, &digest, 1);
	croft_upstream_send_result(NULL, "", &digest, CROFT_SLICE("", 0));
	assert_true(croft_upstream_find_missing(NULL, fixture->store, &digest, 1, &missing, NULL));
	assert_true(missing);
	assert_int_equal(stat_of(NULL).failures, 0);
	croft_upstream_stop(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(brings_blobs_by_grpc),
		cmocka_unit_test(brings_blobs_by_http),
		cmocka_unit_test(brings_results_with_their_outputs_by_grpc),
		cmocka_unit_test(brings_results_with_their_outputs_by_http),
		cmocka_unit_test(sends_what_was_put_by_grpc),
		cmocka_unit_test(sends_what_was_put_by_http),
		cmocka_unit_test(brings_and_sends_values_that_are_no_results),
		cmocka_unit_test(brings_a_blob_by_its_hash_alone),
		cmocka_unit_test(brings_once_what_many_want),
		cmocka_unit_test(a_user_and_password_of_the_url_are_shown_to_http_upstreams),
		cmocka_unit_test(takes_no_wrong_bytes),
		cmocka_unit_test(takes_no_result_without_its_outputs),
		cmocka_unit_test(survives_nonsense),
		cmocka_unit_test(one_that_stalls_costs_one_timeout),
		cmocka_unit_test(a_dead_grpc_upstream_is_done_without),
		cmocka_unit_test(a_dead_http_upstream_is_done_without_till_it_is_back),
		cmocka_unit_test(refuses_urls_of_other_kinds),
		cmocka_unit_test(none_at_all_does_nothing),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
