#!/usr/bin/env python3
# Cleat: `cleat sync --transport nccl`, on one GPU for all.
# SPDX-License-Identifier: Apache-2.0
"""usage: sync.py --cleat PATH --checks PATH [--rows FILE] [--fakes FOLDER]

One trainer and two engines on device 0, as ranks of distinct hosts, digests on:
once as it should, and once with an engine that is killed while buckets come.
--rows: adds a row to the table. --fakes: where test/fakes has put CUDA and
NCCL, which are used then. Exit: 0 it holds; 1 it does not; 77 there is no GPU.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # nothing in the source tree
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "process"))

import harness
from harness import expect

NCCL = ("--transport", "nccl", "--device", "0", "--replicas", "2",
        "--bucket-mib", "1", "--step-timeout-s", "20", "--start-timeout-s",
        "60")


def run(cleat, weights, environment, code, *options):
    """One job; what a row tells of it."""
    with harness.Job(cleat, weights, *NCCL, *options,
                     environment=environment) as job:
        found = job.wait()
        expect(found == code, "exit", found, "expected", code, job.lines)
        report = job.report()
        harness.check_outcome(report, code, version=1)
        expect(report["transport"] == "nccl", report["transport"])
        digests = {r["digest"] for r in report["replicas"]
                   if r["state"] == "serving"}
        expect(len(digests) == 1 and 0 not in digests, "digests:", digests)
        job.expect_nothing_left()
        return (f"{report['outcome']} in {report['seconds']:.2f} s, "
                f"{report['bytes']} bytes, attempts: {report['attempts']}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cleat", required=True)
    parser.add_argument("--checks", required=True)
    parser.add_argument("--rows")
    parser.add_argument("--fakes")
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="cleat-test-")
    environment = {}
    if arguments.fakes:
        environment = {"LD_LIBRARY_PATH": os.path.join(arguments.fakes, "lib"),
                       "FAKE_GPU": "devices=1",
                       "FAKE_GPU_WORLD": os.path.join(folder, "world")}

    def checks(*words):
        return subprocess.run(
            [arguments.checks, *words], capture_output=True, text=True,
            env={**os.environ, **environment}, timeout=harness.WATCHDOG_S)

    def row(result, text):
        print(f"{result}: sync: {text}")
        if arguments.rows:
            checks("row", "sync", result, text, "--table",
                   arguments.rows).check_returncode()

    try:
        found = checks("look")
        if found.returncode == 77:
            row("skipped", found.stdout.strip().removeprefix("NOT RUN: look: "))
            return 77
        expect(found.returncode == 0, found.stdout, found.stderr)
        environment.update(line.split("=", 1) for line in
                           checks("recipe").stdout.splitlines())
        cleat = os.path.abspath(arguments.cleat)
        weights = harness.make_weights(cleat, folder)
        said = run(cleat, weights, environment, 0)
        said += "; one killed: " + run(cleat, weights, environment, 3,
                                       "--fault", "send@4:1:kill")
        row("ok", said)
        return 0
    except Exception as error:  # whatever it is, the check has failed
        row("FAILED", f"{type(error).__name__}: {error}"[:400])
        return 1
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
