#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes a trace for `croft bench locality` of a BuildStream project: a job per element, which reads the
artifacts that are staged for its build, once these are built. Which depends on which is the project's; run
times and sizes of artifacts are synthetic, the same for an element each time.

    bench/locality/bst.py PROJECT [--junction NAME.bst=PROJECT]... >trace
    croft bench locality --trace trace --mode recorded

Elements behind a junction that is not given count as artifacts that are there already."""
import argparse
import hashlib
import math
import os
import statistics
import sys

import yaml

# Median, and sigma of the logarithm.
SECONDS, BYTES = (60, 1), (4 << 20, 1.5)
# They stage nothing of their own.
EMPTY_KINDS = ("stack", "junction", "link")


class Loader(yaml.SafeLoader):
    """Tags and directives that only BuildStream understands are text here."""


Loader.add_multi_constructor("", lambda loader, suffix, node: getattr(node, "value", None))


def entries_of(field):
    """A list, or one that is put before or behind what an include has: {"(>)": list}."""
    return [entry for part in field.values() for entry in part] if isinstance(field, dict) else field or []


def synthetic(name, what, median, sigma):
    digest = hashlib.sha256(f"{what} {name}".encode()).digest()
    share = (int.from_bytes(digest[:8], "big") + 0.5) / 2**64
    return max(1, round(median * math.exp(statistics.NormalDist(0, sigma).inv_cdf(share))))


def load(path):
    with open(path, encoding="utf-8") as file:
        return yaml.load(file, Loader) or {}


class Project:
    def __init__(self, path, junctions, prefix=""):
        self.elements = os.path.join(path, load(f"{path}/project.conf").get("element-path", "."))
        self.prefix = prefix
        self.junctions = {name: Project(other, {}, f"{prefix}{name}:")
                          for name, other in junctions.items()}

    def names(self):
        for folder, _, files in os.walk(self.elements):
            for file in files:
                if file.endswith(".bst"):
                    yield os.path.relpath(os.path.join(folder, file), self.elements)


class Element:
    def __init__(self, name, kind, build, run):
        self.name, self.kind, self.build, self.run = name, kind, build, run
        self.staged = None  # for its build: elements
        self.number = None  # of its root


class Graph:
    def __init__(self):
        self.elements = {}
        self.closures = {}

    def resolve(self, project, name):
        junction, colon, rest = name.partition(":")
        if colon and junction in project.junctions:
            return self.resolve(project.junctions[junction], rest)
        key = project.prefix + name
        if key not in self.elements:
            self.elements[key] = None  # being looked at: a cycle
            self.elements[key] = self.read(project, name, key, bool(colon))
        if self.elements[key] is None:
            sys.exit(f"{key} depends on itself")
        return self.elements[key]

    def read(self, project, name, key, foreign):
        if foreign:
            return Element(key, None, [], [])
        try:
            content = load(os.path.join(project.elements, name))
        except (OSError, yaml.YAMLError) as problem:
            sys.exit(f"{key}: {problem}")
        build, run = [], []
        for field, default in (("depends", "all"), ("build-depends", "build"),
                               ("runtime-depends", "runtime")):
            for entry in entries_of(content.get(field)):
                for found, kind in self.dependencies(project, entry, default):
                    build += [found] if kind in ("all", "build") else []
                    run += [found] if kind in ("all", "runtime") else []
        if content.get("kind") == "link":
            target = self.resolve(project, (content.get("config") or {}).get("target", ""))
            build, run = [target], [target]
        return Element(key, content.get("kind", "manual"), build, run)

    def dependencies(self, project, entry, default):
        if isinstance(entry, str):
            entry = {"filename": entry}
        names = entry.get("filename") or []
        junction = f"{entry['junction']}:" if entry.get("junction") else ""
        for name in [names] if isinstance(names, str) else names:
            yield self.resolve(project, junction + name), entry.get("type", default)

    def closure(self, element):
        """What is staged with it: itself and what it needs when it runs; in the order of names."""
        if element.name not in self.closures:
            found, left = {}, [element]
            while left:
                one = left.pop()
                if one.name not in found:
                    found[one.name] = one
                    left += one.run
            self.closures[element.name] = found
        return self.closures[element.name]

    def staged(self, element):
        found = {}
        for one in element.build:
            found.update(self.closure(one))
        return [found[name] for name in sorted(found) if found[name].kind not in EMPTY_KINDS]

    def in_order(self):
        """Each behind all that is staged for its build."""
        ordered, seen = [], set()
        for element in list(self.elements.values()):
            left = [(element, False)]
            while left:
                one, ready = left.pop()
                if ready:
                    ordered.append(one)
                elif one.name not in seen:
                    seen.add(one.name)
                    one.staged = self.staged(one)
                    left.append((one, True))
                    left += [(other, False) for other in one.staged]
        return ordered


def write(graph, tenant, out):
    print("croft-locality-trace 1", file=out)
    print("note source a BuildStream project, by bench/locality/bst.py", file=out)
    print("note measured dependencies", file=out)
    print("note synthetic run times (lognormal, median 60 s), sizes of artifacts (lognormal, median 4 MiB)",
          file=out)
    ordered = [one for one in graph.in_order() if one.kind not in EMPTY_KINDS]
    texts = {"": 0, tenant: 1}
    for one in ordered:
        for text in (one.name, one.kind or ""):
            texts.setdefault(text, len(texts))
    for text in texts:
        print(f"text {text}".rstrip() if text else "text ", file=out)
    for number, one in enumerate(ordered):
        one.number = number
        print(f"root {synthetic(one.name, 'bytes', *BYTES)} {one.name}", file=out)
    jobs = {}
    for one in ordered:
        if one.kind is None:
            continue
        reads = ",".join(str(other.number) for other in one.staged) or "-"
        after = ",".join(str(jobs[other.name]) for other in one.staged if other.name in jobs) or "-"
        jobs[one.name] = len(jobs)
        print(f"job {texts[one.name]} {texts[one.kind]} 1 0 0 "
              f"{synthetic(one.name, 'seconds', *SECONDS) * 1000} {reads} {after}", file=out)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", help="a checkout, with its project.conf")
    parser.add_argument("--junction", action="append", default=[], metavar="NAME.bst=PROJECT",
                        help="the checkout behind a junction; may be given again")
    arguments = parser.parse_args()
    project = Project(arguments.project, dict(pair.split("=", 1) for pair in arguments.junction))
    graph = Graph()
    sys.setrecursionlimit(100000)
    for name in sorted(project.names()):
        graph.resolve(project, name)
    write(graph, os.path.basename(os.path.abspath(arguments.project)).replace(" ", "_"), sys.stdout)


if __name__ == "__main__":
    main()
