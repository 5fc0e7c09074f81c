#!/usr/bin/env bash
# A current Docker engine and a registry for the tests of builders, beside
# whatever the machine has: Debian sid's, unpacked into .dev/engine and not
# installed. The engine has data, sockets and a bridge of its own; a registry is
# started by each test that wants one.
#
#   tools/dev/engine.sh          starts it where it does not run; prints its socket
#   tools/dev/engine.sh stop     stops it and removes its data
#
# One engine serves every test process of this tree; a lock keeps several from
# starting it at once. Only `runc` is the machine's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

HOME_DIR=$PWD/.dev/engine
SOCKET=$HOME_DIR/docker.sock
FILES=$HOME_DIR/files
# Of this tree: a name of at most 15 characters, and a network of its own.
TREE=$(printf %s "$PWD" | cksum | cut -d' ' -f1)
BRIDGE=lw$TREE

say() { printf '   %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 2; }
answers() { curl -sf --max-time 5 --unix-socket "$SOCKET" http://docker/_ping >/dev/null 2>&1; }
is_running() { [[ "$(cat "/proc/$(cat "$HOME_DIR/$1.pid" 2>/dev/null)/comm" 2>/dev/null)" == "$1" ]]; }

# The packages come from the mirror that apt uses for Debian, verified as apt
# does; its own lists and sources are left alone.
unpack() {
    [[ ! -x $FILES/usr/bin/docker-registry ]] || return 0
    local apt mirror begun=$SECONDS
    mirror=$(apt-get indextargets --format '$(SITE) $(ORIGIN) $(SUITE)' 'Created-By: Packages' |
        awk '$2 == "Debian" && $3 !~ /security/ { print $1; exit }')
    [[ -n $mirror ]] || die "apt knows no mirror of Debian"
    apt=$(mktemp -d)
    mkdir -p "$apt/lists/partial" "$apt/debs"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$apt/sources.list"
    local options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$apt/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
        -o Acquire::Languages=none -o APT::Sandbox::User=root)
    (
        cd "$apt/debs"
        apt-get "${options[@]}" update
        apt-get "${options[@]}" download docker.io containerd docker-registry
    ) >"$HOME_DIR/apt.log" 2>&1 || die "Debian sid's packages cannot be fetched; see $HOME_DIR/apt.log"
    rm -rf "$FILES" "$FILES.new"
    mkdir -p "$FILES.new"
    local package
    for package in "$apt"/debs/*.deb; do
        dpkg -x "$package" "$FILES.new"
    done
    mv "$FILES.new" "$FILES"
    rm -rf "$apt"
    say "unpacked a current Docker engine ($((SECONDS - begun)) s)"
}

bridge() {
    ip link show "$BRIDGE" >/dev/null 2>&1 && return
    ip link add name "$BRIDGE" type bridge
    ip addr add "172.30.$((TREE % 256)).1/24" dev "$BRIDGE"
    ip link set "$BRIDGE" up
}

# Detached, its output in a log. Nothing of the lock is inherited.
detached() {
    local name=$1
    shift
    setsid nohup "$@" >>"$HOME_DIR/$name.log" 2>&1 </dev/null 9>&- &
    echo "$!" >"$HOME_DIR/$name.pid"
}

wait_for() {
    local name=$1 tries
    shift
    for ((tries = 0; tries < 300; tries++)); do
        "$@" && return
        # Not by its name: a moment ago it was still the shell that starts it.
        kill -0 "$(cat "$HOME_DIR/$name.pid")" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$HOME_DIR/$name.log" >&2
    die "$name of the tests' Docker engine does not start"
}

start() {
    mkdir -p "$HOME_DIR"
    exec 9>"$HOME_DIR/lock"
    flock 9
    answers && return
    [[ $(id -u) == 0 ]] || die "the tests of builders start a Docker engine: run them as root"
    command -v runc ip dpkg >/dev/null || die "runc, ip or dpkg is missing: run ./dev test once"
    stop_all
    unpack
    bridge
    export PATH=$FILES/usr/bin:$FILES/usr/sbin:$PATH
    # The whole output of a build, so that its bounds are seen to be ours.
    export BUILDKIT_STEP_LOG_MAX_SIZE=-1 BUILDKIT_STEP_LOG_MAX_SPEED=-1
    cat >"$HOME_DIR/containerd.toml" <<TOML
version = 3
root = "$HOME_DIR/data/containerd"
state = "$HOME_DIR/run/containerd"
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
    "io.containerd.podsandbox.controller.v1.podsandbox", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[grpc]
address = "$HOME_DIR/containerd.sock"
[ttrpc]
address = "$HOME_DIR/containerd.sock.ttrpc"
TOML
    echo '{ "features": { "containerd-snapshotter": true } }' >"$HOME_DIR/daemon.json"
    detached containerd containerd --config "$HOME_DIR/containerd.toml"
    wait_for containerd test -S "$HOME_DIR/containerd.sock"
    detached dockerd dockerd --config-file "$HOME_DIR/daemon.json" --containerd "$HOME_DIR/containerd.sock" \
        --host "unix://$SOCKET" --data-root "$HOME_DIR/data/docker" --exec-root "$HOME_DIR/run/docker" \
        --pidfile "$HOME_DIR/run/docker.pid" --bridge "$BRIDGE" \
        --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false
    wait_for dockerd answers
}

# A socket or pid file that was left over would be taken for a running one.
stop_all() {
    local name pid
    for name in dockerd containerd; do
        if is_running "$name"; then
            pid=$(cat "$HOME_DIR/$name.pid")
            kill "$pid"
            while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
        fi
        rm -f "$HOME_DIR/$name.pid"
    done
    rm -f "$SOCKET" "$HOME_DIR"/containerd.sock* "$HOME_DIR/run/docker.pid"
}

case "${1:-start}" in
    start) start; echo "$SOCKET" ;;
    stop)
        stop_all
        ip link delete "$BRIDGE" 2>/dev/null || true
        # Layers and caches of tests: nobody needs them again.
        rm -rf "$HOME_DIR/data" "$HOME_DIR/run" ;;
    *) die "usage: tools/dev/engine.sh [start|stop]" ;;
esac
