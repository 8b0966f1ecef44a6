#!/bin/sh
# Cleat: the checks on a GPU, over the fakes of CUDA and NCCL.
# SPDX-License-Identifier: Apache-2.0
# usage: fakes.sh CHECKS FAKES hold|fail|late
# hold: they hold where everything is as it should be, and are skipped, loudly,
# where something is not there. fail: each finds what it is there to find. late:
# those that wait for a deadline of ten seconds.
set -u
checks=$1
fakes=$2
part=$3
faults=0
folder=$(mktemp -d /tmp/cleat-test-XXXXXX)
trap 'rm -rf "$folder"' EXIT

# expect STATUS TEXT PLAN LIBRARIES CHECK [OPTION]…: the check exits so and
# prints a line with the text, where the plan holds (test/fakes/gpu/world.h). A
# world of its own for each.
expect() {
    status=$1 text=$2 plan=$3 libraries=$4
    shift 4
    said=0
    out=$(FAKE_GPU="$plan" FAKE_GPU_WORLD="$folder/world" \
        LD_LIBRARY_PATH="$fakes/$libraries:$fakes/lib" \
        "$checks" "$@" --bucket-bytes 30011 --table "$folder/rows" 2>&1) ||
        said=$?
    rm -f "$folder/world"
    if [ "$said" -ne "$status" ] || ! echo "$out" | grep -qE -- "$text"; then
        echo "$* ($plan): exit $said, expected $status and: $text"
        echo "$out" | sed 's/^/    /'
        faults=$((faults + 1))
    else
        echo "$*: $(echo "$out" | grep -E -m 1 -- "$text")"
    fi
}

# row NAME RESULT: the table says so.
row() {
    out=$("$checks" table "$folder/table.md" --table "$folder/rows")
    if ! grep -q "| $2 |.*$3" "$folder/table.md"; then
        echo "no row of $1 with $2 and $3 in:"
        echo "$out" | sed 's/^/    /'
        faults=$((faults + 1))
    fi
}

hold() {
    expect 0 'ok: pipeline: 23 buckets' '' lib pipeline
    expect 0 'ok: pipeline' 'seed=7 steps=1 in_progress=5' lib pipeline
    expect 0 'ok: pipeline' '' nccl_2_19 pipeline
    expect 0 'ok: rebuilds: 100 times' 'real_roots=1' lib rebuilds
    expect 0 'revoke under way .* ms.*abort under way .* ms' 'steps=1' lib stops
    expect 0 'abort under way [0-9.]+ ms' 'steps=1' nccl_2_19 stops
    expect 0 'ok: blocked: lost .*while aborting; ncclCommAbort came back' '' \
        lib blocked
    expect 0 'ok: two: staged broadcast' 'devices=1' lib two
    expect 0 'ok: three: staged broadcast' 'devices=1' lib three
    expect 0 'ok: three' 'devices=1' nccl_2_30 three
    expect 0 'groups formed: 2' 'devices=1 death=reset:3' lib killed
    expect 0 'ok: share' '' lib share
    row pipeline ok '23 buckets'
    row two ok 'on-device fan-out .* GB/s'
    row sanitizer 'not run' ''
    # What is not there is said.
    expect 77 'NOT RUN: share: looked for device memory' '' cuda_without_vmm \
        share
    expect 77 'NOT RUN: blocked: looked for cuStreamWaitValue32' \
        'cuStreamWaitValue32#1:fail=801' lib blocked
    expect 77 'NOT RUN: two: looked for libcuda.so.1, a device and .*no device' \
        'devices=0' lib two
    expect 77 'NOT RUN: stops: looked for libcuda.so.1.*stub' 'init=34' lib \
        stops
    expect 77 'NOT RUN: killed: .*not found: .*2\.18' '' nccl_2_18 killed
    : >"$folder/empty"
    cp "$folder/empty" "$folder/libcuda.so.1"
    expect 77 'NOT RUN: pipeline: .*not found: .*libcuda\.so\.1' '' \
        "../../../../../../../../../..$folder" pipeline
    row pipeline skipped 'looked for libcuda.so.1'
}

fail() {
    # Bytes.
    expect 1 'FAILED: pipeline: .*byte [0-9]+ of bucket' 'ncclRecv#6:garble' \
        lib pipeline
    expect 1 'FAILED: pipeline: .*byte [0-9]+ of bucket' \
        'cuMemcpyAsync#5:garble' lib pipeline
    expect 1 'FAILED: pipeline: .*byte [0-9]+ of bucket 5' '' lib pipeline \
        --canary
    expect 1 'FAILED: two: .*right == 1' 'ncclBroadcast#9:garble@rank=1' lib two
    expect 1 'FAILED: two: .*right == 1' 'ncclRecv#17:garble@rank=1' lib two
    expect 1 'FAILED: two: .*right == 1' '' lib two --canary
    expect 1 'FAILED: three: .*right == 1' 'ncclBroadcast#9:garble@rank=2' lib \
        three
    expect 1 'FAILED: share: .*wrong_bytes' 'cuMemcpyAsync#3:garble' lib share
    # What leaks.
    expect 1 'FAILED: rebuilds: .*files' '' lib rebuilds --canary
    # What hangs: no deadline here is one that could be met.
    expect 1 'FAILED: pipeline: alone' \
        'ncclGroupEnd#5:never' lib pipeline --patience-s 2
    expect 1 'FAILED: pipeline: alone' \
        'ncclGroupEnd#5:hang' lib pipeline --patience-s 2
    expect 1 'FAILED: stops: did not end within 10 s' 'ncclCommAbort#1:never' \
        lib stops --watchdog-s 10
    expect 1 'FAILED: rebuilds: alone' 'ncclCommAbort#3:never' lib rebuilds \
        --patience-s 2
    expect 1 'FAILED: two: ranks' 'ncclBroadcast#15:never@rank=1' lib two \
        --patience-s 2
    expect 1 'FAILED: killed: ranks' \
        'death=reset:3 ncclCommAbort#1:never@rank=1' lib killed --patience-s 2
    # An abort that a blocked stream does not hold up.
    expect 1 'FAILED: blocked: .*DONE' '' lib blocked --canary
    # A driver that hangs, and a check that dies.
    expect 1 'FAILED: two: the process that looked for a GPU' 'cuInit#1:hang' \
        lib two --watchdog-s 2
    expect 1 'FAILED: share: ended by signal 9' 'cuMemcpyAsync#3:kill' lib share
    row two FAILED 'not true'
}

late() {
    expect 0 'groups formed: 2' 'devices=1' lib killed
    expect 0 'groups formed: 3, the last with all' 'devices=1' lib stopped
}

$part
[ "$faults" -eq 0 ] && echo "as it should be"
