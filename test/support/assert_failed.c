/* Cleat: where an assertion goes in the tests. SPDX-License-Identifier:
 * Apache-2.0 */
#include "assert_failed.h"

#include <stdio.h>
#include <stdlib.h>

void cleat_test_assert_failed(const char *expression, const char *file,
                              int line)
{
    fflush(stdout);
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expression);
    abort();
}
