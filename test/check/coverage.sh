#!/bin/bash
# Cleat: branch coverage of core/ with assertions off, by gcovr.
# SPDX-License-Identifier: Apache-2.0
# NDEBUG is for every copy of core/ in the build: gcovr adds them up.
# usage: coverage.sh ROOT BUILD-FOLDER
set -euo pipefail
root=$1
build=$2
work=$build
branches_min=93 # per cent, over all of core/

command -v gcc >/dev/null || { echo "skipped: no gcc"; exit 77; }
mkdir -p "$build"
. "$(dirname "$0")/host.sh"
quietly cmake -S "$root" -B "$build" -DCMAKE_C_COMPILER=gcc \
    -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS="-O0 -g -DNDEBUG --coverage -fprofile-update=atomic" \
    -DCLEAT_TEST_COVERAGE=ON -DCLEAT_TEST_PREFIX=coverage.
quietly cmake --build "$build" --parallel "$(nproc)"
find "$build" -name '*.gcda' -delete
quietly ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)" \
    --label-regex 'unit|property|model|fuzz' \
    --label-exclude 'canary|long' \
    --exclude-regex '^coverage\.(nccl_(transport|engine|kill|real)_test|cuda_test|weights_gpu_test|fake_|gpu_)'
# transfer_property counts its steps in a copy of its own, by the assertions.
gcovr --root "$root" --object-directory "$build" --filter "$root/core/" \
    --exclude-directories '.*CompilerIdC.*|.*transfer_property.*' \
    --exclude-unreachable-branches --branches --print-summary \
    --json-summary "$build/coverage.json" --json-summary-pretty \
    --fail-under-branch "$branches_min" "$build"
