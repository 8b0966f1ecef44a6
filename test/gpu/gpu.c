/* Cleat: what the checks on a GPU have in common. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "gpu.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "report.h"

#define RANKS_MAX 64u

struct gpu_options gpu_options = {
    .patience_ns = 10 * CLEAT_NS_PER_S,
    .watchdog_s = 300,
    .rebuilds = 100,
};

struct gpu_report *gpu_report;

/* ---- how a check ends ---- */

static void say_why(const char *format, va_list arguments)
{
    char text[GPU_TEXT_MAX];

    (void)vsnprintf(text, sizeof text, format, arguments);
    (void)fprintf(stderr, "%d: %s\n", (int)getpid(), text);
    if (gpu_report == NULL) { return; }
    /* The first process that fails says why. */
    if (__atomic_exchange_n(&gpu_report->ended, 1, __ATOMIC_ACQ_REL) == 0) {
        memcpy(gpu_report->why, text, sizeof text);
    }
}

void gpu_fail(const char *file, int line, const char *format, ...)
{
    char text[GPU_TEXT_MAX];
    const char *name = strrchr(file, '/');
    va_list arguments;

    (void)snprintf(text, sizeof text, "%s:%d: not true: %s",
                   name != NULL ? name + 1 : file, line, format);
    va_start(arguments, format);
    say_why(text, arguments);
    va_end(arguments);
    _exit(1);
}

void gpu_must_be_ok(enum cleat_status status, const char *what,
                    const char *file, int line)
{
    if (status == CLEAT_OK) { return; }
    gpu_fail(file, line, "%s: %s", what, cleat_status_name(status));
}

void gpu_skip(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say_why(format, arguments);
    va_end(arguments);
    _exit(GPU_SKIPPED);
}

void gpu_tell(const char *format, ...)
{
    size_t used = strlen(gpu_report->told);
    va_list arguments;

    if (used != 0) {
        (void)snprintf(gpu_report->told + used, sizeof gpu_report->told - used,
                       "; ");
        used = strlen(gpu_report->told);
    }
    va_start(arguments, format);
    (void)vsnprintf(gpu_report->told + used, sizeof gpu_report->told - used,
                    format, arguments);
    va_end(arguments);
}

/* ---- time and processes ---- */

uint64_t gpu_now_ns(void)
{
    struct timespec now = {0, 0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t gpu_soon(void)
{
    return gpu_now_ns() + gpu_options.patience_ns;
}

double gpu_ms(uint64_t from_ns, uint64_t to_ns)
{
    return (double)(to_ns - from_ns) / (double)CLEAT_NS_PER_MS;
}

double gpu_gb_per_s(uint64_t bytes, uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)bytes / (double)(to_ns - from_ns) : 0.0;
}

pid_t gpu_fork(void)
{
    pid_t parent = getpid();
    pid_t pid;

    (void)fflush(stdout);
    pid = fork();
    must(pid >= 0);
    if (pid != 0) { return pid; }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) { _exit(1); }
    (void)alarm((unsigned)gpu_options.watchdog_s);
    return 0;
}

/* ---- what is there ---- */

/* "580.65.06", of the kernel's module; empty where there is none. */
static void find_module(char *version, size_t bytes)
{
    FILE *file = fopen("/proc/driver/nvidia/version", "r");
    char line[256] = "";
    const char *at = NULL;
    size_t length;

    *version = '\0';
    if (file == NULL) { return; }
    if (fgets(line, sizeof line, file) != NULL) {
        at = strpbrk(line, "0123456789");
    }
    (void)fclose(file);
    /* The first number with a point in it. */
    while (at != NULL) {
        length = strspn(at, "0123456789.");
        if (memchr(at, '.', length) != NULL) {
            (void)snprintf(version, bytes, "%.*s", (int)length, at);
            return;
        }
        at = strpbrk(at + length, "0123456789");
    }
}

static void describe(struct gpu_found *found,
                     const struct cleat_cuda_info *cuda,
                     const struct cleat_nccl_info *nccl)
{
    const struct cleat_cuda_device_info *device = &cuda->devices[0];
    char module[32];

    find_module(module, sizeof module);
    (void)snprintf(found->versions, sizeof found->versions,
                   "CUDA driver %" PRIu32 ".%" PRIu32 "%s%s%s, NCCL %" PRIu32
                   ".%" PRIu32 ".%" PRIu32 ", %s (compute capability %" PRIu32
                   ".%" PRIu32 ", %.1f GiB)",
                   cuda->driver / 1000, cuda->driver % 1000 / 10,
                   *module != '\0' ? " (" : "", module,
                   *module != '\0' ? ")" : "", nccl->version / 10000,
                   nccl->version % 10000 / 100, nccl->version % 100,
                   device->name, device->major, device->minor,
                   (double)device->bytes / (double)(UINT64_C(1) << 30));
}

static void look(struct gpu_found *found)
{
    static struct cleat_cuda_info cuda;
    struct cleat_nccl_info nccl;
    struct cleat_error error;

    memset(&error, 0, sizeof error);
    if (cleat_nccl_look(NULL, &nccl, &error) != CLEAT_OK ||
        cleat_cuda_look(NULL, &cuda, &error) != CLEAT_OK) {
        (void)snprintf(found->missing, sizeof found->missing, "%s", error.text);
        return;
    }
    if (cuda.devices_count == 0) {
        (void)snprintf(found->missing, sizeof found->missing,
                       "%s shows no device", CLEAT_CUDA_LIBRARY);
        return;
    }
    describe(found, &cuda, &nccl);
    found->memory_share = cuda.devices[0].memory_share == 1;
    found->nccl = nccl.version;
    found->complete = true;
}

struct gpu_found gpu_look(void)
{
    struct gpu_found found;
    ssize_t count;
    int ends[2];
    pid_t pid;

    memset(&found, 0, sizeof found);
    must(pipe(ends) == 0);
    pid = gpu_fork();
    if (pid == 0) {
        look(&found);
        count = write(ends[1], &found, sizeof found);
        _exit(count == (ssize_t)sizeof found ? 0 : 1);
    }
    (void)close(ends[1]);
    count = read(ends[0], &found, sizeof found);
    (void)close(ends[0]);
    (void)waitpid(pid, NULL, 0);
    if (count != (ssize_t)sizeof found) {
        memset(&found, 0, sizeof found);
        found.broken = true;
        (void)snprintf(found.missing, sizeof found.missing,
                       "the process that looked for a GPU did not come to its "
                       "end");
    }
    return found;
}

/* Buckets go through sockets of the loopback, as between machines: a process
 * may be any rank on any device then. Few and small channels, for the ranks'
 * kernels take turns on the device. */
static const char *const recipe[][2] = {
    {"NCCL_SOCKET_IFNAME", "lo"}, {"NCCL_IB_DISABLE", "1"},
    {"NCCL_P2P_DISABLE", "1"},    {"NCCL_SHM_DISABLE", "1"},
    {"NCCL_NVLS_ENABLE", "0"},    {"NCCL_CUMEM_ENABLE", "0"},
    {"NCCL_MAX_NCHANNELS", "8"},  {"NCCL_ALGO", "Ring"},
    {"NCCL_PROTO", "Simple"},     {"NCCL_RAS_ENABLE", "0"},
};
/* From where on NCCL looks at more than at the host's name. */
static const char *const recipe_several[][2] = {
    {"NCCL_MULTI_RANK_GPU_ENABLE", "1"},
    {"NCCL_NET_GDR_LEVEL", "LOC"},
};

#define COUNT_OF(list) (sizeof(list) / sizeof((list)[0]))

void gpu_share_device(const struct gpu_found *found, uint32_t rank)
{
    char host[16];

    must(rank < RANKS_MAX);
    (void)snprintf(host, sizeof host, "h%" PRIu32, rank);
    must(setenv("NCCL_HOSTID", host, 1) == 0);
    for (size_t i = 0; i < COUNT_OF(recipe); i++) {
        must(setenv(recipe[i][0], recipe[i][1], 0) == 0);
    }
    if (found->nccl < CLEAT_NCCL_SEVERAL_RANKS) { return; }
    for (size_t i = 0; i < COUNT_OF(recipe_several); i++) {
        must(setenv(recipe_several[i][0], recipe_several[i][1], 0) == 0);
    }
}

void gpu_print_recipe(const struct gpu_found *found)
{
    for (size_t i = 0; i < COUNT_OF(recipe); i++) {
        printf("%s=%s\n", recipe[i][0], recipe[i][1]);
    }
    if (found->nccl < CLEAT_NCCL_SEVERAL_RANKS) { return; }
    for (size_t i = 0; i < COUNT_OF(recipe_several); i++) {
        printf("%s=%s\n", recipe_several[i][0], recipe_several[i][1]);
    }
}
