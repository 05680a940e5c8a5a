/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The blob plane with private blobs: what a path's instance name may not know of is not there. */
#include "fs/private.h"
#include "tests/unit/fs/plane_fixture.h"

static int start_private(void **state)
{
	struct croft_error err = CROFT_ERROR_INIT;
	setup_chunks(state);
	struct fixture *fixture = *state;
	croft_plane_stop(fixture->plane);
	fixture->plane = croft_plane_start(&(struct croft_plane_config){.address = "127.0.0.1:0",
		.store = fixture->store, .writable = true, .private_blobs = true, .full_key = "agents-only"}, &err);
	assert_ok(fixture->plane, err);
	fixture->port = croft_plane_port(fixture->plane);
	return 0;
}

static void ask(int fd, const char *method, const char *path, const char *hash, int status)
{
	char request[512];
	snprintf(request, sizeof(request), "%s %s%s HTTP/1.1\r\nHost: x\r\n\r\n", method, path, hash);
	if (strcmp(method, "HEAD") != 0) {
		expect(fd, request, status, NULL, 0);
		return;
	}
	struct answer answer;
	say_text(fd, request);
	read_head(fd, &answer);
	assert_int_equal(answer.status, status);
}

static void put_as(int fd, const char *prefix, const struct blob *blob, const void *data, int status)
{
	char head[512];
	snprintf(head, sizeof(head), "PUT %s/cas/%s HTTP/1.1\r\nContent-Length: %zu\r\n\r\n", prefix, blob->hash,
		blob->size);
	say_text(fd, head);
	say(fd, data, blob->size);
	struct answer answer = hear(fd);
	assert_int_equal(answer.status, status);
	free(answer.body);
}

static void a_guessed_hash_is_not_found(void **state)
{
	struct fixture *fixture = *state;
	struct blob small = make_blob(3000, 1), large = make_blob(5 << 20, 2);
	int fd = dial(fixture->port), other = dial(fixture->port);
	for (int i = 0; i < 2; i++) {
		struct blob *blob = i ? &large : &small;
		put_as(fd, "/ann", blob, blob->data, 200);
		ask(fd, "GET", "/ann/cas/", blob->hash, 200);
		ask(fd, "GET", "/ann/chunks/", blob->hash, i ? 200 : 404);
		ask(other, "GET", "/bob/cas/", blob->hash, 404);
		ask(other, "GET", "/cas/", blob->hash, 404);
		ask(other, "HEAD", "/bob/cas/", blob->hash, 404);
		ask(other, "GET", "/bob/chunks/", blob->hash, 404);
		/* The bytes prove it, and no others. */
		put_as(other, "/bob", blob, blob->data, 200);
		ask(other, "GET", "/bob/cas/", blob->hash, 200);
		ask(other, "HEAD", "/eve/cas/", blob->hash, 404);
	}
	close(other);
	other = dial(fixture->port);
	large.data[0] ^= 1;
	put_as(other, "/eve", &large, large.data, 400);
	close(other);
	ask(fd, "HEAD", "/eve/cas/", large.hash, 404);
	close(fd);
	free(small.data);
	free(large.data);
}

static void to_be_told_that_it_is_there_is_not_to_have_it(void **state)
{
	struct fixture *fixture = *state;
	struct blob blob = make_blob(200000, 3);
	int fd = dial(fixture->port);
	put_as(fd, "/ann", &blob, blob.data, 200);
	char head[512];
	snprintf(head, sizeof(head), "PUT /bob/cas/%s HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %zu\r\n\r\n",
		blob.hash, blob.size);
	say_text(fd, head);
	struct answer answer;
	read_head(fd, &answer);
	assert_int_equal(answer.status, 100); /* and not 200 at once */
	say(fd, blob.data, blob.size);
	answer = hear(fd);
	assert_int_equal(answer.status, 200);
	free(answer.body);
	ask(fd, "HEAD", "/bob/cas/", blob.hash, 200);
	close(fd);
	free(blob.data);
}

static char *batch(int fd, const char *prefix, const char *fields, const char *body)
{
	char head[512];
	snprintf(head, sizeof(head), "POST %s/batch HTTP/1.1\r\n%sContent-Length: %zu\r\n\r\n", prefix, fields,
		strlen(body));
	say_text(fd, head);
	say_text(fd, body);
	struct answer answer = hear(fd);
	assert_int_equal(answer.status, 200);
	return answer.body;
}

static void batches_leave_out_what_is_hidden(void **state)
{
	struct fixture *fixture = *state;
	struct blob anns = make_blob(20, 4), bobs = make_blob(21, 5);
	int fd = dial(fixture->port);
	put_as(fd, "/ann", &anns, anns.data, 200);
	put_as(fd, "/bob", &bobs, bobs.data, 200);
	char body[4 * CROFT_DIGEST_TEXT], line[CROFT_DIGEST_TEXT + 8];
	snprintf(body, sizeof(body), "%s-20\n%s-21\n%s-20\n", anns.hash, bobs.hash, anns.hash);
	char *answer = batch(fd, "/bob", "", body);
	snprintf(line, sizeof(line), "%s-20 404\n", anns.hash);
	assert_memory_equal(answer, line, strlen(line));
	snprintf(line + 64, sizeof(line) - 64, "-21 200\n");
	memcpy(line, bobs.hash, 64);
	assert_memory_equal(answer + strlen(line), line, strlen(line));
	free(answer);
	/* Agents work for all. */
	answer = batch(fd, "", "Authorization: Basic Y3JvZnQ6YWdlbnRzLW9ubHk=\r\n", body);
	snprintf(line, sizeof(line), "%s-20 200\n", anns.hash);
	assert_memory_equal(answer, line, strlen(line));
	free(answer);
	answer = batch(fd, "", "Authorization: Basic Y3JvZnQ6YW5vdGhlci1rZXk=\r\n", body);
	assert_non_null(strstr(answer, "-20 404\n"));
	free(answer);
	close(fd);
	free(anns.data);
	free(bobs.data);
}

static void action_caches_name_only_what_their_author_has(void **state)
{
	struct fixture *fixture = *state;
	struct blob secret = make_blob(30, 6);
	int fd = dial(fixture->port);
	put_as(fd, "/ann", &secret, secret.data, 200);
	/* An ActionResult whose stdout it is: field 6, a Digest. */
	char value[128], head[256], digest[80];
	int size = snprintf(digest, sizeof(digest), "\x0a\x40%s\x10\x1e", secret.hash);
	int value_size = snprintf(value, sizeof(value), "\x32%c%s", size, digest);
	const char *action = "1111111111111111111111111111111111111111111111111111111111111111";
	for (int i = 0; i < 2; i++) {
		snprintf(head, sizeof(head), "PUT /%s/ac/%s HTTP/1.1\r\nContent-Length: %d\r\n\r\n", i ? "ann" : "bob",
			action, value_size);
		say_text(fd, head);
		say(fd, value, (size_t)value_size);
		struct answer answer = hear(fd);
		assert_int_equal(answer.status, i ? 200 : 409);
		free(answer.body);
	}
	ask(fd, "GET", "/bob/ac/", action, 404);
	ask(fd, "GET", "/ann/ac/", action, 200);
	ask(fd, "HEAD", "/bob/cas/", secret.hash, 404);
	/* ccache's values are blobs, which are its own. */
	snprintf(head, sizeof(head), "PUT /bob/ac/%s HTTP/1.1\r\nContent-Length: 5\r\n\r\nplain", action);
	expect(fd, head, 200, NULL, 0);
	snprintf(head, sizeof(head), "GET /bob/ac/%s HTTP/1.1\r\n\r\n", action);
	expect(fd, head, 200, "plain", 5);
	const char *plain = "a116c9ed46d6207734a43317d30fd88f52ac8634c37d904bbf4e41d865f90475";
	ask(fd, "HEAD", "/bob/cas/", plain, 200);
	ask(fd, "HEAD", "/ann/cas/", plain, 404);
	close(fd);
	free(secret.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_guessed_hash_is_not_found, start_private, teardown),
		cmocka_unit_test_setup_teardown(to_be_told_that_it_is_there_is_not_to_have_it, start_private, teardown),
		cmocka_unit_test_setup_teardown(batches_leave_out_what_is_hidden, start_private, teardown),
		cmocka_unit_test_setup_teardown(action_caches_name_only_what_their_author_has, start_private, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
