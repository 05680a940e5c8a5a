/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A store that is kept at its budget: some write on and on, some hold blobs, some ask what is there and come
 * back for it within the lease that the answer gave, one watches the budget. CROFT_SECONDS=600 makes it the
 * long test of the issue; CROFT_SEED repeats the choices.
 */
#include "tests/unit/fs/store_place.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum {
	MIB = 1 << 20,
	BUDGET = 48 * MIB,
	LEASE_MS = 400,
	WRITERS = 2,
	ASKERS = 2,
	HELD = 40,
	ASKED = 16, /* blobs of one question */
};

static struct place *place;
static atomic_bool stop;
static atomic_uint newest; /* seeds below have been tried */
static atomic_ulong stored, refused, kept_answers, gone_later, most_bytes;
static struct croft_digest held[HELD];

static size_t size_of(unsigned seed)
{
	return seed % 32 == 0 ? 100000 + seed * 7919u % 400000 : 1 + seed * 7919u % 12000;
}

static struct croft_slice bytes_of(struct place *own, unsigned seed)
{
	return place_bytes(own, seed, size_of(seed));
}

/* Another thread's view: the same store, an arena of its own. */
static struct place own_place(void)
{
	struct place own = *place;
	own.arena = croft_arena_create();
	return own;
}

static void *write_on(void *user)
{
	struct place own = own_place();
	while (!atomic_load(&stop)) {
		unsigned seed = atomic_fetch_add(&newest, 1);
		struct croft_slice bytes = bytes_of(&own, seed);
		struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
		struct croft_error err = CROFT_ERROR_INIT;
		if (croft_store_put(own.store, &digest, bytes, &err))
			atomic_fetch_add(&stored, 1);
		else if (err.code == CROFT_RESOURCE_EXHAUSTED)
			atomic_fetch_add(&refused, 1);
		else
			fail_msg("put: %s", err.message);
		croft_arena_reset(own.arena);
	}
	croft_arena_destroy(own.arena);
	return NULL;
}

/* Asks for some, waits a part of the lease, and reads them: what was there must be there. */
static void ask_once(struct place *own, unsigned *random)
{
	struct croft_digest digests[ASKED];
	bool missing[ASKED];
	unsigned last = atomic_load(&newest);
	for (int i = 0; i < ASKED; i++) {
		unsigned seed = last - 1 - (unsigned)rand_r(random) % (last < 6000 ? last : 6000);
		struct croft_slice bytes = bytes_of(own, seed);
		digests[i] = croft_digest_of(bytes.data, bytes.size);
		croft_arena_reset(own->arena);
	}
	struct croft_error err = CROFT_ERROR_INIT;
	uint64_t asked_ns = croft_now_ns();
	if (!croft_store_find_missing(own->store, digests, ASKED, missing, &err))
		fail_msg("FindMissing: %s", err.message);
	usleep((unsigned)rand_r(random) % (LEASE_MS * 900));
	for (int i = 0; i < ASKED; i++) {
		bool there = missing[i] || place_has(own, &digests[i]);
		bool leased = croft_now_ns() - asked_ns < (uint64_t)(LEASE_MS - 1) * 1000000;
		if (!there && leased)
			fail_msg("a blob that was there is gone within its lease");
		if (!missing[i])
			atomic_fetch_add(there ? &kept_answers : &gone_later, 1);
		croft_arena_reset(own->arena);
	}
}

static void *ask_on(void *user)
{
	struct place own = own_place();
	unsigned random = *(unsigned *)user;
	while (!atomic_load(&stop))
		ask_once(&own, &random);
	croft_arena_destroy(own.arena);
	return NULL;
}

static void *watch(void *user)
{
	while (!atomic_load(&stop)) {
		struct croft_store_stat stat;
		croft_store_stat(place->store, &stat);
		if (stat.disk_bytes > stat.budget_bytes)
			fail_msg("%llu bytes are over the budget", (unsigned long long)stat.disk_bytes);
		if (stat.disk_bytes > atomic_load(&most_bytes))
			atomic_store(&most_bytes, stat.disk_bytes);
		usleep(1000);
	}
	return NULL;
}

static struct croft_hold *hold_some(void)
{
	struct croft_ref refs[HELD];
	for (unsigned i = 0; i < HELD; i++) {
		held[i] = place_put_seed(place, 1u << 30 | i, 1000 + i * 9000);
		refs[i] = (struct croft_ref){CROFT_REF_BLOB, held[i]};
	}
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_hold *hold = croft_store_hold(place->store, refs, HELD, &err);
	assert_ok(hold != NULL, err);
	return hold;
}

static void fill(void)
{
	while (place_stat(place).disk_bytes < BUDGET / 100 * 95 && place_stat(place).evicted_blobs == 0) {
		unsigned seed = atomic_fetch_add(&newest, 1);
		struct croft_slice bytes = bytes_of(place, seed);
		struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
		struct croft_error err = CROFT_ERROR_INIT;
		if (!croft_store_put(place->store, &digest, bytes, &err))
			assert_int_equal(err.code, CROFT_RESOURCE_EXHAUSTED);
		croft_arena_reset(place->arena);
	}
}

static void at_its_budget_the_store_keeps_what_is_leased(void **state)
{
	unsigned seconds = getenv("CROFT_SECONDS") ? (unsigned)atoi(getenv("CROFT_SECONDS")) : 5;
	unsigned random =
		getenv("CROFT_SEED") ? (unsigned)atoi(getenv("CROFT_SEED")) : (unsigned)croft_now_ns();
	print_message("CROFT_SEED=%u\n", random);
	place = place_create((struct croft_store_config){
		.durable = true, .budget_bytes = BUDGET, .lease_ms = LEASE_MS});
	struct croft_hold *hold = hold_some();
	fill();
	pthread_t threads[WRITERS + ASKERS + 1];
	unsigned seeds[ASKERS];
	for (int i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_on, NULL), 0);
	for (int i = 0; i < ASKERS; i++) {
		seeds[i] = random + (unsigned)i;
		assert_int_equal(pthread_create(&threads[WRITERS + i], NULL, ask_on, &seeds[i]), 0);
	}
	assert_int_equal(pthread_create(&threads[WRITERS + ASKERS], NULL, watch, NULL), 0);
	/* That long, and until something was evicted: a slow machine takes longer to fill it. */
	for (unsigned i = 0; i < seconds || (place_stat(place).evicted_blobs == 0 && i < 90); i++)
		sleep(1);
	atomic_store(&stop, true);
	for (int i = 0; i < WRITERS + ASKERS + 1; i++)
		pthread_join(threads[i], NULL);
	struct croft_store_stat stat = place_stat(place);
	print_message("stored %lu, refused %lu, evicted %llu; answers kept %lu, gone after the lease %lu; "
		"at most %lu of %llu bytes\n", atomic_load(&stored), atomic_load(&refused),
		(unsigned long long)stat.evicted_blobs, atomic_load(&kept_answers),
		atomic_load(&gone_later), atomic_load(&most_bytes), (unsigned long long)stat.budget_bytes);
	assert_true(stat.evicted_blobs > 0);
	assert_true(atomic_load(&kept_answers) > 0);
	for (unsigned i = 0; i < HELD; i++)
		assert_true(place_has(place, &held[i]));
	croft_store_release(hold);
	struct croft_fsck_report report;
	struct croft_error err = CROFT_ERROR_INIT;
	assert_ok(croft_store_fsck(place->store, false, NULL, NULL, &report, &err), err);
	assert_int_equal(report.bad_blobs, 0);
	place_destroy(place);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(at_its_budget_the_store_keeps_what_is_leased),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
