#!/bin/sh
# Cleat: no recursion in core/, seen at -O0, where no call is optimised away;
# and a recursive function is seen, when there is one.
# SPDX-License-Identifier: Apache-2.0
# usage: recursion.sh ROOT WORK-FOLDER
set -eu
root=$1
work=$2
here=$(dirname "$0")
command -v gcc >/dev/null || { echo "skipped: no gcc"; exit 77; }
rm -rf "$work"
mkdir -p "$work/core" "$work/canary"

graph() { # source folder: leaves a .ci file in the folder
    (cd "$2" && gcc -std=c11 -O0 -ffreestanding -DNDEBUG -I"$root/include" \
        -fcallgraph-info=su -c "$1")
}

for source in "$root"/core/*.c; do
    graph "$source" "$work/core"
done
python3 "$here/recursion.py" "$work"/core/*.ci

cat >"$work/canary/loop.c" <<'C'
int odd(int n);
static int even(int n) { return n == 0 ? 1 : odd(n - 1); }
int odd(int n) { return n == 0 ? 0 : even(n - 1); }
C
cat >"$work/canary/pointer.c" <<'C'
int call(int (*f)(void));
int call(int (*f)(void)) { return f(); }
C
cat >"$work/canary/vla.c" <<'C'
int touch(int n);
int touch(int n) { volatile char a[n]; a[0] = 1; return a[0]; }
C
for canary in loop pointer vla; do
    graph "$work/canary/$canary.c" "$work/canary"
    if python3 "$here/recursion.py" "$work/canary/$canary.ci" >/dev/null; then
        echo "the planted fault in $canary.c was not seen"
        exit 1
    fi
done
