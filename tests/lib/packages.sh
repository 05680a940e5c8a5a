# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by ./check and ./demo: installs the Debian packages that are missing.

build_packages="build-essential meson ninja-build pkg-config protobuf-compiler protobuf-c-compiler
libprotobuf-dev libprotobuf-c-dev libgrpc-dev libxxhash-dev liburing-dev libseccomp-dev libssl-dev
liblmdb-dev libzstd-dev libcurl4-openssl-dev libfuse3-dev fuse3 libarchive-dev libjansson-dev libcmocka-dev
ca-certificates"

test_packages="clang libclang-rt-14-dev python3 python3-grpcio python3-protobuf python3-yaml iproute2
btrfs-progs busybox-static curl git openssl procps rsync util-linux nginx-light xfsprogs ccache"

# Clients that Debian has, and what their jobs find in their root.
client_packages="bazel-bootstrap bazel-bootstrap-data bazel-platforms bazel-rules-java bubblewrap g++ make
python3-venv zip"
# Not where another package than Debian's brings it.
command -v npm >/dev/null || client_packages+=" npm"

demo_packages="dpkg-dev python3"

# install_missing PACKAGE...: quiet when nothing is missing; root is needed otherwise.
install_missing() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "These packages are missing; install them as root: apt-get install ${missing[*]}" >&2
        return 1
    fi
    echo "Installing: ${missing[*]}"
    local log
    log=$(mktemp)
    # In run level 1, by what they are told, packages start no services.
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "apt-get could not install them (whole log: $log)" >&2
        return 1
    fi
    rm -f "$log"
}
