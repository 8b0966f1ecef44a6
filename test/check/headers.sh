#!/bin/sh
# Cleat: every public header compiles alone, as C11 and as C++17, with each
# compiler that is there. SPDX-License-Identifier: Apache-2.0
# usage: headers.sh ROOT COMPILER…
set -eu
root=$1
shift
warnings='-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror'
headers=0
faults=0
for compiler in "$@"; do
    command -v "$compiler" >/dev/null || continue
    case $compiler in
    *++) language='-x c++ -std=c++17' ;;
    *) language='-x c -std=c11 -Wstrict-prototypes' ;;
    esac
    for header in "$root"/include/cleat/*.h; do
        # Twice: the include guard is part of it.
        # shellcheck disable=SC2086
        if ! printf '#include "cleat/%s"\n#include "cleat/%s"\nint cleat_unit;\n' \
            "${header##*/}" "${header##*/}" |
            "$compiler" $language $warnings -I"$root/include" -fsyntax-only -; then
            echo "$compiler: ${header##*/} does not compile alone"
            faults=$((faults + 1))
        fi
        headers=$((headers + 1))
    done
done
echo "$headers compilations, $faults faults"
[ "$headers" -gt 0 ] && [ "$faults" -eq 0 ]
