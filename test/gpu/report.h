/* Cleat: what a check's processes tell the one that started it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TEST_GPU_REPORT_H
#define CLEAT_TEST_GPU_REPORT_H

#include "gpu.h"

#define GPU_SKIPPED 77 /* the exit status, as ctest is told */

/* Lies in memory that they share. */
struct gpu_report {
    int ended;              /* 1: somebody has said why */
    char why[GPU_TEXT_MAX]; /* it has failed or was skipped */
    char told[GPU_TEXT_MAX * 4];
};
extern struct gpu_report *gpu_report;

#endif
