/* Cleat: the real NCCL and the toolkit's stub of the driver, without a GPU.
 * SPDX-License-Identifier: Apache-2.0
 *
 * libnccl.so.2 needs no driver to be loaded, to tell its version and to make an
 * id; what needs one must fail, and cleanly. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

#include "cleat/cuda.h"
#include "port/cuda/symbols.h"
#include "port/nccl/library.h"
#include "port/nccl/stop.h"

static struct nccl_library library;
static bool has_gpu;

static uint32_t threads(void)
{
    DIR *folder = opendir("/proc/self/task");
    uint32_t count = 0;

    assert_non_null(folder);
    while (readdir(folder) != NULL) { count++; }
    closedir(folder);
    return count;
}

static int load(void **state)
{
    struct cleat_error error;

    (void)state;
    if (nccl_library_load(&library, NULL, &error) == CLEAT_OK) { return 0; }
    print_message("skipped: %s\n", error.text);
    _exit(77);
}

static void the_library_tells_its_version(void **state)
{
    struct cleat_nccl_info info;
    int version = 0;

    (void)state;
    assert_int_equal(library.p_ncclGetVersion(&version), ncclSuccess);
    assert_int_equal(library.version, version);
    assert_int_equal(cleat_nccl_look(NULL, &info, NULL), CLEAT_OK);
    assert_int_equal(info.version, version);
    assert_int_equal(info.revoke, version >= 22807);
    assert_int_equal(library.p_ncclCommRevoke != NULL, version >= 22807);
}

static void an_id_is_made_without_a_gpu_and_leaks_one_thread(void **state)
{
    ncclUniqueId first;
    ncclUniqueId second;
    uint32_t before;

    (void)state;
    memset(&first, 0, sizeof first);
    memset(&second, 0, sizeof second);
    before = threads();
    assert_int_equal(library.p_ncclGetUniqueId(&first), ncclSuccess);
    assert_int_equal(library.p_ncclGetUniqueId(&second), ncclSuccess);
    assert_memory_not_equal(&first, &second, sizeof first);
    /* What builds_max is for: each id has its own, for ever. */
    if (library.version == 22809) { assert_int_equal(threads(), before + 2); }
}

static void groups_that_a_failed_call_leaves_open_are_ended(void **state)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm = NULL;
    ncclUniqueId id;
    ncclResult_t result;
    uint32_t depth;

    (void)state;
    if (has_gpu) { skip(); }
    config.blocking = 0;
    assert_int_equal(nccl_unwind(&library), 0);
    assert_int_equal(library.p_ncclGetUniqueId(&id), ncclSuccess);
    result = library.p_ncclCommInitRankConfig(&comm, 2, id, 0, &config);
    assert_int_equal(nccl_meaning(result), CLEAT_GROUP_FAILED);
    depth = nccl_unwind(&library);
    if (library.version == 22809) { assert_int_equal(depth, 1); }
    assert_in_range(depth, 0, CLEAT_NCCL_UNWIND_MAX - 1);
    assert_int_equal(nccl_unwind(&library), 0);
    /* A group is a group again, and nothing is queued in it. */
    assert_int_equal(library.p_ncclGroupStart(), ncclSuccess);
    assert_int_equal(library.p_ncclGroupEnd(), ncclSuccess);
    assert_int_equal(library.p_ncclGroupEnd(), ncclInvalidUsage);
}

static void an_end_is_refused_without_a_driver_and_leaves_nothing(void **state)
{
    static _Alignas(64) unsigned char block[CLEAT_NCCL_BYTES];
    struct cleat_transport_sender sender;
    struct cleat_transport_receiver receiver;
    struct cleat_nccl_config config;
    struct cleat_error error;
    uint32_t before;

    (void)state;
    if (has_gpu) { skip(); }
    memset(&config, 0, sizeof config);
    before = threads();
    assert_int_equal(
        cleat_nccl_sender_open(block, sizeof block, &config, &sender, &error),
        CLEAT_UNSUPPORTED);
    assert_non_null(strstr(error.text, "libcuda.so.1"));
    assert_int_equal(cleat_nccl_receiver_open(block, sizeof block, &config,
                                              &receiver, &error),
                     CLEAT_UNSUPPORTED);
    assert_non_null(strstr(error.text, "libcuda.so.1"));
    assert_int_equal(threads(), before);
    assert_int_equal(cleat_nccl_sender_close(&sender), CLEAT_OK);
    assert_int_equal(cleat_nccl_receiver_close(&receiver), CLEAT_OK);
}

static void a_library_that_is_none_is_named_in_the_error(void **state)
{
    struct cleat_nccl_info info;
    struct cleat_error error;

    (void)state;
    assert_int_equal(cleat_nccl_look("libnccl-none.so.2", &info, &error),
                     CLEAT_UNSUPPORTED);
    assert_non_null(strstr(error.text, "libnccl-none.so.2"));
    /* One that is there and is something else: the first symbol it lacks. */
    assert_int_equal(cleat_nccl_look("libm.so.6", &info, &error),
                     CLEAT_UNSUPPORTED);
    assert_non_null(strstr(error.text, "ncclGetVersion"));
    assert_non_null(strstr(error.text, "libm.so.6"));
}

/* ---- the stub of the driver, where the toolkit is ---- */

static void the_toolkits_stub_has_every_symbol_that_is_looked_up(void **state)
{
    void *stub = dlopen(CLEAT_TEST_CUDA_STUB, RTLD_NOW | RTLD_LOCAL);

    (void)state;
    if (stub == NULL) { skip(); }
#define HAS(name)                                          \
    if (dlsym(stub, CUDA_SYMBOL(name)) == NULL) {          \
        fail_msg("the stub has no %s", CUDA_SYMBOL(name)); \
    }
#define HAS_SINCE(name, since) HAS(name)
    CUDA_REQUIRED(HAS)
    CUDA_OPTIONAL(HAS_SINCE)
#undef HAS
#undef HAS_SINCE
    dlclose(stub);
}

static void the_toolkits_stub_is_not_taken_for_a_driver(void **state)
{
    struct cleat_cuda_info info;
    struct cleat_error error;

    (void)state;
    if (access(CLEAT_TEST_CUDA_STUB, R_OK) != 0) { skip(); }
    assert_int_equal(cleat_cuda_look(CLEAT_TEST_CUDA_STUB, &info, &error),
                     CLEAT_UNSUPPORTED);
    assert_int_equal(error.port_code, 34); /* CUDA_ERROR_STUB_LIBRARY */
    assert_non_null(strstr(error.text, "stub"));
    assert_non_null(strstr(error.text, CLEAT_TEST_CUDA_STUB));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_library_tells_its_version),
        cmocka_unit_test(an_id_is_made_without_a_gpu_and_leaks_one_thread),
        cmocka_unit_test(groups_that_a_failed_call_leaves_open_are_ended),
        cmocka_unit_test(an_end_is_refused_without_a_driver_and_leaves_nothing),
        cmocka_unit_test(a_library_that_is_none_is_named_in_the_error),
        cmocka_unit_test(the_toolkits_stub_has_every_symbol_that_is_looked_up),
        cmocka_unit_test(the_toolkits_stub_is_not_taken_for_a_driver),
    };
    struct cleat_cuda_info info;

    has_gpu = cleat_cuda_look(NULL, &info, NULL) == CLEAT_OK;
    return cmocka_run_group_tests(tests, load, NULL);
}
