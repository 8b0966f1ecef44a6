#!/bin/sh
# Cleat: cleat_core wants four string functions of its host and nothing else,
# keeps no state of its own, and takes no name but cleat_*.
# SPDX-License-Identifier: Apache-2.0
# usage: symbols.sh libcleat_core.a [NM] [SIZE]
set -eu
library=$1
nm=${2:-nm}
size=${3:-size}
symbols=$("$nm" "$library")
defined=$(echo "$symbols" | awk 'NF == 3 && $2 ~ /[A-TV-Z]/ { print $3 }' | sort -u)
wanted=$(echo "$symbols" | awk '$1 == "U" { print $2 }' | sort -u)
[ -n "$defined" ] || { echo "$library defines nothing"; exit 1; }
faults=0
for name in $wanted; do
    case $name in
    memcpy | memmove | memset | memcmp | _GLOBAL_OFFSET_TABLE_) ;;
    *)
        if ! echo "$defined" | grep -qx "$name"; then
            echo "cleat_core wants $name"
            faults=$((faults + 1))
        fi
        ;;
    esac
done
for name in $defined; do
    case $name in
    cleat_*) ;;
    *)
        echo "cleat_core takes the name $name"
        faults=$((faults + 1))
        ;;
    esac
done
# .data.rel.ro is constant: pointers that the loader fills in.
state=$("$size" -A "$library" |
    awk '$1 ~ /^\.t?(data|bss)(\.|$)/ && $1 !~ /^\.data\.rel\.ro/ { n += $2 }
         END { print n + 0 }')
if [ "$state" -ne 0 ]; then
    echo "cleat_core keeps $state bytes of state (.data, .bss)"
    faults=$((faults + 1))
fi
echo "wanted: $(echo $wanted | sed 's/ /, /g')"
[ "$faults" -eq 0 ]
