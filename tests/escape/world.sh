#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# world.sh WORLD PROGRAM ARGUMENT…: runs a test of sandboxes in another world than this machine's: as an
# ordinary user, without cgroups. Needs root to go there.
set -euo pipefail
world=$1
shift
folder=$(mktemp -d /tmp/croft-world-XXXXXX)
trap 'rm -rf "$folder"' EXIT
if [ "$(id -u)" -ne 0 ]; then
    echo "skipped: only root can become an ordinary user or take cgroups away" >&2
    exit 77
fi
# The build folder may be closed to others.
chmod 755 "$folder"
here=()
for file in "$@"; do
    cp "$file" "$folder/"
    here+=("$folder/${file##*/}")
done
case $world in
ordinary-user) setpriv --reuid 65533 --regid 65533 --clear-groups "${here[@]}" ;;
without-cgroups)
    unshare --mount sh -c 'mount -t tmpfs -o mode=555 none /sys/fs/cgroup && exec "$@"' sh "${here[@]}" ;;
*)
    echo "world.sh: there is no world $world" >&2
    exit 2
    ;;
esac
