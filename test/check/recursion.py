#!/usr/bin/env python3
"""Cleat: no function of core/ reaches itself, and how deep the stack gets.
SPDX-License-Identifier: Apache-2.0

usage: recursion.py [--stack] FILE.ci…

Reads what gcc's -fcallgraph-info=su writes: who calls whom, and the bytes of
each frame. Exits 1 for recursion, for a call through a pointer, and for a
frame whose size is not known when compiling. With --stack prints the deepest
path, the bytes of each frame with it.
"""
import re
import sys

STRING_FUNCTIONS = {"memcpy", "memmove", "memset", "memcmp"}


def read(paths):
    """name -> (bytes, set of callees), and faults in single functions."""
    graph, faults = {}, []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        for title, label in re.findall(
                r'node: \{ title: "([^"]*)" label: "([^"]*)"', text):
            size = re.search(r"(\d+) bytes \((\w+)\)", label)
            if not size:
                continue  # only declared here
            if size.group(2) != "static":
                faults.append(f"{title}: a frame of {size.group(2)} size")
            graph.setdefault(title, [0, set()])[0] = int(size.group(1))
        for source, target in re.findall(
                r'edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"', text):
            graph.setdefault(source, [0, set()])[1].add(target)
    return graph, faults


def name(title):
    """Static functions are titled FILE:NAME."""
    return title.rsplit(":", 1)[-1]


def deepest(graph, faults):
    """Longest path by bytes: (bytes, [titles]); recursion goes to faults."""
    done, active = {}, []

    def visit(title):
        if title in done:
            return done[title]
        if title in active:
            loop = active[active.index(title):] + [title]
            faults.append("recursion: " + " -> ".join(map(name, loop)))
            return 0, []
        active.append(title)
        best = (0, [])
        for callee in sorted(graph.get(title, [0, ()])[1]):
            if callee == "__indirect_call":
                faults.append(f"{name(title)}: a call through a pointer")
            elif callee in graph:
                best = max(best, visit(callee), key=lambda path: path[0])
            elif name(callee) not in STRING_FUNCTIONS and \
                    not name(callee).startswith("__"):
                faults.append(f"{name(title)}: calls {name(callee)}, which "
                              "is not in core/")
        active.pop()
        done[title] = (graph[title][0] + best[0], [title] + best[1])
        return done[title]

    sys.setrecursionlimit(10000)
    return max((visit(title) for title in sorted(graph)),
               key=lambda path: path[0], default=(0, []))


def main():
    arguments = sys.argv[1:]
    stack = "--stack" in arguments
    paths = [path for path in arguments if path != "--stack"]
    graph, faults = read(paths)
    if not graph:
        faults.append("no function was found in: " + " ".join(paths))
    total, path = deepest(graph, faults)
    if stack:
        print(f"worst stack: {total} bytes: " + " > ".join(
            f"{name(title)} {graph[title][0]}" for title in path))
    else:
        print(f"{len(graph)} functions, none reaches itself"
              if not faults else f"{len(graph)} functions")
    for line in sorted(set(faults)):
        print(line)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
