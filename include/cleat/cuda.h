/* Cleat: one accelerator through the CUDA driver. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The driver, `libcuda.so.1`, is loaded when a device is opened: a program
 * that links this runs where there is none, and is told so. Everything that a
 * transfer needs is made by `open` in the caller's block and stays until
 * `close`: the primary context, streams, events, device slots and pinned
 * staging. Between the two there are asynchronous copies and questions, no
 * call that waits for the device, and nothing is allocated or freed: freeing
 * device memory waits for every kernel on the device, also for one that hangs.
 *
 *     open ─▶ { use, copy, record, after, passed, idle } ─▶ close
 *
 * The driver allocates inside its own calls, starts threads of its own in
 * `open`, and is not unloaded by `close`.
 *
 * A *sticky* error (the context is corrupt: cuda.h says of it that the process
 * must be terminated) is latched. From then on every function here returns
 * CLEAT_DEVICE_LOST without calling the driver, `close` included, which then
 * frees nothing: leave by _exit. Latched are ECC_UNCORRECTABLE 214,
 * NVLINK_UNCORRECTABLE 220, CONTAINED 226, ILLEGAL_ADDRESS 700, LAUNCH_TIMEOUT
 * 702, CONTEXT_IS_DESTROYED 709, ASSERT 710, HARDWARE_STACK_ERROR 714,
 * ILLEGAL_INSTRUCTION 715, MISALIGNED_ADDRESS 716, INVALID_ADDRESS_SPACE 717,
 * INVALID_PC 718, LAUNCH_FAILED 719, TENSOR_MEMORY_LEAK 721,
 * MPS_CLIENT_TERMINATED 810, EXTERNAL_DEVICE 911, UNKNOWN 999, DEINITIALIZED 4,
 * INVALID_CONTEXT 201, a device that is gone (46, 100, 101, 802, 803), and any
 * code that is in no list of ours.
 *
 * One thread at a time may call the functions of one device, but `lost` and
 * `lose`, which any thread may. A thread calls `use` or `serve` before its
 * first other call, also the thread that has opened the device: `open` and
 * `close` leave the calling thread's context as it was, for it says where the
 * host program's own calls go.
 *
 * cleat/cuda.h needs no header of the toolkit. Where Cleat was built without
 * one (CLEAT_CUDA), nothing here can be linked.
 */
#ifndef CLEAT_CUDA_H
#define CLEAT_CUDA_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_CUDA_LIBRARY "libcuda.so.1"

#define CLEAT_CUDA_STREAMS_MAX 8u
#define CLEAT_CUDA_EVENTS_MAX 64u
#define CLEAT_CUDA_SLOTS_MAX 8u
#define CLEAT_CUDA_IMPORTS_MAX 8u
#define CLEAT_CUDA_DEVICES_MAX 16u

/* Slots begin at multiples of this within their memory. */
#define CLEAT_CUDA_SLOT_ALIGN 512u

/* Bytes of block for a device, aligned to 64. */
#define CLEAT_CUDA_BYTES 4096u

struct cleat_cuda; /* lies at the start of the caller's block */

struct cleat_cuda_config {
    const char *lib_path;   /* to load; NULL: CLEAT_CUDA_LIBRARY */
    uint32_t device;        /* its number among those that the driver shows */
    uint32_t streams_count; /* ≤ CLEAT_CUDA_STREAMS_MAX */
    uint32_t events_count;  /* ≤ CLEAT_CUDA_EVENTS_MAX */
    uint32_t slots_count;   /* on the device; ≤ CLEAT_CUDA_SLOTS_MAX */
    uint32_t staging_count; /* pinned, on the host; likewise */
    uint32_t shareable;     /* 1: another process can be given the slots */
    uint64_t slot_bytes;    /* of each slot, on the device */
    uint64_t staging_bytes; /* of each staging slot */
};

/* Loads the driver, retains the device's primary context, and makes all that
 * the configuration asks for. May block as long as the driver likes: not for a
 * fault path.
 *   block   aligned to 64, at least CLEAT_CUDA_BYTES; owned by the caller, must
 *           outlive *out
 *   config  copied
 * Returns CLEAT_OK;
 *   CLEAT_INVALID     an argument (its number in error->index), or no such
 *                     device: the text says how many there are
 *   CLEAT_TOO_SMALL   the block, the bytes needed in error->offset
 *   CLEAT_UNSUPPORTED no library of that name, a symbol that it lacks, the
 *                     toolkit's stub in the driver's place, no device, a
 *                     device without what `shareable` needs
 *   CLEAT_CAPACITY    not enough memory, on the device (error->offset: the
 *                     bytes needed, all slots together) or to be pinned; the
 *                     text says how much is needed and how much is free
 *   CLEAT_DEVICE_LOST a sticky error
 *   CLEAT_PERMANENT   another error of the driver's
 * error->port_code is the driver's code. On error *out is NULL and nothing is
 * held but the loaded library; with CLEAT_DEVICE_LOST also what had been made,
 * which can no longer be freed. */
enum cleat_status cleat_cuda_open(void *block, size_t bytes,
                                  const struct cleat_cuda_config *config,
                                  struct cleat_cuda **out,
                                  struct cleat_error *error);

/* Frees everything and releases the context, once every stream is idle; freeing
 * would wait for that in the driver, without a deadline.
 * Returns CLEAT_OK, also for NULL and for what is closed; CLEAT_DEVICE_LOST
 * when the device is, or when a stream is not idle after CLEAT_CUDA_CLOSE_NS:
 * then nothing was freed. */
#define CLEAT_CUDA_CLOSE_NS (2 * CLEAT_NS_PER_S)
enum cleat_status cleat_cuda_close(struct cleat_cuda *cuda);

/* Makes the device's context the calling thread's. Returns CLEAT_OK;
 * CLEAT_DEVICE_LOST. */
enum cleat_status cleat_cuda_use(struct cleat_cuda *cuda);

/* As `use`, for a thread that does nothing else in CUDA. While another thread
 * of the program captures a graph in the mode that forbids other threads what
 * might disturb it (CU_STREAM_CAPTURE_MODE_GLOBAL), such calls as ours would
 * fail and end the capture; a thread that serves a device is exempt from that
 * (cuThreadExchangeStreamCaptureMode, of CUDA 10.1). */
enum cleat_status cleat_cuda_serve(struct cleat_cuda *cuda);

/* Where things are. `slot`, `staging` and `stream` are below their counts. */
uint64_t cleat_cuda_slot(const struct cleat_cuda *cuda, uint32_t slot);
void *cleat_cuda_staging(const struct cleat_cuda *cuda, uint32_t staging);
/* A CUstream, which is a cudaStream_t. It does not wait for the default
 * stream, nor that for it (CU_STREAM_NON_BLOCKING). */
void *cleat_cuda_stream(const struct cleat_cuda *cuda, uint32_t stream);
uint32_t cleat_cuda_device(const struct cleat_cuda *cuda);

/* Begins to copy between any two places that the driver knows: slots, staging,
 * imported memory, memory of the host program's that it has registered.
 * Memory of the host that is not pinned must not be given: the driver would
 * wait.
 * Returns CLEAT_OK: it is on the stream; CLEAT_INVALID; CLEAT_DEVICE_LOST;
 * CLEAT_PERMANENT. */
enum cleat_status cleat_cuda_copy(struct cleat_cuda *cuda, uint32_t stream,
                                  uint64_t to, uint64_t from, uint64_t bytes);

/* Puts an event (< events_count) on a stream. Statuses as above. */
enum cleat_status cleat_cuda_record(struct cleat_cuda *cuda, uint32_t event,
                                    uint32_t stream);

/* What is put on the stream from now on waits for the event. CLEAT_STATE, with
 * no effect, for an event that was never put on a stream: nothing would ever
 * set it off. Else as above. */
enum cleat_status cleat_cuda_after(struct cleat_cuda *cuda, uint32_t stream,
                                   uint32_t event);

/* Whether the device has passed the event. Returns CLEAT_OK; CLEAT_PENDING;
 * CLEAT_STATE for one that was never put on a stream; CLEAT_DEVICE_LOST;
 * CLEAT_PERMANENT. */
enum cleat_status cleat_cuda_passed(struct cleat_cuda *cuda, uint32_t event);

/* Whether a stream has nothing left to do. CLEAT_OK; CLEAT_PENDING;
 * CLEAT_DEVICE_LOST; CLEAT_PERMANENT. */
enum cleat_status cleat_cuda_idle(struct cleat_cuda *cuda, uint32_t stream);

/* Whether the device is lost; *code, which may be NULL, is the driver's code,
 * 0 when somebody else said so. Any thread. */
bool cleat_cuda_lost(const struct cleat_cuda *cuda, int32_t *code);

/* Says that it is: a call of another library does not come back. Any thread. */
void cleat_cuda_lose(struct cleat_cuda *cuda);

/* ---- memory that two processes share ---- */

/* Makes a descriptor for all the slots' memory; opened `shareable`.
 *   fd        out: the caller's, to send over a Unix socket (SCM_RIGHTS) and to
 *             close
 *   bytes     out: of that memory
 *   distance  out: in bytes; slot i begins at i times as much
 * Returns CLEAT_OK; CLEAT_STATE: not shareable; CLEAT_DEVICE_LOST;
 * CLEAT_PERMANENT. On error there is no descriptor. Not for a fault path. */
enum cleat_status cleat_cuda_share(struct cleat_cuda *cuda, int *fd,
                                   uint64_t *bytes, uint64_t *distance);

/* Maps such memory of another process's, on this device. It stays mapped until
 * close, also after the other process has died. At initialisation only: it
 * allocates and may wait for the device.
 *   fd       stays the caller's
 *   bytes    as share told
 *   address  out: on the device, of the first slot
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_NO_SLOT: CLEAT_CUDA_IMPORTS_MAX are
 * mapped; CLEAT_UNSUPPORTED; CLEAT_CAPACITY; CLEAT_DEVICE_LOST;
 * CLEAT_PERMANENT. On error nothing is mapped. */
enum cleat_status cleat_cuda_import(struct cleat_cuda *cuda, int fd,
                                    uint64_t bytes, uint64_t *address,
                                    struct cleat_error *error);

/* ---- what there is ---- */

struct cleat_cuda_device_info {
    char name[64];
    char pci[16];   /* "0000:1b:00.0" */
    uint64_t bytes; /* of memory */
    uint32_t major; /* compute capability */
    uint32_t minor;
    uint32_t memory_share; /* 1: slots can be shared between processes */
    uint32_t reserved;
};

struct cleat_cuda_info {
    uint32_t driver;        /* 13000: of CUDA 13.0 */
    uint32_t devices_count; /* all, also those that are not told here */
    uint32_t share_found;   /* 1: the driver has what `shareable` needs */
    uint32_t reserved;
    struct cleat_cuda_device_info devices[CLEAT_CUDA_DEVICES_MAX];
};

/* Looks at the driver and its devices without making a context.
 *   library  as in the configuration; NULL: CLEAT_CUDA_LIBRARY
 * Returns CLEAT_OK; otherwise as cleat_cuda_open: also CLEAT_UNSUPPORTED with
 * no device. */
enum cleat_status cleat_cuda_look(const char *library,
                                  struct cleat_cuda_info *info,
                                  struct cleat_error *error);

/* What a driver's code means here: CLEAT_OK, CLEAT_PENDING for NOT_READY,
 * CLEAT_CAPACITY, CLEAT_INVALID, CLEAT_UNSUPPORTED, CLEAT_PERMANENT for what
 * concerns one call, CLEAT_DEVICE_LOST for what is latched. */
enum cleat_status cleat_cuda_meaning(int32_t code);

#ifdef __cplusplus
}
#endif
#endif
