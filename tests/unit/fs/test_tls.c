/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TLS on the blob plane: relays on both ends, and who is let in. */
#include "fs/fetch.h"
#include "fs/tls/relay.h"
#include "tests/unit/fs/plane_fixture.h"

#include <poll.h>

enum { LARGE = 9 << 20 };

static char folder[64];
static struct croft_tls server, client, stranger, unsure;

static char *path(const char *name)
{
	char *text;
	assert_true(asprintf(&text, "%s/%s", folder, name) > 0);
	return text;
}

static int make_certificates(void **state)
{
	char script[2048];
	snprintf(folder, sizeof(folder), "/tmp/croft-test-tls-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(script, sizeof(script),
		"cd %s; new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'; set -e\n"
		"for ca in ca other; do openssl req -x509 $new -keyout $ca.key -out $ca.pem -subj /CN=$ca; done\n"
		"sign() { openssl req $new -keyout $1.key -out $1.csr -subj /CN=$1\n"
		"  printf \"$3\" >$1.ext; openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days 2 \\\n"
		"  -out $1.pem -extfile $1.ext; }\n"
		"sign server ca subjectAltName=IP:127.0.0.1; sign client ca extendedKeyUsage=clientAuth\n"
		"sign stranger other extendedKeyUsage=clientAuth", folder);
	char *command;
	assert_true(asprintf(&command, "{ %s; } >%s/log 2>&1", script, folder) > 0);
	assert_int_equal(system(command), 0);
	free(command);
	server = (struct croft_tls){path("server.pem"), path("server.key"), path("ca.pem")};
	client = (struct croft_tls){path("client.pem"), path("client.key"), path("ca.pem")};
	stranger = (struct croft_tls){path("stranger.pem"), path("stranger.key"), path("ca.pem")};
	unsure = (struct croft_tls){path("client.pem"), path("client.key"), path("other.pem")};
	return 0;
}

static int remove_certificates(void **state)
{
	struct croft_tls *all[] = {&server, &client, &stranger, &unsure};
	for (int i = 0; i < 4; i++) {
		free((char *)all[i]->certificate_file);
		free((char *)all[i]->key_file);
		free((char *)all[i]->authority_file);
	}
	return !croft_remove_tree(AT_FDCWD, folder, NULL);
}

/* A relay of each kind, and the plain ends of one connection between them. */
struct pair {
	struct tls_relay *serving, *asking;
	int near, far; /* plain ends of server and client */
};

static struct pair connect_pair(const struct croft_tls *asking, const char *host)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct pair pair;
	int wire[2];
	assert_ok((pair.serving = tls_relay_start("serving", &server, true, 1, &err)), err);
	assert_ok((pair.asking = tls_relay_start("asking", asking, false, 1, &err)), err);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wire), 0);
	assert_ok((pair.near = tls_relay_begin(pair.serving, wire[0], NULL, &err)) >= 0, err);
	assert_ok((pair.far = tls_relay_begin(pair.asking, wire[1], host, &err)) >= 0, err);
	return pair;
}

static void end_pair(struct pair *pair)
{
	if (pair->near >= 0)
		close(pair->near);
	if (pair->far >= 0)
		close(pair->far);
	tls_relay_stop(pair->serving);
	tls_relay_stop(pair->asking);
}

static void each_direction_ends_for_itself(void **state)
{
	struct pair pair = connect_pair(&client, "127.0.0.1");
	char byte, text[8];
	say_text(pair.far, "question");
	shutdown(pair.far, SHUT_WR);
	read_exactly(pair.near, text, 8);
	assert_memory_equal(text, "question", 8);
	assert_int_equal(read(pair.near, &byte, 1), 0);
	say_text(pair.near, "answered"); /* after the other's end */
	close(pair.near);
	pair.near = -1;
	read_exactly(pair.far, text, 8);
	assert_memory_equal(text, "answered", 8);
	assert_int_equal(read(pair.far, &byte, 1), 0);
	end_pair(&pair);
}

struct pump {
	int fd;
	const char *data;
};
static void *write_large(void *user)
{
	struct pump *pump = user;
	say(pump->fd, pump->data, LARGE);
	return NULL;
}

static void much_goes_both_ways_at_once(void **state)
{
	struct pair pair = connect_pair(&client, "127.0.0.1");
	char *one = croft_alloc(LARGE), *other = croft_alloc(LARGE), *got = croft_alloc(LARGE);
	fill_noise(one, LARGE, 1);
	fill_noise(other, LARGE, 2);
	struct pump pumps[2] = {{pair.near, one}, {pair.far, other}};
	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_large, &pumps[i]), 0);
	read_exactly(pair.far, got, LARGE); /* while near's own waits for its reader */
	assert_memory_equal(got, one, LARGE);
	read_exactly(pair.near, got, LARGE);
	assert_memory_equal(got, other, LARGE);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	free(one);
	free(other);
	free(got);
	end_pair(&pair);
}

static void assert_ends(int fd)
{
	char byte;
	ssize_t got = read(fd, &byte, 1);
	assert_true(got == 0 || (got < 0 && errno == ECONNRESET));
}

static void who_is_not_who_is_wanted_is_not_spoken_to(void **state)
{
	const struct {
		const struct croft_tls *tls;
		const char *host;
	} cases[] = {{&stranger, "127.0.0.1"}, {&unsure, "127.0.0.1"}, {&client, "127.0.0.2"}, {&client, "localhost"}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct pair pair = connect_pair(cases[i].tls, cases[i].host);
		assert_ends(pair.near);
		assert_ends(pair.far);
		end_pair(&pair);
	}
	/* Peers: whatever name, but of the authorities. */
	struct pair pair = connect_pair(&client, NULL);
	char text[2];
	say_text(pair.near, "hi");
	read_exactly(pair.far, text, 2);
	end_pair(&pair);
	pair = connect_pair(&unsure, NULL);
	assert_ends(pair.far);
	end_pair(&pair);
}

static void what_is_no_tls_is_cut_off(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct tls_relay *relay = tls_relay_start("serving", &server, true, 1, &err);
	assert_ok(relay, err);
	int wire[2], plain;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wire), 0);
	assert_ok((plain = tls_relay_begin(relay, wire[0], NULL, &err)) >= 0, err);
	say_text(wire[1], "GET / HTTP/1.1\r\n\r\n");
	assert_ends(plain);
	close(plain);
	close(wire[1]);
	assert_null(tls_relay_start("serving", &(struct croft_tls){0}, true, 1, &err));
	assert_null(tls_relay_start("serving",
		&(struct croft_tls){server.certificate_file, client.key_file, NULL}, true, 1, &err));
	assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
	tls_relay_stop(relay);
}

/* The plane and the fetcher over it ----------------------------------------------------------------- */

static bool fetch(int port, const struct croft_tls *tls, bool secure, const struct blob *blobs, size_t count)
{
	struct croft_error err = CROFT_ERROR_INIT;
	char place[] = "/tmp/croft-test-tls-cache-XXXXXX", origin[48];
	assert_non_null(mkdtemp(place));
	struct croft_store *store = croft_store_open(
		&(struct croft_store_config){.path = place, .budget_bytes = 1 << 30, .budget_inodes = 1000}, &err);
	assert_ok(store, err);
	snprintf(origin, sizeof(origin), "%s127.0.0.1:%d", secure ? "https://" : "", port);
	struct croft_fetcher *fetcher = croft_fetcher_start(&(struct croft_fetcher_config){.store = store,
		.origin = origin, .tls = tls, .deadline_ms = 400}, &err);
	assert_ok(fetcher, err);
	bool ok = true;
	for (size_t i = 0; ok && i < count; i++) {
		uint64_t moved;
		ok = croft_fetch_wait(fetcher, &blobs[i].digest, &moved, &err);
	}
	croft_fetcher_stop(fetcher);
	croft_store_close(store);
	assert_true(croft_remove_tree(AT_FDCWD, place, NULL));
	return ok;
}

static void blobs_come_over_tls_and_over_nothing_else(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct blob blobs[] = {store_blob(fixture, 100, 1), store_blob(fixture, 300000, 2), store_blob(fixture, LARGE, 3)};
	struct croft_plane *plane = croft_plane_start(&(struct croft_plane_config){
		.address = "127.0.0.1:0", .store = fixture->store, .tls = &server}, &err);
	assert_ok(plane, err);
	int port = croft_plane_port(plane);
	assert_true(fetch(port, &client, true, blobs, 3));
	assert_false(fetch(port, &stranger, true, blobs, 1));
	assert_false(fetch(port, &unsure, true, blobs, 1));
	assert_false(fetch(port, NULL, false, blobs, 1)); /* nothing is said in clear text */
	assert_false(fetch(fixture->port, &client, true, blobs, 1)); /* and nothing is asked */
	croft_plane_stop(plane);
	for (int i = 0; i < 3; i++)
		free(blobs[i].data);
}

static void a_plane_that_stops_ends_what_is_under_way(void **state)
{
	struct fixture *fixture = *state;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_plane *plane = croft_plane_start(&(struct croft_plane_config){
		.address = "127.0.0.1:0", .store = fixture->store, .tls = &server}, &err);
	assert_ok(plane, err);
	int fds[3]; /* that say nothing at all */
	for (int i = 0; i < 3; i++)
		fds[i] = dial(croft_plane_port(plane));
	croft_plane_stop(plane);
	for (int i = 0; i < 3; i++) {
		assert_ends(fds[i]);
		close(fds[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_direction_ends_for_itself),
		cmocka_unit_test(much_goes_both_ways_at_once),
		cmocka_unit_test(who_is_not_who_is_wanted_is_not_spoken_to),
		cmocka_unit_test(what_is_no_tls_is_cut_off),
		cmocka_unit_test_setup_teardown(blobs_come_over_tls_and_over_nothing_else, setup, teardown),
		cmocka_unit_test_setup_teardown(a_plane_that_stops_ends_what_is_under_way, setup, teardown),
	};
	return cmocka_run_group_tests(tests, make_certificates, remove_certificates);
}
