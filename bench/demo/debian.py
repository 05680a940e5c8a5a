# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian packages as dependency artifacts: which, from where, and their sources."""
import glob
import os
import subprocess

# What the builds need, with the closure of their dependencies, and two heavy stacks that they do not
# need: a root as people have it.
WANTED = """gcc g++ binutils libc6-dev make coreutils bash dash sed grep gawk tar gzip findutils
diffutils base-files libboost-all-dev qtbase5-dev""".split()
SOURCES = {"zlib": "zlib", "libpng1.6": "libpng", "lua5.4": "lua"}


def host_archive():
    """The archive that this machine's apt uses for Debian 12 itself."""
    out = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)",
                          "Created-By: Packages"], capture_output=True, text=True).stdout
    for line in out.splitlines():
        uri, release, component = line.split()[:3]
        if release == "bookworm" and component == "main" and "security" not in uri:
            return uri
    return "http://deb.debian.org/debian"


class Apt:
    """An apt of its own: it believes that nothing is installed, so that closures are whole."""

    def __init__(self, folder, release="bookworm"):
        self.folder = folder
        for part in ("lists/partial", "cache/archives/partial", "sources"):
            os.makedirs(f"{folder}/{part}", exist_ok=True)
        open(f"{folder}/status", "w").close()
        archive = host_archive()
        keyring = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
        with open(f"{folder}/sources.list", "w") as sources:
            for kind in ("deb", "deb-src"):
                sources.write(f"{kind} {keyring} {archive} {release} main\n")
        with open(f"{folder}/apt.conf", "w") as config:
            config.write(f'Dir::Etc::sourcelist "{folder}/sources.list";\n'
                         'Dir::Etc::sourceparts "-";\n'
                         f'Dir::State::lists "{folder}/lists";\n'
                         f'Dir::State::status "{folder}/status";\n'
                         f'Dir::Cache "{folder}/cache";\n'
                         'APT::Install-Recommends "false";\nAcquire::Languages "none";\n'
                         'APT::Sandbox::User "root";\n'
                         # A mirror may lag behind; what it has is signed all the same.
                         'Acquire::Check-Valid-Until "false";\n')

    def get(self, *arguments, cwd=None):
        done = subprocess.run(["apt-get", "-q", *arguments], cwd=cwd, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, "APT_CONFIG": f"{self.folder}/apt.conf"})
        if done.returncode:
            raise SystemExit(f"apt-get {' '.join(arguments)} failed:\n{done.stdout[-2000:]}")

    def packages(self):
        """Package name → path of its .deb, for all that is wanted and what it depends on."""
        self.get("update")
        self.get("install", "--download-only", "-y", *WANTED)
        return {os.path.basename(path).split("_")[0]: path
                for path in sorted(glob.glob(f"{self.folder}/cache/archives/*.deb"))}

    def sources(self):
        """Short name → folder with the upstream sources, without Debian's patches."""
        folder = f"{self.folder}/sources"
        self.get("source", "--download-only", *SOURCES, cwd=folder)
        found = {}
        for package, name in SOURCES.items():
            target = f"{folder}/{name}"
            if not os.path.isdir(target):
                dsc = glob.glob(f"{folder}/{package}_*.dsc")[0]
                subprocess.run(["dpkg-source", "--no-check", "--skip-patches", "-x", dsc, target],
                               check=True, capture_output=True)
            found[name] = target
        return found
