#!/bin/sh
# Cleat: the README's commands of `cleat store`, taken from the README, work as
# printed. SPDX-License-Identifier: Apache-2.0
# usage: readme_store.sh ROOT WORK-FOLDER CLEAT
set -eu
root=$1
work=$2
cleat=$3
rm -rf "$work"
mkdir -p "$work/bin"
ln -s "$cleat" "$work/bin/cleat"
PATH=$work/bin:$PATH
cd "$work"
# The first indented block under the heading.
awk '$0 == "### `cleat store`" { marked = 1; next }
     marked && /^    / { inside = 1; print substr($0, 5); next }
     inside { exit }' "$root/README.md" >commands
shared=/dev/shm/cleat-store-demo
if [ -e "$shared" ]; then
    echo "$shared is somebody's: not touched"
    exit 1
fi
trap 'rm -f "$shared"' EXIT
if ! grep -q 'cleat store put' commands; then
    echo 'README.md has no commands under "### `cleat store`"'
    exit 1
fi
set -x
. ./commands
