/* Cleat: what a batch is made of. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "transfer_state.h"

#define FLAGS_ALL (CLEAT_STORE_ROOM | CLEAT_STORE_DEVICE | CLEAT_STORE_RAW)

/* ---- one value ----------------------------------------------------------- */

static enum cleat_status check_tensor(const struct transfer_asked *asked,
                                      uint32_t index)
{
    const struct cleat_transfer_value *value = &asked->values[index];
    bool sized = asked->kind == CLEAT_TRANSFER_GET && asked->options->sized;
    uint64_t bytes = 0;

    if (value->dtype == CLEAT_DTYPE_NONE) {
        if (value->rank == 0) { return CLEAT_OK; }
        return transfer_say_value(asked, CLEAT_INVALID, index,
                                  "it has a rank and no dtype");
    }
    if ((value->flags & CLEAT_STORE_RAW) != 0) {
        return transfer_say_value(asked, CLEAT_INVALID, index,
                                  "raw bytes have no dtype");
    }
    if (value->dtype >= CLEAT_DTYPE_END ||
        cleat_dtype_tensor_bytes((enum cleat_dtype)value->dtype, value->rank,
                                 value->shape, &bytes) != CLEAT_OK) {
        return transfer_say_value(asked, CLEAT_INVALID, index,
                                  "its dtype, rank or shape is none");
    }
    if (sized ? bytes > value->bytes : bytes != value->bytes) {
        return transfer_say_value(asked, CLEAT_INVALID, index,
                                  "its bytes are not those of its dtype and "
                                  "shape");
    }
    return CLEAT_OK;
}

/* Whether all of a put is read back and compared. */
static bool is_compared(const struct transfer_batch *batch,
                        const struct transfer_asked *asked)
{
    return asked->kind == CLEAT_TRANSFER_PUT &&
           asked->options->mode != CLEAT_TRANSFER_KEEP &&
           transfer_verify(batch->service, asked->options) ==
               CLEAT_TRANSFER_VERIFY_FULL;
}

/* What the store says that it does not take: found out now, because later
 * something may have been removed for it. */
static enum cleat_status check_store(struct transfer_batch *batch,
                                     const struct transfer_asked *asked,
                                     uint32_t index)
{
    const struct cleat_store *store = &batch->service->store;
    const struct cleat_transfer_value *value = &asked->values[index];
    bool put = asked->kind == CLEAT_TRANSFER_PUT;
    bool device = (value->flags & CLEAT_STORE_DEVICE) != 0;
    bool raw = (value->flags & CLEAT_STORE_RAW) != 0;
    bool room = (value->flags & CLEAT_STORE_ROOM) != 0 &&
                value->payload != NULL;
    bool compared = is_compared(batch, asked);
    uint32_t refuses = store->refuses &
                       (raw ? CLEAT_STORE_NO_DEVICE
                            : CLEAT_STORE_NO_DEVICE |
                                  CLEAT_STORE_NO_FRAMED_DEVICE);

    if (device && (refuses != 0 || compared)) {
        return transfer_say_value(asked, CLEAT_UNSUPPORTED, index,
                                  refuses != 0
                                      ? "the store does not take an "
                                        "accelerator's memory so"
                                      : "an accelerator's memory cannot be "
                                        "compared (verify full)");
    }
    if (raw && value->bytes == 0 &&
        (store->refuses & CLEAT_STORE_NO_EMPTY_RAW) != 0) {
        return transfer_say_value(asked, CLEAT_UNSUPPORTED, index,
                                  "the store does not take raw values of no "
                                  "bytes");
    }
    if (put && value->bytes > store->value_bytes_max) {
        return transfer_say_value(asked, CLEAT_LIMIT, index,
                                  "it is larger than the store takes");
    }
    if (store->staged_bytes_max != 0 &&
        value->bytes > store->staged_bytes_max &&
        (put || !asked->options->sized) && (compared || !(raw || room))) {
        return transfer_say_value(asked, CLEAT_LIMIT, index,
                                  compared ? "it is larger than what the store "
                                             "can compare (verify full)"
                                           : "it is larger than what the store "
                                             "can copy, and there is no header "
                                             "room");
    }
    return CLEAT_OK;
}

static enum cleat_status check_payload(struct transfer_batch *batch,
                                       const struct transfer_asked *asked,
                                       uint32_t index)
{
    const struct cleat_transfer_value *value = &asked->values[index];
    uintptr_t start = (uintptr_t)value->payload;
    uintptr_t room = (value->flags & CLEAT_STORE_ROOM) != 0 ? CLEAT_FRAME_BYTES
                                                            : 0;
    enum cleat_status status;

    if (start == 0 && value->bytes != 0) {
        return transfer_say_value(asked, CLEAT_INVALID, index,
                                  "its payload is NULL");
    }
    if (start != 0 && (value->bytes > UINTPTR_MAX - start || room > start)) {
        return transfer_say_value(asked, CLEAT_INVALID, index,
                                  "its payload goes beyond the address space");
    }
    status = check_store(batch, asked, index);
    return status == CLEAT_OK ? check_tensor(asked, index) : status;
}

/* Its key's bytes, where there is nothing against it. */
static enum cleat_status check_value(struct transfer_batch *batch,
                                     const struct transfer_asked *asked,
                                     uint32_t index, size_t *key_bytes)
{
    const struct cleat_transfer_value *value = &asked->values[index];

    *key_bytes = value->key != NULL
                     ? strnlen(value->key, CLEAT_STORE_KEY_MAX + 1)
                     : 0;
    if (*key_bytes == 0 || *key_bytes > CLEAT_STORE_KEY_MAX) {
        return transfer_say_value(asked, CLEAT_INVALID, index,
                                  value->key == NULL ? "its key is NULL"
                                  : *key_bytes == 0
                                      ? "its key is empty"
                                      : "its key is longer than 1023 bytes");
    }
    if ((value->flags & ~(uint32_t)FLAGS_ALL) != 0) {
        return transfer_say_value(asked, CLEAT_INVALID, index,
                                  "it has a flag that there is none");
    }
    if (asked->kind != CLEAT_TRANSFER_PUT &&
        asked->kind != CLEAT_TRANSFER_GET) {
        return CLEAT_OK;
    }
    return check_payload(batch, asked, index);
}

/* ---- keys ---------------------------------------------------------------- */

static uint64_t mixed(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    return hash ^ hash >> 29;
}

/* The last bytes of a key, 1 … 8 of them; what was read before may be read
 * again. */
static uint64_t last_word(const char *key, size_t bytes)
{
    uint64_t word = 0;

    if (bytes >= 8) {
        memcpy(&word, key + bytes - 8, 8);
    } else if (bytes >= 4) {
        uint32_t halves[2];

        memcpy(&halves[0], key, 4);
        memcpy(&halves[1], key + bytes - 4, 4);
        word = (uint64_t)halves[0] << 32 | halves[1];
    } else {
        for (size_t i = 0; i < bytes; i++) {
            word = word << 8 | (unsigned char)key[i];
        }
    }
    return word;
}

static uint32_t hash_of(const struct transfer_batch *batch, const char *key,
                        size_t bytes)
{
    uint64_t hash = batch->service->table_salt ^ (uint64_t)bytes << 32;

    for (size_t at = 0; at + 8 < bytes; at += 8) {
        uint64_t word;

        memcpy(&word, key + at, 8);
        hash = mixed(hash, word);
    }
    hash = mixed(hash, last_word(key, bytes));
    return (uint32_t)(hash >> 32 ^ hash);
}

/* The place of a key in the table: where it is, or where it belongs. */
static uint64_t *find(const struct transfer_batch *batch,
                      const struct transfer_entry *entry, uint32_t mask)
{
    uint32_t at = entry->hash & mask;

    while (batch->table[at] != 0) {
        const struct transfer_entry *other;

        if (batch->table[at] >> 32 == entry->hash) {
            other = &batch->entries[(uint32_t)batch->table[at] - 1];
            if (other->key_bytes == entry->key_bytes &&
                memcmp(batch->text + other->text, batch->text + entry->text,
                       entry->key_bytes) == 0) {
                break;
            }
        }
        at = (at + 1) & mask;
    }
    return &batch->table[at];
}

/* Whether one get answers both: into memory that can be copied. */
static bool asks_the_same(const struct cleat_transfer_value *a,
                          const struct cleat_transfer_value *b)
{
    return ((a->flags | b->flags) & CLEAT_STORE_DEVICE) == 0 &&
           a->bytes == b->bytes &&
           (a->flags & CLEAT_STORE_RAW) == (b->flags & CLEAT_STORE_RAW) &&
           a->dtype == b->dtype && a->rank == b->rank &&
           memcmp(a->shape, b->shape, a->rank * sizeof a->shape[0]) == 0;
}

/* Enters a value's key, of that many bytes: as a key of the machine, or as one
 * that is there. */
static enum cleat_status enter(struct transfer_batch *batch,
                               const struct transfer_asked *asked,
                               uint32_t index, size_t key_bytes, uint32_t mask)
{
    const struct cleat_transfer_value *value = &asked->values[index];
    struct transfer_entry *entry = &batch->entries[batch->entries_count];
    uint64_t *place;

    if (key_bytes + 1 > batch->service->key_bytes_max - batch->text_bytes) {
        return transfer_say_value(asked, CLEAT_LIMIT, index,
                                  "the keys of the batch are together longer "
                                  "than key_bytes_max");
    }
    memset(entry, 0, sizeof *entry);
    entry->value = index;
    entry->text = batch->text_bytes;
    entry->key_bytes = (uint16_t)key_bytes;
    memcpy(batch->text + entry->text, value->key, key_bytes);
    batch->text[entry->text + key_bytes] = '\0';
    entry->hash = hash_of(batch, batch->text + entry->text, key_bytes);
    place = find(batch, entry, mask);
    batch->key_of[index] = batch->entries_count;
    if (*place != 0) {
        uint32_t other = (uint32_t)*place - 1;

        if (asked->kind == CLEAT_TRANSFER_PUT) {
            return transfer_say_value(asked, CLEAT_EXISTS, index,
                                      "the batch puts this key twice");
        }
        if (asked->kind != CLEAT_TRANSFER_GET ||
            asks_the_same(value, &asked->values[batch->entries[other].value])) {
            batch->key_of[index] = other;
            return CLEAT_OK;
        }
        entry->alone = true;
    } else {
        *place = (uint64_t)entry->hash << 32 | (batch->entries_count + 1);
    }
    batch->text_bytes += (uint32_t)key_bytes + 1;
    batch->entries_count++;
    return CLEAT_OK;
}

enum cleat_status transfer_batch_check(struct transfer_batch *batch,
                                       const struct transfer_asked *asked)
{
    uint32_t mask = 1;

    while (mask + 1 < 2 * asked->count) { mask = 2 * mask + 1; }
    memset(batch->table, 0, ((size_t)mask + 1) * sizeof *batch->table);
    batch->entries_count = 0;
    batch->text_bytes = 0;
    for (uint32_t i = 0; i < asked->count; i++) {
        size_t key_bytes;
        enum cleat_status status = check_value(batch, asked, i, &key_bytes);

        if (status == CLEAT_OK) {
            status = enter(batch, asked, i, key_bytes, mask);
        }
        if (status != CLEAT_OK) { return status; }
    }
    return CLEAT_OK;
}
