/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/command.h"
#include "tests/unit/test.h"

#include <string.h>

/* The table that main.c holds in the program. */
const struct command *const commands[] = {&command_help, &command_completion, NULL};

static const struct option_spec specs[] = {
	{"output", 'o', "PATH", "a value"},
	{"size", 0, "SIZE", "a size"},
	{"count", 'n', "N", "a number"},
	{"json", 0, NULL, "a switch"},
	{0},
};
static const struct command plain = {.name = "plain", .arguments = "", .options = specs};
static const struct command stopping = {
	.name = "stopping", .arguments = "", .options = specs, .stops_at_argument = true};
static const struct command client = {
	.name = "client", .arguments = "", .options = specs, .client = true};

static bool parse(struct options *options, const struct command *command, const char *const *words,
	struct croft_error *err)
{
	static char *argv[16];
	int argc = 0;
	argv[argc++] = (char *)command->name;
	while (*words)
		argv[argc++] = (char *)*words++;
	argv[argc] = NULL;
	bool help;
	*err = CROFT_ERROR_INIT;
	return options_parse(options, command, argc, argv, &help, err);
}

#define WORDS(...) (const char *const[]){__VA_ARGS__, NULL}

static void values_are_found_by_name_in_order(void **state)
{
	struct options options;
	struct croft_error err;
	assert_ok(parse(&options, &plain, WORDS("-o", "a", "x", "--output=b", "--json", "y"), &err), err);
	assert_int_equal(options_count(&options, "output"), 2);
	assert_string_equal(options_at(&options, "output", 0), "a");
	assert_string_equal(options_value(&options, "output"), "b");
	assert_true(options_given(&options, "json"));
	assert_false(options_given(&options, "size"));
	assert_int_equal(options.argc, 2);
	assert_string_equal(options.argv[1], "y");
	options_finish(&options);
}

static void what_follows_a_command_is_not_parsed(void **state)
{
	struct options options;
	struct croft_error err;
	assert_ok(parse(&options, &stopping, WORDS("--json", "gcc", "-o", "x", "--nonsense"), &err), err);
	assert_int_equal(options.argc, 4);
	assert_string_equal(options.argv[1], "-o");
	assert_false(options_given(&options, "output"));
	options_finish(&options);
	assert_ok(parse(&options, &stopping, WORDS("--json", "--", "-x"), &err), err);
	assert_int_equal(options.argc, 1);
	assert_string_equal(options.argv[0], "-x");
	options_finish(&options);
}

static void wrong_options_are_named(void **state)
{
	static const struct {
		const char *const words[3];
		const char *says;
	} wrong[] = {
		{{"--nope"}, "--nope"}, {{"-z"}, "-z"}, {{"--output"}, "--output"}, {{"--json=1"}, "--json"}};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct options options;
		struct croft_error err;
		assert_false(parse(&options, &plain, wrong[i].words, &err));
		assert_int_equal(err.code, CROFT_INVALID_ARGUMENT);
		if (!strstr(err.message, wrong[i].says))
			fail_msg("\"%s\" does not name %s", err.message, wrong[i].says);
		options_finish(&options);
	}
}

static void clients_take_a_server(void **state)
{
	struct options options;
	struct croft_error err;
	assert_ok(parse(&options, &client, WORDS("--server", "grpc://x:1"), &err), err);
	assert_string_equal(options_value(&options, "server"), "grpc://x:1");
	options_finish(&options);
	assert_false(parse(&options, &plain, WORDS("--server", "grpc://x:1"), &err));
	options_finish(&options);
}

static void sizes_have_units(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0}, {"17", 17}, {"1K", 1024}, {"20G", 20ull << 30}, {"3MiB", 3 << 20},
		{"2t", 2ull << 40}, {"18446744073709551615", UINT64_MAX}};
	static const char *const bad[] = {
		"", "G", "-1", "1X", "1.5G", "1Gi", "1 G", " 1", "18446744073709551616", "99999999999999P"};
	uint64_t bytes;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_true(parse_size(good[i].text, &bytes));
		assert_true(bytes == good[i].bytes);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (parse_size(bad[i], &bytes))
			fail_msg("\"%s\" was taken for a size", bad[i]);
}

static void numbers_outside_their_range_are_refused(void **state)
{
	struct options options;
	struct croft_error err;
	uint64_t number = 7;
	assert_ok(parse(&options, &plain, WORDS("x"), &err), err);
	assert_ok(options_number(&options, "count", 1, 10, &number, &err), err);
	assert_int_equal(number, 7);
	options_finish(&options);
	assert_ok(parse(&options, &plain, WORDS("-n", "11"), &err), err);
	assert_false(options_number(&options, "count", 1, 10, &number, &err));
	options_finish(&options);
	assert_ok(parse(&options, &plain, WORDS("-n", "-1"), &err), err);
	assert_false(options_number(&options, "count", 0, UINT64_MAX, &number, &err));
	options_finish(&options);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_are_found_by_name_in_order),
		cmocka_unit_test(what_follows_a_command_is_not_parsed),
		cmocka_unit_test(wrong_options_are_named),
		cmocka_unit_test(clients_take_a_server),
		cmocka_unit_test(sizes_have_units),
		cmocka_unit_test(numbers_outside_their_range_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
