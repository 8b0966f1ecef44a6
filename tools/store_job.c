/* Cleat: one run of `cleat store`. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "store_job.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* How long the store may take to give back what it was lent. */
#define CLOSE_NS (2 * CLEAT_NS_PER_S)

/* How often to try again to have a place in a store. */
#define CROWDED_NS 50000000

static uint64_t now_of(const struct store_job *job)
{
    return job->clock.now_ns(job->clock.context);
}

/* ---- open --------------------------------------------------------------- */

/* Ends the process, where the store is still being opened. On the thread that
 * waits for signals; the other one is in that call, and does not come back. */
static void leave(struct store_job *job, int result)
{
    uint32_t step = STORE_OPENING;

    if (!atomic_compare_exchange_strong(&job->step, &step, STORE_LEAVING)) {
        return;
    }
    if (result == STORE_EXIT_NOT_READY) {
        store_say(job->command,
                  "--store %s: not ready: it was still being opened when the "
                  "time was up (DEADLINE)",
                  job->text);
    }
    if (job->folder != NULL) { store_folder_close(job->folder); }
    _exit(result);
}

/* Whatever comes now can be stopped. */
static void be_open(struct store_job *job)
{
    uint32_t step = STORE_OPENING;

    if (!atomic_compare_exchange_strong(&job->step, &step, STORE_OPEN)) {
        for (;;) { (void)pause(); } /* the process is ending */
    }
}

/* Called by the thread that waits for signals, again and again. */
static void stop(void *context)
{
    struct store_job *job = context;

    leave(job, STORE_EXIT_SIGNAL + atomic_load(&job->watch.signal));
    if (job->service != NULL) { cleat_transfer_stop(job->service); }
}

static void tick(void *context)
{
    struct store_job *job = context;

    if (now_of(job) >= job->deadline_ns) { leave(job, STORE_EXIT_NOT_READY); }
}

static struct cleat_local_store_config config_of(const struct store_job *job)
{
    struct cleat_local_store_config config;

    memset(&config, 0, sizeof config);
    config.service.keys_max = STORE_BATCH_KEYS;
    config.service.key_bytes_max = STORE_BATCH_KEYS * (CLEAT_STORE_KEY_MAX + 1);
    config.service.batches_max = 4;
    config.seed = job->faults.seed;
    return config;
}

static int open_service(struct store_job *job, char *line)
{
    struct cleat_local_store_config config = config_of(job);
    struct cleat_error error = {0};

    job->block_bytes = cleat_local_store_bytes(&config);
    job->block = mmap(NULL, job->block_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (job->block == MAP_FAILED) {
        snprintf(line, STORE_OPEN_LINE_BYTES, "%zu bytes of memory: %s",
                 job->block_bytes, strerror(errno));
        return STORE_EXIT_NOT_READY;
    }
    if (cleat_local_store_open(job->block, job->block_bytes, &config,
                               &job->opened.store, &job->local,
                               &error) == CLEAT_OK) {
        job->service = cleat_local_store_service(job->local);
        return 0;
    }
    (void)munmap(job->block, job->block_bytes);
    snprintf(line, STORE_OPEN_LINE_BYTES, "%s", error.text);
    return STORE_EXIT_NOT_READY;
}

static int open_watch(struct store_job *job)
{
    job->watch.stop = stop;
    job->watch.tick = tick;
    job->watch.context = job;
    job->watch.done = &job->done;
    job->watch.total = job->rows.count;
    job->watch.unit = "keys";
    if (watch_begin(&job->watch)) { return 0; }
    store_say(job->command, "no thread: %s", strerror(errno));
    return STORE_EXIT_NOT_READY;
}

static int wait_ready(struct store_job *job)
{
    struct cleat_error error = {0};
    enum cleat_status status;

    atomic_store(&job->watch.what, "waiting for the store");
    status = cleat_transfer_service_ready(job->service, job->deadline_ns,
                                          &error);
    job->began_ns = now_of(job);
    if (status == CLEAT_OK) { return 0; }
    if (status != CLEAT_CANCELLED) {
        store_say(job->command, "--store %s: not ready: %s (%s)", job->text,
                  error.text[0] != '\0' ? error.text
                                        : cleat_status_sentence(status),
                  cleat_status_name(status));
    }
    return STORE_EXIT_NOT_READY;
}

/* Opens it; waits for a place in it where all are taken. */
static int open_store(struct store_job *job, char *line)
{
    const struct timespec pause_for = {0, CROWDED_NS};
    int result;

    do {
        result = store_open(&job->opened, &job->spec, &job->faults, line);
        if (result == 0 || !job->opened.crowded) { break; }
        (void)nanosleep(&pause_for, NULL);
    } while (store_may_go(job) == CLEAT_OK);
    return result;
}

int store_job_open(struct store_job *job)
{
    char line[STORE_OPEN_LINE_BYTES];
    int result;

    job->clock = cleat_linux_clock();
    job->began_ns = now_of(job);
    job->deadline_ns = cleat_time_add(job->began_ns, job->deadline_after_ns);
    watch_block_signals();
    result = open_watch(job);
    if (result != 0) { return result; }
    result = open_store(job, line);
    if (result == 0) { result = open_service(job, line); }
    be_open(job);
    if (result != 0) {
        store_say(job->command, "--store %s: %s", job->text, line);
        watch_end(&job->watch);
        store_close(&job->opened);
        return result;
    }
    result = wait_ready(job);
    return result == 0 ? 0 : store_job_close(job, result);
}

int store_job_close(struct store_job *job, int result)
{
    int signal;
    struct cleat_error error;

    watch_end(&job->watch);
    signal = atomic_load(&job->watch.signal);
    if (job->faults.count > 0) {
        job->struck = cleat_store_faults_struck(&job->opened.store, UINT32_MAX);
    }
    store_wake(&job->opened);
    if (cleat_local_store_close(job->local,
                                cleat_time_add(now_of(job), CLOSE_NS),
                                &error) == CLEAT_OK) {
        (void)munmap(job->block, job->block_bytes);
        store_close(&job->opened);
    } else {
        job->held = true; /* its calls end with the process */
    }
    return signal != 0 ? STORE_EXIT_SIGNAL + signal : result;
}

/* ---- batches ------------------------------------------------------------ */

void store_batch_begin(struct store_job *job)
{
    job->batch_count = 0;
}

void store_batch_add(struct store_job *job, uint32_t row, void *payload,
                     uint64_t bytes)
{
    static unsigned char nothing; /* where a value of no bytes lies */
    const struct store_row *from = &job->rows.each[row];
    struct cleat_transfer_value *value = &job->batch[job->batch_count];

    memset(value, 0, sizeof *value);
    value->key = from->key;
    value->payload = payload != NULL ? payload : &nothing;
    value->bytes = bytes;
    value->dtype = from->dtype;
    value->rank = from->rank;
    memcpy(value->shape, from->shape, sizeof value->shape);
    value->status = CLEAT_PENDING;
    job->batch_rows[job->batch_count++] = row;
}

void store_row_fail(struct store_row *row, enum cleat_status status,
                    int32_t code)
{
    row->state = STORE_FAILED;
    row->status = status;
    row->code = code;
}

void store_row_fail_file(struct store_row *row, int code)
{
    store_row_fail(row, CLEAT_IO, code);
    row->file = true;
}

void store_row_fail_changed(struct store_job *job, struct store_row *row)
{
    store_row_fail_file(row, EBUSY);
    row->state = STORE_UNKNOWN;
    (void)snprintf(job->error, sizeof job->error,
                   "a file was written to while it was put");
}

static void tell_row(struct store_row *row,
                     const struct cleat_transfer_value *value,
                     enum cleat_status refused)
{
    enum cleat_status status = value->status == CLEAT_PENDING
                                   ? refused
                                   : (enum cleat_status)value->status;

    row->attempts = value->attempts;
    row->actual = value->actual;
    row->lent = value->lent != 0;
    if (status != CLEAT_OK) {
        store_row_fail(row, status, value->code);
        if (value->unknown != 0) { row->state = STORE_UNKNOWN; }
        return;
    }
    row->state = STORE_OK;
    row->status = CLEAT_OK;
    row->code = value->code;
}

static void progress(void *context, uint32_t ended, uint32_t count,
                     const struct cleat_transfer_totals *totals)
{
    struct store_job *job = context;

    (void)count;
    (void)totals;
    atomic_store(&job->done, job->base + ended);
}

static enum cleat_status send(struct store_job *job,
                              const struct cleat_transfer_options *options,
                              struct cleat_transfer_summary *summary,
                              struct cleat_error *error)
{
    switch (job->kind) {
    case CLEAT_TRANSFER_PUT:
        return cleat_transfer_put(job->service, job->batch, job->batch_count,
                                  options, summary, error);
    case CLEAT_TRANSFER_GET:
        return cleat_transfer_get(job->service, job->batch, job->batch_count,
                                  options, summary, error);
    case CLEAT_TRANSFER_REMOVE:
        return cleat_transfer_remove(job->service, job->batch, job->batch_count,
                                     options, summary, error);
    default:
        return cleat_transfer_exists(job->service, job->batch, job->batch_count,
                                     options, summary, error);
    }
}

static void add_totals(struct cleat_transfer_totals *sum,
                       const struct cleat_transfer_totals *more)
{
    sum->bytes_sent += more->bytes_sent;
    sum->bytes_again += more->bytes_again;
    sum->calls += more->calls;
    sum->rounds += more->rounds;
}

enum cleat_status store_may_go(const struct store_job *job)
{
    if (atomic_load(&job->watch.stopping)) { return CLEAT_CANCELLED; }
    return now_of(job) < job->deadline_ns ? CLEAT_OK : CLEAT_DEADLINE;
}

static bool goes_on(const void *job)
{
    return store_may_go(job) == CLEAT_OK;
}

struct store_going store_going(const struct store_job *job)
{
    struct store_going going = {goes_on, job};

    return going;
}

void store_batch_send(struct store_job *job, enum store_sizes sizes)
{
    struct cleat_transfer_options options = {.progress_context = job,
                                             .deadline_ns = job->deadline_ns,
                                             .mode = job->mode,
                                             .verify = job->verify,
                                             .sized = sizes == STORE_SIZED ? 1
                                                                           : 0};
    struct cleat_transfer_summary summary;
    struct cleat_error error = {0};
    enum cleat_status status = store_may_go(job);

    if (job->batch_count == 0) { return; }
    memset(&summary, 0, sizeof summary);
    options.progress = progress;
    if (status == CLEAT_OK) {
        status = send(job, &options, &summary, &error);
        if (status != CLEAT_OK && summary.sent == 0) {
            memcpy(job->error, error.text, sizeof job->error);
        }
    }
    add_totals(&job->totals, &summary.totals);
    for (uint32_t i = 0; i < job->batch_count; i++) {
        tell_row(&job->rows.each[job->batch_rows[i]], &job->batch[i], status);
    }
}
