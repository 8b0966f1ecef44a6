#!/bin/sh
# Cleat: an example of the README, taken from the README, compiles and runs, and
# is short. SPDX-License-Identifier: Apache-2.0
# usage: readme_example.sh ROOT WORK-FOLDER MARK LINES-MAX
set -eu
root=$1
work=$2
mark=$3
lines_max=$4
. "$(dirname "$0")/host.sh"
rm -rf "$work"
mkdir -p "$work/host"
# The ```c block that follows the line `<!-- MARK -->`.
awk -v mark="<!-- $mark -->" '
     $0 == mark { marked = 1; next }
     marked && /^```c$/ { inside = 1; next }
     inside && /^```$/ { exit }
     inside { print }' "$root/README.md" >"$work/host/main.c"
lines=$(wc -l <"$work/host/main.c")
if [ "$lines" -eq 0 ]; then
    echo "README.md has no C block after <!-- $mark -->"
    exit 1
fi
if [ "$lines" -gt "$lines_max" ]; then
    echo "the example has $lines lines, $lines_max are allowed"
    exit 1
fi
cat >"$work/host/CMakeLists.txt" <<C
cmake_minimum_required(VERSION 3.22)
project(Host LANGUAGES C)
add_subdirectory("$root" cleat)
add_executable(example main.c)
target_compile_options(example PRIVATE -Wall -Wextra -Werror)
target_link_libraries(example PRIVATE cleat::cleat)
C
quietly cmake -S "$work/host" -B "$work/build" -DCMAKE_BUILD_TYPE=Release
quietly cmake --build "$work/build"
cd "$work"
timeout 60 "$work/build/example"
echo "$lines lines"
