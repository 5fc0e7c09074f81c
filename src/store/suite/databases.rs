//! Databases that live as long as a test.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use launchway_workflows::ids::WorkspaceId;

use crate::store::Store;

/// A fresh database; gone when dropped.
pub(super) struct Database {
    store: Store,
    _server: Option<Server>,
    _dir: tempfile::TempDir,
}

impl Database {
    pub(super) fn store(&self) -> &Store {
        &self.store
    }
}

/// A process that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn open(url: &str) -> Store {
    let store = Store::open(url).await.unwrap();
    store.ensure_workspace(&WorkspaceId::local()).await.unwrap();
    store
}

pub(super) async fn sqlite() -> Database {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/launchway.db", dir.path().display());
    Database { store: open(&url).await, _server: None, _dir: dir }
}

/// A server of its own, on a socket in a directory of its own.
pub(super) async fn postgres() -> Database {
    let dir = tempfile::Builder::new().prefix("pg-").tempdir().unwrap();
    let bin = programs();
    let as_postgres = runs_as_root();
    if as_postgres {
        run(Command::new("chown").arg("postgres").arg(dir.path()));
    }
    let data = dir.path().join("data");
    run(program(&bin, "initdb", as_postgres)
        .args(["--no-sync", "--auth=trust", "--username=launchway", "--encoding=UTF8"])
        .args(["--no-instructions", "-D"])
        .arg(&data));
    let server = program(&bin, "postgres", as_postgres)
        .args(["-F", "-c", "listen_addresses=", "-c", "max_connections=40", "-k"])
        .arg(dir.path())
        .arg("-D")
        .arg(&data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Some(Server(server));
    wait_ready(&bin, dir.path());
    let socket = dir.path().display().to_string().replace('/', "%2F");
    let url = format!("postgres://launchway@{socket}/postgres");
    Database { store: open(&url).await, _server: server, _dir: dir }
}

fn wait_ready(bin: &Path, socket: &Path) {
    let begun = Instant::now();
    loop {
        let ready = Command::new(bin.join("pg_isready")).arg("-q").arg("-h").arg(socket).status();
        if ready.is_ok_and(|status| status.success()) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "Postgres does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("bin"))
        .find(|bin| bin.join("initdb").is_file())
        .expect("Postgres is missing: `./dev test` installs it")
}

/// Postgres refuses to run as root.
fn runs_as_root() -> bool {
    let own = Command::new("id").arg("-u").output().unwrap();
    own.stdout.trim_ascii() == b"0"
}

fn program(bin: &Path, name: &str, as_postgres: bool) -> Command {
    if !as_postgres {
        return Command::new(bin.join(name));
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL"])
        .arg(bin.join(name))
        .current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
