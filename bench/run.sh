#!/usr/bin/env bash
# Benchmarks on this machine; they print the tables of docs/benchmarks.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
    deploy | memory) ;;
    *) echo "usage: ./dev bench deploy|memory" >&2; exit 2 ;;
esac
cargo build --release --locked >&2
exec python3 "bench/$1.py" "${@:2}"
