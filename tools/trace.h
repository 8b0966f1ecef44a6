/* Cleat: a trace for Chrome's about:tracing and for Perfetto.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Events are kept in memory while the job runs and written at its end, in the
 * Trace Event Format (JSON, "traceEvents"). One lane a process: the
 * coordinator's shows the steps, a worker's the commands that it was given,
 * each until its answer, and every answer as an instant.
 */
#ifndef CLEAT_TOOLS_TRACE_H
#define CLEAT_TOOLS_TRACE_H

#include <stdio.h>

#include "cleat/service.h"

struct trace_event {
    uint64_t now_ns;
    uint64_t epoch;
    uint64_t version; /* held, as the answer says */
    uint32_t member;
    uint32_t attempt;
    int16_t status;
    uint8_t kind; /* enum cleat_event_kind */
    uint8_t step;
    uint8_t holding;
};

struct trace {
    struct trace_event *events; /* the caller's */
    uint32_t events_max;
    uint32_t count;
    uint32_t left_out; /* that there was no room for */
};

#define TRACE_EVENTS_MAX 65536u

void trace_add(struct trace *trace, const struct cleat_event *event);

/* Writes all of it.
 *   pids   of the members; the coordinator's own is asked for
 * Returns false when the file took less than that. */
bool trace_write(const struct trace *trace, FILE *file,
                 const struct cleat_sync_config *config, const int32_t *pids);

#endif
