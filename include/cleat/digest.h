/* Cleat: CRC32C, streaming and fused with a copy.
 * SPDX-License-Identifier: Apache-2.0
 *
 * CRC32C is the cyclic redundancy check of the Castagnoli polynomial,
 * 0x1EDC6F41, reflected, initial value and final exclusive-or all ones, as in
 * RFC 3720 (iSCSI), whose section B.4 has test vectors. It finds every error
 * of up to 32 bits in a row, which a torn or a misdirected write seldom is,
 * and everything else but once in 2^32. It is no defence against malice.
 *
 *     crc = cleat_crc32c(0, "1234", 4);
 *     crc = cleat_crc32c(crc, "56789", 5);      crc is now 0xE3069283
 *
 * Which code runs. The plain functions use the best that the *build*
 * guarantees: the CRC instructions where the compiler targets them
 * (-msse4.2, -march=armv8-a+crc), otherwise tables (eight of 1 KiB; sixteen
 * entries in all under CLEAT_SMALL=1). A program built for any x86-64 and run
 * on one that has SSE4.2, or AVX-512 and VPCLMULQDQ, says so itself:
 *
 *     #define CLEAT_DIGEST_DETECT         before the include, outside of core
 *     enum cleat_digest_kind kind = cleat_digest_detect();
 *     crc = cleat_crc32c_copy_with(kind, crc, to, from, bytes);
 *
 * It asks once and keeps the answer where it keeps its other configuration:
 * core has no globals, hence no place to remember it.
 */
#ifndef CLEAT_DIGEST_H
#define CLEAT_DIGEST_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum cleat_digest_kind {
    CLEAT_DIGEST_BUILD,    /* the best that this build guarantees */
    CLEAT_DIGEST_PORTABLE, /* tables, on every machine */
    CLEAT_DIGEST_HARDWARE, /* the caller knows that this CPU has SSE4.2 or
                              the Armv8 CRC instructions; the same as
                              CLEAT_DIGEST_BUILD in a build that has no code
                              for them. Illegal instruction otherwise. */
    CLEAT_DIGEST_WIDE      /* that it has AVX-512F and VPCLMULQDQ as well, and
                              that the system keeps their registers; the same
                              as CLEAT_DIGEST_HARDWARE in a build that has no
                              code for them. Illegal instruction otherwise. */
};

/* The CRC of all bytes so far and of `bytes` more.
 *   crc     0 to start, otherwise what the call before returned
 *   data    may be NULL when bytes is 0; any alignment */
uint32_t cleat_crc32c(uint32_t crc, const void *data, size_t bytes);

/* The same, while copying: the bytes are read once, and the result is the CRC
 * of what was written.
 *   dst, src   `bytes` bytes each, any alignment, must not overlap; may be
 *              NULL when bytes is 0 */
uint32_t cleat_crc32c_copy(uint32_t crc, void *dst, const void *src,
                           size_t bytes);

/* The two above with the kind of code told. The result does not depend on
 * the kind. */
uint32_t cleat_crc32c_with(enum cleat_digest_kind kind, uint32_t crc,
                           const void *data, size_t bytes);
uint32_t cleat_crc32c_copy_with(enum cleat_digest_kind kind, uint32_t crc,
                                void *dst, const void *src, size_t bytes);

/* The same copy for a destination that nobody reads soon, such as a receiver's
 * weights: where the hardware can, it is written past the caches, which saves
 * reading it first (a quarter to a third of the memory traffic) and leaves in
 * the cache what is there. For a shared slot that another core reads at once
 * it depends on the machine: the writer need not fetch back the lines that core
 * holds, and the reader must fetch them from memory. The plain copy does this
 * by itself from
 * CLEAT_DIGEST_COLD_BYTES on, which no cache is expected to hold. The bytes
 * are visible to other processors before any store that follows the call. */
#define CLEAT_DIGEST_COLD_BYTES ((size_t)32 * 1024 * 1024)
uint32_t cleat_crc32c_copy_cold_with(enum cleat_digest_kind kind, uint32_t crc,
                                     void *dst, const void *src, size_t bytes);

/* The CRC of A followed by B, from the CRC of each, in time that grows with
 * the logarithm of B's length.
 *   bytes_b   length of B */
uint32_t cleat_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b);

#ifdef __cplusplus
}
#endif

#if defined(CLEAT_DIGEST_DETECT)
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
/* Whether leaf 7 and the system's XCR0 have what CLEAT_DIGEST_WIDE needs.
 * (Intel SDM vol. 2A, CPUID: AVX-512F, leaf 7, EBX bit 16; VPCLMULQDQ, ECX bit
 * 10. Vol. 1, 13.3: XCR0 bits 1, 2, 5, 6 and 7.) */
static inline bool cleat_digest_detect_wide(void)
{
    unsigned int eax = 0;
    unsigned int ebx = 0;
    unsigned int ecx = 0;
    unsigned int edx = 0;

    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) { return false; }
    if (((ebx >> 16) & 1u) == 0 || ((ecx >> 10) & 1u) == 0) { return false; }
    __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return (eax & 0xE6u) == 0xE6u;
}
#endif

/* The best kind that the CPU which runs this has, if this build has code for
 * it, otherwise CLEAT_DIGEST_BUILD. Costs some hundred nanoseconds (in a
 * virtual machine, microseconds): ask once. */
static inline enum cleat_digest_kind cleat_digest_detect(void)
{
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    unsigned int eax = 0;
    unsigned int ebx = 0;
    unsigned int ecx = 0;
    unsigned int edx = 0;

    /* Leaf 1, ECX bit 20: SSE4.2; bit 27: XGETBV may be used. */
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && ((ecx >> 20) & 1u)) {
        return ((ecx >> 27) & 1u) && cleat_digest_detect_wide()
                   ? CLEAT_DIGEST_WIDE
                   : CLEAT_DIGEST_HARDWARE;
    }
#elif defined(__aarch64__) && defined(__linux__)
    /* HWCAP bit 7: CRC32 (Linux, arm64 ELF hwcaps). */
    if ((getauxval(AT_HWCAP) >> 7) & 1u) { return CLEAT_DIGEST_HARDWARE; }
#endif
    return CLEAT_DIGEST_BUILD;
}
#endif
#endif
