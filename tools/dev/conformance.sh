# `./dev conformance`. Sourced by `./dev`.

# Environments' namespaces are never krane's to remove.
ended() {
    local pid=$1 dir=$2 kubeconfig=$3 owner
    owner=$(cat "$dir/secrets/installation" 2>/dev/null) || true
    kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
    rm -rf "$dir"
    [[ -z "$owner" ]] ||
        say "namespaces stay: kubectl --kubeconfig $kubeconfig delete namespaces -l launchway.dev/installation=$owner"
}

# The suite of tests/conformance against a krane of its own on somebody's cluster.
conformance() {
    local kubeconfig="" image="" probes=kubelet context="" port=17070 dir pid
    while [[ $# -gt 0 ]]; do
        case "$1" in
            --kubeconfig) kubeconfig=$(realpath "${2:?--kubeconfig needs a file}"); shift 2 ;;
            --context) context=${2:?--context needs a name}; shift 2 ;;
            --image) image=${2:?--image needs a reference}; shift 2 ;;
            --probes) probes=${2:?--probes needs krane or kubelet}; shift 2 ;;
            --port) port=${2:?--port needs a number}; shift 2 ;;
            *) die "conformance: \`$1\` is unknown; give --kubeconfig FILE --image REFERENCE [--context NAME] [--probes krane|kubelet] [--port N]" ;;
        esac
    done
    [[ -n "$kubeconfig" && -n "$image" ]] ||
        die "conformance: give --kubeconfig FILE --image REFERENCE (tests/conformance/image.rs is the image)"
    step "compiling" cargo nextest run --workspace --all-features --locked --test conformance --no-run
    dir=$(mktemp -d)
    local settings=(--set runtime.backend=kubernetes --set "kubernetes.kubeconfig=$kubeconfig"
        --set "kubernetes.context=$context" --set "kubernetes.probes=$probes"
        --set kubernetes.pod_security=baseline --set kubernetes.namespace_prefix=launchway-conformance-
        --set "registry.host=${image%%/*}" --set "krane.bind=127.0.0.1:$port")
    target/debug/launchway serve --role krane --data-dir "$dir" "${settings[@]}" > "$dir/krane.log" 2>&1 &
    pid=$!
    # shellcheck disable=SC2064
    trap "ended $pid '$dir' '$kubeconfig'" EXIT
    local tries=0
    until (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        kill -0 "$pid" 2>/dev/null || die "krane has ended: $(tail -n 3 "$dir/krane.log")"
        tries=$((tries + 1))
        [[ $tries -lt 200 ]] || die "krane does not listen on port $port"
        sleep 0.1
    done
    say "the suite on $kubeconfig (krane's log: $dir/krane.log)"
    LAUNCHWAY_CONFORMANCE_KRANE=http://127.0.0.1:$port LAUNCHWAY_CONFORMANCE_IMAGE=$image \
        LAUNCHWAY_CONFORMANCE_RUNTIME=kubernetes LAUNCHWAY_CONFORMANCE_PROBES=$probes \
        cargo nextest run --workspace --all-features --locked --test conformance --no-fail-fast \
        --run-ignored only -E 'test(external)'
}
