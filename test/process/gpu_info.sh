#!/bin/sh
# Cleat: what `cleat gpu info` says, over the fakes and where there is nothing.
# SPDX-License-Identifier: Apache-2.0
# usage: gpu_info.sh COMMAND FAKES
set -eu
command=$1
fakes=$2
faults=0
# expect STATUS TEXT… -- ARGUMENT…: exits so, and prints every text.
expect() {
    status=$1
    shift
    texts=
    while [ "$1" != -- ]; do
        texts="$texts$1
"
        shift
    done
    shift
    said=0
    out=$("$command" gpu "$@" 2>&1) || said=$?
    if [ "$said" -ne "$status" ]; then
        echo "gpu $*: exit $said, expected $status: $out"
        faults=$((faults + 1))
    fi
    echo "$texts" | while IFS= read -r text; do
        [ -z "$text" ] || echo "$out" | grep -qF -- "$text" || {
            echo "gpu $*: does not say: $text"
            echo "$out" | sed 's/^/    /'
            exit 1
        }
    done || faults=$((faults + 1))
}
cuda=$fakes/lib/libcuda.so.1
nccl=$fakes/lib/libnccl.so.2
export FAKE_GPU='devices=2 memory=2G'
expect 0 'CUDA 13.0' 'device 1' '2.0 GiB' '2.28.9' 'yes  ncclCommRevoke' \
    'yes  ncclCommRegister' 'no   NCCL_MULTI_RANK_GPU_ENABLE' -- \
    info --cuda-library "$cuda" --nccl-library "$nccl"
expect 0 '2.19.3' 'yes  ncclCommRegister' 'no   ncclCommRevoke' -- \
    info --cuda-library "$cuda" --nccl-library "$fakes/nccl_2_19/libnccl.so.2"
# One in which there is no function of that name.
folder=$(mktemp -d /tmp/cleat-test-XXXXXX)
trap 'rm -rf "$folder"' EXIT
LC_ALL=C sed 's/ncclCommRegister/ncclCommXegister/g' \
    "$fakes/nccl_2_19/libnccl.so.2" >"$folder/libnccl.so.2"
expect 0 '2.19.3' 'no   ncclCommRegister' -- \
    info --cuda-library "$cuda" --nccl-library "$folder/libnccl.so.2"
expect 2 'NCCL 2.18.6; 2.19 or newer is needed' 'CUDA 13.0' -- \
    info --cuda-library "$cuda" --nccl-library "$fakes/nccl_2_18/libnccl.so.2"
expect 2 'libcuda-none.so.1' '2.28.9' -- \
    info --cuda-library libcuda-none.so.1 --nccl-library "$nccl"
expect 2 'libnccl-none.so.2' 'CUDA 13.0' -- \
    info --cuda-library "$cuda" --nccl-library libnccl-none.so.2
FAKE_GPU='init=34'
expect 2 "stub" -- info --cuda-library "$cuda" --nccl-library "$nccl"
FAKE_GPU='devices=0'
expect 2 'no device' -- info --cuda-library "$cuda" --nccl-library "$nccl"
FAKE_GPU=
expect 2 'info' -- nonsense
expect 2 'unknown' -- info --unknown
expect 0 'usage: cleat gpu info' -- info --help
[ "$faults" -eq 0 ] && echo "what it says is right"
