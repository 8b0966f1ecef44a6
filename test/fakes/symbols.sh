#!/bin/sh
# Cleat: every name that the fake libraries export is one of the real ones.
# SPDX-License-Identifier: Apache-2.0
# usage: symbols.sh NM FAKES FOLDER…    folders with stubs/libcuda.so and
#                                       libnccl.so.2
#
# What is newer than the real libnccl at hand is listed below, with the version
# that brought it. Exits 77 when there is no real library to compare with.
set -eu
nm=$1
fakes=$2
shift 2
newer="ncclCommGetUniqueId ncclCommGrow" # 2.29.2

names() {
    "$nm" -D --defined-only "$1" | awk '$2 ~ /^[TWVBDR]$/ { print $3 }' |
        sed 's/@.*//' | sort -u
}

# compare REAL FAKE
compare() {
    real=$(names "$1")
    fake=$(names "$2")
    [ -n "$fake" ] || { echo "$2 exports nothing"; exit 1; }
    for name in $fake; do
        case " $newer " in *" $name "*) continue ;; esac
        case $name in fake_*) continue ;; esac
        if ! echo "$real" | grep -qx "$name"; then
            echo "$2 exports $name, which $1 lacks"
            faults=$((faults + 1))
        fi
    done
    compared=$((compared + 1))
}

faults=0
compared=0
cuda=
nccl=
for folder in "$@"; do
    if [ -e "$folder/stubs/libcuda.so" ] && [ -z "$cuda" ]; then
        cuda=$folder/stubs/libcuda.so
        for fake in "$fakes"/*/libcuda.so.1; do
            compare "$cuda" "$fake"
        done
    fi
    if [ -e "$folder/libnccl.so.2" ] && [ -z "$nccl" ]; then
        nccl=$folder/libnccl.so.2
        for fake in "$fakes"/*/libnccl.so.2; do
            compare "$nccl" "$fake"
        done
    fi
done
if [ "$compared" -eq 0 ]; then
    echo "no real libcuda or libnccl to compare with in: $*"
    exit 77
fi
echo "$compared libraries compared with ${cuda:-none} and ${nccl:-none}," \
    "$faults faults"
[ "$faults" -eq 0 ]
