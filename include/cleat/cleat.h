/* Cleat: everything at once. SPDX-License-Identifier: Apache-2.0
 *
 * One header a machine, one a port; a host may as well include just those that
 * it uses. Start at cleat/local.h for a job on one machine, at cleat/sync.h
 * for the machine itself; at cleat/tool_service.h for tool lists. */
#ifndef CLEAT_CLEAT_H
#define CLEAT_CLEAT_H

/* core: values */
#include "cleat/arena.h"
#include "cleat/digest.h"
#include "cleat/dtype.h"
#include "cleat/frame.h"
#include "cleat/json.h"
#include "cleat/plan.h"
#include "cleat/status.h"
#include "cleat/tools.h"

/* core: machines */
#include "cleat/gather.h"
#include "cleat/pipeline.h"
#include "cleat/retry.h"
#include "cleat/sync.h"
#include "cleat/tool_cache.h"
#include "cleat/transfer.h"

/* the ports' contracts */
#include "cleat/clock.h"
#include "cleat/loader.h"
#include "cleat/mailbox.h"
#include "cleat/store.h"
#include "cleat/tensors.h"
#include "cleat/threads.h"
#include "cleat/transport.h"
#include "cleat/worker.h"

/* the ports */
#include "cleat/cuda.h"
#include "cleat/linux.h"
#include "cleat/linux_child.h"
#include "cleat/linux_worker.h"
#include "cleat/local.h"
#include "cleat/local_store.h"
#include "cleat/local_tools.h"
#include "cleat/mcp.h"
#include "cleat/memory.h"
#include "cleat/memory_store.h"
#include "cleat/memory_tensors.h"
#include "cleat/mooncake.h"
#include "cleat/nccl.h"
#include "cleat/safetensors.h"
#include "cleat/service.h"
#include "cleat/store_faults.h"
#include "cleat/store_transport.h"
#include "cleat/stream.h"
#include "cleat/tool_service.h"
#include "cleat/transfer_service.h"

#endif
