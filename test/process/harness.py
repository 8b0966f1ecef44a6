# Cleat: runs `cleat sync` as a user does, and looks at what is left afterwards.
# SPDX-License-Identifier: Apache-2.0
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid

# A watchdog, not an expectation: nothing here asserts how long a run took.
WATCHDOG_S = 120
TIME = re.compile(r"^\[ *\d+\.\d{3}\] ")  # before a line of --verbose
MARK = "CLEAT_TEST_MARK"
# A name that another test may give to what it has in shared memory.
OF_A_TEST = re.compile(r"-test[-.]")
EXIT = {"COMMITTED": 0, "DEGRADED": 3, "ROLLED_BACK": 4, "RESTART": 5}


class Failure(Exception):
    pass


def expect(truth, *what):
    if not truth:
        raise Failure(" ".join(str(part) for part in what))


def marked(mark):
    """The processes that carry a mark in their environment, or none."""
    found = {}
    needle = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if needle not in file.read().split(b"\0"):
                    continue
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            state = state_of(name)
        except OSError:
            continue
        if state != "Z":
            found[int(name)] = [word.decode() for word in words]
    return found


def state_of(pid):
    """One letter, of /proc/PID/stat."""
    with open(f"/proc/{pid}/stat", encoding="utf-8",
              errors="surrogateescape") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def is_pending(pid, number):
    """Has that signal come, and nobody taken it?"""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith(("ShdPnd:", "SigPnd:")) and \
                    int(line.split()[1], 16) >> (number - 1) & 1:
                return True
    return False


def of_command(mark, command):
    """Of those, the ones that run `cleat <command>`."""
    return [pid for pid, words in marked(mark).items() if words[1:2] == [command]]


def segments():
    """What has a name in shared memory."""
    try:
        return set(os.listdir("/dev/shm"))
    except OSError:
        return set()


class Job:
    """One `cleat sync`, in a folder of its own, with its processes marked."""

    def __init__(self, cleat, weights, *options, listens=False,
                 environment=()):
        self.mark = uuid.uuid4().hex
        self.folder = tempfile.mkdtemp(prefix="cleat-test-")
        self.segments = segments()
        self.environment = dict(os.environ, **{MARK: self.mark},
                                **dict(environment))
        self.cleat = cleat
        self.lines = []
        self.heard = threading.Condition()
        self.process = subprocess.Popen(
            [cleat, "sync", "--weights", weights, "--report", "json",
             "--verbose", *options],
            cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True)
        self.out = ""
        self.readers = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._read_lines, daemon=True)]
        for reader in self.readers:
            reader.start()

    def _read_out(self):
        self.out = self.process.stdout.read()

    def _read_lines(self):
        for line in self.process.stderr:
            with self.heard:
                self.lines.append(line.rstrip("\n"))
                self.heard.notify_all()
        with self.heard:
            self.lines.append(None)
            self.heard.notify_all()

    def await_line(self, start):
        """Blocks until a line of standard error starts so."""
        end = time.monotonic() + WATCHDOG_S
        at = 0
        with self.heard:
            while True:
                for line in self.lines[at:]:
                    if line is None:
                        raise Failure(f"ended before it said {start!r}:",
                                      self.lines)
                    if TIME.sub("", line).startswith(start):
                        return line
                at = len(self.lines)
                if not self.heard.wait(max(0.0, end - time.monotonic())):
                    raise Failure(f"never said {start!r}:", self.lines)

    def await_stopped(self):
        """Blocks until one of its engines is stopped, by a fault; which."""
        end = time.monotonic() + WATCHDOG_S
        while True:
            for pid in of_command(self.mark, "engine"):
                with contextlib.suppress(OSError):
                    if state_of(pid) == "T":
                        return pid
            expect(time.monotonic() < end, "nobody has stopped:", self.lines)
            time.sleep(0.02)

    def kill(self, number=signal.SIGKILL):
        os.kill(self.process.pid, number)

    def wait(self):
        try:
            code = self.process.wait(WATCHDOG_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure("did not end by itself:", self.lines)
        for reader in self.readers:
            reader.join(WATCHDOG_S)
        return code

    def report(self):
        try:
            return json.loads(self.out)
        except ValueError as error:
            raise Failure(f"no report ({error}): {self.out!r}", self.lines)

    def await_nobody(self, who="anybody"):
        """Blocks until none of its processes is left."""
        end = time.monotonic() + WATCHDOG_S
        while marked(self.mark):
            if time.monotonic() > end:
                raise Failure(f"{who} outlived the job:", marked(self.mark))
            time.sleep(0.02)

    def expect_nothing_left(self, *files):
        """No process, segment or file but those named."""
        left = marked(self.mark)
        expect(not left, "processes left:", left)
        # What others on this machine have just now is theirs, and goes; what is
        # left stays.
        end = time.monotonic() + WATCHDOG_S
        while new := {name for name in segments() - self.segments
                      if "cleat" in name and not OF_A_TEST.search(name)}:
            expect(time.monotonic() < end, "segments left:", new)
            time.sleep(0.1)
        here = set(os.listdir(self.folder))
        expect(here == set(files), "files left:", here, "expected:", set(files))

    def expect_store_swept(self):
        """The coordinator has looked into the store, after everybody's end."""
        said = [TIME.sub("", line) for line in self.lines if line is not None]
        expect("cleat sync: objects left in the store: 0" in said,
               "objects left:", said)

    def close(self):
        for pid in marked(self.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()


class Gpus:
    """The fakes of CUDA and NCCL, for one job: a world of its own, in which
    `plan` holds. What is in `first` is loaded in their place."""

    def __init__(self, fakes, plan="", first=None):
        self.fakes, self.plan, self.first = fakes, plan, first
        self.folder = tempfile.mkdtemp(prefix="cleat-test-")

    def environment(self):
        paths = [os.path.join(self.fakes, name)
                 for name in (self.first, "lib") if name]
        return {"LD_LIBRARY_PATH": ":".join(paths), "FAKE_GPU": self.plan,
                "FAKE_GPU_WORLD": os.path.join(self.folder, "world")}

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        shutil.rmtree(self.folder, ignore_errors=True)


def make_weights(cleat, folder, params="4M", name="weights.safetensors"):
    path = os.path.join(folder, name)
    subprocess.run([cleat, "weights", "make", "--params", params, "--out", path],
                   check=True, stdout=subprocess.DEVNULL)
    return path


NUMBERS = {"version": int, "bytes": int, "seconds": float,
           "delivered_gib_per_s": float, "attempts": int, "epoch": int,
           "bound_s": float}
REPLICA = {"id": int, "pid": int, "state": str, "version": int, "served": int,
           "torn_served": int, "digest": int}
ERROR = ("step", "who", "status", "class", "message")
UNDO = ("step", "who", "status")
STATES = {"serving", "quarantined", "dead", "unfenced"}
CLASSES = {"transient", "ambiguous", "capacity", "permanent", "cancelled"}


def check_schema(report, replicas):
    """The report has the fields it is said to have, of the right kinds."""
    fields = set(NUMBERS) | {"outcome", "transport", "digest", "replicas",
                             "errors", "undo"}
    expect(set(report) == fields, "fields:", sorted(report))
    expect(report["digest"] in ("host", "skipped"), report["digest"])
    expect(report["outcome"] in EXIT, report["outcome"])
    for key, kind in NUMBERS.items():
        number = report[key]
        expect(isinstance(number, (int, kind)) and not isinstance(number, bool),
               key, "is", number)
    expect(len(report["replicas"]) == replicas, report["replicas"])
    for index, replica in enumerate(report["replicas"]):
        expect(set(replica) == set(REPLICA), replica)
        for key, kind in REPLICA.items():
            if key == "digest" and report["digest"] == "skipped":
                kind = type(None)
            expect(type(replica[key]) is kind, key, "is", replica[key])
        expect(replica["id"] == index, replica)
        expect(replica["state"] in STATES, replica)
    for error in report["errors"]:
        expect(tuple(error) == ERROR, error)
        expect(all(isinstance(value, str) and value for value in error.values()),
               error)
        expect(error["class"] in CLASSES, error)
    for undo in report["undo"]:
        expect(tuple(undo) == UNDO, undo)
        expect(undo["step"] in {"finalize", "restore", "resume"}, undo)
    expect(0 <= report["seconds"] <= report["bound_s"], report["seconds"],
           "s is more than", report["bound_s"])


def states(report, state):
    return [r["id"] for r in report["replicas"] if r["state"] == state]


def check_outcome(report, code, serving=None, version=None):
    """Exit code, outcome and what the replicas are say the same."""
    expect(EXIT[report["outcome"]] == code, report["outcome"], "but exit", code)
    expect(all(r["torn_served"] == 0 for r in report["replicas"]),
           "torn bytes were served:", report["replicas"])
    serving = states(report, "serving")
    if code == 0:
        expect(len(serving) == len(report["replicas"]), report["replicas"])
    elif code in (3, 4):
        expect(serving, "nobody serves:", report["replicas"])
    else:
        expect(not serving, "somebody serves:", report["replicas"])
    if code != 0:
        expect(report["errors"], "no error says why")
    for r in report["replicas"]:
        if r["state"] == "serving" and version is not None:
            expect(r["version"] == version, "serves another version:", r)
            expect(r["served"] >= 16, "has hashed too little:", r)


def run_all(cells, run, jobs):
    """Runs every cell, some at a time; prints each; returns how many failed."""
    todo = list(reversed(cells))
    failed = []
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                if not todo:
                    return
                cell = todo.pop()
            try:
                said = run(cell)
            except Exception as error:  # whatever it is, the cell has failed
                said = f"FAILED: {type(error).__name__}: {error}"
                with lock:
                    failed.append(cell)
            with lock:
                print(f"{cell}: {said}", flush=True)

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{len(cells)} cells, {len(failed)} failed", flush=True)
    for cell in failed:
        print(f"failed: {cell}", file=sys.stderr)
    return len(failed)
