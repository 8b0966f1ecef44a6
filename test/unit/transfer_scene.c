/* Cleat: a scene for the transfer service. SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "transfer_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleat/linux.h"
#include "cleat/memory_store.h"

#define STORE_BYTES ((size_t)16 << 20)
#define JOBS_MAX 64u
#define PIECES_MAX 64u
#define WATCHDOG_S 100u

struct job {
    cleat_job_fn *fn;
    void *job;
    uint64_t index;
    bool taken;
};

struct box {
    struct cleat_message messages[80];
    uint32_t count;
};

struct piece {
    void *start;
    size_t bytes;
};

static struct scene {
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t changed;
    pthread_mutex_t service_lock;
    uint64_t now_ns;
    struct box boxes[SCENE_BATCHES];
    struct job jobs[JOBS_MAX];
    uint32_t jobs_max;
    uint32_t outstanding;
    uint32_t blocked;
    uint32_t releases;

    uint64_t at_ns;
    void (*act)(void *of);
    void *act_of;
    pthread_t act_by; /* who asked for it, and waits then */

    struct scene_item log[SCENE_LOG_MAX];
    uint32_t items;
    uint32_t calls;
    uint32_t in_store;
    uint32_t most;
    bool blocking;
    uint32_t block_operation;
    const char *block_key; /* NULL: any */
    bool block_after;

    struct piece pieces[PIECES_MAX];
    uint32_t pieces_count;
    uint32_t lends;
    uint32_t lend_fails;

    enum cleat_status unready;
    uint32_t unready_left;
    bool ready_blocks;
    uint32_t readies;

    struct cleat_threads pool;
    struct cleat_store memory;
    struct cleat_store faulty;
    struct cleat_transfer_service *service;
    void *service_block;
} scene;

static struct scene *const s = &scene;

static _Alignas(
    64) unsigned char pool_block[CLEAT_LINUX_THREADS_BYTES(SCENE_THREADS, 64)];
static _Alignas(64) unsigned char store_block[STORE_BYTES];
static _Alignas(64) unsigned char end_block[CLEAT_MEMORY_STORE_END_BYTES];
static _Alignas(64) unsigned char faults_block[1 << 18];

static void take(void)
{
    (void)pthread_mutex_lock(&s->lock);
}

static void give(void)
{
    (void)pthread_cond_broadcast(&s->changed);
    (void)pthread_mutex_unlock(&s->lock);
}

/* ---- time, threads, mailboxes -------------------------------------------- */

uint64_t scene_now_ns(void)
{
    uint64_t now_ns;

    take();
    now_ns = s->now_ns;
    give();
    return now_ns;
}

static uint64_t clock_now(struct cleat_clock_context *context)
{
    (void)context;
    return scene_now_ns();
}

static void service_lock(struct cleat_threads_context *context)
{
    (void)context;
    assert_int_equal(pthread_mutex_lock(&s->service_lock), 0);
}

static void service_unlock(struct cleat_threads_context *context)
{
    (void)context;
    assert_int_equal(pthread_mutex_unlock(&s->service_lock), 0);
}

static void pool_job(void *job, uint64_t index)
{
    struct job *of = job;
    struct job copy;

    (void)index;
    take();
    copy = *of;
    of->taken = false;
    give();
    copy.fn(copy.job, copy.index);
    take();
    s->outstanding--;
    give();
}

static enum cleat_status submit(struct cleat_threads_context *context,
                                cleat_job_fn *fn, void *job, uint64_t index)
{
    struct job *free_job = NULL;

    (void)context;
    take();
    for (uint32_t i = 0; i < JOBS_MAX && s->outstanding < s->jobs_max; i++) {
        if (!s->jobs[i].taken) { free_job = &s->jobs[i]; }
    }
    if (free_job != NULL) {
        *free_job = (struct job){fn, job, index, true};
        s->outstanding++;
        assert_int_equal(s->pool.submit(s->pool.context, pool_job, free_job, 0),
                         CLEAT_OK);
    }
    give();
    return free_job != NULL ? CLEAT_OK : CLEAT_NO_SLOT;
}

static enum cleat_status post(struct cleat_mailbox_context *context,
                              const struct cleat_message *message)
{
    struct box *box = (void *)context;

    take();
    assert_true(box->count < 2 * 4 + 2);
    box->messages[box->count++] = *message;
    give();
    return CLEAT_OK;
}

/* Nothing more happens by itself. */
static bool is_still(void)
{
    return s->outstanding == s->blocked || s->blocked == SCENE_THREADS;
}

/* Only who asked for it: another who waits may come here before the one who
 * asked has begun what it is to happen to. */
static bool has_act(void)
{
    return s->act != NULL && pthread_equal(s->act_by, pthread_self()) != 0;
}

/* With the lock: lets time pass, up to a deadline; by way of what is to be done
 * before. */
static void pass(uint64_t deadline_ns)
{
    void (*act)(void *of) = s->act;

    if (has_act() && s->at_ns <= deadline_ns) {
        if (s->now_ns < s->at_ns) { s->now_ns = s->at_ns; }
        s->act = NULL;
        give();
        act(s->act_of);
        take();
        return;
    }
    assert_true(deadline_ns != CLEAT_NEVER); /* somebody waits for ever */
    s->now_ns = deadline_ns;
}

static enum cleat_status box_wait(struct cleat_mailbox_context *context,
                                  uint64_t deadline_ns,
                                  struct cleat_message *message)
{
    struct box *box = (void *)context;
    bool has;

    take();
    while (box->count == 0 && s->now_ns < deadline_ns) {
        if (is_still() && (deadline_ns != CLEAT_NEVER || has_act())) {
            pass(deadline_ns);
        } else {
            (void)pthread_cond_wait(&s->changed, &s->lock);
        }
    }
    has = box->count > 0;
    if (has) {
        *message = box->messages[0];
        box->count--;
        memmove(box->messages, box->messages + 1,
                box->count * sizeof box->messages[0]);
    }
    give();
    return has ? CLEAT_OK : CLEAT_DEADLINE;
}

void scene_at(uint64_t at_ns, void (*act)(void *of), void *of)
{
    take();
    s->at_ns = at_ns;
    s->act = act;
    s->act_of = of;
    s->act_by = pthread_self();
    give();
}

/* ---- the store ----------------------------------------------------------- */

static void note(const struct cleat_store_call *call)
{
    for (uint32_t i = 0; i < call->count; i++) {
        const struct cleat_store_item *item = &call->items[i];
        struct scene_item *at = &s->log[s->items++];

        assert_true(s->items < SCENE_LOG_MAX);
        assert_int_equal(item->status, CLEAT_PENDING);
        assert_int_equal(strlen(item->key), item->key_bytes);
        *at = (struct scene_item){.call = s->calls,
                                  .operation = call->operation,
                                  .payload = item->payload,
                                  .bytes = item->bytes};
        (void)strncpy(at->key, item->key, sizeof at->key - 1);
    }
    s->calls++;
}

/* With the lock. */
static void stand_still(void)
{
    uint32_t releases = s->releases;

    s->blocked++;
    (void)pthread_cond_broadcast(&s->changed);
    while (s->releases == releases) {
        (void)pthread_cond_wait(&s->changed, &s->lock);
    }
    s->blocked--;
}

static bool blocks(const struct cleat_store_call *call)
{
    if (!s->blocking || call->operation != s->block_operation) { return false; }
    if (s->block_key == NULL) { return true; }
    for (uint32_t i = 0; i < call->count; i++) {
        if (strcmp(call->items[i].key, s->block_key) == 0) { return true; }
    }
    return false;
}

static enum cleat_status spy_call(struct cleat_store_context *context,
                                  struct cleat_store_call *call)
{
    enum cleat_status status;
    bool stands;

    (void)context;
    take();
    note(call);
    if (++s->in_store > s->most) { s->most = s->in_store; }
    stands = blocks(call);
    if (stands && !s->block_after) { stand_still(); }
    give();
    status = s->faulty.call(s->faulty.context, call);
    take();
    if (stands && s->block_after) { stand_still(); }
    s->in_store--;
    give();
    return status;
}

static enum cleat_status spy_ready(struct cleat_store_context *context,
                                   uint64_t deadline_ns,
                                   struct cleat_error *error)
{
    enum cleat_status status = CLEAT_OK;

    (void)context;
    take();
    s->readies++;
    if (s->ready_blocks) { stand_still(); }
    if (s->unready_left > 0) {
        s->unready_left--;
        status = s->unready;
    }
    give();
    if (status != CLEAT_OK) {
        (void)cleat_error_set(error, status, 0, 0, "no segment is there");
        if (error != NULL) { error->port_code = -200; }
        return status;
    }
    return s->faulty.ready(s->faulty.context, deadline_ns, error);
}

static enum cleat_status spy_lend(struct cleat_store_context *context,
                                  void *start, size_t bytes, bool on,
                                  struct cleat_error *error)
{
    enum cleat_status status = CLEAT_OK;
    uint32_t i = 0;

    (void)context;
    take();
    if (on && ++s->lends == s->lend_fails) {
        status = CLEAT_UNSUPPORTED;
        (void)cleat_error_set(error, status, 0, 0, "not this memory");
    } else if (on) {
        s->pieces[s->pieces_count++] = (struct piece){start, bytes};
    } else {
        while (i < s->pieces_count &&
               (s->pieces[i].start != start || s->pieces[i].bytes != bytes)) {
            i++;
        }
        assert_true(i < s->pieces_count);
        s->pieces[i] = s->pieces[--s->pieces_count];
    }
    give();
    return status;
}

void scene_block(uint32_t operation, const char *key, bool after)
{
    take();
    s->blocking = true;
    s->block_operation = operation;
    s->block_key = key;
    s->block_after = after;
    give();
}

void scene_await_blocked(uint32_t count)
{
    take();
    while (s->blocked < count) {
        (void)pthread_cond_wait(&s->changed, &s->lock);
    }
    give();
}

void scene_release(void)
{
    take();
    s->releases++;
    s->blocking = false;
    s->ready_blocks = false;
    give();
}

void scene_unready(enum cleat_status status, uint32_t failures)
{
    take();
    s->unready = status;
    s->unready_left = failures;
    give();
}

void scene_block_ready(void)
{
    take();
    s->ready_blocks = true;
    give();
}

void scene_refuse_lend(uint32_t fails)
{
    take();
    s->lend_fails = s->lends + fails;
    give();
}

/* ---- what there is to see ------------------------------------------------ */

#define SEEN(name, member) \
    uint32_t name(void)    \
    {                      \
        uint32_t value;    \
                           \
        take();            \
        value = s->member; \
        give();            \
        return value;      \
    }
SEEN(scene_calls, calls)
SEEN(scene_items, items)
SEEN(scene_most_calls, most)
SEEN(scene_lends, lends)
SEEN(scene_readies, readies)

const struct scene_item *scene_item(uint32_t index)
{
    assert_true(index < scene_items());
    return &s->log[index];
}

uint32_t scene_count(uint32_t operation, const char *key)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < scene_items(); i++) {
        count += s->log[i].operation == operation &&
                 (key == NULL || strcmp(s->log[i].key, key) == 0);
    }
    return count;
}

void scene_forget(void)
{
    take();
    s->items = 0;
    s->calls = 0;
    s->most = 0;
    give();
}

uint32_t scene_lent(uint64_t *bytes)
{
    uint32_t count;

    take();
    count = s->pieces_count;
    *bytes = 0;
    for (uint32_t i = 0; i < count; i++) { *bytes += s->pieces[i].bytes; }
    give();
    return count;
}

static enum cleat_status plain(uint32_t operation, const char *key, void *bytes,
                               uint64_t count)
{
    struct cleat_store_item item = {.key = key,
                                    .key_bytes = (uint32_t)strlen(key),
                                    .payload = bytes,
                                    .bytes = count,
                                    .status = CLEAT_PENDING};
    struct cleat_store_call call = {
        .operation = operation, .count = 1, .items = &item};

    (void)s->memory.call(s->memory.context, &call);
    return (enum cleat_status)item.status;
}

enum cleat_status scene_put_plain(const char *key, const void *bytes,
                                  uint64_t count)
{
    return plain(CLEAT_TRANSFER_DO_PUT, key, (void *)(uintptr_t)bytes, count);
}

enum cleat_status scene_get_plain(const char *key, void *bytes, uint64_t count)
{
    return plain(CLEAT_TRANSFER_DO_GET, key, bytes, count);
}

struct cleat_transfer_service *scene_service(void)
{
    return s->service;
}

/* ---- beginning and end --------------------------------------------------- */

static void open_store(const struct scene_config *config,
                       struct cleat_store *out)
{
    struct cleat_store_faults_config faults = {config->rules,
                                               config->rules_count, 4096, 5};

    assert_int_equal(cleat_memory_store_init(store_block, sizeof store_block,
                                             NULL, end_block, sizeof end_block,
                                             &s->memory, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_store_faults_init(faults_block, sizeof faults_block,
                                             &faults, &s->memory, &s->faulty,
                                             NULL),
                     CLEAT_OK);
    *out = (struct cleat_store){.value_bytes_max = s->memory.value_bytes_max,
                                .calls_max = config->store_calls_max,
                                .call = spy_call,
                                .lend = config->lends ? spy_lend : NULL,
                                .ready = spy_ready};
}

static void open_threads(void)
{
    struct cleat_linux_threads_config config = {SCENE_THREADS, JOBS_MAX};
    pthread_mutexattr_t attributes;

    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->changed, NULL);
    (void)pthread_mutexattr_init(&attributes);
    (void)pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    (void)pthread_mutex_init(&s->service_lock, &attributes);
    (void)pthread_mutexattr_destroy(&attributes);
    assert_int_equal(cleat_linux_threads_init(pool_block, sizeof pool_block,
                                              &config, &s->pool, NULL),
                     CLEAT_OK);
}

void scene_open(const struct scene_config *config)
{
    struct cleat_transfer_service_config full = config->service;
    struct cleat_service_ports ports = {
        .clock = {NULL, clock_now},
        .threads = {NULL, service_lock, service_unlock, submit}};
    struct cleat_mailbox boxes[SCENE_BATCHES];
    struct cleat_store store;
    size_t bytes;

    (void)alarm(WATCHDOG_S);
    memset(s, 0, sizeof *s);
    s->now_ns = SCENE_START_NS;
    s->jobs_max = config->jobs_max != 0 ? config->jobs_max : JOBS_MAX;
    open_threads();
    open_store(config, &store);
    if (full.batches_max == 0) { full.batches_max = SCENE_BATCHES; }
    if (full.keys_max == 0) { full.keys_max = 2048; }
    for (uint32_t i = 0; i < SCENE_BATCHES; i++) {
        boxes[i] = (struct cleat_mailbox){(void *)&s->boxes[i], post, box_wait};
    }
    bytes = cleat_transfer_service_bytes(&full);
    assert_true(bytes > 0);
    s->service_block = aligned_alloc(64, bytes);
    assert_non_null(s->service_block);
    memset(s->service_block, 0xEE, bytes);
    assert_int_equal(cleat_transfer_service_init(s->service_block, bytes, &full,
                                                 &ports, boxes, &store, 3,
                                                 &s->service, NULL),
                     CLEAT_OK);
    if (config->unready) { return; }
    assert_int_equal(cleat_transfer_service_ready(
                         s->service, SCENE_START_NS + CLEAT_NS_PER_S, NULL),
                     CLEAT_OK);
    scene_forget();
    s->readies = 0;
}

void scene_close(void)
{
    uint64_t bytes;
    uint32_t calls;
    uint32_t stuck;

    scene_release();
    assert_int_equal(cleat_transfer_drain(s->service, CLEAT_NEVER, NULL),
                     CLEAT_OK);
    cleat_transfer_service_count(s->service, &calls, &stuck);
    assert_int_equal(calls, 0);
    assert_int_equal(stuck, 0);
    assert_int_equal(scene_lent(&bytes), 0);
    cleat_linux_threads_close(&s->pool);
    assert_int_equal(s->outstanding, 0);
    free(s->service_block);
    cleat_memory_store_detach(&s->memory);
    (void)pthread_mutex_destroy(&s->service_lock);
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_mutex_destroy(&s->lock);
    (void)alarm(0);
}
