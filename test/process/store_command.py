#!/usr/bin/env python3
# Cleat: `cleat store` as a command: what goes in comes out, what each fault of
# a store comes to, its report, its signals, and what it says to bad input.
# SPDX-License-Identifier: Apache-2.0
"""usage: store_command.py --cleat PATH [--only TEXT] [--jobs N]
                          [--no-mooncake]

--no-mooncake: of a build without port/mooncake. With it: store_mooncake.py.
"""
import argparse
import contextlib
import fcntl
import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import uuid

sys.dont_write_bytecode = True  # nothing in the source tree

import harness
from harness import Failure, expect

CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
REPORT = {"command": str, "store": str, "exit": int, "seconds": float,
          "keys": int, "ok": int, "failed": int, "unknown": int, "lent": int,
          "bytes": int, "bytes_sent": int, "bytes_again": int, "calls": int,
          "rounds": int, "faults_struck": int, "error": str, "values": list}
VALUE = {"key": str, "state": str, "class": str, "status": str, "code": int,
         "attempts": int, "bytes": int, "lent": bool}
HEADER = "__metadata__"
# What a store has in most tests. Some run at once, and where a container was not
# been given more there are 64 MB for all of them.
SMALL = "bytes=4M,keys=2048"
F_GETPIPE_SZ = 1032  # fcntl has it from Python 3.10 on

# What a key's value is in most tests: keys with every kind of name, values from
# none to more than a page.
VALUES = {
    "plain": b"hello",
    "empty": b"",
    "one": b"\0",
    "a/b/../c": b"path",
    "..": b"dots",
    ".hidden": b"dot",
    "100%": b"percent",
    "%2F": b"like an escape",
    "tab\there": b"tab",
    "esc\x1b[2J": b"escape",
    "del\x7f": b"del",
    "né 日本": b"utf-8",
    " spaces ": b"spaces",
    "-": b"dash",
    "x" * 255: b"the longest name",
    "large": bytes(range(256)) * 1000 + b"end",
}


def file_name(key):
    """The name of a key's file, from the help's sentence."""
    return "".join(
        f"%{ord(letter):02X}"
        if letter in "/%" or ord(letter) < 0x20 or ord(letter) == 0x7F
        or (letter == "." and at == 0) else letter
        for at, letter in enumerate(key))


def write_folder(path, values):
    os.makedirs(path)
    for key, value in values.items():
        with open(os.path.join(path, file_name(key)), "wb") as file:
            file.write(value)
    return path


def read_folder(path):
    found = {}
    for name in os.listdir(path):
        with open(os.path.join(path, name), "rb") as file:
            found[name] = file.read()
    return found


def named(values):
    return {file_name(key): value for key, value in values.items()}


# ---- safetensors, by hand ----

SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2,
         "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8,
         "U64": 8, "F64": 8}


def tensors_file(rows, metadata=None, spaces=0, seed=1, shuffled=False,
                 style=None):
    """The bytes of a file: rows are (name, dtype, shape)."""
    draw = random.Random(seed)
    header = {}
    if metadata is not None:
        header["__metadata__"] = metadata
    data = b""
    for name, dtype, shape in rows:
        size = SIZES[dtype]
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [len(data), len(data) + size]}
        data += draw.randbytes(size)
    if shuffled:
        names = list(header)
        draw.shuffle(names)
        header = {name: header[name] for name in names}
    text = json.dumps(header, **(style or {})).encode() + b" " * spaces
    return struct.pack("<Q", len(text)) + text + data


FILES = {
    "no tensors": tensors_file([]),
    "no tensors, and metadata": tensors_file([], {"format": "pt"}),
    "one scalar": tensors_file([("s", "F32", ())]),
    "no elements": tensors_file([("a", "F32", (0,)), ("b", "BF16", (3, 0, 5)),
                                 ("c", "U8", (7,)), ("d", "I64", (0, 0))]),
    "every dtype": tensors_file([(f"t.{dtype}", dtype, (3, 5))
                                 for dtype in SIZES],
                                {"format": "pt", "note": "é \" \\ \n"}),
    "an odd header": tensors_file(
        [(f"t{i}", "BF16", (i, 3)) for i in range(20)], {"b": "", "a": "x"},
        spaces=13, shuffled=True, style={"indent": 3, "ensure_ascii": False}),
    "odd names": tensors_file([(name, "U8", (9,)) for name in
                               ("é/日本", "..", "a b", "tab\t", "q\"\\", "%00",
                                "\x7f", "x" * 1000)]),
    "eight dimensions": tensors_file([("t", "I16", (1, 2, 1, 3, 1, 2, 1, 2))]),
    "a thousand tensors": tensors_file([(f"layers.{i}.weight", "F16", (i % 7, 31))
                                        for i in range(1000)]),
    "odd places": tensors_file([(f"t{i}", "U8", (i * 37 % 251,))
                                for i in range(200)]),
}


def tensor_names(content):
    (length,) = struct.unpack("<Q", content[:8])
    names = list(json.loads(content[8:8 + length]))
    return [name for name in names if name != "__metadata__"]


# ---- one run ----

class Done:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err
        self.lines = err.splitlines()

    def __str__(self):
        return f"exit {self.code}\nout: {self.out[-3000:]}\nerr: {self.err}"

    def report(self):
        """The report, which is all of standard output, looked over; and the
        values in it, by key."""
        report = json.loads(self.out)
        expect(list(report) == list(REPORT), "fields:", list(report))
        for name, kind in REPORT.items():
            expect(isinstance(report[name], (int, kind) if kind is float
                              else kind), name, "is", report[name])
        for value in report["values"]:
            expected = dict(VALUE)
            if report["command"] == "exists":
                expected["exists"] = (bool if value["state"] == "ok"
                                      else type(None))
            if "file" in value:
                expected["file"] = str
            expect(list(value) == list(expected), "fields:", value)
            for name, kind in expected.items():
                expect(type(value[name]) is kind, name, "is", value)
            expect((value["state"] == "ok") == (value["status"] == "OK"), value)
            expect((value["status"] == "OK") == (value["class"] == "done"),
                   value)
        states = [value["state"] for value in report["values"]]
        expect(report["keys"] == len(states), report)
        expect(report["ok"] == states.count("ok"), report)
        expect(report["failed"] == len(states) - states.count("ok"), report)
        expect(report["unknown"] == states.count("unknown"), report)
        expect(report["exit"] == self.code, report["exit"], self)
        if self.code in (0, 8):
            expect((self.code == 8) == (report["failed"] > 0), self)
        return {value["key"]: value for value in report["values"]}, report


class Place:
    """A folder, a store's name, and a mark that all processes carry."""

    def __init__(self, cleat):
        self.cleat = cleat
        self.mark = uuid.uuid4().hex
        self.name = f"cleat-test-{self.mark}"
        self.folder = tempfile.mkdtemp(prefix="cleat-test-")

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes)
                       else content.encode())
        return name

    def keys(self, *keys, name="keys"):
        return self.write(name, "".join(f"{key}\n" for key in keys))

    def values(self, values=None, name="in"):
        write_folder(self.path(name), VALUES if values is None else values)
        return name

    @property
    def segment(self):
        return f"/dev/shm/cleat-store-{self.name}"

    def store(self, *options):
        return ",".join((f"memory:shared={self.name}", *options))

    def start(self, *arguments, **more):
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen(
            [self.cleat, "store", *arguments], cwd=self.folder,
            env=dict(os.environ, **{harness.MARK: self.mark}),
            stdin=subprocess.DEVNULL, text=True, start_new_session=True,
            errors="surrogateescape", **more)

    def finish(self, process):
        try:
            out, err = process.communicate(timeout=harness.WATCHDOG_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failure("did not end by itself:", process.communicate())
        done = Done(process.returncode, out, err)
        expect(not CONTROLS.search(err), "control characters:", repr(err))
        for line in done.lines:
            expect(line.startswith("cleat store"), done)
        expect(len(done.lines) <= 1, "more than one line:", done)
        left = harness.marked(self.mark)
        expect(not left, "left:", left)
        hidden = [name for _, _, names in os.walk(self.folder)
                  for name in names if name.startswith(".")]
        expect(not hidden, "files left:", hidden)
        return done

    def run(self, *arguments, **more):
        return self.finish(self.start(*arguments, **more))

    def put(self, source, *options, store=None):
        return self.run("put", "--store", store or self.store(SMALL),
                        "--from", source, "--report", "json", *options)

    def get(self, *options, store=None, **more):
        return self.run("get", "--store", store or self.store(), "--report",
                        "json", *options, **more)

    def exists(self, *keys, store=None):
        """Which are there."""
        done = self.run("exists", "--store", store or self.store(), "--report",
                        "json", "--keys-from", self.keys(*keys, name="asked"))
        values, _ = done.report()
        expect(done.code == 0, done)
        return {key for key, value in values.items() if value["exists"]}

    def expect_in_store(self, values):
        """These, and their bytes, by a clean get into a new folder."""
        folder = uuid.uuid4().hex
        done = self.get("--keys-from", self.keys(*values, name="wanted"),
                        "--to", folder)
        expect(done.code == 0, done)
        expect(read_folder(self.path(folder)) == named(values),
               "other values:", folder)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for pid in harness.marked(self.mark):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(self.segment)


SOME = {f"key{i:02}": bytes([i]) * (i * 97 + 1) for i in range(20)}


class Tests:
    def __init__(self, cleat, no_mooncake):
        self.cleat, self.no_mooncake = cleat, no_mooncake

    def place(self):
        return Place(self.cleat)

    # ---- folders ----

    def what_goes_in_comes_out_in_another_process(self):
        with self.place() as place:
            values, report = place.put(place.values()).report()
            expect(set(values) == set(VALUES), values)
            expect(report["bytes"] == sum(map(len, VALUES.values())), report)
            expect(report["exit"] == 0 and report["bytes_again"] == 0, report)
            for key, value in values.items():
                expect(value["bytes"] == len(VALUES[key]), value)
                expect(value["attempts"] == 1, value)
            place.keys(*VALUES)
            values, report = place.get("--keys-from", "keys", "--to",
                                       "out").report()
            expect(report["exit"] == 0, report)
            expect(list(values) == list(VALUES), "another order", values)
            expect(read_folder(place.path("out")) == named(VALUES),
                   "other bytes")

    def what_came_out_goes_in_again(self):
        with self.place() as place:
            place.put(place.values())
            place.keys(*VALUES)
            place.get("--keys-from", "keys", "--to", "out")
            done = place.put("out", "--prefix", "again/")
            values, _ = done.report()
            expect(done.code == 0, done)
            expect(set(values) == {f"again/{key}" for key in VALUES}, values)

    def a_prefix_is_before_keys_and_not_in_files_and_lists(self):
        with self.place() as place:
            place.put(place.values(), "--prefix", "job/1/")
            place.keys(*VALUES)
            done = place.get("--keys-from", "keys", "--to", "out", "--prefix",
                             "job/1/")
            expect(done.code == 0, done)
            expect(read_folder(place.path("out")) == named(VALUES), done)
            expect(place.exists("plain", "job/1/plain") == {"job/1/plain"},
                   "without its prefix")

    def a_list_of_keys_says_which_files_are_put(self):
        with self.place() as place:
            place.values()
            values, _ = place.put("in", "--keys-from",
                                  place.keys("one", "a/b/../c")).report()
            expect(set(values) == {"one", "a/b/../c"}, values)
            expect(place.exists("plain", "one", "a/b/../c") ==
                   {"one", "a/b/../c"}, "others")

    def no_keys_are_no_failure(self):
        with self.place() as place:
            os.mkdir(place.path("none"))
            place.write("keys", "")
            for arguments in (("put", "--from", "none"),
                              ("get", "--keys-from", "keys"),
                              ("get", "--keys-from", "keys", "--to", "out"),
                              ("exists", "--keys-from", "keys"),
                              ("remove", "--keys-from", "keys")):
                done = place.run(*arguments, "--store", place.store(SMALL),
                                 "--report", "json")
                values, report = done.report()
                expect(done.code == 0 and not values, done)

    def a_get_to_nowhere_reads_and_checks(self):
        with self.place() as place:
            place.put(place.values(SOME), "--fault",
                      "corrupt-stored:1:key=key03")
            done = place.get("--keys-from", place.keys(*SOME))
            values, _ = done.report()
            expect(done.code == 8, done)
            failed = {key for key in values if values[key]["state"] != "ok"}
            expect(failed == {"key03"}, values)
            expect(values["key03"]["status"] == "CORRUPT", values["key03"])
            expect(set(os.listdir(place.folder)) == {"in", "keys"}, "files")

    def a_list_of_keys_may_come_through_a_pipe_and_end_without_newline(self):
        with self.place() as place:
            place.put(place.values(SOME))
            os.mkfifo(place.path("pipe"))

            def feed():
                with open(place.path("pipe"), "wb") as file:
                    file.write(b"key01\nkey02")
            feeder = threading.Thread(target=feed, daemon=True)
            feeder.start()
            values, _ = place.get("--keys-from", "pipe", "--to", "o").report()
            feeder.join(harness.WATCHDOG_S)
            expect(set(values) == {"key01", "key02"}, values)

    def exists_tells_what_is_there_and_missing_is_no_failure(self):
        with self.place() as place:
            place.put(place.values(SOME))
            done = place.run("exists", "--store", place.store(), "--keys-from",
                             place.keys("key01", "nowhere"))
            expect((done.code, done.err) == (0, ""), done)
            expect(done.out.startswith("exists: 2 of 2 keys ok, 1 there, "
                                       "1 missing, "), done)
            expect(done.out.splitlines()[1:] == ["there    key01",
                                                 "missing  nowhere"], done)
            expect(place.exists("key01", "nowhere") == {"key01"}, "JSON")
            os.mkdir(place.path("more"))
            done = place.run("exists", "--store", place.store(), "--from", "in")
            expect(f"{len(SOME)} there, 0 missing" in done.out, done)

    def removed_is_gone_and_the_others_stay(self):
        with self.place() as place:
            place.put(place.values(SOME))
            done = place.run("remove", "--store", place.store(), "--keys-from",
                             place.keys("key01", "nowhere", "key02"))
            expect((done.code, done.err) == (0, ""), done)
            expect(place.exists(*SOME) == set(SOME) - {"key01", "key02"},
                   "others")
            done = place.run("remove", "--store", place.store(), "--from", "in")
            expect(done.code == 0, done)
            expect(place.exists(*SOME) == set(), "not all")

    def many_keys_of_all_sizes(self):
        draw = random.Random(4)
        many = {f"k/{i}": draw.randbytes(draw.choice((0, 1, 63, 64, 4096, 9999)))
                for i in range(3000)}
        with self.place() as place:
            done = place.put(place.values(many), store=place.store(
                "bytes=16M", "keys=8192"))
            expect(done.code == 0, done)
            place.expect_in_store(many)

    def one_value_of_a_hundred_megabytes(self):
        with self.place() as place:
            if not has_room(256 << 20):
                return "not run: /dev/shm has too little room"
            large = random.Random(7).randbytes(1 << 20) * 100
            place.put(place.values({"large": large}),
                      store=place.store("bytes=128M", "keys=100"))
            place.expect_in_store({"large": large})
        return None

    def a_memory_store_of_its_own_is_as_large_as_it_must_be(self):
        with self.place() as place:
            place.values(SOME)
            done = place.put("in", "--verify", "full", store="memory")
            expect(done.code == 0, done)
            done = place.put("in", store="memory:keys=5,bytes=1M", )
            values, _ = done.report()
            done = place.get("--keys-from", place.keys("key01"),
                             store="memory")
            values, _ = done.report()
            expect(done.code == 8, done)
            expect(values["key01"]["status"] == "NOT_FOUND", values)

    # ---- modes, and verification ----

    def create_leaves_what_is_there_and_fails(self):
        with self.place() as place:
            place.put(place.values({"a": b"old", "b": b"old b"}))
            place.values({"a": b"new", "c": b"new c"}, "new")
            done = place.put("new")
            values, _ = done.report()
            expect(done.code == 8, done)
            expect(values["a"]["status"] == "EXISTS", values)
            expect(values["c"]["status"] == "OK", values)
            place.expect_in_store({"a": b"old", "b": b"old b", "c": b"new c"})

    def replace_puts_the_new_value(self):
        with self.place() as place:
            place.put(place.values({"a": b"old", "b": b"old b"}))
            place.values({"a": b"another length", "c": b"new c"}, "new")
            for verify in ("none", "exist", "full"):
                done = place.put("new", "--mode", "replace", "--verify", verify)
                expect(done.code == 0, done)
            place.expect_in_store({"a": b"another length", "b": b"old b",
                                   "c": b"new c"})

    def keep_leaves_what_is_there_and_is_ok(self):
        with self.place() as place:
            place.put(place.values({"a": b"old"}))
            place.values({"a": b"new", "c": b"new c"}, "new")
            for verify in ("none", "exist", "full"):
                done = place.put("new", "--mode", "keep", "--verify", verify)
                expect(done.code == 0, done)
            place.expect_in_store({"a": b"old", "c": b"new c"})

    def verify_full_sees_what_was_stored_wrong(self):
        with self.place() as place:
            place.values(SOME)
            done = place.put("in", "--fault", "corrupt-stored:1:key=key05")
            expect(done.code == 0, "a store that lies was not believed", done)
            done = place.put("in", "--mode", "replace", "--verify", "full",
                             "--fault", "corrupt-stored:1:1:key=key05")
            values, report = done.report()
            expect(done.code == 0, done)
            expect(report["faults_struck"] == 1, report)
            place.expect_in_store(SOME)

    def verify_exist_sees_what_was_lost(self):
        with self.place() as place:
            done = place.put(place.values(SOME), "--verify", "exist", "--fault",
                             "lost:1:1:key=key05")
            expect(done.code == 0, done)
            place.expect_in_store(SOME)

    def at_once_one_creates_and_the_others_are_told(self):
        with self.place() as place:
            place.put(place.values({"warm": b""}))
            for who in range(4):
                place.values({"a": b"%d" % who * 1000}, f"in{who}")
            running = [place.start("put", "--store", place.store(), "--from",
                                   f"in{who}", "--report", "json")
                       for who in range(4)]
            ended = [process.communicate(timeout=harness.WATCHDOG_S)
                     for process in running]
            codes = [process.returncode for process in running]
            expect(sorted(codes) == [0, 8, 8, 8], codes, ended)
            place.expect_in_store({"a": b"%d" % codes.index(0) * 1000})

    def a_value_that_changes_while_it_is_got_is_one_of_them_whole(self):
        with self.place() as place:
            versions = [bytes([i]) * (10 ** i) for i in range(6)]
            for i, value in enumerate(versions):
                place.values({"a": value}, f"in{i}")
            place.put("in0")
            place.keys("a")
            over = threading.Event()
            wrong = []

            def write():
                turn = 0
                while not over.is_set():
                    turn += 1
                    process = place.start("put", "--store", place.store(),
                                          "--mode", "replace", "--from",
                                          f"in{turn * 5 % 6}")
                    process.communicate(timeout=harness.WATCHDOG_S)
                    if process.returncode != 0:
                        wrong.append(process.returncode)
            writer = threading.Thread(target=write, daemon=True)
            writer.start()
            try:
                for _ in range(60):
                    process = place.start("get", "--store", place.store(),
                                          "--keys-from", "keys", "--to", "out")
                    out, err = process.communicate(timeout=harness.WATCHDOG_S)
                    expect(process.returncode in (0, 8), out, err)
                    # Between the old one and the new one there is none.
                    expect(process.returncode == 0 or "NOT_FOUND" in err or
                           "SHORT" in err, err)
                    with contextlib.suppress(FileNotFoundError, KeyError):
                        found = read_folder(place.path("out"))["a"]
                        expect(found in versions, "neither:", len(found))
            finally:
                over.set()
                writer.join(harness.WATCHDOG_S)
            expect(not wrong, "puts failed:", wrong)

    def at_once_each_its_keys(self):
        with self.place() as place:
            all_values = {}
            for who in range(4):
                values = {f"{who}/{i}": b"%d" % (who * i) * 99
                          for i in range(200)}
                place.values(values, f"in{who}")
                all_values.update(values)
            running = [place.start("put", "--store", place.store(SMALL),
                                   "--from", f"in{who}") for who in range(4)]
            for process in running:
                process.communicate(timeout=harness.WATCHDOG_S)
                expect(process.returncode == 0, process.returncode)
            place.expect_in_store(all_values)

    # ---- safetensors ----

    def safetensors(self, name):
        """A file comes out byte for byte, by another process."""
        with self.place() as place:
            place.write("in.safetensors", FILES[name])
            done = place.put("in.safetensors", "--prefix", "m/")
            values, _ = done.report()
            expect(done.code == 0, done)
            expect(set(values) == {f"m/{tensor}" for tensor in
                                   [*tensor_names(FILES[name]), HEADER]},
                   list(values)[:20])
            done = place.get("--prefix", "m/", "--to", "out.safetensors")
            expect(done.code == 0, done)
            with open(place.path("out.safetensors"), "rb") as file:
                expect(file.read() == FILES[name], "other bytes")
            expect(set(os.listdir(place.folder)) ==
                   {"in.safetensors", "out.safetensors"}, "files left")

    def a_model_that_cleat_has_made(self):
        with self.place() as place:
            harness.make_weights(self.cleat, place.folder, "4M", "w")
            done = place.put("w", store=place.store("bytes=12M"))
            expect(done.code == 0, done)
            done = place.get("--to", "w.safetensors")
            expect(done.code == 0, done)
            expect(read_folder(place.folder)["w"] ==
                   read_folder(place.folder)["w.safetensors"], "other bytes")

    def tensors_are_values_with_their_bytes(self):
        with self.place() as place:
            content = FILES["every dtype"]
            place.write("in", content)
            place.put("in")
            place.keys("t.BF16", "t.F64")
            done = place.get("--keys-from", "keys", "--to", "out")
            expect(done.code == 0, done)
            found = read_folder(place.path("out"))
            for dtype in ("BF16", "F64"):
                value = found[f"t.{dtype}"]
                expect(len(value) == 15 * SIZES[dtype], dtype, len(value))
                expect(value in content, dtype, "other bytes")

    def a_file_that_lacks_a_tensor_is_not_written(self):
        with self.place() as place:
            place.write("in", FILES["every dtype"])
            place.put("in")
            place.run("remove", "--store", place.store(), "--keys-from",
                      place.keys("t.I32"))
            place.write("out.safetensors", b"the old one")
            done = place.get("--to", "out.safetensors")
            values, _ = done.report()
            expect(done.code == 8, done)
            failed = {key: value["status"] for key, value in values.items()
                      if value["state"] != "ok"}
            expect(failed == {"t.I32": "NOT_FOUND"}, failed)
            expect(read_folder(place.folder)["out.safetensors"] ==
                   b"the old one", "written all the same")

    def only_what_failed_is_put_again_and_the_file_is_whole(self):
        with self.place() as place:
            place.write("in", FILES["every dtype"])
            done = place.put("in", "--fault", "permanent:1:key=t.I32")
            expect(done.code == 8, done)
            done = place.put("in", "--keys-from", place.keys("t.I32"))
            values, _ = done.report()
            expect(done.code == 0 and set(values) == {"t.I32"}, done)
            done = place.get("--to", "out.safetensors")
            expect(done.code == 0, done)
            expect(read_folder(place.folder)["out.safetensors"] ==
                   FILES["every dtype"], "other bytes")

    def tensors_of_two_files_are_never_taken_for_one(self):
        rows = [("a", "F32", (8,)), ("b", "F32", (8,))]
        with self.place() as place:
            place.write("one", tensors_file(rows, seed=1))
            place.write("two", tensors_file(rows, seed=2))
            place.put("one")
            place.put("two", "--mode", "replace", "--keys-from",
                      place.keys("b"))
            done = place.get("--to", "out.safetensors")
            values, report = done.report()
            expect(done.code == 8, done)
            expect(values[HEADER]["status"] == "CORRUPT", values)
            expect("out.safetensors" not in os.listdir(place.folder), "written")
            expect("header" in done.err, done)

    def a_tensor_of_another_shape_is_told(self):
        with self.place() as place:
            place.write("one", tensors_file([("a", "F32", (8,))]))
            place.write("two", tensors_file([("a", "F32", (2, 4))]))
            place.put("one")
            place.put("two", "--mode", "replace", "--keys-from",
                      place.keys("a"))
            done = place.get("--to", "out.safetensors")
            values, _ = done.report()
            expect(done.code == 8, done)
            expect(values["a"]["status"] == "INVALID", values)

    def a_key_that_no_file_was_put_under_is_told(self):
        with self.place() as place:
            place.put(place.values({"x": b"y"}))
            done = place.get("--to", "out.safetensors")
            values, _ = done.report()
            expect(done.code == 8 and list(values) == [HEADER], done)
            expect(values[HEADER]["status"] == "NOT_FOUND", values)

    def a_header_that_is_none_is_refused(self):
        valid = FILES["one scalar"]
        head = valid[:-4]
        for content in (b"", b"x", b"x" * 24, b"CLTS" + b"\0" * 12,
                        head + b"CLTS" + b"\0" * 4 + b"\xff" * 8,
                        head + b"CLTS" + b"\0" * 4 + struct.pack("<Q", 1 << 40),
                        head + b"CLTS" + b"\0" * 4 + struct.pack("<Q", 5),
                        head[:-1] + b"CLTS" + b"\0" * 4 + struct.pack("<Q", 4),
                        valid + b"CLTS" + b"\0" * 4 + struct.pack("<Q", 0)):
            with self.place() as place:
                place.put(place.values({HEADER: content}))
                done = place.get("--to", "out.safetensors",
                                 preexec_fn=limit_files)
                values, report = done.report()
                expect(done.code == 8, content, done)
                expect(values[HEADER]["state"] == "failed", values)
                # None is believed so far that its file is made.
                expect(values[HEADER]["status"] == "MALFORMED", values)
                expect(report["error"], "no word about it:", done)
                expect("block" not in report["error"], report["error"])
                expect(set(os.listdir(place.folder)) == {"in"}, "files left")

    def a_header_with_a_name_that_is_no_key_is_refused(self):
        content = tensors_file([("a", "U8", (2,)), ("x" * 1020, "U8", (3,)),
                                ("z", "U8", (1,))])
        with self.place() as place:
            head = content[:-6] + b"CLTS" + b"\0" * 4 + struct.pack("<Q", 6)
            place.put(place.values({HEADER: head}), "--prefix", "pppppp/")
            done = place.get("--to", "o.safetensors", "--prefix", "pppppp/")
            values, report = done.report()
            expect(done.code == 8 and list(values) == ["pppppp/" + HEADER],
                   done)
            expect(values["pppppp/" + HEADER]["status"] == "MALFORMED", values)
            expect("name" in report["error"], report)
            expect(set(os.listdir(place.folder)) == {"in"}, "files left")

    def a_header_that_is_nearly_one_is_refused(self):
        with self.place() as place:
            place.write("in", FILES["every dtype"])
            place.put("in")
            place.get("--keys-from", place.keys(HEADER), "--to", "out")
            head = read_folder(place.path("out"))[HEADER]
            (length,) = struct.unpack("<Q", FILES["every dtype"][:8])
            expect(head[:8 + length] == FILES["every dtype"][:8 + length] and
                   head[8 + length:12 + length] == b"CLTS" and
                   len(head) == 8 + length + 16, "another layout:", head)
            # Magic, digest, and bytes that follow: each a bit wrong.
            for at, status in ((8 + length, "MALFORMED"),
                               (12 + length, "CORRUPT"),
                               (16 + length, "MALFORMED")):
                wrong = bytearray(head)
                wrong[at] ^= 1
                place.values({HEADER: bytes(wrong)}, f"wrong-{at}")
                done = place.put(f"wrong-{at}", "--mode", "replace")
                expect(done.code == 0, done)
                done = place.get("--to", "o.safetensors")
                values, _ = done.report()
                expect(done.code == 8, at, done)
                expect(values[HEADER]["status"] == status, at, values)
                expect("o.safetensors" not in os.listdir(place.folder), at)

    # ---- faults ----

    def fault(self, row):
        """One row of FAULTS."""
        name, command, expected, status, there = FAULTS[int(row)]
        with self.place() as place:
            place.values({"a": b"value of a", "b": b"value of b"})
            if command[0] != "put":
                place.put("in")
            place.keys("a", "b")
            more = {"put": ("--from", "in"),
                    "get": ("--keys-from", "keys", "--to", "out"),
                    "remove": ("--keys-from", "keys"),
                    "exists": ("--keys-from", "keys")}[command[0]]
            done = place.run(command[0], "--store", place.store(SMALL),
                             *more, *command[1:], "--report", "json",
                             "--fault", f"{name}:key=a")
            values, report = done.report()
            expect(done.code == expected, "exit", done.code, "expected",
                   expected, done)
            expect(report["faults_struck"] > 0, "nothing struck:", done)
            expect(values["a"]["status"] in status, values["a"])
            # A silence is one of a whole call.
            alone = not (name.startswith("silence") and expected == 8)
            expect(values["b"]["status"] == "OK" or not alone, "the other:",
                   values["b"])
            if expected == 8 and alone:
                expect("a (" in done.err and "1 of 2 keys" in done.err, done)
            expect((done.err == "") == (expected == 0), done)
            found = place.exists("a", "b")
            expect(("a" in found) in there, "there:", found)
            if command[0] in ("put", "get") and alone:
                expect("b" in found, "the other is gone")
            if command[0] == "get":
                # A folder that was made, and into which nothing came, is gone.
                out = read_folder(place.path("out")) if any(
                    value["status"] == "OK" for value in values.values()) else {}
                expect(out == named({key: value for key, value in
                                     (("a", b"value of a"), ("b", b"value of b"))
                                     if values[key]["status"] == "OK"}), out)

    def a_tenth_fails_once_and_all_arrives(self):
        with self.place() as place:
            many = {f"k{i}": b"%d" % i * 50 for i in range(1000)}
            place.values(many)
            done = place.put("in", "--fault", "transient:10%:1")
            values, report = done.report()
            expect(done.code == 0, done)
            expect(report["rounds"] > 0 and report["faults_struck"] > 50, report)
            place.expect_in_store(many)
            again = report["bytes_again"]
            done = place.get("--keys-from", place.keys(*many), "--fault",
                             "short:5%:1", "--fault", "corrupt:5%:1", "--fault",
                             "transient:0.05:1")
            values, report = done.report()
            expect(done.code == 0, done)
            expect(report["bytes_again"] > 0, report)
            expect(report["bytes_again"] < report["bytes"] / 3, report)
            expect(again < report["bytes"] / 5, again)

    def a_seed_strikes_the_same_keys(self):
        def failed(seed):
            with self.place() as place:
                done = place.put(place.values(SOME), "--seed", seed, "--fault",
                                 "permanent:0.3")
                values, _ = done.report()
                return {key for key in values if values[key]["state"] != "ok"}
        found = [failed(seed) for seed in ("1", "1", "2", "3")]
        expect(found[0] == found[1], "the same seed:", found[:2])
        expect(len(set(map(frozenset, found))) > 1, "always the same:", found)

    def what_failed_leaves_the_others_and_old_files_intact(self):
        with self.place() as place:
            done = place.put(place.values(SOME), "--fault",
                             "permanent:1:key=key07")
            expect(done.code == 8, done)
            kept = {key: value for key, value in SOME.items()
                    if key != "key07"}
            place.expect_in_store(kept)
            expect("key07" not in place.exists(*SOME), "it is there")
            place.put("in", "--keys-from", place.keys("key07"))
            place.values({"key09": b"old", "key10": b"old"}, "out")
            done = place.get("--keys-from", place.keys(*SOME), "--to", "out",
                             "--fault", "permanent:1:key=key09")
            expect(done.code == 8, done)
            expect(read_folder(place.path("out")) ==
                   named({**SOME, "key09": b"old"}), "other files")

    def the_error_line_names_some_keys_and_counts_all(self):
        with self.place() as place:
            done = place.run("put", "--store", place.store(SMALL),
                             "--from", place.values(SOME), "--fault",
                             "permanent:1")
            expect(done.code == 8, done)
            expect(done.err == "cleat store put: 20 of 20 keys failed: " +
                   ", ".join(f"key{i:02} (PERMANENT)" for i in range(5)) +
                   " and 15 more\n", done)
            lines = done.out.splitlines()
            expect(lines[0].startswith("put: 0 of 20 keys ok, 20 failed, "),
                   done)
            expect([line.split() for line in lines[2:]] ==
                   [["failed", "PERMANENT", "permanent", "8", "1", key]
                    for key in SOME], done)  # 8: the fault's number

    def crash_before_end_leaves_nothing_and_the_others(self):
        with self.place() as place:
            before = {"b1": b"before", "b2": b"x" * 5000}
            place.put(place.values(before, "before"))
            place.values({"k": b"the new value" * 1000})
            for mode in ("create", "keep"):
                done = place.run("put", "--store", place.store(), "--from",
                                 "in", "--mode", mode, "--fault",
                                 "crash-before-end:1:key=k")
                expect(done.code in (-9, 8) and done.out == "", done)
                expect(done.code == -9, done)
                expect(place.exists("k", *before) == set(before), mode)
                place.expect_in_store(before)
            done = place.put("in", "--verify", "full")
            expect(done.code == 0, done)
            place.expect_in_store({**before, "k": b"the new value" * 1000})

    def crash_before_end_of_a_put_hides_what_was_written(self):
        # Only puts: the first of a mode that asks before is made by keep.
        with self.place() as place:
            place.put(place.values({"other": b"o"}, "other"),
                      store=place.store("bytes=8M"))
            place.values({"k": b"v" * 100000})
            for _ in range(30):
                done = place.run("put", "--store", place.store(), "--from",
                                 "in", "--mode", "keep", "--fault",
                                 "crash-before-end:1")
                expect(done.code == -9, done)
            expect(place.exists("k", "other") == {"other"}, "readable")
            # 30 * 100 KB of a store of 8 MB: all of it comes back.
            many = {f"m{i}": b"m" * 100000 for i in range(60)}
            done = place.put(place.values(many, "many"))
            expect(done.code == 0, done)
            place.expect_in_store({"other": b"o", **many})

    def crash_after_is_whole(self):
        with self.place() as place:
            place.values({"k": b"v" * 100000})
            place.values({"o": b"o"}, "other")
            place.put("other")
            done = place.run("put", "--store", place.store(), "--from", "in",
                             "--mode", "keep", "--fault", "crash-after:1:key=k")
            expect(done.code == -9, done)
            place.expect_in_store({"k": b"v" * 100000, "o": b"o"})

    def a_crash_in_a_get_leaves_no_half_of_a_file(self):
        with self.place() as place:
            place.put(place.values(SOME))
            place.write("w", FILES["every dtype"])
            place.put("w")
            os.mkdir(place.path("out"))
            done = place.run("get", "--store", place.store(), "--keys-from",
                             place.keys(*SOME), "--to", "out", "--fault",
                             "crash-before-end:1:key=key19")
            expect(done.code == -9, done)
            for name, value in read_folder(place.path("out")).items():
                expect(SOME[name] == value, name)
            done = place.run("get", "--store", place.store(), "--to",
                             "o.safetensors", "--fault",
                             "crash-before-end:1:key=t.I32")
            expect(done.code == -9, done)
            expect("o.safetensors" not in os.listdir(place.folder), "written")

    def a_store_that_is_silent_costs_the_deadline_and_no_more(self):
        with self.place() as place:
            place.values(SOME)
            place.put("in")
            for command in (("put", "--from", "in", "--mode", "replace"),
                            ("get", "--keys-from", place.keys(*SOME), "--to",
                             "out"),
                            ("exists", "--keys-from", "keys"),
                            ("remove", "--keys-from", "keys")):
                done = place.run(*command, "--store", place.store(),
                                 *SHORTLY, "--report", "json",
                                 "--fault", "silence:1:key=key03")
                values, report = done.report()
                expect(done.code == 8, command, done)
                expect(values["key03"]["state"] in ("unknown", "failed"), values)
                expect(not os.path.exists(place.path("out", "key03")), "written")

    def a_signal_ends_it_with_a_report(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.place() as place:
                place.values(SOME)
                place.write("w", FILES["every dtype"])
                process = place.start(
                    "put", "--store", place.store(SMALL), "--from", "in",
                    "--report", "json", "--fault", "silence:1:key=key03")
                end = time.monotonic() + harness.WATCHDOG_S
                while not os.path.exists(place.segment):
                    expect(time.monotonic() < end, "no store")
                    time.sleep(0.01)
                # It is on its way; when the signal comes makes no difference.
                process.send_signal(number)
                done = place.finish(process)
                expect(done.code == 128 + number, done)
                if done.out:
                    values, report = done.report()
                    expect(values["key03"]["state"] != "ok", values)

    def a_signal_that_means_nothing_leaves_the_others_their_meaning(self):
        with self.place() as place:
            place.values(SOME)
            process = place.start(
                "put", "--store", place.store(SMALL), "--from", "in",
                "--report", "json", "--fault", "silence:1:key=key03")
            wait_for(lambda: os.path.exists(place.segment), "no store")
            wait_for(lambda: len(os.listdir(f"/proc/{process.pid}/task")) > 2,
                     "no threads")
            process.send_signal(signal.SIGUSR2)
            # It is taken before the other, which has a higher number here.
            wait_for(lambda: not pending(process.pid), "it is not taken")
            process.send_signal(signal.SIGTERM)
            done = place.finish(process)
            expect(done.code == 128 + signal.SIGTERM, done)

    def a_signal_ends_a_store_that_is_being_made(self):
        with self.place() as place:
            place.values(SOME)
            for arguments in (("put", "--from", "in"),
                              ("bench", "--keys", "1", "--bytes", "1")):
                process = place.start(*arguments, "--store",
                                      "memory:bytes=200G")
                wait_for(lambda p=process: p.poll() is not None or
                         catches(p.pid, signal.SIGTERM), "no thread")
                # While it stands still it is seen whether it is still at it:
                # there are more threads as soon as the store is made.
                process.send_signal(signal.SIGSTOP)
                wait_for(lambda p=process: p.poll() is not None or
                         harness.state_of(p.pid) in "TZ", "not stopped")
                is_made = process.poll() is not None or threads(process.pid) != 2
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGCONT)
                done = place.finish(process)
                if "Cannot allocate memory" in done.err:
                    return "so much cannot be had here"
                if is_made:
                    return "not run: it is made too soon here"
                expect(done.code == 128 + signal.SIGTERM and
                       (done.out, done.err) == ("", ""), arguments, done)
        return None

    def the_deadline_ends_a_store_that_is_being_made(self):
        with self.place() as place:
            place.keys("a")
            done = place.get("--keys-from", "keys", "--to", "out",
                             "--deadline-s", "0.05", store="memory:bytes=200G")
            if "Cannot allocate memory" in done.err:
                return "so much cannot be had here"
            expect(done.code == 9 and done.out == "", done)
            expect("DEADLINE" in done.err, done)
            expect(set(os.listdir(place.folder)) == {"keys"}, "left")

    def the_deadline_ends_a_file_that_is_being_made(self):
        with self.place() as place:
            size = 3 << 30
            content = {"t": {"dtype": "U8", "shape": [size],
                             "data_offsets": [0, size]}}
            text = json.dumps(content).encode()
            head = (struct.pack("<Q", len(text)) + text + b"CLTS" + b"\0" * 4 +
                    struct.pack("<Q", size))
            place.put(place.values({HEADER: head}))
            # Where the store was not open by then, the file was not begun.
            for ms in range(1, 31):
                done = place.get("--to", "o.safetensors", "--deadline-s",
                                 str(ms / 1000))
                expect(set(os.listdir(place.folder)) == {"in"}, "files left")
                if done.code != 9:
                    break
            if done.code == 9:
                return "not run: no store is open so soon here"
            values, _ = done.report()
            expect(done.code == 8, done)
            if values[HEADER]["state"] == "ok":
                return "not run: a file of 3 GiB is made at once here"
            expect(list(values) == [HEADER], done)
            expect(values[HEADER]["status"] == "DEADLINE", values)
            expect(set(os.listdir(place.folder)) == {"in"}, "files left")
        return None

    def a_signal_ends_a_report_that_nobody_reads(self):
        with self.place() as place:
            place.put(place.values({"a": b"a"}))
            place.keys(*(f"key{i}" for i in range(2000)))
            process = place.start("exists", "--store", place.store(),
                                  "--keys-from", "keys", "--report", "json")

            def is_full():
                size = bytearray(4)
                fcntl.ioctl(process.stdout, termios.FIONREAD, size)
                return struct.unpack("i", size)[0] >= fcntl.fcntl(
                    process.stdout, F_GETPIPE_SZ)
            wait_for(is_full, "no report")
            process.send_signal(signal.SIGTERM)
            expect(process.wait(harness.WATCHDOG_S) == -signal.SIGTERM,
                   process.returncode)
            process.communicate()

    # ---- files that change ----

    def late_put(self, place, source, key):
        """A put whose file is mapped, and is read again in some seconds: what
        is done to it until then comes between."""
        process = place.start("put", "--store", place.store(SMALL),
                              "--from", source, "--report", "json", "--fault",
                              f"late-transient:1:1:6s:key={key}")

        def is_mapped():
            expect(process.poll() is None, "has ended")
            with open(f"/proc/{process.pid}/maps", encoding="utf-8") as maps:
                return "/theirs" in maps.read()
        wait_for(is_mapped, "not mapped")
        return process

    def a_file_that_becomes_shorter_is_one_line(self):
        with self.place() as place:
            place.values({"theirs": b"x" * 100000})
            process = self.late_put(place, "in", "theirs")
            os.truncate(place.path("in", "theirs"), 0)
            done = place.finish(process)
            expect(done.code == 128 + signal.SIGBUS and done.out == "", done)
            expect("shorter" in done.err, done)
            expect(not place.exists("theirs"), "half of it is there")

    def a_file_that_is_written_to_while_it_is_put_has_failed(self):
        with self.place() as place:
            place.values({"theirs": b"x" * 100000})
            process = self.late_put(place, "in", "theirs")
            with open(place.path("in", "theirs"), "r+b") as file:
                file.write(b"yyyy")
            done = place.finish(process)
            values, report = done.report()
            expect(done.code == 8, done)
            expect(values["theirs"]["status"] == "IO", values)
            expect(values["theirs"]["state"] == "unknown", values)
            expect("written to" in report["error"], report)

    def tensors_that_are_written_to_while_they_are_put_are_no_file(self):
        with self.place() as place:
            place.write("theirs", FILES["every dtype"])
            process = self.late_put(place, "theirs", "t.I32")
            with open(place.path("theirs"), "r+b") as file:
                file.write(b"\xff" * 8)
            done = place.finish(process)
            values, _ = done.report()
            expect(done.code == 8, done)
            expect(values[HEADER]["status"] == "IO", values)
            expect(HEADER not in place.exists(HEADER), "it is there")

    def a_file_that_does_not_say_how_large_it_is_is_not_put_as_nothing(self):
        with self.place() as place:
            os.mkdir(place.path("in"))
            os.symlink("/proc/version", place.path("in", "v"))
            done = place.put("in")
            values, _ = done.report()
            expect(done.code == 8 and values["v"]["status"] == "IO", done)

    # ---- not ready ----

    def a_hundred_that_have_a_store_open_keep_no_other_out(self):
        with self.place() as place:
            place.put(place.values(SOME))
            keys = place.keys("key01")
            held = [place.start("get", "--store", place.store(), "--keys-from",
                                keys, "--fault", "silence:1")
                    for _ in range(80)]
            try:
                wait_for(lambda: all(
                    threads(process.pid) > 2 for process in held), "not open")
                process = place.start("get", "--store", place.store(),
                                      "--keys-from", keys)
                _, err = process.communicate(timeout=harness.WATCHDOG_S)
                expect(process.returncode == 0, err)
            finally:
                for process in held:
                    process.kill()
                    process.communicate()

    def a_store_that_is_not_there_is_not_ready(self):
        with self.place() as place:
            place.keys("a")
            for arguments in (("get", "--keys-from", "keys", "--to", "out"),
                              ("exists", "--keys-from", "keys"),
                              ("get", "--to", "out.safetensors")):
                done = place.run(*arguments, "--store", place.store())
                expect(done.code == 9 and done.out == "", done)
                expect(place.name in done.err and "bytes=SIZE" in done.err, done)
                expect(set(os.listdir(place.folder)) == {"keys"}, "left")
            expect(not os.path.exists(place.segment), "made")

    def a_damaged_store_is_not_ready(self):
        with self.place() as place:
            place.put(place.values(SOME))
            with open(place.segment, "r+b") as file:
                file.write(b"damaged!" * 64)
            done = place.run("get", "--store", place.store(), "--keys-from",
                             place.keys("key01"))
            expect(done.code == 9 and done.out == "", done)

    def a_store_that_others_may_write_is_not_opened(self):
        with self.place() as place:
            place.put(place.values(SOME))
            os.chmod(place.segment, 0o666)
            done = place.run("get", "--store", place.store(), "--keys-from",
                             place.keys("key01"))
            expect(done.code == 9 and place.name in done.err, done)

    def a_full_store_can_be_read(self):
        with self.place() as place:
            done = place.put(place.values(SOME), *SHORTLY,
                             store=place.store("bytes=1M", "keys=10"))
            values, report = done.report()
            expect(done.code == 8, done)
            there = {key for key in values if values[key]["state"] == "ok"}
            expect(len(there) == 10, values)
            for key in set(SOME) - there:
                expect(values[key]["class"] in ("capacity", "ambiguous"),
                       values[key])
            place.expect_in_store({key: SOME[key] for key in sorted(there)})

    # ---- files that cannot be written ----

    def a_file_that_may_not_grow_fails_and_the_others_are_written(self):
        with self.place() as place:
            place.put(place.values({"s": b"s", "l": b"l" * 100000}))
            done = place.get("--keys-from", place.keys("s", "l"), "--to", "out",
                             preexec_fn=limit_files)
            values, _ = done.report()
            expect(done.code == 8, done)
            expect(values["l"]["status"] == "IO" and "file" in values["l"],
                   values)
            expect(read_folder(place.path("out")) == {"s": b"s"}, "files")

    def a_safetensors_file_that_may_not_grow_is_not_written(self):
        with self.place() as place:
            place.write("in", tensors_file([("t", "U8", (100000,))]))
            place.put("in")
            done = place.get("--to", "o.safetensors", preexec_fn=limit_files)
            expect(done.code == 8, done)
            expect(set(os.listdir(place.folder)) == {"in"}, "left")

    def a_folder_in_the_place_of_a_file_stays(self):
        with self.place() as place:
            place.put(place.values({"a": b"a", "b": b"b"}))
            os.makedirs(place.path("out", "a"))
            done = place.get("--keys-from", place.keys("a", "b"), "--to", "out")
            values, _ = done.report()
            expect(done.code == 8, done)
            expect(values["a"]["status"] == "IO", values)
            expect(os.path.isdir(place.path("out", "a")), "gone")
            with open(place.path("out", "b"), "rb") as file:
                expect(file.read() == b"b", "other bytes")

    def a_pipe_in_the_place_of_a_file_stays(self):
        with self.place() as place:
            place.put(place.values({"a": b"a"}))
            os.mkdir(place.path("out"))
            os.mkfifo(place.path("out", "a"))
            os.mkfifo(place.path("o.safetensors"))
            done = place.get("--keys-from", place.keys("a"), "--to", "out")
            values, _ = done.report()
            expect(done.code == 8 and values["a"]["status"] == "IO", done)
            place.write("w", FILES["one scalar"])
            place.put("w")
            done = place.get("--to", "o.safetensors")
            expect(done.code == 8 and "File exists" in done.err, done)
            for name in ("out/a", "o.safetensors"):
                expect(stat.S_ISFIFO(os.stat(place.path(name)).st_mode), name)

    def a_link_in_the_place_of_a_file_is_replaced_and_leads_nowhere(self):
        with self.place() as place:
            place.put(place.values({"a": b"a"}))
            os.mkdir(place.path("out"))
            place.write("elsewhere", b"untouched")
            os.symlink("../elsewhere", place.path("out", "a"))
            done = place.get("--keys-from", place.keys("a"), "--to", "out")
            expect(done.code == 0, done)
            expect(read_folder(place.path("out")) == {"a": b"a"}, "value")
            expect(not os.path.islink(place.path("out", "a")), "a link")
            with open(place.path("elsewhere"), "rb") as file:
                expect(file.read() == b"untouched", "followed")

    def a_link_to_nowhere_is_seen_before_anything_is_sent(self):
        with self.place() as place:
            place.values({"a": b"a"})
            os.symlink("nowhere", place.path("in", "b"))
            done = place.put("in")
            expect(done.code == 2 and done.out == "", done)
            expect(not os.path.exists(place.segment), "made")

    def standard_output_that_is_full_is_told(self):
        with self.place() as place:
            place.values(SOME)
            with open("/dev/full", "w", encoding="utf-8") as full:
                process = subprocess.run(
                    [self.cleat, "store", "put", "--store", "memory", "--from",
                     "in"], cwd=place.folder, stdout=full, text=True,
                    stderr=subprocess.PIPE, check=False,
                    timeout=harness.WATCHDOG_S)
            # It was done; but who would know?
            expect(process.returncode == 8, process)
            expect("standard output" in process.stderr, process)
            with open("/dev/full", "w", encoding="utf-8") as full:
                done = place.run("put", "--store", "memory", "--from", "in",
                                 "--fault", "permanent:1", stdout=full)
            expect(done.code == 8 and "keys failed" in done.err, done)

    # ---- on a terminal ----

    def a_terminal_sees_a_bar_that_goes_away(self):
        with self.place() as place:
            place.values(SOME)
            ours, theirs = pty.openpty()
            process = place.start("put", "--store", place.store(SMALL),
                                  "--from", "in", "--fault",
                                  "silence:1:key=key03", stderr=theirs)
            os.close(theirs)
            seen = b""
            told = False
            with contextlib.suppress(OSError):  # its end, on Linux
                while more := os.read(ours, 4096):
                    seen += more
                    if not told and b"of 20 keys, putting" in seen:
                        told = True
                        process.send_signal(signal.SIGTERM)
            os.close(ours)
            process.communicate(timeout=harness.WATCHDOG_S)
            expect(told and process.returncode == 128 + signal.SIGTERM,
                   process.returncode, seen)
            # It is wiped away before the line that says what has failed.
            rest = seen[seen.rindex(b"of 20 keys, putting"):]
            expect(b"\r\x1b[K" in rest, "the bar stays:", rest)
            after = rest[rest.rindex(b"\r\x1b[K"):]
            expect(after.startswith(b"\r\x1b[Kcleat store put: ") and
                   after.count(b"\n") == 1, "after the bar:", after)

    # ---- bench ----

    def bench_measures_and_leaves_nothing(self):
        with self.place() as place:
            for store in ("memory", place.store("bytes=12M")):
                done = place.run("bench", "--store", store, "--keys", "300",
                                 "--bytes", "0..20K", "--threads", "3",
                                 "--fail-rate", "0.1", "--report", "json")
                expect(done.code == 0 and done.err == "", done)
                report = json.loads(done.out)
                expect(report["keys"] == 300 and report["threads"] == 3, done)
                expect(report["fail_rate"] == 0.1, done)
                expect(report["without"]["moved_of_ideal"] == 1.0, done)
                expect(1.0 < report["with"]["moved_of_ideal"] < 1.3, done)
                for part in ("without", "with"):
                    expect(report[part]["failed"] == 0, done)
                    for number in ("put_gb_per_s", "get_gb_per_s",
                                   "put_keys_per_s", "get_keys_per_s"):
                        expect(report[part][number] > 0, number, done)
            # What it put is removed: there is room for as many again.
            done = place.run("bench", "--store", place.store(), "--keys", "1",
                             "--bytes", "7M..7M")
            expect(done.code == 0, done)
            expect("no failures" in done.out, done)

    def bench_tells_what_a_store_is_too_small_for(self):
        with self.place() as place:
            done = place.run("bench", "--store", place.store("bytes=1M"),
                             "--keys", "100", "--bytes", "50K..50K",
                             *SHORTLY, "--report", "json")
            expect(done.code == 8, done)
            expect(json.loads(done.out)["without"]["failed"] > 0, done)

    def a_signal_ends_bench_and_what_it_put_is_gone(self):
        with self.place() as place:
            if not has_room(128 << 20):
                return "not run: /dev/shm has too little room"
            process = place.start("bench", "--store", place.store("bytes=64M"),
                                  "--keys", "20000", "--bytes", "1K",
                                  "--fail-rate", "0.5")
            wait_for(lambda: os.path.exists(place.segment), "no store")
            wait_for(lambda: threads(process.pid) > 10, "no threads")
            process.send_signal(signal.SIGINT)
            done = place.finish(process)
            expect(done.code == 128 + signal.SIGINT and
                   (done.out, done.err) == ("", ""), done)
            keys = [f"cleat/bench/{process.pid}/{turn}/{i}"
                    for turn in range(8) for i in range(0, 20000, 100)]
            expect(not place.exists(*keys), "left in the store")
        return None

    # ---- bad input ----

    def bad_input(self, row):
        """One line that says what is wrong, nothing sent, nothing left."""
        with self.place() as place:
            arguments, words = list(bad_input(place))[int(row)]
            before = snapshot(place.folder)
            done = place.run(*arguments)
            expect(done.code == 2 and done.out == "", arguments, done)
            expect(len(done.lines) == 1, arguments, done)
            for word in words:
                expect(word in done.err, repr(word), "is not in", done)
            expect(snapshot(place.folder) == before, "left something:",
                   arguments)
            expect(not os.path.exists(place.segment), "made a store:",
                   arguments)

    def help_tells_every_option_and_fault(self):
        done = subprocess.run([self.cleat, "store", "--help"], text=True,
                              capture_output=True, check=False)
        expect(done.returncode == 0 and done.stderr == "", done)
        for word in ("--store", "--from", "--to", "--keys-from", "--prefix",
                     "--mode", "--verify", "--deadline-s", "--report",
                     "--fault", "--seed", "memory:shared=NAME", "mooncake",
                     "Exit: 0", "always looked at", "TIMES", "500ms"):
            expect(word in done.stdout, word, "is not in", done.stdout)
        for name, *_ in FAULTS:
            expect(f"\n  {name.split(':')[0]} " in done.stdout, name)
        expect(max(map(len, done.stdout.splitlines())) < 80, "too wide")
        for command in ("put", "get", "exists", "remove", "bench"):
            done = subprocess.run([self.cleat, "store", command, "--help"],
                                  text=True, capture_output=True, check=False)
            expect(done.returncode == 0 and "Exit:" in done.stdout, done)
        done = subprocess.run([self.cleat, "--help"], text=True,
                              capture_output=True, check=False)
        expect("store put" in done.stdout, done)

    # ---- Mooncake ----

    def mooncake_is_told_to_be_missing(self):
        with self.place() as place:
            place.values(SOME)
            done = place.put("in", store="mooncake:library=nowhere.so")
            expect(done.code == 2 and done.out == "", done)
            expect(("port/mooncake" if self.no_mooncake else "nowhere.so")
                   in done.err, done)


def has_room(size):
    """In shared memory, others that run now included."""
    about = os.statvfs("/dev/shm")
    return about.f_bavail * about.f_frsize >= size


def wait_for(holds, what):
    end = time.monotonic() + harness.WATCHDOG_S
    while not holds():
        expect(time.monotonic() < end, what)
        time.sleep(0.01)


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def status_mask(pid, name):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith(name):
                return int(line.split()[1], 16)
    return 0


def pending(pid):
    return status_mask(pid, "ShdPnd:")


def catches(pid, number):
    """It is blocked, and a thread waits for it."""
    return threads(pid) > 1 and status_mask(pid, "SigBlk:") >> (number - 1) & 1


def limit_files():
    """For a child: no file of more than 64 KiB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))


def snapshot(folder):
    return sorted((where, sorted(folders), sorted(files))
                  for where, folders, files in os.walk(folder))


# (fault, command and options, exit, statuses of the key that is struck, whether
# it is there afterwards). The other key is always ok.
YES, NO, EITHER = (True,), (False,), (True, False)
PUT, GET = ("put",), ("get",)
# What is to be over at the end; the other key, and what comes before, must not.
SHORTLY = ("--deadline-s", "6")
GONE = ("TRANSIENT", "DEADLINE")
FAULTS = [
    ("transient:1:1", PUT, 0, ("OK",), YES),
    ("transient:1:2", ("remove",), 0, ("OK",), NO),
    ("transient:1", PUT, 8, ("TRANSIENT",), NO),
    ("transient:1:1", GET, 0, ("OK",), YES),
    ("transient:1", GET, 8, ("TRANSIENT",), YES),
    ("transient:1:1", ("remove",), 0, ("OK",), NO),
    ("transient:1", ("remove",), 8, ("TRANSIENT",), YES),
    ("transient:1:1", ("exists",), 0, ("OK",), YES),
    ("transient:1", ("exists",), 8, ("TRANSIENT",), YES),
    ("transient-effect:1:1", PUT, 0, ("OK",), YES),
    ("ambiguous:1:1", PUT, 0, ("OK",), YES),
    ("ambiguous:1", PUT, 8, ("AMBIGUOUS",), NO),
    ("ambiguous:1", GET, 8, ("AMBIGUOUS",), YES),
    ("ambiguous-effect:1:1", PUT, 0, ("OK",), YES),
    ("ambiguous-effect:1:1", ("put", "--mode", "replace"), 0, ("OK",), YES),
    ("ambiguous-effect:1:1", ("remove",), 0, ("OK",), NO),
    ("ambiguous-put:1:1", PUT, 0, ("OK",), YES),
    ("ambiguous-put:1:1", ("put", "--mode", "replace"), 0, ("OK",), YES),
    ("ambiguous-put:1:1", ("put", "--mode", "keep"), 0, ("OK",), YES),
    ("ambiguous-put:1:1", ("put", "--verify", "full"), 0, ("OK",), YES),
    ("capacity:1:1", PUT, 0, ("OK",), YES),
    ("capacity:1", (*PUT, *SHORTLY), 8, ("CAPACITY", "DEADLINE"), NO),
    ("permanent:1", PUT, 8, ("PERMANENT",), NO),
    ("permanent:1", GET, 8, ("PERMANENT",), YES),
    ("permanent:1", ("remove",), 8, ("PERMANENT",), YES),
    ("permanent-effect:1", ("put", "--mode", "keep"), 8, ("PERMANENT",), YES),
    ("missing:1:1", GET, 8, ("NOT_FOUND",), YES),
    ("missing:1", GET, 8, ("NOT_FOUND",), YES),
    ("unreadable:1:1", GET, 0, ("OK",), YES),
    ("short:1:1", GET, 0, ("OK",), YES),
    ("short:1:2", GET, 0, ("OK",), YES),
    ("short:1", GET, 8, ("SHORT",), YES),
    ("corrupt:1:1", GET, 0, ("OK",), YES),
    ("corrupt:1", GET, 8, ("CORRUPT",), YES),
    ("corrupt-stored:1", ("put", "--verify", "full"), 8, ("CORRUPT",), YES),
    ("corrupt-stored:1:1", ("put", "--mode", "replace", "--verify", "full"), 0,
     ("OK",), YES),
    ("torn:1", ("put", "--verify", "full"), 8, ("CORRUPT",), YES),
    ("torn:1:1", ("put", "--mode", "replace", "--verify", "full"), 0, ("OK",),
     YES),
    ("lost:1:1", ("put", "--verify", "exist"), 0, ("OK",), YES),
    ("silence:1:1:50ms", PUT, 0, ("OK",), YES),
    ("silence:1", (*PUT, *SHORTLY), 8, ("AMBIGUOUS", "DEADLINE"), EITHER),
    ("silence:1", (*GET, *SHORTLY), 8, ("AMBIGUOUS", "DEADLINE"), YES),
    ("silence-effect:1:1:50ms", PUT, 0, ("OK",), YES),
    ("silence-effect:1:1:50ms", ("put", "--mode", "replace"), 0, ("OK",), YES),
    ("late:1:1:50ms", PUT, 0, ("OK",), YES),
    ("late:1:1:50ms", GET, 0, ("OK",), YES),
    ("late-transient:1:1:0.05s", PUT, 0, ("OK",), YES),
    ("late-transient:100%:1:50000us", GET, 0, ("OK",), YES),
]


def bad_input(place):
    """(arguments, words that the line must have); makes what they need."""
    store = ("--store", place.store(SMALL))
    place.values(SOME)
    place.write("good", FILES["one scalar"])
    place.write("not-tensors", b"x" * 100)
    place.write("cut", FILES["every dtype"][:-1])
    place.write("long-header", struct.pack("<Q", 1 << 40) + b"{}")
    place.write("f4", FILES["one scalar"].replace(b"F32", b"F4 "))
    place.write("nul-name", tensors_file([("a\0b", "U8", (1,))]))
    place.write("long-name", tensors_file([("x" * 1024, "U8", (1,))]))
    place.write("keys", "key01\n")
    place.write("keys-empty-line", "key01\n\nkey02\n")
    place.write("keys-nul", b"key01\nke\0y\n")
    place.write("keys-long", "key01\nkey02\n" + "k" * 1024 + "\n")
    place.write("keys-crlf", "key01\r\nkey02\r\n")
    place.write("keys-twice", "key01\nkey02\nkey01\n")
    place.write("keys-unknown", "key01\nother\n")
    place.write("keys-name", "key01\n" + "/" * 86 + "\n")
    write_folder(place.path("escaped"), {})
    with open(place.path("escaped", "%41"), "wb"):
        pass
    write_folder(place.path("percent"), {})
    with open(place.path("percent", "100%"), "wb"):
        pass
    write_folder(place.path("dot"), {})
    os.symlink("../good", place.path("dot", "%2Elink"))
    os.mkdir(place.path("nested"))
    os.mkdir(place.path("nested", "folder"))
    os.mkdir(place.path("piped"))
    os.mkfifo(place.path("piped", "pipe"))
    put = ("put", *store, "--from", "in")
    get = ("get", *store, "--keys-from")
    yield (), ("expected put, get",)
    yield ("push",), ("push", "put, get")
    yield ("put",), ("--store",)
    yield ("put", *store), ("--from",)
    yield ("put", "--from", "in"), ("--store",)
    yield (*put, "--from", "in"), ("--from", "twice")
    yield (*put, "--colour", "red"), ("--colour",)
    yield (*put, "more"), ("more",)
    yield (*put, "--to", "out"), ("--to",)
    yield (*put, "--mode", "overwrite"), ("overwrite", "create|replace|keep")
    yield (*put, "--verify", "all"), ("all", "none|exist|full")
    yield (*put, "--report", "xml"), ("xml",)
    yield (*put, "--deadline-s", "0"), ("--deadline-s",)
    yield (*put, "--deadline-s", "soon"), ("soon",)
    yield (*put, "--seed", "x"), ("--seed",)
    yield (*put, "--prefix", ""), ("--prefix",)
    yield (*put, "--prefix", "p" * 1020), ("1025", "1023")
    yield ("get", *store, "--to", "o.safetensors", "--prefix", "p" * 1015), (
        "1027", "1023")
    # the string of a store
    for text, words in (
            ("", ("--store",)),
            ("redis", ("redis", "memory")),
            ("memory:", ("without a name",)),
            ("memory:keys=0", ("keys=0",)),
            ("memory:keys=many", ("keys=many",)),
            ("memory:keys", ("keys",)),
            ("memory:keys=", ("keys",)),
            ("memory:keys=1,keys=2", ("keys", "twice")),
            ("memory:keys=1,,bytes=1M", ("without a name",)),
            ("memory:bytes=12X", ("bytes=12X",)),
            ("memory:bytes=1", ("bytes=1", "65536")),
            ("memory:bytes=64K,keys=1000000", ("memory",)),
            ("memory:colour=red,bytes=8M,taste=sweet",
             ("colour, taste", "shared, keys, bytes")),
            ("memory:shared=../x,bytes=8M", ("shared=../x",)),
            ("memory:shared=" + "x" * 65 + ",bytes=8M", ("shared=",)),
            ("memory:shared=.x,bytes=8M", ("shared=.x",)),
            ("memory:no\x1b[2Jsuch=1", ("no?[2Jsuch",)),
            ("memory:" + "x" * 5000, ("4095",)),
            ("memory:" + "x" * 253 + "=1", ("no option xxx",)),
            ("memory:" + "x" * 3900, ("no option xxx", "shared, keys")),
            ("mooncake:colour=red", ("colour", "library, master")),
            ("mooncake:replicas=0", ("replicas=0",)),
            ("mooncake:hard-pin=yes", ("hard-pin",)),
            ("mooncake:master=", ("master",))):
        yield ("put", "--from", "in", "--store", text), words
    # faults
    for text, words in (
            ("bang:1", ("bang", "transient", "crash-before-end")),
            ("transient", ("transient:RATE",)),
            ("transient:", ("RATE",)),
            ("transient:2", ("transient:2",)),
            ("transient:101%", ("101%",)),
            ("transient:-1", ("transient:-1",)),
            ("transient:x", ("transient:x",)),
            ("transient:1:0", ("TIMES",)),
            ("transient:1:soon", ("TIMES", "key=KEY")),
            ("silence:1:5m", ("500ms",)),
            ("silence:1:0s", ("500ms",)),
            ("transient:1:", ("colon",)),
            ("transient:1:key=", ("key=KEY",))):
        yield (*put, "--fault", text), words
    yield ((*put, *(word for _ in range(33)
                    for word in ("--fault", "transient:1"))), ("32",))
    # lists of keys
    yield (*get, "nowhere"), ("nowhere", "No such file")
    yield (*get, "in"), ("in", "directory")
    yield (*get, "keys-empty-line"), ("keys-empty-line", "line 2", "empty")
    yield (*get, "keys-nul"), ("line 2", "NUL")
    yield (*get, "keys-long"), ("line 3", "1024", "1023")
    yield (*get, "keys-crlf"), ("line 1", "carriage return")
    yield (*get, "keys-twice"), ("lines 1 and 3",)
    yield (*get, "keys-name", "--to", "out"), ("line 2", "255")
    yield (*put, "--keys-from", "keys-unknown"), ("line 2", "other", "in")
    yield (*put, "--keys-from", "keys-twice"), ("lines 1 and 3",)
    yield (("put", *store, "--from", "good", "--keys-from", "keys"),
           ("line 1", "key01"))
    # where values come from, and go
    for name, words in (("nowhere", ("nowhere",)),
                        ("not-tensors", ("not-tensors",)),
                        ("cut", ("cut",)),
                        ("long-header", ("long-header",)),
                        ("f4", ("f4", "dtype")),
                        ("nul-name", ("nul-name", "name")),
                        ("long-name", ("long-name", "1024")),
                        ("escaped", ("%41", "%XX")),
                        ("percent", ("100%", "%XX")),
                        ("nested", ("nested/folder", "regular file")),
                        ("piped", ("piped/pipe", "regular file"))):
        yield ("put", *store, "--from", name), words
    yield ("get", *store), ("--keys-from", ".safetensors")
    yield ("get", *store, "--to", "out"), ("--keys-from",)
    yield (*get, "keys", "--to", "o.safetensors"), ("whole", "folder")
    yield (*get, "keys", "--to", "good"), ("good", "Not a directory")
    yield (*get, "keys", "--to", "nowhere/out"), ("nowhere/out", "No such")
    yield ("get", *store, "--to", "nowhere/o.safetensors"), ("No such",)
    yield (*get, "keys", "--from", "in"), ("--from",)
    yield (*get, "keys", "--mode", "keep"), ("--mode",)
    yield ("exists", *store), ("--keys-from",)
    yield ("exists", *store, "--keys-from", "keys", "--to", "x"), ("--to",)
    yield ("remove", *store), ("--keys-from",)
    yield ("remove", *store, "--keys-from", "keys", "--verify", "full"), (
        "--verify",)
    # bench
    bench = ("bench", "--store", "memory", "--keys", "10", "--bytes")
    yield ("bench",), ("--store",)
    yield ("bench", "--store", "memory"), ("--keys",)
    yield bench, ("--bytes",)
    yield (*bench, "5..1"), ("5..1",)
    yield (*bench, "x"), ("64K..1M",)
    yield (*bench, "1..1T", "--keys", "10"), ("twice",)
    yield (*bench, "1T..1T"), ("memory",)
    yield (*bench, "1K", "--threads", "0"), ("--threads",)
    yield (*bench, "1K", "--fail-rate", "2"), ("--fail-rate",)
    yield (*bench, "1K", "--fail-rate", "0.1:1"), ("--fail-rate",)
    yield ("bench", "--store", "memory:x=1", "--keys", "1", "--bytes", "1K"), (
        "option x",)


def count_bad_input(cleat):
    with Place(cleat) as place:
        return len(list(bad_input(place)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cleat", required=True)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--only", default="")
    parser.add_argument("--part", choices=("all", "sixth", "rest"),
                        default="all", help="each sixth cell; the others")
    parser.add_argument("--no-mooncake", action="store_true")
    arguments = parser.parse_args()
    cleat = os.path.abspath(arguments.cleat)
    tests = Tests(cleat, arguments.no_mooncake)
    helpers = ("place", "fault", "bad_input", "safetensors", "late_put")
    cells = [f"fault {i}" for i in range(len(FAULTS))]
    cells += [f"bad_input {i}" for i in range(count_bad_input(cleat))]
    cells += [f"safetensors {name}" for name in FILES]
    cells += [name for name in vars(Tests) if not name.startswith("_")
              and name not in helpers]
    if arguments.part == "sixth":
        cells = cells[::6]
    elif arguments.part == "rest":
        cells = [cell for i, cell in enumerate(cells) if i % 6]
    cells = [cell for cell in cells if arguments.only in cell]

    def run(cell):
        name, _, row = cell.partition(" ")
        test = getattr(tests, name)
        return (test(row) if row else test()) or "ok"
    return 1 if harness.run_all(cells, run, arguments.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
