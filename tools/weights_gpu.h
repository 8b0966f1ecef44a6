/* Cleat: weights of `cleat sync` that lie on a GPU.
 * SPDX-License-Identifier: Apache-2.0
 *
 * With --transport nccl an engine has its weights in memory of its device: one
 * copy of the plan's flat address space, or two in staged mode. A bucket that
 * came is copied there from the transport's slot, within the device; its CRC32C
 * is taken on the host, of the slot's pinned side. What a request hashes, and
 * what a dump holds, is read back from the device, through a small pinned
 * window. So does a trainer that skips digests have its version on the device.
 *
 * All of it is held by a cleat_cuda of the process's own: the transport's is
 * its owner thread's alone. That takes one thread at a time, and here there are
 * two, or more: one that receives and one that serves. So a lock is held around
 * each call, none of which should wait for the device, and never from one call
 * to the next: whether the device is through is asked, call by call. The lock
 * too is waited for by asking: who does not get it in patience_ns says that the
 * device is lost. An operation has
 * a *lane* to itself, a stream with its event and its window. Who finds all
 * lanes taken asks for one until its time is up; no lock is waited for
 * meanwhile.
 *
 * An operation that takes longer than patience_ns for one piece, or meets a
 * sticky error, is CLEAT_DEVICE_LOST, for good; the transport is told, and
 * tells. Then nothing is freed: leave by carrier_close or carrier_leave.
 */
#ifndef CLEAT_TOOLS_WEIGHTS_GPU_H
#define CLEAT_TOOLS_WEIGHTS_GPU_H

#include "cleat/tensors.h"
#include "cleat/transport.h"
#include "job.h"

struct weights_gpu;

struct weights_gpu_config {
    const struct job *job;
    uint32_t device;
    uint32_t copies; /* 1 or 2 */
    /* The transport's end, open; one of the two. They say where a slot is on
     * the device, and whether that is lost. */
    const struct cleat_transport_sender *sender;
    const struct cleat_transport_receiver *receiver;
    bool on_device; /* slots have no side on the host, and no digest is taken */
    uint64_t patience_ns; /* for one piece, which takes milliseconds where the
                             device works. 0: 10 s */
};

/* Takes the memory; says what is needed and what is free where there is too
 * little. `config` is copied, what it points to must stay. Returns 0; 2 after
 * one line on stderr. */
int weights_gpu_open(const struct weights_gpu_config *config,
                     const char *command, struct weights_gpu **out);

/* Where on the device copy `copy` begins. */
uint64_t weights_gpu_address(const struct weights_gpu *weights, uint32_t copy);

/* Copy `copy` as a sink, as the contract has it, and besides:
 *   write  `from` is a place in a slot of the transport's; or anywhere on the
 *          host, but for `on_device`. With `on_device`, `crc` must be NULL
 *          (else CLEAT_INVALID). The bytes have arrived when it returns
 *   read   to the host, always */
struct cleat_tensor_sink weights_gpu_sink(struct weights_gpu *weights,
                                          uint32_t copy);

/* Copy 0 as a source for an `on_device` transport: `to` is an address on the
 * device, `crc` must be NULL. */
struct cleat_tensor_source weights_gpu_source(struct weights_gpu *weights);

/* All zeros, the gaps between tensors too. */
enum cleat_status weights_gpu_clear(struct weights_gpu *weights, uint32_t copy);

/* Copy 0 becomes what `from` holds, which has the job's tensors. Returns what
 * reading it does, too. */
enum cleat_status weights_gpu_load(struct weights_gpu *weights,
                                   const struct cleat_tensor_source *from);

/* CRC32C of `bytes` bytes at flat address `flat`, which must be there. */
enum cleat_status weights_gpu_digest(struct weights_gpu *weights, uint32_t copy,
                                     uint64_t flat, size_t bytes,
                                     uint32_t *digest);

/* NULL is not lost, and closed. */
bool weights_gpu_lost(struct weights_gpu *weights);

/* Frees everything, while nobody is in another call and nothing of this process
 * is going on on the device. False: it is lost, and nothing was freed. */
bool weights_gpu_close(struct weights_gpu *weights);

#endif
