/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/job.h"

#include "agent/account.h"
#include "agent/command.h"
#include "agent/image.h"
#include "agent/logs.h"
#include "agent/nested.h"
#include "agent/opens.h"
#include "agent/options.h"
#include "agent/outputs.h"
#include "agent/paths.h"
#include "agent/peers.h"
#include "agent/presence.h"
#include "agent/sealed.h"
#include "agent/stall.h"
#include "agent/touched.h"
#include "agent/uplink.h"
#include "agent/verdict.h"
#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct croft_job {
	const struct croft_machine *machine;
	const Farm__Job *message;
	struct croft_arena *arena; /* the message's, and all that the report holds */

	Farm__AgentMessage report;
	Farm__JobDone done;
	Reapi__ActionResult result;
	Reapi__ExecutedActionMetadata metadata;

	struct croft_digest input_root;
	struct croft_layout layout;
	struct croft_job_options options;
	bool over_image;  /* else the input root is "/" */
	bool sealed;      /* nothing but the layout's writable directories may be written to */
	struct croft_staged image, input;
	struct croft_job_logs *logs;
	struct croft_opens *opens; /* NULL: the kernel does not tell */
	struct croft_touched touched;
	uint64_t output_connection[2]; /* by which stdout and stderr went to the server last */
	bool line_open; /* stderr does not end with a whole line */
	unsigned left_out; /* of its outputs: what no tree can hold */
	struct croft_nested *nested; /* its own way to the farm; or NULL */
	struct croft_sandbox_mount nested_mount;
	bool prefetched;
	bool accounted;            /* the filesystem daemon counts what it fetches */
	uint64_t pid_namespace;    /* 0 until the sandbox started */
	int64_t unix_less_now_ns;  /* when it began: its times fit together, though the time of day may jump */
	uint64_t granted_stall_ms; /* by which the timeout was put off so far */

	pthread_mutex_t lock; /* guards: sandbox, cancel_reason */
	struct croft_sandbox *sandbox;
	const char *cancel_reason;
};

struct croft_job *croft_job_create(const struct croft_machine *machine, const Farm__Job *message,
	struct croft_arena *arena)
{
	struct croft_job *job = croft_zalloc(sizeof(*job));
	job->machine = machine;
	job->message = message;
	job->arena = arena;
	job->image = job->input = (struct croft_staged)CROFT_STAGED_INIT;
	pthread_mutex_init(&job->lock, NULL);
	farm__agent_message__init(&job->report);
	farm__job_done__init(&job->done);
	reapi__action_result__init(&job->result);
	reapi__executed_action_metadata__init(&job->metadata);
	job->report.kind_case = FARM__AGENT_MESSAGE__KIND_JOB_DONE;
	job->report.job_done = &job->done;
	job->done.lease = message->lease;
	return job;
}

void croft_job_destroy(struct croft_job *job)
{
	if (!job)
		return;
	pthread_mutex_destroy(&job->lock);
	croft_arena_destroy(job->arena);
	free(job);
}

const char *croft_job_lease(const struct croft_job *job)
{
	return job->message->lease;
}

const Farm__AgentMessage *croft_job_report(const struct croft_job *job)
{
	return &job->report;
}

void croft_job_cancel(struct croft_job *job, const char *reason)
{
	CROFT_LOCKED(&job->lock);
	if (job->cancel_reason)
		return;
	/* Not in the arena: that belongs to the job's thread. */
	job->cancel_reason = "it was cancelled";
	if (job->sandbox)
		croft_sandbox_kill(job->sandbox, reason && *reason ? reason : job->cancel_reason);
}

static Google__Protobuf__Timestamp *timestamp(struct croft_job *job, int64_t unix_ns)
{
	Google__Protobuf__Timestamp *stamp = croft_arena_alloc(job->arena, sizeof(*stamp));
	google__protobuf__timestamp__init(stamp);
	stamp->seconds = unix_ns / 1000000000;
	stamp->nanos = (int32_t)(unix_ns % 1000000000);
	return stamp;
}

static Google__Protobuf__Timestamp *now(struct croft_job *job)
{
	return timestamp(job, job->unix_less_now_ns + (int64_t)croft_now_ns());
}

/* Called by the sandbox ------------------------------------------------------------------------ */

/* What jobs of its kind read, as the farm knows it. Once: a sandbox made anew asks again. */
static void prefetch(struct croft_job *job)
{
	const Farm__AccessProfile *profile = job->message->profile;
	struct croft_error err = CROFT_ERROR_INIT;
	size_t count = 0;
	if (!profile || job->prefetched)
		return;
	job->prefetched = true;
	CROFT_CLEANUP_FREE struct croft_prefetch_wish *wishes =
		croft_array(profile->n_touches, sizeof(*wishes));
	for (size_t i = 0; i < profile->n_touches; i++) {
		const Farm__AccessProfile__Touch *touch = profile->touches[i];
		wishes[count] = (struct croft_prefetch_wish){.offset = touch->offset, .length = touch->length};
		count += croft_digest_from_message(touch->digest, "a touch", &wishes[count].digest, NULL);
	}
	if (count && !croft_daemon_prefetch(job->machine->daemon, job->pid_namespace, wishes, count, &err))
		croft_log(CROFT_LOG_WARNING, "nothing is fetched ahead for job %s: %s",
			job->message->operation, err.message);
}

static void on_started(void *user, uint64_t pid_namespace)
{
	struct croft_job *job = user;
	job->pid_namespace = pid_namespace;
	struct croft_error err = CROFT_ERROR_INIT;
	job->accounted = croft_daemon_account_begin(job->machine->daemon, pid_namespace, &err);
	if (!job->accounted)
		croft_log(CROFT_LOG_WARNING, "job %s will have no account of its inputs: %s",
			job->message->operation, err.message);
	prefetch(job);
}

static void on_output(void *user, int stream, struct croft_slice data)
{
	struct croft_job *job = user;
	CROFT_CLEANUP_ARENA struct croft_arena *arena = NULL;
	croft_job_logs_append(job->logs, stream, data);
	if (stream == 2 && data.size)
		job->line_open = ((const char *)data.data)[data.size - 1] != '\n';
	uint64_t connection = croft_uplink_connection(job->machine->uplink);
	if (connection != job->output_connection[stream - 1]) {
		/* What was printed meanwhile was lost, and the server may know nothing of what came before. */
		job->output_connection[stream - 1] = connection;
		arena = croft_arena_create();
		struct croft_slice tail = croft_job_logs_tail(job->logs, stream, arena);
		if (tail.size > data.size)
			data = tail;
	}
	Farm__JobOutput output = FARM__JOB_OUTPUT__INIT;
	output.lease = job->message->lease;
	ProtobufCBinaryData bytes = {data.size, (uint8_t *)data.data};
	uint64_t offset = croft_job_logs_size(job->logs, stream) - data.size;
	*(stream == 1 ? &output.stdout : &output.stderr) = bytes;
	*(stream == 1 ? &output.stdout_offset : &output.stderr_offset) = offset;
	Farm__AgentMessage message = FARM__AGENT_MESSAGE__INIT;
	message.kind_case = FARM__AGENT_MESSAGE__KIND_JOB_OUTPUT;
	message.job_output = &output;
	croft_uplink_send(job->machine->uplink, &message);
}

/* Time spent waiting for lazy fetches does not use up the timeout, within the stated cap. */
static uint64_t on_extend(void *user)
{
	struct croft_job *job = user;
	struct croft_mount_account account;
	if (!croft_daemon_account_read(job->machine->daemon, job->pid_namespace, &account, NULL))
		return 0;
	return croft_stall_grant(account.stall_ns, job->message->stall_cap_ms, &job->granted_stall_ms);
}

/* Running ---------------------------------------------------------------------------------- */

/* The empty tree is in no store: an empty folder stands for it. */
static bool stage_input(struct croft_job *job, struct croft_error *err)
{
	if (!croft_digest_is_empty(&job->input_root))
		return croft_daemon_stage(job->machine->daemon, &job->input_root, &job->input, err);
	return snprintf(job->input.path, sizeof(job->input.path), "%s/empty", job->machine->state) <
		PATH_MAX ||
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "the agent's --state is too long a path");
}

/* What stands at the job's "/": its input root, or an image. */
static bool choose_root(struct croft_job *job, struct croft_error *err)
{
	const struct croft_machine *machine = job->machine;
	const char *image =
		job->options.root_image ? job->options.root_image : machine->root_image;
	const char *instance = job->message->instance_name;
	bool whole = job->options.root == CROFT_ROOT_INPUT;
	if (!image && job->options.root == CROFT_ROOT_IMAGE)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"the job asks for a root image (croft-root=image), but this agent has none: start it "
			"with --root-image, or name one in the property croft-root-image");
	if (image && job->options.root == CROFT_ROOT_UNSAID &&
		!croft_image_is_whole_root(&job->input_root, machine, instance, &whole, err))
		return false;
	if (!image || whole)
		return true;
	job->over_image = true;
	return croft_image_stage(image, machine, instance, &job->image, err);
}

/* Who gives directories properties asks for Directories back: others are spared the look at the root. */
static bool seal_root(struct croft_job *job, struct croft_error *err)
{
	if (job->over_image || job->layout.output_count == 0 ||
		job->message->command->output_directory_format !=
			REAPI__COMMAND__OUTPUT_DIRECTORY_FORMAT__DIRECTORY_ONLY)
		return true;
	struct croft_remote *remote =
		croft_remote_create(job->machine->channel, job->message->instance_name);
	struct croft_tree_source source = croft_remote_tree_source(remote);
	bool ok =
		croft_sealed_root(&source, &job->input_root, &job->layout, job->arena, &job->sealed, err);
	croft_remote_destroy(remote);
	return ok;
}

static bool prepare(struct croft_job *job, struct croft_error *err)
{
	const Farm__Job *message = job->message;
	if (!message->action || !message->command || message->command->n_arguments == 0)
		return croft_error_set(
			err, CROFT_INVALID_ARGUMENT, "the command of this action has no arguments");
	if (!croft_digest_from_message(
			message->action->input_root_digest, "the action's input root", &job->input_root, err) ||
		!croft_job_options_read(&job->options, message, err) || !choose_root(job, err) ||
		!croft_layout_of(message->command,
			job->over_image ? "/croft/root" : "/", job->arena, &job->layout, err) ||
		!seal_root(job, err))
		return false;
	if (job->options.network == CROFT_NETWORK_HOST && !job->machine->allow_network)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"the job asks for network=on, which this agent does not allow: start it with "
			"--allow-network");
	return croft_job_logs_open(job->machine->state, message->lease, &job->logs, err);
}

static bool open_nested(struct croft_job *job, struct croft_error *err)
{
	if (!job->options.farm_socket)
		return true;
	if (!job->machine->nested_server)
		return croft_error_set(err, CROFT_FAILED_PRECONDITION,
			"the job asks for remoteApisSocketPath, which this agent does not allow: start it with "
			"--allow-nested");
	job->nested_mount.source = croft_arena_printf(job->arena, "%s/%s.socket", job->machine->state,
		job->message->lease);
	job->nested_mount.target =
		croft_path_resolve("/", "/", job->options.farm_socket + strspn(job->options.farm_socket, "/"),
			job->arena);
	if (!job->nested_mount.target || !job->nested_mount.target[1])
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"platform property remoteApisSocketPath: '%s' is no path in the job's root",
			job->options.farm_socket);
	job->nested = croft_nested_start(job->nested_mount.source, job->machine->nested_server, err);
	return job->nested != NULL;
}

static struct croft_sandbox *make_sandbox(struct croft_job *job, struct croft_error *err)
{
	if (!stage_input(job, err))
		return NULL;
	const char *input = job->input.path;
	const char *roots[] = {job->over_image ? job->image.path : input};
	struct croft_sandbox_spec spec = {
		.roots = roots,
		.root_count = 1,
		.input_root = job->over_image ? input : NULL,
		.input_target = job->over_image ? job->layout.input_target : NULL,
		.standin = job->input.standin[0] ? job->input.standin : NULL,
		.writable_directories = job->layout.writable,
		.writable_count = job->layout.writable_count,
		.root_writable = !job->sealed,
		.arguments = croft_command_arguments(job->message->command, job->arena),
		.environment = croft_command_environment(job->message->command, &job->options, job->arena),
		.working_directory = job->layout.working_directory,
		.uid = job->options.uid,
		.gid = job->options.gid,
		.mounts = &job->nested_mount,
		.mount_count = job->nested ? 1 : 0,
		.network = job->options.network,
		.hostname = job->options.hostname,
		.umask_given = job->options.umask_given,
		.umask = job->options.umask,
		.fixed_addresses = job->options.fixed_addresses,
		.cpus = job->options.cpus,
		.sorted_directories = job->options.sorted_directories,
		.seccomp = job->options.seccomp,
		.processes = job->options.processes,
		.disk_bytes = job->options.disk_bytes,
		.disk_inodes = job->options.disk_inodes,
		.file_bytes = job->options.file_bytes,
		.capture_bytes = job->options.capture_bytes,
		.special_outputs = job->options.skip_special,
		.cpu_ms = job->options.cpu_seconds * 1000,
		.wall_ms = job->message->timeout_ms,
		.memory_bytes = job->options.memory_bytes,
		.output_log_bytes = CROFT_JOB_LOG_BYTES,
		.started = on_started,
		.output = on_output,
		.extend = on_extend,
		.user = job,
		.opens = croft_opens_fd(job->opens),
	};
	return croft_sandbox_prepare(job->machine->launcher, &spec, err);
}

static void fill_touched(struct croft_job *job, Farm__InputAccount *inputs)
{
	struct croft_error err = CROFT_ERROR_INIT;
	if (croft_touched_find(job->machine->daemon, job->opens,
			job->over_image ? job->layout.input_target : "", &job->input_root, job->pid_namespace,
			job->arena, inputs, &job->touched, &err))
		job->done.profile = job->touched.profile;
	else
		croft_log(CROFT_LOG_WARNING, "what job %s read is not known: %s", job->message->operation,
			err.message);
}

static void fill_account(struct croft_job *job, const struct croft_mount_account *account)
{
	Farm__InputAccount *inputs = croft_arena_alloc(job->arena, sizeof(*inputs));
	farm__input_account__init(inputs);
	struct croft_tree_totals totals = {0};
	if (!croft_digest_is_empty(&job->input_root))
		croft_daemon_measure(job->machine->daemon, &job->input_root, &totals, NULL);
	inputs->input_files = totals.files;
	inputs->input_bytes = totals.bytes;
	inputs->fetched_files = account->fetched_files;
	inputs->fetched_bytes = account->fetched_bytes;
	inputs->stall_ms = account->stall_ns / 1000000;
	inputs->agent_id = (char *)job->machine->agent_id;
	fill_touched(job, inputs);
	job->done.inputs = inputs;

	croft_message_attach(&job->metadata.auxiliary_metadata, &job->metadata.n_auxiliary_metadata,
		&inputs->base, job->arena);
}

/* A job that failed may have failed for what it was denied: its log says so. */
static void fill_sandbox_account(struct croft_job *job, const struct croft_sandbox_result *ended)
{
	croft_account_of_sandbox(&job->metadata, ended, job->arena);
	struct croft_slice hint = croft_account_hint(ended, job->arena);
	if (ended->exit_code == 0 || !hint.size)
		return;
	if (job->line_open)
		on_output(job, 2, CROFT_SLICE("\n", 1));
	on_output(job, 2, hint);
}

/* Clients show their users what a job printed: there Bazel's tell of an agent that is not made for them. */
static void hint_at_image(struct croft_job *job, const struct croft_sandbox_result *ended)
{
	if (ended->end != CROFT_END_EXEC || job->over_image || job->options.root != CROFT_ROOT_UNSAID)
		return;
	const char *hint = croft_arena_printf(job->arena,
		"%scroft: %s: %s; the job's / was its input root, since this agent has no root image: start it with "
		"--root-image, or name one in the platform property croft-root-image\n",
		job->line_open ? "\n" : "", job->message->command->arguments[0], ended->message);
	on_output(job, 2, croft_slice_str(hint));
}

static bool execute(struct croft_job *job, struct croft_sandbox *sandbox, struct croft_error *err)
{
	struct croft_sandbox_result ended;
	job->metadata.execution_start_timestamp = now(job);
	bool ok = croft_sandbox_start(sandbox, err) && croft_sandbox_wait(sandbox, &ended, err);
	job->metadata.execution_completed_timestamp = now(job);
	if (ok) {
		job->done.peak_memory_bytes = ended.peak_memory_bytes;
		job->result.exit_code = ended.exit_code;
		if (ended.message[0])
			job->done.message = croft_arena_strdup(job->arena, ended.message);
		fill_sandbox_account(job, &ended);
		hint_at_image(job, &ended);
	}
	struct croft_mount_account account = {0};
	/* An account ends with the daemon that kept it, and so does the mount that the job read from. */
	struct croft_error lost = CROFT_ERROR_INIT;
	if (job->accounted)
		croft_daemon_account_end(job->machine->daemon, job->pid_namespace, &account, &lost);
	account.fetched_files += job->input.fetched_files + job->image.fetched_files;
	account.fetched_bytes += job->input.fetched_bytes + job->image.fetched_bytes;
	fill_account(job, &account);
	croft_presence_of_job(job->machine->presence, job->machine->daemon, job->message,
		account.fetched_bytes > 0, &job->done, job->arena);
	if (lost.code != CROFT_OK)
		return croft_error_set(err, CROFT_UNAVAILABLE,
			"the filesystem daemon ended while the job ran: what it read may be less than there is");
	if (!ok || !croft_verdict(&ended, err))
		return false;
	/* A job that could not read an input may still have exited with 0: its result means nothing. */
	if (account.errors > 0)
		return croft_error_set(err, CROFT_UNAVAILABLE, "%llu reads of inputs failed, the first: %s",
			(unsigned long long)account.errors, account.first_error);
	return true;
}

/* In the job's own log. */
static void say(struct croft_job *job, const char *line)
{
	const char *whole = croft_arena_printf(job->arena, "%scroft: %s\n", job->line_open ? "\n" : "", line);
	on_output(job, 2, croft_slice_str(whole));
}

enum { LEFT_OUT_TOLD = 20 };

static void on_left_out(void *user, const char *what)
{
	struct croft_job *job = user;
	if (job->left_out++ < LEFT_OUT_TOLD)
		say(job, what);
}

static bool collect_outputs(struct croft_job *job, const struct croft_outputs *outputs,
	struct croft_upload *upload, struct croft_error *err)
{
	bool ok = croft_outputs_collect(outputs, upload, &job->result, err);
	if (job->left_out > LEFT_OUT_TOLD)
		say(job, croft_arena_printf(job->arena, "%u more were left out", job->left_out - LEFT_OUT_TOLD));
	return ok;
}

/* A result names what the server has, and nothing else. */
static void forget_outputs(Reapi__ActionResult *result)
{
	result->n_output_files = result->n_output_directories = result->n_output_symlinks = 0;
	result->n_output_file_symlinks = result->n_output_directory_symlinks = 0;
}

static bool collect(struct croft_job *job, struct croft_sandbox *sandbox, bool with_outputs,
	struct croft_error *err)
{
	struct croft_remote *remote =
		croft_remote_create(job->machine->channel, job->message->instance_name);
	struct croft_upload *upload = croft_upload_create(remote);
	struct croft_outputs outputs = {
		.machine = job->machine,
		.remote = remote,
		.sandbox = sandbox,
		.command = job->message->command,
		.layout = &job->layout,
		.input_root = job->input_root,
		.arena = job->arena,
		.left_out = on_left_out,
		.user = job,
	};
	job->metadata.output_upload_start_timestamp = now(job);
	struct croft_error failed = CROFT_ERROR_INIT;
	bool collected = !with_outputs || collect_outputs(job, &outputs, upload, &failed);
	/* The job's log is kept whatever became of its outputs, of which none is named then. */
	if (!collected) {
		forget_outputs(&job->result);
		croft_upload_destroy(upload);
		upload = croft_upload_create(remote);
	}
	bool ok = croft_job_logs_finish(job->logs, upload, &job->result, job->arena, err) &&
		(!job->touched.has_list || croft_upload_bytes(upload, &job->touched.list_digest,
			job->touched.list, err)) &&
		croft_upload_flush(upload, NULL, err);
	if (!ok) {
		forget_outputs(&job->result);
		job->result.stdout_digest = job->result.stderr_digest = NULL;
	}
	if (!collected && err)
		*err = failed;
	ok = ok && collected;
	job->metadata.output_upload_completed_timestamp = now(job);
	croft_upload_destroy(upload);
	croft_remote_destroy(remote);
	return ok;
}

static bool run_in_sandbox(struct croft_job *job, struct croft_error *err)
{
	job->opens = croft_opens_start(job->machine->listeners);
	struct croft_sandbox *sandbox = make_sandbox(job, err);
	if (!sandbox)
		return false;
	pthread_mutex_lock(&job->lock);
	job->sandbox = sandbox;
	const char *cancelled = job->cancel_reason;
	pthread_mutex_unlock(&job->lock);
	bool ok;
	if (cancelled) {
		ok = croft_error_set(err, CROFT_CANCELLED, "%s", cancelled);
	} else {
		job->metadata.input_fetch_completed_timestamp = now(job);
		struct croft_error failed = CROFT_ERROR_INIT;
		bool ran = execute(job, sandbox, &failed);
		/* Logs are kept for failures too; the job's own error is told rather than that of its logs. */
		ok = collect(job, sandbox, ran, ran ? err : NULL) && ran;
		if (!ran && err)
			*err = failed;
	}
	pthread_mutex_lock(&job->lock);
	job->sandbox = NULL;
	pthread_mutex_unlock(&job->lock);
	croft_sandbox_destroy(sandbox);
	return ok;
}

static void report_failure(struct croft_job *job, const struct croft_error *err)
{
	GoogleRpc__Status *status = croft_arena_alloc(job->arena, sizeof(*status));
	google_rpc__status__init(status);
	status->code = (int32_t)err->code;
	status->message = croft_arena_strdup(job->arena, err->message);
	job->done.status = status;
}

void croft_job_run(struct croft_job *job)
{
	struct croft_error err = CROFT_ERROR_INIT;
	job->unix_less_now_ns = croft_unix_ns() - (int64_t)croft_now_ns();
	job->metadata.worker = (char *)job->machine->agent_id;
	if (job->message->queued_unix_ns)
		job->metadata.queued_timestamp = timestamp(job, job->message->queued_unix_ns);
	job->metadata.worker_start_timestamp = now(job);
	job->metadata.input_fetch_start_timestamp = now(job);
	if (job->machine->peers)
		croft_peers_begin(job->machine->peers, job->machine->daemon, job->message);
	bool ok = prepare(job, &err) && open_nested(job, &err) && run_in_sandbox(job, &err);
	croft_nested_stop(job->nested);
	job->nested = NULL;
	if (job->machine->peers)
		croft_peers_end(job->machine->peers, job->message);
	job->metadata.worker_completed_timestamp = now(job);
	job->result.execution_metadata = &job->metadata;
	/* A failure still carries its logs and times, for people. */
	job->done.result = &job->result;
	if (!ok)
		report_failure(job, &err);
	croft_daemon_unstage(&job->input);
	croft_daemon_unstage(&job->image);
	croft_opens_destroy(job->opens);
	job->opens = NULL;
	croft_job_logs_destroy(job->logs);
	job->logs = NULL;
}
