#!/bin/sh
# Cleat: each port can be left out, and whatever is left links by itself.
# SPDX-License-Identifier: Apache-2.0
# usage: ports_alone.sh ROOT WORK-FOLDER PORT…
set -eu
root=$1
work=$2
shift 2
. "$(dirname "$0")/host.sh"
rm -rf "$work"
mkdir -p "$work/host"
echo 'int main(void) { return 0; }' >"$work/host/main.c"
# Every object of the library, so that nothing it lacks goes unseen.
cat >"$work/host/CMakeLists.txt" <<C
cmake_minimum_required(VERSION 3.22)
project(Host LANGUAGES C)
add_subdirectory("$root" cleat)
add_executable(all_of_it main.c)
target_link_libraries(all_of_it PRIVATE
  -Wl,--whole-archive cleat::cleat -Wl,--no-whole-archive)
C
builds() { # what to say, then cmake's options
    said=$1
    shift
    quietly cmake -S "$work/host" -B "$work/build" "$@"
    quietly cmake --build "$work/build"
    echo "$said: links"
}
all() { # every port so
    for port in $ports; do echo "-DCLEAT_$port=$1"; done
}
ports=$(echo "$@" | tr '[:lower:]' '[:upper:]')
# shellcheck disable=SC2046
builds "no port" $(all OFF)
for one in $ports; do
    # shellcheck disable=SC2046
    builds "without $one" $(all AUTO) "-DCLEAT_$one=OFF"
    # shellcheck disable=SC2046
    if cmake -S "$work/host" -B "$work/build" $(all OFF) "-DCLEAT_$one=ON" \
        >"$work/log" 2>&1; then
        # shellcheck disable=SC2046
        builds "$one alone" $(all OFF) "-DCLEAT_$one=ON"
    elif grep -q "CLEAT_$one=ON needs" "$work/log"; then
        echo "$one alone: refused: $(grep -o "CLEAT_$one=ON needs.*" "$work/log")"
    else
        cat "$work/log"
        exit 1
    fi
done
