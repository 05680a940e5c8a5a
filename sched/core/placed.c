/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tasks as placement sees them: what they are like, who shares fairly with whom, what they read.
 */
#include "sched/core/core.h"

#include "proto/base/io.h"

#include <stdio.h>
#include <stdlib.h>

static const double RESTORE_SECONDS = 0.5;

double placed_now(void)
{
	return (double)croft_now_ns() / 1e9;
}

/* What a task is like. Clients that say what they build (Bazel's target and mnemonic) are taken at
 * their word; for others it is the command and its first output. */
void placed_describe(const struct task *task, struct croft_placement_job_info *info,
	struct croft_arena *arena)
{
	const Reapi__RequestMetadata *metadata = task->request_metadata.size
		? croft_message_decode(&reapi__request_metadata__descriptor, task->request_metadata, arena,
			  NULL, NULL)
		: NULL;
	const char *text = task->description ? task->description : "";
	const char *kind = text, *build = "";
	const char *family = croft_arena_strndup(arena, text, strcspn(text, " "));
	if (metadata) {
		build = metadata->tool_invocation_id;
		if (*metadata->target_id && *metadata->action_mnemonic) {
			family = metadata->action_mnemonic;
			kind = croft_arena_printf(arena, "%s %s", family, metadata->target_id);
		}
	}
	info->kind = croft_slice_str(kind);
	info->family = croft_slice_str(family);
	/* Builds share the farm evenly, whatever they ask for. */
	info->tenant = croft_slice_str(croft_arena_printf(arena, "%s\n%s", task->instance_name, build));
}

/* Of any length, and keys of the store are short. Instances do not learn from one another. */
static const char *key_of(const struct task *task, const char *what, struct croft_slice text,
	struct croft_arena *arena)
{
	char *hash = croft_arena_alloc(arena, CROFT_HASH_TEXT);
	const char *whole = croft_arena_printf(arena, "%s\n%s\n%s\n%.*s", what, task->instance_name,
		task->class ? task->class->key : "", (int)text.size, (const char *)text.data);
	croft_hash_format(croft_digest_of(whole, strlen(whole)).hash, hash);
	return hash;
}

const char *const *placed_kinds(const struct task *task, struct croft_arena *arena)
{
	struct croft_placement_job_info info;
	const char **kinds = croft_arena_array(arena, JOB_KINDS, sizeof(*kinds));
	placed_describe(task, &info, arena);
	kinds[0] = key_of(task, "kind", info.kind, arena);
	kinds[1] = key_of(task, "family", info.family, arena);
	return kinds;
}

/* Without what only placement's account of memory knows. */
static size_t requirements_of(const struct task_class *class, const char **requirements)
{
	size_t count = 0;
	for (size_t i = 0; i < class->requirement_count; i++)
		if (!class_is_memory(class->requirements[i]))
			requirements[count++] = class->requirements[i];
	return count;
}

size_t placed_of_tenant(struct croft_sched *sched, const struct task *task)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_placement_job_info info;
	placed_describe(task, &info, arena);
	return croft_placement_tenant_jobs(sched->placement, info.tenant);
}

static void introduce(struct croft_sched *sched, struct task *task)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	const char **requirements =
		croft_arena_array(arena, task->class->requirement_count, sizeof(*requirements));
	struct croft_placement_job_info info = {
		.requirements = requirements,
		.requirement_count = requirements_of(task->class, requirements),
		.memory_bytes = task->class->memory_bytes,
		.priority = task->priority,
		.inputs = task->inputs,
		.input_count = task->input_count,
		.user = task,
	};
	info.hint = task->hint;
	if (!info.hint)
		memcpy(&info.hint, task->input_root.hash, sizeof(info.hint));
	placed_describe(task, &info, arena);
	task->placed = croft_placement_job_add(sched->placement, &info, placed_now());
	free(task->inputs);
	task->inputs = NULL;
	task->input_count = 0;
}

static void enter_queue(struct croft_sched *sched, struct task *task)
{
	TAILQ_INSERT_TAIL(&sched->queue, task, queue_link);
	sched->queued++;
	task->class->queued++;
}

void placed_queue(struct croft_sched *sched, struct task *task)
{
	if (task->placed)
		croft_placement_job_requeue(sched->placement, task->placed, placed_now());
	else
		introduce(sched, task);
	enter_queue(sched, task);
}

void placed_restore(struct croft_sched *sched, struct task *task)
{
	enter_queue(sched, task);
}

static int by_sequence(const void *a, const void *b)
{
	const struct task *const *one = a, *const *other = b;
	return ((*one)->sequence > (*other)->sequence) - ((*one)->sequence < (*other)->sequence);
}

void placed_restored(struct croft_sched *sched)
{
	CROFT_CLEANUP_FREE struct task **tasks = croft_array(sched->queued + 1, sizeof(*tasks));
	size_t count = 0;
	struct task *task;
	while ((task = TAILQ_FIRST(&sched->queue))) {
		TAILQ_REMOVE(&sched->queue, task, queue_link);
		tasks[count++] = task;
	}
	qsort(tasks, count, sizeof(*tasks), by_sequence);
	/* What they read is found out again, as far as that does not hold up the start. */
	double until = placed_now() + RESTORE_SECONDS;
	for (size_t i = 0; i < count; i++) {
		if (placed_now() < until)
			tasks[i]->inputs =
				placed_inputs(sched, &tasks[i]->input_root, &tasks[i]->input_count);
		introduce(sched, tasks[i]);
		TAILQ_INSERT_TAIL(&sched->queue, tasks[i], queue_link);
	}
}

void placed_unqueue(struct croft_sched *sched, struct task *task)
{
	TAILQ_REMOVE(&sched->queue, task, queue_link);
	sched->queued--;
	task->class->queued--;
}

void placed_adopt(struct croft_sched *sched, struct task *task, struct agent *agent)
{
	introduce(sched, task);
	croft_placement_job_adopt(sched->placement, task->placed, agent->placed, placed_now());
}

void placed_end(struct croft_sched *sched, struct task *task)
{
	if (!task->placed)
		return;
	static const struct croft_placement_outcome unknown = {0};
	croft_placement_job_end(
		sched->placement, task->placed, task->outcome ? task->outcome : &unknown, placed_now());
	task->placed = NULL;
}

/* Inputs and presence ------------------------------------------------------------------------------ */

struct croft_placement_input *placed_inputs(struct croft_sched *sched,
	const struct croft_digest *input_root, size_t *count)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_root *roots;
	*count = 0;
	if (!croft_roots_find(sched->roots, input_root, arena, &roots, count, NULL))
		return NULL;
	struct croft_placement_input *inputs = croft_array(*count, sizeof(*inputs));
	for (size_t i = 0; i < *count; i++)
		inputs[i] = (struct croft_placement_input){roots[i].digest, roots[i].bytes, roots[i].label};
	return inputs;
}

void placed_presence(struct croft_sched *sched, struct agent *agent, const Farm__PresentRoot *root)
{
	struct croft_digest digest;
	if (agent->placed != UINT32_MAX &&
		croft_digest_from_message(root->root, "a root", &digest, NULL))
		croft_placement_present(sched->placement, agent->placed, &digest, root->present_bytes,
			root->total_bytes);
}

/* What was there before the run counts as read too: it was read by a job like this one, or by others
 * that share the root. */
struct croft_placement_touch *placed_touched(struct croft_sched *sched,
	const struct croft_digest *input_root, const Farm__JobDone *done, size_t *count)
{
	CROFT_CLEANUP_ARENA struct croft_arena *arena = croft_arena_create();
	struct croft_root *roots;
	size_t root_count;
	*count = 0;
	if (done->n_roots == 0 ||
		!croft_roots_find(sched->roots, input_root, arena, &roots, &root_count, NULL))
		return NULL;
	struct croft_placement_touch *touched = croft_array(done->n_roots, sizeof(*touched));
	for (size_t i = 0; i < done->n_roots; i++) {
		struct croft_digest digest;
		const Farm__PresentRoot *said = done->roots[i];
		if (!said->total_bytes || !croft_digest_from_message(said->root, "a root", &digest, NULL))
			continue;
		size_t at = 0;
		while (at < root_count && !croft_digest_equal(&roots[at].digest, &digest))
			at++;
		if (at < root_count)
			touched[(*count)++] = (struct croft_placement_touch){
				roots[at].label, (float)((double)said->present_bytes / (double)said->total_bytes)};
	}
	return touched;
}
