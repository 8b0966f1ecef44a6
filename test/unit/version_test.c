/* Cleat: versions of one checkpoint file. SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cleat/memory_tensors.h"
#include "tools/board.h"
#include "tools/version.h"

#define UNUSED(x) (void)(x)

/* Odd lengths, an empty one, one that is larger than a window. */
static const uint64_t sizes[] = {1, 255, 0, 256, 257, 150001, 7};
#define TENSORS (sizeof sizes / sizeof sizes[0])

struct fixture {
    char path[64];
    unsigned char *flat; /* the file's bytes, where the plan puts them */
    uint64_t flat_bytes;
    uint64_t starts[TENSORS];
    struct job job;
    struct version_source versions;
    struct cleat_tensor_source source;
};

/* The flat address space, by its definition: each tensor at the next multiple
 * of 256, zeros between. */
static void lay_out(struct fixture *f)
{
    uint64_t at = 0;

    for (size_t i = 0; i < TENSORS; i++) {
        f->starts[i] = (at + 255) / 256 * 256;
        at = f->starts[i] + sizes[i];
    }
    f->flat_bytes = at;
    f->flat = calloc(1, at);
    assert_non_null(f->flat);
    for (size_t i = 0; i < TENSORS; i++) {
        for (uint64_t k = 0; k < sizes[i]; k++) {
            f->flat[f->starts[i] + k] = (unsigned char)(i * 31 + k * 7 + 1);
        }
    }
}

static void write_file(struct fixture *f)
{
    static const char *const names[TENSORS] = {"a", "b", "c", "d",
                                               "e", "f", "g"};
    struct cleat_memory_tensor table[TENSORS];
    struct cleat_memory_tensors tensors;
    struct cleat_tensor_source source;
    static unsigned char block[1 << 16];
    int fd;

    memset(table, 0, sizeof table);
    for (size_t i = 0; i < TENSORS; i++) {
        table[i].name = names[i];
        table[i].dtype = CLEAT_DTYPE_U8;
        table[i].rank = 1;
        table[i].shape[0] = sizes[i];
        table[i].data = f->flat + f->starts[i];
    }
    assert_int_equal(cleat_memory_tensors_init(&tensors, table, TENSORS, NULL),
                     CLEAT_OK);
    source = cleat_memory_tensors_source(&tensors);
    (void)snprintf(f->path, sizeof f->path, "/tmp/cleat-test-XXXXXX");
    fd = mkstemp(f->path);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(
        cleat_safetensors_write(f->path, &source, block, sizeof block, NULL),
        CLEAT_OK);
}

static int set_up(void **state)
{
    static struct fixture f;

    memset(&f, 0, sizeof f);
    lay_out(&f);
    write_file(&f);
    job_defaults(&f.job);
    f.job.weights = f.path;
    f.job.bucket_mib = 4;
    assert_int_equal(job_open(&f.job, "test"), 0);
    f.versions.job = &f.job;
    f.source = version_source(&f.versions);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    job_close(&f->job);
    (void)unlink(f->path);
    free(f->flat);
    return 0;
}

/* All of a version, read in pieces of `cut` bytes, in the plan's places. */
static unsigned char *read_version(struct fixture *f, uint64_t version,
                                   size_t cut, uint32_t *crcs)
{
    unsigned char *flat = calloc(1, f->flat_bytes);

    assert_non_null(flat);
    f->versions.version = version;
    for (uint32_t i = 0; i < TENSORS; i++) {
        crcs[i] = 0;
        for (uint64_t at = 0; at < sizes[i]; at += cut) {
            size_t bytes = sizes[i] - at < cut ? (size_t)(sizes[i] - at) : cut;

            assert_int_equal(f->source.read(f->source.context, i, at, bytes,
                                            flat + f->starts[i] + at, &crcs[i]),
                             CLEAT_OK);
        }
    }
    return flat;
}

static void the_plan_is_laid_out_as_it_is_said_to_be(void **state)
{
    const struct fixture *f = *state;

    assert_int_equal(f->job.flat_bytes, f->flat_bytes);
    for (size_t i = 0; i < TENSORS; i++) {
        if (sizes[i] > 0) { assert_int_equal(f->job.starts[i], f->starts[i]); }
    }
}

static void version_1_is_the_file_unchanged(void **state)
{
    struct fixture *f = *state;
    uint32_t crcs[TENSORS];
    unsigned char *flat = read_version(f, 1, 1000, crcs);

    assert_memory_equal(flat, f->flat, f->flat_bytes);
    free(flat);
}

static void every_version_has_other_bytes_everywhere(void **state)
{
    struct fixture *f = *state;
    uint32_t crcs[TENSORS];
    unsigned char *all[4];

    for (uint64_t v = 1; v <= 4; v++) {
        all[v - 1] = read_version(f, v, 1 << 20, crcs);
    }
    for (size_t a = 0; a < 4; a++) {
        for (size_t b = a + 1; b < 4; b++) {
            /* Any 64 bytes of the large tensor. */
            for (uint64_t at = 0; at + 64 <= sizes[5]; at += 64) {
                assert_memory_not_equal(all[a] + f->starts[5] + at,
                                        all[b] + f->starts[5] + at, 64);
            }
        }
    }
    for (size_t v = 0; v < 4; v++) { free(all[v]); }
}

static void a_version_is_the_same_however_it_is_cut(void **state)
{
    static const size_t cuts[] = {1, 3, 8, 13, 4096, 16384, 16385, 65536};
    struct fixture *f = *state;

    for (uint64_t v = 1; v <= 3; v++) {
        uint32_t whole_crcs[TENSORS];
        unsigned char *whole = read_version(f, v, 1 << 20, whole_crcs);

        for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
            uint32_t crcs[TENSORS];
            unsigned char *flat = read_version(f, v, cuts[c], crcs);

            assert_memory_equal(flat, whole, f->flat_bytes);
            assert_memory_equal(crcs, whole_crcs, sizeof crcs);
            free(flat);
        }
        for (size_t i = 0; i < TENSORS; i++) {
            assert_int_equal(whole_crcs[i],
                             cleat_crc32c(0, whole + f->starts[i], sizes[i]));
        }
        free(whole);
    }
}

static void the_digest_of_a_window_is_that_of_its_bytes_and_zeros(void **state)
{
    struct fixture *f = *state;

    for (uint64_t v = 1; v <= 3; v++) {
        uint32_t crcs[TENSORS];
        unsigned char *flat = read_version(f, v, 1 << 20, crcs);
        uint32_t windows = cleat_plan_buckets(&f->job.windows);

        assert_int_equal(windows, (f->flat_bytes + 65535) / 65536);
        for (uint32_t w = 0; w < windows; w++) {
            uint64_t from = (uint64_t)w * BOARD_WINDOW_BYTES;
            uint64_t bytes = f->flat_bytes - from < BOARD_WINDOW_BYTES
                                 ? f->flat_bytes - from
                                 : BOARD_WINDOW_BYTES;
            uint32_t digest = 0;

            assert_int_equal(version_digest(&f->versions, w, &digest),
                             CLEAT_OK);
            assert_int_equal(digest, cleat_crc32c(0, flat + from, bytes));
        }
        free(flat);
    }
}

static void what_lies_outside_a_tensor_is_refused(void **state)
{
    struct fixture *f = *state;
    unsigned char to[16];
    uint32_t crc = 77;

    for (uint64_t v = 1; v <= 2; v++) {
        f->versions.version = v;
        assert_int_equal(
            f->source.read(f->source.context, TENSORS, 0, 1, to, &crc),
            CLEAT_INVALID);
        assert_int_equal(f->source.read(f->source.context, 6, 0, 8, to, &crc),
                         CLEAT_INVALID);
        assert_int_equal(
            f->source.read(f->source.context, 6, UINT64_MAX, 8, to, &crc),
            CLEAT_INVALID);
        assert_int_equal(crc, 77);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_is_laid_out_as_it_is_said_to_be),
        cmocka_unit_test(version_1_is_the_file_unchanged),
        cmocka_unit_test(every_version_has_other_bytes_everywhere),
        cmocka_unit_test(a_version_is_the_same_however_it_is_cut),
        cmocka_unit_test(the_digest_of_a_window_is_that_of_its_bytes_and_zeros),
        cmocka_unit_test(what_lies_outside_a_tensor_is_refused),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
