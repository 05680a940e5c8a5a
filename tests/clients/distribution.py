#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A BuildStream project of real sources, those of Debian 12.

    distribution.py fetch FOLDER            the root that all is built in, and the sources
    distribution.py project FETCHED FOLDER  a project of them, in a new folder"""
import glob
import hashlib
import os
import sys

import sid

# What builds: a compiler and what configure scripts want.
TOOLS = """gcc g++ libc6-dev make cmake ninja-build pkg-config bash dash coreutils sed grep findutils diffutils mawk gzip
bzip2 xz-utils tar base-files""".split()

# Debian source package: kind of element, what else it is built with, variables.
AUTOTOOLS = {"attr": [], "dash": [], "gdbm": [], "gzip": [], "hello": [], "libev": [],
             "libffi": [], "libogg": [], "libvorbis": ["libogg"], "m4": [], "patch": [], "popt": [],
             "zlib": []}
CMAKE = {"brotli": [], "c-ares": [], "check": [], "cjson": [], "double-conversion": [], "fmtlib": [],
         "googletest": [], "jansson": [], "json-c": [], "libpng1.6": ["zlib"], "libuv1": [], "libyaml": [],
         "tinyxml2": []}
MAKE = {"bzip2": "%{install-root}%{prefix}", "libdeflate": "%{prefix}", "lz4": "%{prefix}"}  # and its PREFIX
CMAKE_OPTIONS = {"fmtlib": "-DFMT_TEST=OFF", "cjson": "-DENABLE_CJSON_TEST=OFF", "check": "-DBUILD_TESTING=OFF",
                 "json-c": "-DBUILD_TESTING=OFF -DBUILD_APPS=OFF", "libuv1": "-DBUILD_TESTING=OFF",
                 "jansson": "-DJANSSON_BUILD_DOCS=OFF -DJANSSON_WITHOUT_TESTS=ON",
                 "libpng1.6": "-DPNG_TESTS=OFF", "tinyxml2": "-DBUILD_TESTING=OFF"}
# Not every archive has what its maintainers run: documentation, tests in other languages.
AUTOTOOLS_OPTIONS = {"libvorbis": "conf-local: --disable-docs --disable-examples",
                     "libffi": "conf-local: --disable-docs",
                     # By hand, and strict about what it knows.
                     "zlib": 'conf-args: --prefix=%{prefix}'}


def fetch(folder):
    sid.root(f"{folder}/root", "bookworm", TOOLS)
    # What maintainer scripts would have made.
    for name, target in (("awk", "mawk"), ("cc", "gcc"), ("c++", "g++")):
        os.symlink(target, f"{folder}/root/usr/bin/{name}")
    os.makedirs(f"{folder}/sources")
    apt = sid.Apt(f"{folder}/apt", "bookworm")
    apt.get("update")
    apt.get("source", "--download-only", *AUTOTOOLS, *CMAKE, *MAKE, cwd=f"{folder}/sources")


def archive(fetched, package):
    path, = (p for p in glob.glob(f"{fetched}/sources/{package}_*.orig.tar.*") if not p.endswith(".asc"))
    with open(path, "rb") as file:
        return os.path.basename(path), hashlib.sha256(file.read()).hexdigest()


def element(fetched, folder, kind, package, depends, more=""):
    name, ref = archive(fetched, package)
    text = f"kind: {kind}\nbuild-depends:\n- base.bst\n"
    text += "".join(f"- {other}.bst\n" for other in depends)
    text += f"sources:\n- kind: tar\n  url: debian:{name}\n  ref: {ref}\n"
    with open(f"{folder}/elements/{package}.bst", "w") as file:
        file.write(text + more)


def project(fetched, folder):
    os.makedirs(f"{folder}/elements")
    with open(f"{folder}/project.conf", "w") as file:
        file.write(f"""name: distribution
min-version: 2.0
element-path: elements
aliases:
  debian: file://{fetched}/sources/
plugins:
- origin: pip
  package-name: buildstream-plugins
  elements: [autotools, cmake, make]
""")
    with open(f"{folder}/elements/base.bst", "w") as file:
        file.write("kind: import\nsources:\n- kind: local\n  path: root\n")
    for package, depends in AUTOTOOLS.items():
        element(fetched, folder, "autotools", package, depends,
                f'variables:\n  {AUTOTOOLS_OPTIONS.get(package, "conf-local: ")}\n')
    for package, depends in CMAKE.items():
        element(fetched, folder, "cmake", package, depends,
                f'variables:\n  cmake-local: {CMAKE_OPTIONS.get(package, "")} -DBUILD_SHARED_LIBS=ON\n')
    for package, prefix in MAKE.items():
        element(fetched, folder, "make", package, [],
                f'variables:\n  make-args: PREFIX={prefix} CFLAGS="-O2 -fPIC"\n')
    packages = sorted([*AUTOTOOLS, *CMAKE, *MAKE])
    with open(f"{folder}/elements/all.bst", "w") as file:
        file.write("kind: stack\ndepends:\n- image.bst\n- report.bst\n")
    with open(f"{folder}/elements/image.bst", "w") as file:
        file.write("kind: compose\nbuild-depends:\n" + "".join(f"- {name}.bst\n" for name in packages))
    with open(f"{folder}/elements/report.bst", "w") as file:
        file.write("""kind: script
build-depends:
- base.bst
- hello.bst
- lz4.bst
variables:
  cwd: /
config:
  commands:
  - mkdir -p "%{install-root}/usr/share"
  - hello >"%{install-root}/usr/share/report"
  - hello | lz4 -c | lz4 -dc >>"%{install-root}/usr/share/report"
""")


if __name__ == "__main__":
    {"fetch": fetch, "project": project}[sys.argv[1]](*sys.argv[2:])
