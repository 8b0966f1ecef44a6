#!/usr/bin/env python3
"""Cleat: YAML against OmegaConf. SPDX-License-Identifier: Apache-2.0

usage: yaml_omegaconf.py YAML_JSON CONFIGS [COUNT [SEED]]

What YAML_JSON gives for a text is what OmegaConf gives for it (load, then
to_container with resolve), or it is refused by line and column. The texts are
the files in CONFIGS, which must all be accepted; generated documents of
ordinary YAML, which must be too; and COUNT texts of each of three kinds that
look for trouble: scalars over several lines, fragments thrown together, and
documents with a few bytes changed. Prints how many of each were accepted.
Exits 77 without OmegaConf.
"""
import io
import json
import math
import os
import random
import re
import subprocess
import sys

try:
    from omegaconf import OmegaConf
except ImportError:
    print("no OmegaConf")
    sys.exit(77)

ENVIRONMENT = {
    "CLEAT_A": "alpha", "CLEAT_URL": "http://127.0.0.1:8000/x?y=1#z",
    "CLEAT_EMPTY": "", "CLEAT_ODD": 'a "b" \\ ${c} \té', "CLEAT_NUMBER": "12",
    "CLEAT_QUESTIONS": "???", "CLEAT_SPACE": "  a  ",
}
UNSET = ("CLEAT_NONE", "CLEAT_NOTHING")


# ---- the two readers --------------------------------------------------------

def omegaconf(data):
    """(True, value) or (False, why)."""
    try:
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
        value = OmegaConf.to_container(OmegaConf.load(text), resolve=True)
        return True, value
    except Exception as error:  # whatever it is, it is no value
        return False, f"{type(error).__name__}: {error}".split("\n")[0]


def ours(program, texts):
    """A line of YAML_JSON for each text."""
    data = b"".join(b"%d\n%s" % (len(text), text) for text in texts)
    result = subprocess.run([program], input=data, capture_output=True)
    lines = result.stdout.split(b"\n")[:-1]
    if result.returncode != 0 or len(lines) != len(texts):
        sys.stdout.write(result.stderr.decode(errors="replace")[-4000:])
        last = texts[len(lines)] if len(lines) < len(texts) else b""
        sys.exit(f"{program} ended with {result.returncode} at {last!r}")
    return lines


def same(a, b):
    """Equal, and of the same types."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and \
            all(type(key) is str and same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return a == b


class Judge:
    """Compares, counts, and keeps what is wrong."""

    def __init__(self, program):
        self.program = program
        self.wrong = []

    def look(self, kind, texts, all_of_them=False):
        accepted = theirs = 0
        for text, line in zip(texts, ours(self.program, texts)):
            good, value = omegaconf(text)
            theirs += good
            if line.startswith(b"ok "):
                accepted += 1
                mine = json.loads(line[3:])
                if not good:
                    self.wrong.append((kind, text, mine, value))
                elif not same(mine, value):
                    self.wrong.append((kind, text, mine, value))
            else:
                shape = re.fullmatch(rb"no [A-Z_]+ text:(\d+):(\d+): [^\n]+",
                                     line)
                lines = text.count(b"\n") + 2
                if not shape or not 1 <= int(shape.group(1)) <= lines:
                    self.wrong.append((kind, text, line, "where?"))
                if all_of_them:
                    self.wrong.append((kind, text, line, value))
        print(f"{kind:10} {len(texts):6} texts, {accepted:6} accepted, "
              f"{theirs:6} by OmegaConf")
        return accepted


# ---- ordinary documents -----------------------------------------------------

WORDS = ["function", "object", "string", "name", "a", "b2", "class_name",
         "verl.tools.gsm8k_tool.Gsm8kTool", "http://127.0.0.1:8000/retrieve",
         "x y z", "it's", 'say "hi"', "ends with.", "-dash", "a-b", "1.2.3",
         "v0.7.1", "2024-01-01", "12:30", "a,b", "é", "日本", "😀", "50%",
         "C:\\path", "a #b"[:2], "tavily_search_tool", "./mcp_server.json",
         "0o17", "1e", "e3", "y", "n", "t", "None", "nil", "off-by-one",
         "ud83d"]
PLAIN_VALUES = ["1", "0", "-5", "120", "0.5", "1e3", "1.5e-3", "-2.0", "true",
                "false", "True", "yes", "off", "null", "~", "017", "0x1F",
                "1_000", "+3", ".5", "1.", "0b101", "12:30:45", "1e+5"]
INTERPOLATED = ["${oc.env:CLEAT_A}", "${oc.env:CLEAT_NONE,fallback}",
                "${oc.env:CLEAT_URL}/search", "pre-${oc.env:CLEAT_A}-post",
                "${oc.env:CLEAT_NONE,http://localhost:8000/retrieve}",
                "${oc.env:CLEAT_NONE, 30}", "${oc.env:CLEAT_NUMBER}",
                "${oc.env:CLEAT_EMPTY}", "${oc.env:CLEAT_NONE,null}",
                "${oc.env:CLEAT_A}${oc.env:CLEAT_NUMBER}",
                "\\${escaped}", "${oc.env:CLEAT_NONE,e5}",
                "${oc.env:CLEAT_NONE,'quoted, text'}"]


class Ordinary:
    """YAML as people write it."""

    def __init__(self, dice):
        self.dice = dice

    def double(self, text):
        return json.dumps(text, ensure_ascii=self.dice.random() < 0.1 and
                          all(ord(c) < 0x10000 for c in text))

    def single(self, text):
        return "'" + text.replace("'", "''") + "'"

    def key(self, number):
        word = self.dice.choice(["type", "name", "config", "items", "k", "x_y",
                                 "a-b", "a.b", "description", "enum"])
        key = f"{word}{number}"
        return self.dice.choice([key, key, key, self.double(key),
                                 self.single(key)])

    def scalar(self, flow):
        roll = self.dice.random()
        if roll < 0.3:
            return self.dice.choice(PLAIN_VALUES)
        if roll < 0.4:
            text = self.dice.choice(INTERPOLATED)
            if flow or "'" in text or "," in text:
                return self.double(text)
            return self.dice.choice([text, self.double(text)])
        text = " ".join(self.dice.choice(WORDS)
                        for _ in range(self.dice.randint(1, 3)))
        if roll < 0.6:
            return self.double(text)
        if roll < 0.75:
            return self.single(text)
        safe = re.sub(r"[^A-Za-z0-9_./ -]", "", text).strip(" -.")
        return safe or "plain"

    def block_scalar(self, indent):
        pad = " " * indent
        lines = [self.dice.choice(["", "one line", "two: x", "# no comment",
                                   "'quote", "- item", "  more", "end"])
                 for _ in range(self.dice.randint(1, 4))]
        lines[0] = lines[0].strip() or "first"
        head = self.dice.choice(["|", "|-", "|+", ">", ">-"])
        if head[0] == ">":
            lines = [line.strip() for line in lines]
        return head + "\n" + "\n".join(pad + line if line else ""
                                       for line in lines)

    def flow(self, depth):
        roll = self.dice.random()
        if depth == 0 or roll < 0.5:
            return self.scalar(True)
        space = self.dice.choice(["", " "])
        if roll < 0.75:
            return "[" + space + ", ".join(
                self.flow(depth - 1)
                for _ in range(self.dice.randint(0, 3))) + space + "]"
        return "{" + space + ", ".join(
            f"{self.key(i)}: {self.flow(depth - 1)}"
            for i in range(self.dice.randint(0, 3))) + space + "}"

    def comment(self):
        return self.dice.choice(["", "", "", "  # what it is: a [comment]"])

    def block(self, indent, depth):
        """Lines of a mapping or sequence, the first without its indent."""
        pad = " " * indent
        is_map = self.dice.random() < 0.6
        lines = []
        for i in range(self.dice.randint(1, 4)):
            begin = f"{self.key(i)}:" if is_map else "-"
            roll = self.dice.random()
            if self.dice.random() < 0.1:
                lines.append(pad + "# between")
            if depth == 0 or roll < 0.4:
                lines.append(f"{pad}{begin} {self.scalar(False)}"
                             f"{self.comment()}")
            elif roll < 0.5:
                lines.append(f"{pad}{begin} {self.flow(2)}{self.comment()}")
            elif roll < 0.6:
                lines.append(f"{pad}{begin} {self.block_scalar(indent + 2)}")
            elif roll < 0.65:
                lines.append(f"{pad}{begin}{self.comment()}")
            elif is_map:
                lines.append(f"{pad}{begin}{self.comment()}\n" +
                             self.block(indent + 2, depth - 1))
            else:
                inner = self.block(indent + 2, depth - 1)
                if re.match(r" *#", inner):
                    lines.append(f"{pad}-\n{inner}")
                else:
                    lines.append(f"{pad}- {inner.lstrip(' ')}")
        return "\n".join(lines)

    def document(self):
        head = self.dice.choice(["", "", "", "---\n", "# head\n", "\n"])
        text = head + self.block(0, 3) + self.dice.choice(["", "\n", "\n\n"])
        if self.dice.random() < 0.1:
            text = text.replace("\n", "\r\n")
        data = text.encode()
        if self.dice.random() < 0.05:
            data = b"\xef\xbb\xbf" + data
        return data


# ---- trouble ----------------------------------------------------------------

FRAGMENTS = WORDS + PLAIN_VALUES + INTERPOLATED + [
    "\n", "\n", "\n", "\n", "\n  ", "\n  ", "\n    ", "\n- ", "\n  - ", " ",
    " ", "  ", "\t", "\r\n", "\r", ": ", ": ", ": ", ":", "- ", "-", "?", "? ",
    ", ", ",", "[", "]", "{", "}", "[]", "{}", "#", " # c", "&x ", "&y ", "*x",
    "*y", "*x ", "&x", "!!str ", "!!int ", "!!float ", "!!bool ", "!!null ",
    "!!map ", "!!seq ", "!!set ", "!!binary ", "!foo ", "! ", "!<x> ", "|",
    ">",
    "|-", "|+", ">+", "|2", ">1-", "---", "--- ", "\n---\n", "...", "\n...\n",
    "%YAML 1.1\n", "'", '"', "''", '""', "'a'", '"a"', "'a\n b'", '"a\n\n b"',
    '"a \\\n  b"', '"\\x41\\u00e9\\U0001F600"', '"\\ud83d\\ude00"', '"\\0"',
    '"\\/\\e\\_\\N\\L\\P"', "<<", "<<: *x", "=", "~", "???", "'???'", "@", "`",
    "%", "null", "Null", "NULL", "nULL", "on", "Off", "YES", "yEs", "TRUE",
    ".inf", "-.inf", "+.INF", ".nan", ".NaN", "._", "._1", "-.5", ".5e5",
    ".5e+5", "1e400", "-0", "-0.0", "+0", "00", "08", "08.5", "0_", "0b",
    "0b_", "0b12", "0x", "0x_", "0xg", "-0x1F", "0o7", "1__0", "_1", "1_",
    "1_.5", "1.5.2", "1e5", "1E5", "1e-5", "1.e5", "1.5e5", "1.5e+5", "e5",
    "190:20:30", "190:20:60", "0:30", "1:2", "01:02", "1:30.5", "-1:30",
    "1:5:", "99999999999999999999", "0xffffffffffffffff",
    "0x10000000000000000", "0777", "-0b11", "0.1", "123456789.123456789",
    "4.9e-324", "1.7976931348623157e308", "1.7976931348623159e308", "2" * 300,
    "18446744073709551615:10", "1e-" + "9" * 25, "0.1e-" + "9" * 25,
    "1e" + "9" * 25, "0e" + "9" * 25, "0.0e-5", "-0.0e5",
    "\u0085", "\u2028", "\u00a0", "\ufeff", "\ufffe", "\x7f", "\x00",
    "${", "${}", "${b}", "${.b}", "${oc.env:}", "${oc.env:CLEAT_NONE}",
    "${oc.env:CLEAT_NONE,}", "${oc.env:CLEAT_A,x,y}", "${ oc.env : CLEAT_A }",
    "${oc.env:CLEAT_QUESTIONS}", "${oc.env:CLEAT_ODD}", "x${oc.env:CLEAT_ODD}",
    "${oc.env:CLEAT_SPACE}", "${oc.env:'CLEAT_A'}", "${oc.decode:1}",
    "${oc.env:${oc.env:CLEAT_A}}", "${oc.abc:CLEAT_A}", "${oc.env:10,x}",
    "\\\\${oc.env:CLEAT_A}",
    "\\\\\\${oc.env:CLEAT_A}", "\\\\ \\ ${oc.env:CLEAT_A} \\\\", "$", "$$",
    "$${oc.env:CLEAT_A}", "}", "${oc.env:null,x}", "${oc.env:TRUE,x}"]
DEFAULTS = ["10", "-5", "+5", "0", "-0", "007", "1_000", "1__0", "1.0", "0.5",
            ".5", "1.", "1.50", "0.0001", "0.00001", "1e3", "1e-7", "-1.25",
            "1.5.2", "inf", "nan", "-inf", "true", "False", "NULL", "None",
            "a b", " a ", "a:b", "a : b", "a: ", "a:  b ", ":8080",
            "10.0.0.1:80", "a/b.c-d",
            "x@y", "50%", "a+b", "a*b", "a|b", "a?b", "a=b", "a;b", "é", "{}",
            "[]", "[a]", "'a'", '"a"', "'a' b", "''", "'it''s'", "1e3x",
            "12abc", "0x1F", "123456789012345678", "1234567890.123456",
            "1.0e5", "0_1", "1_0.5", "-", "--", "+-5", "a\\b", "a,b", "$",
            "a$b", "+", "_1", "Inf", "NAN", "+inf",
            "${oc.env:CLEAT_A}", "'${oc.env:CLEAT_A}'", "???", "9" * 30]


def soup(dice):
    """Fragments thrown together."""
    parts = [dice.choice(["", "", "a: ", "a: ", "- ", "a:\n  ", "a: &x 1\nb: ",
                          "a: [", "a: {b: ", "a: |\n  ", "a: \"", "a: '"])]
    for _ in range(dice.choice([1, 1, 1, 2, 2, 3, 4, 6])):
        if dice.random() < 0.08:
            parts.append("${oc.env:CLEAT_NONE,%s}" % dice.choice(DEFAULTS))
        else:
            parts.append(dice.choice(FRAGMENTS))
    parts.append(dice.choice(["", "\n", "]", "}", "\"", "'", "\nc: 1\n"]))
    return "".join(parts).encode("utf-8", "surrogatepass")


def lines(dice):
    """A scalar of some style over several lines, with odd space and breaks."""
    indent = dice.choice(["", " ", "  ", "  ", "  ", "   "])
    begin, end = dice.choice([
        ("a: ", "\n"), ("a:\n" + indent, "\n"), ("- ", "\n"),
        ("a: \"", "\"\n"),
        ("- '", "'\n"), ("a: [", "]\n"), ("- {k: \"", "\"}\n"),
        ("a: |\n" + indent, "\n"), ("- |-\n" + indent, "\n"),
        ("a: |+\n" + indent, "\nb: 1\n"), ("a: >\n" + indent, "\n"),
        ("a:\n  - >-\n  " + indent, "\n"), ("- >+\n" + indent, "\n- x\n")])
    parts = [dice.choice(["x", "y z", "word", " ", "  ", "\t", "\n" + indent,
                          "\n" + indent, "\n" + indent, "\n", "\n\n", "\n ",
                          " \n" + indent, "# c", " # c", "- i", "k: v", ":",
                          ",",
                          "''", "\\n", "\\ ", "\\\n" + indent, "\\\"",
                          "\\x20"])
             for _ in range(dice.randint(1, 8))]
    text = begin + "".join(parts) + dice.choice([end, end, end.rstrip("\n")])
    if dice.random() < 0.15:
        text = text.replace("\n", "\r\n")
    return text.encode()


def spoiled(dice, data):
    """A document with a few bytes changed."""
    data = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        roll = dice.random()
        if roll < 0.3:
            del data[at:at + dice.randint(1, 3)]
        elif roll < 0.8:
            more = dice.choice([b" ", b"  ", b"\n", b":", b"- ", b"#", b"'",
                                b'"', b"\\", b"?", b"\t", b",", b"{", b"}",
                                b"[", b"]", b"|", b">", b"&x ", b"*x", b"!",
                                b"%", b"$", b"${", b"_", b"0", b"e", b".",
                                b"\r", b"\xc3", b"<<: ", b"~"])
            data[at:at] = more
        else:
            other = dice.randrange(len(data) + 1)
            data[at:at] = data[other:other + dice.randint(1, 20)]
    if dice.random() < 0.1:
        data = data.replace(b"\n", b"\r\n")
    return bytes(data)


def main():
    if len(sys.argv) not in (3, 4, 5):
        sys.exit(__doc__)
    program, folder = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 3000
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    os.environ.update(ENVIRONMENT)
    for name in UNSET:
        os.environ.pop(name, None)
    judge = Judge(program)

    files = sorted(os.path.join(folder, name) for name in os.listdir(folder)
                   if not name.endswith(".json"))
    texts = []
    for path in files:
        with open(path, "rb") as file:
            texts.append(file.read())
    if judge.look("configs", texts, all_of_them=True) == 0:
        sys.exit(f"{folder}: no config")

    dice = random.Random(seed)
    ordinary = Ordinary(dice)
    documents = [ordinary.document() for _ in range(count // 3)]
    judge.look("ordinary", documents, all_of_them=True)
    scalars = [f"a: {value}".encode("utf-8", "surrogatepass")
               for value in FRAGMENTS] + \
              [b"a: '${oc.env:CLEAT_NONE,%s}'" %
               value.replace("'", "''").encode() for value in DEFAULTS]
    judge.look("scalars", scalars)
    accepted = judge.look("lines", [lines(dice) for _ in range(count)])
    accepted += judge.look("soup", [soup(dice) for _ in range(count)])
    accepted += judge.look("spoiled", [
        spoiled(dice, dice.choice(documents + texts)) for _ in range(count)])
    if accepted < count // 3:
        print("too few were accepted to mean anything")
        sys.exit(1)

    for kind, text, mine, theirs in judge.wrong[:40]:
        print(f"\n{kind}: {text!r}\n    Cleat:     {mine!r}\n"
              f"    OmegaConf: {theirs!r}")
    print(f"seed {seed}: {len(judge.wrong)} differ")
    sys.exit(1 if judge.wrong else 0)


if __name__ == "__main__":
    main()
