#!/usr/bin/env python3
"""Cleat: the MCP conformance suite, client side.
SPDX-License-Identifier: Apache-2.0

Usage: mcp_conformance.py NODE NPM CLIENT REQUIREMENTS
       mcp_conformance.py NODE NPM CLIENT REQUIREMENTS BUG SCENARIO…

Runs @modelcontextprotocol/conformance (from npm, tools/setup) with every
scenario that the frozen set REQUIREMENTS names, against CLIENT. All must pass
but authorization's, whose failures are expected (mcp_conformance_expected.yml).
With a BUG, which is planted in the client, exactly those SCENARIOs must fail.

The suite's servers listen on the loopback address alone, each at a port of its
own (loopback.cjs).
"""
import os
import re
import signal
import subprocess
import sys
import tempfile

# The sets, without auth/*: as they were frozen when each revision was
# published; and one that came later, which the suite runs without scoring it.
NOT_SCORED = "json-schema-2020-12-preservation"
REQUIRED = {
    "2025-11-25": ["initialize", "tools_call",
                   "elicitation-sep1034-client-defaults", "sse-retry",
                   NOT_SCORED],
    "2026-07-28": ["tools_call", "request-metadata",
                   "sep-2322-client-request-state", "http-standard-headers",
                   "http-custom-headers", "http-invalid-tool-headers",
                   "json-schema-ref-no-deref", NOT_SCORED],
}
# "✓ tools_call: 2 passed, 0 failed"; also with the kind of a failure behind it
LINE = re.compile(r"^([✓✗]) (\S+): (\d+) passed, (\d+) failed(.*)$", re.M)
WATCHDOG_S = 240
HERE = os.path.dirname(os.path.abspath(__file__))
EXPECTED = os.path.join(HERE, "mcp_conformance_expected.yml")


def run_suite(node, npm, client, requirements, bug, ended):
    suite = os.path.join(npm, "node_modules", "@modelcontextprotocol",
                         "conformance", "dist", "index.js")
    options = "--require=" + os.path.join(HERE, "loopback.cjs")
    environment = {key: value for key, value in os.environ.items()
                   if not key.lower().endswith("_proxy")}
    environment.update(NODE_OPTIONS=options, NO_COLOR="1",
                       CLEAT_TEST_BROKEN=bug, CLEAT_TEST_ENDED=ended)
    with subprocess.Popen(
            [node, suite, "client", "--command", client,
             "--requirements", requirements, "--expected-failures", EXPECTED],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            start_new_session=True) as process:
        try:
            text, _ = process.communicate(timeout=WATCHDOG_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            sys.exit("the suite did not end:\n%s" % process.communicate()[0])
    return process.returncode, text


def failures_of(text, requirements, ended):
    """The scenarios, authorization's aside, that did not pass."""
    seen = {}
    with open(ended, encoding="utf-8") as file:
        worked = {line.split()[0] for line in file
                  if line.split()[1] == "worked"}
    for mark, name, passed, failed, more in LINE.findall(text):
        # A scenario of which nothing was checked has not passed, nor has one
        # that the client could not finish.
        seen[name] = (mark == "✓" and int(passed) > 0 and int(failed) == 0
                      and "warning" not in more and name in worked)
    names = [name for name in seen if not name.startswith("auth/")]
    if sorted(names) != sorted(REQUIRED[requirements]):
        sys.exit("%s\nscenarios: %s\nexpected: %s"
                 % (text, sorted(names), sorted(REQUIRED[requirements])))
    return sorted(name for name in names if not seen[name])


def only_auth_is_expected_to_fail():
    with open(EXPECTED, encoding="utf-8") as file:
        lines = [line.rstrip() for line in file
                 if not line.startswith("#")]
    names = [line[4:] for line in lines[1:]]
    if lines[0] != "client:" or not names or \
            not all(re.fullmatch(r"  - auth/[a-z0-9-]+", line)
                    for line in lines[1:]):
        sys.exit(f"{EXPECTED} expects other failures than auth/*")


def main():
    node, npm, client, requirements = sys.argv[1:5]
    bug = sys.argv[5] if len(sys.argv) > 5 else ""
    expected = sorted(sys.argv[6:])
    only_auth_is_expected_to_fail()
    with tempfile.TemporaryDirectory(prefix="cleat-test-") as folder:
        ended = os.path.join(folder, "ended")
        with open(ended, "xb"):
            pass
        code, text = run_suite(node, npm, os.path.abspath(client),
                               requirements, bug, ended)
        failed = failures_of(text, requirements, ended)
    refused = any(name != NOT_SCORED for name in expected)
    if failed != expected or (code != 0) != refused:
        sys.exit("%s\nexit code %d, failed: %s, expected to: %s"
                 % (text, code, failed, expected))
    if bug:
        print("%s: the bug '%s' is found: %s" % (requirements, bug,
                                                 " ".join(failed)))
    else:
        print("%s: %d scenarios pass" % (requirements,
                                         len(REQUIRED[requirements])))


main()
