/* Cleat: how fast the digest is. SPDX-License-Identifier: Apache-2.0
 *
 * Prints GB/s (10^9 bytes a second) of memcpy, of the digest alone, of the
 * fused copy and of the fused copy to a cold destination, and their ratio to
 * memcpy, at three sizes: the best of several rounds that take turns, so that
 * a noisy neighbour hits all of them.
 *
 *     digest_bench [rounds]       7 unless told */
#define _GNU_SOURCE
#define CLEAT_DIGEST_DETECT
#include "cleat/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BYTES_MAX ((size_t)64 * 1024 * 1024)
#define SIZES 3
static const size_t sizes[SIZES] = {4096, (size_t)1024 * 1024, BYTES_MAX};

enum what { COPY_ONLY, DIGEST_ONLY, FUSED, FUSED_COLD };

struct row {
    const char *name;
    enum what what;
    enum cleat_digest_kind kind;
    double best[SIZES]; /* GB/s */
};

static struct row rows[] = {
    {"memcpy", COPY_ONLY, CLEAT_DIGEST_BUILD, {0}},
    {"crc32c             tables", DIGEST_ONLY, CLEAT_DIGEST_PORTABLE, {0}},
    {"copy + crc32c      tables", FUSED, CLEAT_DIGEST_PORTABLE, {0}},
    {"crc32c             detected", DIGEST_ONLY, CLEAT_DIGEST_BUILD, {0}},
    {"copy + crc32c      detected", FUSED, CLEAT_DIGEST_BUILD, {0}},
    {"cold copy + crc32c detected", FUSED_COLD, CLEAT_DIGEST_BUILD, {0}},
};
#define ROWS (sizeof rows / sizeof rows[0])

static volatile uint32_t kept; /* so that nothing is optimised away */

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run_once(const struct row *row, unsigned char *to,
                     const unsigned char *from, size_t bytes)
{
    switch (row->what) {
    case COPY_ONLY:
        memcpy(to, from, bytes);
        kept = to[bytes - 1];
        break;
    case DIGEST_ONLY:
        kept = cleat_crc32c_with(row->kind, 0, from, bytes);
        break;
    case FUSED:
        kept = cleat_crc32c_copy_with(row->kind, 0, to, from, bytes);
        break;
    case FUSED_COLD:
        kept = cleat_crc32c_copy_cold_with(row->kind, 0, to, from, bytes);
        break;
    }
}

static double measure(const struct row *row, unsigned char *to,
                      const unsigned char *from, size_t bytes)
{
    size_t times = BYTES_MAX / bytes;
    double began;

    run_once(row, to, from, bytes);
    began = now_s();
    for (size_t i = 0; i < times; i++) { run_once(row, to, from, bytes); }
    return 1e-9 * (double)bytes * (double)times / (now_s() - began);
}

/* What a receiver does: one slot, warm, over and over into memory that is not:
 * GB/s of one row. */
#define SLOT_BYTES ((size_t)4 * 1024 * 1024)

static double measure_slots(const struct row *row, unsigned char *to,
                            const unsigned char *from)
{
    double began = now_s();

    for (size_t i = 0; i < BYTES_MAX; i += SLOT_BYTES) {
        run_once(row, to + i, from, SLOT_BYTES);
    }
    return 1e-9 * (double)BYTES_MAX / (now_s() - began);
}

static void report_slots(int rounds, unsigned char *to,
                         const unsigned char *from)
{
    double best[ROWS] = {0};

    for (int round = 0; round < rounds; round++) {
        for (size_t r = 0; r < ROWS; r++) {
            double rate = measure_slots(&rows[r], to, from);

            if (rate > best[r]) { best[r] = rate; }
        }
    }
    printf("digest: a slot of 4 MiB into 64 MiB: memcpy %.2f, copy + crc32c "
           "%.2f, cold copy + crc32c %.2f GB/s\n",
           best[0], best[4], best[5]);
}

static void report(enum cleat_digest_kind kind)
{
    printf("digest: %s\n",
           kind == CLEAT_DIGEST_WIDE       ? "AVX-512 and VPCLMULQDQ found"
           : kind == CLEAT_DIGEST_HARDWARE ? "CRC instructions found"
                                           : "no CRC instructions found");
    printf("%-28s %16s %16s %16s   GB/s (ratio to memcpy)\n", "", "4 KiB",
           "1 MiB", "64 MiB");
    for (size_t r = 0; r < ROWS; r++) {
        printf("%-28s", rows[r].name);
        for (size_t s = 0; s < SIZES; s++) {
            printf(" %8.2f (%5.2f)", rows[r].best[s],
                   rows[r].best[s] / rows[0].best[s]);
        }
        printf("\n");
    }
    printf("digest: fused copy + CRC32C at 64 MiB: %.2f x memcpy\n",
           rows[4].best[2] / rows[0].best[2]);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 7;
    enum cleat_digest_kind kind = cleat_digest_detect();
    unsigned char *from = aligned_alloc(4096, BYTES_MAX);
    unsigned char *to = aligned_alloc(4096, BYTES_MAX);

    if (from == NULL || to == NULL || rounds < 1) {
        fprintf(stderr,
                "digest_bench: needs 128 MiB and rounds of 1 or more\n");
        return 2;
    }
    for (size_t i = 0; i < BYTES_MAX; i++) {
        from[i] = (unsigned char)((i * 2654435761u) >> 13);
    }
    memset(to, 1, BYTES_MAX);
    for (size_t r = 3; r < ROWS; r++) { rows[r].kind = kind; }
    for (int round = 0; round < rounds; round++) {
        for (size_t s = 0; s < SIZES; s++) {
            for (size_t r = 0; r < ROWS; r++) {
                double rate = measure(&rows[r], to, from, sizes[s]);

                if (rate > rows[r].best[s]) { rows[r].best[s] = rate; }
            }
        }
    }
    report(kind);
    report_slots(rounds, to, from);
    free(from);
    free(to);
    return 0;
}
