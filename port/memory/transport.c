/* Cleat: the shared-memory transport. SPDX-License-Identifier: Apache-2.0
 *
 * The data segment, which the sender alone can write:
 *
 *   0     the head word: {tag, buckets published}, one atomic 64-bit word
 *   4096  slot 0: a frame header of 256 bytes, then the bucket's bytes
 *   …     slot 1 …, each at a multiple of 4096
 *
 * The acks segment, lines of 64 bytes:
 *
 *   0     the sender's bell         1     the receivers' bell
 *   2 …   receiver i's word at line 2 + i: {tag, buckets acknowledged}
 *
 * A *tag* is the number of a generation within a segment: 32 bits that fit
 * beside a count in one atomic word, so that a word says in which generation
 * it was written. A receiver that was stopped in one generation and wakes up in
 * another writes an old tag, whatever it writes, and is not counted.
 *
 * Bells. A bell is a counter in steps of two whose lowest bit says that
 * somebody may sleep on it. To change something: change it, then add two; if
 * the bit was set, clear it and wake all. To wait: read the bell, look whether
 * what is waited for is there, and if not, set the bit provided the bell is
 * still what was read, and sleep provided it still is that. So no change
 * between the look and the sleep is missed. A process that dies or is stopped
 * in the middle leaves a bit set, which costs the next ringer one system call;
 * or, between clearing it and waking, sleepers whom nobody will wake any more:
 * so nobody sleeps for longer than SLEEP_NS without looking again.
 *
 * Why a receiver cannot write to the data: once the sender has mapped it, the
 * memfd is sealed against future writing (F_SEAL_FUTURE_WRITE), and the seal is
 * a property of the memory, not of the descriptor. A descriptor opened
 * read-only would be less: a memfd may be opened again for writing through
 * /proc by whoever has the same user. The memory is sealed against shrinking
 * too, which the receivers check: it cannot be cut off under a reader. */
#define _GNU_SOURCE
#include "cleat/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cleat/digest.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#if ATOMIC_INT_LOCK_FREE != 2 || ATOMIC_LLONG_LOCK_FREE != 2
#error "shared memory needs lock-free 32-bit and 64-bit atomics"
#endif

enum { DATA = 0, ACKS = 1 }; /* the two descriptors of a ticket */

#define PAGE_BYTES 4096u
#define HEADER_BYTES 256u /* of a slot; its bytes follow, aligned to it */
#define LINE_BYTES 64u
#define LINES_BEFORE_ACKS 2u
#define ACKS_BYTES_MAX \
    ((size_t)LINE_BYTES * (LINES_BEFORE_ACKS + CLEAT_MEMORY_RECEIVERS_MAX))

#define SLEEP_NS (50 * CLEAT_NS_PER_MS)

#define FRAME_MAGIC 0x4B425443u  /* "CTBK" */
#define TICKET_MAGIC 0x4B544D43u /* "CMTK" */
#define TICKET_VERSION 1u

/* Counts in words: below COUNT_FAILED, buckets; from it on, a receiver has
 * failed, and the low byte is its status, negated. */
#define COUNT_FAILED UINT32_C(0xFFFFFF00)
/* In the head word: the sender has finished. */
#define COUNT_FINISHED UINT32_MAX

struct line {
    union {
        _Atomic uint32_t bell;
        _Atomic uint64_t word; /* tag in the high half, count in the low */
        unsigned char bytes[LINE_BYTES];
    } u;
};

/* At the start of a slot, in the host's byte order: it never leaves it. */
struct frame {
    uint32_t magic;
    uint32_t bucket;
    uint64_t generation;
    uint64_t bytes;
    uint32_t crc;        /* of the bytes, as the sender was given it */
    uint32_t crc_header; /* of the members above */
};

/* What a ticket says; the rest follows from it by layout_of. */
struct ticket {
    uint32_t magic;
    uint32_t version;
    uint64_t generation;
    uint64_t bucket_bytes;
    uint32_t tag;
    uint32_t slots_count;
    uint32_t receivers_count;
    uint32_t receivers_max;
};
_Static_assert(sizeof(struct ticket) <= CLEAT_TRANSPORT_TICKET_BYTES,
               "a ticket holds ours");
_Static_assert(sizeof(struct line) == LINE_BYTES, "a line is a cache line");
_Static_assert(sizeof(struct frame) <= HEADER_BYTES, "the header holds it");

struct layout {
    uint64_t stride; /* from slot to slot */
    uint64_t data_bytes;
    uint64_t acks_bytes;
};

struct cleat_transport_sender_context {
    unsigned char *data;
    struct line *acks;
    struct layout layout;
    uint64_t data_mapped; /* layout.data_bytes rounded up to its pages */
    uint64_t bucket_bytes;
    uint64_t generation;
    int fds[2];
    uint32_t slots_count;
    uint32_t receivers_max;
    uint32_t receivers_count;
    uint32_t tag;
    uint32_t published;
    uint32_t bell_seen;
    uint32_t running; /* between prepare and finish */
    enum cleat_memory_pages_got pages;
    _Atomic uint32_t woken;
};

struct cleat_transport_receiver_context {
    const unsigned char *data;
    struct line *acks; /* ACKS_BYTES_MAX of address space, from open to close:
                          a wake may use it while a join maps it anew */
    struct layout layout;
    uint64_t data_mapped;
    uint64_t segment_bytes_max;
    uint64_t bucket_bytes;
    uint64_t generation;
    dev_t dev[2];
    ino_t ino[2];
    uint32_t slots_count;
    uint32_t receivers_count;
    uint32_t tag;
    uint32_t index;
    uint32_t next; /* the bucket to wait for */
    uint32_t joined;
    _Atomic uint32_t woken;
};
_Static_assert(sizeof(struct cleat_transport_sender_context) <=
                   CLEAT_MEMORY_SENDER_BYTES,
               "the sender's block holds it");
_Static_assert(sizeof(struct cleat_transport_receiver_context) <=
                   CLEAT_MEMORY_RECEIVER_BYTES,
               "the receiver's block holds it");

/* ---- bells ---- */

static long futex(_Atomic uint32_t *word, int operation, uint32_t value,
                  const struct timespec *deadline)
{
    return syscall(SYS_futex, word, operation, value, deadline, NULL,
                   FUTEX_BITSET_MATCH_ANY);
}

static uint32_t bell_read(_Atomic uint32_t *bell)
{
    return atomic_load(bell) & ~UINT32_C(1);
}

static void bell_ring(_Atomic uint32_t *bell)
{
    if ((atomic_fetch_add(bell, 2) & 1u) == 0) { return; }
    atomic_fetch_and(bell, ~UINT32_C(1));
    (void)futex(bell, FUTEX_WAKE, INT_MAX, NULL);
}

static uint64_t now_ns(void)
{
    struct timespec now = {0, 0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Sleeps until the bell is not `seen` any more, or for no reason. Returns
 * CLEAT_DEADLINE once that has come. */
static enum cleat_status bell_sleep(_Atomic uint32_t *bell, uint32_t seen,
                                    uint64_t deadline_ns)
{
    uint64_t until_ns = now_ns() + SLEEP_NS;
    struct timespec until;
    uint32_t expected = seen;

    if (!atomic_compare_exchange_strong(bell, &expected, seen | 1u) &&
        expected != (seen | 1u)) {
        return CLEAT_OK;
    }
    if (until_ns > deadline_ns) { until_ns = deadline_ns; }
    until.tv_sec = (time_t)(until_ns / CLEAT_NS_PER_S);
    until.tv_nsec = (long)(until_ns % CLEAT_NS_PER_S);
    /* An absolute time of CLOCK_MONOTONIC, as FUTEX_WAIT_BITSET takes it. */
    if (futex(bell, FUTEX_WAIT_BITSET, seen | 1u, &until) == 0) {
        return CLEAT_OK;
    }
    return errno == ETIMEDOUT && until_ns == deadline_ns ? CLEAT_DEADLINE
                                                         : CLEAT_OK;
}

/* ---- words and layout ---- */

static uint64_t word_of(uint32_t tag, uint32_t count)
{
    return (uint64_t)tag << 32 | count;
}

static bool layout_of(uint64_t bucket_bytes, uint32_t slots_count,
                      uint32_t receivers_max, struct layout *layout)
{
    if (bucket_bytes == 0 || bucket_bytes > (uint64_t)1 << 40 ||
        slots_count == 0 || slots_count > CLEAT_MEMORY_SLOTS_MAX ||
        receivers_max == 0 || receivers_max > CLEAT_MEMORY_RECEIVERS_MAX) {
        return false;
    }
    layout->stride = (HEADER_BYTES + bucket_bytes + PAGE_BYTES - 1) &
                     ~(uint64_t)(PAGE_BYTES - 1);
    layout->data_bytes = PAGE_BYTES + slots_count * layout->stride;
    layout->acks_bytes = (uint64_t)LINE_BYTES *
                         (LINES_BEFORE_ACKS + receivers_max);
    return layout->data_bytes <= (uint64_t)(SIZE_MAX / 2);
}

static uint32_t frame_crc(const struct frame *frame)
{
    return cleat_crc32c(0, frame, offsetof(struct frame, crc_header));
}

/* ---- making the segments ---- */

static enum cleat_status refused(struct cleat_error *error, const char *text)
{
    int code = errno;
    enum cleat_status status = cleat_error_set(error, CLEAT_IO, 0, 0, text);

    if (error != NULL) { error->port_code = code; }
    return status;
}

static int memfd(const char *name, unsigned flags)
{
    int fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);

    /* Kernels before 6.3 do not know that flag. */
    return fd >= 0 || errno != EINVAL ? fd : memfd_create(name, flags);
}

/* Makes and maps `bytes` of shared memory, rounded up to its pages; -1 with
 * errno, and nothing held, when the system refuses. */
static int segment_make(const char *name, unsigned flags, uint64_t *bytes,
                        void **at)
{
    int fd = memfd(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
    struct stat stat;
    int code;

    if (fd < 0) { return -1; }
    *at = MAP_FAILED;
    if (fstat(fd, &stat) == 0) {
        /* st_blksize of hugetlbfs is the size of its pages. */
        uint64_t page = stat.st_blksize > 0 ? (uint64_t)stat.st_blksize : 1;
        uint64_t rounded = (*bytes + page - 1) / page * page;

        if (ftruncate(fd, (off_t)rounded) == 0) {
            *at = mmap(NULL, (size_t)rounded, PROT_READ | PROT_WRITE,
                       MAP_SHARED, fd, 0);
        }
        if (*at != MAP_FAILED) {
            *bytes = rounded;
            return fd;
        }
    }
    code = errno;
    (void)close(fd);
    errno = code;
    return -1;
}

/* Touches every page, so that a shortage shows now. */
static int segment_populate(void *at, uint64_t bytes)
{
    if (madvise(at, (size_t)bytes, MADV_POPULATE_WRITE) == 0) { return 0; }
    if (errno != EINVAL) { return -1; }
    memset(at, 0, (size_t)bytes); /* before Linux 5.14 */
    return 0;
}

/* Whether the kernel gives transparent huge pages to shared memory whose
 * mapping asks for them: the chosen word stands in brackets. */
static bool transparent_allowed(void)
{
    char text[128];
    ssize_t bytes;
    int fd = open("/sys/kernel/mm/transparent_hugepage/shmem_enabled",
                  O_RDONLY | O_CLOEXEC);

    if (fd < 0) { return false; }
    bytes = read(fd, text, sizeof text - 1);
    (void)close(fd);
    if (bytes <= 0) { return false; }
    text[bytes] = '\0';
    return strstr(text, "[never]") == NULL && strstr(text, "[deny]") == NULL;
}

static int data_make(struct cleat_transport_sender_context *s,
                     enum cleat_memory_pages pages)
{
    void *at = MAP_FAILED;
    int fd = -1;

    s->data_mapped = s->layout.data_bytes;
    s->pages = CLEAT_MEMORY_GOT_RESERVED;
    if (pages == CLEAT_MEMORY_PAGES_HUGE_IF_ALLOWED) {
        fd = segment_make("cleat-data", MFD_HUGETLB, &s->data_mapped, &at);
    }
    if (fd < 0) {
        s->data_mapped = s->layout.data_bytes;
        s->pages = CLEAT_MEMORY_GOT_SMALL;
        fd = segment_make("cleat-data", 0, &s->data_mapped, &at);
    }
    if (fd < 0) { return -1; }
    s->data = at;
    s->fds[DATA] = fd;
    if (s->pages == CLEAT_MEMORY_GOT_SMALL &&
        pages == CLEAT_MEMORY_PAGES_HUGE_IF_ALLOWED &&
        madvise(at, (size_t)s->data_mapped, MADV_HUGEPAGE) == 0 &&
        transparent_allowed()) {
        s->pages = CLEAT_MEMORY_GOT_TRANSPARENT;
    }
    return segment_populate(at, s->data_mapped);
}

static int acks_make(struct cleat_transport_sender_context *s)
{
    uint64_t bytes = s->layout.acks_bytes;
    void *at = MAP_FAILED;
    int fd = segment_make("cleat-acks", 0, &bytes, &at);

    if (fd < 0) { return -1; }
    s->acks = at;
    s->fds[ACKS] = fd;
    return segment_populate(at, bytes);
}

static int segments_seal(const struct cleat_transport_sender_context *s)
{
    int size = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

    if (fcntl(s->fds[ACKS], F_ADD_SEALS, size) != 0) { return -1; }
    return fcntl(s->fds[DATA], F_ADD_SEALS, size | F_SEAL_FUTURE_WRITE);
}

static void sender_release(struct cleat_transport_sender_context *s)
{
    if (s->data != NULL) { (void)munmap(s->data, (size_t)s->data_mapped); }
    if (s->acks != NULL) {
        (void)munmap(s->acks, (size_t)s->layout.acks_bytes);
    }
    for (int i = DATA; i <= ACKS; i++) {
        if (s->fds[i] >= 0) { (void)close(s->fds[i]); }
        s->fds[i] = -1;
    }
    s->data = NULL;
    s->acks = NULL;
}

/* ---- the sender ---- */

static _Atomic uint64_t *head_of(const unsigned char *data)
{
    return (_Atomic uint64_t *)(uintptr_t)data;
}

static enum cleat_status sender_slot(struct cleat_transport_sender_context *s,
                                     uint32_t slot, void **data,
                                     uint64_t *bytes_max)
{
    if (slot >= s->slots_count) { return CLEAT_INVALID; }
    *data = s->data + PAGE_BYTES + slot * s->layout.stride + HEADER_BYTES;
    *bytes_max = s->bucket_bytes;
    return CLEAT_OK;
}

static void sender_finish(struct cleat_transport_sender_context *s)
{
    if (!s->running) { return; }
    s->running = 0;
    atomic_store(head_of(s->data), word_of(s->tag, COUNT_FINISHED));
    bell_ring(&s->acks[1].u.bell);
}

static enum cleat_status
sender_prepare(struct cleat_transport_sender_context *s, uint64_t generation,
               uint32_t receivers_count, struct cleat_transport_ticket *ticket)
{
    struct ticket ours;

    if (receivers_count == 0 || receivers_count > s->receivers_max ||
        ticket == NULL || (s->tag != 0 && generation == s->generation)) {
        return CLEAT_INVALID;
    }
    sender_finish(s);
    s->tag = s->tag == UINT32_MAX ? 1 : s->tag + 1;
    s->generation = generation;
    s->receivers_count = receivers_count;
    s->published = 0;
    s->running = 1;
    atomic_store(head_of(s->data), word_of(s->tag, 0));
    memset(&ours, 0, sizeof ours);
    ours.magic = TICKET_MAGIC;
    ours.version = TICKET_VERSION;
    ours.generation = generation;
    ours.bucket_bytes = s->bucket_bytes;
    ours.tag = s->tag;
    ours.slots_count = s->slots_count;
    ours.receivers_count = receivers_count;
    ours.receivers_max = s->receivers_max;
    memset(ticket, 0, sizeof *ticket);
    memcpy(ticket->bytes, &ours, sizeof ours);
    ticket->bytes_count = sizeof ours;
    ticket->fds_count = 2;
    ticket->fds[DATA] = s->fds[DATA];
    ticket->fds[ACKS] = s->fds[ACKS];
    return CLEAT_OK;
}

static enum cleat_status sender_group(struct cleat_transport_sender_context *s,
                                      uint64_t deadline_ns)
{
    (void)deadline_ns; /* nobody has to meet anybody in shared memory */
    return s->running ? CLEAT_OK : CLEAT_STATE;
}

static enum cleat_status
sender_publish(struct cleat_transport_sender_context *s, uint32_t slot,
               uint32_t bucket, uint64_t bytes, uint32_t crc)
{
    struct frame frame;

    if (!s->running) { return CLEAT_STATE; }
    if (bucket >= COUNT_FAILED - 1) { return CLEAT_LIMIT; }
    if (bucket != s->published || slot != bucket % s->slots_count ||
        bytes > s->bucket_bytes) {
        return CLEAT_INVALID;
    }
    memset(&frame, 0, sizeof frame);
    frame.magic = FRAME_MAGIC;
    frame.bucket = bucket;
    frame.generation = s->generation;
    frame.bytes = bytes;
    frame.crc = crc;
    frame.crc_header = frame_crc(&frame);
    memcpy(s->data + PAGE_BYTES + slot * s->layout.stride, &frame,
           sizeof frame);
    s->published++;
    atomic_store_explicit(head_of(s->data), word_of(s->tag, s->published),
                          memory_order_release);
    bell_ring(&s->acks[1].u.bell);
    return CLEAT_OK;
}

/* What is not in the list has no meaning here. */
static bool is_status(enum cleat_status status)
{
    return strcmp(cleat_status_name(status), "UNKNOWN") != 0;
}

/* Of the generation that runs, or of the last one. */
static enum cleat_status
read_ack(const struct cleat_transport_sender_context *s, uint32_t receiver,
         uint32_t *buckets_acked, enum cleat_status *status)
{
    uint64_t word;
    uint32_t count;

    *buckets_acked = 0;
    *status = CLEAT_OK;
    if (receiver >= s->receivers_count) { return CLEAT_INVALID; }
    word = atomic_load_explicit(&s->acks[LINES_BEFORE_ACKS + receiver].u.word,
                                memory_order_acquire);
    count = (uint32_t)word;
    if (word >> 32 != s->tag) { return CLEAT_OK; } /* another generation's */
    if (count > COUNT_FAILED) {
        *status = (enum cleat_status)(-(int)(count - COUNT_FAILED));
        if (is_status(*status)) { return CLEAT_OK; }
    }
    if (count > s->published) {
        *status = CLEAT_PEER_DEVIANT;
        return CLEAT_PEER_DEVIANT;
    }
    *buckets_acked = count;
    return CLEAT_OK;
}

static enum cleat_status sender_acked(struct cleat_transport_sender_context *s,
                                      uint32_t receiver,
                                      uint32_t *buckets_acked,
                                      enum cleat_status *status)
{
    *buckets_acked = 0;
    *status = CLEAT_OK;
    if (receiver >= s->receivers_count) { return CLEAT_INVALID; }
    if (!s->running) { return CLEAT_STATE; }
    return read_ack(s, receiver, buckets_acked, status);
}

enum cleat_status
cleat_memory_sender_acked(const struct cleat_transport_sender *sender,
                          uint32_t receiver, uint32_t *buckets_acked,
                          enum cleat_status *status)
{
    return read_ack(sender->context, receiver, buckets_acked, status);
}

/* Sleeps once, and no longer than a sleep may be: whoever waits looks at the
 * words then, where there can be an acknowledgement whose process was stopped
 * before it rang. */
static enum cleat_status sender_wait(struct cleat_transport_sender_context *s,
                                     uint64_t deadline_ns)
{
    _Atomic uint32_t *bell = &s->acks[0].u.bell;
    uint32_t seen = bell_read(bell);
    enum cleat_status status = CLEAT_OK;

    if (seen == s->bell_seen && atomic_load(&s->woken) == 0) {
        status = bell_sleep(bell, seen, deadline_ns);
        seen = bell_read(bell);
    }
    if (atomic_exchange(&s->woken, 0) != 0 || seen != s->bell_seen) {
        status = CLEAT_OK;
    }
    s->bell_seen = seen;
    return status;
}

static void sender_wake(struct cleat_transport_sender_context *s)
{
    atomic_store(&s->woken, 1);
    bell_ring(&s->acks[0].u.bell);
}

static enum cleat_status
sender_config(struct cleat_transport_sender_context *s,
              const struct cleat_memory_sender_config *config,
              struct cleat_error *error)
{
    s->bucket_bytes = config->bucket_bytes != 0
                          ? config->bucket_bytes
                          : CLEAT_MEMORY_BUCKET_BYTES_DEFAULT;
    s->slots_count = config->slots_count != 0 ? config->slots_count
                                              : CLEAT_MEMORY_SLOTS_DEFAULT;
    s->receivers_max = config->receivers_max != 0
                           ? config->receivers_max
                           : CLEAT_MEMORY_RECEIVERS_DEFAULT;
    if (s->slots_count > CLEAT_MEMORY_SLOTS_MAX ||
        s->receivers_max > CLEAT_MEMORY_RECEIVERS_MAX) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "memory transport: at most 8 slots and 1024 "
                               "receivers");
    }
    if (!layout_of(s->bucket_bytes, s->slots_count, s->receivers_max,
                   &s->layout)) {
        return cleat_error_set(error, CLEAT_LIMIT, 2, 0,
                               "memory transport: buckets of more than 1 TiB");
    }
    return CLEAT_OK;
}

enum cleat_status cleat_memory_sender_open(
    void *block, size_t bytes, const struct cleat_memory_sender_config *config,
    struct cleat_transport_sender *out, struct cleat_error *error)
{
    struct cleat_transport_sender_context *s = block;
    enum cleat_status status;

    if (out == NULL || config == NULL || block == NULL ||
        (uintptr_t)block % LINE_BYTES != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "memory transport: a block aligned to 64 bytes, "
                               "a config and a result are needed");
    }
    memset(out, 0, sizeof *out);
    if (bytes < CLEAT_MEMORY_SENDER_BYTES) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1,
                               CLEAT_MEMORY_SENDER_BYTES,
                               "memory transport: the block is too small");
    }
    memset(s, 0, sizeof *s);
    s->fds[DATA] = -1;
    s->fds[ACKS] = -1;
    status = sender_config(s, config, error);
    if (status != CLEAT_OK) { return status; }
    if (data_make(s, config->pages) != 0 || acks_make(s) != 0 ||
        segments_seal(s) != 0) {
        status = refused(error, "memory transport: no shared memory of that "
                                "size (memfd, Linux 5.1 or newer)");
        sender_release(s);
        return status;
    }
    out->context = s;
    out->slots_count = s->slots_count;
    out->receivers_max = s->receivers_max;
    out->slot_bytes_max = s->bucket_bytes;
    out->prepare = sender_prepare;
    out->group = sender_group;
    out->slot = sender_slot;
    out->publish = sender_publish;
    out->acked = sender_acked;
    out->wait = sender_wait;
    out->wake = sender_wake;
    out->finish = sender_finish;
    return CLEAT_OK;
}

enum cleat_memory_pages_got
cleat_memory_sender_pages(const struct cleat_transport_sender *sender)
{
    return sender->context->pages;
}

void cleat_memory_sender_close(struct cleat_transport_sender *sender)
{
    if (sender == NULL || sender->context == NULL) { return; }
    sender_finish(sender->context);
    sender_release(sender->context);
    sender->context = NULL;
}

/* ---- the receiver ---- */

static bool ticket_read(const struct cleat_transport_ticket *ticket,
                        struct ticket *ours)
{
    if (ticket->bytes_count != sizeof *ours) { return false; }
    memcpy(ours, ticket->bytes, sizeof *ours);
    return ours->magic == TICKET_MAGIC && ours->version == TICKET_VERSION &&
           ours->tag != 0 && ours->receivers_count != 0 &&
           ours->receivers_count <= ours->receivers_max;
}

/* Whether a descriptor is shared memory of at least that size which nobody can
 * make smaller. */
static bool segment_holds(int fd, const struct stat *stat, uint64_t bytes)
{
    int seals = fcntl(fd, F_GET_SEALS);

    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && stat->st_size >= 0 &&
           (uint64_t)stat->st_size >= bytes;
}

static enum cleat_status
receiver_map(struct cleat_transport_receiver_context *r, const int fds[2],
             const struct stat stat[2], const struct layout *layout)
{
    uint64_t mapped = (uint64_t)stat[DATA].st_size;
    void *data = mmap(NULL, (size_t)mapped, PROT_READ, MAP_SHARED, fds[DATA],
                      0);

    if (data == MAP_FAILED) { return CLEAT_IO; }
    if (mmap(r->acks, (size_t)layout->acks_bytes, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED, fds[ACKS], 0) == MAP_FAILED) {
        (void)munmap(data, (size_t)mapped);
        return CLEAT_IO;
    }
    /* Only speed is lost where the kernel does not know this. */
    (void)madvise(data, (size_t)mapped, MADV_POPULATE_READ);
    if (r->data != NULL) {
        (void)munmap((void *)(uintptr_t)r->data, (size_t)r->data_mapped);
    }
    r->data = data;
    r->data_mapped = mapped;
    for (int i = DATA; i <= ACKS; i++) {
        r->dev[i] = stat[i].st_dev;
        r->ino[i] = stat[i].st_ino;
    }
    return CLEAT_OK;
}

/* Has the ticket's segments mapped: as they are, or anew. Nothing that the
 * ticket says is believed beyond what the files' sizes bear out. */
static enum cleat_status
receiver_attach(struct cleat_transport_receiver_context *r,
                const struct ticket *ours, const int fds[2])
{
    struct layout layout;
    struct stat stat[2];
    bool same = r->data != NULL;

    if (!layout_of(ours->bucket_bytes, ours->slots_count, ours->receivers_max,
                   &layout)) {
        return CLEAT_MALFORMED;
    }
    if (fstat(fds[DATA], &stat[DATA]) != 0 ||
        fstat(fds[ACKS], &stat[ACKS]) != 0) {
        return CLEAT_IO;
    }
    if (!segment_holds(fds[DATA], &stat[DATA], layout.data_bytes) ||
        !segment_holds(fds[ACKS], &stat[ACKS], layout.acks_bytes)) {
        return CLEAT_MALFORMED;
    }
    if (r->segment_bytes_max != 0 &&
        (uint64_t)stat[DATA].st_size > r->segment_bytes_max) {
        return CLEAT_LIMIT;
    }
    for (int i = DATA; i <= ACKS; i++) {
        /* A file that is mapped lives, so its number is nobody else's. */
        same = same && stat[i].st_dev == r->dev[i] &&
               stat[i].st_ino == r->ino[i];
    }
    if (!same) {
        enum cleat_status status = receiver_map(r, fds, stat, &layout);

        if (status != CLEAT_OK) { return status; }
    }
    r->layout = layout;
    return CLEAT_OK;
}

static void receiver_leave(struct cleat_transport_receiver_context *r)
{
    r->joined = 0;
}

static void take_fds(struct cleat_transport_ticket *ticket, int fds[2])
{
    uint32_t count = ticket->fds_count;

    fds[DATA] = -1;
    fds[ACKS] = -1;
    if (count > CLEAT_TRANSPORT_TICKET_FDS) {
        count = CLEAT_TRANSPORT_TICKET_FDS;
    }
    for (uint32_t i = 0; i < count; i++) { fds[i] = ticket->fds[i]; }
    for (uint32_t i = 0; i < CLEAT_TRANSPORT_TICKET_FDS; i++) {
        ticket->fds[i] = -1;
    }
}

/* Writes the first word, which claims the index: a word of this generation is
 * another receiver's. A receiver that was stopped here and is woken in a later
 * generation does not write over the word of whoever has its place now: the
 * word is still what was read before the generation was looked at. */
static enum cleat_status
receiver_begin(struct cleat_transport_receiver_context *r)
{
    _Atomic uint64_t *word = &r->acks[LINES_BEFORE_ACKS + r->index].u.word;
    uint64_t before = atomic_load(word);

    if (atomic_load(head_of(r->data)) >> 32 != r->tag) {
        return CLEAT_PEER_STALE;
    }
    if (before >> 32 == r->tag) { return CLEAT_INVALID; }
    if (!atomic_compare_exchange_strong(word, &before, word_of(r->tag, 0))) {
        return before >> 32 == r->tag ? CLEAT_INVALID : CLEAT_PEER_STALE;
    }
    r->joined = 1;
    return CLEAT_OK;
}

static enum cleat_status
receiver_join(struct cleat_transport_receiver_context *r,
              struct cleat_transport_ticket *ticket, uint32_t receiver_index,
              uint64_t deadline_ns)
{
    struct ticket ours;
    enum cleat_status status = CLEAT_MALFORMED;
    int fds[2];

    (void)deadline_ns; /* nobody has to meet anybody in shared memory */
    receiver_leave(r);
    take_fds(ticket, fds);
    if (fds[DATA] >= 0 && fds[ACKS] >= 0 && ticket_read(ticket, &ours)) {
        status = receiver_index < ours.receivers_count
                     ? receiver_attach(r, &ours, fds)
                     : CLEAT_INVALID;
    }
    for (int i = DATA; i <= ACKS; i++) {
        if (fds[i] >= 0) { (void)close(fds[i]); }
    }
    if (status != CLEAT_OK) { return status; }
    r->bucket_bytes = ours.bucket_bytes;
    r->generation = ours.generation;
    r->slots_count = ours.slots_count;
    r->receivers_count = ours.receivers_count;
    r->tag = ours.tag;
    r->index = receiver_index;
    r->next = 0;
    return receiver_begin(r);
}

/* The bucket in its slot, if it is the one that is expected. */
static enum cleat_status
receiver_open(const struct cleat_transport_receiver_context *r, uint32_t bucket,
              const void **data, uint64_t *bytes, uint32_t *crc)
{
    const unsigned char *slot = r->data + PAGE_BYTES +
                                bucket % r->slots_count * r->layout.stride;
    struct frame frame;

    memcpy(&frame, slot, sizeof frame);
    if (frame.magic != FRAME_MAGIC || frame.crc_header != frame_crc(&frame) ||
        frame.bucket != bucket || frame.generation != r->generation ||
        frame.bytes > r->bucket_bytes) {
        return CLEAT_CORRUPT;
    }
    *data = slot + HEADER_BYTES;
    *bytes = frame.bytes;
    *crc = frame.crc;
    return CLEAT_OK;
}

/* Lets those go first who are behind, where there are more processes than
 * processors: a slot is free when the last one has read it, so a receiver that
 * runs on through all the slots while another one waits for its processor ends
 * up waiting for both. Costs one system call a bucket where nobody waits. */
static void
let_others_catch_up(const struct cleat_transport_receiver_context *r)
{
    for (uint32_t i = 0; i < r->receivers_count; i++) {
        uint64_t word = atomic_load_explicit(
            &r->acks[LINES_BEFORE_ACKS + i].u.word, memory_order_relaxed);

        if (word >> 32 == r->tag && (uint32_t)word < r->next) {
            (void)sched_yield();
            return;
        }
    }
}

static enum cleat_status
receiver_wait(struct cleat_transport_receiver_context *r, uint32_t bucket,
              uint64_t deadline_ns, const void **data, uint64_t *bytes,
              uint32_t *crc)
{
    _Atomic uint32_t *bell = &r->acks[1].u.bell;
    enum cleat_status status = CLEAT_OK;

    if (!r->joined || bucket != r->next) { return CLEAT_STATE; }
    let_others_catch_up(r);
    for (;;) {
        uint32_t seen = bell_read(bell);
        uint64_t head = atomic_load_explicit(head_of(r->data),
                                             memory_order_acquire);

        if (head >> 32 != r->tag) { return CLEAT_PEER_STALE; }
        if ((uint32_t)head == COUNT_FINISHED) { return CLEAT_GROUP_FAILED; }
        if ((uint32_t)head > bucket) {
            return receiver_open(r, bucket, data, bytes, crc);
        }
        if (atomic_exchange(&r->woken, 0) != 0) { return CLEAT_PENDING; }
        if (status != CLEAT_OK) { return status; }
        status = bell_sleep(bell, seen, deadline_ns);
    }
}

enum cleat_status
cleat_memory_receiver_peek(const struct cleat_transport_receiver *receiver,
                           uint32_t bucket, const void **data, uint64_t *bytes,
                           uint32_t *crc)
{
    const struct cleat_transport_receiver_context *r = receiver->context;
    uint64_t any_bytes;
    uint32_t any_crc;
    uint64_t head;

    if (!r->joined) { return CLEAT_STATE; }
    head = atomic_load_explicit(head_of(r->data), memory_order_acquire);
    if (head >> 32 != r->tag) { return CLEAT_PEER_STALE; }
    if ((uint32_t)head == COUNT_FINISHED) { return CLEAT_GROUP_FAILED; }
    if ((uint32_t)head <= bucket) { return CLEAT_PENDING; }
    return receiver_open(r, bucket, data, bytes != NULL ? bytes : &any_bytes,
                         crc != NULL ? crc : &any_crc);
}

static enum cleat_status
receiver_ack(struct cleat_transport_receiver_context *r, uint32_t bucket,
             enum cleat_status status)
{
    _Atomic uint64_t *word = &r->acks[LINES_BEFORE_ACKS + r->index].u.word;
    uint64_t before = word_of(r->tag, r->next);
    uint32_t count;

    if (!r->joined || bucket != r->next) { return CLEAT_STATE; }
    if (status > CLEAT_OK || status < -255) { return CLEAT_STATE; }
    count = status == CLEAT_OK ? r->next + 1
                               : COUNT_FAILED + (uint32_t)(-status);
    /* A receiver that was stopped and is woken in a later generation does not
     * write over the word of whoever has its place now. */
    if (atomic_load(head_of(r->data)) >> 32 != r->tag ||
        !atomic_compare_exchange_strong(word, &before,
                                        word_of(r->tag, count))) {
        return CLEAT_PEER_STALE;
    }
    r->next++;
    if (status != CLEAT_OK) { receiver_leave(r); }
    bell_ring(&r->acks[0].u.bell);
    return CLEAT_OK;
}

static void receiver_wake(struct cleat_transport_receiver_context *r)
{
    atomic_store(&r->woken, 1);
    bell_ring(&r->acks[1].u.bell);
}

enum cleat_status
cleat_memory_receiver_open(void *block, size_t bytes,
                           const struct cleat_memory_receiver_config *config,
                           struct cleat_transport_receiver *out,
                           struct cleat_error *error)
{
    struct cleat_transport_receiver_context *r = block;
    void *acks;

    if (out == NULL || config == NULL || block == NULL ||
        (uintptr_t)block % LINE_BYTES != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "memory transport: a block aligned to 64 bytes, "
                               "a config and a result are needed");
    }
    memset(out, 0, sizeof *out);
    if (bytes < CLEAT_MEMORY_RECEIVER_BYTES) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1,
                               CLEAT_MEMORY_RECEIVER_BYTES,
                               "memory transport: the block is too small");
    }
    acks = mmap(NULL, ACKS_BYTES_MAX, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (acks == MAP_FAILED) {
        return refused(error, "memory transport: no address space");
    }
    memset(r, 0, sizeof *r);
    r->acks = acks;
    r->segment_bytes_max = config->segment_bytes_max;
    out->context = r;
    out->join = receiver_join;
    out->wait = receiver_wait;
    out->ack = receiver_ack;
    out->wake = receiver_wake;
    out->leave = receiver_leave;
    return CLEAT_OK;
}

void cleat_memory_receiver_close(struct cleat_transport_receiver *receiver)
{
    struct cleat_transport_receiver_context *r;

    if (receiver == NULL || receiver->context == NULL) { return; }
    r = receiver->context;
    if (r->data != NULL) {
        (void)munmap((void *)(uintptr_t)r->data, (size_t)r->data_mapped);
    }
    (void)munmap(r->acks, ACKS_BYTES_MAX);
    memset(r, 0, sizeof *r);
    receiver->context = NULL;
}
