/* Cleat: the digest against a slow obvious model. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Every buffer ends at a page that cannot be touched, and so does every
 * destination, so that a read or a write past the end is a crash. */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CLEAT_DIGEST_DETECT
#include "cleat/digest.h"

static enum cleat_digest_kind kinds[4] = {CLEAT_DIGEST_PORTABLE,
                                          CLEAT_DIGEST_BUILD};
#define KINDS (sizeof kinds / sizeof kinds[0])

#define CHECK(x, ...)                                               \
    do {                                                            \
        if (!(x)) {                                                 \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #x); \
            fprintf(stderr, __VA_ARGS__);                           \
            fprintf(stderr, "\n");                                  \
            exit(1);                                                \
        }                                                           \
    } while (0)

/* ---- the model: RFC 3720's polynomial, one bit at a time ---------------- */

static uint32_t model_table[256];

static void model_init(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t remainder = byte;

        for (int bit = 0; bit < 8; bit++) {
            bool out = remainder & 1u;

            remainder >>= 1;
            if (out) { remainder ^= 0x82F63B78u; }
        }
        model_table[byte] = remainder;
    }
}

static uint32_t model(uint32_t crc, const unsigned char *data, size_t bytes)
{
    crc = ~crc;
    for (size_t i = 0; i < bytes; i++) {
        crc = (crc >> 8) ^ model_table[(crc ^ data[i]) & 0xFFu];
    }
    return ~crc;
}

/* ---- memory that ends at a wall ------------------------------------------ */

#define PAGE ((size_t)4096)

struct walled {
    unsigned char *end; /* one past the last byte */
    size_t bytes;
};

static struct walled walled(size_t bytes)
{
    size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
    unsigned char *block = mmap(NULL, pages + PAGE, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct walled made;

    CHECK(block != MAP_FAILED, "mmap of %zu bytes", pages + PAGE);
    CHECK(mprotect(block + pages, PAGE, PROT_NONE) == 0, "mprotect");
    made.end = block + pages;
    made.bytes = pages;
    return made;
}

static uint64_t random_state = 1;

static uint64_t random_u64(void)
{
    /* splitmix64 (Steele, Lea, Flood, 2014) */
    uint64_t z = (random_state += 0x9E3779B97F4A7C15u);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void fill(unsigned char *data, size_t bytes)
{
    size_t i = 0;

    for (; bytes - i >= 8; i += 8) {
        uint64_t word = random_u64();

        memcpy(data + i, &word, 8);
    }
    for (; i < bytes; i++) { data[i] = (unsigned char)random_u64(); }
}

/* ---- the properties -------------------------------------------------------
 */

typedef uint32_t copy_call(enum cleat_digest_kind kind, uint32_t crc, void *dst,
                           const void *src, size_t bytes);

/* The last `bytes` bytes before the source's wall, to `shift` bytes before
 * the destination's: digest and copy are the model's, and the bytes on both
 * sides of the destination are untouched. */
static void check_copy(const char *name, copy_call *copy,
                       enum cleat_digest_kind kind, const struct walled *source,
                       const struct walled *destination, size_t bytes,
                       size_t shift, uint32_t seed)
{
    const unsigned char *from = source->end - bytes;
    unsigned char *to = destination->end - shift - bytes;
    uint32_t expected = model(seed, from, bytes);

    memset(to, 0x5A, bytes + shift);
    to[-1] = 0x5A;
    CHECK(copy(kind, seed, to, from, bytes) == expected,
          "%s of kind %d, %zu bytes, %zu from the end", name, (int)kind, bytes,
          shift);
    CHECK(memcmp(to, from, bytes) == 0, "%s of kind %d, %zu bytes", name,
          (int)kind, bytes);
    CHECK(to[-1] == 0x5A, "%s of kind %d writes before", name, (int)kind);
    for (size_t i = 0; i < shift; i++) {
        CHECK(to[bytes + i] == 0x5A, "%s of kind %d writes after", name,
              (int)kind);
    }
}

static void check_length(const struct walled *source,
                         const struct walled *destination, size_t bytes,
                         size_t shift)
{
    const unsigned char *from = source->end - bytes;
    uint32_t seed = (uint32_t)random_u64();

    for (size_t k = 0; k < KINDS; k++) {
        CHECK(cleat_crc32c_with(kinds[k], seed, from, bytes) ==
                  model(seed, from, bytes),
              "kind %d, %zu bytes", (int)kinds[k], bytes);
        check_copy("copy", cleat_crc32c_copy_with, kinds[k], source,
                   destination, bytes, shift, seed);
        check_copy("cold copy", cleat_crc32c_copy_cold_with, kinds[k], source,
                   destination, bytes, shift, seed);
    }
}

static void every_short_length_at_every_alignment_is_the_models(void)
{
    struct walled source = walled(4096);
    struct walled destination = walled(4096);

    fill(source.end - source.bytes, source.bytes);
    for (size_t bytes = 0; bytes <= 1700; bytes++) {
        check_length(&source, &destination, bytes, bytes % 67);
        if (bytes <= 80) {
            for (size_t shift = 0; shift <= 64; shift++) {
                check_length(&source, &destination, bytes, shift);
            }
        }
    }
}

/* Where the code changes its way of cutting lanes: 48 KiB, and every length
 * whose third has another leading bit. */
static void lengths_around_every_change_of_lanes_are_the_models(void)
{
    size_t most = (size_t)2 << 20;
    struct walled source = walled(most + 64);
    struct walled destination = walled(most + 4096);

    fill(source.end - source.bytes, source.bytes);
    for (size_t lane = 8 * 1024; 3 * lane <= most; lane *= 2) {
        check_length(&source, &destination, 3 * lane - 1, 1);
        check_length(&source, &destination, 3 * lane, 0);
        check_length(&source, &destination, 3 * lane + 1, 8);
    }
    for (int i = 0; i < 60; i++) {
        check_length(&source, &destination, random_u64() % most,
                     random_u64() % 65);
    }
    check_length(&source, &destination, 48 * 1024 - 1, 3);
    check_length(&source, &destination, 48 * 1024, 5);
    check_length(&source, &destination, 48 * 1024 + 769, 7);
}

static void a_copy_too_large_for_the_caches_is_the_models(void)
{
    size_t bytes = CLEAT_DIGEST_COLD_BYTES + 12345;
    struct walled source = walled(bytes);
    struct walled destination = walled(bytes + 4096);
    unsigned char *to = destination.end - bytes;

    fill(source.end - source.bytes, source.bytes);
    for (size_t k = 0; k < KINDS; k++) {
        const unsigned char *from = source.end - bytes;

        memset(to, 0, bytes);
        CHECK(cleat_crc32c_copy_with(kinds[k], 0, to, from, bytes) ==
                  model(0, from, bytes),
              "kind %d", (int)kinds[k]);
        CHECK(memcmp(to, from, bytes) == 0, "kind %d", (int)kinds[k]);
    }
}

static void any_split_gives_the_digest_of_the_whole(void)
{
    size_t most = 200000;
    struct walled source = walled(most);
    const unsigned char *data = source.end - most;

    fill(source.end - source.bytes, source.bytes);
    for (int i = 0; i < 400; i++) {
        size_t a = random_u64() % most;
        size_t b = random_u64() % (most - a);
        uint32_t whole = model(0, data, a + b);
        enum cleat_digest_kind first = kinds[random_u64() % KINDS];
        enum cleat_digest_kind second = kinds[random_u64() % KINDS];
        uint32_t crc = cleat_crc32c_with(first, 0, data, a);

        CHECK(cleat_crc32c_with(second, crc, data + a, b) == whole,
              "%zu then %zu bytes", a, b);
        CHECK(cleat_crc32c_combine(model(0, data, a), model(0, data + a, b),
                                   b) == whole,
              "combined, %zu and %zu bytes", a, b);
    }
}

/* The digest of n zero bytes after A, for n far beyond what can be computed
 * byte by byte, is that of combining in two steps; and 2^31 - 1 zero *bits*
 * (the order of x) change no remainder: 8 (2^31 - 1) bits are that many
 * bytes. */
static void combining_is_right_for_lengths_beyond_memory(void)
{
    const uint64_t order = (UINT64_C(1) << 31) - 1;

    for (int i = 0; i < 2000; i++) {
        uint32_t a = (uint32_t)random_u64();
        uint64_t m = random_u64() >> (random_u64() % 63 + 1);
        uint64_t n = random_u64() >> (random_u64() % 63 + 1);
        uint32_t in_two = cleat_crc32c_combine(
            cleat_crc32c_combine(a, 0x1234u, m), 0x5678u, n);
        uint32_t in_one = cleat_crc32c_combine(
            a, cleat_crc32c_combine(0x1234u, 0x5678u, n), m + n);

        CHECK(in_two == in_one, "%llu and %llu bytes", (unsigned long long)m,
              (unsigned long long)n);
    }
    /* x has order 2^31 - 1 only modulo the primitive factor; modulo x + 1
     * every power of x is 1, so that this holds modulo the product too. */
    CHECK(cleat_crc32c_combine(0xDEADBEEFu, 0, order) == 0xDEADBEEFu,
          "the order of x");
    CHECK(cleat_crc32c_combine(0xDEADBEEFu, 0, order + 5) ==
              cleat_crc32c_combine(0xDEADBEEFu, 0, 5),
          "the order of x");
}

/* The guarantee of the polynomial: no burst of up to 32 bits is missed. */
static void any_burst_of_up_to_32_bits_changes_the_digest(void)
{
    unsigned char data[512];
    unsigned char torn[512];

    fill(data, sizeof data);
    for (int i = 0; i < 20000; i++) {
        size_t bit = random_u64() % (8 * (sizeof data - 8));
        uint64_t burst = (random_u64() & 0xFFFFFFFFu) | 1u;

        memcpy(torn, data, sizeof data);
        for (size_t k = 0; k < 32; k++) {
            if ((burst >> k) & 1u) {
                torn[(bit + k) / 8] ^= (unsigned char)(1u << ((bit + k) % 8));
            }
        }
        CHECK(cleat_crc32c(0, torn, sizeof torn) !=
                  cleat_crc32c(0, data, sizeof data),
              "burst %llx at bit %zu", (unsigned long long)burst, bit);
    }
}

int main(void)
{
    model_init();
    CHECK(model(0, (const unsigned char *)"123456789", 9) == 0xE3069283u,
          "the model itself");
    kinds[2] = cleat_digest_detect();
    /* What is better than the hardware's has that as well. */
    kinds[3] = kinds[2] == CLEAT_DIGEST_WIDE ? CLEAT_DIGEST_HARDWARE : kinds[2];
    every_short_length_at_every_alignment_is_the_models();
    lengths_around_every_change_of_lanes_are_the_models();
    a_copy_too_large_for_the_caches_is_the_models();
    any_split_gives_the_digest_of_the_whole();
    combining_is_right_for_lengths_beyond_memory();
    any_burst_of_up_to_32_bits_changes_the_digest();
    printf("digest: the properties hold for kinds %d, %d, %d and %d\n",
           (int)kinds[0], (int)kinds[1], (int)kinds[2], (int)kinds[3]);
    return 0;
}
