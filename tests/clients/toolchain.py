#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""toolchain.py FOLDER PACKAGE...: a root of installed Debian packages and all that they depend on, in a
new FOLDER. What clients' jobs find at their "/" must not be this machine's own root."""
import os
import shutil
import subprocess
import sys


def installed():
    """name or virtual name → (package, dependencies as lists of alternatives)"""
    out = subprocess.run(["dpkg-query", "-W", "-f",
                          "${db:Status-Status}\t${Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n"],
                         capture_output=True, text=True, check=True).stdout
    found = {}
    for line in out.splitlines():
        status, name, depends, provides = line.split("\t")
        if status != "installed":
            continue
        entry = (name, [[one.split("(")[0].split(":")[0].strip() for one in group.split("|")]
                        for group in depends.split(",") if group.strip()])
        found[name] = entry
        for other in provides.split(","):
            found.setdefault(other.split("(")[0].strip(), entry)
    return found


def closure(wanted):
    packages, known, todo = set(), installed(), list(wanted)
    while todo:
        name = todo.pop()
        if name not in known:
            raise SystemExit(f"the package {name} is not installed")
        package, depends = known[name]
        if package in packages:
            continue
        packages.add(package)
        todo.extend(next(one for one in group if one in known) for group in depends
                    if any(one in known for one in group))
    return packages


def main(folder, *wanted):
    part = folder + ".part"
    shutil.rmtree(part, ignore_errors=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        os.makedirs(f"{part}/usr/{name}")
        os.symlink(f"usr/{name}", f"{part}/{name}")
    for name in ("tmp", "dev", "proc", "etc"):
        os.mkdir(f"{part}/{name}")
    out = subprocess.run(["dpkg-query", "-L", *sorted(closure(wanted))], capture_output=True, text=True,
                         check=True).stdout
    skip = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info", "/var")
    paths = {line for line in out.splitlines()
             if line.startswith("/") and not line.startswith(skip) and os.path.lexists(line)
             and (os.path.islink(line) or not os.path.isdir(line))}
    # What update-alternatives made belongs to no package.
    for name in os.listdir("/etc/alternatives"):
        if os.path.realpath(f"/etc/alternatives/{name}") in paths:
            paths.add(f"/etc/alternatives/{name}")
            paths.update(p for p in (f"/usr/bin/{name}", f"/usr/sbin/{name}") if os.path.lexists(p))
    listing = "\0".join(sorted(path[1:] for path in paths)).encode()
    packed = subprocess.Popen(["tar", "-C", "/", "-c", "--null", "-T", "-"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    unpacked = subprocess.Popen(["tar", "-C", part, "-x", "--keep-directory-symlink"],
                                stdin=packed.stdout)
    packed.stdout.close()
    packed.stdin.write(listing)
    packed.stdin.close()
    if packed.wait() or unpacked.wait():
        raise SystemExit("copying the packages failed")
    with open(f"{part}/etc/passwd", "w") as file:
        file.write("root:x:0:0:root:/root:/bin/sh\n")
    with open(f"{part}/etc/group", "w") as file:
        file.write("root:x:0:\n")
    os.rename(part, folder)


main(*sys.argv[1:])
