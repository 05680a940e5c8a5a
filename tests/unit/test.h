/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What every unit test starts with: cmocka, and a check that prints a croft_error. */
#ifndef CROFT_TESTS_UNIT_TEST_H
#define CROFT_TESTS_UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/base/error.h"

/* Fails with the error's code and sentence when `call` is false. `err` must be a struct. */
#define assert_ok(call, err)                                                                       \
	do {                                                                                           \
		if (!(call))                                                                               \
			fail_msg("%s: %s: %s", #call, croft_code_name((err).code), (err).message);             \
	} while (0)

/* Bytes that no compression finds anything in, the same for the same seed. */
__attribute__((unused)) static inline void fill_noise(void *data, size_t size, uint32_t seed)
{
	for (size_t i = 0; i < size; i++) {
		seed = seed * 1664525 + 1013904223;
		((uint8_t *)data)[i] = (uint8_t)(seed >> 24);
	}
}

#endif
