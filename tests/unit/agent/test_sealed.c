/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/sealed.h"
#include "proto/rpc/message.h"
#include "tests/unit/test.h"

#include <string.h>

/* Directories in memory. */
static struct {
	struct croft_arena *arena;
	struct croft_digest digests[8];
	struct croft_slice bytes[8];
	size_t count;
} memory;

static bool read_memory(void *user, const struct croft_digest *digest, struct croft_arena *arena,
	struct croft_slice *bytes, struct croft_error *err)
{
	for (size_t i = 0; i < memory.count; i++)
		if (memcmp(&memory.digests[i], digest, sizeof(*digest)) == 0) {
			*bytes = memory.bytes[i];
			return true;
		}
	return croft_error_set(err, CROFT_NOT_FOUND, "no such directory");
}

static const struct croft_tree_source source = {read_memory, NULL};

/* A Directory with SubtreeReadOnly (NULL: unsaid) and up to two folders. */
static struct croft_digest directory(const char *sealed, const char *first, struct croft_digest first_digest,
	const char *second, struct croft_digest second_digest)
{
	Reapi__Directory message = REAPI__DIRECTORY__INIT;
	Reapi__NodeProperty property = REAPI__NODE_PROPERTY__INIT, *property_list = &property;
	Reapi__NodeProperties properties = REAPI__NODE_PROPERTIES__INIT;
	property.name = (char *)"SubtreeReadOnly";
	property.value = (char *)sealed;
	properties.n_properties = 1;
	properties.properties = &property_list;
	if (sealed)
		message.node_properties = &properties;
	Reapi__DirectoryNode nodes[2] = {REAPI__DIRECTORY_NODE__INIT, REAPI__DIRECTORY_NODE__INIT};
	Reapi__DirectoryNode *list[2] = {&nodes[0], &nodes[1]};
	nodes[0].name = (char *)first;
	nodes[0].digest = croft_digest_to_message(&first_digest, memory.arena);
	nodes[1].name = (char *)second;
	nodes[1].digest = croft_digest_to_message(&second_digest, memory.arena);
	message.n_directories = second ? 2 : first ? 1 : 0;
	message.directories = list;
	struct croft_slice bytes = croft_message_encode(&message.base, memory.arena);
	memory.bytes[memory.count] = bytes;
	return memory.digests[memory.count++] = croft_digest_of(bytes.data, bytes.size);
}

static struct croft_digest leaf(const char *sealed)
{
	return directory(sealed, NULL, croft_digest_empty, NULL, croft_digest_empty);
}

static bool seal(struct croft_digest root, char *working_directory, char *output, struct croft_layout *layout)
{
	Reapi__Command command = REAPI__COMMAND__INIT;
	struct croft_error err = CROFT_ERROR_INIT;
	bool sealed;
	command.working_directory = working_directory;
	command.n_output_paths = 1;
	command.output_paths = croft_arena_copy(memory.arena, &output, sizeof(output));
	assert_ok(croft_layout_of(&command, "/", memory.arena, layout, &err), err);
	assert_ok(croft_sealed_root(&source, &root, layout, memory.arena, &sealed, &err), err);
	return sealed;
}

static int set_up(void **state)
{
	memory.arena = croft_arena_create();
	memory.count = 0;
	return 0;
}

static int tear_down(void **state)
{
	croft_arena_destroy(memory.arena);
	return 0;
}

static void a_root_that_says_nothing_is_writable(void **state)
{
	struct croft_layout layout;
	struct croft_digest build = leaf("false");
	assert_false(seal(directory(NULL, "build", build, NULL, build), (char *)"build", (char *)".", &layout));
	assert_false(seal(directory("false", "build", build, NULL, build), (char *)"build", (char *)".", &layout));
}

static void only_what_says_so_is_writable_in_a_sealed_root(void **state)
{
	struct croft_layout layout;
	struct croft_digest element = directory("false", "sub", leaf(NULL), NULL, croft_digest_empty);
	struct croft_digest project = directory(NULL, "b.bst", element, NULL, element);
	struct croft_digest root = directory("true", "buildstream", project, "install", leaf("false"));
	assert_true(seal(root, (char *)"buildstream/b.bst", (char *)".", &layout));
	assert_int_equal(layout.writable_count, 1);
	assert_string_equal(layout.writable[0], "/buildstream/b.bst");
	/* What is below it is writable with it. */
	assert_true(seal(root, (char *)"buildstream/b.bst/sub", (char *)".", &layout));
	assert_string_equal(layout.writable[0], "/buildstream/b.bst");
	assert_true(seal(root, (char *)"buildstream/b.bst", (char *)"../../install", &layout));
	assert_string_equal(layout.writable[0], "/install");
}

static void an_output_that_no_directory_allows_may_still_be_made(void **state)
{
	struct croft_layout layout;
	struct croft_digest closed = leaf("true");
	struct croft_digest root = directory("true", "closed", closed, NULL, closed);
	assert_true(seal(root, (char *)"", (char *)"closed/out", &layout));
	assert_string_equal(layout.writable[0], "/closed");
	assert_true(seal(root, (char *)"", (char *)"nowhere/yet/out", &layout));
	assert_string_equal(layout.writable[0], "/nowhere/yet");
}

static void a_directory_that_cannot_be_read_is_an_error(void **state)
{
	Reapi__Command command = REAPI__COMMAND__INIT;
	struct croft_layout layout;
	struct croft_error err = CROFT_ERROR_INIT;
	struct croft_digest gone = croft_digest_of("gone", 4);
	char *output = (char *)"gone/out";
	bool sealed;
	command.n_output_paths = 1;
	command.output_paths = &output;
	struct croft_digest root = directory("true", "gone", gone, NULL, gone);
	assert_ok(croft_layout_of(&command, "/", memory.arena, &layout, &err), err);
	assert_false(croft_sealed_root(&source, &root, &layout, memory.arena, &sealed, &err));
	assert_int_equal(err.code, CROFT_NOT_FOUND);
	assert_non_null(strstr(err.message, "/gone/out"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_root_that_says_nothing_is_writable, set_up, tear_down),
		cmocka_unit_test_setup_teardown(only_what_says_so_is_writable_in_a_sealed_root, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_output_that_no_directory_allows_may_still_be_made, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_directory_that_cannot_be_read_is_an_error, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
