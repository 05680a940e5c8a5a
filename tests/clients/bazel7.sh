#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Bazel 7 (Debian sid, in a root of its own): what bazel-cases.sh does with it.
. "$(dirname "$0")/lib.sh"
wants dpkg-deb dpkg

install bazel-sid sh -c 'rmdir "$2" && "$1" "$2" bazel-bootstrap bazel-platforms bazel-rules-java bazel-skylib \
    libzstd-jni1 gcc g++ libc6-dev coreutils dash bash sed grep findutils diffutils tar gzip zip unzip python3 base-files' \
    sh "$here/sid.py"
toolchain=$client

# The workspace is known by the same path on both sides, so that Bazel's symlinks hold here, too.
box=$folder/box
cp -al "$client" "$box" 2>/dev/null || cp -a "$client" "$box"
# Where Debian's Bazel looks for what it compresses with; its package does not put it there.
ln -s "$(cd "$box" && echo usr/lib/*/libzstd-jni.so | sed s,^,/,)" "$box/usr/share/bazel/" ||
    { echo "libzstd-jni.so is not there" >&2; exit 1; }
mkdir -p "$folder/work" "$folder/bazel" "$box$folder/work" "$box$folder/bazel"
mount --bind /dev "$box/dev"
mount -t proc proc "$box/proc"
mount --bind "$folder/work" "$box$folder/work"
mount --bind "$folder/bazel" "$box$folder/bazel"
leave() {
    for place in "$folder/work" "$folder/bazel" /proc /dev; do umount -l "$box$place"; done
}
rules=/usr/share/bazel/rules
repositories="--noenable_bzlmod
--enable_workspace
--override_repository=rules_cc=$rules/cc
--override_repository=rules_java=$rules/java
--override_repository=rules_python=$rules/python
--override_repository=rules_proto=$rules/proto
--override_repository=rules_license=$rules/license
--override_repository=platforms=/usr/share/bazel/platforms/platforms
--override_repository=bazel_skylib=/usr/share/bazel/tools/skylib"
inside() {
    loopback chroot "$box" /usr/bin/env -i -C "$folder/work" PATH=/usr/bin HOME="$folder/bazel" USER=root \
        LC_ALL=C.UTF-8 JAVA_HOME=/usr/lib/jvm/default-java "$@"
}
run_bazel() { inside bazel "$@"; }
newer=true
. "$here/bazel-cases.sh"
