#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The main job: real Debian packages as artifacts, real upstream sources built on a farm of a server
and two agents, four times: cold, cached, with the cache skipped, and on an agent with an empty cache.
Prints what moved, and BAR lines. Exits 0 only if every result is right."""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, f"{HERE}/../../tests/lib"]
from debian import Apt
from farm import Farm

ENVIRONMENT = ["-e", "PATH=/usr/bin:/bin", "-e", "HOME=/tmp", "-e", "LC_ALL=C", "-e", "CC=gcc"]
LIBRARIES = "LD_LIBRARY_PATH=/zlib/usr/lib:/png/usr/lib"

# name, artifacts beside the packages, script, outputs to keep
JOBS = [
    ("zlib", ["src-zlib:src"], """cd /src && ./configure --prefix=/usr && make -j2
        make install DESTDIR=/out""", {"out": "zlib"}),
    ("libpng", ["src-libpng:src", "zlib:zlib"], """cd /src
        ./configure --prefix=/usr CPPFLAGS=-I/zlib/usr/include LDFLAGS=-L/zlib/usr/lib
        make -j2 && make install DESTDIR=/out""", {"out": "png"}),
    ("picture", ["src-picture:src", "zlib:zlib", "png:png"], f"""mkdir /out
        gcc -O2 -I/zlib/usr/include -I/png/usr/include /src/picture.c -o /out/picture \\
            -L/png/usr/lib -L/zlib/usr/lib -lpng -lz -lm
        {LIBRARIES} /out/picture /out/picture.png""", {"out": "picture"}),
    ("lua", ["src-lua:src"], """cd /src && make -j2 linux && make install INSTALL_TOP=/out/usr
        /out/usr/bin/lua -e 'print("lua says " .. 6 * 7)'""", {"out": "lua"}),
]


def human(size):
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000


class Demo:
    def __init__(self, arguments):
        self.keep = arguments.state is not None
        self.folder = os.path.abspath(arguments.state) if self.keep else tempfile.mkdtemp(
            prefix="croft-demo-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        shutil.rmtree(f"{self.folder}/farm", ignore_errors=True)  # caches begin empty
        self.farm = Farm(arguments.croft, f"{self.folder}/farm")
        self.debian = Apt(f"{self.folder}/debian")
        self.failures = []

    def check(self, what, right):
        print(f"{'ok  ' if right else 'FAIL'}  {what}")
        if not right:
            self.failures.append(what)

    def bar(self, name, value, goal, right):
        print(f"BAR {name} {value} {goal} {'ok' if right else 'short'}")
        if not right:
            self.failures.append(name)

    def import_inputs(self):
        packages, sources = self.debian.packages(), self.debian.sources()
        sources["picture"] = f"{self.folder}/picture"
        os.makedirs(sources["picture"], exist_ok=True)
        shutil.copy(f"{HERE}/picture.c", sources["picture"])
        # What the packages' maintainer scripts would have done.
        os.makedirs(f"{self.folder}/setup/usr/bin", exist_ok=True)
        if not os.path.islink(f"{self.folder}/setup/usr/bin/awk"):
            os.symlink("gawk", f"{self.folder}/setup/usr/bin/awk")
        with open(f"{self.folder}/list", "w") as listing:
            for name, path in packages.items():
                listing.write(f"pkg-{name}={path}\n")
            for name, path in sources.items():
                listing.write(f"src-{name}={path}\n")
            listing.write(f"setup={self.folder}/setup\n")
        start = time.monotonic()
        self.farm.run("import", "--list", f"{self.folder}/list")
        self.roots = ["setup"] + [f"pkg-{name}" for name in packages]
        print(f"imported {len(packages)} packages in {time.monotonic() - start:.1f} s")

    def build(self, name, artifacts, script, saves, *extra):
        arguments = ["run", "--json", *ENVIRONMENT, *extra]
        for artifact in self.roots + artifacts:
            arguments += ["-d", artifact]
        for output, saved in saves.items():
            arguments += ["-o", output, "-s", f"{output}={saved}"]
        done = self.farm.run(*arguments, "--", "sh", "-ec", script, timeout=1200)
        return json.loads(done.stdout), done.stderr

    def round(self, title, *extra, between=None):
        print(f"\n{title}")
        print(f"  {'job':8} {'agent':20} {'wall':>7}  {'inputs':>20}  {'fetched':>20}")
        total = {"files": 0, "bytes": 0, "fetched_files": 0, "fetched_bytes": 0, "cached": 0}
        for name, artifacts, script, saves in JOBS:
            result, output = self.build(name, artifacts, script, saves, *extra)
            inputs = result.get("inputs") or {}
            moved = {} if result["cached"] else inputs
            files, size = inputs.get("files", 0), inputs.get("bytes", 0)
            fetched_files = moved.get("fetched_files", 0)
            fetched = moved.get("fetched_bytes", 0)
            print(f"  {name:8} {'(cached)' if result['cached'] else result['agent']:20}"
                  f" {result['milliseconds']['total'] / 1000:6.1f}s"
                  f"  {files:>7} {human(size):>12}  {fetched_files:>7} {human(fetched):>12}")
            for key, value in (("files", files), ("bytes", size), ("fetched_files", fetched_files),
                               ("fetched_bytes", fetched), ("cached", result["cached"])):
                total[key] += value
            self.expect(name, output, result["cached"])
            if between:
                between(name)
        share = total["fetched_bytes"] / max(total["bytes"], 1)
        print(f"  total: {total['fetched_files']} of {total['files']} files, "
              f"{human(total['fetched_bytes'])} of {human(total['bytes'])} fetched ({share:.2%})")
        return total

    def expect(self, name, output, cached):
        wanted = {"picture": "zlib 1.2.13, libpng 1.6.39, 23 bytes back",
                  "lua": "lua says 42"}.get(name)
        if wanted and not cached and wanted not in output:
            self.check(f"{name} prints what it should", False)

    def crash(self, name):
        """kill -9 of the server between two jobs: the rest goes on without being told."""
        if name == "zlib":
            self.farm.kill_server()
            if not self.store_is_intact():
                self.failures.append("fsck after kill -9")
            self.farm.serve()
            print("  (the server was killed, its store checked, and started again)")

    def store_is_intact(self):
        fsck = subprocess.run([self.farm.croft, "fsck", "--state", f"{self.farm.folder}/serve"],
                              capture_output=True, text=True, check=False)
        if fsck.returncode:
            print(fsck.stdout, fsck.stderr)
        return fsck.returncode == 0

    def check_results(self):
        target = f"{self.folder}/result"
        shutil.rmtree(target, ignore_errors=True)
        self.farm.run("export", "picture", target)
        with open(f"{target}/picture.png", "rb") as picture:
            data = picture.read()
        self.check("the picture is a PNG of 64 by 64",
                   data[:8] == b"\x89PNG\r\n\x1a\n" and data[16:24] == b"\0\0\0\x40\0\0\0\x40")
        self.check("the program is executable", os.access(f"{target}/picture", os.X_OK))
        inside = self.build("look", [], "ls -d /* /home/* /root/* /etc/hostname 2>/dev/null || true; "
                            "cat /proc/sys/kernel/hostname; id -u; ls /proc | grep -c '^[0-9]'; cat /proc/net/dev /proc/mounts",
                            {})[1]
        self.check("a job sees no host path, process or network", not any(
            word in inside for word in ("/etc/hostname", "/work", self.folder, os.uname().nodename, "eth0")))

    def run(self):
        self.farm.serve()
        self.import_inputs()
        for name in ("alpha", "beta"):
            self.farm.agent(name)
        self.farm.wait_agents(2)
        cold = self.round("Cold: two agents with empty caches", between=self.crash)
        again = self.round("The same again")
        warm = self.round("With the cache skipped, on the same agents", "--skip-cache")
        for name in ("alpha", "beta"):
            self.farm.stop_agent(name)
        self.farm.agent("gamma")
        empty = None
        for _ in range(300):
            if any(a["state"] == "ready" and a["id"].startswith("gamma")
                   for a in self.farm.status()["agents"]):
                break
            time.sleep(0.1)
        empty = self.round("With the cache skipped, on an agent with an empty cache", "--skip-cache")
        print()
        self.check_results()
        self.farm.stop()
        self.check("fsck finds the store as it should be", self.store_is_intact())

        share = empty["fetched_bytes"] / max(empty["bytes"], 1)
        rest = warm["fetched_bytes"] / max(warm["bytes"], 1)
        print()
        self.bar("demo-input-files", cold["files"] // len(JOBS), ">=20000",
                 cold["files"] // len(JOBS) >= 20000)
        self.bar("demo-input-gigabytes", f"{cold['bytes'] / len(JOBS) / 1e9:.2f}", ">=1",
                 cold["bytes"] / len(JOBS) >= 1e9)
        self.bar("demo-cold-fetched-share", f"{share:.4f}", "<=0.10", 0 < share <= 0.10)
        self.bar("demo-warm-fetched-share", f"{rest:.4f}", "<0.01", rest < 0.01)
        self.bar("demo-cached-jobs", again["cached"], f"={len(JOBS)}", again["cached"] == len(JOBS))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--croft", default="croft", help="the binary")
    parser.add_argument("--state", help="keep everything here (else a folder that is removed)")
    demo = Demo(parser.parse_args())
    try:
        demo.run()
    finally:
        demo.farm.stop()
        if not demo.keep and not demo.failures:
            shutil.rmtree(demo.folder, ignore_errors=True)
    if demo.failures:
        print(f"\nfailed: {'; '.join(demo.failures)}; logs are in {demo.folder}/farm")
        return 1
    print("\nall as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
