/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sandbox/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/io.h"

#ifdef CROFT_SANDBOX_WEAKEN
uint32_t sandbox_weaken;
#endif

struct writer {
	char *data;
	size_t size, room;
};

static uint32_t put(struct writer *writer, const void *bytes, size_t size)
{
	size_t at = (writer->size + 7) & ~(size_t)7;
	if (writer->room < at + size) {
		writer->room = (at + size) * 2;
		writer->data = croft_realloc(writer->data, writer->room, 1);
	}
	memset(writer->data + writer->size, 0, at - writer->size);
	memcpy(writer->data + at, bytes, size);
	writer->size = at + size;
	return (uint32_t)at;
}

static uint32_t put_text(struct writer *writer, const char *text)
{
	return text ? put(writer, text, strlen(text) + 1) : 0;
}

static uint32_t put_list(struct writer *writer, const char *const *list, size_t count)
{
	uint64_t *offsets = croft_array(count + 1, sizeof(*offsets));
	for (size_t i = 0; i < count; i++)
		offsets[i] = put_text(writer, list[i]);
	uint32_t at = put(writer, offsets, (count + 1) * sizeof(*offsets));
	free(offsets);
	return at;
}

static size_t list_size(const char *const *list)
{
	size_t count = 0;
	while (list && list[count])
		count++;
	return count;
}

static void put_mounts(struct writer *writer, struct wire_spec *wire,
	const struct croft_sandbox_spec *spec)
{
	const char **sources = croft_array(spec->mount_count, sizeof(char *));
	const char **targets = croft_array(spec->mount_count, sizeof(char *));
	const char **writable = croft_array(spec->mount_count, sizeof(char *));
	for (size_t i = 0; i < spec->mount_count; i++) {
		sources[i] = spec->mounts[i].source;
		targets[i] = spec->mounts[i].target;
		writable[i] = spec->mounts[i].writable ? "rw" : "ro";
	}
	wire->mount_sources = put_list(writer, sources, spec->mount_count);
	wire->mount_targets = put_list(writer, targets, spec->mount_count);
	wire->mount_writable = put_list(writer, writable, spec->mount_count);
	free(sources);
	free(targets);
	free(writable);
}

int wire_spec_write(const struct croft_sandbox_spec *spec, uint64_t pid_namespace,
	struct croft_error *err)
{
	struct writer writer = {0};
	struct wire_spec wire = {
		.pid_namespace = pid_namespace,
		.uid = spec->uid,
		.gid = spec->gid,
		.network = spec->network,
		.seccomp = spec->seccomp,
		.root_writable = spec->root_writable,
		.terminal = spec->terminal,
		.umask = spec->umask_given ? spec->umask : 022,
		.fixed_addresses = spec->fixed_addresses,
		.cpus = spec->cpus,
		.sorted = spec->sorted_directories,
		.memory_bytes = spec->memory_bytes,
		.cpu_millis = spec->cpu_millis,
		.cpu_ms = spec->cpu_ms,
		.processes = spec->processes,
		.file_bytes = spec->file_bytes,
	};
#ifdef CROFT_SANDBOX_WEAKEN
	wire.weaken = sandbox_weaken;
#endif
	put(&writer, &wire, sizeof(wire));
	wire.roots = put_list(&writer, spec->roots, spec->root_count);
	wire.input_root = put_text(&writer, spec->input_root);
	wire.standin = put_text(&writer, spec->standin);
	wire.input_target = put_text(&writer, spec->input_target);
	wire.writable = put_list(&writer, spec->writable_directories, spec->writable_count);
	wire.arguments = put_list(&writer, spec->arguments, list_size(spec->arguments));
	wire.environment = put_list(&writer, spec->environment, list_size(spec->environment));
	wire.working_directory =
		put_text(&writer, spec->working_directory ? spec->working_directory : "/");
	wire.hostname = put_text(&writer, spec->hostname ? spec->hostname : "croft");
	put_mounts(&writer, &wire, spec);
	wire.size = writer.size;
	memcpy(writer.data, &wire, sizeof(wire));
	if (wire.size > WIRE_SPEC_MOST) {
		free(writer.data);
		croft_error_set(err, CROFT_INVALID_ARGUMENT,
			"the job's arguments and environment are larger than %d bytes", WIRE_SPEC_MOST);
		return -1;
	}
	int fd = memfd_create("croft-spec", MFD_CLOEXEC);
	bool ok = fd >= 0 ? croft_write_all(fd, writer.data, writer.size, "the sandbox spec", err)
					  : croft_error_errno(err, errno, "making a memory file");
	free(writer.data);
	if (ok)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

struct wire_spec *wire_spec_read(int fd, void *place)
{
	struct stat st;
	if (fstat(fd, &st) < 0 || (size_t)st.st_size < sizeof(struct wire_spec) || st.st_size > WIRE_SPEC_MOST)
		return NULL;
	struct wire_spec *spec = place ? place : croft_alloc((size_t)st.st_size);
	if (pread(fd, spec, (size_t)st.st_size, 0) == st.st_size && spec->size == (uint64_t)st.st_size)
		return spec;
	if (!place)
		free(spec);
	return NULL;
}

const char *wire_text(const struct wire_spec *spec, uint32_t offset)
{
	return offset ? (const char *)spec + offset : NULL;
}

const char **wire_list(const struct wire_spec *spec, uint32_t offset)
{
	const uint64_t *offsets = (const uint64_t *)((const char *)spec + offset);
	size_t count = 0;
	while (offset && offsets[count])
		count++;
	const char **list = croft_array(count + 1, sizeof(char *));
	for (size_t i = 0; i < count; i++)
		list[i] = wire_text(spec, (uint32_t)offsets[i]);
	return list;
}

const char *wire_item(const struct wire_spec *spec, uint32_t offset, size_t i)
{
	return offset ? wire_text(spec, (uint32_t)((const uint64_t *)((const char *)spec + offset))[i]) : NULL;
}

const char **wire_list_in_place(struct wire_spec *spec, uint32_t offset)
{
	union {
		uint64_t offset;
		const char *text;
	} *items = (void *)((char *)spec + offset);
	_Static_assert(sizeof(*items) == sizeof(char *), "an offset has room for a pointer");
	for (size_t i = 0; items[i].offset; i++)
		items[i].text = wire_text(spec, (uint32_t)items[i].offset);
	return (const char **)items;
}
