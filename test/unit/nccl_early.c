/* Cleat: a library that has NCCL's names, and whose version is what the
 * environment says. SPDX-License-Identifier: Apache-2.0
 *
 * NCCL has grown functions in early forms, under names that it kept: a name
 * alone does not say that the function is the one of the header. */
#include <stdlib.h>

int ncclGetVersion(int *version);
int ncclGetVersion(int *version)
{
    const char *said = getenv("CLEAT_TEST_NCCL_VERSION");

    *version = said != NULL ? (int)strtol(said, NULL, 10) : 0;
    return 0;
}

#define NAME(name)   \
    void name(void); \
    void name(void)  \
    {                \
    }

NAME(ncclGetUniqueId)
NAME(ncclCommInitRankConfig)
NAME(ncclCommGetAsyncError)
NAME(ncclCommAbort)
NAME(ncclGroupStart)
NAME(ncclGroupEnd)
NAME(ncclSend)
NAME(ncclRecv)
NAME(ncclBroadcast)
NAME(ncclCommRegister)
NAME(ncclCommRevoke)
