#!/usr/bin/env python3
"""Cleat: the fakes' table of facts. SPDX-License-Identifier: Apache-2.0

usage: gpu_fakes.py ROOT | --canary

Every row of test/fakes/README.md names a file that is there, a test that is
there, and what it copies.
"""
import os
import re
import sys

NAMED = re.compile(r"`([\w./]+)`")


def tests_of(root):
    """What the fakes' tests are called: functions and registered names."""
    names = set()
    for folder, _, files in os.walk(os.path.join(root, "test", "fakes")):
        for name in files:
            if not name.endswith((".c", ".txt")):
                continue
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text = file.read()
            names |= set(re.findall(r"\b(?:WITH\(|BARE\(|NAME )(\w+)", text))
    return names


def faults_of(text, is_file, tests):
    faults = []
    rows = 0
    for number, line in enumerate(text.split("\n"), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 4 or cells[1] in ("file",
                                                                     "---"):
            continue
        rows += 1
        for name in NAMED.findall(cells[1]):
            if not is_file(name):
                faults.append(f"{number}: no file {name}")
        named = NAMED.findall(cells[2])
        faults += [f"{number}: no test {name}" for name in named
                   if name not in tests]
        if not NAMED.findall(cells[1]) or not named or len(cells[3]) < 4:
            faults.append(f"{number}: a file, a test and a fact are needed")
    return faults if rows > 0 else ["there is no row"]


def check(root):
    folder = os.path.join(root, "test", "fakes")
    with open(os.path.join(folder, "README.md"), encoding="utf-8") as file:
        text = file.read()
    faults = faults_of(text, lambda name: os.path.exists(
        os.path.join(folder, name)), tests_of(root))
    print("\n".join(f"test/fakes/README.md:{fault}" for fault in faults)
          if faults else "every row holds")
    return 1 if faults else 0


def canary():
    good = "| it waits | `a.c` | `it_waits` | cuda.h |"
    planted = [good.replace("a.c", "b.c"), good.replace("it_waits", "it_was"),
               good.replace("cuda.h", ""), good.replace("`it_waits`", ""), ""]
    missed = [row for row in planted
              if not faults_of(row, lambda name: name == "a.c", {"it_waits"})]
    if faults_of(good, lambda name: name == "a.c", {"it_waits"}):
        missed.append(good)
    print("\n".join(missed) if missed else f"{len(planted)} planted faults "
          "found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(canary() if sys.argv[1] == "--canary" else check(sys.argv[1]))
