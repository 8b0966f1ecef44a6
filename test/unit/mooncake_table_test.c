/* Cleat: the codes of Mooncake Store, read from the description of them.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cleat/mooncake.h"

/* As they were measured and read, class by class: T worth another attempt, TC
 * the other side is full, A ambiguous, P permanent, C depends on the moment, -
 * not seen there. TE is T of which it was read that the end of a put says it
 * too, when the bytes are stored. */
static const struct row {
    int32_t code;
    const char *name;
    const char *put;
    const char *get;
} rows[] = {
    {-1, "INTERNAL_ERROR", "A", "T"},
    {-10, "BUFFER_OVERFLOW", "P", "P"},
    {-100, "SHARD_INDEX_OUT_OF_RANGE", "P", "P"},
    {-101, "SEGMENT_NOT_FOUND", "T", "T"},
    {-102, "SEGMENT_ALREADY_EXISTS", "P", "P"},
    {-103, "CLIENT_NOT_FOUND", "TE", "T"},
    {-200, "NO_AVAILABLE_HANDLE", "TC", "P"},
    {-300, "INVALID_VERSION", "P", "P"},
    {-400, "INVALID_KEY", "P", "P"},
    {-500, "WRITE_FAIL", "A", "P"},
    {-600, "INVALID_PARAMS", "P", "P"},
    {-601, "ILLEGAL_CLIENT", "A", "P"},
    {-700, "INVALID_WRITE", "A", "P"},
    {-701, "INVALID_READ", "P", "T"},
    {-702, "INVALID_REPLICA", "A", "T"},
    {-703, "REPLICA_IS_NOT_READY", "unreadable", "unreadable"},
    {-704, "OBJECT_NOT_FOUND", "A", "P"},
    {-705, "OBJECT_ALREADY_EXISTS", "P", "P"},
    {-706, "OBJECT_HAS_LEASE", "T", "-"},
    {-707, "LEASE_EXPIRED", "-", "T"},
    {-708, "OBJECT_HAS_REPLICATION_TASK", "T", "T"},
    {-709, "OBJECT_NO_REPLICATION_TASK", "P", "P"},
    {-710, "REPLICA_NOT_FOUND", "P", "T"},
    {-711, "REPLICA_ALREADY_EXISTS", "P", "P"},
    {-712, "REPLICA_IS_GONE", "P", "P"},
    {-713, "REPLICA_NOT_IN_LOCAL_MEMORY", "P", "P"},
    {-714, "OBJECT_REPLICA_BUSY", "T", "T"},
    {-800, "TRANSFER_FAIL", "A", "T"},
    {-801, "CHECKSUM_MISMATCH", "P", "T"},
    {-900, "RPC_FAIL", "A", "T"},
    {-901, "RPC_TIMEOUT", "A", "T"},
    {-1000, "ETCD_OPERATION_ERROR", "TE", "T"},
    {-1001, "ETCD_KEY_NOT_EXIST", "C", "C"},
    {-1002, "ETCD_TRANSACTION_FAIL", "TE", "T"},
    {-1003, "ETCD_CTX_CANCELLED", "TE", "T"},
    {-1004, "OPLOG_ENTRY_NOT_FOUND", "P", "P"},
    {-1005, "K8S_LEASE_OPERATION_ERROR", "T", "T"},
    {-1006, "K8S_LEASE_NOT_FOUND", "C", "C"},
    {-1007, "INCOMPLETE_OPLOG_CATCH_UP", "TE", "T"},
    {-1010, "UNAVAILABLE_IN_CURRENT_STATUS", "TE", "T"},
    {-1011, "UNAVAILABLE_IN_CURRENT_MODE", "P", "P"},
    {-1012, "NOT_SUPPORTED", "P", "P"},
    {-1100, "FILE_NOT_FOUND", "P", "P"},
    {-1101, "FILE_OPEN_FAIL", "P", "T"},
    {-1102, "FILE_READ_FAIL", "-", "T"},
    {-1103, "FILE_WRITE_FAIL", "TE", "-"},
    {-1104, "FILE_INVALID_BUFFER", "P", "P"},
    {-1105, "FILE_LOCK_FAIL", "T", "T"},
    {-1106, "FILE_INVALID_HANDLE", "P", "P"},
    {-1200, "BUCKET_NOT_FOUND", "P", "P"},
    {-1201, "BUCKET_ALREADY_EXISTS", "P", "P"},
    {-1202, "KEYS_EXCEED_BUCKET_LIMIT", "P", "P"},
    {-1203, "KEYS_ULTRA_LIMIT", "TC", "TC"},
    {-1300, "UNABLE_OFFLOAD", "P", "P"},
    {-1301, "UNABLE_OFFLOADING", "TC", "TC"},
    {-1400, "TASK_NOT_FOUND", "P", "P"},
    {-1401, "TASK_PENDING_LIMIT_EXCEEDED", "TC", "TC"},
    {-1402, "JOB_NOT_FOUND", "P", "P"},
    {-1500, "SERIALIZE_UNSUPPORTED", "P", "P"},
    {-1501, "SERIALIZE_FAIL", "P", "P"},
    {-1502, "DESERIALIZE_FAIL", "P", "P"},
    {-1503, "PERSISTENT_FAIL", "TE", "T"},
    {-1600, "DFS_NETWORK_TIMEOUT", "A", "T"},
    {-1601, "DFS_SERVICE_UNAVAILABLE", "T", "T"},
    {-1602, "DFS_QUOTA_EXCEEDED", "P", "-"},
    {-1603, "DFS_PERMISSION_DENIED", "P", "P"},
    {-1604, "DFS_STALE_HANDLE", "T", "T"},
    {-1605, "DFS_PARTIAL_WRITE", "A", "-"},
    {-1700, "TENANT_QUOTA_EXCEEDED", "TC", "-"},
    {-1701, "TENANT_NOT_REGISTERED", "P", "P"},
    {-1702, "TENANT_NOT_EMPTY", "P", "P"},
};

#define ROWS (sizeof rows / sizeof rows[0])

/* What is not seen there, and what depends on the moment, is met with a bounded
 * number of attempts; what changes the store is looked after. No put may say
 * "worth another attempt" that may have stored its value: TE is ambiguous. */
static enum cleat_class class_of(const char *letters, bool changes)
{
    if (strcmp(letters, "T") == 0 || strcmp(letters, "C") == 0) {
        return CLEAT_CLASS_TRANSIENT;
    }
    if (strcmp(letters, "TC") == 0) { return CLEAT_CLASS_CAPACITY; }
    if (strcmp(letters, "P") == 0) { return CLEAT_CLASS_PERMANENT; }
    if (strcmp(letters, "-") == 0 && !changes) { return CLEAT_CLASS_TRANSIENT; }
    return CLEAT_CLASS_AMBIGUOUS;
}

static enum cleat_class said_of(uint32_t operation, int32_t code)
{
    return cleat_status_class(cleat_mooncake_classify(operation, code));
}

static void r5_every_code_has_the_class_that_was_measured_or_read(void **state)
{
    static const uint32_t reads[] = {
        CLEAT_TRANSFER_DO_GET, CLEAT_TRANSFER_DO_COMPARE,
        CLEAT_TRANSFER_DO_EXISTS, CLEAT_TRANSFER_DO_SIZE};

    (void)state;
    for (size_t i = 0; i < ROWS; i++) {
        assert_int_equal(said_of(CLEAT_TRANSFER_DO_PUT, rows[i].code),
                         class_of(rows[i].put, true));
        for (size_t r = 0; r < sizeof reads / sizeof reads[0]; r++) {
            assert_int_equal(said_of(reads[r], rows[i].code),
                             class_of(rows[i].get, false));
        }
    }
}

static void every_code_has_its_name_and_no_other_has_one(void **state)
{
    size_t named = 0;

    (void)state;
    for (size_t i = 0; i < ROWS; i++) {
        assert_string_equal(cleat_mooncake_code_name(rows[i].code),
                            rows[i].name);
    }
    for (int32_t code = -100000; code < 0; code++) {
        named += strcmp(cleat_mooncake_code_name(code), "unknown") != 0;
    }
    assert_int_equal(named, ROWS);
    assert_string_equal(cleat_mooncake_code_name(0), "OK");
    assert_string_equal(cleat_mooncake_code_name(CLEAT_MOONCAKE_LATE), "late");
    assert_string_equal(cleat_mooncake_code_name(CLEAT_MOONCAKE_UNTOLD),
                        "untold");
    assert_string_equal(cleat_mooncake_code_name(77), "unknown");
}

/* Missing, unreadable, there already and not the right bytes are told apart. */
static void what_has_a_status_of_its_own_has_it(void **state)
{
    (void)state;
    assert_int_equal(cleat_mooncake_classify(CLEAT_TRANSFER_DO_GET, -704),
                     CLEAT_NOT_FOUND);
    assert_int_equal(cleat_mooncake_classify(CLEAT_TRANSFER_DO_SIZE, -704),
                     CLEAT_NOT_FOUND);
    assert_int_equal(cleat_mooncake_classify(CLEAT_TRANSFER_DO_REMOVE, -704),
                     CLEAT_NOT_FOUND);
    assert_int_equal(cleat_mooncake_classify(CLEAT_TRANSFER_DO_PUT, -704),
                     CLEAT_AMBIGUOUS);
    assert_int_equal(cleat_mooncake_classify(CLEAT_TRANSFER_DO_PUT, -705),
                     CLEAT_EXISTS);
    assert_int_equal(cleat_mooncake_classify(CLEAT_TRANSFER_DO_GET, -801),
                     CLEAT_CORRUPT);
    for (uint32_t operation = 0; operation < CLEAT_TRANSFER_OPERATIONS;
         operation++) {
        assert_int_equal(cleat_mooncake_classify(operation, -703),
                         CLEAT_UNREADABLE);
        assert_int_equal(cleat_mooncake_classify(operation, 0), CLEAT_OK);
    }
}

static void a_remove_that_failed_on_the_way_may_have_taken_effect(void **state)
{
    static const int32_t on_the_way[] = {-1, -800, -900, -901, -1600};

    (void)state;
    for (size_t i = 0; i < sizeof on_the_way / sizeof on_the_way[0]; i++) {
        assert_int_equal(
            cleat_mooncake_classify(CLEAT_TRANSFER_DO_REMOVE, on_the_way[i]),
            CLEAT_AMBIGUOUS);
    }
    assert_int_equal(cleat_mooncake_classify(CLEAT_TRANSFER_DO_REMOVE, -706),
                     CLEAT_TRANSIENT);
    assert_int_equal(cleat_mooncake_classify(CLEAT_TRANSFER_DO_REMOVE, -600),
                     CLEAT_PERMANENT);
}

static void r15_a_set_up_that_nobody_answered_is_worth_another(void **state)
{
    static const int32_t nobody[] = {-600, -1, -900, -901};

    (void)state;
    for (size_t i = 0; i < sizeof nobody / sizeof nobody[0]; i++) {
        assert_int_equal(
            cleat_mooncake_classify(CLEAT_MOONCAKE_SETUP, nobody[i]),
            CLEAT_TRANSIENT);
    }
    assert_int_equal(cleat_mooncake_classify(CLEAT_MOONCAKE_SETUP, -1012),
                     CLEAT_PERMANENT);
    /* No code makes a set-up ambiguous: it may be made again. */
    for (size_t i = 0; i < ROWS; i++) {
        assert_int_not_equal(said_of(CLEAT_MOONCAKE_SETUP, rows[i].code),
                             CLEAT_CLASS_AMBIGUOUS);
    }
}

static void r13_a_code_of_tomorrow_is_tried_again_and_looked_after(void **state)
{
    static const int32_t others[] = {-2,    -715,      -999,      -1703,
                                     -5000, INT32_MIN, INT32_MAX, 1};

    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        assert_int_equal(
            cleat_mooncake_classify(CLEAT_TRANSFER_DO_PUT, others[i]),
            CLEAT_AMBIGUOUS);
        assert_int_equal(
            cleat_mooncake_classify(CLEAT_TRANSFER_DO_REMOVE, others[i]),
            CLEAT_AMBIGUOUS);
        assert_int_equal(
            cleat_mooncake_classify(CLEAT_TRANSFER_DO_GET, others[i]),
            CLEAT_TRANSIENT);
        assert_int_equal(
            cleat_mooncake_classify(CLEAT_MOONCAKE_SETUP, others[i]),
            CLEAT_TRANSIENT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(r5_every_code_has_the_class_that_was_measured_or_read),
        cmocka_unit_test(every_code_has_its_name_and_no_other_has_one),
        cmocka_unit_test(what_has_a_status_of_its_own_has_it),
        cmocka_unit_test(a_remove_that_failed_on_the_way_may_have_taken_effect),
        cmocka_unit_test(r15_a_set_up_that_nobody_answered_is_worth_another),
        cmocka_unit_test(
            r13_a_code_of_tomorrow_is_tried_again_and_looked_after),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
