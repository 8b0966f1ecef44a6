#!/usr/bin/env python3
# Cleat: what tools/bench gpu measures, over the fakes of CUDA and NCCL.
# SPDX-License-Identifier: Apache-2.0
"""usage: gpu_bench_test.py BENCH FOLDER

FOLDER: where test/fakes has put CUDA and NCCL. How fast anything was is not
looked at.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # nothing in the source tree

SMALL = ("--bucket", "16K", "--bytes", "100K", "--turns", "2")
WATCHDOG = 100  # seconds


def expect(true, *what):
    if not true:
        raise AssertionError(" ".join(str(part) for part in what))


class Run:
    """A run that has ended, with a world of its own."""

    def __init__(self, bench, fakes, *options, plan="", nccl="lib", cuda=None,
                 sizes=SMALL):
        cuda = cuda or os.path.join(fakes, "lib", "libcuda.so.1")
        if not os.path.isabs(nccl):
            nccl = os.path.join(fakes, nccl, "libnccl.so.2")
        folder = tempfile.mkdtemp(prefix="cleat-test-")
        environment = {**os.environ, "FAKE_GPU": plan,
                       "FAKE_GPU_WORLD": os.path.join(folder, "world")}
        for name in list(environment):
            if name.startswith("NCCL_"):
                del environment[name]
        try:
            self.process = subprocess.Popen(
                [bench, "--cuda", cuda, "--nccl", nccl, *sizes, *options],
                env=environment, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, start_new_session=True)
            self.out, self.err = self.process.communicate(timeout=WATCHDOG)
        finally:
            self.process.kill()
            shutil.rmtree(folder, ignore_errors=True)
        self.code = self.process.returncode
        self.lines = self.out.splitlines()

    def all(self):
        return f"exit {self.code}\n{self.out}{self.err}"

    def expect_nobody_left(self):
        left = [pid for pid in os.listdir("/proc") if pid.isdigit() and
                session_of(pid) == self.process.pid]
        expect(not left, "left behind:", left, self.all())

    def expect_refused(self, code, *words):
        expect(self.code == code, "expected exit", code, self.all())
        said = [line for line in self.err.splitlines()
                if not line.startswith("fake GPU:")]
        expect(len(said) == 1 and said[0].startswith("gpu_bench: "), self.all())
        for word in words:
            expect(word in said[0], repr(word), "is not in", said[0])
        self.expect_nobody_left()

    def expect_measured(self):
        expect(self.code == 0 and self.err == "", self.all())
        expect(any("every way brought the right bytes" in line
                   for line in self.lines), self.all())
        rows = {}
        for line in self.lines:
            if line.startswith("| "):
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                expect(len(cells) == 2, line)
                rows.setdefault(cells[0], []).append(cells[1])
        rates = [name for name in rows if name.endswith(", GB/s")]
        expect(len(rates) == 9, self.all())
        ratios = [name for name in rows if name.startswith("… ")]
        expect(len(ratios) == 5, self.all())
        for name in rates + ratios:
            for cell in rows[name]:
                number = re.match(r"\d+\.\d+", cell)
                expect(number and float(number.group()) >= 0, name, cell)
        expect(re.search(r"(: met|: NOT MET)$", self.lines[-1]), self.all())
        self.expect_nobody_left()
        return rows


def session_of(pid):
    """The session of a process that runs; a zombie's and nobody's is 0."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[3])


class Tests:
    def __init__(self, bench, fakes):
        self.bench, self.fakes = bench, fakes

    def run(self, *options, **more):
        return Run(self.bench, self.fakes, *options, **more)

    # ---- it measures ----

    def it_runs_to_its_end_and_prints_every_number(self):
        run = self.run(plan="devices=2")
        rows = run.expect_measured()
        # 100 KiB are seven buckets of 16.
        expect(rows["payload of a pass on the device"] == ["112 KiB"],
               run.all())
        expect("CUDA 13.0; NCCL 2.28.9 (revoke, grouped abort); 2 x Fake GPU"
               in run.lines[0], run.all())
        expect(run.lines[1].startswith(
            "1 sender and 1 receiver on 2 devices, broadcast, 3 slots "
            "registered with NCCL;"), run.all())
        expect("share" not in run.lines[2], run.all())

    def there_are_as_many_receivers_as_further_devices(self):
        run = self.run("--topology", "fan-out", plan="devices=3")
        run.expect_measured()
        expect(run.lines[1].startswith(
            "1 sender and 2 receivers on 3 devices, fan-out"), run.all())

    def who_shares_a_device_says_so_and_how(self):
        for nccl, how in (("lib", "(a NCCL_HOSTID each)"),
                          ("nccl_2_30", "(NCCL_MULTI_RANK_GPU_ENABLE=1)")):
            run = self.run(plan="devices=1", nccl=nccl)
            run.expect_measured()
            expect(run.lines[2].startswith("2 processes share a device " + how),
                   run.all())

    def slots_are_registered_everywhere_or_nowhere(self):
        run = self.run("--register", "never", plan="devices=2")
        run.expect_measured()
        expect("registered" not in run.out, run.all())

    # ---- it notices ----

    def bytes_that_change_on_the_way_are_noticed(self):
        for call, way in (("ncclBroadcast#4", "bare NCCL"),
                          ("ncclBroadcast#10", "weights on the device"),
                          ("ncclBroadcast#18", "as they are"),
                          ("ncclBroadcast#21", "staged")):
            run = self.run(plan=f"devices=2 {call}:garble@rank=1")
            run.expect_refused(1, way, "CORRUPT" if "#21" in call else
                               "other bytes have come")

    def a_process_that_is_killed_ends_the_run(self):
        for who, rank in (("a receiver", 1), ("the sender", 0)):
            run = self.run(plan=f"devices=2 ncclBroadcast#10:kill@rank={rank}")
            run.expect_refused(1, who, "was ended by signal 9")

    def what_never_ends_ends_at_the_deadline(self):
        for fault in ("ncclBroadcast#3:never*0", "cuMemHostAlloc#1:hang"):
            run = self.run("--deadline", "2", plan=f"devices=2 {fault}")
            expect("deadline" in run.err.lower(), run.all())
            run.expect_refused(1)

    def an_error_of_a_library_is_told(self):
        run = self.run(plan="devices=2 ncclCommInitRankConfig#1:fail=3")
        run.expect_refused(1, "forming the bare communicator")

    # ---- it refuses ----

    def without_a_library_it_says_what_it_looked_for(self):
        run = self.run(cuda="/nowhere/libcuda.so.1")
        run.expect_refused(2, "/nowhere/libcuda.so.1")
        run = self.run(nccl="/nowhere/libnccl.so.2")
        run.expect_refused(2, "/nowhere/libnccl.so.2")
        run = self.run(cuda="/nowhere/a.so", nccl="/nowhere/b.so")
        run.expect_refused(2, "/nowhere/a.so", "/nowhere/b.so")
        self.run(nccl="nccl_2_18").expect_refused(2, "2.18.6", "2.19")
        self.run(plan="init=100").expect_refused(2, "no device")
        self.run(plan="init=34").expect_refused(2, "stub")

    def memory_that_is_not_there_is_not_taken(self):
        self.run("--bucket", "1G").expect_refused(2, "9663676416",
                                                  "1073741824")
        self.run(sizes=("--quick",)).expect_refused(2, "1024 MiB are free")

    def options_that_mean_nothing_are_refused(self):
        for options in (("--turns", "0"), ("--turns", "x"), ("--bucket", "-1"),
                        ("--bucket", "9999999999G"), ("--topology", "ring"),
                        ("--receivers", "9"), ("--fast", "1"), ("--bytes",),
                        ("--register", "always")):
            self.run(*options).expect_refused(2)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    tests = Tests(*sys.argv[1:3])
    failed = 0
    for name in [name for name in vars(Tests) if "_" in name[1:] and
                 not name.startswith("_")]:
        if sys.argv[3:] and sys.argv[3] not in name:
            continue
        try:
            getattr(tests, name)()
            print(f"ok      {name.replace('_', ' ')}")
        except (AssertionError, subprocess.TimeoutExpired) as error:
            failed += 1
            print(f"FAILED  {name.replace('_', ' ')}\n{error}")
        sys.stdout.flush()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
