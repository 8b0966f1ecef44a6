/* Cleat: `cleat gpu`. SPDX-License-Identifier: Apache-2.0
 *
 * `info` says what the CUDA driver and NCCL of this machine are, and what each
 * optional feature that they have is good for. It makes no context. */
#include "gpu.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cleat/cuda.h"
#include "cleat/nccl.h"
#include "options.h"

static const char usage[] =
    "usage: cleat gpu info [OPTION]...\n"
    "Says which GPUs there are, and what their driver and NCCL can do.\n"
    "\n"
    "  --cuda-library FILE  to load (" CLEAT_CUDA_LIBRARY ")\n"
    "  --nccl-library FILE  to load (" CLEAT_NCCL_LIBRARY ")\n"
    "\n"
    "Exit: 0 both can be used and there is a GPU, 2 not.\n";

static const char command[] = "cleat gpu info";

static void print_feature(bool found, const char *name, const char *enables)
{
    printf("  %-3s  %s: %s\n", found ? "yes" : "no", name, enables);
}

static void print_device(uint32_t number,
                         const struct cleat_cuda_device_info *device)
{
    printf("device %" PRIu32 "  %s, %.1f GiB, compute %" PRIu32 ".%" PRIu32
           "%s%s\n",
           number, device->name, (double)device->bytes / 1073741824.0,
           device->major, device->minor, device->pci[0] != '\0' ? ", " : "",
           device->pci);
    print_feature(device->memory_share != 0, "shared slots",
                  "another process receives into memory of this GPU "
                  "(cuMemCreate with a descriptor)");
}

static int print_cuda(const char *library)
{
    struct cleat_cuda_info info;
    struct cleat_error error;

    if (cleat_cuda_look(library, &info, &error) != CLEAT_OK) {
        return options_fail(command, "%s", error.text);
    }
    printf("driver    %s, CUDA %" PRIu32 ".%" PRIu32 "\n",
           library != NULL ? library : CLEAT_CUDA_LIBRARY, info.driver / 1000,
           info.driver % 1000 / 10);
    if (info.devices_count == 0) {
        return options_fail(command, "the driver shows no device");
    }
    for (uint32_t i = 0; i < info.devices_count && i < CLEAT_CUDA_DEVICES_MAX;
         i++) {
        print_device(i, &info.devices[i]);
    }
    if (info.devices_count > CLEAT_CUDA_DEVICES_MAX) {
        printf("… and %" PRIu32 " more\n",
               info.devices_count - CLEAT_CUDA_DEVICES_MAX);
    }
    return 0;
}

static int print_nccl(const char *library)
{
    struct cleat_nccl_info info;
    struct cleat_error error;

    if (cleat_nccl_look(library, &info, &error) != CLEAT_OK) {
        return options_fail(command, "%s", error.text);
    }
    printf("nccl      %s, %" PRIu32 ".%" PRIu32 ".%" PRIu32 "\n",
           library != NULL ? library : CLEAT_NCCL_LIBRARY, info.version / 10000,
           info.version % 10000 / 100, info.version % 100);
    print_feature(info.registers != 0, "ncclCommRegister (2.19)",
                  "slots are read and written where they lie");
    print_feature(info.group_abort != 0, "grouped abort (2.22)",
                  "all groups of a GPU are aborted together");
    print_feature(info.revoke != 0, "ncclCommRevoke (2.28.7)",
                  "a group is told to stop without waiting, before it is "
                  "aborted");
    print_feature(info.several_ranks != 0,
                  "NCCL_MULTI_RANK_GPU_ENABLE (2.30.3)",
                  "several processes of a group on one GPU");
    return 0;
}

static int info(int argc, char **argv)
{
    const char *cuda_library = NULL;
    const char *nccl_library = NULL;
    struct option table[] = {
        {.name = "cuda-library", .kind = OPTION_TEXT, .to = &cuda_library},
        {.name = "nccl-library", .kind = OPTION_TEXT, .to = &nccl_library},
    };
    struct options options = {.command = command,
                              .table = table,
                              .count = sizeof table / sizeof table[0]};
    int cuda;
    int nccl;

    if (options_parse(&options, argc, argv) != 0) { return 2; }
    cuda = print_cuda(cuda_library);
    nccl = print_nccl(nccl_library);
    return cuda != 0 ? cuda : nccl;
}

static int run(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        }
    }
    if (argc >= 2 && strcmp(argv[1], "info") == 0) {
        return info(argc - 1, argv + 1);
    }
    return options_fail("cleat gpu", "expected a command: info");
}

int cleat_tool_gpu(int argc, char **argv)
{
    int result = run(argc, argv);

    if (fflush(stdout) == 0 && ferror(stdout) == 0) { return result; }
    return options_fail("cleat gpu", "standard output: %s", strerror(errno));
}
