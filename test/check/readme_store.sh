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
# Everything on this machine sees a shared store's name: here it is one that
# nobody else has, and that none who was killed can have left.
demo=demo-test-$$
sed "s/shared=demo\\>/shared=$demo/" commands >mine
if ! grep -q "shared=$demo" mine; then
    echo 'README.md has no store of the name demo under "### `cleat store`"'
    exit 1
fi
rm -f "/dev/shm/cleat-store-$demo"
trap 'rm -f "/dev/shm/cleat-store-$demo"' EXIT
if ! grep -q 'cleat store put' commands; then
    echo 'README.md has no commands under "### `cleat store`"'
    exit 1
fi
set -x
. ./mine
