#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Inputs come to jobs in each way that an agent knows (--staging): jobs see and leave the same, and nothing
that one does to its inputs is seen by the next."""
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../lib")
from farm import Farm
from scenario import run_whole

# Tells of everything that is there, then does to it what it can, and keeps the whole.
JOB = r"""
cd /in
find . | sort | while read -r name; do stat -c '%n %F %a %u:%g %Y %s' "$name"; done | grep -v directory
find . -type d | sort | while read -r name; do stat -c '%n %a %u:%g %Y' "$name"; done
find . -type l | sort | while read -r name; do readlink "$name"; done
find . -type f | sort | while read -r name; do sha256sum "$name"; done
echo more >>many/1
echo other >many/2
chmod 777 many/3
mv many/4 many/five
rm many/6
ln many/7 many/seven
touch -d '2001-01-01 01:01:01' twin
dd if=/dev/zero of=large bs=1 count=1 seek=3000000 conv=notrunc 2>/dev/null
mkdir -p deep/er/new
cp -a many/8 deep/er/new
"""


def check(what, expected, came):
    if expected != came:
        raise SystemExit(f"{what}: expected\n{expected}\ncame\n{came}")


class Test:
    def __init__(self, croft):
        self.folder = tempfile.mkdtemp(prefix="croft-staging-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        os.chmod(self.folder, 0o755)
        # Where everybody may execute it.
        self.farm = Farm(shutil.copy(croft, f"{self.folder}/croft"), f"{self.folder}/farm")
        self.mounted = []

    def make_inputs(self):
        root, top = f"{self.folder}/root", f"{self.folder}/inputs"
        os.makedirs(f"{root}/bin")
        shutil.copy("/bin/busybox", f"{root}/bin/busybox")
        for name in ("sh", "find", "sort", "stat", "grep", "sha256sum", "readlink", "chmod", "mv", "rm", "ln",
                     "touch", "dd", "mkdir", "cp", "test", "sleep", "cat"):
            os.symlink("busybox", f"{root}/bin/{name}")
        os.makedirs(f"{top}/many")
        os.makedirs(f"{top}/deep/er/est")
        for i in range(300):
            with open(f"{top}/many/{i}", "w") as file:
                file.write(f"file {i}\n")
        with open(f"{top}/large", "wb") as file:
            file.write(os.urandom(5 << 20))
        for name in ("twin", "deep/twin", "deep/er/est/a name of two words \u00e4"):
            with open(f"{top}/{name}", "w") as file:
                file.write("the same\n")
        open(f"{top}/empty", "w").close()
        open(f"{top}/also-empty", "w").close()
        with open(f"{top}/program", "w") as file:
            file.write("#!/bin/sh\necho ran\n")
        os.chmod(f"{top}/program", 0o755)
        os.symlink("program", f"{top}/link")
        os.symlink("/nowhere/at/all", f"{top}/dangling")
        for name, mode in (("twin", 0o640), ("deep/twin", 0o4750), ("many/9", 0o400), ("deep/er", 0o711), ("many", 0o1777)):
            os.chmod(f"{top}/{name}", mode)
            os.utime(f"{top}/{name}", ns=(0, mode * 10**15 + 123456789))
        for name in ("root", "inputs"):
            self.farm.run("import", "--modes", "--mtimes", "--name", name, f"{self.folder}/{name}")

    def agent(self, name, *options, state=None):
        state = state or f"{self.folder}/farm/{name}"
        self.farm.agents[name] = self.farm.start(
            name, "agent", "--server", f"grpc://{self.farm.address}", "--state", state, "--name", name,
            "--slots", "2", "--no-peers", "-p", f"way={name}", *options)
        for _ in range(300):
            if any(a["state"] == "ready" and a["id"].startswith(name + "-") for a in self.farm.status()["agents"]):
                return state
            if self.farm.agents[name].poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"agent {name} did not come:\n{open(f'{self.folder}/farm/{name}.log').read()}")

    def job(self, way, script, *more, check=True):
        return self.farm.run("run", "--json", "--skip-cache", "-d", "root", "-p", f"way={way}", *more, "--",
                             "sh", "-c", script, check=check, timeout=120)

    def changed(self, way):
        """What the job told and left, and what was fetched for it."""
        done = self.job(way, JOB, "-d", "inputs:in", "-o", "in")
        result = json.loads(done.stdout)
        told = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("croft"))
        return (told, result["outputs"]), result["inputs"]["fetched_files"]

    def same_results(self, ways):
        expected = None
        for way in ways:
            (first, fetched), (second, again) = self.changed(way), self.changed(way)
            expected = expected or first
            if not fetched:
                raise SystemExit(f"{way}: nothing was fetched for the first job")
            check(f"{way}, first", expected, first)
            check(f"{way}, after a job that changed all", expected, second)
            check(f"{way}: files fetched again", 0, again)
            print(f"  {way}: {len(first[0].splitlines())} lines the same, {fetched} files fetched once")

    def sharing_disk(self, kind, *options):
        """A place on a disk that shares blocks; None where there is none to be had."""
        image, place = f"{self.folder}/{kind}.img", f"{self.folder}/{kind}"
        os.mkdir(place)
        with open(image, "wb") as file:
            file.truncate(320 << 20)  # XFS takes no less than 300
        for command in ([f"mkfs.{kind}", "-q", *options, image], ["mount", "-t", kind, "-o", "loop", image, place]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"  reflink: no {kind} here ({command[0]}: {done.stderr.strip()})")
                return None
        self.mounted.append(place)
        return f"{place}/state"

    def refusals(self):
        done = self.farm.run("agent", "--state", f"{self.folder}/farm/none", "--staging", "symlink", check=False)
        check("a way that there is not", (2, True), (done.returncode, "no way of staging" in done.stderr))

    def room(self):
        """Half of 64 MiB: one root of 20 MiB goes for the next, unless a job is in it."""
        self.agent("small", "--staging", "copy", "--cache", "64M")
        for name, size in (("one", 20), ("two", 20), ("more", 26)):
            os.mkdir(f"{self.folder}/{name}")
            with open(f"{self.folder}/{name}/file", "wb") as file:
                file.write(os.urandom(size << 20))
            self.farm.run("import", "--name", name, f"{self.folder}/{name}")
        for name in ("one", "two", "one"):
            self.job("small", "test $(stat -c %s /file) = 20971520", "-d", name)
        # The first is in use while the second needs its room.
        first = subprocess.Popen(
            [self.farm.croft, "run", "--server", f"grpc://{self.farm.address}", "-q", "--skip-cache", "-d", "root",
             "-d", "one", "-p", "way=small", "--", "sh", "-c", "echo started; sleep 6; sha256sum /file"],
            stdout=subprocess.PIPE, text=True)
        check("a job that stays", "started\n", first.stdout.readline())
        for name in ("two", "more"):
            done = self.job("small", "true", "-d", name, check=False)
            check(f"no room for {name}", (125, True), (done.returncode, "that may be staged" in done.stderr))
        digest = subprocess.run(["sha256sum", f"{self.folder}/one/file"], capture_output=True, text=True).stdout
        check("what the staying job reads", digest.split()[0], first.stdout.readline().split()[0])
        check("the staying job", 0, first.wait())
        self.job("small", "test -e /file", "-d", "two")

    def restart(self, state):
        """The daemon dies under a job; the job's staged inputs stay for it, and its successor goes on."""
        job = subprocess.Popen(
            [self.farm.croft, "run", "--server", f"grpc://{self.farm.address}", "-q", "--skip-cache", "-d", "root",
             "-d", "inputs:in", "-p", "way=hardlink", "--", "sh", "-c",
             "echo started; while ! test -e /tmp/on; do sleep 1; cat /in/many/9 >/tmp/on; done; sleep 3; sha256sum /in/large"],
            stdout=subprocess.PIPE, text=True)
        check("a job that stays", "started\n", job.stdout.readline())
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                words = open(path, "rb").read().split(b"\0")
            except OSError:
                continue
            if b"fs-daemon" in words and f"{state}/fs".encode() in words:
                os.kill(int(path.split("/")[2]), signal.SIGKILL)
        self.job("hardlink", "test -e /in/large", "-d", "inputs:in")
        digest = subprocess.run(["sha256sum", f"{self.folder}/inputs/large"], capture_output=True, text=True).stdout
        check("what the job reads", digest.split()[0], job.stdout.readline().split()[0])
        check("the job", 0, job.wait())

    def run(self):
        self.farm.serve()
        self.make_inputs()
        self.agent("fuse", "--staging", "fuse")
        states = {way: self.agent(way, "--staging", way) for way in ("hardlink", "copy")}
        ways = ["fuse", "hardlink", "copy"]
        # A socket stands where /dev/fuse is: nobody can open it.
        hidden = socket.socket(socket.AF_UNIX)
        hidden.bind(f"{self.folder}/no-fuse")
        self.farm.enter["auto"] = ["unshare", "-m", "sh", "-c",
                                   f'mount --bind {self.folder}/no-fuse /dev/fuse && exec "$@"', "sh"]
        self.agent("auto")
        ways.append("auto")
        os.mkdir(f"{self.folder}/user-state")
        os.chown(f"{self.folder}/user-state", 54321, 54321)
        self.farm.enter["user"] = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
        self.agent("user", "--staging", "copy", state=f"{self.folder}/user-state")
        ways.append("user")
        for kind, *options in (("btrfs",), ("xfs", "-m", "reflink=1")):
            place = self.sharing_disk(kind, *options)
            if place:
                self.agent(f"reflink-{kind}", "--staging", "reflink", state=place)
                ways.append(f"reflink-{kind}")
        print("the same results")
        self.same_results(ways)
        if "staging whole trees" not in open(f"{self.folder}/farm/auto.log").read():
            raise SystemExit("the agent without /dev/fuse did not stage")
        print("refusals")
        self.refusals()
        print("room")
        self.room()
        print("the daemon is killed under a job")
        self.restart(states["hardlink"])

    def stop(self):
        self.farm.stop()
        for place in self.mounted:
            subprocess.run(["umount", "-l", place], check=False)


def main():
    run_whole(Test(sys.argv[1]))


if __name__ == "__main__":
    main()
