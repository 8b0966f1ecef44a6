/* Cleat: a trace for Chrome's about:tracing and for Perfetto.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "trace.h"

#include <inttypes.h>
#include <unistd.h>

#include "report.h"

void trace_add(struct trace *trace, const struct cleat_event *event)
{
    struct trace_event *at;

    if (trace->count == trace->events_max) {
        trace->left_out++;
        return;
    }
    at = &trace->events[trace->count++];
    at->now_ns = event->now_ns;
    at->epoch = event->epoch;
    at->member = event->member;
    at->attempt = event->attempt;
    at->status = (int16_t)event->status;
    at->kind = (uint8_t)event->kind;
    at->step = (uint8_t)event->step;
    at->holding = 0;
    at->version = 0;
    if (event->answer != NULL) {
        at->holding = (uint8_t)event->answer->sync.holding;
        at->version = event->answer->sync.version;
    }
}

/* Where the lines go, and what they need. */
struct writer {
    const struct trace *trace;
    FILE *file;
    const struct cleat_sync_config *config;
    const int32_t *pids;
    int32_t own_pid;
    bool begun;
};

static int32_t lane(const struct writer *writer, uint32_t member)
{
    if (member == CLEAT_SYNC_NOBODY) { return writer->own_pid; }
    /* One that never came up has no process number: below every real one. */
    return writer->pids[member] != 0 ? writer->pids[member]
                                     : -(int32_t)member - 1;
}

static double us(const struct writer *writer, uint64_t now_ns)
{
    return (double)(now_ns - writer->trace->events[0].now_ns) / 1000.0;
}

/* The beginning of an event, up to its name's first quote. */
static void begin(struct writer *writer)
{
    fprintf(writer->file, "%s\n  {\"name\": \"", writer->begun ? "," : "");
    writer->begun = true;
}

static void write_name(struct writer *writer, uint32_t member)
{
    char name[48] = "coordinator";
    int32_t pid = lane(writer, member);

    if (member != CLEAT_SYNC_NOBODY) {
        report_member_name(writer->config, member, name);
    }
    begin(writer);
    fprintf(writer->file,
            "process_name\", \"ph\": \"M\", \"pid\": %" PRId32
            ", \"tid\": %" PRId32 ", \"args\": {\"name\": \"%s\"}}",
            pid, pid, name);
    begin(writer);
    fprintf(writer->file,
            "process_sort_index\", \"ph\": \"M\", \"pid\": %" PRId32
            ", \"tid\": %" PRId32 ", \"args\": {\"sort_index\": %" PRIu32 "}}",
            pid, pid, member == CLEAT_SYNC_NOBODY ? 0 : member + 1);
}

/* A loss and a hello belong to no step. */
static const char *step_of(const struct trace_event *event)
{
    if (event->kind == CLEAT_EVENT_LOST || event->kind == CLEAT_EVENT_HELLO) {
        return "process";
    }
    return cleat_sync_step_name((enum cleat_sync_step)event->step);
}

static const char *status_of(const struct trace_event *event)
{
    return cleat_status_name((enum cleat_status)event->status);
}

/* A span from one event to the time of another. */
static void write_span(struct writer *writer, const struct trace_event *from,
                       uint64_t until_ns, const char *result)
{
    int32_t pid = lane(writer, from->member);

    begin(writer);
    fprintf(writer->file,
            "%s\", \"ph\": \"X\", \"cat\": \"%s\", \"pid\": %" PRId32
            ", \"tid\": %" PRId32 ", \"ts\": %.3f, \"dur\": %.3f, \"args\": "
            "{\"attempt\": %" PRIu32 ", \"epoch\": %" PRIu64,
            step_of(from), from->kind == CLEAT_EVENT_STEP ? "step" : "command",
            pid, pid, us(writer, from->now_ns),
            (double)(until_ns - from->now_ns) / 1000.0, from->attempt,
            from->epoch);
    if (result != NULL) {
        fprintf(writer->file, ", \"result\": \"%s\"", result);
    }
    fprintf(writer->file, "}}");
}

static void write_instant(struct writer *writer, const struct trace_event *at,
                          const char *what)
{
    static const char *const holdings[] = {"unknown", "whole", "torn"};
    int32_t pid = lane(writer, at->member);

    begin(writer);
    fprintf(writer->file,
            "%s %s\", \"ph\": \"i\", \"s\": \"p\", \"cat\": \"result\", "
            "\"pid\": %" PRId32 ", \"tid\": %" PRId32
            ", \"ts\": %.3f, \"args\": {\"status\": \"%s\", \"epoch\": %" PRIu64
            ", \"holding\": \"%s\", \"version\": %" PRIu64 "}}",
            step_of(at), what, pid, pid, us(writer, at->now_ns), status_of(at),
            at->epoch, at->holding < 3 ? holdings[at->holding] : "?",
            at->version);
}

/* Until the next step begins, or the last event. */
static void write_step(struct writer *writer, uint32_t index)
{
    const struct trace *trace = writer->trace;
    uint32_t end = index + 1;

    if (trace->events[index].step == CLEAT_SYNC_STEPS) { return; }
    while (end < trace->count && trace->events[end].kind != CLEAT_EVENT_STEP) {
        end++;
    }
    end = end < trace->count ? end : trace->count - 1;
    write_span(writer, &trace->events[index], trace->events[end].now_ns, NULL);
}

static bool same_command(const struct trace_event *a,
                         const struct trace_event *b)
{
    return a->member == b->member && a->step == b->step && a->epoch == b->epoch;
}

/* Sent before, and not answered yet: this is the same command once more. */
static bool sent_again(const struct trace *trace, uint32_t index)
{
    const struct trace_event *event = &trace->events[index];

    for (uint32_t i = index; i-- > 0;) {
        const struct trace_event *before = &trace->events[i];

        if (before->kind == CLEAT_EVENT_STEP) { return false; }
        if (!same_command(before, event)) { continue; }
        if (before->kind == CLEAT_EVENT_ANSWER) { return false; }
        if (before->kind == CLEAT_EVENT_COMMAND) { return true; }
    }
    return false;
}

/* Until its answer; until the step ends when there is none. */
static void write_command(struct writer *writer, uint32_t index)
{
    const struct trace *trace = writer->trace;
    const struct trace_event *event = &trace->events[index];
    uint32_t end = index + 1;

    if (sent_again(trace, index)) {
        write_instant(writer, event, "sent again");
        return;
    }
    while (end < trace->count && trace->events[end].kind != CLEAT_EVENT_STEP &&
           !(trace->events[end].kind == CLEAT_EVENT_ANSWER &&
             same_command(&trace->events[end], event))) {
        end++;
    }
    if (end < trace->count && trace->events[end].kind == CLEAT_EVENT_ANSWER) {
        write_span(writer, event, trace->events[end].now_ns,
                   status_of(&trace->events[end]));
        return;
    }
    end = end < trace->count ? end : trace->count - 1;
    write_span(writer, event, trace->events[end].now_ns, "none in time");
}

/* A wait of the bring-up, until it has ended. */
static void write_wait(struct writer *writer, uint32_t index)
{
    const struct trace *trace = writer->trace;
    const struct trace_event *event = &trace->events[index];

    for (uint32_t i = index + 1; i < trace->count; i++) {
        const struct trace_event *after = &trace->events[i];

        if (after->kind == CLEAT_EVENT_WAITED &&
            after->member == event->member) {
            write_span(writer, event, after->now_ns, status_of(after));
            return;
        }
    }
}

static void write_event(struct writer *writer, uint32_t index)
{
    const struct trace_event *event = &writer->trace->events[index];

    switch (event->kind) {
    case CLEAT_EVENT_STEP: write_step(writer, index); break;
    case CLEAT_EVENT_COMMAND: write_command(writer, index); break;
    case CLEAT_EVENT_WAIT: write_wait(writer, index); break;
    case CLEAT_EVENT_ANSWER: write_instant(writer, event, "answered"); break;
    case CLEAT_EVENT_LOST: write_instant(writer, event, "lost"); break;
    case CLEAT_EVENT_HELLO: write_instant(writer, event, "attached"); break;
    default: break;
    }
}

bool trace_write(const struct trace *trace, FILE *file,
                 const struct cleat_sync_config *config, const int32_t *pids)
{
    uint32_t members = config->trainers + config->replicas * config->workers;
    struct writer writer = {trace, file, config, pids, (int32_t)getpid(),
                            false};

    fprintf(file,
            "{\"displayTimeUnit\": \"ms\", \"otherData\": "
            "{\"events_left_out\": %" PRIu32 "}, \"traceEvents\": [",
            trace->left_out);
    write_name(&writer, CLEAT_SYNC_NOBODY);
    for (uint32_t i = 0; i < members; i++) { write_name(&writer, i); }
    for (uint32_t i = 0; i < trace->count; i++) { write_event(&writer, i); }
    fprintf(file, "\n]}\n");
    return fflush(file) == 0 && ferror(file) == 0;
}
