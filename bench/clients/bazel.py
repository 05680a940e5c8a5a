#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""bazel.py CROFT [TARGETS]: the workspace built on a farm that has never seen it, built here without any
sandbox, and after a clean from the farm's cache. All of it (client, server and agent) has the same CPUs."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.realpath(f"{HERE}/../..")
sys.path.insert(0, HERE)
import workspace

CPUS = len(os.sched_getaffinity(0))


def bar(name, value, goal, text):
    print(f"BAR {name} {value:.3f} <={goal} {'ok' if value <= goal else 'short'}", flush=True)
    print(f"  ({text})", flush=True)


class Farm:
    def __init__(self, croft, folder, root):
        self.croft, self.folder, self.children = croft, folder, []
        self.environment = dict(os.environ)
        ports = f"{folder}/ports"
        self.start("serve", "--state", f"{folder}/server", "--listen", "127.0.0.1:0", "--plane", "127.0.0.1:0",
                   "--ports-file", ports)
        self.wait(lambda: os.path.exists(ports) and open(ports).read().strip())
        self.address = f"grpc://127.0.0.1:{open(ports).read().split()[0]}"
        self.environment["CROFT_SERVER"] = self.address
        subprocess.run([croft, "import", "--name", "tools", root], env=self.environment, check=True,
                       stdout=subprocess.DEVNULL)
        self.start("agent", "--state", f"{folder}/agent", "--slots", str(CPUS), "--root-image", "tools")
        self.wait(lambda: self.status()["agents"])

    def start(self, *arguments):
        with open(f"{self.folder}/{arguments[0]}.log", "a") as log:
            self.children.append(subprocess.Popen([self.croft, *arguments], env=self.environment, stdout=log,
                                                  stderr=log))

    def wait(self, holds):
        while not holds():
            if any(child.poll() is not None for child in self.children):
                raise SystemExit(f"a part of the farm ended: its log is in {self.folder}")
            time.sleep(0.05)

    def status(self):
        return json.loads(subprocess.run([self.croft, "status", "--json"], env=self.environment, check=True,
                                         capture_output=True).stdout)

    def stop(self):
        for child in reversed(self.children):
            child.terminate()
            child.wait()


class Bazel:
    def __init__(self, folder, work):
        self.folder, self.work = folder, work
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.lower().endswith("_proxy") and name not in ("CC", "CXX")}
        self.environment["HOME"] = folder

    def run(self, *arguments):
        started = time.monotonic()
        done = subprocess.run(["bazel", f"--output_user_root={self.folder}/output", *arguments], cwd=self.work,
                              env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"bazel {' '.join(arguments)} failed:\n{done.stdout[-4000:]}")
        return time.monotonic() - started, done.stdout.strip().splitlines()[-2:]

    def started(self):
        """A server that has read the whole workspace and built nothing."""
        self.run("build", "--nobuild", "//...")

    def programs(self):
        found = {}
        for place, _, names in os.walk(os.path.realpath(f"{self.work}/bazel-bin")):
            for name in names:
                if name.startswith(("program", "test")) and "." not in name:
                    with open(f"{place}/{name}", "rb") as file:
                        found[f"{os.path.basename(place)}/{name}"] = file.read()
        return found


def size(folder):
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if not os.path.islink(f"{place}/{name}"):
                total += os.path.getsize(f"{place}/{name}")
    return total


def main(croft, targets=500):
    croft = os.path.realpath(croft)
    installed = f"{TOP}/build/clients"
    os.makedirs(installed, exist_ok=True)
    headers = workspace.boost(f"{installed}/boost-headers")
    root = f"{installed}/toolchain-bench"
    if not os.path.isdir(root):
        subprocess.run([f"{TOP}/tests/clients/toolchain.py", root,
                        *"gcc g++ libc6-dev bash dash coreutils sed grep findutils base-files".split()], check=True)
    folder = tempfile.mkdtemp(prefix="croft-clients-", dir="/var/tmp")
    workspace.make(f"{folder}/work", headers, f"{TOP}/tests/clients/bazel-repositories", int(targets))
    bazel = Bazel(folder, f"{folder}/work")
    farm = Farm(croft, folder, root)
    try:
        remote_build = ["build", f"--remote_executor={farm.address}", f"--jobs={4 * CPUS}", "//..."]
        bazel.started()
        remote, said = bazel.run(*remote_build)
        print(f"built on the farm in {remote:.1f} s", *said, sep="\n", flush=True)
        there = bazel.programs()
        fetched = farm.status()["agents"][0]["fetched_bytes"]
        bazel.run("clean")
        again, said = bazel.run(*remote_build)
        print(f"built from the cache in {again:.1f} s", *said, sep="\n", flush=True)
        if not any("remote cache hit" in line for line in said) or any(" remote," in line for line in said):
            raise SystemExit("the clean rebuild was not all hits")
        bazel.run("clean")
        local, said = bazel.run("build", "--spawn_strategy=local", f"--jobs={CPUS}", "//...")
        print(f"built here in {local:.1f} s", *said, sep="\n", flush=True)
        here = bazel.programs()
    finally:
        bazel.run("shutdown")
        farm.stop()
    if len(there) < int(targets) * 3 // 10 or there != here:
        raise SystemExit(f"what was built there and here differs: {folder}")
    inputs = size(f"{folder}/work/third_party") + size(root)
    bar("bazel-remote-of-local", remote / local, 1.3, f"{remote:.1f} s on the farm, {local:.1f} s here")
    bar("bazel-cached-of-remote", again / remote, 0.2, f"{again:.1f} s")
    bar("bazel-fetched-of-inputs", fetched / inputs, 0.15,
        f"{fetched / 1e6:.0f} MB of {inputs / 1e6:.0f} MB of headers and root image, each counted once")
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    shutil.rmtree(folder)


main(*sys.argv[1:])
