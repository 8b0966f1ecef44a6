#!/bin/sh
# Cleat: checks on a GPU under compute-sanitizer. SPDX-License-Identifier:
# Apache-2.0
# usage: sanitizer.sh CHECKS ROWS [TOOL]
# Exit: 0 clean; 77 there is no GPU or no tool, which standard output says.
set -u
checks=$1
rows=$2
tool=${3:-compute-sanitizer}
row() { # RESULT TEXT
    echo "$1: sanitizer: $2"
    "$checks" row sanitizer "$1" "$2" --table "$rows"
}
found=$("$checks" look)
code=$?
if [ $code -ne 0 ]; then
    [ $code -eq 77 ] && row skipped "${found#NOT RUN: look: }" ||
        row FAILED "${found#FAILED: look: }"
    exit $code
fi
if ! version=$("$tool" --version 2>&1); then
    row skipped "looked for compute-sanitizer; not found"
    exit 77
fi
version=$(echo "$version" | grep -iom1 'version.*')
log=$(mktemp)
trap 'rm -f "$log"' EXIT
said=
# Kernels are many times slower, and nothing here is about deadlines. Calls
# that NCCL makes to find out what there is may fail.
for check in pipeline two; do
    "$tool" --tool memcheck --target-processes all --error-exitcode 86 \
        --report-api-errors no "$checks" "$check" --bucket-bytes 1048579 --patience-s 200 \
        --watchdog-s 800 >"$log" 2>&1
    code=$?
    summary=$(grep -c 'ERROR SUMMARY: 0 errors' "$log")
    if [ $code -ne 0 ] || grep -q 'ERROR SUMMARY: [1-9]' "$log"; then
        cat "$log"
        row FAILED "$check: exit $code: $(
            grep -m1 -E 'FAILED|ERROR SUMMARY: [1-9]' "$log")"
        exit 1
    fi
    said="$said$check: $summary processes without an error; "
done
row ok "$said$version"
