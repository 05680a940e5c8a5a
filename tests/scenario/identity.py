#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""identity.py CROFT [SECONDS [TREE]]: what a mount shows is what was imported, as git, rsync, tar and readers of many
kinds see it, with every mode and time where those were imported too; and nothing can be written. By default a tree made here and five seconds of random reads; any
other tree (such as /usr) for as long as wanted."""
import errno
import mmap
import os
import random
import stat
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../lib")
from farm import Farm
from scenario import run_whole

READERS = 64


def check(what, expected, came):
    if expected != came:
        raise SystemExit(f"{what}: expected\n{expected}\ncame\n{came}")


def out(*command, **keywords):
    done = subprocess.run(command, capture_output=True, **keywords)
    if done.returncode:
        raise SystemExit(f"{command}: {done.returncode}\n{done.stderr.decode(errors='replace')[-2000:]}")
    return done.stdout


def make_tree(top):
    os.makedirs(f"{top}/repository/deep/er")
    for i in range(400):
        with open(f"{top}/repository/deep/{'er/' if i % 2 else ''}{i}.txt", "w") as file:
            file.write(f"needle {i}\n" if i % 7 == 0 else "hay\n" * i)
    git = ["git", "-C", f"{top}/repository", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        out(*git, *command)
    os.makedirs(f"{top}/odd")
    for name in (b"n" * 255, b"\xff\xfe raw", b" two\nlines ", b"-rf", b"\xc3\xa4"):
        with open(os.path.join(f"{top}/odd".encode(), name), "wb") as file:
            file.write(name)
    os.symlink("x" * 4000, f"{top}/odd/long-link")
    os.symlink("../repository", f"{top}/odd/link")
    os.makedirs(f"{top}/many/empty")
    for i in range(5000):
        open(f"{top}/many/{i}", "w").close()
    with open(f"{top}/program", "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod(f"{top}/program", 0o755)
    for name, size in (("page", 4096), ("odd-size", 70001), ("mebibytes", 3 << 20), ("large", (9 << 20) + 13)):
        with open(f"{top}/{name}", "wb") as file:
            file.write(os.urandom(size))
    for number, mode in enumerate((0o400, 0o640, 0o666, 0o711, 0o4755, 0o604)):
        path = f"{top}/odd/mode-{mode:o}"
        with open(path, "w") as file:
            file.write(path)
        os.chmod(path, mode)
        os.utime(path, ns=(0, number * 1234567890123456789 % (1 << 61) - 10**9))
    os.utime(f"{top}/odd/link", ns=(0, 123456789), follow_symlinks=False)
    os.link(f"{top}/odd/mode-640", f"{top}/odd/other-name")
    os.chmod(f"{top}/many", 0o3750)
    os.utime(f"{top}/many", (0, 0))


def modes_and_times(top):
    """Of everything and of the top itself; a link has no mode of its own."""
    found = {}
    for path in [".", *entries(top)]:
        info = os.lstat(f"{top}/{path}")
        found[path] = (None if stat.S_ISLNK(info.st_mode) else oct(info.st_mode), info.st_mtime_ns)
    return found


def entries(top):
    """Of everything: kind, executable bits, links, size or target; what an import keeps."""
    found = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode) or stat.S_ISLNK(info.st_mode)):
                continue
            kind = stat.S_IFMT(info.st_mode)
            more = (os.readlink(path) if kind == stat.S_IFLNK else
                    (info.st_size, bool(info.st_mode & 0o100)) if kind == stat.S_IFREG else
                    sum(entry.is_dir(follow_symlinks=False) for entry in os.scandir(path)))
            found[os.path.relpath(path, top)] = (kind, more)
    return found


class Test:
    def __init__(self, croft, seconds, tree):
        self.folder = tempfile.mkdtemp(prefix="croft-identity-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.farm = Farm(croft, f"{self.folder}/farm")
        self.seconds, self.tree, self.shown = seconds, tree, f"{self.folder}/shown"
        self.exact = f"{self.folder}/exact"
        self.mounts = []

    def start(self):
        if not self.tree:
            self.tree = f"{self.folder}/tree"
            make_tree(self.tree)
        self.farm.serve()
        self.farm.run("import", "--name", "tree", self.tree, timeout=3600)
        self.farm.run("import", "--modes", "--mtimes", "--name", "exact", self.tree, timeout=3600)
        self.show("tree", self.shown)
        self.show("exact", self.exact)

    def show(self, name, place):
        os.mkdir(place)
        self.mounts.append(self.farm.start(f"mount-{name}", "mount", "--server", f"grpc://{self.farm.address}", "-f",
                                           "--state", f"{self.folder}/cache", name, place))
        for _ in range(300):
            if os.path.ismount(place):
                return
            time.sleep(0.1)
        raise SystemExit(f"no mount: see {self.folder}/farm/mount-{name}.log")

    def the_same_entries(self):
        expected = entries(self.tree)
        check("entries", expected, entries(self.shown))
        for path, (kind, more) in expected.items():
            info = os.lstat(f"{self.shown}/{path}")
            links = more + 2 if kind == stat.S_IFDIR else 1
            check(f"links of {path!r}", links, info.st_nlink)
            if kind != stat.S_IFLNK:
                mode = 0o755 if kind == stat.S_IFDIR or more[1] else 0o644
                check(f"mode of {path!r}", mode, stat.S_IMODE(info.st_mode))

    def modes_and_times(self):
        check("entries", entries(self.tree), entries(self.exact))
        check("modes and times", modes_and_times(self.tree), modes_and_times(self.exact))
        changed = out("rsync", "-rlptcni", "--delete", f"{self.tree}/", f"{self.exact}/")
        check("rsync -pt", b"", changed)

    def git(self):
        for top in (self.shown, self.tree):
            if not os.path.isdir(f"{top}/repository"):
                return
        git = ["git", "-c", "safe.directory=*", "-c", "core.checkStat=minimal", "--no-optional-locks", "-C"]
        for command in (["grep", "needle"], ["log", "-p"], ["fsck"]):
            check(f"git {command[0]}", out(*git, f"{self.tree}/repository", *command),
                  out(*git, f"{self.shown}/repository", *command))
        check("git status", b"", out(*git, f"{self.shown}/repository", "status", "--porcelain"))

    def rsync(self):
        for source, target in ((self.tree, self.shown), (self.shown, self.tree)):
            changed = out("rsync", "-rlcni", "--delete", f"{source}/", f"{target}/")
            check("rsync -c", [], [line for line in changed.splitlines() if not line.startswith(b".")])

    def tar(self):
        options = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX,a-st",
                   "--hard-dereference", "-C"]
        def pack(top):
            return subprocess.Popen(["tar", *options, top, "-c", "."], stdout=subprocess.PIPE)
        first, second = pack(self.tree), pack(self.shown)
        while True:
            expected, came = first.stdout.read(1 << 20), second.stdout.read(1 << 20)
            check("tar -c", True, expected == came)
            if not expected:
                break
        check("tar", (0, 0), (first.wait(), second.wait()))
        back = f"{self.folder}/back"
        os.mkdir(back)
        unpack = subprocess.Popen(["tar", "-C", back, "-x"], stdin=pack(self.shown).stdout)
        check("tar -x", 0, unpack.wait())
        check("unpacked", entries(self.tree), entries(back))

    def random_reads(self):
        """64 readers, each with read, pread or a mapping, at any place of any file, for the time."""
        files = [path for path, (kind, more) in entries(self.tree).items()
                 if kind == stat.S_IFREG and more[0] > 0]
        seed = random.randrange(1 << 30)
        print(f"  seed {seed}")
        until, wrong, count = time.monotonic() + self.seconds, [], [0] * READERS

        def read(number):
            choice = random.Random(seed + number)
            while time.monotonic() < until and not wrong:
                path = choice.choice(files)
                with open(f"{self.tree}/{path}", "rb") as one, open(f"{self.shown}/{path}", "rb") as other:
                    size = os.fstat(one.fileno()).st_size
                    offset = choice.randrange(size + 1)
                    length = choice.choice((1, 100, 4096, 5000, 1 << 17, 1 << 20))
                    expected = os.pread(one.fileno(), length, offset)
                    if choice.random() < 0.5:
                        with mmap.mmap(other.fileno(), 0, prot=mmap.PROT_READ) as mapping:
                            came = mapping[offset:offset + length]
                    else:
                        came = os.pread(other.fileno(), length, offset)
                    if expected != came:
                        wrong.append((path, offset, length))
                count[number] += 1

        threads = [threading.Thread(target=read, args=(i,)) for i in range(READERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check("wrong reads", [], wrong)
        print(f"  {sum(count)} reads by {READERS} readers")

    def read_only(self):
        """Each way to write is refused, and says that the file system is read-only."""
        name = next(path for path, (kind, _) in entries(self.tree).items() if kind == stat.S_IFREG)
        there, new = f"{self.shown}/{name}", f"{self.shown}/new"
        ways = {
            "open for writing": lambda: os.open(there, os.O_WRONLY),
            "open to read and write": lambda: os.open(there, os.O_RDWR),
            "open and truncate": lambda: os.open(there, os.O_RDONLY | os.O_TRUNC),
            "create": lambda: os.open(new, os.O_CREAT | os.O_WRONLY),
            "temporary file": lambda: os.open(self.shown, os.O_TMPFILE | os.O_RDWR),
            "truncate": lambda: os.truncate(there, 0),
            "mkdir": lambda: os.mkdir(new),
            "mknod": lambda: os.mknod(new),
            "fifo": lambda: os.mkfifo(new),
            "symlink": lambda: os.symlink("x", new),
            "link": lambda: os.link(there, new),
            "rename": lambda: os.rename(there, new),
            "unlink": lambda: os.unlink(there),
            "chmod": lambda: os.chmod(there, 0o600),
            "chown": lambda: os.chown(there, 1, 1),
            "utime": lambda: os.utime(there, (0, 0)),
            "setxattr": lambda: os.setxattr(there, "user.x", b"x"),
        }
        for way, do in ways.items():
            try:
                do()
                came = "it was done"
            except OSError as error:
                came = errno.errorcode[error.errno]
            check(way, "EROFS", came)
        check("access", False, os.access(there, os.W_OK))
        with open(there, "rb") as file:
            try:
                mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_WRITE)
                raise SystemExit("a file could be mapped to be written")
            except PermissionError:
                pass
        info = os.statvfs(self.shown)
        check("statvfs", (255, True, 0), (info.f_namemax, bool(info.f_flag & os.ST_RDONLY), info.f_bavail))

    def directories(self):
        """d_type, and a listing that goes on from any place that was told."""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
        libc.telldir.restype = ctypes.c_long
        for function, arguments in (("readdir", [ctypes.c_void_p]), ("telldir", [ctypes.c_void_p]),
                                    ("seekdir", [ctypes.c_void_p, ctypes.c_long]), ("closedir", [ctypes.c_void_p])):
            getattr(libc, function).argtypes = arguments
        folder = max((path for path, (kind, _) in entries(self.tree).items() if kind == stat.S_IFDIR),
                     key=lambda path: len(os.listdir(f"{self.tree}/{path}")))
        stream = libc.opendir(os.fsencode(f"{self.shown}/{folder}"))
        listed = []
        while True:
            place = libc.telldir(stream)
            entry = libc.readdir(stream)
            if not entry:
                break
            # struct dirent of 64-bit Linux: d_ino 8, d_off 8, d_reclen 2, d_type 1, d_name.
            kind = ctypes.string_at(entry + 18, 1)[0]
            listed.append((place, kind, ctypes.string_at(entry + 19)))
        check("entries listed", sorted([b".", b".."] + os.listdir(os.fsencode(f"{self.tree}/{folder}"))),
              sorted(name for _, _, name in listed))
        choice = random.Random(1)
        for place, kind, name in choice.sample(listed, min(200, len(listed))):
            libc.seekdir(stream, place)
            entry = libc.readdir(stream)
            check(f"after seekdir to {name!r}", name, ctypes.string_at(entry + 19))
            if name not in (b".", b".."):
                mode = os.lstat(os.path.join(os.fsencode(f"{self.tree}/{folder}"), name)).st_mode
                check(f"d_type of {name!r}", stat.S_IFMT(mode) >> 12, kind)
        libc.closedir(stream)

    def run(self):
        self.start()
        for what in (self.the_same_entries, self.modes_and_times, self.random_reads, self.git, self.rsync, self.tar, self.read_only,
                     self.directories, self.the_same_entries):
            print(what.__name__.replace("_", " "), flush=True)
            what()

    def stop(self):
        for place, mount in zip((self.shown, self.exact), self.mounts):
            subprocess.run(["umount", "-l", place], check=False)
            mount.wait(30)
        self.farm.stop()


def main():
    test = Test(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 5,
                os.path.abspath(sys.argv[3]) if len(sys.argv) > 3 else None)
    run_whole(test)


if __name__ == "__main__":
    main()
