/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An action is run once for all who ask for it at one time, also for those who ask while its end is being written down.
 */
#include "tests/unit/sched/farm_fixture.h"

#include <pthread.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ROUNDS = 100, MOST_SPINS = 1000000 };

static struct fake one;

#define MARK "an input that is read slowly"

/* The disk, which stands still while a test wants it to. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool journal_closed, marked_closed;
	bool marked_waits; /* somebody reads what has the mark in it */
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false, false};

static bool is_journal(int fd)
{
	char link[32], place[256];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t size = readlink(link, place, sizeof(place));
	return size > 0 && memmem(place, (size_t)size, "/journal", 8);
}

/* In libc's place. */
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
	pthread_mutex_lock(&gate.lock);
	while (gate.journal_closed && is_journal(fd))
		pthread_cond_wait(&gate.changed, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
	struct iovec piece = {(void *)data, size};
	return pwritev(fd, &piece, 1, offset);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
	struct iovec piece = {data, size};
	ssize_t got = preadv(fd, &piece, 1, offset);
	bool marked = got > 0 && memmem(data, (size_t)got, MARK, strlen(MARK));
	pthread_mutex_lock(&gate.lock);
	while (marked && gate.marked_closed) {
		gate.marked_waits = true;
		pthread_cond_broadcast(&gate.changed);
		pthread_cond_wait(&gate.changed, &gate.lock);
	}
	pthread_mutex_unlock(&gate.lock);
	return got;
}

static void set_gate(bool *which, bool closed)
{
	pthread_mutex_lock(&gate.lock);
	*which = closed;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.lock);
}

static int set_up(void **state)
{
	one = (struct fake){.id = "one"};
	farm_start(state);
	farm_serve();
	fake_connect(&one, 2);
	return 0;
}

static int tear_down(void **state)
{
	set_gate(&gate.journal_closed, false);
	set_gate(&gate.marked_closed, false);
	croft_stream_destroy(one.stream);
	return farm_stop(state);
}

static size_t listed(const char *filter)
{
	Longrunning__ListOperationsRequest request = LONGRUNNING__LIST_OPERATIONS_REQUEST__INIT;
	request.filter = (char *)filter;
	const Longrunning__ListOperationsResponse *response = farm_call(OPERATIONS "ListOperations",
		&request.base, &longrunning__list_operations_response__descriptor);
	assert_ok(response, err);
	return response->n_operations;
}

static struct croft_stream *execute_anew(const char *salt)
{
	Reapi__ExecuteRequest request = REAPI__EXECUTE_REQUEST__INIT;
	struct croft_digest action = farm_action(salt);
	request.action_digest = croft_digest_to_message(&action, farm.arena);
	request.skip_cache_lookup = true;
	struct croft_stream *stream = farm_stream(
		NULL, EXECUTION "Execute", &request.base, &longrunning__operation__descriptor);
	croft_stream_close_write(stream, NULL);
	return stream;
}

/* The agent has said that it is done; the journal cannot be written. */
static struct croft_stream *end_unwritten(const char *salt, int exit_code)
{
	struct croft_stream *stream = farm_execute(salt);
	const char *lease = fake_job(&one)->lease;
	set_gate(&gate.journal_closed, true);
	fake_done(&one, lease, exit_code);
	while (listed("stage=completed") < 1)
		;
	return stream;
}

static void who_asks_while_the_end_is_written_down_joins(int exit_code)
{
	struct croft_stream *first = end_unwritten("a", exit_code), *second = farm_execute("a");
	while (listed("") < 2)
		;
	assert_int_equal(listed("stage=completed"), 2);
	set_gate(&gate.journal_closed, false);
	assert_int_equal(farm_finish(first)->result->exit_code, exit_code);
	assert_int_equal(farm_finish(second)->result->exit_code, exit_code);
}

static void the_end_of_a_success_is_joined(void **state)
{
	who_asks_while_the_end_is_written_down_joins(0);
	assert_true(farm_finish(farm_execute("a"))->cached_result);
}

static void the_end_of_a_failure_is_joined(void **state)
{
	who_asks_while_the_end_is_written_down_joins(3);
	struct croft_stream *later = farm_execute("a");
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(later);
}

static void what_did_not_run_is_not_joined(void **state)
{
	struct croft_stream *first = farm_execute("a");
	const char *lease = fake_job(&one)->lease;
	set_gate(&gate.journal_closed, true);
	fake_failed(&one, lease, CROFT_INVALID_ARGUMENT);
	while (listed("stage=completed") < 1)
		;
	struct croft_stream *second = farm_execute("a");
	while (listed("") < 2)
		;
	assert_int_equal(listed("stage=completed"), 1);
	set_gate(&gate.journal_closed, false);
	farm_fails(first, CROFT_INVALID_ARGUMENT);
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(second);
}

static void who_wants_no_cached_result_has_it_run(void **state)
{
	struct croft_stream *first = end_unwritten("a", 0), *second = execute_anew("a");
	while (listed("") < 2)
		;
	assert_int_equal(listed("stage=completed"), 1);
	set_gate(&gate.journal_closed, false);
	farm_succeeds(first);
	fake_done(&one, fake_job(&one)->lease, 0);
	farm_succeeds(second);
	assert_true(farm_finish(farm_execute("a"))->cached_result);
}

/* Its look into the action cache finds nothing yet, and when it looks for what runs, that has ended. */
static void who_asks_at_the_end_is_answered_from_the_cache(void **state)
{
	Reapi__Directory root = REAPI__DIRECTORY__INIT;
	Reapi__SymlinkNode link = REAPI__SYMLINK_NODE__INIT, *links[] = {&link};
	link.name = (char *)"l";
	link.target = (char *)MARK;
	root.n_symlinks = 1;
	root.symlinks = links;
	farm.nothing = farm_put(&root.base);
	struct croft_stream *first = end_unwritten("a", 0);
	set_gate(&gate.marked_closed, true);
	struct croft_stream *second = farm_execute("a");
	pthread_mutex_lock(&gate.lock);
	while (!gate.marked_waits)
		pthread_cond_wait(&gate.changed, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
	set_gate(&gate.journal_closed, false);
	farm_succeeds(first);
	set_gate(&gate.marked_closed, false);
	assert_true(farm_read(second)->done);
	croft_stream_destroy(second);
}

/* Whenever the second comes: before the end, while it is written down, after it, or between a look into the action cache
 * and one at what runs. */
static void many_ask_at_some_time_or_other(void **state)
{
	unsigned seed = (unsigned)getpid();
	char salt[16];
	print_message("seed %u\n", seed);
	for (int round = 0; round < ROUNDS; round++) {
		snprintf(salt, sizeof(salt), "%d", round);
		struct croft_digest action = farm_action(salt), given;
		struct croft_stream *first = farm_execute_with(NULL, action);
		const Farm__Job *job = fake_job(&one);
		assert_ok(croft_digest_from_message(job->action_digest, "job", &given, &err), err);
		assert_true(croft_digest_equal(&given, &action)); /* not the last round's again */
		fake_done(&one, job->lease, 0);
		for (volatile int spins = rand_r(&seed) % MOST_SPINS; spins > 0; spins--)
			;
		struct croft_stream *others[] = {farm_execute_with(NULL, action), farm_execute_with(NULL, action)};
		farm_succeeds(first);
		farm_succeeds(others[0]);
		farm_succeeds(others[1]);
	}
}

#define ON_A_FARM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_A_FARM(the_end_of_a_success_is_joined),
		ON_A_FARM(the_end_of_a_failure_is_joined),
		ON_A_FARM(what_did_not_run_is_not_joined),
		ON_A_FARM(who_wants_no_cached_result_has_it_run),
		ON_A_FARM(who_asks_at_the_end_is_answered_from_the_cache),
		ON_A_FARM(many_ask_at_some_time_or_other),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
