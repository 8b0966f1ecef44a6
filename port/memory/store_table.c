/* Cleat: the index and the memory of the store in memory.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Why the index is right. Its lists are M. Michael's with tags (see
 * cleat/memory_store.h): a link is a number of an entry, a mark that says that
 * the entry which the link is *of* has been removed, and a tag that rises with
 * every change of the link, over all the entry's lives. Entries are never given
 * to anything else, so a link can always be read. A walk keeps the last
 * unmarked link that it went through, and after each entry that it has read
 * looks whether that link is still what it was: if so, the entry was in the
 * list all the time, for what hangs behind an unmarked link can only be
 * unhooked by changing it. New entries go to the end of a list, by changing the
 * last link from "nobody" with a tag seen before the whole list was walked: so
 * no key is there twice.
 *
 * A tag has 39 bits and a generation 44: somebody stopped between reading a
 * word and exchanging it would have to miss that many changes exactly. */
#include "store_table.h"

#include <string.h>

#define MAGIC UINT64_C(0x31524F545354434C) /* "LCTSTOR1" */
#define VERSION 2u
#define PAGE_BYTES 4096u

#define UNITS_MIN_BYTES 1152u
/* So that two counts of units add up to one. */
#define UNITS_MAX (UINT32_MAX / 2)

/* From here on a place to be written to is in no cache: reading it first, as
 * an ordinary store does, is a third of what a put would cost. Who gets large
 * values from such a store gets many, and reads none before the last one. */
#define COLD_UNITS_BYTES (4 * (uint64_t)CLEAT_DIGEST_COLD_BYTES)
#define COLD_PUT_BYTES ((size_t)4 * 1024)
#define COLD_GET_BYTES ((size_t)64 * 1024)

/* How often a walk begins again when others change what it walks. Each time
 * somebody else has come further. */
#define WALKS_MAX 65536u

struct store_head {
    uint64_t magic;
    uint32_t version;
    uint32_t crc; /* of `shape` and `name_space` */
    struct store_shape shape;
    uint64_t name_space; /* of process ids and of times */
    unsigned char pad_0[STORE_LINE_BYTES];
    _Atomic uint64_t entry_next; /* where to look for a free one */
    unsigned char pad_1[STORE_LINE_BYTES];
    _Atomic uint64_t unit_next;
    unsigned char pad_2[STORE_LINE_BYTES];
};
#define HEAD_BYTES 512u
_Static_assert(sizeof(struct store_head) <= HEAD_BYTES, "the head has room");

struct store_entry {
    _Atomic uint64_t state; /* generation << 20 | hand << 12 | slot << 2 | kind
                             */
    _Atomic uint64_t link;
    _Atomic uint64_t place; /* count of units << 32 | the first */
    _Atomic uint64_t bytes; /* of the object */
    _Atomic uint64_t about; /* hash << 32 | flags << 16 | bytes of the key */
    _Atomic uint64_t crc;
    uint64_t reserved[2];
};
_Static_assert(sizeof(struct store_entry) == STORE_LINE_BYTES,
               "an entry is a cache line");

/* ---- words --------------------------------------------------------------- */

enum kind { FREE, MAKING, LISTED, LEAVING };

#define SLOT_MASK 1023u
_Static_assert(CLEAT_MEMORY_STORE_PROCESSES_MAX <= SLOT_MASK + 1, "10 bits");

static enum kind kind_of(uint64_t state)
{
    return (enum kind)(state & 3u);
}

static uint32_t slot_of(uint64_t state)
{
    return (uint32_t)(state >> 2) & SLOT_MASK;
}

static uint64_t generation_of(uint64_t state)
{
    return state >> 20;
}

static uint64_t state_of(uint64_t generation, uint32_t slot, enum kind kind)
{
    return generation << 20 | (uint64_t)slot << 2 | (uint64_t)kind;
}

/* The same taken over at a slot, be it the one that it was at: it passes to
 * another hand, so that only one can take it over. */
static uint64_t taken_over(uint64_t state, uint32_t slot)
{
    uint64_t hand = ((state >> 12) + 1) & 255u;

    return state_of(generation_of(state), slot, kind_of(state)) | hand << 12;
}

static uint64_t in_kind(uint64_t state, enum kind kind)
{
    return (state & ~UINT64_C(3)) | (uint64_t)kind;
}

#define NEXT_MASK UINT64_C(0xFFFFFF) /* an entry from 1; 0: nobody */
#define MARK (NEXT_MASK + 1)
#define TAG_SHIFT 25

/* A link after `link`, to another entry. */
static uint64_t link_after(uint64_t link, uint64_t next)
{
    return ((link >> TAG_SHIFT) + 1) << TAG_SHIFT | next;
}

static struct store_entry *entry_of(const struct store_table *t, uint32_t index)
{
    return &t->entries[index - 1];
}

static uint64_t load(const _Atomic uint64_t *word)
{
    return atomic_load_explicit((_Atomic uint64_t *)(uintptr_t)word,
                                memory_order_acquire);
}

static bool swap(_Atomic uint64_t *word, uint64_t from, uint64_t to)
{
    return atomic_compare_exchange_strong(word, &from, to);
}

/* ---- bytes that another may be writing ----------------------------------- */

/* A reader copies what a writer may be writing over at that moment, and then
 * finds out and forgets it. The thread sanitizer cannot know that, and so gets
 * to see words, each read and written at once. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BY_WORDS 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define BY_WORDS 1
#endif

#if defined(BY_WORDS)
void cleat_memory_table_read(void *to, const unsigned char *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        ((unsigned char *)to)[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
    }
}

void cleat_memory_table_write(unsigned char *to, const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        __atomic_store_n(to + i, ((const unsigned char *)from)[i],
                         __ATOMIC_RELAXED);
    }
}

uint32_t cleat_memory_table_read_crc(const struct store_table *t, void *to,
                                     const unsigned char *from, size_t bytes)
{
    cleat_memory_table_read(to, from, bytes);
    return cleat_crc32c_with(t->kind, 0, to, bytes);
}

uint32_t cleat_memory_table_write_crc(const struct store_table *t,
                                      unsigned char *to, const void *from,
                                      size_t bytes)
{
    cleat_memory_table_write(to, from, bytes);
    return cleat_crc32c_with(t->kind, 0, from, bytes);
}

bool cleat_memory_table_equal(const unsigned char *at, const void *bytes,
                              size_t bytes_count)
{
    const unsigned char *expected = bytes;
    bool equal = true;

    for (size_t i = 0; i < bytes_count; i++) {
        equal = equal &&
                __atomic_load_n(at + i, __ATOMIC_RELAXED) == expected[i];
    }
    return equal;
}
#else
void cleat_memory_table_read(void *to, const unsigned char *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

void cleat_memory_table_write(unsigned char *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

uint32_t cleat_memory_table_read_crc(const struct store_table *t, void *to,
                                     const unsigned char *from, size_t bytes)
{
    if (t->cold && bytes >= COLD_GET_BYTES) {
        return cleat_crc32c_copy_cold_with(t->kind, 0, to, from, bytes);
    }
    return cleat_crc32c_copy_with(t->kind, 0, to, from, bytes);
}

uint32_t cleat_memory_table_write_crc(const struct store_table *t,
                                      unsigned char *to, const void *from,
                                      size_t bytes)
{
    if (t->cold && bytes >= COLD_PUT_BYTES) {
        return cleat_crc32c_copy_cold_with(t->kind, 0, to, from, bytes);
    }
    return cleat_crc32c_copy_with(t->kind, 0, to, from, bytes);
}

bool cleat_memory_table_equal(const unsigned char *at, const void *bytes,
                              size_t bytes_count)
{
    return memcmp(at, bytes, bytes_count) == 0;
}
#endif

/* ---- shape --------------------------------------------------------------- */

static uint64_t aligned(uint64_t bytes, uint64_t to)
{
    return (bytes + to - 1) / to * to;
}

void cleat_memory_table_shape_place(struct store_shape *s)
{
    s->processes_at = HEAD_BYTES;
    s->buckets_at = aligned(s->processes_at + 8u * s->processes_count,
                            STORE_LINE_BYTES);
    s->entries_at = aligned(s->buckets_at + 8u * (uint64_t)s->buckets_count,
                            STORE_LINE_BYTES);
    s->map_at = s->entries_at +
                (uint64_t)s->entries_count * sizeof(struct store_entry);
    s->units_at = aligned(s->map_at + 4u * (uint64_t)s->units_count,
                          s->unit_bytes < PAGE_BYTES ? STORE_LINE_BYTES
                                                     : PAGE_BYTES);
}

static uint64_t shape_end(const struct store_shape *s)
{
    return s->units_at + (uint64_t)s->units_count * s->unit_bytes;
}

/* Whether counts are in range; the sum of all parts then fits 64 bits. */
static bool shape_counts(const struct store_shape *s)
{
    return s->processes_count != 0 &&
           s->processes_count <= CLEAT_MEMORY_STORE_PROCESSES_MAX &&
           s->entries_count != 0 &&
           s->entries_count <= CLEAT_MEMORY_STORE_KEYS_MAX &&
           s->buckets_count >= s->entries_count &&
           s->buckets_count / 2 < s->entries_count &&
           (s->buckets_count & (s->buckets_count - 1)) == 0 &&
           s->unit_bytes >= 256 && s->unit_bytes <= 1u << 20 &&
           (s->unit_bytes & (s->unit_bytes - 1)) == 0;
}

bool cleat_memory_table_shape_of(const struct cleat_memory_store_config *config,
                                 uint64_t block_bytes, struct store_shape *s,
                                 uint64_t *needed)
{
    uint64_t entries = config->keys_max;
    uint64_t units;

    memset(s, 0, sizeof *s);
    if (entries == 0) {
        entries = block_bytes / CLEAT_MEMORY_STORE_BYTES_A_KEY_DEFAULT;
        if (entries == 0) { entries = 1; }
        if (entries > CLEAT_MEMORY_STORE_KEYS_MAX) {
            entries = CLEAT_MEMORY_STORE_KEYS_MAX;
        }
    }
    if (entries > CLEAT_MEMORY_STORE_KEYS_MAX) { return false; }
    s->block_bytes = block_bytes;
    s->entries_count = (uint32_t)entries;
    for (s->buckets_count = 1; s->buckets_count < entries;) {
        s->buckets_count *= 2;
    }
    s->unit_bytes = config->unit_bytes != 0
                        ? config->unit_bytes
                        : CLEAT_MEMORY_STORE_UNIT_BYTES_DEFAULT;
    s->processes_count = config->processes_max != 0
                             ? config->processes_max
                             : CLEAT_MEMORY_STORE_PROCESSES_DEFAULT;
    if (!shape_counts(s)) { return false; }
    /* The longest key with an empty frame fits. */
    s->units_count = UNITS_MIN_BYTES / s->unit_bytes + 1;
    cleat_memory_table_shape_place(s);
    *needed = shape_end(s) + PAGE_BYTES;
    if (block_bytes < *needed) { return true; }
    units = (block_bytes - *needed) / (s->unit_bytes + 4u) + s->units_count;
    s->units_count = units < UNITS_MAX ? (uint32_t)units : UNITS_MAX;
    cleat_memory_table_shape_place(s);
    return true;
}

static uint32_t head_crc(const struct store_head *head)
{
    uint32_t crc = cleat_crc32c(0, &head->shape, sizeof head->shape);

    return cleat_crc32c(crc, &head->name_space, sizeof head->name_space);
}

void cleat_memory_table_make(void *block, const struct store_shape *shape)
{
    struct store_head *head = block;
    unsigned char *bytes = block;

    memset(bytes, 0, (size_t)shape->map_at);
    memset(bytes + shape->map_at, 0, 4 * (size_t)shape->units_count);
    head->version = VERSION;
    head->shape = *shape;
    head->name_space = cleat_memory_table_namespace();
    head->crc = head_crc(head);
    head->magic = MAGIC;
}

enum cleat_status cleat_memory_table_shape(const void *block, uint64_t bytes,
                                           struct store_shape *shape)
{
    struct store_head head;
    struct store_shape placed;

    if (bytes < HEAD_BYTES) { return CLEAT_MALFORMED; }
    memcpy(&head, block, offsetof(struct store_head, pad_0));
    placed = head.shape;
    if (head.magic != MAGIC || head.version != VERSION ||
        head.crc != head_crc(&head) || !shape_counts(&placed) ||
        placed.block_bytes > bytes) {
        return CLEAT_MALFORMED;
    }
    cleat_memory_table_shape_place(&placed);
    if (memcmp(&placed, &head.shape, sizeof placed) != 0 ||
        placed.units_count <= UNITS_MIN_BYTES / placed.unit_bytes ||
        placed.units_count > UNITS_MAX ||
        shape_end(&placed) > placed.block_bytes) {
        return CLEAT_MALFORMED;
    }
    if (head.name_space != cleat_memory_table_namespace()) {
        return CLEAT_UNSUPPORTED;
    }
    *shape = placed;
    return CLEAT_OK;
}

void cleat_memory_table_see(struct store_table *t, void *block,
                            const struct store_shape *shape)
{
    unsigned char *bytes = block;

    t->shape = *shape;
    t->head = block;
    t->processes = (_Atomic uint64_t *)(void *)(bytes + shape->processes_at);
    t->buckets = (_Atomic uint64_t *)(void *)(bytes + shape->buckets_at);
    t->entries = (struct store_entry *)(void *)(bytes + shape->entries_at);
    t->map = (_Atomic uint32_t *)(void *)(bytes + shape->map_at);
    t->units = bytes + shape->units_at;
    t->cold = (uint64_t)shape->units_count * shape->unit_bytes >=
              COLD_UNITS_BYTES;
}

/* ---- the index ----------------------------------------------------------- */

uint32_t cleat_memory_table_hash(const struct store_table *t, const char *key,
                                 uint32_t key_bytes)
{
    uint64_t crc = cleat_crc32c_with(t->kind, key_bytes, key, key_bytes);

    /* Knuth's multiplicative hashing: a CRC is linear, and keys are alike. */
    return (uint32_t)((crc * UINT64_C(0x9E3779B97F4A7C15)) >> 32);
}

/* What a walk looks for: a key, or an entry, or nothing: the end. */
struct wanted {
    const char *key;
    uint32_t key_bytes;
    uint32_t hash;
    uint32_t index;
    bool unhook; /* what is marked, on the way */
};

/* Reads what an entry says of itself; nothing of it is true before the walk has
 * found it to be in the list still. False: its place is not in the block. */
static bool entry_read(const struct store_table *t, uint32_t index,
                       struct store_found *f)
{
    struct store_entry *entry = entry_of(t, index);
    uint64_t about;
    uint64_t place;
    uint64_t room;
    uint64_t key_room;

    f->index = index;
    f->state = load(&entry->state);
    f->link = load(&entry->link);
    about = load(&entry->about);
    place = load(&entry->place);
    f->bytes = load(&entry->bytes);
    f->crc = (uint32_t)load(&entry->crc);
    f->hash = (uint32_t)(about >> 32);
    f->flags = (uint32_t)(about >> 16) & 0xFFFFu;
    f->key_bytes = (uint32_t)about & 0xFFFFu;
    f->units_first = (uint32_t)place;
    f->units_count = (uint32_t)(place >> 32);
    room = (uint64_t)f->units_count * t->shape.unit_bytes;
    key_room = aligned(f->key_bytes, STORE_LINE_BYTES);
    f->key = NULL;
    f->object = NULL;
    if (f->units_count == 0 || f->units_first >= t->shape.units_count ||
        f->units_count > t->shape.units_count - f->units_first ||
        f->key_bytes == 0 || f->key_bytes > CLEAT_STORE_KEY_MAX ||
        key_room > room || f->bytes > room - key_room) {
        return false;
    }
    f->key = t->units + (uint64_t)f->units_first * t->shape.unit_bytes;
    f->object = f->key + key_room;
    return true;
}

static bool is_wanted(const struct wanted *w, const struct store_found *f,
                      bool sound)
{
    if ((f->link & MARK) != 0) { return false; }
    if (w->index != 0) { return f->index == w->index; }
    return w->key != NULL && sound && f->hash == w->hash &&
           f->key_bytes == w->key_bytes &&
           cleat_memory_table_equal(f->key, w->key, w->key_bytes);
}

static void retire(struct store_table *t, uint32_t index, uint64_t generation);

/* Unhooks the entry that was found marked, right behind f->before. */
static bool unhook(struct store_table *t, struct store_found *f)
{
    uint64_t past = link_after(f->before_value, f->link & NEXT_MASK);

    if (!swap(f->before, f->before_value, past)) { return false; }
    f->before_value = past;
    retire(t, f->index, generation_of(f->state));
    return true;
}

/* One walk. STORE_BUSY: something changed on the way. */
static enum store_seen walk_once(struct store_table *t, const struct wanted *w,
                                 struct store_found *f)
{
    uint64_t next;

    f->before = &t->buckets[w->hash & (t->shape.buckets_count - 1)];
    f->before_value = load(f->before);
    next = f->before_value;
    for (uint32_t steps = 0; steps <= t->shape.entries_count; steps++) {
        uint64_t index = next & NEXT_MASK;
        bool wanted;

        if (index == 0) { return STORE_ABSENT; }
        if (index > t->shape.entries_count) { return STORE_DAMAGED; }
        wanted = is_wanted(w, f, entry_read(t, (uint32_t)index, f));
        atomic_thread_fence(memory_order_acquire);
        if (load(f->before) != f->before_value) { return STORE_BUSY; }
        if (wanted) {
            return kind_of(f->state) == MAKING || kind_of(f->state) == LISTED
                       ? STORE_PRESENT
                       : STORE_DAMAGED;
        }
        if ((f->link & MARK) == 0) {
            f->before = &entry_of(t, (uint32_t)index)->link;
            f->before_value = f->link;
        } else if (w->unhook && !unhook(t, f)) {
            return STORE_BUSY;
        }
        next = f->link;
    }
    return STORE_DAMAGED;
}

static enum store_seen walk(struct store_table *t, const struct wanted *w,
                            struct store_found *f)
{
    enum store_seen seen = STORE_BUSY;

    for (uint32_t i = 0; i < WALKS_MAX && seen == STORE_BUSY; i++) {
        seen = walk_once(t, w, f);
    }
    return seen;
}

enum store_seen cleat_memory_table_find(const struct store_table *t,
                                        uint32_t hash, const char *key,
                                        uint32_t key_bytes,
                                        struct store_found *found)
{
    struct wanted wanted = {key, key_bytes, hash, 0, false};

    /* It unhooks nothing, so it writes nothing. */
    return walk((struct store_table *)(uintptr_t)t, &wanted, found);
}

void cleat_memory_table_fetch(const struct store_table *t, uint32_t hash,
                              uint32_t stage)
{
    const _Atomic uint64_t *bucket =
        &t->buckets[hash & (t->shape.buckets_count - 1)];
    uint64_t index;
    struct store_found found;

    if (stage == 0) {
        __builtin_prefetch((const void *)(uintptr_t)bucket);
        return;
    }
    index = load(bucket) & NEXT_MASK;
    if (index == 0 || index > t->shape.entries_count) { return; }
    if (stage == 1) {
        __builtin_prefetch(entry_of(t, (uint32_t)index));
    } else if (entry_read(t, (uint32_t)index, &found)) {
        __builtin_prefetch(found.key);
        __builtin_prefetch(found.object);
        __builtin_prefetch(found.object + STORE_LINE_BYTES);
        __builtin_prefetch(found.object + CLEAT_FRAME_BYTES);
    }
}

bool cleat_memory_table_still(const struct store_table *t,
                              const struct store_found *found)
{
    uint64_t state;

    atomic_thread_fence(memory_order_acquire);
    state = load(&entry_of(t, found->index)->state);
    return generation_of(state) == generation_of(found->state) &&
           (kind_of(state) == MAKING || kind_of(state) == LISTED);
}

/* Makes an entry that was seen in the index LISTED, if it is not yet. */
static void settle(struct store_table *t, uint32_t index, uint64_t generation)
{
    struct store_entry *entry = entry_of(t, index);
    uint64_t state = load(&entry->state);

    /* A second time where it was adopted meanwhile; see sweep. */
    while (generation_of(state) == generation && kind_of(state) == MAKING &&
           !atomic_compare_exchange_weak(&entry->state, &state,
                                         state_of(generation, 0, LISTED))) {}
}

enum store_seen cleat_memory_table_publish(struct store_table *t,
                                           const char *key,
                                           const struct store_found *made)
{
    struct wanted wanted = {key, made->key_bytes, made->hash, 0, true};
    struct store_entry *entry = entry_of(t, made->index);
    struct store_found end;

    for (uint32_t i = 0; i < WALKS_MAX; i++) {
        enum store_seen seen = walk(t, &wanted, &end);

        if (seen != STORE_ABSENT) { return seen; }
        atomic_store(&entry->link, link_after(load(&entry->link), 0));
        if (swap(end.before, end.before_value,
                 link_after(end.before_value, made->index))) {
            settle(t, made->index, generation_of(made->state));
            return STORE_ABSENT;
        }
    }
    return STORE_BUSY;
}

enum store_seen cleat_memory_table_remove(struct store_table *t, uint32_t hash,
                                          const char *key, uint32_t key_bytes)
{
    struct wanted wanted = {key, key_bytes, hash, 0, true};
    struct store_found found;

    for (uint32_t i = 0; i < WALKS_MAX; i++) {
        enum store_seen seen = walk(t, &wanted, &found);

        if (seen != STORE_PRESENT) { return seen; }
        settle(t, found.index, generation_of(found.state));
        if (swap(&entry_of(t, found.index)->link, found.link,
                 found.link | MARK)) {
            wanted.key = NULL; /* to the end: so it is unhooked */
            (void)walk(t, &wanted, &found);
            return STORE_PRESENT;
        }
    }
    return STORE_BUSY;
}

/* ---- memory -------------------------------------------------------------- */

static void units_free(struct store_table *t, uint32_t index, uint32_t first,
                       uint32_t count)
{
    for (uint32_t i = first; i - first < count; i++) {
        /* Of what a dead one has left, a part may be another's already. */
        if (atomic_load_explicit(&t->map[i], memory_order_relaxed) == index) {
            atomic_store_explicit(&t->map[i], 0, memory_order_release);
        }
    }
}

/* Gives back an entry that is ours alone: MAKING or LEAVING. */
static void give_back(struct store_table *t, uint32_t index)
{
    struct store_entry *entry = entry_of(t, index);
    uint64_t place = load(&entry->place);
    uint32_t first = (uint32_t)place;
    uint32_t count = (uint32_t)(place >> 32);

    if (first < t->shape.units_count && count <= t->shape.units_count - first) {
        units_free(t, index, first, count);
    }
    atomic_store(&entry->place, 0);
    atomic_store(&entry->state,
                 state_of(generation_of(load(&entry->state)) + 1, 0, FREE));
}

/* Of an entry that is known to be unhooked: whoever makes it LEAVING frees it.
 */
static void retire(struct store_table *t, uint32_t index, uint64_t generation)
{
    _Atomic uint64_t *word = &entry_of(t, index)->state;
    uint64_t state = load(word);

    if (generation_of(state) == generation && kind_of(state) == LISTED &&
        swap(word, state, state_of(generation, t->slot, LEAVING))) {
        give_back(t, index);
    }
}

static uint32_t entry_take(struct store_table *t, uint64_t *state)
{
    uint32_t count = t->shape.entries_count;
    uint32_t at = (uint32_t)(atomic_fetch_add(&t->head->entry_next, 1) % count);

    for (uint32_t i = 0; i < count; i++) {
        _Atomic uint64_t *word = &t->entries[at].state;
        uint64_t was = atomic_load_explicit(word, memory_order_relaxed);

        *state = state_of(generation_of(was), t->slot, MAKING);
        if (kind_of(was) == FREE && swap(word, was, *state)) { return at + 1; }
        at = at + 1 < count ? at + 1 : 0;
    }
    return 0;
}

/* Two words of the map at once. */
typedef uint64_t pair_t __attribute__((may_alias));

/* Claims the unit, or where two follow each other in one pair of words both of
 * them. Returns how many; 0: it is another's. */
static uint32_t claim_some(struct store_table *t, uint32_t index, uint32_t unit,
                           uint32_t count)
{
    uint32_t nobody = 0;

    if (unit % 2 == 0 && count >= 2) {
        pair_t *pair = (pair_t *)(void *)&t->map[unit];
        uint64_t nobodies = 0;

        if (__atomic_compare_exchange_n(pair, &nobodies,
                                        (uint64_t)index << 32 | index, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            return 2;
        }
    }
    return atomic_compare_exchange_strong_explicit(&t->map[unit], &nobody,
                                                   index, memory_order_acq_rel,
                                                   memory_order_relaxed)
               ? 1
               : 0;
}

/* Claims a run. What is claimed is always inside the entry's `place`, so it is
 * found when the claimer dies. False: *taken is another's. */
static bool units_claim(struct store_table *t, uint32_t index, uint32_t first,
                        uint32_t count, uint32_t *taken)
{
    uint32_t claimed = 0;

    atomic_store(&entry_of(t, index)->place, (uint64_t)count << 32 | first);
    while (claimed < count) {
        uint32_t more = claim_some(t, index, first + claimed, count - claimed);

        if (more == 0) {
            units_free(t, index, first, claimed);
            *taken = first + claimed;
            return false;
        }
        claimed += more;
    }
    return true;
}

/* A free run in [from, to), claimed. Looks at each word about once: where the
 * last of a run is taken, nothing before it will do. */
static bool units_search(struct store_table *t, uint32_t index, uint32_t from,
                         uint32_t to, uint32_t count, uint32_t *first)
{
    while (to - from >= count) {
        uint32_t end = from + count;
        uint32_t taken;

        while (end > from && atomic_load_explicit(&t->map[end - 1],
                                                  memory_order_relaxed) == 0) {
            end--;
        }
        if (end > from) {
            from = end;
        } else if (units_claim(t, index, from, count, &taken)) {
            *first = from;
            return true;
        } else {
            from = taken + 1;
        }
    }
    return false;
}

static bool units_take(struct store_table *t, uint32_t index, uint32_t count,
                       uint32_t *first)
{
    uint32_t all = t->shape.units_count;
    /* Each begins where the one before it ends, unless that is taken. */
    uint32_t from = (uint32_t)(atomic_fetch_add(&t->head->unit_next, count) %
                               all);
    uint32_t wrapped = from + count < all ? from + count : all;

    if (!units_search(t, index, from, all, count, first) &&
        !units_search(t, index, 0, wrapped, count, first)) {
        return false;
    }
    if (*first != from) {
        atomic_store(&t->head->unit_next, (uint64_t)*first + count);
    }
    return true;
}

static int32_t take(struct store_table *t, uint32_t units_count,
                    struct store_found *made)
{
    made->index = entry_take(t, &made->state);
    if (made->index == 0) { return CLEAT_MEMORY_STORE_FULL_KEYS; }
    if (!units_take(t, made->index, units_count, &made->units_first)) {
        give_back(t, made->index);
        return CLEAT_MEMORY_STORE_FULL_BYTES;
    }
    return 0;
}

int32_t cleat_memory_table_begin(struct store_table *t, uint32_t hash,
                                 uint32_t key_bytes, uint64_t bytes,
                                 struct store_found *made)
{
    uint64_t key_room = aligned(key_bytes, STORE_LINE_BYTES);
    uint64_t units = (key_room + bytes + t->shape.unit_bytes - 1) /
                     t->shape.unit_bytes;
    int32_t code = CLEAT_MEMORY_STORE_FULL_BYTES;

    if (units <= t->shape.units_count) {
        code = take(t, (uint32_t)units, made);
        if (code != 0) {
            /* Again in any case: another one may have swept. */
            (void)cleat_memory_table_sweep(t);
            code = take(t, (uint32_t)units, made);
        }
    }
    if (code != 0) { return code; }
    made->hash = hash;
    made->key_bytes = key_bytes;
    made->bytes = bytes;
    made->flags = 0;
    made->crc = 0;
    made->units_count = (uint32_t)units;
    made->key = t->units + (uint64_t)made->units_first * t->shape.unit_bytes;
    made->object = made->key + key_room;
    /* What follows is not seen before the claims are. */
    atomic_thread_fence(memory_order_seq_cst);
    return 0;
}

void cleat_memory_table_describe(struct store_table *t,
                                 const struct store_found *made)
{
    struct store_entry *entry = entry_of(t, made->index);

    atomic_store_explicit(&entry->bytes, made->bytes, memory_order_relaxed);
    atomic_store_explicit(&entry->crc, made->crc, memory_order_relaxed);
    atomic_store_explicit(&entry->about,
                          (uint64_t)made->hash << 32 |
                              (uint64_t)made->flags << 16 | made->key_bytes,
                          memory_order_release);
}

void cleat_memory_table_abandon(struct store_table *t,
                                const struct store_found *made)
{
    give_back(t, made->index);
}

/* ---- what the dead have left --------------------------------------------- */

/* Finishes what is ours to finish: an entry whose maker or remover is dead, or
 * was at our slot before us. Counts it; false: the index is damaged. */
static bool finish(struct store_table *t, uint32_t index, uint64_t state,
                   uint32_t *count)
{
    _Atomic uint64_t *word = &entry_of(t, index)->state;
    uint64_t ours = taken_over(state, t->slot);
    struct wanted wanted = {NULL, 0, 0, index, true};
    struct store_found found;
    enum store_seen seen;

    if (!swap(word, state, ours)) { return true; }
    if (kind_of(ours) == LEAVING) {
        give_back(t, index);
        ++*count;
        return true;
    }
    wanted.hash = (uint32_t)(load(&entry_of(t, index)->about) >> 32);
    seen = walk(t, &wanted, &found);
    if (seen == STORE_PRESENT) { /* died after the publication */
        settle(t, index, generation_of(ours));
        ++*count;
    } else if (seen == STORE_ABSENT &&
               swap(word, ours, in_kind(ours, LEAVING))) {
        give_back(t, index);
        ++*count;
    }
    return seen != STORE_DAMAGED;
}

/* Removed, and perhaps unhooked, by somebody who has not come to retire it.
 * False: the index is damaged. */
static bool finish_removed(struct store_table *t, uint32_t index,
                           uint64_t state, uint32_t *count)
{
    struct wanted wanted = {NULL, 0, 0, 0, true};
    struct store_found found;
    enum store_seen seen;

    wanted.hash = (uint32_t)(load(&entry_of(t, index)->about) >> 32);
    seen = walk(t, &wanted, &found);
    if (seen == STORE_ABSENT) {
        retire(t, index, generation_of(state));
        *count += generation_of(load(&entry_of(t, index)->state)) !=
                  generation_of(state);
    }
    return seen != STORE_DAMAGED;
}

static bool sweep_entry(struct store_table *t, uint32_t index,
                        struct store_judged *judged, uint32_t *count)
{
    struct store_entry *entry = entry_of(t, index);
    uint64_t state = load(&entry->state);

    switch (kind_of(state)) {
    case LISTED:
        return (load(&entry->link) & MARK) == 0 ||
               finish_removed(t, index, state, count);
    case MAKING:
    case LEAVING:
        /* First the state, then who is at its slot: a new one there has not
         * begun this. */
        if (slot_of(state) < t->shape.processes_count &&
            cleat_memory_table_dead(t, load(&t->processes[slot_of(state)]),
                                    judged)) {
            return finish(t, index, state, count);
        }
        return true;
    default: return true;
    }
}

uint32_t cleat_memory_table_sweep(struct store_table *t)
{
    struct store_judged judged;
    uint32_t count = 0;

    memset(&judged, 0, sizeof judged);
    for (uint32_t index = 1; index <= t->shape.entries_count; index++) {
        if (!sweep_entry(t, index, &judged, &count)) { break; }
    }
    for (uint32_t slot = 0; slot < t->shape.processes_count; slot++) {
        uint64_t identity = load(&t->processes[slot]);

        if (identity != 0 && cleat_memory_table_dead(t, identity, &judged)) {
            (void)swap(&t->processes[slot], identity, 0);
        }
    }
    return count;
}

uint32_t cleat_memory_table_inherit(struct store_table *t)
{
    uint32_t count = 0;

    for (uint32_t index = 1; index <= t->shape.entries_count; index++) {
        uint64_t state = load(&entry_of(t, index)->state);

        if (slot_of(state) == t->slot &&
            (kind_of(state) == MAKING || kind_of(state) == LEAVING) &&
            !finish(t, index, state, &count)) {
            break; /* each walk of it would be as long as it can be */
        }
    }
    return count;
}

/* ---- looking ------------------------------------------------------------- */

static void look_at_units(const struct store_table *t,
                          struct cleat_memory_store_view *view)
{
    uint32_t run = 0;

    for (uint32_t i = 0; i < t->shape.units_count; i++) {
        if (atomic_load_explicit(&t->map[i], memory_order_relaxed) != 0) {
            view->units++;
            run = 0;
        } else if (++run > view->units_run) {
            view->units_run = run;
        }
    }
}

void cleat_memory_table_look(const struct store_table *t,
                             struct cleat_memory_store_view *view)
{
    memset(view, 0, sizeof *view);
    view->unit_bytes = t->shape.unit_bytes;
    view->keys_max = t->shape.entries_count;
    view->units_max = t->shape.units_count;
    for (uint32_t i = 0; i < t->shape.processes_count; i++) {
        view->processes += load(&t->processes[i]) != 0;
    }
    for (uint32_t index = 1; index <= t->shape.entries_count; index++) {
        struct store_found found;
        bool sound = entry_read(t, index, &found);
        uint64_t header = (found.flags & STORE_ENTRY_RAW) != 0
                              ? 0
                              : CLEAT_FRAME_BYTES;

        if (kind_of(found.state) == FREE) { continue; }
        if (kind_of(found.state) != LISTED || (found.link & MARK) != 0) {
            view->held++;
            continue;
        }
        view->keys++;
        if (sound && found.bytes >= header) {
            view->value_bytes += found.bytes - header;
        } else {
            view->unreadable++;
        }
    }
    look_at_units(t, view);
}
