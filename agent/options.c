/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The Action's platform counts where it is given, the Command's (for older clients) otherwise. */
static const Reapi__Platform *platform_of(const Farm__Job *job)
{
	return job->action->platform ? job->action->platform : job->command->platform;
}

static bool read_number(const Reapi__Platform__Property *property, uint64_t most, uint64_t *value,
	struct croft_error *err)
{
	char *end;
	errno = 0;
	unsigned long long number = strtoull(property->value, &end, 10);
	if (errno || end == property->value || *end || property->value[0] == '-' || number > most)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"platform property %s: '%s' is not a number from 0 to %llu", property->name,
			property->value, (unsigned long long)most);
	*value = number;
	return true;
}

static bool bad_value(const Reapi__Platform__Property *property, const char *wanted,
	struct croft_error *err)
{
	return croft_error_set(err, CROFT_INVALID_ARGUMENT, "platform property %s: '%s' is not %s",
		property->name, property->value, wanted);
}

static bool read_network(struct croft_job_options *options,
	const Reapi__Platform__Property *property, struct croft_error *err)
{
	if (strcmp(property->value, "on") == 0 || strcmp(property->value, "host") == 0)
		options->network = CROFT_NETWORK_HOST;
	else if (strcmp(property->value, "off") == 0 || strcmp(property->value, "loopback") == 0)
		options->network = CROFT_NETWORK_LOOPBACK;
	else if (strcmp(property->value, "none") == 0)
		options->network = CROFT_NETWORK_NONE;
	else
		return bad_value(property, "one of on, off, none", err);
	return true;
}

/* A job may name trees of the farm only: what directories an agent shows is not for jobs to say. */
static bool read_image(struct croft_job_options *options,
	const Reapi__Platform__Property *property, struct croft_error *err)
{
	char first = property->value[0];
	if (first == '\0' || first == '/' || first == '.')
		return bad_value(property, "the digest or name of a tree in the farm", err);
	options->root_image = property->value;
	options->root = CROFT_ROOT_IMAGE;
	return true;
}

static bool read_hostname(struct croft_job_options *options,
	const Reapi__Platform__Property *property, struct croft_error *err)
{
	size_t size = strlen(property->value);
	options->hostname = property->value;
	return (size > 0 && size <= 64 &&
			   strspn(property->value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") ==
				   size) ||
		bad_value(property, "a host name of at most 64 letters, digits, dots and dashes", err);
}

static bool read_umask(struct croft_job_options *options, const Reapi__Platform__Property *property,
	struct croft_error *err)
{
	char *end;
	unsigned long number = strtoul(property->value, &end, 8);
	options->umask_given = true;
	options->umask = (uint32_t)number;
	return (property->value[0] >= '0' && property->value[0] <= '7' && !*end && number <= 0777) ||
		bad_value(property, "an octal number up to 777", err);
}

static bool read_seccomp(struct croft_job_options *options,
	const Reapi__Platform__Property *property, struct croft_error *err)
{
	static const char *const names[] = {"default", "strict", "compat"};
	for (int i = 0; i < 3; i++) {
		options->seccomp = (enum croft_seccomp)i;
		if (strcmp(property->value, names[i]) == 0)
			return true;
	}
	return bad_value(property, "one of default, strict, compat", err);
}

static bool read_special(struct croft_job_options *options,
	const Reapi__Platform__Property *property, struct croft_error *err)
{
	options->skip_special = strcmp(property->value, "skip") == 0;
	return options->skip_special || strcmp(property->value, "refuse") == 0 ||
		bad_value(property, "one of refuse, skip", err);
}

/* Nothing that is asked of the sandbox is passed over. What croft does not know is for agents to have. */
static bool refuse_unknown(const Reapi__Platform__Property *property, struct croft_error *err)
{
	/* Programs read the clock past the kernel (the vDSO, the processor's counter), and files would still be
	 * dated by the true one. */
	if (strcmp(property->name, "croft-clock") == 0)
		return croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"platform property croft-clock: a sandbox cannot give a job another time of day; libfaketime in the "
			"job's root can (LD_PRELOAD and FAKETIME in the command's environment)");
	return strncmp(property->name, "croft-", 6) != 0 || strncmp(property->name, "croft-resource-", 15) == 0 ||
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "there is no platform property %s", property->name);
}

/* What makes runs alike. */
static bool read_sameness(struct croft_job_options *options,
	const Reapi__Platform__Property *property, struct croft_error *err)
{
	uint64_t number = 0;
	if (strcmp(property->name, "croft-hostname") == 0)
		return read_hostname(options, property, err);
	if (strcmp(property->name, "croft-umask") == 0)
		return read_umask(options, property, err);
	if (strcmp(property->name, "croft-time-zone") == 0) {
		options->time_zone = property->value;
	} else if (strcmp(property->name, "croft-locale") == 0) {
		options->locale = property->value;
	} else if (strcmp(property->name, "croft-cpus") == 0) {
		if (!read_number(property, 4096, &number, err))
			return false;
		options->cpus = (uint32_t)number;
	} else if (strcmp(property->name, "croft-address-randomization") == 0) {
		options->fixed_addresses = strcmp(property->value, "off") == 0;
		return options->fixed_addresses || strcmp(property->value, "on") == 0 ||
			bad_value(property, "one of on, off", err);
	} else if (strcmp(property->name, "croft-directory-order") == 0) {
		options->sorted_directories = strcmp(property->value, "sorted") == 0;
		return options->sorted_directories || strcmp(property->value, "any") == 0 ||
			bad_value(property, "one of sorted, any", err);
	} else {
		return refuse_unknown(property, err);
	}
	return true;
}

/* NULL: it is none. */
static uint64_t *limit_of(struct croft_job_options *options, const char *name, uint64_t *most)
{
	const struct {
		const char *name;
		uint64_t *number, most;
	} limits[] = {
		{"croft-memory-bytes", &options->memory_bytes, UINT64_MAX},
		{"croft-processes", &options->processes, UINT32_MAX},
		{"croft-disk-bytes", &options->disk_bytes, UINT64_MAX},
		{"croft-disk-files", &options->disk_inodes, UINT64_MAX},
		{"croft-file-bytes", &options->file_bytes, UINT64_MAX},
		{"croft-output-bytes", &options->capture_bytes, UINT64_MAX},
		{"croft-cpu-seconds", &options->cpu_seconds, UINT32_MAX},
	};
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		*most = limits[i].most;
		if (strcmp(name, limits[i].name) == 0)
			return limits[i].number;
	}
	return NULL;
}

static bool read_property(struct croft_job_options *options,
	const Reapi__Platform__Property *property, struct croft_error *err)
{
	uint64_t number = 0, most;
	uint64_t *limit = limit_of(options, property->name, &most);
	if (limit)
		return read_number(property, most, limit, err);
	if (strcmp(property->name, "unixUID") == 0) {
		if (!read_number(property, 65534, &number, err))
			return false;
		options->uid = (uint32_t)number;
	} else if (strcmp(property->name, "unixGID") == 0) {
		if (!read_number(property, 65534, &number, err))
			return false;
		options->gid = (uint32_t)number;
	} else if (strcmp(property->name, "network") == 0) {
		return read_network(options, property, err);
	} else if (strcmp(property->name, "remoteApisSocketPath") == 0) {
		options->farm_socket = property->value;
	} else if (strcmp(property->name, "croft-root") == 0) {
		if (strcmp(property->value, "image") != 0 && strcmp(property->value, "input") != 0)
			return bad_value(property, "one of input, image", err);
		options->root =
			strcmp(property->value, "image") == 0 ? CROFT_ROOT_IMAGE : CROFT_ROOT_INPUT;
	} else if (strcmp(property->name, "croft-root-image") == 0) {
		return read_image(options, property, err);
	} else if (strcmp(property->name, "croft-seccomp") == 0) {
		return read_seccomp(options, property, err);
	} else if (strcmp(property->name, "croft-special-outputs") == 0) {
		return read_special(options, property, err);
	} else {
		return read_sameness(options, property, err);
	}
	return true;
}

bool croft_job_options_read(struct croft_job_options *options, const Farm__Job *job,
	struct croft_error *err)
{
	*options = (struct croft_job_options){.root = CROFT_ROOT_UNSAID};
	const Reapi__Platform *platform = platform_of(job);
	for (size_t i = 0; platform && i < platform->n_properties; i++)
		if (!read_property(options, platform->properties[i], err))
			return false;
	return true;
}
