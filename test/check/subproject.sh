#!/bin/sh
# Cleat: a host that adds Cleat as a folder, or as FetchContent does, gets two
# libraries and keeps its own settings. SPDX-License-Identifier: Apache-2.0
# usage: subproject.sh ROOT WORK-FOLDER
set -eu
root=$1
work=$2
. "$(dirname "$0")/host.sh"
rm -rf "$work"
mkdir -p "$work/host"
cat >"$work/host/main.c" <<'C'
#include <stdio.h>
#include "cleat/status.h"
int main(void)
{
    int sloppy; /* the host's own warnings are the host's own business */
    puts(cleat_status_name(CLEAT_PEER_LOST));
    return 0;
}
C
cat >"$work/host/CMakeLists.txt" <<C
cmake_minimum_required(VERSION 3.22)
project(Host LANGUAGES C)
set(before_flags "\${CMAKE_C_FLAGS}|\${CMAKE_BUILD_TYPE}|\${BUILD_TESTING}")
set(before_standard "\${CMAKE_C_STANDARD}|\${CMAKE_C_COMPILER}")
get_cmake_property(before_cache CACHE_VARIABLES)
if(FETCH)
  include(FetchContent)
  FetchContent_Declare(cleat SOURCE_DIR "$root")
  FetchContent_MakeAvailable(cleat)
else()
  add_subdirectory("$root" cleat)
endif()
if(NOT before_flags STREQUAL "\${CMAKE_C_FLAGS}|\${CMAKE_BUILD_TYPE}|\${BUILD_TESTING}"
   OR NOT before_standard STREQUAL "\${CMAKE_C_STANDARD}|\${CMAKE_C_COMPILER}")
  message(FATAL_ERROR "Cleat changed the host's settings")
endif()
get_cmake_property(after_cache CACHE_VARIABLES)
foreach(name IN LISTS after_cache)
  if(NOT name IN_LIST before_cache
     AND NOT name MATCHES "^(CLEAT_|Cleat_|CMAKE_INSTALL_|CMAKE_PROJECT_|FETCHCONTENT_|CMAKE_HAVE_LIBC_PTHREAD|FIND_PACKAGE_MESSAGE_DETAILS_Threads|_GNUInstallDirs)")
    message(FATAL_ERROR "Cleat put \${name} in the host's cache")
  endif()
endforeach()
foreach(target IN ITEMS cleat_command cleat_checked cleat_test_support)
  if(TARGET \${target})
    message(FATAL_ERROR "Cleat built \${target} in a host's project")
  endif()
endforeach()
foreach(library IN ITEMS core cleat)
  add_executable(host_\${library} main.c)
  target_link_libraries(host_\${library} PRIVATE cleat::\${library})
endforeach()
# Position-independent: it can end in a shared library.
add_library(host_shared SHARED main.c)
target_link_libraries(host_shared PRIVATE cleat::cleat)
C
for fetch in OFF ON; do
    quietly cmake -S "$work/host" -B "$work/build$fetch" -DFETCH=$fetch
    quietly cmake --build "$work/build$fetch"
    for program in host_core host_cleat; do
        said=$("$work/build$fetch/$program")
        [ "$said" = PEER_LOST ] || { echo "$program said: $said"; exit 1; }
    done
    if ! grep -q '^CLEAT_WARNINGS:BOOL=OFF' "$work/build$fetch/CMakeCache.txt"; then
        echo "Cleat's warnings are on in a host's project"
        exit 1
    fi
done
