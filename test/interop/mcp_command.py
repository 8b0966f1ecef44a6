#!/usr/bin/env python3
"""Cleat: `cleat tools` with real MCP servers. SPDX-License-Identifier:
Apache-2.0

Usage: mcp_command.py CLEAT NODE NPM

All the servers of mcp_servers.py but those of one kind, in one config: what
`list --format mcp` prints are the bytes that they sent; `call` prints what the
official client gets; `watch` tells a change of a server over stdio that speaks
the older protocol, and of one over HTTP that speaks the newer one.
"""
import json
import os
import re
import signal
import subprocess
import sys

from mcp_servers import (HERE, NODE, NPM, SERVERS, WATCHDOG_S, Place,
                         expect, mcp_recorder, nothing_is_left,
                         without_server_info)

CLEAT = os.path.abspath(sys.argv[1])
ALL = ("everything", "filesystem", "memory", "sequential-thinking",
       "modern-http")


def write_config(folder, servers):
    path = os.path.join(folder, "servers.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"mcpServers": servers}, file)
    return path


def cleat(*arguments):
    done = subprocess.run([CLEAT, "tools", *arguments], timeout=WATCHDOG_S,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def list_prints_what_was_sent(config, places):
    sent = []
    for name, place in places.items():
        sent += mcp_recorder.record(place.entry, SERVERS[name].era).tools
    code, out, err = cleat("list", "--config", config, "--format", "mcp")
    expect(code == 0, code, err)
    printed = mcp_recorder.items(mcp_recorder.members(out)["tools"])
    expect(printed == sent, "printed:\n", printed, "\nsent:\n", sent)
    return [json.loads(tool) for tool in sent]


def openai_has_every_schema_whole(config, tools):
    wanted = [{"type": "function", "function": {
        "name": tool["name"], "description": tool.get("description", ""),
        "parameters": tool["inputSchema"], "strict": False}}
        for tool in tools]
    code, out, err = cleat("list", "--config", config, "--format", "openai")
    expect(code == 0, code, err)
    expect(json.loads(out) == wanted, out, wanted)


def call_prints_what_the_official_client_gets(place):
    config = write_config(place.folder, {"everything": place.entry})
    # One that works, one that the tool refuses, one of no tool.
    calls = [place.server.calls[k] for k in (0, 5, 6)]
    done = subprocess.run(
        [NODE, os.path.join(HERE, "mcp_official.mjs"), NPM, "legacy",
         json.dumps(place.entry), json.dumps(calls)],
        stdout=subprocess.PIPE, timeout=WATCHDOG_S, check=True)
    for (name, arguments), theirs in zip(calls,
                                         json.loads(done.stdout)["calls"]):
        code, out, err = cleat("call", "--config", config, name, "--args",
                               json.dumps(arguments))
        if name == "there-is-no-such-tool":
            expect(code == 2 and name in err, name, code, out, err)
            continue
        expect(code == (1 if theirs["result"].get("isError") else 0), name,
               code, err)
        expect(without_server_info(json.loads(out))
               == without_server_info(theirs["result"]), name, out, theirs)


def watch_tells_a_change(name):
    with Place(SERVERS[name]) as place:
        entry = dict(place.entry)
        if "env" in entry:
            entry["env"] = dict(entry["env"],
                                CLEAT_TEST_CONTROL=place.control)
        config = write_config(place.folder, {"changing": entry})
        with subprocess.Popen([CLEAT, "tools", "watch", "--config", config],
                              stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True) as watch:
            try:
                line = watch.stdout.readline()
                expect("changing" in line and "add fail" in line, line)
                place.change()
                line = watch.stdout.readline()
                expect(re.search(r" changing: .*\+tool_1\b", line), line)
                watch.send_signal(signal.SIGTERM)
                expect(watch.wait(WATCHDOG_S) == 143, watch.returncode)
            finally:
                watch.kill()
        place.stop()
        nothing_is_left(place)


def main():
    places = {name: Place(SERVERS[name]) for name in ALL}
    try:
        folder = places["everything"].folder
        config = write_config(folder, {name: place.entry
                                       for name, place in places.items()})
        tools = list_prints_what_was_sent(config, places)
        openai_has_every_schema_whole(config, tools)
        call_prints_what_the_official_client_gets(places["everything"])
        for place in places.values():
            place.stop()
            nothing_is_left(place)
    finally:
        for place in places.values():
            place.close()
    watch_tells_a_change("dual")
    watch_tells_a_change("modern-http")
    print(f"{len(ALL)} servers, {len(tools)} tools; calls, and two changes")


main()
