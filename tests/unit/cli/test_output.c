/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/output.h"
#include "tests/unit/test.h"

static void sizes_read_well(void **state)
{
	char text[SIZE_TEXT];
	assert_string_equal(format_size(0, text), "0 B");
	assert_string_equal(format_size(1023, text), "1023 B");
	assert_string_equal(format_size(1945, text), "1.9 KiB");
	assert_string_equal(format_size((1 << 20) - 1, text), "1.0 MiB");
	assert_string_equal(format_size(UINT64_MAX, text), "16.0 EiB");
}

static void durations_read_well(void **state)
{
	char text[SIZE_TEXT];
	assert_string_equal(format_duration(0, text), "0.0 s");
	assert_string_equal(format_duration(4210, text), "4.2 s");
	assert_string_equal(format_duration(200000, text), "3 min 20 s");
	assert_string_equal(format_duration(7500000, text), "2 h 5 min");
	assert_string_equal(format_duration(3 * 86400000ull + 4 * 3600000, text), "3 d 4 h");
}

static void any_bytes_become_json(void **state)
{
	static const struct {
		const char *bytes, *text;
	} cases[] = {
		{"plain", "plain"},
		{"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
		{"\xff", "\xef\xbf\xbd"},
		{"a\xc3", "a\xef\xbf\xbd"},
		{"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},             /* overlong */
		{"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* half of a surrogate pair */
		{"\xf0\x9f\x90\x94", "\xf0\x9f\x90\x94"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_t *value = json_bytes(croft_slice_str(cases[i].bytes));
		assert_string_equal(json_string_value(value), cases[i].text);
		json_decref(value);
	}
}

static void bytes_that_are_no_utf8_are_told_whole(void **state)
{
	json_t *object = json_object();
	json_set_bytes(object, "plain", croft_slice_str("gr\xc3\xbc\xc3\x9f\n"));
	json_set_bytes(object, "path", CROFT_SLICE("a\xff\xfe", 3));
	json_set_bytes(object, "nothing", CROFT_SLICE("", 0));
	assert_int_equal(json_object_size(object), 4);
	assert_string_equal(json_string_value(json_object_get(object, "path")), "a\xef\xbf\xbd\xef\xbf\xbd");
	assert_string_equal(json_string_value(json_object_get(object, "path_base64")), "Yf/+");
	json_decref(object);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_read_well),
		cmocka_unit_test(durations_read_well),
		cmocka_unit_test(any_bytes_become_json),
		cmocka_unit_test(bytes_that_are_no_utf8_are_told_whole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
