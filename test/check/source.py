#!/usr/bin/env python3
"""Cleat: checks of the source as text. SPDX-License-Identifier: Apache-2.0

usage: source.py includes|words|assertions|top_level|registered|
                 requirements ROOT

Each prints one line a fault, file and line first, and exits 1 if there is one.
"""
import os
import re
import subprocess
import sys

CORE_HEADERS = {"stdint.h", "stddef.h", "stdbool.h", "string.h"}

# What core/ may not call (allocation, I/O, clocks, threads, ends, text) and
# what it may not name at all.
CORE_WORDS = re.compile(
    r"\b(?:malloc|calloc|realloc|free|alloca|\w*printf|puts|putchar|fopen|"
    r"abort|exit|_exit|assert|getenv|time|clock|clock_gettime|gettimeofday|"
    r"nanosleep|sleep|usleep|rand|random|pthread_\w+|mtx_\w+|thrd_\w+|"
    r"__atomic_\w+|__sync_\w+|setjmp|longjmp|signal|strcpy|strcat|strlen|"
    r"strcmp|strncmp|strchr|sprintf|qsort)\b(?=\s*\()|"
    r"\b(?:errno|_Atomic|atomic_\w+|_Thread_local|float|double)\b")

TOP_LEVEL = {"CMakeLists.txt", "CMakePresets.json", "core", "port", "include",
             "test", "tools", "README.md", "LICENSE"}

ASSERTIONS_A_FUNCTION = 2.0


def sources(root, *folders):
    """Paths of the C files and headers under `folders`, sorted."""
    found = []
    for folder in folders:
        for where, _, names in os.walk(os.path.join(root, folder)):
            found += [os.path.join(where, name) for name in names
                      if name.endswith((".c", ".h"))]
    return sorted(found)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def without_comments(text, strings_too):
    """`text` with comments (and strings) blanked, line numbers kept."""
    def blank(match):
        part = match.group(0)
        if part[0] == "/" or strings_too:
            return re.sub(r"[^\n]", " ", part)
        return part
    return re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|"
                  r"'(?:\\.|[^'\\\n])*'", blank, text, flags=re.S)


def includes_of(path):
    """(line, "<" or '"', name, asked for) of every #include.

    "asked for" is true inside an #if that names a CLEAT_ macro other than an
    include guard: such an include is there only for who defines the macro.
    """
    text = without_comments(read(path), strings_too=False)
    conditions = []
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r"\s*#\s*(\w+)\s*(.*)", line)
        if not match:
            continue
        word, rest = match.groups()
        if word in ("if", "ifdef", "ifndef"):
            conditions.append(word != "ifndef" and
                              re.search(r"\bCLEAT_\w+", rest) is not None)
        elif word == "endif" and conditions:
            conditions.pop()
        elif word == "include":
            name = re.match(r'([<"])([^>"]+)[>"]', rest)
            if name:
                yield number, name.group(1), name.group(2), any(conditions)


def check_includes(root):
    """Arrows point one way: tools -> port -> include <- core."""
    faults = []

    def fault(path, line, why):
        faults.append(f"{os.path.relpath(path, root)}:{line}: {why}")

    # What core/ reaches of include/, directly or not.
    reached, waiting = set(), sources(root, "core")
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        for _, kind, name, _ in includes_of(path):
            header = os.path.join(root, "include", name)
            if kind == '"' and os.path.exists(header):
                waiting.append(header)

    for path in sorted(reached):
        in_core = path.startswith(os.path.join(root, "core"))
        for line, kind, name, asked_for in includes_of(path):
            if kind == "<" and name not in CORE_HEADERS and \
                    (in_core or not asked_for):
                fault(path, line, f"core includes <{name}>")

    for path in sources(root, "core", "include", "port", "tools"):
        parts = os.path.relpath(path, root).split(os.sep)
        home = os.path.join(root, *parts[:2]) if parts[0] == "port" \
            else os.path.join(root, parts[0])
        for line, kind, name, _ in includes_of(path):
            if kind == "<":
                if name.startswith("cleat/"):
                    fault(path, line, f'<{name}> should be "{name}"')
                continue
            if name.startswith("cleat/"):
                if not os.path.exists(os.path.join(root, "include", name)):
                    fault(path, line, f"{name} is not in include/")
                continue
            beside = os.path.normpath(os.path.join(os.path.dirname(path),
                                                   name))
            if parts[0] == "include":
                fault(path, line, f"a public header includes {name}")
            elif not (beside.startswith(home + os.sep)
                      and os.path.exists(beside)):
                fault(path, line, f"{'/'.join(parts[:-1])} looks inside "
                                  f"another folder: {name}")
    return faults


def check_words(root):
    """core/ names nothing of the world."""
    faults = []
    for path in sources(root, "core"):
        text = without_comments(read(path), strings_too=True)
        for number, line in enumerate(text.split("\n"), 1):
            if re.match(r"\s*#\s*include", line):
                continue
            if re.match(r"\s*#\s*define\s+CLEAT_\w+_DETECT\b", line):
                faults.append(f"{os.path.relpath(path, root)}:{number}: core "
                              "asks for what is not freestanding")
            for match in CORE_WORDS.finditer(line):
                faults.append(f"{os.path.relpath(path, root)}:{number}: core "
                              f"names {match.group(0)}")
    return faults


def check_assertions(root):
    """At least two assertions a function, over all of core/.

    A function is a `{` in the first column (the format puts a body's there
    and no other); an assertion is a CLEAT_ASSERT( outside comments, strings
    and #defines. CLEAT_STATIC_ASSERT does not count.
    """
    functions = assertions = 0
    for path in sources(root, "core"):
        text = without_comments(read(path), strings_too=True)
        text = re.sub(r"^[ \t]*#(?:\\\n|[^\n])*", "", text, flags=re.M)
        here = len(re.findall(r"^\{", text, flags=re.M))
        asserted = len(re.findall(r"\bCLEAT_ASSERT\s*\(", text))
        if here or asserted:
            print(f"{os.path.relpath(path, root):24} {here:4} functions "
                  f"{asserted:4} assertions  {asserted / max(here, 1):.2f}")
        functions += here
        assertions += asserted
    density = assertions / max(functions, 1)
    print(f"{'all of core/':24} {functions:4} functions {assertions:4} "
          f"assertions  {density:.2f}")
    if functions == 0:
        return ["core/: no function was found"]
    if density < ASSERTIONS_A_FUNCTION:
        return [f"core/: {density:.2f} assertions a function, at least "
                f"{ASSERTIONS_A_FUNCTION:.0f} are wanted"]
    return []


def check_top_level(root):
    """Nothing at the top but what belongs there, and all of that."""
    try:
        listed = subprocess.run(
            ["git", "-C", root, "ls-files", "-co", "--exclude-standard"],
            check=True, capture_output=True, text=True).stdout.split("\n")
        entries = {line.split("/")[0].strip('"') for line in listed if line}
    except (OSError, subprocess.CalledProcessError):
        entries = set(os.listdir(root)) - {"build"}
    entries = {name for name in entries if not name.startswith(".")}
    return [f"{name}: does not belong at the top level"
            for name in sorted(entries - TOP_LEVEL)] + \
           [f"{name}: is missing at the top level"
            for name in sorted(TOP_LEVEL - entries)]


def check_registered(root):
    """Every source of a test, and of the library, is named in its build."""
    faults = []
    for path in sources(root, "core", "port", "test", "tools"):
        if path.endswith(".h"):
            continue
        folder, file = os.path.split(path)
        named = ""
        while len(folder) >= len(root):
            listing = os.path.join(folder, "CMakeLists.txt")
            if os.path.exists(listing):
                named += re.sub(r"#[^\n]*", "", read(listing))
            folder = os.path.dirname(folder)
        stem = re.escape(os.path.splitext(file)[0])
        if not re.search(rf"(?<![\w]){stem}(?![\w])", named):
            faults.append(f"{os.path.relpath(path, root)}: no CMakeLists.txt "
                          "names it")
    return faults


def check_requirements(root):
    """Each requirement of the README's table, | R4 | …, is shown by a test of
    that name, r4_…, and no test shows one that is not there."""
    stated = set(re.findall(r"^\| R(\d+) \|", read(os.path.join(
        root, "README.md")), re.M))
    shown = {}
    for path in sources(root, "test"):
        text = without_comments(read(path), True)
        for number in re.findall(r"\br(\d+)_[a-z]\w*\s*\(", text):
            shown.setdefault(number, os.path.relpath(path, root))
    return [f"README.md: no test is named r{number}_…"
            for number in sorted(stated - set(shown), key=int)] + \
           [f"{path}: r{number}_… is no requirement of README.md"
            for number, path in sorted(shown.items()) if number not in stated]


def main():
    checks = {"includes": check_includes, "words": check_words,
              "assertions": check_assertions, "top_level": check_top_level,
              "registered": check_registered,
              "requirements": check_requirements}
    if len(sys.argv) != 3 or sys.argv[1] not in checks:
        sys.exit(__doc__)
    faults = checks[sys.argv[1]](os.path.abspath(sys.argv[2]))
    for line in faults:
        print(line)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
