/* Cleat: the C interface of Mooncake Store. SPDX-License-Identifier: Apache-2.0
 *
 * What `libmooncake_store.so` exports (built with WITH_STORE_C_SHARED=ON), as
 * measured on a library of August 2026. It has no function that tells its
 * version, and none that tells what a code means. Declared here and nowhere
 * called by name: every function is looked up in the library at run time.
 */
#ifndef CLEAT_MOONCAKE_ABI_H
#define CLEAT_MOONCAKE_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef void *mooncake_store_t;

/* All zero is refused: replica_num is at least 1. NULL in a call: the library's
 * defaults. */
typedef struct mooncake_replicate_config {
    size_t replica_num;
    int with_soft_pin;
    int with_hard_pin;
    const char **preferred_segments;
    size_t preferred_segments_count;
} mooncake_replicate_config_t;

/* The 19 functions: X(result, name without `mooncake_store_`, parameters).
 * Those that are called; a library without one of them cannot be used: */
/* clang-format off */
#define CLEAT_MOONCAKE_NEEDED(X)                                               \
    X(mooncake_store_t, create, (void))                                        \
    X(void, destroy, (mooncake_store_t store))                                 \
    X(int, setup,                                                              \
      (mooncake_store_t store, const char *local_hostname,                     \
       const char *metadata_server, uint64_t global_segment_size,              \
       uint64_t local_buffer_size, const char *protocol,                       \
       const char *device_name, const char *master_server_addr))               \
    X(int, batch_put_from,                                                     \
      (mooncake_store_t store, const char **keys, void **buffers,              \
       const size_t *sizes, size_t count,                                      \
       const mooncake_replicate_config_t *config, int *results_out))           \
    X(int, batch_get_into,                                                     \
      (mooncake_store_t store, const char **keys, void **buffers,              \
       const size_t *sizes, size_t count, int64_t *results_out))               \
    X(int, batch_is_exist,                                                     \
      (mooncake_store_t store, const char **keys, size_t count,                \
       int *results_out))                                                      \
    X(int64_t, get_size, (mooncake_store_t store, const char *key))            \
    X(int, remove, (mooncake_store_t store, const char *key, int force))       \
    X(int, register_buffer,                                                    \
      (mooncake_store_t store, void *buffer, size_t size))                     \
    X(int, unregister_buffer, (mooncake_store_t store, void *buffer))

/* Those that are not called, and not looked up: */
#define CLEAT_MOONCAKE_UNUSED(X)                                               \
    X(int, init_all,                                                           \
      (mooncake_store_t store, const char *protocol, const char *device_name,  \
       uint64_t mount_segment_size))                                           \
    X(int, health_check, (mooncake_store_t store))                             \
    X(int, put,                                                                \
      (mooncake_store_t store, const char *key, const void *value,             \
       size_t size, const mooncake_replicate_config_t *config))                \
    X(int, put_from,                                                           \
      (mooncake_store_t store, const char *key, void *buffer, size_t size,     \
       const mooncake_replicate_config_t *config))                             \
    X(int64_t, get_into,                                                       \
      (mooncake_store_t store, const char *key, void *buffer, size_t size))    \
    X(int, is_exist, (mooncake_store_t store, const char *key))                \
    X(int, get_hostname,                                                       \
      (mooncake_store_t store, char *buf_out, size_t buf_len))                 \
    X(int64_t, remove_by_regex,                                                \
      (mooncake_store_t store, const char *pattern, int force))                \
    X(int64_t, remove_all, (mooncake_store_t store, int force))

#define CLEAT_MOONCAKE_FUNCTIONS(X)                                            \
    CLEAT_MOONCAKE_NEEDED(X) CLEAT_MOONCAKE_UNUSED(X)

/* Those that no library has yet. Their shape is what the client in C++ would
 * give them, so they are looked up only where the user says so. */
#define CLEAT_MOONCAKE_NEWER(X)                                                \
    X(int, batch_upsert_from,                                                  \
      (mooncake_store_t store, const char **keys, void **buffers,              \
       const size_t *sizes, size_t count,                                      \
       const mooncake_replicate_config_t *config, int *results_out))           \
    X(int, batch_remove,                                                       \
      (mooncake_store_t store, const char **keys, size_t count, int force,     \
       int *results_out))

/* Types: mooncake_store_create_fn and so on. A library in C declares what it
 * defines by `mooncake_store_create_fn mooncake_store_create;`. */
#define MOONCAKE_TYPE(result, name, parameters) \
    typedef result mooncake_store_##name##_fn parameters;
CLEAT_MOONCAKE_FUNCTIONS(MOONCAKE_TYPE)
CLEAT_MOONCAKE_NEWER(MOONCAKE_TYPE)
#undef MOONCAKE_TYPE

/* Every code: X(NAME, number). -1 is also that of an argument that is NULL, of
 * an exception, and of a batch of which nothing is known. */
#define CLEAT_MOONCAKE_CODES(X) \
    X(OK, 0) \
    X(INTERNAL_ERROR, -1) \
    X(BUFFER_OVERFLOW, -10) \
    X(SHARD_INDEX_OUT_OF_RANGE, -100) \
    X(SEGMENT_NOT_FOUND, -101) \
    X(SEGMENT_ALREADY_EXISTS, -102) \
    X(CLIENT_NOT_FOUND, -103) \
    X(NO_AVAILABLE_HANDLE, -200) \
    X(INVALID_VERSION, -300) \
    X(INVALID_KEY, -400) \
    X(WRITE_FAIL, -500) \
    X(INVALID_PARAMS, -600) \
    X(ILLEGAL_CLIENT, -601) \
    X(INVALID_WRITE, -700) \
    X(INVALID_READ, -701) \
    X(INVALID_REPLICA, -702) \
    X(REPLICA_IS_NOT_READY, -703) \
    X(OBJECT_NOT_FOUND, -704) \
    X(OBJECT_ALREADY_EXISTS, -705) \
    X(OBJECT_HAS_LEASE, -706) \
    X(LEASE_EXPIRED, -707) \
    X(OBJECT_HAS_REPLICATION_TASK, -708) \
    X(OBJECT_NO_REPLICATION_TASK, -709) \
    X(REPLICA_NOT_FOUND, -710) \
    X(REPLICA_ALREADY_EXISTS, -711) \
    X(REPLICA_IS_GONE, -712) \
    X(REPLICA_NOT_IN_LOCAL_MEMORY, -713) \
    X(OBJECT_REPLICA_BUSY, -714) \
    X(TRANSFER_FAIL, -800) \
    X(CHECKSUM_MISMATCH, -801) \
    X(RPC_FAIL, -900) \
    X(RPC_TIMEOUT, -901) \
    X(ETCD_OPERATION_ERROR, -1000) \
    X(ETCD_KEY_NOT_EXIST, -1001) \
    X(ETCD_TRANSACTION_FAIL, -1002) \
    X(ETCD_CTX_CANCELLED, -1003) \
    X(OPLOG_ENTRY_NOT_FOUND, -1004) \
    X(K8S_LEASE_OPERATION_ERROR, -1005) \
    X(K8S_LEASE_NOT_FOUND, -1006) \
    X(INCOMPLETE_OPLOG_CATCH_UP, -1007) \
    X(UNAVAILABLE_IN_CURRENT_STATUS, -1010) \
    X(UNAVAILABLE_IN_CURRENT_MODE, -1011) \
    X(NOT_SUPPORTED, -1012) \
    X(FILE_NOT_FOUND, -1100) \
    X(FILE_OPEN_FAIL, -1101) \
    X(FILE_READ_FAIL, -1102) \
    X(FILE_WRITE_FAIL, -1103) \
    X(FILE_INVALID_BUFFER, -1104) \
    X(FILE_LOCK_FAIL, -1105) \
    X(FILE_INVALID_HANDLE, -1106) \
    X(BUCKET_NOT_FOUND, -1200) \
    X(BUCKET_ALREADY_EXISTS, -1201) \
    X(KEYS_EXCEED_BUCKET_LIMIT, -1202) \
    X(KEYS_ULTRA_LIMIT, -1203) \
    X(UNABLE_OFFLOAD, -1300) \
    X(UNABLE_OFFLOADING, -1301) \
    X(TASK_NOT_FOUND, -1400) \
    X(TASK_PENDING_LIMIT_EXCEEDED, -1401) \
    X(JOB_NOT_FOUND, -1402) \
    X(SERIALIZE_UNSUPPORTED, -1500) \
    X(SERIALIZE_FAIL, -1501) \
    X(DESERIALIZE_FAIL, -1502) \
    X(PERSISTENT_FAIL, -1503) \
    X(DFS_NETWORK_TIMEOUT, -1600) \
    X(DFS_SERVICE_UNAVAILABLE, -1601) \
    X(DFS_QUOTA_EXCEEDED, -1602) \
    X(DFS_PERMISSION_DENIED, -1603) \
    X(DFS_STALE_HANDLE, -1604) \
    X(DFS_PARTIAL_WRITE, -1605) \
    X(TENANT_QUOTA_EXCEEDED, -1700) \
    X(TENANT_NOT_REGISTERED, -1701) \
    X(TENANT_NOT_EMPTY, -1702)
/* clang-format on */

enum mooncake_code {
#define MOONCAKE_CODE(name, number) MOONCAKE_##name = (number),
    CLEAT_MOONCAKE_CODES(MOONCAKE_CODE)
#undef MOONCAKE_CODE
};

#endif
