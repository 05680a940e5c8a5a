#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two releases of a large package (pyspark 3.5.1 and 3.5.2 from PyPI, some 340 MB each) as one archive each: how
much of the second travels, and how much the store grows by it. Archives are plain tar, since nothing is found
again in compressed bytes."""
import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [f"{HERE}/../../tests/lib"]
from farm import Farm

INDEX = "https://pypi.org/simple/pyspark/"
RELEASES = ("3.5.1", "3.5.2")
GOAL = 0.60


def download(folder, release):
    path = f"{folder}/pyspark-{release}.tar"
    if not os.path.exists(path):
        page = urllib.request.urlopen(INDEX, timeout=60).read().decode()
        url = re.search(rf'href="([^"#]*/pyspark-{re.escape(release)}\.tar\.gz)', page).group(1)
        with urllib.request.urlopen(url, timeout=600) as packed, open(path + ".part", "wb") as out:
            shutil.copyfileobj(gzip.GzipFile(fileobj=packed), out, 1 << 20)
        os.rename(path + ".part", path)
    return path


def stored(farm):
    """Bytes of the store's files."""
    return sum(os.stat(os.path.join(folder, name)).st_blocks * 512
               for folder, _, names in os.walk(f"{farm.folder}/serve/store") for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--croft", required=True)
    parser.add_argument("--cache", default=os.path.expanduser("~/.cache/croft-bench"),
                        help="where downloads are kept")
    arguments = parser.parse_args()
    os.makedirs(arguments.cache, exist_ok=True)
    archives = [download(arguments.cache, release) for release in RELEASES]
    folder = tempfile.mkdtemp(prefix="croft-versions-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    farm = Farm(arguments.croft, f"{folder}/farm")
    farm.serve()
    try:
        sent, grown, before = [], [], stored(farm)
        for archive in archives:
            shutil.rmtree(f"{folder}/tree", ignore_errors=True)
            os.makedirs(f"{folder}/tree")
            os.link(archive, f"{folder}/tree/archive") if os.stat(archive).st_dev == os.stat(folder).st_dev \
                else shutil.copy(archive, f"{folder}/tree/archive")
            done = json.loads(farm.run("import", "--json", f"{folder}/tree", timeout=600).stdout)
            sent.append(done[0]["sent_bytes"])
            after = stored(farm)
            grown.append(after - before)
            before = after
        size = os.path.getsize(archives[1])
        print(f"  {size / 1e6:.0f} MB; first version: {sent[0] / 1e6:.0f} MB sent, store grew by {grown[0] / 1e6:.0f} MB; "
              f"second: {sent[1] / 1e6:.0f} MB sent, {grown[1] / 1e6:.0f} MB more")
        for name, value in (("sent", sent[1] / size), ("stored", grown[1] / size)):
            print(f"BAR store-second-version-{name} {value:.3f} <={GOAL} {'ok' if value <= GOAL else 'short'}")
    finally:
        farm.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
