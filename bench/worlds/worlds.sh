#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# worlds.sh here ESCAPE PROBE UNIT…: on this machine. worlds.sh machine: as the first process of a virtual
# machine, all that its kernel's "cgroups=VERSION" allows. For every shell, busybox's too.
set -u

# world NAME COMMAND…: COMMAND brings a program into the world.
world() {
    name=$1
    shift
    echo "== $name"
    "$@" "$folder/escape" "$folder/escape-probe" 2>&1
    echo "== $name: escape $?"
    for unit in sandbox capture; do
        "$@" "$folder/sandbox-test_$unit" >/tmp/unit.$$ 2>&1
        status=$?
        grep -v '^\[ *\(RUN\|OK\)' /tmp/unit.$$
        rm -f /tmp/unit.$$
        echo "== $name: unit $status"
    done
}
user() { "$setpriv" --reuid 65533 --regid 65533 --clear-groups "$@"; }
without_cgroups() { unshare -m sh -c 'mount -t tmpfs -o mode=555 none /sys/fs/cgroup && exec "$@"' sh "$@"; }
# A group of its own, handed over to USER with all that is in it, as systemd does with Delegate=yes.
delegated() {
    owner=$1
    shift
    mkdir /sys/fs/cgroup/handed
    chown "$owner" /sys/fs/cgroup/handed /sys/fs/cgroup/handed/cgroup.procs \
        /sys/fs/cgroup/handed/cgroup.subtree_control /sys/fs/cgroup/handed/cgroup.threads
    sh -c 'echo $$ >/sys/fs/cgroup/handed/cgroup.procs; 
        exec /croft/setpriv --reuid "$0" --regid "$0" --clear-groups "$@"' "$owner" "$@"
    status=$?
    rmdir /sys/fs/cgroup/handed || { echo "FAILED     a cgroup is left"; find /sys/fs/cgroup/handed -type d; }
    return $status
}
hand_to_root() { delegated 0 "$@"; }
hand_to_user() { delegated 65533 "$@"; }

if [ "$1" = here ]; then
    shift
    setpriv=setpriv
    folder=$(mktemp -d /tmp/croft-world-XXXXXX)
    trap 'rm -rf "$folder"' EXIT
    chmod 755 "$folder"
    cp "$@" "$folder/"
    echo "== kernel $(uname -r)"
    world "root, as this machine is" env
    world "root, no cgroups" without_cgroups
    world "user, as this machine is" user
    exit 0
fi

folder=/croft
setpriv=/croft/setpriv # not busybox's, which cannot become another
export PATH=/bin HOME=/ CMOCKA_MESSAGE_OUTPUT=STDOUT
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mkdir -p /dev/mqueue && mount -t mqueue none /dev/mqueue
chmod 666 /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty
ip link set lo up
echo "== kernel $(uname -r)"
if grep -q cgroups=2 /proc/cmdline; then
    mount -t cgroup2 none /sys/fs/cgroup
    echo "+memory +pids +cpu +io" >/sys/fs/cgroup/cgroup.subtree_control
    world "root, version 2, delegated" hand_to_root
    world "user, version 2, delegated" hand_to_user
    world "root, version 2" env
    world "user, version 2, not delegated" user
else
    mount -t tmpfs none /sys/fs/cgroup
    for controller in memory pids cpu cpuacct blkio; do
        mkdir /sys/fs/cgroup/$controller
        mount -t cgroup -o $controller none /sys/fs/cgroup/$controller
    done
    world "root, version 1" env
    world "root, no cgroups" without_cgroups
fi
poweroff -f
