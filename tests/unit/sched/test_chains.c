/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs that others wait for: what placement does with chains, how it learns of them, what jobs are seen to hand on. */
#include "sched/core/handed.h"
#include "sched/placement/learn.h"
#include "tests/unit/fs/store_place.h"

enum { MIB = 1 << 20 };

static struct croft_digest root_of(unsigned number)
{
	return croft_digest_of(&number, sizeof(number));
}

/* One agent with one slot, which runs a job, and which holds root 7. */
static struct croft_placement *busy_place(struct croft_placement_job **running)
{
	struct croft_placement *placement =
		croft_placement_create(&(struct croft_placement_config){.seed = 1});
	uint32_t agent = croft_placement_agent_add(placement, &(struct croft_placement_agent){.slots = 1});
	struct croft_digest digest = root_of(7);
	assert_true(croft_placement_delta_begin(placement, agent, 1, 1, true));
	croft_placement_present(placement, agent, &digest, 100 * MIB, 100 * MIB);
	*running = croft_placement_job_add(placement, &(struct croft_placement_job_info){.user = "first"}, 0);
	struct croft_decision decision;
	assert_true(croft_placement_next(placement, 0, &decision, NULL));
	return placement;
}

static void add(struct croft_placement *placement, const char *kind, unsigned root, double critical_seconds)
{
	struct croft_placement_input input = {root_of(root), 100 * MIB, root};
	croft_placement_job_add(placement, &(struct croft_placement_job_info){.kind = croft_slice_str(kind),
		.critical_seconds = critical_seconds, .inputs = &input, .input_count = 1, .user = (void *)kind}, 0);
}

static const char *next_after(struct croft_placement *placement, struct croft_placement_job *running)
{
	struct croft_decision decision;
	croft_placement_job_end(placement, running, NULL, 1);
	assert_true(croft_placement_next(placement, 1, &decision, NULL));
	return decision.job_user;
}

static void a_long_chain_goes_before_bytes(void **state)
{
	struct croft_placement_job *running;
	struct croft_placement *placement = busy_place(&running);
	add(placement, "leaf", 7, 0);
	add(placement, "chain", 8, 1000);
	assert_string_equal(next_after(placement, running), "chain");
	croft_placement_destroy(placement);
}

static void bytes_decide_among_long_chains(void **state)
{
	struct croft_placement_job *running;
	struct croft_placement *placement = busy_place(&running);
	add(placement, "chain", 8, 1000);
	add(placement, "there", 7, 600);
	assert_string_equal(next_after(placement, running), "there");
	croft_placement_destroy(placement);
}

/* 100 jobs of 10 s each, as long as nothing is known of them. */
static void a_chain_that_is_shorter_than_the_queue_does_not_matter(void **state)
{
	struct croft_placement_job *running;
	struct croft_placement *placement = busy_place(&running);
	add(placement, "chain", 8, 100);
	add(placement, "leaf", 7, 0);
	for (unsigned i = 0; i < 98; i++)
		add(placement, "other", 8, 0);
	assert_string_equal(next_after(placement, running), "leaf");
	croft_placement_destroy(placement);
}

/* A job of that kind runs, reads and makes. */
static void run(struct croft_placement *placement, const char *kind, double seconds, uint64_t read, uint64_t made)
{
	struct croft_placement_job *job = croft_placement_job_add(placement,
		&(struct croft_placement_job_info){.kind = croft_slice_str(kind)}, 0);
	struct croft_decision decision;
	assert_true(croft_placement_next(placement, 0, &decision, NULL));
	assert_ptr_equal(decision.job, job);
	struct croft_handed handed = {&read, &made, read != 0, made != 0};
	croft_placement_job_handed(placement, job, seconds, &handed);
	croft_placement_job_end(placement, job, &(struct croft_placement_outcome){.run_seconds = seconds}, 0);
}

static void load_record(void *user, struct croft_slice record)
{
	assert_true(croft_placement_load(user, record));
}

static void what_follows_a_kind_is_learned_and_outlasts_a_restart(void **state)
{
	struct croft_placement_job *running;
	struct croft_placement *before = busy_place(&running);
	croft_placement_job_end(before, running, NULL, 0);
	run(before, "configure", 1, 0, 11);
	run(before, "compile", 30, 11, 12);
	run(before, "link", 50, 12, 13);
	run(before, "compile", 30, 11, 12); /* now it is known what follows a compile */
	struct croft_placement *placement = busy_place(&running);
	croft_placement_save(before, load_record, placement);
	add(placement, "leaf", 7, 0);
	add(placement, "compile", 8, 0);
	add(placement, "configure", 9, 0);
	assert_string_equal(next_after(placement, running), "compile"); /* 50 s are more than half of 80 */
	croft_placement_destroy(placement);
	croft_placement_destroy(before);
}

static void a_circle_of_kinds_has_an_end(void **state)
{
	struct learn *learn = learn_create();
	uint32_t one = learn_kind(learn, 1), other = learn_kind(learn, 2);
	for (int i = 0; i < 10000; i++) {
		learn_follows(learn, 1, 2, 10);
		learn_follows(learn, 2, 1, 10);
		learn_follows(learn, 1, 1, 10);
	}
	assert_true(learn_behind_seconds(learn, one, 0) <= LEARN_CHAIN * 10);
	assert_true(learn_behind_seconds(learn, other, 0) > 0);
	learn_destroy(learn);
}

/* What follows only sometimes is believed; what does not follow any more is forgotten, slowly. */
static void the_longest_chain_counts(void **state)
{
	struct learn *learn = learn_create();
	uint32_t maker = learn_kind(learn, 1);
	learn_kind(learn, 2);
	learn_kind(learn, 3);
	learn_follows(learn, 1, 2, 100);
	learn_follows(learn, 1, 3, 1);
	assert_true(learn_behind_seconds(learn, maker, 0) > 90);
	for (int i = 0; i < 1000; i++)
		learn_follows(learn, 1, 3, 1);
	assert_true(learn_behind_seconds(learn, maker, 0) < 2);
	learn_destroy(learn);
}

/* Handed ------------------------------------------------------------------------------------------- */

static uint64_t start_of(const struct croft_digest *digest)
{
	uint64_t start;
	memcpy(&start, digest->hash, sizeof(start));
	return start;
}

static bool has(const uint64_t *items, size_t count, const struct croft_digest *digest)
{
	for (size_t i = 0; i < count; i++)
		if (items[i] == start_of(digest))
			return true;
	return false;
}

static Reapi__Digest *message_of(const struct croft_digest *digest, struct croft_arena *arena)
{
	return croft_digest_to_message(digest, arena);
}

static struct croft_digest put_directory(struct place *place, const Reapi__Directory *directory)
{
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_slice bytes = croft_message_encode(&directory->base, place->arena);
	struct croft_digest digest = croft_digest_of(bytes.data, bytes.size);
	assert_ok(croft_store_put(place->store, &digest, bytes, &err), err);
	return digest;
}

static void a_job_hands_on_files_and_what_its_directories_hold(void **state)
{
	struct place *place = place_create((struct croft_store_config){0});
	struct croft_arena *arena = place->arena;
	struct croft_digest file = root_of(1), inner = root_of(2), opened = root_of(3), empty = croft_digest_of("", 0);
	Reapi__FileNode node = REAPI__FILE_NODE__INIT;
	node.name = (char *)"a";
	node.digest = message_of(&inner, arena);
	Reapi__Directory below = REAPI__DIRECTORY__INIT, top = REAPI__DIRECTORY__INIT;
	below.n_files = 1;
	below.files = (Reapi__FileNode *[]){&node};
	struct croft_digest below_digest = put_directory(place, &below);
	Reapi__DirectoryNode child = REAPI__DIRECTORY_NODE__INIT;
	child.name = (char *)"lib";
	child.digest = message_of(&below_digest, arena);
	top.n_directories = 1;
	top.directories = (Reapi__DirectoryNode *[]){&child};
	struct croft_digest top_digest = put_directory(place, &top);
	Reapi__OutputFile output = REAPI__OUTPUT_FILE__INIT, nothing = REAPI__OUTPUT_FILE__INIT;
	output.digest = message_of(&file, arena);
	nothing.digest = message_of(&empty, arena);
	Reapi__OutputDirectory tree = REAPI__OUTPUT_DIRECTORY__INIT;
	tree.root_directory_digest = message_of(&top_digest, arena);
	Reapi__ActionResult result = REAPI__ACTION_RESULT__INIT;
	result.n_output_files = 2;
	result.output_files = (Reapi__OutputFile *[]){&output, &nothing};
	result.n_output_directories = 1;
	result.output_directories = (Reapi__OutputDirectory *[]){&tree};
	Farm__AccessProfile__Touch touch = FARM__ACCESS_PROFILE__TOUCH__INIT;
	touch.digest = message_of(&opened, arena);
	Farm__AccessProfile profile = FARM__ACCESS_PROFILE__INIT;
	profile.n_touches = 1;
	profile.touches = (Farm__AccessProfile__Touch *[]){&touch};
	Farm__JobDone done = FARM__JOB_DONE__INIT;
	done.result = &result;
	done.profile = &profile;
	struct croft_handed handed = handed_of(place->store, &done, arena);
	assert_int_equal(handed.read_count, 1);
	assert_true(has(handed.read, handed.read_count, &opened));
	assert_int_equal(handed.made_count, 4);
	assert_true(has(handed.made, handed.made_count, &file));
	assert_true(has(handed.made, handed.made_count, &top_digest));
	assert_true(has(handed.made, handed.made_count, &below_digest));
	assert_true(has(handed.made, handed.made_count, &inner));
	place_destroy(place);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_long_chain_goes_before_bytes),
		cmocka_unit_test(bytes_decide_among_long_chains),
		cmocka_unit_test(a_chain_that_is_shorter_than_the_queue_does_not_matter),
		cmocka_unit_test(what_follows_a_kind_is_learned_and_outlasts_a_restart),
		cmocka_unit_test(a_circle_of_kinds_has_an_end),
		cmocka_unit_test(the_longest_chain_counts),
		cmocka_unit_test(a_job_hands_on_files_and_what_its_directories_hold),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
