/* Cleat: one run of `cleat store`. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TOOLS_STORE_JOB_H
#define CLEAT_TOOLS_STORE_JOB_H

#include <stdatomic.h>

#include "cleat/local_store.h"
#include "store_files.h"
#include "store_open.h"
#include "store_rows.h"
#include "watch.h"

/* Of one batch. */
#define STORE_BATCH_KEYS 8192u

#define STORE_FAULTS_TEXT_MAX CLEAT_STORE_FAULTS_RULES_MAX

/* What nobody can stop, a store being made, ends with the process. */
enum store_step { STORE_OPENING, STORE_OPEN, STORE_LEAVING };

struct store_job {
    /* What is asked for. */
    const char *command; /* "cleat store put": what a line starts with */
    uint32_t kind;       /* enum cleat_transfer_kind */
    const char *text;    /* of the store */
    const char *keys_from;
    const char *from;
    const char *to;
    const char *prefix;
    uint32_t mode;
    uint32_t verify;
    uint32_t json;
    uint64_t deadline_after_ns;
    struct store_spec spec;
    struct store_faults faults;

    /* What it is done to. */
    struct store_rows rows;

    /* What it is done with. */
    struct store_opened opened;
    struct cleat_local_store *local;
    struct cleat_transfer_service *service;
    void *block;
    size_t block_bytes;
    struct cleat_clock clock;
    struct watch watch;
    _Atomic uint32_t step;       /* enum store_step */
    struct store_folder *folder; /* that is being written to; NULL: none */
    bool held;                   /* the store may still touch memory of ours */
    void *kept; /* from malloc: it was lent, and is to be freed at the end */

    /* How it goes. */
    uint64_t began_ns; /* when the store was ready */
    uint64_t ended_ns;
    uint64_t deadline_ns;
    _Atomic uint32_t done;               /* rows that have ended */
    uint32_t base;                       /* of them: in earlier batches */
    struct cleat_transfer_totals totals; /* of all batches; what counts keys
                                            is not used */
    uint64_t struck;                     /* by faults */
    char error[CLEAT_ERROR_TEXT_MAX];    /* of a batch that was refused */

    /* The batch that is being made: rows, and what is sent of them. */
    uint32_t batch_count;
    uint32_t batch_rows[STORE_BATCH_KEYS];
    struct cleat_transfer_value batch[STORE_BATCH_KEYS];
};

/* Opens the store and waits until it is ready, by the job's deadline.
 * Returns 0; 2 and 9, and 128 + N for a signal, after one line on stderr; then
 * nothing is held. */
int store_job_open(struct store_job *job);

/* Closes it. Returns `result`, or 128 + N where a signal has come. Where the
 * store does not give back what it was lent, what it holds is left alone. */
int store_job_close(struct store_job *job, int result);

/* ---- batches ------------------------------------------------------------ */

/* Begins an empty one. */
void store_batch_begin(struct store_job *job);

/* Adds a row, of `bytes` at `payload` (put: read only). What it is of a tensor
 * is taken from the row. */
void store_batch_add(struct store_job *job, uint32_t row, void *payload,
                     uint64_t bytes);

/* How a get is to be done. */
enum store_sizes {
    STORE_EXACT, /* of the sizes that are told */
    STORE_SIZED  /* whose sizes are at most those */
};

/* Sends it, and tells each row what has become of it. Once the time is up, or a
 * signal has come, nothing is sent. */
void store_batch_send(struct store_job *job, enum store_sizes sizes);

/* CLEAT_OK: there is time, and nobody wants us to stop; CLEAT_DEADLINE,
 * CLEAT_CANCELLED. */
enum cleat_status store_may_go(const struct store_job *job);

/* The same, for what takes long. */
struct store_going store_going(const struct store_job *job);

/* A row has failed before it was sent, or after: by its file (errno), or so. */
void store_row_fail(struct store_row *row, enum cleat_status status,
                    int32_t code);
void store_row_fail_file(struct store_row *row, int code);

/* The file was written to while it was put. */
void store_row_fail_changed(struct store_job *job, struct store_row *row);

/* ---- what is done ------------------------------------------------------- */

/* Each does it to all rows. */
void store_ask(struct store_job *job);          /* exists, remove */
void store_put_folder(struct store_job *job);   /* from job->from */
void store_get_folder(struct store_job *job,    /* to the folder; */
                      struct store_folder *to); /* NULL: to nowhere */

/* ---- the report --------------------------------------------------------- */

/* On standard output; and a line on stderr that names failed keys.
 *   result  0, or what the command ends with all the same: 128 + N
 * Returns it, or 8 where it is 0 and some keys failed. */
int store_report(struct store_job *job, int result);

#endif
