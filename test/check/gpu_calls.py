#!/usr/bin/env python3
"""Cleat: what the GPU ports must not call. SPDX-License-Identifier: Apache-2.0

usage: gpu_calls.py ROOT | --canary

A call that waits for the device, or for peers, has no deadline: none may be in
port/cuda and port/nccl. What frees or allocates may be in the files that open
and close alone. Nobody waits on a condition without a time, nor in the kernel.
Every function that the tables of symbols name is in the audit table of
port/nccl/README.md.
"""
import os
import re
import sys

# Wait for the device, for a value, or for peers.
NEVER = re.compile(
    r"\b(?:cu\w*Synchronize|cuMemcpy(?:HtoD|DtoH|DtoD|Peer)?(?:_v2)?|"
    r"cuMemset\w*|cuStreamWaitValue\w*|cuStreamBatchMemOp\w*|cuLaunchHostFunc|"
    r"cuModule\w+|cuCtxCreate\w*|cuCtxDestroy\w*|cuda[A-Z]\w*|"
    r"(?<!p)ncclComm(?:Destroy|Finalize|Split|Shrink|Grow|Window\w+)|"
    r"ncclMem(?:Alloc|Free)|ncclCommInit(?:Rank|All|RankScalable)|"
    r"ncclCommDeregister|cuIpc\w+|cuStreamAddCallback|cuEventElapsedTime\w*|"
    r"cuMemPrefetchAsync\w*|cuMemAdvise\w*|cuProfiler\w+|"
    r"pthread_cond_wait|pthread_barrier_wait|sem_\w+|futex|syscall|"
    r"(?<![>.])(?:u?sleep|p?poll|p?select|epoll_\w+|readv?|recv\w*|"
    r"writev?|send(?:to|m?msg)?|connect|flock|lockf|wait(?:pid|id)?|system)|"
    r"(?:m|c|re)alloc|free|printf|puts|exit|abort|setenv)\b(?=\s*\()")

# Allocate or free: where things are opened and closed only.
INIT_ONLY = re.compile(
    r"p_(?:cuMem(?:Alloc|Free|HostAlloc|FreeHost|Create|Release|Map|Unmap|"
    r"AddressReserve|AddressFree|SetAccess)|cuStream(?:Create|Destroy)|"
    r"cuEvent(?:Create|Destroy)|cuDevicePrimaryCtx\w+)\b(?=\s*\()|"
    r"\bgetenv\b(?=\s*\()")
INIT_FILES = {"port/cuda/open.c", "port/cuda/mapping.c", "port/nccl/library.c"}

# What the tables of symbols may not name.
LISTED = re.compile(
    r"X\((?:\w*Synchronize|cuMemcpy|cuMemset\w*|cuStreamWaitValue\w*|"
    r"ncclCommDestroy|ncclCommFinalize|ncclMem\w+)\s*[,)]")


# A table's names: X(name) or X(name, since).
NAMED = re.compile(r"\bX\(((?:cu|nccl)[A-Z]\w*)\s*[,)]")


def without_comments(text):
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group(0))
    return re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"", blank, text,
                  flags=re.S)


def faults_of(path, text):
    faults = []
    for number, line in enumerate(without_comments(text).split("\n"), 1):
        for pattern in (NEVER, LISTED):
            for match in pattern.finditer(line):
                faults.append(f"{path}:{number}: {match.group(0)}")
        if path not in INIT_FILES:
            for match in INIT_ONLY.finditer(line):
                faults.append(f"{path}:{number}: {match.group(0)} where "
                              "nothing is opened or closed")
    # Through the tables the names have a prefix.
    for number, line in enumerate(without_comments(text).split("\n"), 1):
        for match in re.finditer(r"p_(\w+)\s*\(", line):
            if NEVER.match(match.group(1) + "("):
                faults.append(f"{path}:{number}: {match.group(1)}")
    return faults


def not_audited(text, audit):
    return [f"port/nccl/README.md says nothing of {name}, which is called"
            for name in NAMED.findall(without_comments(text))
            if not re.search(rf"\b{name}\b", audit)]


def check(root):
    faults = []
    files = 0
    with open(os.path.join(root, "port/nccl/README.md"),
              encoding="utf-8") as file:
        audit = file.read()
    for port in ("cuda", "nccl"):
        folder = os.path.join(root, "port", port)
        for name in sorted(os.listdir(folder)):
            if not name.endswith((".c", ".h")):
                continue
            files += 1
            path = f"port/{port}/{name}"
            with open(os.path.join(root, path), encoding="utf-8") as file:
                text = file.read()
            faults += faults_of(path, text) + not_audited(text, audit)
    print("\n".join(faults) if faults else f"{files} files, no fault")
    return 1 if faults or files == 0 else 0


def canary():
    planted = [
        ("port/cuda/device.c", "driver->p_cuStreamSynchronize(stream);"),
        ("port/cuda/device.c", "driver->p_cuMemcpy(a, b, n);"),
        ("port/cuda/device.c", "driver->p_cuMemcpyHtoD(a, b, n);"),
        ("port/cuda/device.c", "driver->p_cuMemFree(at);"),
        ("port/nccl/engine.c", "library->p_ncclCommDestroy(comm);"),
        ("port/nccl/engine.c", "ncclCommFinalize(comm);"),
        ("port/nccl/engine.c", "pthread_cond_wait(&c, &l);"),
        ("port/nccl/engine.c", "void *p = malloc(1);"),
        ("port/nccl/engine.c", "cudaDeviceSynchronize();"),
        ("port/cuda/symbols.h", "    X(cuCtxSynchronize) \\"),
        ("port/nccl/library.h", "    X(ncclMemAlloc, 21901)"),
        ("port/nccl/engine.c", "library->p_ncclCommDeregister(comm, at);"),
        ("port/nccl/engine.c", "sem_wait(&s);"),
        ("port/nccl/engine.c", "(void)read(fd, at, bytes);"),
        ("port/nccl/engine.c", "while (poll(&fds, 1, -1) < 0) {}"),
        ("port/cuda/open.c", "waitpid(pid, NULL, 0);"),
        ("port/nccl/engine.c", "(void)getenv(\"NCCL_DEBUG\");"),
    ]
    good = [
        ("port/cuda/device.c", "driver->p_cuMemcpyAsync(a, b, n, s);"),
        ("port/cuda/open.c", "driver->p_cuMemFree(at);"),
        ("port/nccl/library.c", "(void)getenv(\"NCCL_COMM_ID\");"),
        ("port/nccl/engine.c", "library->p_ncclCommAbort(comm);"),
        ("port/nccl/engine.c", "library->p_ncclCommRegister(c, b, n, &h);"),
        ("port/nccl/engine.c", "(void)local->wait(local->context, deadline);"),
        ("port/nccl/engine.c", "pthread_cond_timedwait(&c, &l, &t);"),
        ("port/nccl/engine.c", "/* ncclCommDestroy(comm); */"),
    ]
    wrong = [line for path, line in planted if not faults_of(path, line)]
    wrong += [line for path, line in good if faults_of(path, line)]
    table = "    X(cuMemAlloc) \\\n    X(ncclSend, 1) /* X(cuNot) */"
    if len(not_audited(table, "`cuMemAlloc_v2`, `ncclSend`")) != 1:
        wrong.append(table)
    print("\n".join(wrong) if wrong else f"{len(planted)} planted faults found")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(canary() if sys.argv[1] == "--canary" else check(sys.argv[1]))
