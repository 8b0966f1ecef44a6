/* Cleat: strikes the faults that `--fault` asked for, in the process that they
 * are meant for. SPDX-License-Identifier: Apache-2.0
 *
 * An engine or a trainer gives cleat_worker_* an interceptor and a transfer a
 * hook; both do nothing but call these.
 */
#ifndef CLEAT_TOOLS_STRIKE_H
#define CLEAT_TOOLS_STRIKE_H

#include <stdatomic.h>

#include "cleat/linux_worker.h"
#include "cleat/stream.h"
#include "fault.h"
#include "options.h"

struct strike {
    struct fault fault;
    atomic_bool armed;  /* its bucket has come; true where it has none */
    atomic_bool struck; /* never again, but for FAULT_PERMANENT */
};

struct strikes {
    struct strike all[FAULTS_MAX];
    uint32_t count;
    void *spare; /* spare_bytes, for a bucket that is corrupted on its way */
    uint64_t spare_bytes;
};

/* Reads the faults of this process; takes spare memory where one needs it.
 *   bucket_bytes   the largest bucket
 *   on_host        a bucket's bytes are the host's to change
 * Returns 0, or 2 after one line on stderr. */
int strikes_open(struct strikes *strikes, const char *command,
                 const struct option_texts *texts, uint64_t bucket_bytes,
                 bool on_host);
void strikes_close(struct strikes *strikes);

/* Before which bucket a sender holds until all before it are acknowledged, so
 * that send@K strikes at a known moment. 0: none. */
uint32_t strikes_hold_bucket(const struct strikes *strikes);

/* For cleat_worker_host.intercept. */
void strikes_command(struct strikes *strikes, enum cleat_worker_moment moment,
                     const struct cleat_worker_command *command,
                     struct cleat_worker_fault *fault);

/* For a transfer's hook, on either side. */
enum cleat_status strikes_bucket(struct strikes *strikes,
                                 enum cleat_stream_moment moment,
                                 uint32_t bucket, void **data, uint64_t bytes);

#endif
