/* Cleat: what `cleat store` says at its end. SPDX-License-Identifier:
 * Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "print.h"
#include "store_job.h"

/* Failed keys that the error line names. */
#define NAMES_MAX 5u
#define NAME_LETTERS_MAX 80u

struct sums {
    uint32_t ok;
    uint32_t failed; /* the unknown included */
    uint32_t unknown;
    uint32_t lent;
    uint64_t bytes; /* of the ok */
    uint32_t there; /* exists: of the ok */
};

static struct sums sum_up(const struct store_job *job)
{
    struct sums sums = {0};

    for (uint32_t i = 0; i < job->rows.count; i++) {
        const struct store_row *row = &job->rows.each[i];

        sums.ok += row->state == STORE_OK ? 1u : 0u;
        sums.failed += row->state != STORE_OK ? 1u : 0u;
        sums.unknown += row->state == STORE_UNKNOWN ? 1u : 0u;
        sums.lent += row->lent ? 1u : 0u;
        if (row->state != STORE_OK) { continue; }
        if (job->kind == CLEAT_TRANSFER_EXISTS) {
            sums.there += row->actual != 0 ? 1u : 0u;
        } else {
            sums.bytes += row->actual;
        }
    }
    return sums;
}

static struct cleat_text text_of(const char *text)
{
    struct cleat_text result = {text, strlen(text)};

    return result;
}

static double seconds_of(const struct store_job *job)
{
    return (double)(job->ended_ns - job->began_ns) / (double)CLEAT_NS_PER_S;
}

static const char *verb_of(const struct store_job *job)
{
    static const char *const verbs[] = {"", "put", "get", "remove", "exists"};

    return verbs[job->kind];
}

static const char *state_of(const struct store_row *row)
{
    static const char *const states[] = {"failed", "ok", "failed", "unknown"};

    return states[row->state];
}

static const char *class_of(const struct store_row *row)
{
    return cleat_class_name(cleat_status_class((enum cleat_status)row->status));
}

/* ---- JSON --------------------------------------------------------------- */

static void json_member(const char *name, const char *text)
{
    printf("\"%s\": ", name);
    cli_print_json(stdout, text_of(text));
}

static void json_row(const struct store_job *job, const struct store_row *row)
{
    printf("    {");
    json_member("key", row->key);
    printf(", \"state\": \"%s\", \"class\": \"%s\", \"status\": \"%s\", "
           "\"code\": %" PRId32 ", \"attempts\": %" PRIu32
           ", \"bytes\": %" PRIu64 ", \"lent\": %s",
           state_of(row), class_of(row),
           cleat_status_name((enum cleat_status)row->status), row->code,
           row->attempts, job->kind == CLEAT_TRANSFER_EXISTS ? 0 : row->actual,
           row->lent ? "true" : "false");
    if (job->kind == CLEAT_TRANSFER_EXISTS) {
        printf(", \"exists\": %s", row->state != STORE_OK ? "null"
                                   : row->actual != 0     ? "true"
                                                          : "false");
    }
    if (row->file) {
        printf(", ");
        json_member("file", strerror(row->code));
    }
    printf("}");
}

static void report_json(const struct store_job *job, const struct sums *sums,
                        int result)
{
    printf("{\n  \"command\": \"%s\",\n  ", verb_of(job));
    json_member("store", job->text);
    printf(",\n  \"exit\": %d,\n  \"seconds\": %.6f,\n", result,
           seconds_of(job));
    printf("  \"keys\": %" PRIu32 ",\n  \"ok\": %" PRIu32
           ",\n  \"failed\": %" PRIu32 ",\n  \"unknown\": %" PRIu32
           ",\n  \"lent\": %" PRIu32 ",\n  \"bytes\": %" PRIu64 ",\n",
           job->rows.count, sums->ok, sums->failed, sums->unknown, sums->lent,
           sums->bytes);
    printf("  \"bytes_sent\": %" PRIu64 ",\n  \"bytes_again\": %" PRIu64
           ",\n  \"calls\": %" PRIu32 ",\n  \"rounds\": %" PRIu32
           ",\n  \"faults_struck\": %" PRIu64 ",\n  ",
           job->totals.bytes_sent, job->totals.bytes_again, job->totals.calls,
           job->totals.rounds, job->struck);
    json_member("error", job->error);
    printf(",\n  \"values\": [");
    for (uint32_t i = 0; i < job->rows.count; i++) {
        printf("%s\n", i == 0 ? "" : ",");
        json_row(job, &job->rows.each[i]);
    }
    printf("%s]\n}\n", job->rows.count == 0 ? "" : "\n  ");
}

/* ---- text --------------------------------------------------------------- */

static void text_headline(const struct store_job *job, const struct sums *sums)
{
    double seconds = seconds_of(job);

    printf("%s: %" PRIu32 " of %" PRIu32 " keys ok", verb_of(job), sums->ok,
           job->rows.count);
    if (job->kind == CLEAT_TRANSFER_EXISTS) {
        printf(", %" PRIu32 " there, %" PRIu32 " missing", sums->there,
               sums->ok - sums->there);
    }
    if (sums->failed > 0) { printf(", %" PRIu32 " failed", sums->failed); }
    if (job->kind == CLEAT_TRANSFER_PUT || job->kind == CLEAT_TRANSFER_GET) {
        printf(", %" PRIu64 " bytes", sums->bytes);
    }
    printf(", %.3f s", seconds);
    if (sums->bytes > 0 && seconds > 0 &&
        (job->kind == CLEAT_TRANSFER_PUT || job->kind == CLEAT_TRANSFER_GET)) {
        printf(" (%.2f GB/s)", (double)sums->bytes / seconds / 1e9);
    }
    printf("\n");
    if (job->totals.rounds > 0) {
        printf("sent again: %" PRIu64 " of %" PRIu64 " bytes, in %" PRIu32
               " of %" PRIu32 " calls\n",
               job->totals.bytes_again, job->totals.bytes_sent,
               job->totals.rounds, job->totals.calls);
    }
}

static void text_failed(const struct store_job *job)
{
    printf("%-8s  %-14s  %-10s  %6s  %8s  %s\n", "state", "status", "class",
           "code", "attempts", "key");
    for (uint32_t i = 0; i < job->rows.count; i++) {
        const struct store_row *row = &job->rows.each[i];

        if (row->state == STORE_OK) { continue; }
        printf("%-8s  %-14s  %-10s  %6" PRId32 "  %8" PRIu32 "  ",
               state_of(row), cleat_status_name((enum cleat_status)row->status),
               class_of(row), row->code, row->attempts);
        (void)cli_print_text(stdout, text_of(row->key), SIZE_MAX);
        if (row->file) { printf(": %s", strerror(row->code)); }
        if (row->lent) { printf(" (still in a call of the store)"); }
        printf("\n");
    }
}

static void text_exists(const struct store_job *job)
{
    for (uint32_t i = 0; i < job->rows.count; i++) {
        const struct store_row *row = &job->rows.each[i];

        if (row->state != STORE_OK) { continue; }
        printf("%s  ", row->actual != 0 ? "there  " : "missing");
        (void)cli_print_text(stdout, text_of(row->key), SIZE_MAX);
        printf("\n");
    }
}

/* ---- the error line ----------------------------------------------------- */

static void say_failed(const struct store_job *job, const struct sums *sums)
{
    uint32_t named = 0;

    fprintf(stderr,
            "%s: %" PRIu32 " of %" PRIu32 " keys failed: ", job->command,
            sums->failed, job->rows.count);
    for (uint32_t i = 0; i < job->rows.count && named < NAMES_MAX; i++) {
        const struct store_row *row = &job->rows.each[i];

        if (row->state == STORE_OK) { continue; }
        if (named++ > 0) { fputs(", ", stderr); }
        (void)cli_print_text(stderr, text_of(row->key), NAME_LETTERS_MAX);
        fprintf(stderr, " (%s)",
                row->file ? strerror(row->code)
                          : cleat_status_name((enum cleat_status)row->status));
    }
    if (sums->failed > named) {
        fprintf(stderr, " and %" PRIu32 " more", sums->failed - named);
    }
    if (job->error[0] != '\0') {
        fputs(": ", stderr);
        (void)cli_print_text(stderr, text_of(job->error), SIZE_MAX);
    }
    fputc('\n', stderr);
}

int store_report(struct store_job *job, int result)
{
    struct sums sums = sum_up(job);

    if (result == 0 && sums.failed > 0) { result = STORE_EXIT_KEYS; }
    if (job->json != 0) {
        report_json(job, &sums, result);
    } else {
        text_headline(job, &sums);
        if (job->kind == CLEAT_TRANSFER_EXISTS) { text_exists(job); }
        if (sums.failed > 0) { text_failed(job); }
    }
    if (sums.failed > 0) { say_failed(job, &sums); }
    return result;
}
