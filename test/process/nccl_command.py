#!/usr/bin/env python3
# Cleat: `cleat sync --transport nccl`, over the fakes of CUDA and NCCL.
# SPDX-License-Identifier: Apache-2.0
"""usage: nccl_command.py --cleat PATH (--gpus FOLDER | --absent) [--jobs N]
                          [--only TEXT]

--gpus: where test/fakes has put CUDA and NCCL. --absent: this build has no
port/nccl. The faults of `cleat sync` are matrix.py's.
"""
import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # nothing in the source tree

import command
import harness
from harness import expect

NCCL = ("--transport", "nccl", "--bucket-mib", "1")


class Tests:
    def __init__(self, cleat, weights, fakes):
        self.cleat, self.weights, self.fakes = cleat, weights, fakes
        self.folder = os.path.dirname(weights)

    def gpus(self, plan="", first=None):
        return harness.Gpus(self.fakes, plan, first)

    def job(self, gpus, *options, more=()):
        return harness.Job(self.cleat, self.weights, *NCCL, *options,
                           environment={**gpus.environment(), **dict(more)})

    def finish(self, job, code, *files, replicas=4, version=1, digest="host"):
        found = job.wait()
        expect(found == code, "exit", found, "expected", code, job.out,
               job.lines)
        report = job.report()
        harness.check_schema(report, replicas)
        harness.check_outcome(report, code, version=version)
        expect(report["transport"] == "nccl", report["transport"])
        expect(report["digest"] == digest, report["digest"])
        job.expect_nothing_left(*files)
        return report

    # ---- what it does ----

    def what_arrives_is_what_shared_memory_brings(self):
        files = ("replica-0.safetensors", "replica-1.safetensors")
        options = ("--replicas", "2", "--rounds", "2", "--dump", ".")
        said = []
        staged, in_place = ("--mode", "staged"), ("--mode", "in-place")
        off = ("--digest", "off")
        for transport in (("shm",), ("nccl", "--topology", "broadcast"),
                          ("nccl", "--topology", "fan-out", *in_place),
                          ("nccl", *off, *staged), ("nccl", *off, *in_place)):
            with self.gpus() as gpus, harness.Job(
                    self.cleat, self.weights, "--bucket-mib", "1", *options,
                    "--transport", *transport,
                    environment=gpus.environment()) as job:
                expect(job.wait() == 0, transport, job.out, job.lines)
                for name in files:
                    path = os.path.join(job.folder, name)
                    with open(path, "rb") as file:
                        said.append(file.read())
                used = os.path.exists(gpus.environment()["FAKE_GPU_WORLD"])
                expect(used == (transport[0] == "nccl"), "GPUs:", used)
                report = job.report()
                harness.check_schema(report, 2)
                skipped = "off" in transport
                expect(report["digest"] == ("skipped" if skipped else "host"),
                       transport, report["digest"])
                expect(all((r["digest"] is None) == skipped
                           for r in report["replicas"]), transport, report)
        expect(all(one == said[0] for one in said), "they differ")

    def without_digests_faults_end_as_with_them(self):
        for fault, code in (("send@3:1:kill", 3), ("send@3:trainer:kill", 4),
                            ("send:1:error", 0)):
            with self.gpus() as gpus, self.job(
                    gpus, "--replicas", "3", "--digest", "off", "--fault",
                    fault) as job:
                self.finish(job, code, replicas=3, version=int(code != 4),
                            digest="skipped")

    # ---- a byte that changes ----

    def a_byte_that_changes_between_gpus_is_found_by_its_digest(self):
        with self.gpus("ncclBroadcast#1:garble@rank=2") as gpus, self.job(
                gpus, "--replicas", "2") as job:
            report = self.finish(job, 0, replicas=2)
            expect(report["attempts"] == 2, report["attempts"])

    def a_byte_that_changes_between_device_and_host_is_found_by_its_digest(
            self):
        # An engine that receives copies to the host first.
        with self.gpus("cuMemcpyAsync#1:garble@rank=2") as gpus, self.job(
                gpus, "--replicas", "2") as job:
            report = self.finish(job, 0, replicas=2)
            expect(report["attempts"] == 2, report["attempts"])

    def torn(self, plan):
        weights = harness.make_weights(self.cleat, self.folder, "20K",
                                       plan.split("#")[0])
        with self.gpus(plan) as gpus, harness.Job(
                self.cleat, weights, *NCCL, "--replicas", "2", "--digest",
                "off", environment=gpus.environment()) as job:
            code = job.wait()
            report = job.report()
            harness.check_schema(report, 2)
            expect(code == 5 and report["outcome"] == "RESTART", code,
                   report["outcome"], job.lines)
            good, bad = report["replicas"]
            expect(bad["torn_served"] > 0, "nobody has seen it:", report)
            expect(good["torn_served"] == 0 and good["served"] > 0, report)
            expect(any(e["who"] == "replica 1" and e["step"] == "serve" and
                       e["status"] == "CORRUPT" for e in report["errors"]),
                   report["errors"])
            job.expect_nothing_left()

    # All weights are one window, so that every request looks at that byte.

    def without_digests_what_changed_between_gpus_is_found_in_serving(self):
        self.torn("ncclBroadcast#1:garble@rank=2")

    def what_changed_within_a_gpu_is_found_in_serving(self):
        # Without digests an engine that receives copies within its GPU only.
        self.torn("cuMemcpyAsync#1:garble@rank=2")

    def a_dead_replica_is_left_out_of_the_groups_that_follow(self):
        with self.gpus() as gpus, self.job(
                gpus, "--rounds", "3", "--replicas", "3", "--fault",
                "send@3:1:kill") as job:
            report = self.finish(job, 3, replicas=3, version=3)
            expect(report["attempts"] == 4, report["attempts"])

    def replicas_of_two_workers_have_a_device_each(self):
        with self.gpus("devices=5") as gpus, self.job(
                gpus, "--replicas", "2", "--workers", "2") as job:
            self.finish(job, 0, replicas=2)

    def one_device_is_shared_when_that_is_asked_for(self):
        with self.gpus("devices=1") as gpus, self.job(
                gpus, "--device", "0") as job:
            self.finish(job, 0)
            expect(any("device 0 is given to several" in str(line)
                       for line in job.lines), job.lines)

    def one_device_is_shared_where_nccl_can(self):
        allowed = {"NCCL_MULTI_RANK_GPU_ENABLE": "1"}
        with self.gpus("devices=1", "nccl_2_30") as gpus, self.job(
                gpus, more=allowed) as job:
            self.finish(job, 0)

    def a_bucket_has_512_mib_unless_told(self):
        """More than these weights have: it goes well as one bucket."""
        with self.gpus() as gpus, harness.Job(
                self.cleat, self.weights, "--transport", "nccl", "--replicas",
                "2", environment=gpus.environment()) as job:
            expect(job.wait() == 0, job.out, job.lines)
            expect(job.report()["transport"] == "nccl", job.report())
            job.expect_nothing_left()
        with self.gpus() as gpus, harness.Job(
                self.cleat, self.weights, "--transport", "nccl", "--listen",
                "socket", environment=gpus.environment()) as job:
            line = job.await_line("  ")
            expect("--bucket-mib 512 " in line, line)
            job.await_line("cleat sync: waiting for trainer")
            job.kill(signal.SIGTERM)
            expect(job.wait() != 0, job.lines)

    def the_oldest_nccl_that_is_taken_brings_it_too(self):
        with self.gpus("", "nccl_2_19") as gpus, self.job(
                gpus, "--fault", "send@3:1:kill") as job:
            self.finish(job, 3)

    def engines_may_attach(self):
        with self.gpus() as gpus, self.job(
                gpus, "--listen", "socket", "--replicas", "2", "--topology",
                "fan-out") as job:
            job.await_line("  ")
            job.await_line("cleat sync: waiting for trainer")
            shown = [line for line in job.lines if line.startswith("  ")]
            engines = [subprocess.Popen("exec " + line[:-2].strip(), shell=True,
                                        cwd=job.folder, env=job.environment)
                       for line in shown]
            code = job.wait()
            for engine in engines:
                engine.wait(harness.WATCHDOG_S)
            expect(code == 0, code, job.out, job.lines)

    def an_engine_with_other_tensors_is_in_no_group(self):
        """As over shared memory: the job waits for one that fits."""
        other = os.path.join(self.folder, "permuted.safetensors")
        command.rewrite(self.weights, other, command.permuted)
        with self.gpus() as gpus, self.job(
                gpus, "--listen", "socket", "--replicas", "1") as job:
            job.await_line("  ")
            job.await_line("cleat sync: waiting for trainer")
            (line,) = [line[:-2].strip() for line in job.lines
                       if line.startswith("  ")]
            done = subprocess.run(
                line.replace(self.weights, other), shell=True, cwd=job.folder,
                env=job.environment, capture_output=True, text=True,
                check=False, timeout=harness.WATCHDOG_S)
            expect(done.returncode == 2 and done.stderr.count("\n") == 1 and
                   "its tensor table or bucket size" in done.stderr, done)
            engine = subprocess.Popen("exec " + line, shell=True,
                                      cwd=job.folder, env=job.environment)
            expect(job.wait() == 0, job.out, job.lines)
            expect(engine.wait(harness.WATCHDOG_S) == 0, engine.returncode)
            expect(job.report()["attempts"] == 1, job.out)

    # ---- a device that is lost ----

    def lost(self, plan, code, *options, version=0, digest="host"):
        with self.gpus(plan) as gpus, self.job(
                gpus, "--replicas", "3", "--rounds", "3", "--digest",
                "on" if digest == "host" else "off", *options) as job:
            report = self.finish(job, code, replicas=3, version=version,
                                 digest=digest)
            expect(any("the GPU is lost" in str(line) for line in job.lines),
                   job.lines)
        return report

    def a_replica_whose_device_is_lost_as_it_receives_is_dead_from_then_on(
            self):
        # 700: an illegal address. A process has a rank from its first group
        # on, and serves nothing then: the third copy is of what it receives.
        # Without the last rank there is none of its number.
        for digest, mode in (("host", "staged"), ("skipped", "in-place")):
            report = self.lost("cuMemcpyAsync#3:fail=700@rank=3", 3, "--mode",
                               mode, version=3, digest=digest)
            expect(harness.states(report, "dead") == [2], report["replicas"])
            # Its command may have been answered before it left.
            expect(any(e["status"] in ("DEVICE_LOST", "PEER_LOST") and
                       e["who"] == "replica 2" for e in report["errors"]),
                   report["errors"])
            # Rounds 2 and 3 begin without it.
            expect(report["attempts"] == 4, report["attempts"],
                   report["errors"])

    def a_device_that_is_lost_at_any_time_costs_its_replica(self):
        # Whether the engine receives then, or serves: its copies are both.
        for call in (60, 90, 121, 152, 183):
            with self.gpus(f"cuMemcpyAsync#{call}:fail=700@rank=3") as gpus, \
                    self.job(gpus, "--replicas", "3", "--rounds", "6") as job:
                report = self.finish(job, 3, replicas=3, version=6)
                expect(report["replicas"][2]["state"] == "dead", report)
                expect(any("the GPU is lost" in str(line)
                           for line in job.lines), job.lines)

    def without_the_trainers_device_everybody_goes_back(self):
        # In each of the rounds: there is no other trainer.
        for digest in ("host", "skipped"):
            report = self.lost("cuMemcpyAsync#3:fail=700@rank=0", 4,
                               digest=digest)
            expect(len(harness.states(report, "serving")) == 3, report)
            expect(sum(e["status"] == "DEVICE_LOST" and e["who"] == "trainer"
                       for e in report["errors"]) >= 3, report["errors"])

    # ---- bad input ----

    def bad_input_is_one_line_and_nothing_else(self):
        for plan, first, options, words in bad_input():
            with self.gpus(plan, first) as gpus:
                self.refused(gpus.environment(), options, words)

    def a_driver_that_does_not_come_back_is_bad_input(self):
        for call in ("cuInit", "cuMemAlloc"):
            with self.gpus(f"{call}#1:hang") as gpus:
                self.refused(gpus.environment(), ("--start-timeout-s", "1"),
                             ("--transport nccl", "has not come back in 1 s"))

    def a_signal_ends_the_wait_for_such_a_driver(self):
        with self.gpus("cuInit#1:hang") as gpus, self.job(gpus) as job:
            world = gpus.environment()["FAKE_GPU_WORLD"]
            end = time.monotonic() + harness.WATCHDOG_S
            while not os.path.exists(world) and time.monotonic() < end:
                time.sleep(0.01)
            job.kill(signal.SIGTERM)
            code = job.wait()
            expect(code == -signal.SIGTERM, code, job.lines)
            job.expect_nothing_left()

    def libraries_that_are_not_there_are_named(self):
        for name in ("libcuda.so.1", "libnccl.so.2"):
            with self.gpus() as gpus:
                environment = gpus.environment()
                with open(os.path.join(gpus.folder, name), "wb"):
                    pass # in place of one that this machine may have
                environment["LD_LIBRARY_PATH"] = (
                    gpus.folder + ":" + environment["LD_LIBRARY_PATH"])
                self.refused(environment, (), ("--transport nccl", name))

    def refused(self, environment, options, words):
        mark = os.urandom(16).hex()
        with tempfile.TemporaryDirectory(prefix="cleat-test-") as folder:
            done = subprocess.run(
                [self.cleat, "sync", "--weights", self.weights, *NCCL, "--dump",
                 "d", "--trace", "t", *options], cwd=folder,
                capture_output=True, text=True, check=False,
                timeout=harness.WATCHDOG_S,
                env={**os.environ, **environment, harness.MARK: mark})
            said = done.stderr
            expect(done.returncode == 2, options, "exit", done.returncode, said)
            expect(done.stdout == "", options, "printed", done.stdout)
            expect(said.startswith("cleat sync: ") and said.endswith("\n")
                   and said.count("\n") == 1, options, "said", repr(said))
            for word in words:
                expect(word in said, options, "did not say", repr(word), "in",
                       said)
            expect(os.listdir(folder) == [], "wrote", os.listdir(folder))
        expect(not harness.marked(mark), options, "left a process")


def bad_input():
    """(the fakes' plan, the folder before theirs, options, words to be said)"""
    yield "init=34", None, (), ("--transport nccl", "libcuda.so.1", "stub")
    yield "devices=0", None, (), ("--transport nccl", "no device")
    yield "", "nccl_2_18", (), ("libnccl.so.2 is NCCL 2.18.6", "2.19 or newer")
    yield "", "cuda_broken", (), ("--transport nccl", "cuMemcpyAsync")
    yield "devices=4", None, (), ("5 processes and 4 devices",
                                "give --device once for each process, or "
                                "--device 0 for all\n")
    yield ("devices=4", "nccl_2_30", (),
           ("--device 0 for all, or set NCCL_MULTI_RANK_GPU_ENABLE=1\n",))
    yield "devices=2", None, ("--device", "2"), ("--device 2", "shows 2")
    yield "memory=2M", None, (), ("device 0 has 2.0 MiB of memory in total",
                                 "the weights of its processes need ", " MiB")
    yield ("cuMemAlloc#1:fail=2", None, (),
           ("weights", "device 0", "free", "MiB are needed"))
    yield "", None, ("--digest", "maybe"), ("--digest maybe", "on or off")
    yield ("", None, ("--digest", "off", "--fault", "send@3:1:corrupt"),
           ("send@3:1:corrupt", "--digest off"))
    yield "", None, ("--replicas", "65"), ("at most 64", "65")
    yield "", None, ("--device", "x"), ("--device x", "number")
    yield "", None, ("--device", "-1"), ("--device",)
    yield ("", None, ("--replicas", "1") + ("--device", "0") * 3,
           ("--device", "3 times", "2 processes"))
    yield "", None, ("--topology", "ring"), ("ring", "broadcast", "fan-out")


def absent(cleat, weights):
    done = subprocess.run([cleat, "sync", "--weights", weights, *NCCL],
                          capture_output=True, text=True, check=False,
                          timeout=harness.WATCHDOG_S)
    expect(done.returncode == 2 and done.stderr.count("\n") == 1 and
           "this build has no port/nccl" in done.stderr, done.returncode,
           done.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cleat", required=True)
    parser.add_argument("--gpus")
    parser.add_argument("--absent", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="cleat-test-")
    try:
        cleat = os.path.abspath(arguments.cleat)
        weights = harness.make_weights(cleat, folder)
        if arguments.absent:
            absent(cleat, weights)
            return 0
        tests = Tests(cleat, weights, arguments.gpus)
        helpers = ("gpus", "job", "finish", "torn", "lost", "refused")
        cells = [name for name in vars(Tests) if not name.startswith("_")
                 and name not in helpers and arguments.only in name]
        return 1 if harness.run_all(
            cells, lambda name: getattr(tests, name)() or "ok",
            arguments.jobs) else 0
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
