#!/usr/bin/env python3
"""Cleat: each source check finds a planted fault, and a clean tree passes.
SPDX-License-Identifier: Apache-2.0

usage: canaries.py FOLDER-OF-source.py
"""
import os
import subprocess
import sys
import tempfile

GOOD = {
    "core/a.c": '#include "cleat/a.h"\n#include <string.h>\n'
                '/* malloc in a comment */\n'
                'int f(void)\n{\n    CLEAT_ASSERT(1);\n'
                '    CLEAT_ASSERT("abort(");\n    return 0;\n}\n',
    "include/cleat/a.h": "#ifndef CLEAT_A_H\n#include <stdint.h>\n"
                         "#if defined(CLEAT_A_DETECT)\n#include <cpuid.h>\n"
                         "#endif\n#endif\n",
    "port/one/one.c": '#include "one.h"\n#include <stdio.h>\n',
    "port/one/one.h": '#include "cleat/a.h"\n',
    "port/two/two.h": "",
    "tools/t.c": '#include "cleat/a.h"\n',
    "test/t.c": "static void r1_it_holds(void **s)\n{\n}\n",
    "README.md": "| R1 | it holds |\n", "LICENSE": "",
    "CMakeLists.txt": "set(sources a one.c t)\n",
    "CMakePresets.json": "",
}

PLANTED = [
    ("includes", "core/b.c", "#include <stdio.h>\n"),
    ("includes", "core/b.c", '#include "../port/one/one.h"\n'),
    ("includes", "include/cleat/a.h", "#include <stdlib.h>\n"),
    ("includes", "include/cleat/a.h",
     "#ifndef CLEAT_A_H\n#include <stdlib.h>\n#endif\n"),
    ("words", "core/b.c", "#define CLEAT_A_DETECT 1\n"),
    ("includes", "include/cleat/b.h", '#include "../core/x.h"\n'),
    ("includes", "port/two/two.c", '#include "../one/one.h"\n'),
    ("includes", "port/two/two.c", '#include "cleat/missing.h"\n'),
    ("includes", "tools/u.c", '#include "../port/one/one.h"\n'),
    ("words", "core/b.c", "void *p = malloc(1);\n"),
    ("words", "core/b.c", "static double d;\n"),
    ("words", "core/b.c", "int f(void) { return pthread_self(); }\n"),
    ("assertions", "core/b.c",
     "void g(void)\n{\n    /* CLEAT_ASSERT(1); */\n}\n"),
    ("assertions", "core/b.c",
     "#define X() \\\n    CLEAT_ASSERT(1)\nvoid g(void)\n{\n"
     "    CLEAT_STATIC_ASSERT(1, \"\");\n}\n"),
    ("top_level", "notes.txt", ""),
    ("top_level", "lib/x.c", ""),
    ("registered", "test/forgotten_test.c", ""),
    ("registered", "core/forgotten.c", ""),
    ("requirements", "README.md", "| R1 | it holds |\n| R2 | so does it |\n"),
    ("requirements", "test/t.c", "/* r1_it_holds() */\n"),
    ("requirements", "test/u.c", "static void r3_more(void **s)\n{\n}\n"),
]


def write(root, files):
    for path, text in files.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(text)


def passes(script, check, root):
    return subprocess.run([sys.executable, script, check, root],
                          stdout=subprocess.DEVNULL).returncode == 0


def main():
    script = os.path.join(sys.argv[1], "source.py")
    wrong = 0
    with tempfile.TemporaryDirectory() as root:
        write(root, GOOD)
        for check in ("includes", "words", "assertions", "top_level",
                      "registered", "requirements"):
            if not passes(script, check, root):
                print(f"{check}: refuses a clean tree")
                wrong += 1
    for check, path, text in PLANTED:
        with tempfile.TemporaryDirectory() as root:
            write(root, GOOD)
            write(root, {path: text})
            if passes(script, check, root):
                print(f"{check}: does not see {path}: {text!r}")
                wrong += 1
    print(f"{len(PLANTED)} planted faults, {wrong} wrong answers")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
