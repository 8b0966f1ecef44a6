/* Cleat: what the checks on a GPU have in common. SPDX-License-Identifier:
 * Apache-2.0
 *
 * A check is a function that runs in a process of its own, which has not used
 * CUDA yet: a fork after that is not allowed. It tells numbers, which go to
 * its row of the table, and ends by returning, by must() or by gpu_skip().
 * Libraries are found by their names, so LD_LIBRARY_PATH says which: the real
 * ones, or the fakes. */
#ifndef CLEAT_TEST_GPU_H
#define CLEAT_TEST_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cleat/cuda.h"
#include "cleat/nccl.h"

struct gpu_options {
    const char *table;     /* file to which rows are added; NULL: none */
    uint64_t bucket_bytes; /* of the largest bucket; 0: the check's own */
    uint64_t patience_ns;  /* for what must not be late: 10 s */
    uint64_t watchdog_s;   /* of a whole check: 300 s */
    uint32_t rebuilds;     /* 100 */
    uint32_t canary;       /* 1: the check does what it must find */
};
extern struct gpu_options gpu_options;

/* ---- how a check ends ---- */

#define must(condition) \
    ((condition) ? (void)0 : gpu_fail(__FILE__, __LINE__, "%s", #condition))

/* A call of Cleat's that must succeed. */
#define must_be_ok(call) gpu_must_be_ok((call), #call, __FILE__, __LINE__)

_Noreturn void gpu_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void gpu_must_be_ok(enum cleat_status status, const char *what,
                    const char *file, int line);

/* The check cannot be made here. */
_Noreturn void gpu_skip(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* Adds to what the row tells, with "; " between. */
void gpu_tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- time and processes ---- */

uint64_t gpu_now_ns(void);
/* Patience from now on. */
uint64_t gpu_soon(void);
double gpu_ms(uint64_t from_ns, uint64_t to_ns);
double gpu_gb_per_s(uint64_t bytes, uint64_t from_ns, uint64_t to_ns);

/* A child that ends with its parent, and by its watchdog. As fork(). */
pid_t gpu_fork(void);

/* ---- what is there ---- */

#define GPU_TEXT_MAX 240u
struct gpu_found {
    bool complete;              /* libcuda.so.1, a device and libnccl.so.2 */
    bool broken;                /* looking did not end as it should */
    bool memory_share;          /* device 0 can share memory */
    uint32_t nccl;              /* 22809 */
    char missing[GPU_TEXT_MAX]; /* when not complete */
    char versions[GPU_TEXT_MAX];
};

/* Looks, in a child. */
struct gpu_found gpu_look(void);

/* What lets several processes of one machine be ranks on one GPU, the `rank`
 * of this one included; before CUDA or NCCL is loaded. What the environment
 * has already stays. */
void gpu_share_device(const struct gpu_found *found, uint32_t rank);
/* Prints it as NAME=VALUE lines, without the rank's. */
void gpu_print_recipe(const struct gpu_found *found);

/* ---- checks ---- */

struct gpu_check {
    const char *name;
    const char *title;
    void (*run)(const struct gpu_found *found);
};
/* Ends with one whose name is NULL. */
extern const struct gpu_check gpu_alone_checks[];
extern const struct gpu_check gpu_ranks_checks[];
extern const struct gpu_check gpu_share_checks[];

/* ---- the table ---- */

/* Adds a row. `result` is "ok", "skipped" or "FAILED". */
void gpu_row(const char *name, const char *result, const char *versions,
             const char *text);

/* Writes all of it as markdown to `out`, and to standard output; those checks
 * that have no row are told too. False: not one has been made. */
bool gpu_write_table(const char *out);

#endif
