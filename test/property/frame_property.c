/* Cleat: what holds of every frame. SPDX-License-Identifier: Apache-2.0
 *
 * round-trip, one-flipped-bit-is-found, never-reads-past-the-end: headers and
 * payloads end at a page that cannot be touched. */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cleat/frame.h"

#define CHECK(x, ...)                                               \
    do {                                                            \
        if (!(x)) {                                                 \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #x); \
            fprintf(stderr, __VA_ARGS__);                           \
            fprintf(stderr, "\n");                                  \
            exit(1);                                                \
        }                                                           \
    } while (0)

static uint64_t random_state = 2;

static uint64_t random_u64(void)
{
    /* splitmix64 (Steele, Lea, Flood, 2014) */
    uint64_t z = (random_state += 0x9E3779B97F4A7C15u);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Bytes that end where a page begins that cannot be touched. */
static unsigned char *before_wall(size_t bytes)
{
    size_t page = 4096;
    size_t room = (bytes + page - 1) / page * page;
    unsigned char *block = mmap(NULL, room + page, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(block != MAP_FAILED, "mmap of %zu bytes", room + page);
    CHECK(mprotect(block + room, page, PROT_NONE) == 0, "mprotect");
    return block + room - bytes;
}

#define PAYLOAD_MAX ((size_t)65536)

/* A frame that is sound, over a payload of at most PAYLOAD_MAX bytes. */
static struct cleat_frame random_frame(unsigned char *payload)
{
    static const uint32_t size_of[CLEAT_DTYPE_END] = {1, 1, 1, 1, 1, 1, 2, 2,
                                                      2, 2, 4, 4, 4, 8, 8, 8};
    struct cleat_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.dtype = (enum cleat_dtype)(random_u64() % CLEAT_DTYPE_END);
    frame.tag = random_u64();
    if (frame.dtype == CLEAT_DTYPE_NONE) {
        frame.payload_bytes = random_u64() % (PAYLOAD_MAX + 1);
    } else {
        frame.rank = (uint32_t)(random_u64() % (CLEAT_RANK_MAX + 1));
        frame.payload_bytes = size_of[frame.dtype];
        for (uint32_t i = 0; i < frame.rank; i++) {
            uint64_t room = frame.payload_bytes == 0
                                ? UINT32_MAX
                                : PAYLOAD_MAX / frame.payload_bytes;

            frame.shape[i] = random_u64() % (room < 9 ? room + 1 : 10);
            frame.payload_bytes *= frame.shape[i];
        }
    }
    for (uint64_t i = 0; i < frame.payload_bytes; i++) {
        payload[i] = (unsigned char)random_u64();
    }
    if (random_u64() % 8 == 0) {
        frame.flags = CLEAT_FRAME_UNDIGESTED;
    } else {
        frame.payload_crc = cleat_crc32c(0, payload,
                                         (size_t)frame.payload_bytes);
    }
    return frame;
}

static void every_frame_reads_back_as_it_was_written(void)
{
    unsigned char *payload = before_wall(PAYLOAD_MAX);
    unsigned char *header = before_wall(CLEAT_FRAME_BYTES);

    for (int i = 0; i < 3000; i++) {
        struct cleat_frame frame = random_frame(payload);
        struct cleat_frame back;

        header[-1] = 0x5A;
        CHECK(cleat_frame_encode(&frame, header, CLEAT_FRAME_BYTES, NULL) ==
                  CLEAT_OK,
              "frame %d", i);
        CHECK(header[-1] == 0x5A, "frame %d", i);
        CHECK(cleat_frame_decode(header, CLEAT_FRAME_BYTES, &back, NULL) ==
                  CLEAT_OK,
              "frame %d", i);
        CHECK(memcmp(&frame, &back, sizeof frame) == 0, "frame %d", i);
        CHECK(cleat_frame_verify(&back, CLEAT_DIGEST_BUILD, payload,
                                 (size_t)back.payload_bytes, NULL) == CLEAT_OK,
              "frame %d", i);
    }
}

static void every_flipped_bit_of_a_header_is_found(void)
{
    unsigned char *payload = before_wall(PAYLOAD_MAX);
    unsigned char *header = before_wall(CLEAT_FRAME_BYTES);

    for (int i = 0; i < 50; i++) {
        struct cleat_frame frame = random_frame(payload);
        struct cleat_frame back;

        CHECK(cleat_frame_encode(&frame, header, CLEAT_FRAME_BYTES, NULL) ==
                  CLEAT_OK,
              "frame %d", i);
        for (size_t bit = 0; bit < 8 * CLEAT_FRAME_BYTES; bit++) {
            enum cleat_status status;

            header[bit / 8] ^= (unsigned char)(1u << (bit % 8));
            status = cleat_frame_decode(header, CLEAT_FRAME_BYTES, &back, NULL);
            CHECK(status == (bit < 32 ? CLEAT_MALFORMED : CLEAT_CORRUPT),
                  "frame %d, bit %zu: %s", i, bit, cleat_status_name(status));
            header[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        }
    }
}

static void every_flipped_bit_of_a_payload_is_found(void)
{
    unsigned char *payload = before_wall(PAYLOAD_MAX);

    for (int i = 0; i < 400; i++) {
        struct cleat_frame frame = random_frame(payload);
        size_t bits = (size_t)(8 * frame.payload_bytes);
        size_t step = bits < 2048 ? 1 : bits / 64;

        if (frame.flags & CLEAT_FRAME_UNDIGESTED) { continue; }
        for (size_t bit = 0; bit < bits; bit += 1 + random_u64() % step) {
            payload[bit / 8] ^= (unsigned char)(1u << (bit % 8));
            CHECK(cleat_frame_verify(&frame, CLEAT_DIGEST_BUILD, payload,
                                     bits / 8, NULL) == CLEAT_CORRUPT,
                  "frame %d, bit %zu", i, bit);
            payload[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        }
    }
}

/* Each beginning of a header lies right before the wall. */
static void every_truncation_is_short_and_nothing_behind_it_is_read(void)
{
    unsigned char *payload = before_wall(PAYLOAD_MAX);
    unsigned char *wall = before_wall(CLEAT_FRAME_BYTES) + CLEAT_FRAME_BYTES;
    unsigned char header[CLEAT_FRAME_BYTES];

    for (int i = 0; i < 50; i++) {
        struct cleat_frame frame = random_frame(payload);
        struct cleat_frame back;
        struct cleat_error error;

        CHECK(cleat_frame_encode(&frame, header, sizeof header, NULL) ==
                  CLEAT_OK,
              "frame %d", i);
        for (size_t bytes = 0; bytes < CLEAT_FRAME_BYTES; bytes++) {
            memcpy(wall - bytes, header, bytes);
            CHECK(cleat_frame_decode(wall - bytes, bytes, &back, &error) ==
                      CLEAT_SHORT,
                  "frame %d cut to %zu bytes", i, bytes);
            CHECK(error.offset == CLEAT_FRAME_BYTES, "%zu bytes", bytes);
        }
    }
    for (int i = 0; i < 200; i++) {
        struct cleat_frame frame = random_frame(payload);
        size_t bytes = (size_t)frame.payload_bytes;
        unsigned char *start = payload + PAYLOAD_MAX - bytes;

        if (bytes == 0) { continue; }
        memmove(start, payload, bytes);
        CHECK(cleat_frame_verify(&frame, CLEAT_DIGEST_BUILD, start, bytes,
                                 NULL) == CLEAT_OK,
              "frame %d", i);
        bytes = random_u64() % bytes;
        CHECK(cleat_frame_verify(&frame, CLEAT_DIGEST_BUILD,
                                 payload + PAYLOAD_MAX - bytes, bytes,
                                 NULL) == CLEAT_SHORT,
              "frame %d cut to %zu bytes", i, bytes);
    }
}

/* Bytes that nobody meant as a frame are never one, and never crash. */
static void noise_is_no_frame(void)
{
    unsigned char *header = before_wall(CLEAT_FRAME_BYTES);
    struct cleat_frame back;

    for (int i = 0; i < 200000; i++) {
        for (size_t k = 0; k < CLEAT_FRAME_BYTES; k += 8) {
            uint64_t word = random_u64();

            memcpy(header + k, &word, 8);
        }
        if (i % 2 == 0) { memcpy(header, "CLTF\1\0\200\0", 8); }
        CHECK(cleat_frame_decode(header, CLEAT_FRAME_BYTES, &back, NULL) !=
                  CLEAT_OK,
              "noise %d", i);
    }
}

int main(void)
{
    every_frame_reads_back_as_it_was_written();
    every_flipped_bit_of_a_header_is_found();
    every_flipped_bit_of_a_payload_is_found();
    every_truncation_is_short_and_nothing_behind_it_is_read();
    noise_is_no_frame();
    printf("frame: the properties hold\n");
    return 0;
}
