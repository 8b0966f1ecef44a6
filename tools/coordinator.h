/* Cleat: the coordinator of `cleat sync`. SPDX-License-Identifier: Apache-2.0
 *
 * Starts the trainer and the engines, brings them up, takes version after
 * version to all of them, and ends them: an example of the two services
 * (cleat/service.h) over port/linux.
 */
#ifndef CLEAT_TOOLS_COORDINATOR_H
#define CLEAT_TOOLS_COORDINATOR_H

#include "carrier.h"
#include "cleat/sync.h"
#include "fault.h"
#include "job.h"

/* What the command line asks for; checked. */
struct sync_setup {
    struct job job;
    struct carrier carrier; /* its options; the rest is the coordinator's */
    uint64_t replicas;
    uint64_t workers;
    uint64_t replicas_min;
    uint64_t slots;
    uint64_t attempts_max;
    uint64_t start_timeout_ns;
    uint64_t orphan_timeout_ns;
    uint64_t rounds;
    uint64_t seed;
    uint64_t arena_bytes; /* 0: as many as are needed */
    uint32_t report;      /* 0: text, 1: JSON */
    bool verbose;
    const char *trace;  /* a file, or NULL */
    const char *dump;   /* a folder, or NULL */
    const char *listen; /* a socket that engines attach to; NULL: start them */
    struct fault faults[FAULTS_MAX];
    uint32_t faults_count;
    const char *drawn[FAULTS_MAX]; /* the text of a fault of `any`; else NULL */
};

/* Runs the job and prints its report. Returns the exit status: 0, 3, 4 or 5,
 * as the report's outcome says; 2, or 9 where a store is not there, after one
 * line on stderr when nothing was started. */
int coordinator_run(struct sync_setup *setup);

#endif
