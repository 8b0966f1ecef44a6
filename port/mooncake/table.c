/* Cleat: what the codes of Mooncake Store mean. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "abi.h"
#include "state.h"

/* What a code means for a put; for what reads (get, compare, exists, size); for
 * a remove; for a set-up. One letter each:
 *   T transient    worth another attempt; it had no effect
 *   A ambiguous    the same, and it may have had
 *   C capacity     memory or a queue is full
 *   P permanent
 *   N not found, U unreadable: another put of it is in progress, E exists,
 *   X corrupt
 * A put has three parts, and its code does not say which of them has failed: a
 * place is asked for, the bytes are moved, and the end is told, which is logged
 * and may be written to a disk. What can be said of the end is ambiguous.
 * A set-up may be made again whatever it did. -600 says many things of it, one
 * being that nobody answers. */
struct meaning {
    int32_t code;
    char of[5];
};

/* clang-format off */
static const struct meaning meanings[] = {
    {MOONCAKE_INTERNAL_ERROR, "ATAT"},
    {MOONCAKE_BUFFER_OVERFLOW, "PPPP"},
    {MOONCAKE_SHARD_INDEX_OUT_OF_RANGE, "PPPP"},
    {MOONCAKE_SEGMENT_NOT_FOUND, "TTTT"},
    {MOONCAKE_SEGMENT_ALREADY_EXISTS, "PPPP"},
    {MOONCAKE_CLIENT_NOT_FOUND, "ATTT"},
    {MOONCAKE_NO_AVAILABLE_HANDLE, "CPCC"},
    {MOONCAKE_INVALID_VERSION, "PPPP"},
    {MOONCAKE_INVALID_KEY, "PPPP"},
    {MOONCAKE_WRITE_FAIL, "APAT"},
    {MOONCAKE_INVALID_PARAMS, "PPPT"},
    {MOONCAKE_ILLEGAL_CLIENT, "APAT"},
    {MOONCAKE_INVALID_WRITE, "APAT"},
    {MOONCAKE_INVALID_READ, "PTPP"},
    {MOONCAKE_INVALID_REPLICA, "ATAT"},
    {MOONCAKE_REPLICA_IS_NOT_READY, "UUUT"},
    {MOONCAKE_OBJECT_NOT_FOUND, "ANNP"},
    {MOONCAKE_OBJECT_ALREADY_EXISTS, "EPPP"},
    {MOONCAKE_OBJECT_HAS_LEASE, "TTTT"},
    {MOONCAKE_LEASE_EXPIRED, "ATAT"},
    {MOONCAKE_OBJECT_HAS_REPLICATION_TASK, "TTTT"},
    {MOONCAKE_OBJECT_NO_REPLICATION_TASK, "PPPP"},
    {MOONCAKE_REPLICA_NOT_FOUND, "PTPP"},
    {MOONCAKE_REPLICA_ALREADY_EXISTS, "PPPP"},
    {MOONCAKE_REPLICA_IS_GONE, "PPPP"},
    {MOONCAKE_REPLICA_NOT_IN_LOCAL_MEMORY, "PPPP"},
    {MOONCAKE_OBJECT_REPLICA_BUSY, "TTTT"},
    {MOONCAKE_TRANSFER_FAIL, "ATAT"},
    {MOONCAKE_CHECKSUM_MISMATCH, "PXPP"},
    {MOONCAKE_RPC_FAIL, "ATAT"},
    {MOONCAKE_RPC_TIMEOUT, "ATAT"},
    {MOONCAKE_ETCD_OPERATION_ERROR, "ATAT"},
    {MOONCAKE_ETCD_KEY_NOT_EXIST, "TTTT"},
    {MOONCAKE_ETCD_TRANSACTION_FAIL, "ATAT"},
    {MOONCAKE_ETCD_CTX_CANCELLED, "ATAT"},
    {MOONCAKE_OPLOG_ENTRY_NOT_FOUND, "PPPP"},
    {MOONCAKE_K8S_LEASE_OPERATION_ERROR, "TTTT"},
    {MOONCAKE_K8S_LEASE_NOT_FOUND, "TTTT"},
    {MOONCAKE_INCOMPLETE_OPLOG_CATCH_UP, "ATTT"},
    {MOONCAKE_UNAVAILABLE_IN_CURRENT_STATUS, "ATTT"},
    {MOONCAKE_UNAVAILABLE_IN_CURRENT_MODE, "PPPP"},
    {MOONCAKE_NOT_SUPPORTED, "PPPP"},
    {MOONCAKE_FILE_NOT_FOUND, "PPPP"},
    {MOONCAKE_FILE_OPEN_FAIL, "PTPP"},
    {MOONCAKE_FILE_READ_FAIL, "ATAT"},
    {MOONCAKE_FILE_WRITE_FAIL, "ATTT"},
    {MOONCAKE_FILE_INVALID_BUFFER, "PPPP"},
    {MOONCAKE_FILE_LOCK_FAIL, "TTTT"},
    {MOONCAKE_FILE_INVALID_HANDLE, "PPPP"},
    {MOONCAKE_BUCKET_NOT_FOUND, "PPPP"},
    {MOONCAKE_BUCKET_ALREADY_EXISTS, "PPPP"},
    {MOONCAKE_KEYS_EXCEED_BUCKET_LIMIT, "PPPP"},
    {MOONCAKE_KEYS_ULTRA_LIMIT, "CCCC"},
    {MOONCAKE_UNABLE_OFFLOAD, "PPPP"},
    {MOONCAKE_UNABLE_OFFLOADING, "CCCC"},
    {MOONCAKE_TASK_NOT_FOUND, "PPPP"},
    {MOONCAKE_TASK_PENDING_LIMIT_EXCEEDED, "CCCC"},
    {MOONCAKE_JOB_NOT_FOUND, "PPPP"},
    {MOONCAKE_SERIALIZE_UNSUPPORTED, "PPPP"},
    {MOONCAKE_SERIALIZE_FAIL, "PPPP"},
    {MOONCAKE_DESERIALIZE_FAIL, "PPPP"},
    {MOONCAKE_PERSISTENT_FAIL, "ATAT"},
    {MOONCAKE_DFS_NETWORK_TIMEOUT, "ATAT"},
    {MOONCAKE_DFS_SERVICE_UNAVAILABLE, "TTTT"},
    {MOONCAKE_DFS_QUOTA_EXCEEDED, "PTPP"},
    {MOONCAKE_DFS_PERMISSION_DENIED, "PPPP"},
    {MOONCAKE_DFS_STALE_HANDLE, "TTTT"},
    {MOONCAKE_DFS_PARTIAL_WRITE, "ATAT"},
    {MOONCAKE_TENANT_QUOTA_EXCEEDED, "CTCC"},
    {MOONCAKE_TENANT_NOT_REGISTERED, "PPPP"},
    {MOONCAKE_TENANT_NOT_EMPTY, "PPPP"},
};
/* clang-format on */

/* Of a code that is not in the table: a library of tomorrow has more. */
static const struct meaning unknown = {0, "ATAT"};

static enum cleat_status status_of(char letter)
{
    switch (letter) {
    case 'T': return CLEAT_TRANSIENT;
    case 'A': return CLEAT_AMBIGUOUS;
    case 'C': return CLEAT_CAPACITY;
    case 'N': return CLEAT_NOT_FOUND;
    case 'U': return CLEAT_UNREADABLE;
    case 'E': return CLEAT_EXISTS;
    case 'X': return CLEAT_CORRUPT;
    default: return CLEAT_PERMANENT;
    }
}

static uint32_t column_of(uint32_t operation)
{
    switch (operation) {
    case CLEAT_TRANSFER_DO_PUT: return 0;
    case CLEAT_TRANSFER_DO_REMOVE: return 2;
    case CLEAT_MOONCAKE_SETUP: return 3;
    default: return 1;
    }
}

enum cleat_status cleat_mooncake_classify(uint32_t operation, int32_t code)
{
    const struct meaning *meaning = &unknown;

    if (code == MOONCAKE_OK) { return CLEAT_OK; }
    for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++) {
        if (meanings[i].code == code) { meaning = &meanings[i]; }
    }
    return status_of(meaning->of[column_of(operation)]);
}

const char *cleat_mooncake_code_name(int32_t code)
{
    switch (code) {
#define NAME(name, number) \
    case number: return #name;
        CLEAT_MOONCAKE_CODES(NAME)
#undef NAME
    case CLEAT_MOONCAKE_LATE: return "late";
    case CLEAT_MOONCAKE_STAGING: return "staging";
    case CLEAT_MOONCAKE_DUPLICATE: return "duplicate";
    case CLEAT_MOONCAKE_BUSY: return "busy";
    case CLEAT_MOONCAKE_UNTOLD: return "untold";
    default: return "unknown";
    }
}

enum cleat_status cleat_mooncake_meaning(const self_t *self, uint32_t operation,
                                         int32_t code)
{
    enum cleat_status status = cleat_mooncake_classify(operation, code);
    enum cleat_status chosen = status;

    if (self->classify != NULL && code != MOONCAKE_OK) {
        chosen = self->classify(self->classify_context, operation, code,
                                status);
    }
    return chosen < CLEAT_OK ? chosen : status;
}
