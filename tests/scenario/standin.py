#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""standin.py CROFT: a tree that several jobs use gets a stand-in, and jobs see by it what they saw without, to the
last attribute; leave the same; and are told of the same way. Whatever becomes of it or of the daemon meanwhile."""
import errno
import glob
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../lib")
from farm import Farm
from scenario import run_whole
from identity import check, make_tree

# All that can be seen of everything, in the order in which it is listed; what is read; then what can be done to it.
# Blocks of files are told apart: they are those of the disk once a file was opened (docs/architecture.md).
LOOK = r"""
find . -exec stat -c '%n %F %f %h %s %u:%g %x %y %z %B %o' {} +
find . -exec stat -c '%n %b' {} +
find . -type l -exec readlink {} ';'
find . -type f -exec sha256sum {} +
test -e missing || test -e odd/missing || echo absent
./sizes/script a word
"""
# What was opened is told of by the name that it has a moment later.
CHANGE = r"""
rm mebibytes
sleep 1
echo more >>program
echo more >>sizes/4032
chmod 600 odd/-rf
mv page odd/page
mv many elsewhere 2>/dev/null 2>&1 || echo many stays
ln large linked
touch -d '2001-01-01 01:01:01' odd-size
dd if=/dev/zero of=large bs=1 count=1 seek=3000000 conv=notrunc 2>/dev/null
rm -r repository/deep
mkdir -p repository/deep/new
cp -a odd/link odd/long-link repository/deep/new
find . -type f -exec sha256sum {} + | sort
"""
# On the same stream as all else: two would be mixed within lines.
TOLD = "grep -q datadir /proc/mounts && echo by a stand-in\n"
FILES = 200
SMALL = 64 << 10  # the largest whose data stand in an image (fs/daemon/internal.h)
# Half of a tree's files; all of them, slowly, saying how far it is.
HALF = f"cd /plenty; i=0; while [ $i -lt {FILES // 2} ]; do cat $i; i=$((i+1)); done | sha256sum"
SLOW = f"""cd /plenty; i=0; while [ $i -lt {FILES} ]; do cat $i; i=$((i+1)); sleep 0.02;
    [ $((i % 20)) -ne 0 ] || echo "at $i" >&2; done | sha256sum"""


def holds(tree, path):
    """In a folder of the disk (True), or in the image (2)."""
    try:
        os.getxattr(f"{tree}/names/{path}", "trusted.overlay.redirect", follow_symlinks=False)
    except OSError as error:
        return 2 * (error.errno == errno.ENODATA)
    return os.path.lexists(f"{tree}/files/{path}")


class Test:
    def __init__(self, croft):
        self.folder = tempfile.mkdtemp(prefix="croft-standin-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        os.chmod(self.folder, 0o755)
        self.croft = f"{self.folder}/croft"  # is replaced
        shutil.copy(croft, self.croft)
        self.farm = Farm(self.croft, f"{self.folder}/farm")
        self.state = f"{self.folder}/farm/agent/fs/standins"

    def make_inputs(self):
        root, top = f"{self.folder}/root", f"{self.folder}/in"
        os.makedirs(f"{root}/bin")
        shutil.copy("/bin/busybox", f"{root}/bin/busybox")
        for name in ("sh", "find", "sort", "stat", "grep", "sha256sum", "readlink", "chmod", "mv", "rm", "ln", "ls",
                     "touch", "dd", "mkdir", "cp", "test", "sleep", "cat"):
            os.symlink("busybox", f"{root}/bin/{name}")
        make_tree(top)
        # Before the dot and behind it.
        os.makedirs(f"{top}/odd/.hidden/+plus")
        for name in ("!", "#x", "-", "+", "~", ".a", "..b"):
            open(f"{top}/odd/.hidden/{name}", "w").close()
        for i in range(100):
            os.symlink("a", f"{top}/odd/.hidden/+plus/{i}")
        os.makedirs(f"{self.folder}/plenty")
        total = hashlib.sha256()
        for i in range(FILES):
            data = f"file {i}\n".encode() * (1 + i * 7)
            total.update(data)
            with open(f"{self.folder}/plenty/{i}", "wb") as file:
                file.write(data)
        self.plenty = total.hexdigest()
        os.makedirs(f"{top}/sizes")
        # About the ends of blocks, alone and behind an inode; zeros; a hole.
        for size in (1, 4031, 4032, 4033, 4095, 4096, 4097, 8192, 12289, SMALL - 1, SMALL, SMALL + 1):
            with open(f"{top}/sizes/{size}", "wb") as file:
                file.write(os.urandom(size))
            with open(f"{top}/sizes/{size}-zeros", "wb") as file:
                file.write(bytes(size))
        with open(f"{top}/sizes/hole", "wb") as file:
            file.write(b"before")
            file.seek(20000)
            file.write(b"behind")
        with open(f"{top}/sizes/script", "w") as file:
            file.write('#!/bin/sh\necho "$0 $# $1 $2"\n' + "# long\n" * 1000)
        os.chmod(f"{top}/sizes/script", 0o755)
        # Its names take more room in an image than its message, which is what a directory is said to take.
        os.makedirs(f"{self.folder}/links")
        for i in range(900):
            os.symlink("a", f"{self.folder}/links/{i}")
        for name in ("root", "in", "plenty", "links"):
            self.farm.run("import", "--name", name, f"{self.folder}/{name}")

    def job(self, script, *more, tree="in"):
        """What it told and left, how it was accounted for, and whether it had a stand-in."""
        over_image = "-p" in more
        done = self.farm.run(
            "run", "--json", "--skip-cache", *([] if over_image else ["-d", "root"]), "-d", f"{tree}:{tree}", *more, "--",
            "sh", "-c", f"{TOLD}cd {tree}\n{script}", timeout=300, errors="surrogateescape")
        result = json.loads(done.stdout)
        told = [line for line in done.stderr.splitlines() if not line.startswith("croft")]
        standin = "by a stand-in" in told
        read = json.loads(self.farm.run("inputs", "--json", "--files", result["operation"]).stdout)
        return {
            "told": [line for line in told if line != "by a stand-in"],
            "outputs": result["outputs"],
            "touched": [result["inputs"][name] for name in ("files", "touched_files", "touched_bytes")],
            "never read": {key: read[key] for key in sorted(read) if key not in ("action", "operation")},
        }, result["inputs"]["fetched_files"], standin

    def wait_for(self, what, there, seconds=120):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if there():
                return True
            time.sleep(0.05)
        if seconds < 120:
            return False
        raise SystemExit(f"{what}: not within two minutes; see {self.farm.folder}/agent.log")

    def has(self, *paths):
        """A stand-in stands, with all these files, each in its image or beside it."""
        return any(os.path.ismount(f"{tree}/names") and all(map(lambda path: holds(tree, path), paths))
                   for tree in glob.glob(f"{self.state}/trees/[0-9]*"))

    def mounts(self):
        return [line.split()[1] for line in open("/proc/mounts") if line.split()[1].startswith(self.state)]

    def daemon(self):
        """Its pid."""
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                words = open(path).read().split("\0")
            except OSError:
                continue
            if "fs-daemon" in words[1:2] and f"{self.farm.folder}/agent/fs" in words:
                return int(path.split("/")[2])
        return None

    def alike(self, *more):
        script = LOOK + CHANGE
        jobs = [self.job(script, "-o", "in", *more) for _ in range(2)]
        check("jobs before there is one", [False, False], [standin for _, _, standin in jobs])
        # What could not be copied when two had opened it, another job may bring.
        wanted = [f"in/{name}" for name in ("page", f"sizes/{SMALL}", f"sizes/{SMALL + 1}", "mebibytes", "large")]
        while len(jobs) < 6 and not self.wait_for("files", lambda: self.has(*wanted), 10):
            jobs.append(self.job(script, "-o", "in", *more))
        tree = next((tree for tree in glob.glob(f"{self.state}/trees/[0-9]*") if holds(tree, wanted[0])), None)
        check("a stand-in with files", [2, 2, True, True, True], [holds(tree, path) for path in wanted])
        jobs += [self.job(script, "-o", "in", *more) for _ in range(3)]
        check("jobs by it", [True] * 3, [standin for _, _, standin in jobs[-3:]])
        for i, (seen, fetched, _) in enumerate(jobs[1:]):
            for key in seen:
                if seen[key] != jobs[0][0][key] and key == "told":
                    check(f"job {i + 1}, a line",
                          *next((repr(a), repr(b)) for a, b in zip(jobs[0][0][key], seen[key]) if a != b))
                check(f"job {i + 1}, {key}", jobs[0][0][key], seen[key])
            check(f"job {i + 1}, files fetched", 0, fetched)
        print(f"  {len(jobs[0][0]['told'])} lines the same, {jobs[0][0]['touched'][0]} files told as opened")

    def as_root(self):
        self.alike()

    def over_an_image(self):
        self.alike("-p", "croft-root-image=root", "-p", "croft-root=image")

    def none_where_it_would_differ(self):
        script = "find . -exec stat -c '%n %F %f %h %s %b' {} +"
        jobs = [self.job(script, tree="links") for _ in range(3)]
        self.wait_for("no stand-in", lambda: "gets no stand-in" in open(f"{self.farm.folder}/agent.log").read())
        jobs += [self.job(script, tree="links") for _ in range(2)]
        check("jobs by one", [False] * 5, [standin for _, _, standin in jobs])
        for seen, _, _ in jobs[1:]:
            check("what is seen", jobs[0][0], seen)

    def start_slow(self):
        """A job by a stand-in that lacks half of what it reads."""
        self.wait_for("a job by one", lambda: self.job(HALF, tree="plenty")[2])
        job = subprocess.Popen(
            [self.croft, "run", "--server", f"grpc://{self.farm.address}", "--no-cache", "-d", "root", "-d",
             "plenty:plenty", "--", "sh", "-c", TOLD.replace("echo", "echo >&2") + SLOW],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in job.stderr:
            if line.startswith("at "):
                return job
            if line.startswith("by"):
                job.had_one = True

    def finish_slow(self, job):
        out, err = job.communicate(timeout=110)
        check("its exit status", 0, job.returncode)
        check("what it read", f"{self.plenty}  -", out.strip().splitlines()[-1])
        check("a stand-in", True, hasattr(job, "had_one"))

    def daemon_replaced(self):
        job, before = self.start_slow(), self.daemon()
        shutil.copy(self.croft, f"{self.croft}.new")
        os.rename(f"{self.croft}.new", self.croft)
        self.farm.agents["agent"].send_signal(signal.SIGUSR2)
        self.wait_for("another daemon", lambda: "was replaced" in open(f"{self.farm.folder}/agent.log").read())
        self.finish_slow(job)
        check("the daemon is another", True, self.daemon() not in (None, before))

    def daemon_killed(self):
        job = self.start_slow()
        os.kill(self.daemon(), signal.SIGKILL)
        self.finish_slow(job)
        self.finish_slow(self.start_slow())

    def agent_gone(self):
        """Nothing is left."""
        check("mounts while there is a daemon", True, bool(self.mounts()))
        self.farm.stop_agent("agent")
        self.wait_for("the daemon's end", lambda: self.daemon() is None)
        check("mounts after its end", [], self.mounts())
        check("files after its end", False, os.path.exists(self.state))

    def run(self):
        self.farm.serve()
        self.make_inputs()
        self.farm.agent("agent", "--no-peers", slots=1)
        self.farm.wait_agents(1)
        if not os.path.exists(self.state):
            print("skipped: there can be no stand-ins here (kernel, disk or its room): jobs have the trees themselves")
            return 77
        for test in (self.as_root, self.over_an_image, self.none_where_it_would_differ, self.daemon_replaced,
                     self.daemon_killed, self.agent_gone):
            print(test.__name__, flush=True)
            test()
        return 0

    def stop(self):
        self.farm.stop()


def main():
    run_whole(Test(sys.argv[1]))


if __name__ == "__main__":
    main()
