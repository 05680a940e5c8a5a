#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cold path against others that show remote trees lazily or stage them: the same trees at the far end of
a link of 1 Gbit/s with round trips of 0, 1, 10 and 50 ms, each time with empty caches. Times include mounting.

    croft          croft mount, from croft serve
    casync         casync mount, chunks from nginx
    squashfuse     an image (zstd) on sshfs
    buildbox-fuse  from the same croft serve
    casd           buildbox-casd's StageTree, likewise
"""
import argparse
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [f"{HERE}/../link", f"{HERE}/../../tests/lib"]
from farm import Farm
from link import ADDRESSES, Link

MBIT = 1000
WARM_ROUNDS = 15
TREES = ("toolchain", "small", "large")
COMPILE = ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "LC_ALL=C", "gcc", "-c", "/hello.c", "-o", "/hello.o"]
SYSTEMS = ("croft", "casync", "squashfuse", "buildbox-fuse", "casd")
ROWS = ("compile", "files", "first")
SSH_PORT, HTTP_PORT = 2222, 8080


def run(*command, **keywords):
    return subprocess.run(command, check=True, **keywords)


def wait_for(what, there, seconds=300):
    until = time.monotonic() + seconds
    while not there():
        if time.monotonic() > until:
            raise SystemExit(f"{what} did not come")
        time.sleep(0.002)


class Bench:
    def __init__(self, arguments):
        self.keep = arguments.state is not None
        self.folder = os.path.abspath(arguments.state) if self.keep else tempfile.mkdtemp(
            prefix="croft-others-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        os.makedirs(self.folder, exist_ok=True)
        self.arguments = arguments
        self.systems = arguments.systems.split(",")
        self.place = f"{self.folder}/place"
        shutil.rmtree(self.place, ignore_errors=True)
        os.makedirs(self.place)
        self.sid = f"{self.folder}/sid"
        self.children, self.mounts, self.number, self.link = [], [], 0, None

    # Trees, each in the form that each system wants ------------------------------------------------

    def make_trees(self):
        if not os.path.isdir(f"{self.folder}/toolchain"):
            run(f"{HERE}/../../tests/clients/toolchain.py", f"{self.folder}/toolchain", "gcc", "libc6-dev",
                "coreutils", "bash")
            with open(f"{self.folder}/toolchain/hello.c", "w") as file:
                file.write('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
        if not os.path.isdir(f"{self.folder}/small"):
            for i in range(2000):
                os.makedirs(f"{self.folder}/small/{i % 20}", exist_ok=True)
                with open(f"{self.folder}/small/{i % 20}/{i}", "wb") as file:
                    file.write(os.urandom(4096))
        if not os.path.isdir(f"{self.folder}/large"):
            os.makedirs(f"{self.folder}/large")
            with open(f"{self.folder}/large/blob", "wb") as file:
                for _ in range(200):
                    file.write(os.urandom(1000000))
        if not os.path.isdir(self.sid):
            run("python3", f"{HERE}/../../tests/clients/sid.py", self.sid, "buildbox", "coreutils", "dash", "base-files")
        os.makedirs(f"{self.sid}/work", exist_ok=True)
        os.makedirs(f"{self.folder}/served", exist_ok=True)
        for tree in TREES:
            image = f"{self.folder}/served/{tree}"
            if not os.path.exists(f"{image}.squashfs"):
                run("mksquashfs", f"{self.folder}/{tree}", f"{image}.squashfs", "-comp", "zstd", "-quiet", "-no-progress")
            if not os.path.exists(f"{image}.caidx"):
                run("casync", "make", f"--store={self.folder}/served/store.castr", "--with=permissions", "--with=symlinks",
                    f"{image}.caidx", f"{self.folder}/{tree}",
                    stdout=subprocess.DEVNULL)

    # Both ends of the link -----------------------------------------------------------------------

    def at(self, end, *command):
        """Only the network of that end: mounts are to be seen from here."""
        return ["nsenter", f"--net=/run/netns/{self.link.names[end]}", "env", "-u", "http_proxy", "-u", "https_proxy",
                "-u", "HTTP_PROXY", "-u", "HTTPS_PROXY", *command]

    def start(self, end, *command):
        log = open(f"{self.place}/log", "a")
        child = subprocess.Popen(self.at(end, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.children.append(child)
        return child

    def serve(self, round_trip_ms):
        self.link = Link(self.arguments.link, round_trip_ms * 1000, MBIT)
        self.farm = Farm(self.arguments.croft, f"{self.folder}/farm")
        self.farm.address = self.farm.plane = f"{ADDRESSES[0]}:0"
        self.farm.enter = {"serve": self.at(0), "client": self.at(0)}
        self.farm.serve()
        self.digests = {tree: self.farm.run("import", "--name", tree, f"{self.folder}/{tree}").stdout.split()[0]
                        for tree in TREES}
        if not os.path.exists(f"{self.folder}/key"):
            for name in ("key", "host"):
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.folder}/{name}")
            shutil.copy(f"{self.folder}/key.pub", f"{self.folder}/authorized")
            os.chmod(f"{self.folder}/authorized", 0o600)
        os.makedirs("/run/sshd", exist_ok=True)
        with open(f"{self.place}/sshd", "w") as file:
            file.write(f"ListenAddress {ADDRESSES[0]}:{SSH_PORT}\nHostKey {self.folder}/host\nStrictModes no\n"
                       f"AuthorizedKeysFile {self.folder}/authorized\nPermitRootLogin yes\nPidFile none\n"
                       "UsePAM no\nSubsystem sftp internal-sftp\n")
        self.start(0, "/usr/sbin/sshd", "-D", "-e", "-f", f"{self.place}/sshd")
        with open(f"{self.place}/nginx", "w") as file:
            file.write(f"daemon off; pid {self.place}/nginx.pid; error_log {self.place}/log; user root;\n"
                       "events { } http { access_log off; server { "
                       f"listen {ADDRESSES[0]}:{HTTP_PORT}; root {self.folder}/served; }} }}\n")
        self.start(0, "nginx", "-c", f"{self.place}/nginx", "-e", f"{self.place}/log")
        time.sleep(1)  # both listen by then, or what follows says that they do not
        self.served = len(self.children)

    def stop_serving(self):
        for mount in reversed(self.mounts):
            subprocess.run(["umount", "-l", mount], check=False)
        self.mounts = []
        for child in reversed(self.children):
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.children = []
        if self.link:
            self.farm.stop()
            self.link.stop()
        self.link = None

    # A tree, shown by a system with nothing in its caches ------------------------------------------

    def show(self, system, tree):
        """Where it is, and how to end it."""
        self.number += 1
        name = f"{system}-{self.number}"
        here = f"{self.place}/{name}"
        os.makedirs(f"{here}/mnt")
        mark = (len(self.mounts), len(self.children))
        show = getattr(self, system.replace("-", "_"))
        path = show(tree, name, here)
        return path, lambda: self.hide(*mark)

    def hide(self, mounts, children):
        for mount in reversed(self.mounts[mounts:]):
            run("umount", "-l", mount)
        del self.mounts[mounts:]
        for child in reversed(self.children[children:]):
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        del self.children[children:]

    def mounted(self, child, path):
        wait_for(f"the mount on {path}", lambda: os.path.ismount(path) or self.ended(child))
        self.mounts.append(path)
        return path

    def ended(self, child):
        if child.poll() is not None and child.returncode != 0:
            raise SystemExit(f"a mount failed; the end of {self.place}/log:\n"
                             + "".join(open(f"{self.place}/log", errors="replace").readlines()[-20:]))
        return False

    def croft(self, tree, name, here):
        child = self.start(1, self.farm.croft, "mount", "--server", f"grpc://{self.farm.address}", "-f", "--state",
                           f"{here}/state", self.digests[tree], f"{here}/mnt")
        return self.mounted(child, f"{here}/mnt")

    def casync(self, tree, name, here):
        url = f"http://{ADDRESSES[0]}:{HTTP_PORT}"
        child = self.start(1, "env", f"CASYNC_PROTOCOL_PATH=/usr/lib/casync/protocols", "casync", "mount",
                           f"--store={url}/store.castr", f"{url}/{tree}.caidx", f"{here}/mnt")
        return self.mounted(child, f"{here}/mnt")

    def squashfuse(self, tree, name, here):
        os.mkdir(f"{here}/ssh")
        child = self.start(1, "sshfs", "-f", "-p", str(SSH_PORT), "-o",
                           f"ro,kernel_cache,IdentityFile={self.folder}/key,StrictHostKeyChecking=no,"
                           "UserKnownHostsFile=/dev/null", f"root@{ADDRESSES[0]}:{self.folder}/served", f"{here}/ssh")
        self.mounted(child, f"{here}/ssh")
        child = self.start(1, "squashfuse", "-f", f"{here}/ssh/{tree}.squashfs", f"{here}/mnt")
        return self.mounted(child, f"{here}/mnt")

    def box(self, name):
        """A root with BuildBox in which `name` may be mounted on."""
        inside = f"{self.sid}/work/{name}"
        os.makedirs(f"{inside}/mnt")
        os.makedirs(f"{inside}/cache")
        os.makedirs(f"{self.sid}/dev", exist_ok=True)
        if f"{self.sid}/dev" not in self.mounts:
            run("mount", "--bind", "/dev", f"{self.sid}/dev")
            self.mounts.append(f"{self.sid}/dev")
        return inside

    def buildbox_fuse(self, tree, name, here):
        inside = self.box(name)
        child = self.start(1, "chroot", self.sid, "buildbox-fuse", f"--remote=http://{self.farm.address}",
                           f"--local=/work/{name}/cache", f"--input-digest-value={self.digests[tree].replace('-', '/')}",
                           f"/work/{name}/mnt")
        return self.mounted(child, f"{inside}/mnt")

    def casd(self, tree, name, here):
        inside = self.box(name)
        self.start(1, "chroot", self.sid, "buildbox-casd", f"--cas-remote=http://{self.farm.address}",
                   f"--bind=unix:/work/{name}/socket", f"/work/{name}/cache")
        wait_for("buildbox-casd", lambda: os.path.exists(f"{inside}/socket"))
        child = self.start(1, "/usr/bin/python3", f"{HERE}/stage.py", f"unix:{inside}/socket", self.digests[tree],
                           f"/work/{name}/mnt", f"{here}/staged")
        wait_for("the staged tree", lambda: os.path.exists(f"{here}/staged") or self.ended(child))
        path = f"{inside}/mnt"
        if os.path.ismount(path):
            self.mounts.append(path)
        return path

    # What is measured ----------------------------------------------------------------------------

    def compile(self, path):
        """Over a fresh layer, as a job's sandbox does it."""
        self.number += 1
        layers = f"{self.place}/layers-{self.number}"
        for name in ("upper", "work", "root"):
            os.makedirs(f"{layers}/{name}")
        run("mount", "-t", "overlay", "overlay", "-o",
            f"lowerdir={path},upperdir={layers}/upper,workdir={layers}/work", f"{layers}/root")
        try:
            os.makedirs(f"{layers}/root/tmp", exist_ok=True)
            run("chroot", f"{layers}/root", *COMPILE)
            if os.path.getsize(f"{layers}/root/hello.o") < 500:
                raise SystemExit("the compiler made nothing")
        finally:
            run("umount", "-l", f"{layers}/root")

    def timed_compile(self, path):
        start = time.monotonic()
        self.compile(path)
        return time.monotonic() - start

    def first_compile(self, system):
        start = time.monotonic()
        path, end = self.show(system, "toolchain")
        self.compile(path)
        first = time.monotonic() - start
        return first, path, end

    def compile_times(self, rounds):
        """First ones in turn; then all stay, and warm ones take turns, so that each pair is of one moment (in a new
        order each time: what one leaves to be done is not always the same one's burden).
        The first round does not count: disk and servers are still busy with the trees that were put there."""
        firsts = {system: [] for system in self.systems}
        paths = {}
        for i in range(rounds + 1):
            first = i % len(self.systems)
            for system in self.systems[first:] + self.systems[:first]:
                seconds, paths[system], end = self.first_compile(system)
                if i > 0:
                    firsts[system].append(seconds)
                if i < rounds:
                    end()
        warm = {system: [] for system in self.systems}
        for i in range(WARM_ROUNDS):
            for system in random.Random(i).sample(self.systems, len(self.systems)):
                warm[system].append(self.timed_compile(paths[system]))
        self.hide(0, self.served)
        return {system: statistics.median(firsts[system]) for system in self.systems}, warm

    def files_time(self, system):
        path, end = self.show(system, "small")
        start = time.monotonic()
        total = 0
        for folder in sorted(os.listdir(path)):  # as the shell's * has them
            for name in sorted(os.listdir(f"{path}/{folder}")):
                with open(f"{path}/{folder}/{name}", "rb") as file:
                    total += len(file.read())
        small = time.monotonic() - start
        end()
        if total != 2000 * 4096:
            raise SystemExit(f"{system}: {total} bytes of 2,000 files")
        return small

    def first_time(self, system):
        path, end = self.show(system, "large")
        start = time.monotonic()
        with open(f"{path}/blob", "rb", buffering=0) as file:
            head = file.read(4096)
        large = time.monotonic() - start
        end()
        if head != open(f"{self.folder}/large/blob", "rb").read(4096):
            raise SystemExit(f"{system}: wrong bytes")
        return large

    def bar(self, name, value, goal):
        print(f"BAR others-{name} {value:.2f} >={goal:g} {'ok' if value >= goal else 'short'}", flush=True)

    def measure_compiles(self, round_trip_ms, rounds):
        firsts, warm = self.compile_times(rounds)
        for system in self.systems:
            print(f"  {round_trip_ms} ms: {system}: hello.c first {firsts[system]:.3f} s, warm "
                  f"{statistics.median(warm[system]) * 1000:.0f} ms", flush=True)
        rest = [system for system in self.systems if system != "croft"]
        if rest:
            self.bar(f"first-compile-{round_trip_ms}ms", min(firsts[one] for one in rest) / firsts["croft"], 1)
            self.bar(f"warm-compile-{round_trip_ms}ms", min(statistics.median(
                other / ours for other, ours in zip(warm[one], warm["croft"])) for one in rest), 1)

    def measure_reads(self, what, name, goal, time_of, round_trip_ms, rounds):
        times = {}
        for system in [one for one in self.systems if one != "casd"]:
            times[system] = statistics.median(time_of(system) for _ in range(rounds))
            print(f"  {round_trip_ms} ms: {system}: {what} {times[system] * 1000:.1f} ms", flush=True)
        if "buildbox-fuse" in times:
            self.bar(f"{name}-{round_trip_ms}ms", times["buildbox-fuse"] / times["croft"], goal)

    def measure(self, round_trip_ms):
        rounds = 1 if self.arguments.quick or round_trip_ms > 1 else 3
        rows = self.arguments.rows.split(",")
        self.serve(round_trip_ms)
        if "compile" in rows:
            self.measure_compiles(round_trip_ms, rounds)
        if "files" in rows:
            self.measure_reads("2,000 files of 4 KiB", "small-files", 5, self.files_time, round_trip_ms, rounds)
        if "first" in rows:
            self.measure_reads("first 4 KiB of 200 MB", "first-4KiB", 50, self.first_time, round_trip_ms, 3)
        self.stop_serving()

    def run(self):
        self.make_trees()
        print("The same trees over a link, with empty caches; the best of the others by croft")
        for round_trip_ms in self.arguments.round_trips:
            self.measure(round_trip_ms)

    def stop(self):
        self.stop_serving()
        shutil.rmtree(f"{self.sid}/work", ignore_errors=True)
        shutil.rmtree(f"{self.folder}/farm", ignore_errors=True)
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("croft")
    parser.add_argument("link", help="the program that is the link")
    parser.add_argument("--state", help="keep trees and packages here for the next time")
    parser.add_argument("--quick", action="store_true", help="one round of each")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--rows", default=",".join(ROWS), help="what to measure")
    parser.add_argument("--round-trips", type=int, nargs="*", default=[0, 1, 10, 50], metavar="MS")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what is mounted goes, too
    bench = Bench(parser.parse_args())
    try:
        bench.run()
    finally:
        bench.stop()


if __name__ == "__main__":
    main()
