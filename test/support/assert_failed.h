/* Cleat: where an assertion goes in the tests. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The checked libraries are compiled with
 * CLEAT_ASSERT_FN=cleat_test_assert_failed. */
#ifndef CLEAT_TEST_ASSERT_FAILED_H
#define CLEAT_TEST_ASSERT_FAILED_H

/* Prints file, line and expression, and aborts. Does not return. */
_Noreturn void cleat_test_assert_failed(const char *expression,
                                        const char *file, int line);

#endif
