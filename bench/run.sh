#!/usr/bin/env bash
# Benchmarks on this machine; they print the tables of docs/benchmarks.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
    deploy | memory) cargo build --release --locked >&2 ;;
    builds) tools/dev/engine.sh >&2
        cargo build --release --locked --bin launchway --example elsewhere >&2 ;;
    gateway) cargo build --release --locked --bin launchway --example route-feed >&2 ;;
    # The product's own binary stays as it is: these two have failpoints.
    orchestration) cargo build --release --locked --features failpoints \
        --bin launchway-instant --bin launchway-orchestration >&2 ;;
    *) echo "usage: ./dev bench builds|deploy|gateway|memory|orchestration" >&2; exit 2 ;;
esac
exec python3 "bench/$1.py" "${@:2}"
