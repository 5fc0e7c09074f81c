# What a machine needs, and how it gets it. Sourced by `./dev`.

BUILD_PACKAGES=(gcc libc6-dev pkg-config)
RUN_PACKAGES=(ca-certificates curl iptables busybox-static git)
TEST_PACKAGES=(postgresql tcc musl-dev iproute2 runc)
BENCH_PACKAGES=(python3)
GATEWAY_BENCH_PACKAGES=(nginx-light wrk)
CARGO_DENY=0.20.2
CARGO_NEXTEST=0.9.143

say() { printf '\n== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 2; }

# Says what is being done and how long it took.
step() {
    local what=$1 begun=$SECONDS
    shift
    say "$what"
    "$@"
    printf '   (%s: %d s)\n' "$what" "$((SECONDS - begun))" >&2
}

installed() { [[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]; }

# Installs the packages that are missing.
need_packages() {
    local missing=() package
    if ! command -v dpkg-query >/dev/null; then
        for package in cc curl git iptables; do
            command -v "$package" >/dev/null || missing+=("$package")
        done
        ((${#missing[@]} == 0)) || die "this is not Debian: install ${missing[*]} yourself (Debian's names: $*)"
        return
    fi
    for package in "$@"; do
        # Any git, curl, python3 or runc will do, from wherever it came.
        case $package in
            git | curl | python3 | runc) command -v "$package" >/dev/null && continue ;;
        esac
        installed "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    [[ $(id -u) == 0 ]] || die "install these as root first: apt-get install ${missing[*]}"
    step "installing ${missing[*]}" apt_install "${missing[@]}"
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    local log
    log=$(mktemp)
    if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        die "apt-get could not install $*"
    fi
    rm -f "$log"
}

# restate-server and the Restate CLI, pinned by tools/package-lock.json.
need_node_tools() {
    command -v npm >/dev/null || die "npm is missing: install Node.js 20 or newer with npm"
    local stamp=tools/node_modules/.launchway-lock
    cmp -s tools/package-lock.json "$stamp" && return
    step "installing restate-server and tools (npm)" npm ci --prefix tools --silent --no-fund --no-audit
    cp tools/package-lock.json "$stamp"
}

need_cargo_tools() {
    command -v cargo >/dev/null || die "cargo is missing: install a Rust toolchain (https://rustup.rs)"
    if ! cargo nextest --version >/dev/null 2>&1; then
        step "installing cargo-nextest $CARGO_NEXTEST (some minutes)" \
            cargo install --quiet --locked --root .dev/tools "cargo-nextest@$CARGO_NEXTEST"
    fi
    if [[ "$(.dev/tools/bin/cargo-deny --version 2>/dev/null)" != "cargo-deny $CARGO_DENY" ]]; then
        step "installing cargo-deny $CARGO_DENY (some minutes)" \
            cargo install --quiet --locked --root .dev/tools --no-default-features "cargo-deny@$CARGO_DENY"
    fi
    export PATH="$PWD/.dev/tools/bin:$PATH"
}

cargo_deny() { .dev/tools/bin/cargo-deny "$@"; }

markdownlint() {
    git ls-files -z --cached --others --exclude-standard '*.md' |
        xargs -0 tools/node_modules/.bin/markdownlint-cli2 --config .markdownlint.yaml >/dev/null
}

docker_answers() { curl -sf --max-time 5 --unix-socket "${1:-/var/run/docker.sock}" http://docker/_ping >/dev/null; }

# A Docker engine: the one that runs, else one that is started here.
need_docker() {
    if [[ -n "${DOCKER_HOST:-}" ]]; then
        say "using the Docker engine at $DOCKER_HOST"
        return
    fi
    docker_answers && return
    [[ $(id -u) == 0 ]] || die "no Docker engine answers: start it, or set DOCKER_HOST"
    if ! command -v dockerd >/dev/null; then
        command -v apt-get >/dev/null || die "no Docker engine: install Docker 20.10 or newer"
        step "installing the Docker engine" apt_install docker.io
    fi
    if [[ -d /run/systemd/system ]]; then
        step "starting the Docker engine (systemd)" systemctl start docker
    else
        step "starting the Docker engine" docker_start
    fi
    docker_answers || die "the Docker engine does not answer; its log: .dev/dockerd.log"
}

# Without systemd: detached, with a log.
docker_start() {
    mkdir -p .dev
    setsid nohup dockerd >>.dev/dockerd.log 2>&1 </dev/null &
    echo "$!" >.dev/dockerd.pid
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        docker_answers && break
        kill -0 "$(cat .dev/dockerd.pid)" 2>/dev/null || { tail -n 20 .dev/dockerd.log >&2; die "dockerd has ended"; }
        sleep 0.1
    done
    printf '   log: .dev/dockerd.log; stop it with ./dev docker-stop\n' >&2
}

docker_stop() {
    [[ ! -d .dev/engine ]] || tools/dev/engine.sh stop
    [[ -f .dev/dockerd.pid ]] || die "./dev has not started a Docker engine"
    local pid
    pid=$(cat .dev/dockerd.pid)
    if [[ "$(cat "/proc/$pid/comm" 2>/dev/null)" == dockerd ]]; then
        kill "$pid"
        say "stopping dockerd ($pid)"
    fi
    rm -f .dev/dockerd.pid
}

# No image registry is needed: the examples bring static programs along.
example_files() {
    local example busybox
    busybox=$(command -v busybox) || die "busybox-static is missing"
    for example in hello static-site nested/app; do
        cmp -s "$busybox" "examples/$example/busybox" || cp "$busybox" "examples/$example/busybox"
    done
    # A C compiler for examples/two-stage, where it is installed.
    if command -v tcc >/dev/null && [[ -d /usr/lib/x86_64-linux-musl ]]; then
        example_toolchain examples/two-stage/toolchain
    fi
}

example_toolchain() {
    local to=$1 library
    [[ ! -f "$to/complete" ]] || return 0
    rm -rf "$to"
    mkdir -p "$to"/{usr/bin,usr/lib/x86_64-linux-gnu,musl}
    cp "$(command -v tcc)" "$to/usr/bin/"
    cp -R /usr/lib/x86_64-linux-gnu/tcc "$to/usr/lib/x86_64-linux-gnu/"
    cp -RL /usr/lib/x86_64-linux-musl "$to/musl/lib"
    cp -RL /usr/include/x86_64-linux-musl "$to/musl/include"
    rm -f "$to"/musl/lib/*.so
    # The compiler itself is not static.
    ldd "$(command -v tcc)" | grep -o '/lib[^ ]*' | while read -r library; do
        mkdir -p "$to$(dirname "$library")"
        cp -L "$library" "$to$library"
    done
    touch "$to/complete"
}
