/* Cleat: what must be true in this port. SPDX-License-Identifier: Apache-2.0
 *
 * About our own logic, never about what a library or a peer says. As in core/:
 * a build that defines CLEAT_ASSERT_FN calls it, one with NDEBUG pays nothing,
 * any other traps. */
#ifndef CLEAT_PORT_NCCL_CHECK_H
#define CLEAT_PORT_NCCL_CHECK_H

#if defined(CLEAT_ASSERT_FN)
void CLEAT_ASSERT_FN(const char *expression, const char *file, int line);
#define NCCL_ASSERT(x) ((x) ? (void)0 : CLEAT_ASSERT_FN(#x, __FILE__, __LINE__))
#elif defined(NDEBUG)
#define NCCL_ASSERT(x) ((void)sizeof((x) ? 1 : 0))
#else
#define NCCL_ASSERT(x) ((x) ? (void)0 : __builtin_trap())
#endif

#endif
