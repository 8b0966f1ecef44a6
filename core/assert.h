/* Cleat: what must be true. SPDX-License-Identifier: Apache-2.0
 *
 * An assertion is about Cleat's own logic, never about input. A build that
 * defines CLEAT_ASSERT_FN (the tests do) calls that function with the
 * expression, the file and the line; it must not return. A build with NDEBUG
 * pays nothing. Any other build traps: core calls nothing that ends a process.
 */
#ifndef CLEAT_CORE_ASSERT_H
#define CLEAT_CORE_ASSERT_H

#if defined(CLEAT_ASSERT_FN)
void CLEAT_ASSERT_FN(const char *expression, const char *file, int line);
#define CLEAT_ASSERT(x) \
    ((x) ? (void)0 : CLEAT_ASSERT_FN(#x, __FILE__, __LINE__))
#elif defined(NDEBUG)
#define CLEAT_ASSERT(x) ((void)sizeof((x) ? 1 : 0))
#else
#define CLEAT_ASSERT(x) ((x) ? (void)0 : __builtin_trap())
#endif

#define CLEAT_STATIC_ASSERT(x, why) _Static_assert(x, why)

#endif
