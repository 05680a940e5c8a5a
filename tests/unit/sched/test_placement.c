/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/test.h"

#include "sched/placement.h"

#include <math.h>

enum { MIB = 1 << 20 };

static struct croft_placement *placement_of(enum croft_policy policy)
{
	return croft_placement_create(&(struct croft_placement_config){.policy = policy, .seed = 1});
}

static uint32_t add_agent(struct croft_placement *placement, unsigned slots, const char *property)
{
	return croft_placement_agent_add(placement, &(struct croft_placement_agent){
		.properties = &property, .property_count = property != NULL, .slots = slots});
}

static struct croft_digest root_of(unsigned number)
{
	return croft_digest_of(&number, sizeof(number));
}

struct wish {
	const char *tenant, *kind, *requirement;
	int32_t priority;
	unsigned root; /* 0: no inputs */
	uint64_t hint;
};

static struct croft_placement_job *add_job(struct croft_placement *placement, struct wish wish,
	double now)
{
	struct croft_placement_input input = {root_of(wish.root), 100 * MIB, wish.root};
	return croft_placement_job_add(placement, &(struct croft_placement_job_info){
		.tenant = croft_slice_str(wish.tenant ? wish.tenant : ""),
		.kind = croft_slice_str(wish.kind ? wish.kind : "kind"),
		.requirements = &wish.requirement, .requirement_count = wish.requirement != NULL,
		.priority = wish.priority, .hint = wish.hint, .inputs = &input, .input_count = wish.root != 0}, now);
}

static void hold(struct croft_placement *placement, uint32_t agent, unsigned root, uint64_t sequence)
{
	struct croft_digest digest = root_of(root);
	assert_true(croft_placement_delta_begin(placement, agent, 1, sequence, sequence == 1));
	croft_placement_present(placement, agent, &digest, 100 * MIB, 100 * MIB);
}

static struct croft_decision next(struct croft_placement *placement, double now)
{
	struct croft_decision decision;
	assert_true(croft_placement_next(placement, now, &decision, NULL));
	return decision;
}

static bool nothing(struct croft_placement *placement, double now)
{
	struct croft_decision decision;
	return !croft_placement_next(placement, now, &decision, NULL);
}

static void a_job_goes_where_its_bytes_are(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	uint32_t holder = 0;
	for (unsigned i = 0; i < 50; i++) {
		uint32_t agent = add_agent(placement, 4, NULL);
		if (i == 17)
			holder = agent;
	}
	hold(placement, holder, 7, 1);
	add_job(placement, (struct wish){.root = 7}, 0);
	struct croft_decision decision = next(placement, 0);
	assert_int_equal(decision.agent, holder);
	assert_int_equal(decision.candidates[0].bytes_missing, 0);
	assert_true(decision.candidate_count > 1);
	assert_true(decision.candidates[1].bytes_missing > 0);
	croft_placement_destroy(placement);
}

static void assert_adds_up(const struct croft_candidate *candidate)
{
	const double terms[] = {candidate->wait_seconds, candidate->fetch_seconds, candidate->run_seconds,
		candidate->others_seconds, candidate->apart_seconds};
	double sum = 0;
	for (size_t i = 0; i < 5; i++) {
		assert_true(terms[i] >= 0);
		sum += terms[i];
	}
	assert_true(fabs(sum - candidate->score_seconds) < 1e-6);
}

static void what_candidates_cost_is_told_term_by_term(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	for (unsigned i = 0; i < 3; i++)
		add_agent(placement, 1, NULL);
	/* Of one hint, so that the second would rather follow the first than lie on an agent of its own. */
	for (unsigned i = 0; i < 4; i++)
		add_job(placement, (struct wish){.root = 7, .hint = 5}, 0);
	for (unsigned i = 0; i < 3; i++) {
		struct croft_decision decision = next(placement, 0);
		/* Also where a job is chosen for a slot, and not an agent for a job. */
		assert_true(decision.candidate_count > 0);
		for (size_t c = 0; c < decision.candidate_count; c++)
			assert_adds_up(&decision.candidates[c]);
	}
	struct croft_placement_job *waiting = add_job(placement, (struct wish){.root = 7, .hint = 5}, 0);
	struct croft_decision decision;
	uint64_t before;
	croft_placement_explain(placement, waiting, 1, &decision, &before);
	assert_int_equal(before, 1);
	assert_int_equal(decision.candidate_count, 3);
	unsigned apart = 0;
	for (size_t c = 0; c < decision.candidate_count; c++) {
		assert_adds_up(&decision.candidates[c]);
		assert_true(decision.candidates[c].wait_seconds > 0); /* all are busy */
		apart += decision.candidates[c].apart_seconds > 0;
	}
	assert_int_equal(apart, 2);
	croft_placement_destroy(placement);
}

static void a_busy_holder_is_not_waited_for(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	uint32_t holder = add_agent(placement, 1, NULL), other = add_agent(placement, 1, NULL);
	hold(placement, holder, 7, 1);
	add_job(placement, (struct wish){.root = 7}, 0);
	add_job(placement, (struct wish){.root = 7}, 0);
	assert_int_equal(next(placement, 0).agent, holder);
	assert_int_equal(next(placement, 0).agent, other);
	assert_true(nothing(placement, 0));
	croft_placement_destroy(placement);
}

/* What a full cache takes in pushes out as much: another agent is as good, and loses nothing. */
static void a_full_cache_is_spared(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	uint32_t full = add_agent(placement, 4, NULL), roomy = add_agent(placement, 4, NULL);
	hold(placement, roomy, 7, 1); /* so that by itself the other would be taken: it holds less */
	struct croft_decision decision = (add_job(placement, (struct wish){.root = 1}, 0), next(placement, 0));
	assert_int_equal(decision.agent, full);
	croft_placement_agent_cache(placement, full, 8000ull * MIB, 8000ull * MIB);
	croft_placement_agent_cache(placement, roomy, 100 * MIB, 8000ull * MIB);
	decision = (add_job(placement, (struct wish){.root = 2}, 1), next(placement, 1));
	assert_int_equal(decision.agent, roomy);
	/* All that it would bring would push out others. */
	assert_int_equal(decision.candidate_count, 2);
	double pushed_out = decision.candidates[1].others_seconds - decision.candidates[0].others_seconds;
	double brought = (double)decision.candidates[1].bytes_missing / 125e6;
	assert_true(brought > 0.1 && pushed_out > brought && pushed_out < 1.7 * brought);
	/* What it holds already pushes out nothing. */
	hold(placement, full, 3, 1);
	decision = (add_job(placement, (struct wish){.root = 3}, 2), next(placement, 2));
	assert_int_equal(decision.agent, full);
	croft_placement_agent_cache(placement, full, 8000ull * MIB, 0);
	decision = (add_job(placement, (struct wish){.root = 4}, 3), next(placement, 3));
	assert_true(decision.candidates[1].others_seconds - decision.candidates[0].others_seconds < brought);
	croft_placement_destroy(placement);
}

static void requirements_are_met_or_the_job_waits(void **state)
{
	for (int policy = 0; policy < CROFT_POLICY_COUNT; policy++) {
		struct croft_placement *placement = placement_of((enum croft_policy)policy);
		add_agent(placement, 8, "ISA=x86-64");
		struct croft_placement_job *job =
			add_job(placement, (struct wish){.requirement = "ISA=arm"}, 0);
		assert_true(nothing(placement, 100));
		struct croft_decision why;
		uint64_t before;
		croft_placement_explain(placement, job, 100, &why, &before);
		assert_true(why.reason && *why.reason);
		uint32_t arm = add_agent(placement, 1, "ISA=arm");
		assert_int_equal(next(placement, 100).agent, arm);
		croft_placement_destroy(placement);
	}
}

static void a_lower_priority_number_goes_first(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	uint32_t agent = add_agent(placement, 1, NULL);
	struct croft_placement_job *late = add_job(placement, (struct wish){.priority = 5}, 0);
	struct croft_placement_job *soon = add_job(placement, (struct wish){.priority = -5}, 1);
	struct croft_decision decision = next(placement, 2);
	assert_ptr_equal(decision.job, soon);
	croft_placement_job_end(placement, soon, &(struct croft_placement_outcome){0}, 3);
	assert_ptr_equal(next(placement, 3).job, late);
	assert_int_equal(decision.agent, agent);
	croft_placement_destroy(placement);
}

static void tenants_share_fairly(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	add_agent(placement, 10, NULL);
	for (int i = 0; i < 100; i++)
		add_job(placement, (struct wish){.tenant = "many"}, i * 0.01);
	struct croft_placement_job *few[3];
	for (int i = 0; i < 3; i++)
		few[i] = add_job(placement, (struct wish){.tenant = "few"}, 2);
	int seen = 0;
	for (int i = 0; i < 10; i++) {
		struct croft_decision decision = next(placement, 3);
		for (int k = 0; k < 3; k++)
			seen += decision.job == few[k];
	}
	assert_int_equal(seen, 3);
	croft_placement_destroy(placement);
}

static void no_job_is_passed_over_too_often(void **state)
{
	struct croft_placement *placement = croft_placement_create(
		&(struct croft_placement_config){.window = 8, .max_skips = 5, .oldest_every = 1000});
	uint32_t agent = add_agent(placement, 1, NULL);
	hold(placement, agent, 7, 1);
	struct croft_placement_job *foreign = add_job(placement, (struct wish){.root = 9}, 0);
	for (int i = 0; i < 6; i++)
		add_job(placement, (struct wish){.root = 7}, 1);
	for (int i = 0; i < 50; i++) {
		struct croft_decision decision = next(placement, 2 + i);
		assert_in_range(decision.skipped, 0, 5);
		if (decision.job == foreign) {
			assert_in_range(i, 0, 5);
			croft_placement_destroy(placement);
			return;
		}
		croft_placement_job_end(
			placement, decision.job, &(struct croft_placement_outcome){.run_seconds = 1}, 2 + i);
		add_job(placement, (struct wish){.root = 7}, 2 + i);
	}
	fail();
}

static void closed_and_paused_agents_get_nothing(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	uint32_t agent = add_agent(placement, 1, NULL);
	add_job(placement, (struct wish){0}, 0);
	croft_placement_agent_open(placement, agent, false);
	assert_true(nothing(placement, 0));
	croft_placement_agent_open(placement, agent, true);
	croft_placement_agent_pause(placement, agent, 10);
	struct croft_decision decision;
	double wake;
	assert_false(croft_placement_next(placement, 1, &decision, &wake));
	assert_true(wake <= 10);
	assert_int_equal(next(placement, 10.1).agent, agent);
	croft_placement_destroy(placement);
}

static void a_requeued_job_keeps_its_turn(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	add_agent(placement, 1, NULL);
	struct croft_placement_job *first = add_job(placement, (struct wish){0}, 0);
	add_job(placement, (struct wish){0}, 1);
	assert_ptr_equal(next(placement, 2).job, first);
	croft_placement_job_requeue(placement, first, 3);
	assert_ptr_equal(next(placement, 4).job, first);
	croft_placement_destroy(placement);
}

static void a_lost_delta_asks_for_a_snapshot(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	uint32_t agent = add_agent(placement, 1, NULL);
	assert_false(croft_placement_delta_begin(placement, agent, 1, 5, false));
	assert_true(croft_placement_delta_begin(placement, agent, 1, 5, true));
	assert_true(croft_placement_delta_begin(placement, agent, 1, 6, false));
	assert_false(croft_placement_delta_begin(placement, agent, 1, 8, false));
	assert_false(croft_placement_delta_begin(placement, agent, 2, 7, false));
	croft_placement_destroy(placement);
}

static void load_record(void *user, struct croft_slice record)
{
	assert_true(croft_placement_load(user, record));
}

static void what_was_learned_outlasts_a_restart(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	add_agent(placement, 1, NULL);
	for (int i = 0; i < 10; i++) {
		add_job(placement, (struct wish){.kind = "slow", .root = 3}, i);
		struct croft_placement_touch touch = {3, 0.1f};
		croft_placement_job_end(placement, next(placement, i).job,
			&(struct croft_placement_outcome){
				.run_seconds = 40, .touched = &touch, .touched_count = 1}, i);
	}
	struct croft_placement *after = placement_of(CROFT_POLICY_LOCALITY);
	croft_placement_save(placement, load_record, after);
	struct croft_placement_job *job = add_job(after, (struct wish){.kind = "slow", .root = 3}, 0);
	double seconds = croft_placement_job_run_seconds(after, job);
	assert_true(seconds > 20 && seconds < 80);
	assert_false(croft_placement_load(after, CROFT_SLICE("nonsense", 8)));
	croft_placement_destroy(after);
	croft_placement_destroy(placement);
}

static void every_policy_places_everything_once(void **state)
{
	for (int policy = 0; policy < CROFT_POLICY_COUNT; policy++) {
		struct croft_placement *placement = placement_of((enum croft_policy)policy);
		for (int i = 0; i < 5; i++)
			add_agent(placement, 3, NULL);
		for (unsigned i = 0; i < 200; i++)
			add_job(placement, (struct wish){.root = 1 + i % 20, .tenant = i % 3 ? "a" : "b"}, i * 0.1);
		int placed = 0;
		for (double now = 100; now < 1000 && placed < 200; now++) {
			struct croft_decision decision;
			while (croft_placement_next(placement, now, &decision, NULL)) {
				placed++;
				croft_placement_job_end(placement, decision.job,
					&(struct croft_placement_outcome){.run_seconds = 1}, now);
			}
		}
		assert_int_equal(placed, 200);
		struct croft_placement_stat stat;
		croft_placement_stat(placement, &stat);
		assert_int_equal(stat.queued + stat.running, 0);
		croft_placement_destroy(placement);
	}
}

static void devices_and_cpus_are_counted(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	uint32_t agent = add_agent(placement, 8, "croft-resource-gpu=3");
	add_agent(placement, 8, "croft-cpus=4");
	struct croft_placement_job *first =
		add_job(placement, (struct wish){.requirement = "croft-resource-gpu=2"}, 0);
	add_job(placement, (struct wish){.requirement = "croft-resource-gpu=2"}, 0);
	assert_int_equal(next(placement, 0).agent, agent);
	assert_true(nothing(placement, 0));
	croft_placement_job_end(placement, first, NULL, 1);
	assert_int_equal(next(placement, 1).agent, agent);
	add_job(placement, (struct wish){.requirement = "croft-resource-gpu=4"}, 1);
	assert_true(nothing(placement, 1));
	croft_placement_destroy(placement);
}

static void memory_is_not_given_twice(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	croft_placement_agent_add(placement,
		&(struct croft_placement_agent){.slots = 4, .memory_bytes = 100 * MIB});
	struct croft_placement_job_info info = {.kind = croft_slice_str("k"), .memory_bytes = 60 * MIB};
	croft_placement_job_add(placement, &info, 0);
	croft_placement_job_add(placement, &info, 0);
	next(placement, 0);
	assert_true(nothing(placement, 0));
	croft_placement_destroy(placement);
}

static void jobs_of_a_tenant_are_counted_until_they_end(void **state)
{
	struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
	add_agent(placement, 1, NULL);
	struct croft_placement_job *job = add_job(placement, (struct wish){.tenant = "a"}, 0);
	add_job(placement, (struct wish){.tenant = "a"}, 0);
	add_job(placement, (struct wish){.tenant = "b"}, 0);
	assert_int_equal(croft_placement_tenant_jobs(placement, croft_slice_str("a")), 2);
	croft_placement_job_end(placement, job, NULL, 0);
	assert_int_equal(croft_placement_tenant_jobs(placement, croft_slice_str("a")), 1);
	assert_int_equal(croft_placement_tenant_jobs(placement, croft_slice_str("c")), 0);
	croft_placement_destroy(placement);
}

static void peers_are_those_that_hold_the_inputs_whatever_they_run(void **state)
{
	/* A few agents, and more than are looked at one by one. */
	for (unsigned count = 3; count <= 300; count += 297) {
		struct croft_placement *placement = placement_of(CROFT_POLICY_LOCALITY);
		uint32_t last = 0, peers[8];
		for (unsigned i = 0; i < count; i++)
			last = add_agent(placement, 1, i == 0 ? "ISA=x86-64" : i == count - 1 ? "ISA=arm" : NULL);
		hold(placement, last, 7, 1);
		croft_placement_agent_open(placement, last, false);
		struct croft_placement_job *job =
			add_job(placement, (struct wish){.root = 7, .requirement = "ISA=x86-64"}, 0);
		assert_int_equal(next(placement, 0).agent, 0);
		assert_int_equal(croft_placement_peers(placement, job, 0, peers, 8), 1);
		assert_int_equal(peers[0], last);
		/* Nobody is a peer of its own. */
		hold(placement, 0, 7, 1);
		assert_int_equal(croft_placement_peers(placement, job, 0, peers, 8), 1);
		assert_int_equal(croft_placement_peers(placement, job, last, peers, 8), 1);
		assert_int_equal(peers[0], 0);
		croft_placement_destroy(placement);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(devices_and_cpus_are_counted),
		cmocka_unit_test(memory_is_not_given_twice),
		cmocka_unit_test(jobs_of_a_tenant_are_counted_until_they_end),
		cmocka_unit_test(a_job_goes_where_its_bytes_are),
		cmocka_unit_test(what_candidates_cost_is_told_term_by_term),
		cmocka_unit_test(a_busy_holder_is_not_waited_for),
		cmocka_unit_test(a_full_cache_is_spared),
		cmocka_unit_test(requirements_are_met_or_the_job_waits),
		cmocka_unit_test(a_lower_priority_number_goes_first),
		cmocka_unit_test(tenants_share_fairly),
		cmocka_unit_test(no_job_is_passed_over_too_often),
		cmocka_unit_test(peers_are_those_that_hold_the_inputs_whatever_they_run),
		cmocka_unit_test(closed_and_paused_agents_get_nothing),
		cmocka_unit_test(a_requeued_job_keeps_its_turn),
		cmocka_unit_test(a_lost_delta_asks_for_a_snapshot),
		cmocka_unit_test(what_was_learned_outlasts_a_restart),
		cmocka_unit_test(every_policy_places_everything_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
