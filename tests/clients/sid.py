#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""sid.py FOLDER PACKAGE...: a root with these packages of Debian sid and all that they depend on, in a new FOLDER:
clients that Debian 12 does not have, to be run by chroot. No maintainer script is run."""
import glob
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../../bench/demo")
from debian import Apt


def root(folder, release, wanted):
    part = folder + ".part"
    shutil.rmtree(part, ignore_errors=True)
    apt = Apt(f"{part}/apt", release)
    apt.get("update")
    apt.get("install", "--download-only", "-y", *wanted)
    for name in ("bin", "lib", "lib64", "sbin"):
        os.makedirs(f"{part}/usr/{name}")
        os.symlink(f"usr/{name}", f"{part}/{name}")
    for path in sorted(glob.glob(f"{part}/apt/cache/archives/*.deb")):
        unpacked = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE)
        subprocess.run(["tar", "-C", part, "-x", "--keep-directory-symlink"], stdin=unpacked.stdout, check=True)
        if unpacked.wait():
            raise SystemExit(f"{path} could not be unpacked")
    shutil.rmtree(f"{part}/apt")
    for name in ("tmp", "proc", "dev"):
        os.makedirs(f"{part}/{name}", exist_ok=True)
    os.rename(part, folder)


if __name__ == "__main__":
    root(sys.argv[1], "sid", sys.argv[2:])
