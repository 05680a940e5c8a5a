#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""bazel.py CROFT [--targets N] [--bazel 4.2|7.7] [--part farm|here|faults --results FILE] [BAZEL_FLAG...]: the workspace
built on a farm that has never seen it, after a clean from the farm's cache, and built here without any sandbox. All of
it (client, server and agent) has the same CPUs. The flags are for the builds on the farm. `--part faults` is a build in
whose middle the client, the server and an agent are killed (faults.py)."""
import argparse
import glob
import hashlib
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
import faults
import workspace

CPUS = len(os.sched_getaffinity(0))


def bar(name, value, goal, text):
    print(f"BAR {name} {value:.3f} <={goal} {'ok' if value <= goal else 'short'}", flush=True)
    print(f"  ({text})", flush=True)


class Farm:
    def __init__(self, croft, folder, root, agents=1):
        self.croft, self.folder, self.children = croft, folder, []
        self.environment = dict(os.environ)
        self.ports = ["0", "0"]
        self.serve()
        self.address = f"grpc://127.0.0.1:{self.ports[0]}"
        self.environment["CROFT_SERVER"] = self.address
        subprocess.run([croft, "import", "--name", "tools", root], env=self.environment, check=True,
                       stdout=subprocess.DEVNULL)
        for number in range(agents):
            self.agent(number, max(1, CPUS // agents))
        self.wait(lambda: len(self.status()["agents"]) == agents)

    def serve(self):
        """The server, on the same ports from the second time on."""
        file = f"{self.folder}/ports"
        if os.path.exists(file):
            os.remove(file)
        grpc, plane = self.ports
        child = self.start("serve", "--state", f"{self.folder}/server", "--listen", f"127.0.0.1:{grpc}", "--plane",
                           f"127.0.0.1:{plane}", "--ports-file", file)
        self.wait(lambda: os.path.exists(file) and open(file).read().strip())
        self.ports = open(file).read().split()
        return child

    def agent(self, number, slots):
        return self.start("agent", "--state", f"{self.folder}/agent-{number}", "--name", f"agent-{number}", "--slots",
                          str(slots), "--root-image", "tools")

    def start(self, *arguments):
        with open(f"{self.folder}/{arguments[0]}.log", "a") as log:
            self.children.append(subprocess.Popen([self.croft, *arguments], env=self.environment, stdout=log,
                                                  stderr=log))
        return self.children[-1]

    def kill(self, child):
        child.kill()
        child.wait()
        self.children.remove(child)

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


TOOLS = "gcc g++ libc6-dev bash dash coreutils sed grep findutils base-files".split()


class Bazel:
    """Debian 12's, on this machine."""
    settings = ["--override_repository=rules_java=/usr/share/bazel/rules/java",
                *(f"--override_repository={name}={TOP}/tests/clients/bazel-repositories/{place}"
                  for name, place in (("rules_cc", "rules_cc"), ("remote_coverage_tools", "coverage")))]

    def __init__(self, folder, installed):
        self.folder, self.work = folder, f"{folder}/work"
        os.mkdir(self.work)
        self.root = made(f"{installed}/toolchain-bench", "toolchain.py", TOOLS)
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.lower().endswith("_proxy") and name not in ("CC", "CXX")}
        self.environment["HOME"] = folder
        self.command = ["bazel"]

    def end(self):
        self.run("shutdown")

    def start(self, *arguments):
        return subprocess.Popen([*self.command, f"--output_user_root={self.folder}/output", *arguments], cwd=self.work,
                                env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def servers(self):
        """The processes that do what bazel is told, by whose names it must be known that they are ours."""
        found = []
        for place in glob.glob("/proc/[0-9]*"):
            try:
                with open(f"{place}/cmdline", "rb") as file:
                    words = file.read().decode(errors="replace").split("\0")
            except OSError:
                continue
            if words[0].startswith("bazel(") and any(self.folder in word for word in words):
                found.append(int(place[6:]))
        return found

    def run(self, *arguments):
        started = time.monotonic()
        done = subprocess.run([*self.command, f"--output_user_root={self.folder}/output", *arguments], cwd=self.work,
                              env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"bazel {' '.join(arguments)} failed:\n{done.stdout[-4000:]}")
        return time.monotonic() - started, done.stdout.strip().splitlines()[-2:]

    def started(self):
        """A fresh server that has read the whole workspace and built nothing: none of the builds has code that an
        earlier one made the virtual machine compile."""
        self.run("shutdown")
        self.run("build", "--nobuild", "//...")

    def timed(self, what, *arguments):
        before, parts = used(), spent(self.folder)
        seconds, said = self.run(*arguments)
        total, now = used() - before, spent(self.folder)
        parts = {name: now[name] - parts.get(name, 0) for name in now}
        print(f"{what} in {seconds:.1f} s, {total:.1f} s of the machine's processors:",
              ", ".join(f"{name} {value:.1f}" for name, value in parts.items()), *said, sep="\n", flush=True)
        return seconds, said, parts

    def built_inputs(self):
        return sum(os.path.getsize(f"{place}/{name}") for place, _, names in os.walk(os.path.realpath(f"{self.work}/bazel-bin"))
                   for name in names if name.endswith((".o", ".a", ".params")))

    def programs(self):
        found = {}
        for place, _, names in os.walk(os.path.realpath(f"{self.work}/bazel-bin")):
            for name in names:
                if name.startswith(("program", "test")) and "." not in name:
                    with open(f"{place}/{name}", "rb") as file:
                        found[f"{os.path.basename(place)}/{name}"] = hashlib.sha256(file.read()).hexdigest()
        return found


class Bazel7(Bazel):
    """Debian sid's, in a root of its own, where the workspace has the same path; jobs have its tools alone."""
    settings = ["--noenable_bzlmod", "--enable_workspace",
                *(f"--override_repository=rules_{name}=/usr/share/bazel/rules/{name}" for name in "cc java python proto license".split()),
                "--override_repository=platforms=/usr/share/bazel/platforms/platforms",
                "--override_repository=bazel_skylib=/usr/share/bazel/tools/skylib"]
    packages = ("bazel-bootstrap bazel-platforms bazel-rules-java bazel-skylib libzstd-jni1 gcc g++ libc6-dev coreutils dash bash "
                "sed grep findutils diffutils tar gzip zip unzip python3 base-files").split()

    def __init__(self, folder, installed):
        self.folder, self.work, self.environment = folder, f"{folder}/work", dict(os.environ)
        self.root = made(f"{installed}/toolchain-sid", "sid.py", TOOLS)
        self.box = f"{folder}/box"
        subprocess.run(["cp", "-al", made(f"{installed}/bazel-sid", "sid.py", self.packages), self.box], check=True)
        self.places = ["/dev", "/proc", folder]
        os.mkdir(self.work)
        for place in self.places:
            os.makedirs(f"{self.box}{place}", exist_ok=True)
            subprocess.run(["mount", "--bind", place, f"{self.box}{place}"], check=True)
        self.command = ["chroot", self.box, "/usr/bin/env", "-i", "-C", self.work, "PATH=/usr/bin", f"HOME={folder}",
                        "USER=root", "LC_ALL=C.UTF-8", "JAVA_HOME=/usr/lib/jvm/default-java", "bazel"]

    def end(self):
        try:
            super().end()
        finally:
            self.leave()

    def leave(self):
        for place in reversed(self.places):
            subprocess.run(["umount", "-l", f"{self.box}{place}"], check=True)


def made(folder, program, packages):
    if not os.path.isdir(folder):
        subprocess.run([f"{TOP}/tests/clients/{program}", folder, *packages], check=True)
    return folder


def size(folder):
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if not os.path.islink(f"{place}/{name}"):
                total += os.path.getsize(f"{place}/{name}")
    return total


def used():
    """Seconds of processor time that this machine has spent."""
    with open("/proc/stat") as file:
        user, nice, system = file.readline().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def spent(folder):
    """The same by the processes whose arguments name this folder: their own, and that of what ran below them and ended."""
    processes, below = {}, {}
    for place in glob.glob("/proc/[0-9]*"):
        try:
            with open(f"{place}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
            with open(f"{place}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(place[6:])
        processes[pid] = words, [int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:15]]
        below.setdefault(int(fields[1]), []).append(pid)

    def whole(pid):
        return sum(processes[pid][1]) + sum(whole(child) for child in below.get(pid, []))

    found = {}

    def add(name, seconds):
        found[name] = found.get(name, 0) + seconds

    for pid, (words, (user, system, *ended)) in processes.items():
        # The launcher of an agent is known by the agent's arguments, too.
        parent = [one for one, children in below.items() if pid in children and one in processes]
        if not any(folder in word for word in words) or any(processes[one][0] == words for one in parent):
            continue
        bazel = words[0].startswith("bazel(")
        name = "Bazel" if bazel else " ".join(os.path.basename(word) for word in words[:2])
        add(name, user + system)
        if bazel:
            add("compilers", sum(ended))
        if name == "croft agent":
            add("compilers", sum(whole(child) for child in below.get(pid, []) if "fs-daemon" not in processes[child][0]))
    return found


def on_farm(croft, folder, bazel, flags, found):
    farm = Farm(os.path.realpath(croft), folder, bazel.root)
    try:
        build = ["build", f"--remote_executor={farm.address}", f"--jobs={4 * CPUS}", *flags, "//..."]
        bazel.started()
        found["farm"], _, parts = bazel.timed("built on the farm", *build)
        found["farm_processors"], found["there"] = sum(parts.values()), bazel.programs()
        found["fetched"] = farm.status()["agents"][0]["fetched_bytes"]
        # All objects and libraries are inputs of later jobs.
        found["inputs"] = size(bazel.work) + size(bazel.root) + bazel.built_inputs()
        bazel.run("clean")
        bazel.started()
        found["cache"], said, _ = bazel.timed("built from the cache", *build)
        if not any("remote cache hit" in line for line in said) or any(" remote," in line for line in said):
            raise SystemExit("the clean rebuild was not all hits")
    finally:
        farm.stop()


def on_this_machine(bazel, found):
    bazel.started()
    found["local"], _, parts = bazel.timed("built here", "build", "--spawn_strategy=local", f"--jobs={CPUS}", "//...")
    found["local_processors"], found["here"] = sum(parts.values()), bazel.programs()


def same_programs(found, targets):
    if len(found["there"]) < targets * 3 // 10 or found["there"] != found["here"]:
        raise SystemExit("what was built there and here differs")


def tell(found, targets):
    same_programs(found, targets)
    bar("bazel-remote-of-local", found["farm"] / found["local"], 1.3,
        f"{found['farm']:.1f} s on the farm, {found['local']:.1f} s here; processors "
        f"{found['farm_processors']:.1f} and {found['local_processors']:.1f} s: {found['farm_processors'] / found['local_processors']:.3f}")
    bar("bazel-cached-of-remote", found["cache"] / found["farm"], 0.2, f"{found['cache']:.1f} s")
    bar("bazel-fetched-of-inputs", found["fetched"] / found["inputs"], 0.15,
        f"{found['fetched'] / 1e6:.0f} MB of {found['inputs'] / 1e6:.0f} MB: sources, headers, root image, objects and "
        "libraries, each counted once")


def main(croft, options, flags):
    installed = f"{TOP}/build/clients"
    os.makedirs(installed, exist_ok=True)
    headers = workspace.boost(f"{installed}/boost-headers")
    found = {}
    if options.results and os.path.exists(options.results):
        with open(options.results) as file:
            found = json.load(file)
    folder = tempfile.mkdtemp(prefix="croft-clients-", dir="/var/tmp")
    bazel = (Bazel if options.bazel == "4.2" else Bazel7)(folder, installed)
    workspace.make(bazel.work, headers, bazel.settings, options.targets)
    try:
        if options.part == "faults":
            farm = Farm(os.path.realpath(croft), folder, bazel.root, agents=2)
            try:
                found["there"] = faults.build(farm, bazel, options.targets, flags)
            finally:
                farm.stop()
        elif options.part != "here":
            on_farm(croft, folder, bazel, flags, found)
        bazel.run("clean")
        if options.part != "farm" and not (options.part == "faults" and "here" in found):
            on_this_machine(bazel, found)
    finally:
        bazel.end()
    shutil.rmtree(folder)
    if options.results:
        with open(options.results, "w") as file:
            json.dump(found, file)
    if options.part == "faults":
        same_programs(found, options.targets)
        print(f"{len(found['there'])} programs are those of a build here")
    elif "farm" in found and "local" in found:
        tell(found, options.targets)


parser = argparse.ArgumentParser(prog="bench/run clients")
parser.add_argument("croft")
parser.add_argument("--targets", type=int, default=500)
parser.add_argument("--bazel", choices=["4.2", "7.7"], default="7.7")
parser.add_argument("--part", choices=["farm", "here", "faults"], help="only this; with --results")
parser.add_argument("--results", metavar="FILE", help="what the parts found, one run after the other")
options, more = parser.parse_known_args()
main(options.croft, options, more)
