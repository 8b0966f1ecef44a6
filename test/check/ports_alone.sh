#!/bin/sh
# Cleat: each port can be left out, and what is left still builds and links
# what it needs. SPDX-License-Identifier: Apache-2.0
# usage: ports_alone.sh ROOT WORK-FOLDER
set -eu
root=$1
work=$2
. "$(dirname "$0")/host.sh"
rm -rf "$work"
mkdir -p "$work"
options() { # the port that is chosen, and how the others are
    for port in LINUX MEMORY SAFETENSORS SERVICE; do
        if [ "$port" = "$1" ]; then echo "-DCLEAT_$port=$2"; else echo "-DCLEAT_$port=$3"; fi
    done
}
for port in LINUX MEMORY SAFETENSORS SERVICE; do
    for choice in "ON OFF" "OFF AUTO"; do
        # shellcheck disable=SC2046,SC2086
        quietly cmake -S "$root" -B "$work/build" -DCLEAT_TOOLS=OFF \
            -DCLEAT_TESTS=OFF $(options $port $choice)
        quietly cmake --build "$work/build"
        echo "$port $choice: builds"
    done
done
