/* Cleat: how fast weights travel between GPUs: the table.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu_bench.h"

#define MIB (UINT64_C(1) << 20)
#define RATIO_MIN 0.95

struct results results;

const char *const way_names[WAYS] = {
    "bare NCCL",
    "ours, slots on the device as they are, digest skipped",
    "ours, from and to weights on the device, digest skipped",
    "ours, staged, from and to weights on the host, digest on",
    "copy on one device",
    "pinned host to device",
    "device to pinned host",
    "copy + CRC32C, one core",
    "staging alone: copy + CRC32C, then host to device"};

/* ---- the table ---- */

static int by_size(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;

    return (difference > 0) - (difference < 0);
}

static double median(const double *values)
{
    double sorted[TURNS_MAX];
    uint32_t count = results.turns;

    memcpy(sorted, values, count * sizeof *values);
    qsort(sorted, count, sizeof *sorted, by_size);
    return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}

/* By the slowest of `count` ways in the same turn. */
static double ratio_of_least(const struct size *size, enum way a,
                             const enum way *ways, uint32_t count)
{
    double ratios[TURNS_MAX];

    for (uint32_t turn = 0; turn < results.turns; turn++) {
        double least = size->rates[ways[0]][turn];

        for (uint32_t i = 1; i < count; i++) {
            double rate = size->rates[ways[i]][turn];

            if (rate < least) { least = rate; }
        }
        ratios[turn] = size->rates[a][turn] / least;
    }
    return median(ratios);
}

double ratio_of(const struct size *size, enum way a, enum way b)
{
    return ratio_of_least(size, a, &b, 1);
}

static void print_bytes(uint64_t bytes)
{
    if (bytes % MIB == 0) {
        printf(" %llu MiB |", (unsigned long long)(bytes / MIB));
    } else {
        printf(" %llu KiB |", (unsigned long long)(bytes >> 10));
    }
}

static void print_payload(const char *what, enum way way)
{
    printf("| %s |", what);
    for (uint32_t i = 0; i < results.sizes_count; i++) {
        print_bytes(results.sizes[i].bucket_bytes *
                    results.sizes[i].buckets[way]);
    }
    printf("\n");
}

static void print_rates(enum way way)
{
    printf("| %s, GB/s |", way_names[way]);
    for (uint32_t i = 0; i < results.sizes_count; i++) {
        printf(" %.2f |", median(results.sizes[i].rates[way]));
    }
    printf("\n");
}

static void print_ratio(const char *what, enum way a, enum way b)
{
    printf("| … %s |", what);
    for (uint32_t i = 0; i < results.sizes_count; i++) {
        printf(" %.1f %% |", 100 * ratio_of(&results.sizes[i], a, b));
    }
    printf("\n");
}

#define STAGED_LIMITS 4u
static const enum way staged_limits[STAGED_LIMITS] = {WAY_DIGEST, WAY_TO,
                                                      WAY_BARE, WAY_FROM};
#define STAGING_LIMITS 2u
static const enum way staging_limits[STAGING_LIMITS] = {WAY_DIGEST, WAY_TO};

/* The slowest of the ceilings by their medians. */
static enum way slowest(const struct size *size)
{
    enum way found = staged_limits[0];

    for (uint32_t i = 1; i < STAGED_LIMITS; i++) {
        if (median(size->rates[staged_limits[i]]) <
            median(size->rates[found])) {
            found = staged_limits[i];
        }
    }
    return found;
}

static void print_staged_limits(void)
{
    printf("| … of the slowest of its ceilings |");
    for (uint32_t i = 0; i < results.sizes_count; i++) {
        const struct size *size = &results.sizes[i];

        printf(" %.1f %% (%s) |",
               100 * ratio_of_least(size, WAY_STAGED, staged_limits,
                                    STAGED_LIMITS),
               way_names[slowest(size)]);
    }
    printf("\n");
}

static void print_staging_limits(void)
{
    printf("| … of the slower of copy + CRC32C and pinned host to device |");
    for (uint32_t i = 0; i < results.sizes_count; i++) {
        printf(" %.1f %% |",
               100 * ratio_of_least(&results.sizes[i], WAY_STAGING,
                                    staging_limits, STAGING_LIMITS));
    }
    printf("\n");
}

static void print_verdict(void)
{
    uint32_t missed = 0;

    for (uint32_t i = 0; i < results.sizes_count; i++) {
        missed += ratio_of(&results.sizes[i], WAY_KEPT, WAY_BARE) < RATIO_MIN;
    }
    printf("\nours at %.0f %% of bare NCCL or more: %s\n", 100 * RATIO_MIN,
           missed == 0 ? "met" : "NOT MET");
}

void table_print(void)
{
    printf("\n| medians of %u turns; buckets of |", results.turns);
    for (uint32_t i = 0; i < results.sizes_count; i++) {
        print_bytes(results.sizes[i].bucket_bytes);
    }
    printf("\n|---|");
    for (uint32_t i = 0; i < results.sizes_count; i++) { printf("---|"); }
    printf("\n");
    print_payload("payload of a pass on the device", WAY_BARE);
    print_payload("payload of a pass from the host", WAY_STAGED);
    print_rates(WAY_COPY);
    print_rates(WAY_TO);
    print_rates(WAY_FROM);
    print_rates(WAY_DIGEST);
    print_rates(WAY_BARE);
    print_rates(WAY_KEPT);
    print_ratio("of bare NCCL (goal: 95 %)", WAY_KEPT, WAY_BARE);
    print_rates(WAY_DEVICE);
    print_ratio("of bare NCCL", WAY_DEVICE, WAY_BARE);
    print_rates(WAY_STAGED);
    print_ratio("of bare NCCL", WAY_STAGED, WAY_BARE);
    print_staged_limits();
    print_rates(WAY_STAGING);
    print_ratio("of pinned host to device", WAY_STAGING, WAY_TO);
    print_staging_limits();
    print_verdict();
}
