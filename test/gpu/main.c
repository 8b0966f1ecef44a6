/* Cleat: checks on a real GPU, each by its name. SPDX-License-Identifier:
 * Apache-2.0
 *
 * usage: gpu_checks CHECK [OPTION]...   makes a check
 *        gpu_checks list                their names
 *        gpu_checks look                what there is
 *        gpu_checks recipe              the environment of several ranks on
 *                                       one GPU
 *        gpu_checks begin --table FILE  an empty table
 *        gpu_checks row NAME RESULT TEXT --table FILE
 *        gpu_checks table FILE.md --table FILE
 *
 *   --table FILE      adds a row
 *   --bucket-bytes N  of the largest bucket
 *   --rebuilds N      of `rebuilds` (100)
 *   --patience-s S    for what must not be late (10)
 *   --watchdog-s S    of the whole check (300)
 *   --canary          the check does wrong what it must find
 *
 * Exit: 0 it holds; 1 it does not; 77 there is no GPU, or what the check needs
 * is not there: then standard output says what was looked for. 2: bad usage. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "report.h"

static const struct gpu_check *const lists[] = {
    gpu_alone_checks, gpu_ranks_checks, gpu_share_checks};

static const struct gpu_check *find(const char *name)
{
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        for (const struct gpu_check *c = lists[i]; c->name != NULL; c++) {
            if (strcmp(c->name, name) == 0) { return c; }
        }
    }
    return NULL;
}

static int print_names(void)
{
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        for (const struct gpu_check *c = lists[i]; c->name != NULL; c++) {
            printf("%-12s %s\n", c->name, c->title);
        }
    }
    return 0;
}

/* ---- a check ---- */

static int skip(const char *name, const struct gpu_found *found,
                const char *why)
{
    printf("NOT RUN: %s: %s\n", name, why);
    gpu_row(name, "skipped", found->versions, why);
    return GPU_SKIPPED;
}

static int skip_without_gpu(const char *name, const struct gpu_found *found)
{
    char text[2 * GPU_TEXT_MAX];

    (void)snprintf(text, sizeof text,
                   "looked for %s, a device and %s; not found: %s",
                   CLEAT_CUDA_LIBRARY, CLEAT_NCCL_LIBRARY, found->missing);
    return skip(name, found, text);
}

static int fail(const char *name, const struct gpu_found *found,
                const char *why)
{
    printf("FAILED: %s: %s\n", name, why);
    gpu_row(name, "FAILED", found->versions, why);
    return 1;
}

static int judge(const char *name, const struct gpu_found *found, int status)
{
    char why[2 * GPU_TEXT_MAX];

    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        printf("ok: %s: %s\n", name, gpu_report->told);
        gpu_row(name, "ok", found->versions, gpu_report->told);
        return 0;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == GPU_SKIPPED) {
        return skip(name, found, gpu_report->why);
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        (void)snprintf(why, sizeof why, "did not end within %llu s",
                       (unsigned long long)gpu_options.watchdog_s);
    } else if (WIFSIGNALED(status)) {
        (void)snprintf(why, sizeof why, "ended by signal %d", WTERMSIG(status));
    } else {
        (void)snprintf(why, sizeof why, "exit %d", WEXITSTATUS(status));
    }
    if (gpu_report->why[0] != '\0') {
        (void)snprintf(why, sizeof why, "%s", gpu_report->why);
    }
    return fail(name, found, why);
}

static int run(const struct gpu_check *check)
{
    struct gpu_found found = gpu_look();
    int status = 0;
    pid_t pid;

    if (found.broken) { return fail(check->name, &found, found.missing); }
    if (!found.complete) { return skip_without_gpu(check->name, &found); }
    gpu_report = mmap(NULL, sizeof *gpu_report, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (gpu_report == MAP_FAILED) {
        gpu_report = NULL;
        return fail(check->name, &found, "no memory");
    }
    pid = gpu_fork();
    if (pid == 0) {
        check->run(&found);
        /* What a lost device leaves is not waited for. */
        _exit(0);
    }
    must(waitpid(pid, &status, 0) == pid);
    return judge(check->name, &found, status);
}

/* ---- the command line ---- */

static int usage(const char *what)
{
    fprintf(stderr, "gpu_checks: %s\n", what);
    return 2;
}

static bool number(const char *text, uint64_t *out)
{
    char *end = NULL;
    unsigned long long value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0) {
        return false;
    }
    *out = value;
    return true;
}

/* Takes the options out of the words; how many words are left, or -1. */
static int take_options(int argc, char **argv)
{
    uint64_t seconds = gpu_options.patience_ns / CLEAT_NS_PER_S;
    uint64_t rebuilds = gpu_options.rebuilds;
    const struct {
        const char *name;
        uint64_t *to;
    } numbers[] = {{"--bucket-bytes", &gpu_options.bucket_bytes},
                   {"--patience-s", &seconds},
                   {"--watchdog-s", &gpu_options.watchdog_s},
                   {"--rebuilds", &rebuilds}};
    int left = 0;

    for (int i = 0; i < argc; i++) {
        bool known = strcmp(argv[i], "--canary") == 0;

        if (known) { gpu_options.canary = 1; }
        if (strcmp(argv[i], "--table") == 0 && i + 1 < argc) {
            gpu_options.table = argv[++i];
            continue;
        }
        for (size_t n = 0; !known && n < sizeof numbers / sizeof numbers[0];
             n++) {
            if (strcmp(argv[i], numbers[n].name) != 0) { continue; }
            if (i + 1 == argc || !number(argv[++i], numbers[n].to)) {
                return -1;
            }
            known = true;
        }
        if (!known) { argv[left++] = argv[i]; }
    }
    gpu_options.patience_ns = seconds * CLEAT_NS_PER_S;
    gpu_options.rebuilds = (uint32_t)rebuilds;
    return left;
}

static int look_only(void)
{
    struct gpu_found found = gpu_look();

    if (found.broken) { return fail("look", &found, found.missing); }
    if (!found.complete) { return skip_without_gpu("look", &found); }
    printf("%s\n", found.versions);
    return 0;
}

static int begin(void)
{
    FILE *file = gpu_options.table == NULL ? NULL
                                           : fopen(gpu_options.table, "w");

    if (file == NULL) { return usage("begin: no --table, or it has no room"); }
    (void)fclose(file);
    (void)look_only();
    return 0;
}

static int add_row(char **argv)
{
    struct gpu_found found = gpu_look();

    gpu_row(argv[0], argv[1], found.versions, argv[2]);
    return 0;
}

int main(int argc, char **argv)
{
    int count = take_options(argc - 1, argv + 1);
    const char *name = count > 0 ? argv[1] : "";

    if (count < 1) { return usage("CHECK [OPTION]...; gpu_checks list"); }
    if (strcmp(name, "row") == 0 && count == 4) { return add_row(argv + 2); }
    if (strcmp(name, "table") == 0 && count == 2) {
        return gpu_write_table(argv[2]) ? 0 : GPU_SKIPPED;
    }
    if (count != 1) { return usage("an option or a word that it has not"); }
    if (strcmp(name, "list") == 0) { return print_names(); }
    if (strcmp(name, "look") == 0) { return look_only(); }
    if (strcmp(name, "begin") == 0) { return begin(); }
    if (strcmp(name, "recipe") == 0) {
        struct gpu_found found = gpu_look();

        gpu_print_recipe(&found);
        return 0;
    }
    if (find(name) == NULL) { return usage("no such check; gpu_checks list"); }
    return run(find(name));
}
