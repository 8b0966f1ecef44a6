# Cleat: builds of Cleat in a host's project. SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts beside it.

# cmake's and make's words only when they fail.
quietly() {
    if ! "$@" >"$work/log" 2>&1; then
        cat "$work/log"
        echo "failed: $*"
        exit 1
    fi
}

# Whatever the environment of the test says, these builds are plain.
unset CFLAGS LDFLAGS CMAKE_GENERATOR 2>/dev/null || true
