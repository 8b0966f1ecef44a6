#!/bin/sh
# Cleat: the source is as .clang-format says. SPDX-License-Identifier: Apache-2.0
# usage: format.sh ROOT CLANG-FORMAT
# Another major version formats otherwise; Debian 12 has 14.
set -eu
root=$1
format=$2
case $("$format" --version) in
*version\ 14.*) ;;
*)
    echo "skipped: clang-format 14 is wanted, this is: $("$format" --version)"
    exit 77
    ;;
esac
cd "$root"
find core include port test tools -name '*.[ch]' -print0 |
    xargs -0 "$format" --style=file --dry-run -Werror
