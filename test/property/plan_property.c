/* Cleat: the plan against slow, obvious models. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Small tables are compared byte by byte with a walk over every byte of every
 * tensor; tables at the extremes of 64 bits with arithmetic in 128 bits. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleat/plan.h"

#define TENSORS_MAX 48
#define TENSOR_BYTES_MAX 3000
#define ALIGN 256

__extension__ typedef unsigned __int128 wide;

static uint64_t seed_now;

#define CHECK(x)                                                               \
    do {                                                                       \
        if (!(x)) {                                                            \
            printf("plan_property: seed %" PRIu64 ": line %d: not true: %s\n", \
                   seed_now, __LINE__, #x);                                    \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t random_state;

static uint64_t random64(void)
{
    uint64_t z = random_state += UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static uint64_t below(uint64_t limit)
{
    return random64() % limit;
}

static void plan_of(struct cleat_plan *plan, uint64_t *block,
                    const uint64_t *sizes, uint32_t count,
                    uint32_t bucket_bytes)
{
    CHECK(cleat_plan_begin(plan, block, count, bucket_bytes, NULL) == CLEAT_OK);
    for (uint32_t i = 0; i < count; i++) {
        CHECK(cleat_plan_add(plan, sizes[i]) == CLEAT_OK);
    }
    cleat_plan_end(plan);
}

/* ---- small tables, byte by byte ------------------------------------------ */
struct place {
    uint32_t bucket;
    uint32_t offset;
};

static struct place places[TENSORS_MAX][TENSOR_BYTES_MAX];
static unsigned char seen[TENSORS_MAX][TENSOR_BYTES_MAX];

/* Puts every byte of every tensor in its place; returns the flat end. */
static uint64_t walk(const uint64_t *sizes, uint32_t count,
                     uint32_t bucket_bytes)
{
    uint64_t next = 0;
    uint64_t end = 0;

    for (uint32_t t = 0; t < count; t++) {
        if (sizes[t] == 0) { continue; }
        while (next % ALIGN != 0) { next++; }
        for (uint64_t b = 0; b < sizes[t]; b++) {
            places[t][b].bucket = (uint32_t)(next / bucket_bytes);
            places[t][b].offset = (uint32_t)(next % bucket_bytes);
            next++;
        }
        end = next;
    }
    return end;
}

/* Every piece of one bucket: in order, inside, and where the walk put it. */
static void check_bucket(const struct cleat_plan *plan, uint32_t bucket,
                         const uint64_t *sizes, uint32_t count)
{
    struct cleat_plan_piece piece;
    uint32_t cursor = 0;
    uint32_t filled = 0;
    uint32_t bytes = cleat_plan_bucket_bytes(plan, bucket);

    while (cleat_plan_next(plan, bucket, &cursor, &piece)) {
        CHECK(piece.tensor < count);
        CHECK(piece.bytes >= 1);
        CHECK(piece.tensor_offset < sizes[piece.tensor]);
        CHECK(piece.bytes <= sizes[piece.tensor] - piece.tensor_offset);
        CHECK(piece.bucket_offset >= filled);
        CHECK(piece.bucket_offset - filled < ALIGN);
        CHECK(piece.bytes <= bytes - piece.bucket_offset);
        filled = piece.bucket_offset + piece.bytes;
        for (uint32_t i = 0; i < piece.bytes; i++) {
            uint64_t byte = piece.tensor_offset + i;

            CHECK(places[piece.tensor][byte].bucket == bucket);
            CHECK(places[piece.tensor][byte].offset == piece.bucket_offset + i);
            CHECK(seen[piece.tensor][byte] == 0);
            seen[piece.tensor][byte] = 1;
        }
    }
    CHECK(!cleat_plan_next(plan, bucket, &cursor, &piece));
    /* None is empty, and the gap that ends a full one is less than a line. */
    CHECK(filled != 0);
    CHECK(filled <= bytes && bytes - filled < ALIGN);
}

static uint64_t small_size(void)
{
    static const uint64_t corners[] = {0, 1, 255, 256, 257, 511, 512, 513};

    switch (below(4)) {
    case 0: return corners[below(8)];
    case 1: return below(300);
    case 2: return 256 * below(8);
    default: return below(TENSOR_BYTES_MAX);
    }
}

/* covers-every-byte-once · bucket-never-overflows */
static void covers_every_byte_once_and_bucket_never_overflows(void)
{
    uint64_t sizes[TENSORS_MAX] = {0};
    uint64_t block[TENSORS_MAX];
    struct cleat_plan plan;
    uint32_t count = (uint32_t)below(TENSORS_MAX + 1);
    uint32_t bucket_bytes = (uint32_t)(ALIGN * (1 + below(12)));
    uint64_t flat_bytes;
    uint32_t buckets;
    uint32_t first;

    for (uint32_t i = 0; i < count; i++) { sizes[i] = small_size(); }
    memset(seen, 0, sizeof seen);
    flat_bytes = walk(sizes, count, bucket_bytes);
    plan_of(&plan, block, sizes, count, bucket_bytes);
    buckets = cleat_plan_buckets(&plan);
    CHECK(cleat_plan_tensors(&plan) == count);
    CHECK(cleat_plan_flat_bytes(&plan) == flat_bytes);
    CHECK(buckets == (flat_bytes + bucket_bytes - 1) / bucket_bytes);
    /* From any bucket on: each is found without the one before. */
    first = buckets == 0 ? 0 : (uint32_t)below(buckets);
    for (uint32_t k = 0; k < buckets; k++) {
        uint32_t bucket = (first + k) % buckets;
        bool last = bucket + 1 == buckets;

        CHECK(cleat_plan_bucket_bytes(&plan, bucket) ==
              (last ? flat_bytes - (uint64_t)bucket * bucket_bytes
                    : bucket_bytes));
        check_bucket(&plan, bucket, sizes, count);
    }
    for (uint32_t t = 0; t < count; t++) {
        for (uint64_t b = 0; b < sizes[t]; b++) { CHECK(seen[t][b] == 1); }
    }
}

/* same-on-every-rank */
static void the_same_on_every_rank(void)
{
    uint64_t sizes[TENSORS_MAX] = {0};
    uint64_t block_a[TENSORS_MAX];
    uint64_t block_b[TENSORS_MAX];
    struct cleat_plan a;
    struct cleat_plan b;
    uint32_t count = 1 + (uint32_t)below(TENSORS_MAX);
    uint32_t bucket_bytes = (uint32_t)(ALIGN * (1 + below(12)));
    uint32_t changed = (uint32_t)below(count);

    for (uint32_t i = 0; i < count; i++) { sizes[i] = small_size(); }
    memset(block_a, 0, sizeof block_a);
    memset(block_b, 0xA5, sizeof block_b); /* what lay there is no input */
    memset(&a, 0, sizeof a);
    memset(&b, 0xA5, sizeof b);
    plan_of(&a, block_a, sizes, count, bucket_bytes);
    plan_of(&b, block_b, sizes, count, bucket_bytes);
    CHECK(cleat_plan_digest(&a) == cleat_plan_digest(&b));
    CHECK(memcmp(block_a, block_b, count * sizeof block_a[0]) == 0);
    plan_of(&b, block_b, sizes, count, bucket_bytes + ALIGN);
    CHECK(cleat_plan_digest(&a) != cleat_plan_digest(&b));
    sizes[changed] ^= UINT64_C(1) << below(20);
    plan_of(&b, block_b, sizes, count, bucket_bytes);
    CHECK(cleat_plan_digest(&a) != cleat_plan_digest(&b));
}

/* ---- the extremes, in 128 bits ------------------------------------------- */
static wide line_up(wide address)
{
    return (address + (ALIGN - 1)) / ALIGN * ALIGN;
}

/* Piece number `number` of a bucket by looking at every tensor. */
static bool slow_piece(const wide *starts, const uint64_t *sizes,
                       uint32_t count, wide base, wide limit, uint32_t number,
                       struct cleat_plan_piece *piece)
{
    for (uint32_t t = 0; t < count; t++) {
        wide from = starts[t] > base ? starts[t] : base;
        wide to = starts[t] + sizes[t];

        if (to > limit) { to = limit; }
        if (from >= to) { continue; }
        if (number-- != 0) { continue; }
        piece->tensor = t;
        piece->tensor_offset = (uint64_t)(from - starts[t]);
        piece->bucket_offset = (uint32_t)(from - base);
        piece->bytes = (uint32_t)(to - from);
        return true;
    }
    return false;
}

static void check_pieces(const struct cleat_plan *plan, uint32_t bucket,
                         const wide *starts, const uint64_t *sizes,
                         uint32_t count, uint32_t bucket_bytes)
{
    wide base = (wide)bucket * bucket_bytes;
    uint32_t cursor = 0;
    bool more = true;

    for (uint32_t number = 0; more; number++) {
        struct cleat_plan_piece fast;
        struct cleat_plan_piece slow;

        memset(&fast, 0, sizeof fast);
        memset(&slow, 0, sizeof slow);
        more = cleat_plan_next(plan, bucket, &cursor, &fast);
        CHECK(more == slow_piece(starts, sizes, count, base,
                                 base + bucket_bytes, number, &slow));
        CHECK(memcmp(&fast, &slow, sizeof fast) == 0);
    }
}

static uint64_t extreme_size(void)
{
    switch (below(6)) {
    case 0: return UINT64_MAX - below(600);
    case 1: return (UINT64_C(1) << below(64)) - below(2);
    case 2: return below(4) == 0 ? 0 : below(1000);
    case 3: return random64() >> below(64);
    default: return random64() >> (16 + below(30));
    }
}

static void no_overflow_at_any_size(void)
{
    static const uint32_t corners[] = {ALIGN,
                                       2 * ALIGN,
                                       UINT32_C(1) << 20,
                                       UINT32_C(1) << 31,
                                       CLEAT_PLAN_BUCKET_BYTES_MAX,
                                       CLEAT_PLAN_BUCKET_BYTES_MAX - ALIGN};
    uint64_t sizes[TENSORS_MAX] = {0};
    uint64_t block[TENSORS_MAX];
    wide starts[TENSORS_MAX];
    struct cleat_plan plan;
    uint32_t bucket_bytes = corners[below(6)];
    wide flat_max = (wide)bucket_bytes * UINT32_MAX;
    wide end = 0;
    uint32_t count = 0;
    uint32_t buckets;

    CHECK(cleat_plan_begin(&plan, block, TENSORS_MAX, bucket_bytes, NULL) ==
          CLEAT_OK);
    for (uint32_t tries = 0; tries < 2 * TENSORS_MAX; tries++) {
        uint64_t size = extreme_size();
        wide start = line_up(end);
        wide new_end = size == 0 ? end : start + size;
        enum cleat_status wanted = CLEAT_OK;

        /* Exactly full, and one more than that, must come up often. */
        if (below(8) == 0 && start < flat_max) {
            size = (uint64_t)(flat_max - start) + below(2);
            new_end = start + size;
        }
        if (new_end > flat_max) { wanted = CLEAT_LIMIT; }
        if (count == TENSORS_MAX) { wanted = CLEAT_NO_SLOT; }
        CHECK(cleat_plan_add(&plan, size) == wanted);
        if (wanted != CLEAT_OK) { continue; }
        starts[count] = start;
        sizes[count++] = size;
        end = new_end;
    }
    cleat_plan_end(&plan);
    buckets = cleat_plan_buckets(&plan);
    CHECK(cleat_plan_add(&plan, 1) == CLEAT_STATE);
    CHECK(cleat_plan_tensors(&plan) == count);
    CHECK(cleat_plan_flat_bytes(&plan) == (uint64_t)end);
    CHECK(buckets == (uint32_t)((end + bucket_bytes - 1) / bucket_bytes));
    for (uint32_t k = 0; k < 20 && buckets != 0; k++) {
        check_pieces(&plan, (uint32_t)below(buckets), starts, sizes, count,
                     bucket_bytes);
    }
    for (uint32_t t = 0; t < count && buckets != 0; t++) {
        check_pieces(&plan, (uint32_t)(starts[t] / bucket_bytes) % buckets,
                     starts, sizes, count, bucket_bytes);
    }
    if (buckets != 0) {
        check_pieces(&plan, buckets - 1, starts, sizes, count, bucket_bytes);
    }
    CHECK(cleat_plan_bucket_bytes(&plan, buckets) == 0);
    if (buckets != UINT32_MAX) {
        check_pieces(&plan, buckets, starts, sizes, count, bucket_bytes);
    }
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 1 ? 1 : 4000;

    for (seed_now = first; seed_now < first + count; seed_now++) {
        random_state = seed_now;
        covers_every_byte_once_and_bucket_never_overflows();
        the_same_on_every_rank();
        no_overflow_at_any_size();
    }
    printf("plan_property: %" PRIu64 " tables of each kind\n", count);
    return 0;
}
