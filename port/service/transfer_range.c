/* Cleat: the memory of a batch's payloads. SPDX-License-Identifier: Apache-2.0
 */
#include "transfer_state.h"

/* ---- what overlaps ------------------------------------------------------- */

/* The memory of a value; false: it has none. */
static bool range_of(const struct transfer_asked *asked, uint32_t index,
                     struct transfer_range *range)
{
    const struct cleat_transfer_value *value = &asked->values[index];
    uint64_t start = (uint64_t)(uintptr_t)value->payload;

    range->room = (value->flags & CLEAT_STORE_ROOM) != 0 &&
                  (value->flags & CLEAT_STORE_RAW) == 0 && start != 0;
    range->start = start - (range->room ? CLEAT_FRAME_BYTES : 0);
    range->end = start + value->bytes;
    range->value = index;
    range->device = value->flags & CLEAT_STORE_DEVICE;
    range->lends = range->room || (value->flags & CLEAT_STORE_RAW) != 0;
    return range->end > range->start;
}

static void merge(const struct transfer_range *from, struct transfer_range *to,
                  size_t first, size_t middle, size_t end)
{
    size_t left = first;
    size_t right = middle;

    for (size_t i = first; i < end; i++) {
        bool of_left = right == end ||
                       (left < middle && from[left].start <= from[right].start);

        to[i] = of_left ? from[left++] : from[right++];
    }
}

/* Sorts by start, from the bottom up. Returns where they are: `ranges`, or
 * the room behind them. */
static struct transfer_range *sorted(struct transfer_range *ranges,
                                     size_t count)
{
    struct transfer_range *from = ranges;
    struct transfer_range *to = ranges + count;

    for (size_t run = 1; run < count; run *= 2) {
        struct transfer_range *swap = from;

        for (size_t first = 0; first < count; first += 2 * run) {
            size_t middle = first + run < count ? first + run : count;
            size_t end = first + 2 * run < count ? first + 2 * run : count;

            merge(from, to, first, middle, end);
        }
        from = to;
        to = swap;
    }
    return from;
}

/* The values' memory, by where it begins. */
static struct transfer_range *collect(struct transfer_batch *batch,
                                      const struct transfer_asked *asked,
                                      uint32_t *count)
{
    struct transfer_range *ranges = batch->machine_block;
    bool in_order = true;

    *count = 0;
    for (uint32_t i = 0; i < asked->count; i++) {
        struct transfer_range *range = &ranges[*count];

        if (!range_of(asked, i, range)) { continue; }
        in_order = in_order && (*count == 0 || range[-1].start <= range->start);
        ++*count;
    }
    return in_order ? ranges : sorted(ranges, *count);
}

/* Which of those before, of the ones that matter, reaches furthest. */
struct reach {
    uint64_t end;
    uint32_t value;
};

static void extend(struct reach *reach, const struct transfer_range *range)
{
    if (range->end <= reach->end) { return; }
    reach->end = range->end;
    reach->value = range->value;
}

static enum cleat_status say_overlap(const struct transfer_asked *asked,
                                     uint32_t a, uint32_t b)
{
    uint32_t later = a > b ? a : b;

    return transfer_say(
        asked->error, CLEAT_INVALID, later,
        "transfer: %s: the memory of values %u and %u "
        "overlaps%s",
        transfer_kind_name(asked->kind), (unsigned)(a > b ? b : a),
        (unsigned)later,
        asked->kind == CLEAT_TRANSFER_PUT ? ", header room included" : "");
}

/* Gets write all of their memory, puts their header room. */
static enum cleat_status check_overlap(const struct transfer_asked *asked,
                                       const struct transfer_range *ranges,
                                       uint32_t count)
{
    struct reach all = {0, 0};
    struct reach rooms = {0, 0};

    for (uint32_t i = 0; i < count; i++) {
        const struct transfer_range *range = &ranges[i];
        bool any = asked->kind == CLEAT_TRANSFER_GET || range->room;
        const struct reach *reach = any ? &all : &rooms;

        if (range->start < reach->end) {
            return say_overlap(asked, reach->value, range->value);
        }
        extend(&all, range);
        if (range->room) { extend(&rooms, range); }
    }
    return CLEAT_OK;
}

/* ---- what is lent -------------------------------------------------------- */

/* As few pieces as there are gaps. */
static void join(struct transfer_batch *batch,
                 const struct transfer_range *ranges, uint32_t count)
{
    const struct transfer_range *last = NULL;
    uint64_t end = 0;

    batch->pieces_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct transfer_range *range = &ranges[i];
        struct transfer_piece *piece;

        if (!range->lends) { continue; }
        if (last == NULL || range->start > end ||
            range->device != last->device) {
            piece = &batch->pieces[batch->pieces_count++];
            piece->start = (unsigned char *)(uintptr_t)range->start;
            piece->bytes = 0;
            end = range->start;
        }
        piece = &batch->pieces[batch->pieces_count - 1];
        if (range->end > end) { end = range->end; }
        piece->bytes = (size_t)(end - (uint64_t)(uintptr_t)piece->start);
        last = range;
    }
}

void transfer_batch_unlend(struct transfer_batch *batch)
{
    const struct cleat_store *store = &batch->service->store;

    while (batch->pieces_count > 0) {
        struct transfer_piece *piece = &batch->pieces[--batch->pieces_count];

        (void)store->lend(store->context, piece->start, piece->bytes, false,
                          NULL);
    }
}

static enum cleat_status lend_all(struct transfer_batch *batch,
                                  const struct transfer_asked *asked)
{
    const struct cleat_store *store = &batch->service->store;
    uint32_t count = batch->pieces_count;
    enum cleat_status status = CLEAT_OK;
    struct cleat_error why;

    memset(&why, 0, sizeof why);
    batch->pieces_count = 0;
    while (batch->pieces_count < count && status == CLEAT_OK) {
        struct transfer_piece *piece = &batch->pieces[batch->pieces_count];

        status = store->lend(store->context, piece->start, piece->bytes, true,
                             &why);
        if (status == CLEAT_OK) { batch->pieces_count++; }
    }
    if (status == CLEAT_OK) { return CLEAT_OK; }
    /* Those before are taken back when the place is left. */
    (void)transfer_say(asked->error, status, 0,
                       "transfer: %s: the store does not take the payloads' "
                       "memory: %s%s%s",
                       transfer_kind_name(asked->kind),
                       cleat_status_name(status),
                       why.text[0] != '\0' ? ": " : "", why.text);
    if (asked->error != NULL) { asked->error->port_code = why.port_code; }
    return status;
}

enum cleat_status transfer_batch_lend(struct transfer_batch *batch,
                                      const struct transfer_asked *asked)
{
    bool lends = batch->service->store.lend != NULL;
    const struct transfer_range *ranges;
    enum cleat_status status;
    bool writes = asked->kind == CLEAT_TRANSFER_GET;
    uint32_t count;

    batch->pieces_count = 0;
    if (asked->kind != CLEAT_TRANSFER_PUT &&
        asked->kind != CLEAT_TRANSFER_GET) {
        return CLEAT_OK;
    }
    for (uint32_t i = 0; i < asked->count && !lends && !writes; i++) {
        writes = (asked->values[i].flags & CLEAT_STORE_ROOM) != 0;
    }
    if (!lends && !writes) { return CLEAT_OK; }
    ranges = collect(batch, asked, &count);
    status = check_overlap(asked, ranges, count);
    if (status != CLEAT_OK || !lends) { return status; }
    join(batch, ranges, count);
    return lend_all(batch, asked);
}
