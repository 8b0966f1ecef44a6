/* Cleat: the fake NCCL where there is no driver. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <nccl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "control.h"

#define FIND(name)                                             \
    __typeof__(&name) p_##name;                                \
    do {                                                       \
        void *found_##name = dlsym(fake_gpu_libnccl(), #name); \
        assert_non_null(found_##name);                         \
        memcpy(&p_##name, &found_##name, sizeof p_##name);     \
    } while (0)

static void it_loads_and_makes_ids_without_a_driver(void **state)
{
    ncclUniqueId ids[2];
    int version = 0;

    (void)state;
    FIND(ncclGetVersion);
    FIND(ncclGetUniqueId);
    assert_int_equal(p_ncclGetVersion(&version), ncclSuccess);
    assert_int_equal(version, 22809);
    assert_int_equal(p_ncclGetUniqueId(&ids[0]), ncclSuccess);
    assert_int_equal(p_ncclGetUniqueId(&ids[1]), ncclSuccess);
    assert_memory_not_equal(&ids[0], &ids[1], sizeof ids[0]);
}

static void init_fails_and_leaves_its_group_open(void **state)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    ncclComm_t comm;
    void *memory;

    (void)state;
    FIND(ncclGetUniqueId);
    FIND(ncclCommInitRankConfig);
    FIND(ncclGroupEnd);
    FIND(ncclMemAlloc);
    assert_int_equal(p_ncclGetUniqueId(&id), ncclSuccess);
    assert_int_equal(p_ncclGroupEnd(), ncclInvalidUsage);
    assert_int_equal(p_ncclCommInitRankConfig(&comm, 1, id, 0, &config),
                     ncclUnhandledCudaError);
    assert_int_equal(p_ncclGroupEnd(), ncclSuccess);
    assert_int_equal(p_ncclGroupEnd(), ncclInvalidUsage);
    assert_int_equal(p_ncclMemAlloc(&memory, 1), ncclUnhandledCudaError);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_loads_and_makes_ids_without_a_driver),
        cmocka_unit_test(init_fails_and_leaves_its_group_open),
    };

    fake_gpu_attach_files(NULL, CLEAT_FAKES "/lib/libnccl.so.2");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
