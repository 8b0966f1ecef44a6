#!/bin/sh
# Cleat: what is installed is found by find_package and links.
# SPDX-License-Identifier: Apache-2.0
# usage: package.sh ROOT BUILD-FOLDER WORK-FOLDER
set -eu
build=$2
work=$3
. "$(dirname "$0")/host.sh"
rm -rf "$work"
mkdir -p "$work/host"
quietly cmake --install "$build" --prefix "$work/prefix"
cat >"$work/host/main.c" <<'C'
#include <stdio.h>
#include "cleat/status.h"
int main(void)
{
    puts(cleat_status_name(CLEAT_PEER_LOST));
    return 0;
}
C
cat >"$work/host/CMakeLists.txt" <<'C'
cmake_minimum_required(VERSION 3.22)
project(Host LANGUAGES C)
find_package(cleat 0.1 REQUIRED)
foreach(library IN ITEMS core cleat)
  add_executable(host_${library} main.c)
  target_link_libraries(host_${library} PRIVATE cleat::${library})
endforeach()
C
quietly cmake -S "$work/host" -B "$work/host/build" -DCMAKE_PREFIX_PATH="$work/prefix"
quietly cmake --build "$work/host/build"
for program in host_core host_cleat; do
    said=$("$work/host/build/$program")
    [ "$said" = PEER_LOST ] || { echo "$program said: $said"; exit 1; }
done
