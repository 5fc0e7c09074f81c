# `./dev demo`. Sourced by `./dev`.

demo() {
    setup
    command -v cargo >/dev/null || die "cargo is missing: install a Rust toolchain (https://rustup.rs)"
    step "building the release binary" cargo build --release --locked
    local launchway=target/release/launchway url id
    step "launchway up --detach" "$launchway" up --detach
    say "launchway deploy examples/hello"
    url=$("$launchway" deploy examples/hello)
    say "GET $url"
    # Dialled by address: not every resolver knows *.localhost.
    local host=${url#http://}
    host=${host%%/*}
    curl -sS --fail --max-time 10 -H "Host: $host" "http://127.0.0.1:${host##*:}/"
    id=$("$launchway" list --project hello --limit 1 | awk 'NR == 2 { print $1 }')
    say "launchway inspect $id"
    "$launchway" inspect "$id"
    say "launchway journal $id"
    "$launchway" journal "$id"
    cat <<TEXT

The deployment answers at $url
  all deployments    $launchway list
  build output       $launchway logs $id --build
  is all well?       $launchway doctor
  Restate's own UI   http://127.0.0.1:9070
Deploy it again after a change with: $launchway deploy examples/hello
Stop with: $launchway down          (containers go on running)
       or: $launchway down --all    (they are removed too)
TEXT
    [[ ! -f .dev/dockerd.pid ]] || echo "The Docker engine was started here; stop it with: ./dev docker-stop"
}
