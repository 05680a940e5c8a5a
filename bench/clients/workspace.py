# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Bazel workspace of as many C++ targets as wanted, each of which includes some of boost's headers."""
import glob
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../demo")
from debian import Apt

PER_PACKAGE = 10  # seven libraries, each on the one before it, two binaries and a test
JOBS_PER_TARGET = 2  # an object, and an archive or a program of it
# What the sources include, in turn: a third of a second to a second of compiler each.
HEADERS = ["boost/lexical_cast.hpp", "boost/optional.hpp", "boost/algorithm/string/trim.hpp",
           "boost/container/flat_map.hpp", "boost/variant.hpp", "boost/range/algorithm.hpp"]


def boost(folder):
    """The headers of Debian's boost, downloaded once."""
    if not os.path.isdir(folder):
        part = folder + ".part"
        shutil.rmtree(part, ignore_errors=True)
        apt = Apt(f"{part}/apt")
        apt.get("update")
        apt.get("download", "libboost1.74-dev", cwd=part)
        subprocess.run(["dpkg-deb", "-x", *glob.glob(f"{part}/*.deb"), f"{part}/root"], check=True)
        os.makedirs(f"{part}/boost-headers")
        os.rename(f"{part}/root/usr/include/boost", f"{part}/boost-headers/boost")
        os.rename(f"{part}/boost-headers", folder)
        shutil.rmtree(part)
    return folder


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def source(package, index, body):
    header = HEADERS[(package + index) % len(HEADERS)]
    return (f"#include <{header}>\n#include <string>\n#include <vector>\n" +
            (f'#include "p{package}/lib{index - 1}.h"\n' if index else "") + body)


def rule(kind, name, index, more=""):
    deps = '"//third_party:boost"' + (f', ":lib{index - 1}"' if index else "")
    return f'{kind}(name = "{name}", srcs = ["{name}.cc"], {more}deps = [{deps}])\n'


def package(folder, number):
    build = 'load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library", "cc_test")\n'
    for index in range(PER_PACKAGE):
        function = f"int p{number}_{index}(int x)"
        before = f"p{number}_{index - 1}(x)" if index else "x"
        if index < 7:
            name = f"lib{index}"
            build += rule("cc_library", name, index, f'hdrs = ["{name}.h"], linkstatic = True, ')
            write(f"{folder}/p{number}/{name}.h", f"#pragma once\n{function};\n")
            body = f"{function} {{ return {before} + {index}; }}\n"
        else:
            name = f"test{index}" if index == 9 else f"program{index}"
            # All three stand on the last library.
            build += rule("cc_test" if index == 9 else "cc_binary", name, 7)
            body = f"int main() {{ return p{number}_6(0) == 21 ? 0 : 1; }}\n"
        text = source(number, index, body)
        if index > 7:
            text = text.replace(f"lib{index - 1}.h", "lib6.h")
        write(f"{folder}/p{number}/{name}.cc", text)
    write(f"{folder}/p{number}/BUILD", build)


def make(folder, headers, settings, targets):
    os.makedirs(f"{folder}/third_party")
    subprocess.run(["cp", "-al", f"{headers}/boost", f"{folder}/third_party/boost"], check=True)
    write(f"{folder}/third_party/BUILD",
          'cc_library(name = "boost", hdrs = glob(["boost/**"]), includes = ["."],\n'
          '           visibility = ["//visibility:public"])\n')
    write(f"{folder}/WORKSPACE", 'workspace(name = "many")\n')
    write(f"{folder}/.bazelrc",
          "".join(f"common {line}\n" for line in settings) +
          "build --noshow_progress --color=no --force_pic --build_tests_only=false\n")
    for number in range(targets // PER_PACKAGE):
        package(folder, number)
