#!/usr/bin/env python3
# Cleat: the README's table of faults says what the rules say.
# SPDX-License-Identifier: Apache-2.0
"""usage: readme_table.py README.md

matrix.py runs every cell of rules.py through real processes; here the README is
compared with rules.py, and rules.py with the cells that are given.
"""
import sys

sys.dont_write_bytecode = True  # nothing in the source tree

import rules


def check_given():
    """The cells that the design gives, spelt out."""
    lasting = ("permanent", "kill", "stop")
    passing = ("error", "lost-answer", "late", "corrupt")
    for mode in rules.MODES:
        for kind in lasting:
            for step in ("pause", "release", "prepare", "group", "send",
                         "send@5", "commit", "finalize", "restore", "resume"):
                assert rules.expected(step, "replica", kind, mode) == 3
            for step in ("prepare", "group", "send", "send@1"):
                assert rules.expected(step, "trainer", kind, mode) == 4
            assert rules.expected("finalize", "trainer", kind, mode) == 0
            for who in ("trainer", "replica"):
                assert rules.expected("start", who, kind, mode) == 5
        for kind in passing:
            for step in rules.STEPS:
                assert rules.expected(step, "replica", kind, mode) == 0
    for kind in lasting:
        assert rules.expected("send@5", "trainer", kind, "staged") == 4
        assert rules.expected("send@5", "trainer", kind, "in-place") == 5


def main():
    check_given()
    with open(sys.argv[1], encoding="utf-8") as file:
        readme = file.read()
    table = rules.table()
    if table in readme:
        return 0
    print(f"README.md does not have this table:\n\n{table}\n", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
