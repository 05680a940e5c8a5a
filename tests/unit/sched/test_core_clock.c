/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The wall clock jumps, by hours and both ways; the farm does not care. */
#include "tests/unit/sched/farm_fixture.h"

#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static atomic_long jumped_seconds;

/* The C library's, for all that is linked with this. */
int clock_gettime(clockid_t clock, struct timespec *time)
{
	int failed = (int)syscall(SYS_clock_gettime, clock, time);
	if (!failed && clock == CLOCK_REALTIME)
		time->tv_sec += atomic_load(&jumped_seconds);
	return failed;
}

static struct fake one;

static int set_up(void **state)
{
	one = (struct fake){.id = "one"};
	atomic_store(&jumped_seconds, 0);
	farm_start(state);
	farm_serve();
	return 0;
}

static int tear_down(void **state)
{
	croft_stream_destroy(one.stream);
	return farm_stop(state);
}

static char *run_one(const char *salt)
{
	struct croft_stream *stream = farm_execute(salt);
	fake_done(&one, fake_job(&one)->lease, 0);
	const Longrunning__Operation *operation = farm_read(stream);
	char *name = croft_arena_strdup(farm.arena, operation->name);
	while (!operation->done)
		operation = farm_read(stream);
	croft_stream_destroy(stream);
	fake_hear(&one, FARM__SERVER_MESSAGE__KIND_JOB_ACK);
	return name;
}

/* Long enough for the server to look at its clock a few times. */
static void work_for_a_while(const char *what)
{
	uint64_t until_ns = croft_now_ns() + 700 * UINT64_C(1000000);
	for (unsigned i = 0; croft_now_ns() < until_ns; i++) {
		char salt[64];
		snprintf(salt, sizeof(salt), "%s %u", what, i);
		run_one(salt);
	}
}

static void what_ended_is_remembered_for_an_hour_whatever_the_clock_says(void **state)
{
	fake_connect(&one, 1);
	char *early = run_one("early");
	atomic_store(&jumped_seconds, 6 * 3600);
	work_for_a_while("forward");
	farm_succeeds(farm_wait(early));
	char *late = run_one("late");
	atomic_store(&jumped_seconds, -6 * 3600);
	work_for_a_while("back");
	farm_succeeds(farm_wait(early));
	farm_succeeds(farm_wait(late));
}

static void what_waits_and_runs_goes_on(void **state)
{
	fake_connect(&one, 1);
	struct croft_stream *running = farm_execute("running");
	const char *lease = fake_job(&one)->lease;
	struct croft_stream *waiting = farm_execute("waiting");
	atomic_store(&jumped_seconds, 24 * 3600);
	assert_int_equal(farm_stage(farm_read(waiting)), REAPI__EXECUTION_STAGE__VALUE__QUEUED);
	fake_done(&one, lease, 0);
	farm_succeeds(running);
	lease = fake_job(&one)->lease;
	atomic_store(&jumped_seconds, -24 * 3600);
	fake_done(&one, lease, 0);
	farm_succeeds(waiting);
}

/* The journal's times are from a clock that was a day ahead. */
static void a_restart_with_the_clock_set_back_forgets_nothing(void **state)
{
	fake_connect(&one, 1);
	atomic_store(&jumped_seconds, 24 * 3600);
	char *name = run_one("a");
	fake_leave(&one);
	farm_end_server();
	atomic_store(&jumped_seconds, 0);
	farm_serve();
	fake_connect(&one, 1);
	work_for_a_while("later");
	farm_succeeds(farm_wait(name));
}

#define ON_A_FARM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_A_FARM(what_ended_is_remembered_for_an_hour_whatever_the_clock_says),
		ON_A_FARM(what_waits_and_runs_goes_on),
		ON_A_FARM(a_restart_with_the_clock_set_back_forgets_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
