/* Cleat: what `cleat sync` says at its end. SPDX-License-Identifier: Apache-2.0
 */
#include "report.h"

#include <inttypes.h>

#define GIB (1024.0 * 1024.0 * 1024.0)

void report_add_error(struct report *report, enum cleat_sync_step step,
                      uint32_t member, enum cleat_status status,
                      const char *message)
{
    struct report_error *error;

    if (report->errors_count == REPORT_ERRORS_MAX) { return; }
    error = &report->errors[report->errors_count++];
    error->step = step;
    error->member = member;
    error->status = status;
    error->message = message;
}

int report_exit_code(enum cleat_sync_outcome outcome)
{
    switch (outcome) {
    case CLEAT_SYNC_COMMITTED: return 0;
    case CLEAT_SYNC_DEGRADED: return 3;
    case CLEAT_SYNC_ROLLED_BACK: return 4;
    default: return 5;
    }
}

enum cleat_sync_outcome report_worse(enum cleat_sync_outcome a,
                                     enum cleat_sync_outcome b)
{
    return a > b ? a : b;
}

void report_member_name(const struct cleat_sync_config *config, uint32_t member,
                        char *name)
{
    uint32_t replica;
    uint32_t worker;

    if (member == CLEAT_SYNC_NOBODY) {
        (void)snprintf(name, 48, "caller");
        return;
    }
    replica = cleat_sync_replica_of(config, member);
    if (replica == CLEAT_SYNC_NOBODY) {
        (void)snprintf(name, 48, "trainer");
        return;
    }
    worker = (member - config->trainers) % config->workers;
    if (config->workers == 1) {
        (void)snprintf(name, 48, "replica %" PRIu32, replica);
    } else {
        (void)snprintf(name, 48, "replica %" PRIu32 " worker %" PRIu32, replica,
                       worker);
    }
}

static double seconds(uint64_t ns)
{
    return (double)ns / (double)CLEAT_NS_PER_S;
}

static double delivered_gib_per_s(const struct report *report)
{
    return report->elapsed_ns == 0 ? 0.0
                                   : (double)report->bytes_delivered / GIB /
                                         seconds(report->elapsed_ns);
}

/* What an engine did wrong while it served is in no step. */
const char *report_step_name(enum cleat_sync_step step)
{
    return step < CLEAT_SYNC_STEPS ? cleat_sync_step_name(step) : "serve";
}

static const char *message_of(const struct report_error *error)
{
    return error->message != NULL ? error->message
                                  : cleat_status_sentence(error->status);
}

/* ------------------------------------------------------------------- JSON */

/* Everything that is printed here is our own ASCII; quotes and backslashes
 * are escaped all the same. */
static void json_text(FILE *file, const char *text)
{
    fputc('"', file);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') { fputc('\\', file); }
        fputc((unsigned char)*text < 0x20 ? ' ' : *text, file);
    }
    fputc('"', file);
}

static void json_member(FILE *file, const char *key, const char *text)
{
    fprintf(file, "\"%s\": ", key);
    json_text(file, text);
}

static void json_digest(FILE *file, const struct report *report,
                        const struct report_replica *replica)
{
    if (report->skips_digest) {
        fprintf(file, "\"digest\": null");
    } else {
        fprintf(file, "\"digest\": %" PRIu32, replica->digest);
    }
}

static void json_replicas(FILE *file, const struct report *report)
{
    fprintf(file, "  \"replicas\": [");
    for (uint32_t r = 0; r < report->config.replicas; r++) {
        const struct report_replica *replica = &report->replicas[r];

        fprintf(file,
                "%s\n    {\"id\": %" PRIu32 ", \"pid\": %" PRId32
                ", \"state\": \"%s\", \"version\": %" PRIu64
                ", \"served\": %" PRIu64 ", \"torn_served\": %" PRIu64 ", ",
                r == 0 ? "" : ",", r, replica->pid,
                cleat_sync_replica_state_name(replica->state), replica->version,
                replica->served, replica->torn_served);
        json_digest(file, report, replica);
        fputc('}', file);
    }
    fprintf(file, "\n  ],\n");
}

static void json_errors(FILE *file, const struct report *report)
{
    fprintf(file, "  \"errors\": [");
    for (uint32_t i = 0; i < report->errors_count; i++) {
        const struct report_error *error = &report->errors[i];
        char who[48];

        report_member_name(&report->config, error->member, who);
        fprintf(file, "%s\n    {", i == 0 ? "" : ",");
        json_member(file, "step", report_step_name(error->step));
        fprintf(file, ", ");
        json_member(file, "who", who);
        fprintf(file, ", ");
        json_member(file, "status", cleat_status_name(error->status));
        fprintf(file, ", ");
        json_member(file, "class",
                    cleat_class_name(cleat_status_class(error->status)));
        fprintf(file, ", ");
        json_member(file, "message", message_of(error));
        fprintf(file, "}");
    }
    fprintf(file, "%s],\n", report->errors_count == 0 ? "" : "\n  ");
}

static void json_undos(FILE *file, const struct report *report)
{
    fprintf(file, "  \"undo\": [");
    for (uint32_t i = 0; i < report->undos_count; i++) {
        const struct report_undo *undo = &report->undos[i];
        char who[48];

        report_member_name(&report->config, undo->member, who);
        fprintf(file, "%s\n    {", i == 0 ? "" : ",");
        json_member(file, "step", report_step_name(undo->step));
        fprintf(file, ", ");
        json_member(file, "who", who);
        fprintf(file, ", ");
        json_member(file, "status", cleat_status_name(undo->status));
        fprintf(file, "}");
    }
    fprintf(file, "%s],\n", report->undos_count == 0 ? "" : "\n  ");
}

void report_json(FILE *file, const struct report *report)
{
    fprintf(file, "{\n");
    fprintf(file, "  \"outcome\": \"%s\",\n",
            cleat_sync_outcome_name(report->outcome));
    fprintf(file, "  \"version\": %" PRIu64 ",\n", report->version);
    fprintf(file, "  \"bytes\": %" PRIu64 ",\n", report->bytes);
    fprintf(file, "  \"seconds\": %.6f,\n", seconds(report->elapsed_ns));
    fprintf(file, "  \"delivered_gib_per_s\": %.3f,\n",
            delivered_gib_per_s(report));
    fprintf(file, "  \"attempts\": %" PRIu64 ",\n", report->attempts);
    fprintf(file, "  \"epoch\": %" PRIu64 ",\n", report->epoch);
    fprintf(file, "  ");
    json_member(file, "transport",
                report->transport == NULL ? "shm" : report->transport);
    fprintf(file, ",\n  ");
    json_member(file, "digest", report->skips_digest ? "skipped" : "host");
    fprintf(file, ",\n");
    json_replicas(file, report);
    json_errors(file, report);
    json_undos(file, report);
    fprintf(file, "  \"bound_s\": %.6f\n}\n", seconds(report->bound_ns));
}

/* ------------------------------------------------------------------- text */

static uint32_t count_state(const struct report *report,
                            enum cleat_sync_replica_state state)
{
    uint32_t count = 0;

    for (uint32_t r = 0; r < report->config.replicas; r++) {
        count += report->replicas[r].state == state ? 1u : 0u;
    }
    return count;
}

static void text_digest(FILE *file, const struct report_replica *replica)
{
    if (replica->version == 0 || replica->digest == 0) {
        fprintf(file, "  %10s", "-"); /* not told */
    } else {
        fprintf(file, "  0x%08" PRIx32, replica->digest);
    }
}

static void text_replicas(FILE *file, const struct report *report)
{
    fprintf(file, "%8s  %-11s  %7s  %9s  %5s  %10s  %7s\n", "replica", "state",
            "version", "served", "torn", "digest", "pid");
    for (uint32_t r = 0; r < report->config.replicas; r++) {
        const struct report_replica *replica = &report->replicas[r];

        fprintf(file,
                "%8" PRIu32 "  %-11s  %7" PRIu64 "  %9" PRIu64 "  %5" PRIu64, r,
                cleat_sync_replica_state_name(replica->state), replica->version,
                replica->served, replica->torn_served);
        text_digest(file, replica);
        fprintf(file, "  %7" PRId32 "\n", replica->pid);
    }
}

static void text_errors(FILE *file, const struct report *report)
{
    for (uint32_t i = 0; i < report->errors_count; i++) {
        const struct report_error *error = &report->errors[i];
        char who[48];

        report_member_name(&report->config, error->member, who);
        fprintf(file, "error: %s of %s: %s: %s\n",
                report_step_name(error->step), who,
                cleat_status_name(error->status), message_of(error));
    }
}

static void text_undos(FILE *file, const struct report *report)
{
    for (uint32_t i = 0; i < report->undos_count; i++) {
        const struct report_undo *undo = &report->undos[i];
        char who[48];

        if (undo->status == CLEAT_OK) { continue; }
        report_member_name(&report->config, undo->member, who);
        fprintf(file, "undo: %s of %s: %s\n", report_step_name(undo->step), who,
                cleat_status_name(undo->status));
    }
}

/* What has become of the last round's version, whatever the worst round was. */
static void text_headline(FILE *file, const struct report *report)
{
    fprintf(file, "%s: ", cleat_sync_outcome_name(report->outcome));
    if (report->version == 0) {
        fprintf(file, "no update was begun, ");
    } else {
        fprintf(file, "version %" PRIu64 "%s, ", report->version,
                report->taken ? "" : " was not taken");
    }
    if (report->outcome == CLEAT_SYNC_RESTART) {
        fprintf(file, "no replica serves");
    } else {
        fprintf(file, "%" PRIu32 " of %" PRIu32 " replicas serve %s",
                count_state(report, CLEAT_SYNC_SERVING),
                report->config.replicas, report->taken ? "it" : "the old one");
    }
}

void report_text(FILE *file, const struct report *report)
{
    text_headline(file, report);
    fprintf(file,
            ", %.3f s of at most %.1f s, %" PRIu64 " attempt%s, epoch %" PRIu64
            "\n",
            seconds(report->elapsed_ns), seconds(report->bound_ns),
            report->attempts, report->attempts == 1 ? "" : "s", report->epoch);
    fprintf(file, "%.3f GiB a version, delivered %.2f GiB/s by %s%s\n",
            (double)report->bytes / GIB, delivered_gib_per_s(report),
            report->transport == NULL ? "shm" : report->transport,
            report->skips_digest ? ", digests skipped" : "");
    text_replicas(file, report);
    text_errors(file, report);
    text_undos(file, report);
}
