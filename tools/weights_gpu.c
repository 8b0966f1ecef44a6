/* Cleat: weights of `cleat sync` that lie on a GPU.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#define CLEAT_DIGEST_DETECT
#include "weights_gpu.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cleat/cuda.h"
#include "cleat/nccl.h"

#define COPIES_MAX 2u

/* Who receives, who serves, and one to spare. */
#define LANES 3u
#define WINDOW_BYTES (UINT32_C(4) << 20)

#define PATIENCE_NS (10 * CLEAT_NS_PER_S)

/* How often is asked without a pause, and the pause after that. */
#define ASKS_AT_ONCE 16u
#define NAP_NS 10000

/* A copy, as the sink knows it. */
struct side {
    struct weights_gpu *weights;
    uint64_t address;
};

struct weights_gpu {
    struct weights_gpu_config config;
    struct cleat_cuda *cuda;
    enum cleat_digest_kind digest;
    struct side sides[COPIES_MAX];
    pthread_mutex_t lock; /* around a call, never while something is waited
                             for */
    atomic_bool taken[LANES];
    _Alignas(64) unsigned char block[CLEAT_CUDA_BYTES];
};

/* ---- waiting ------------------------------------------------------------ */

static uint64_t now_ns(void)
{
    struct timespec now = {0, 0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Between two questions; `asked` counts them. */
static void pause_for(uint32_t *asked)
{
    const struct timespec nap = {0, NAP_NS};

    if (++*asked > ASKS_AT_ONCE) { (void)nanosleep(&nap, NULL); }
}

static enum cleat_status lose(struct weights_gpu *weights)
{
    cleat_cuda_lose(weights->cuda);
    if (weights->config.sender != NULL) {
        cleat_nccl_sender_lose(weights->config.sender);
    } else {
        cleat_nccl_receiver_lose(weights->config.receiver);
    }
    return CLEAT_DEVICE_LOST;
}

static bool transport_is_lost(const struct weights_gpu *weights)
{
    struct cleat_nccl_account account;

    if (weights->config.sender != NULL) {
        cleat_nccl_sender_account(weights->config.sender, &account);
    } else {
        cleat_nccl_receiver_account(weights->config.receiver, &account);
    }
    return strcmp(account.state, "lost") == 0;
}

/* What is lost to one is lost to the other: both use one context. */
bool weights_gpu_lost(struct weights_gpu *weights)
{
    if (weights == NULL) { return false; }
    if (cleat_cuda_lost(weights->cuda, NULL)) { return true; }
    if (!transport_is_lost(weights)) { return false; }
    cleat_cuda_lose(weights->cuda);
    return true;
}

static bool find_lane(struct weights_gpu *weights, uint32_t *lane)
{
    for (*lane = 0; *lane < LANES; ++*lane) {
        if (!atomic_exchange(&weights->taken[*lane], true)) { return true; }
    }
    return false;
}

static enum cleat_status take_lane(struct weights_gpu *weights, uint32_t *lane)
{
    uint64_t deadline_ns = now_ns() + weights->config.patience_ns;
    uint32_t asked = 0;

    while (!find_lane(weights, lane)) {
        if (weights_gpu_lost(weights)) { return CLEAT_DEVICE_LOST; }
        if (now_ns() >= deadline_ns) { return CLEAT_DEADLINE; }
        pause_for(&asked);
    }
    return CLEAT_OK;
}

static void give_lane(struct weights_gpu *weights, uint32_t lane)
{
    atomic_store(&weights->taken[lane], false);
}

/* False: somebody's call does not come back. */
static bool lock(struct weights_gpu *weights)
{
    uint64_t deadline_ns = now_ns() + weights->config.patience_ns;
    uint32_t asked = 0;

    while (pthread_mutex_trylock(&weights->lock) != 0) {
        if (weights_gpu_lost(weights) || now_ns() >= deadline_ns) {
            return false;
        }
        pause_for(&asked);
    }
    return true;
}

static void unlock(struct weights_gpu *weights)
{
    (void)pthread_mutex_unlock(&weights->lock);
}

/* Begins to copy, from or to anywhere that the device knows. */
static enum cleat_status begin(struct weights_gpu *weights, uint32_t lane,
                               uint64_t to, uint64_t from, uint64_t bytes)
{
    struct cleat_cuda *cuda = weights->cuda;
    enum cleat_status status;

    if (weights_gpu_lost(weights)) { return CLEAT_DEVICE_LOST; }
    if (!lock(weights)) { return lose(weights); }
    status = cleat_cuda_use(cuda);
    if (status == CLEAT_OK) {
        status = cleat_cuda_copy(cuda, lane, to, from, bytes);
    }
    /* A copy that is under way, and cannot be waited for, is nobody's. */
    if (status == CLEAT_OK && cleat_cuda_record(cuda, lane, lane) != CLEAT_OK) {
        status = CLEAT_DEVICE_LOST;
    }
    unlock(weights);
    return status == CLEAT_DEVICE_LOST ? lose(weights) : status;
}

static enum cleat_status ask(struct weights_gpu *weights, uint32_t lane)
{
    enum cleat_status status = CLEAT_DEVICE_LOST;

    if (lock(weights)) {
        status = cleat_cuda_passed(weights->cuda, lane);
        unlock(weights);
    }
    return status;
}

/* Until what was begun last on the lane has ended. A piece that has not ended
 * in time may still be written to or read from: the device is lost. It is asked
 * once more after the deadline, which may have come while this process was
 * stopped. */
static enum cleat_status await(struct weights_gpu *weights, uint32_t lane)
{
    uint64_t deadline_ns = now_ns() + weights->config.patience_ns;
    enum cleat_status status = ask(weights, lane);
    uint32_t asked = 0;

    while (status == CLEAT_PENDING && now_ns() < deadline_ns) {
        if (weights_gpu_lost(weights)) { return CLEAT_DEVICE_LOST; }
        pause_for(&asked);
        status = ask(weights, lane);
    }
    if (status == CLEAT_PENDING) { status = ask(weights, lane); }
    return status == CLEAT_OK ? CLEAT_OK : lose(weights);
}

static enum cleat_status move(struct weights_gpu *weights, uint32_t lane,
                              uint64_t to, uint64_t from, uint64_t bytes)
{
    enum cleat_status status = begin(weights, lane, to, from, bytes);

    return status == CLEAT_OK ? await(weights, lane) : status;
}

/* ---- on a lane ---------------------------------------------------------- */

static uint64_t address_of(const void *place)
{
    return (uint64_t)(uintptr_t)place;
}

static size_t piece_of(size_t bytes)
{
    return bytes < WINDOW_BYTES ? bytes : WINDOW_BYTES;
}

/* Through the window, to `to` where it is not NULL. */
static enum cleat_status read_lane(struct weights_gpu *weights, uint32_t lane,
                                   uint64_t from, size_t bytes, void *to,
                                   uint32_t *crc)
{
    void *window = cleat_cuda_staging(weights->cuda, lane);

    for (size_t at = 0; at < bytes; at += WINDOW_BYTES) {
        size_t piece = piece_of(bytes - at);
        enum cleat_status status = move(weights, lane, address_of(window),
                                        from + at, piece);

        if (status != CLEAT_OK) { return status; }
        *crc = to == NULL
                   ? cleat_crc32c_with(weights->digest, *crc, window, piece)
                   : cleat_crc32c_copy_with(weights->digest, *crc,
                                            (unsigned char *)to + at, window,
                                            piece);
    }
    return CLEAT_OK;
}

/* From anywhere on the host, through the window: the driver would wait for what
 * is not pinned. */
static enum cleat_status write_lane(struct weights_gpu *weights, uint32_t lane,
                                    uint64_t to, size_t bytes, const void *from,
                                    uint32_t *crc)
{
    void *window = cleat_cuda_staging(weights->cuda, lane);

    for (size_t at = 0; at < bytes; at += WINDOW_BYTES) {
        size_t piece = piece_of(bytes - at);
        enum cleat_status status;

        *crc = cleat_crc32c_copy_with(weights->digest, *crc, window,
                                      (const unsigned char *)from + at, piece);
        status = move(weights, lane, to + at, address_of(window), piece);
        if (status != CLEAT_OK) { return status; }
    }
    return CLEAT_OK;
}

/* From a slot's side on the device; meanwhile the digest of its other side. */
static enum cleat_status copy_lane(struct weights_gpu *weights, uint32_t lane,
                                   uint64_t to, size_t bytes, uint64_t slot,
                                   const void *from, uint32_t *crc)
{
    enum cleat_status status = begin(weights, lane, to, slot, bytes);

    if (status != CLEAT_OK) { return status; }
    if (!weights->config.on_device) {
        *crc = cleat_crc32c_with(weights->digest, *crc, from, bytes);
    }
    return await(weights, lane);
}

/* ---- the sink, and the source ------------------------------------------- */

static struct side *self(struct cleat_tensors_context *context)
{
    return (void *)context;
}

static uint32_t count(struct cleat_tensors_context *context)
{
    return self(context)->weights->config.job->tensors;
}

static enum cleat_status describe(struct cleat_tensors_context *context,
                                  uint32_t index, struct cleat_tensor *out)
{
    const struct cleat_tensor_source *table =
        &self(context)->weights->config.job->source;

    return table->describe(table->context, index, out);
}

/* Where a range of a tensor begins; false when it is not all there. */
static bool find(struct cleat_tensors_context *context, uint32_t index,
                 uint64_t offset, size_t bytes, uint64_t *address)
{
    const struct side *side = self(context);
    struct cleat_tensor tensor;

    if (describe(context, index, &tensor) != CLEAT_OK) { return false; }
    if (offset > tensor.bytes || bytes > tensor.bytes - offset) {
        return false;
    }
    *address = side->address + side->weights->config.job->starts[index] +
               offset;
    return true;
}

static enum cleat_status read_range(struct cleat_tensors_context *context,
                                    uint32_t index, uint64_t offset,
                                    size_t bytes, void *to, uint32_t *crc)
{
    struct weights_gpu *weights = self(context)->weights;
    uint32_t sum = crc != NULL ? *crc : 0;
    enum cleat_status status;
    uint64_t from;
    uint32_t lane;

    if (!find(context, index, offset, bytes, &from)) { return CLEAT_INVALID; }
    if (bytes == 0) { return CLEAT_OK; }
    status = take_lane(weights, &lane);
    if (status != CLEAT_OK) { return status; }
    status = read_lane(weights, lane, from, bytes, to, &sum);
    give_lane(weights, lane);
    if (status == CLEAT_OK && crc != NULL) { *crc = sum; }
    return status;
}

/* Where on the device the bytes of a slot are; 0: `from` is in none. */
static uint64_t slot_of(const struct weights_gpu *weights, const void *from)
{
    const struct cleat_transport_receiver *receiver = weights->config.receiver;

    return receiver == NULL ? 0 : cleat_nccl_receiver_device(receiver, from);
}

static enum cleat_status write_range(struct cleat_tensors_context *context,
                                     uint32_t index, uint64_t offset,
                                     size_t bytes, const void *from,
                                     uint32_t *crc)
{
    struct weights_gpu *weights = self(context)->weights;
    uint64_t slot = slot_of(weights, from);
    uint32_t sum = crc != NULL ? *crc : 0;
    enum cleat_status status;
    uint64_t to;
    uint32_t lane;

    if (!find(context, index, offset, bytes, &to)) { return CLEAT_INVALID; }
    if (weights->config.on_device && (crc != NULL || slot == 0)) {
        return CLEAT_INVALID;
    }
    if (bytes == 0) { return CLEAT_OK; }
    status = take_lane(weights, &lane);
    if (status != CLEAT_OK) { return status; }
    status = slot != 0 ? copy_lane(weights, lane, to, bytes, slot, from, &sum)
                       : write_lane(weights, lane, to, bytes, from, &sum);
    give_lane(weights, lane);
    if (status == CLEAT_OK && crc != NULL) { *crc = sum; }
    return status;
}

/* From one place of the device to another. */
static enum cleat_status read_to_device(struct cleat_tensors_context *context,
                                        uint32_t index, uint64_t offset,
                                        size_t bytes, void *to, uint32_t *crc)
{
    struct weights_gpu *weights = self(context)->weights;
    enum cleat_status status;
    uint64_t from;
    uint32_t lane;

    if (crc != NULL || !find(context, index, offset, bytes, &from)) {
        return CLEAT_INVALID;
    }
    if (bytes == 0) { return CLEAT_OK; }
    status = take_lane(weights, &lane);
    if (status != CLEAT_OK) { return status; }
    status = move(weights, lane, address_of(to), from, bytes);
    give_lane(weights, lane);
    return status;
}

uint64_t weights_gpu_address(const struct weights_gpu *weights, uint32_t copy)
{
    return weights->sides[copy].address;
}

struct cleat_tensor_sink weights_gpu_sink(struct weights_gpu *weights,
                                          uint32_t copy)
{
    struct cleat_tensor_sink sink = {(void *)&weights->sides[copy], count,
                                     describe, read_range, write_range};

    return sink;
}

struct cleat_tensor_source weights_gpu_source(struct weights_gpu *weights)
{
    struct cleat_tensor_source source = {(void *)&weights->sides[0], count,
                                         describe, read_to_device};

    return source;
}

/* ---- all of it ---------------------------------------------------------- */

static enum cleat_status clear_lane(struct weights_gpu *weights, uint32_t lane,
                                    uint64_t to)
{
    uint64_t bytes = weights->config.job->flat_bytes;
    void *window = cleat_cuda_staging(weights->cuda, lane);
    enum cleat_status status = CLEAT_OK;

    memset(window, 0, WINDOW_BYTES);
    for (uint64_t at = 0; status == CLEAT_OK && at < bytes;
         at += WINDOW_BYTES) {
        status = move(weights, lane, to + at, address_of(window),
                      piece_of((size_t)(bytes - at)));
    }
    return status;
}

enum cleat_status weights_gpu_clear(struct weights_gpu *weights, uint32_t copy)
{
    uint32_t lane;
    enum cleat_status status = take_lane(weights, &lane);

    if (status != CLEAT_OK) { return status; }
    status = clear_lane(weights, lane, weights->sides[copy].address);
    give_lane(weights, lane);
    return status;
}

static enum cleat_status load_tensor(struct weights_gpu *weights, uint32_t lane,
                                     const struct cleat_tensor_source *from,
                                     uint32_t index, uint64_t bytes)
{
    void *window = cleat_cuda_staging(weights->cuda, lane);
    uint64_t to = weights->sides[0].address +
                  weights->config.job->starts[index];

    for (uint64_t at = 0; at < bytes; at += WINDOW_BYTES) {
        size_t piece = piece_of((size_t)(bytes - at));
        enum cleat_status status = from->read(from->context, index, at, piece,
                                              window, NULL);

        if (status == CLEAT_OK) {
            status = move(weights, lane, to + at, address_of(window), piece);
        }
        if (status != CLEAT_OK) { return status; }
    }
    return CLEAT_OK;
}

enum cleat_status weights_gpu_load(struct weights_gpu *weights,
                                   const struct cleat_tensor_source *from)
{
    uint32_t tensors = weights->config.job->tensors;
    uint32_t lane;
    enum cleat_status status = take_lane(weights, &lane);

    if (status != CLEAT_OK) { return status; }
    for (uint32_t i = 0; status == CLEAT_OK && i < tensors; i++) {
        struct cleat_tensor tensor;

        status = from->describe(from->context, i, &tensor);
        if (status == CLEAT_OK) {
            status = load_tensor(weights, lane, from, i, tensor.bytes);
        }
    }
    give_lane(weights, lane);
    return status;
}

enum cleat_status weights_gpu_digest(struct weights_gpu *weights, uint32_t copy,
                                     uint64_t flat, size_t bytes,
                                     uint32_t *digest)
{
    uint32_t sum = 0;
    uint32_t lane;
    enum cleat_status status = take_lane(weights, &lane);

    if (status != CLEAT_OK) { return status; }
    status = read_lane(weights, lane, weights->sides[copy].address + flat,
                       bytes, NULL, &sum);
    give_lane(weights, lane);
    if (status == CLEAT_OK) { *digest = sum; }
    return status;
}

/* ---- open and close ----------------------------------------------------- */

static enum cleat_status open_device(struct weights_gpu *weights,
                                     struct cleat_error *error)
{
    const struct weights_gpu_config *config = &weights->config;
    struct cleat_cuda_config cuda = {
        .device = config->device,
        .streams_count = LANES,
        .events_count = LANES,
        .slots_count = config->copies,
        .slot_bytes = config->job->flat_bytes,
        .staging_count = LANES,
        .staging_bytes = WINDOW_BYTES,
    };
    enum cleat_status status = cleat_cuda_open(
        weights->block, sizeof weights->block, &cuda, &weights->cuda, error);

    for (uint32_t i = 0; status == CLEAT_OK && i < config->copies; i++) {
        weights->sides[i].weights = weights;
        weights->sides[i].address = cleat_cuda_slot(weights->cuda, i);
    }
    return status;
}

int weights_gpu_open(const struct weights_gpu_config *config,
                     const char *command, struct weights_gpu **out)
{
    size_t bytes = (sizeof **out + 63) / 64 * 64;
    struct weights_gpu *weights = aligned_alloc(64, bytes);
    struct cleat_error error;

    *out = NULL;
    if (weights == NULL) { return options_fail(command, "no memory"); }
    memset(weights, 0, bytes);
    weights->config = *config;
    if (config->patience_ns == 0) { weights->config.patience_ns = PATIENCE_NS; }
    weights->digest = cleat_digest_detect();
    if (pthread_mutex_init(&weights->lock, NULL) != 0) {
        free(weights);
        return options_fail(command, "no lock for the weights");
    }
    if (open_device(weights, &error) != CLEAT_OK) {
        (void)pthread_mutex_destroy(&weights->lock);
        free(weights);
        return options_fail(command, "--transport nccl: the weights: %s",
                            error.text);
    }
    *out = weights;
    return 0;
}

bool weights_gpu_close(struct weights_gpu *weights)
{
    if (weights == NULL) { return true; }
    if (cleat_cuda_close(weights->cuda) != CLEAT_OK) { return false; }
    (void)pthread_mutex_destroy(&weights->lock);
    free(weights);
    return true;
}
