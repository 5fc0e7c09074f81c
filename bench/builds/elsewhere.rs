//! A BuildKit behind mutual TLS, a Depot whose machine it is, and a registry with
//! a password: the servers of the tests, for `./dev bench builds`. Prints the
//! settings of each, a line of JSON, and serves until its input ends.

use std::{fs, io::Read, os::unix::fs::PermissionsExt, path::Path};

use launchway::builder::Address;
use serde_json::json;

#[path = "../../tests/support/mod.rs"]
mod servers;

use servers::{
    depot::{FakeDepot, TOKEN},
    engine::current_engine,
    forwarder::Forwarder,
    registry::{PASSWORD, TestRegistry, USER},
};

#[tokio::main]
async fn main() {
    let forwarder = Forwarder::start(current_engine()).await;
    let depot = FakeDepot::start(&forwarder, true).await;
    let registry = TestRegistry::start();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| private(files.path(), name, content);
    let registry = [
        format!("registry.host={}", registry.host),
        format!("registry.username={USER}"),
        format!("registry.password_file={}", file("password", PASSWORD.as_bytes())),
    ];
    let Address::Tcp { host, port, tls: Some(tls) } = forwarder.client() else {
        panic!("it has no TLS")
    };
    let buildkit = [
        "builder.backend=buildkit".to_owned(),
        format!("buildkit.address=tcp://{host}:{port}"),
        format!("buildkit.server_name={}", tls.server_name),
        format!("buildkit.ca_file={}", file("ca", &tls.ca)),
        format!("buildkit.cert_file={}", file("cert", &tls.cert)),
        format!("buildkit.key_file={}", file("key", &tls.key)),
        "registry.repository=bench".to_owned(),
    ];
    let depot = [
        "builder.backend=depot".to_owned(),
        format!("depot.api_url={}", depot.url),
        format!("depot.token_file={}", file("token", TOKEN.as_bytes())),
    ];
    let with = |own: &[String]| [own, &registry].concat();
    println!("{}", json!({ "buildkit": with(&buildkit), "depot": with(&depot) }));
    let waiting = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = waiting.await;
}

fn private(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}
