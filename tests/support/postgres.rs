//! A Postgres server that lives as long as a test.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A server of its own, on a socket in a directory of its own.
pub struct Postgres {
    server: Child,
    dir: tempfile::TempDir,
}

impl Postgres {
    /// Returns when it answers.
    pub fn start() -> Self {
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
            .args(["-F", "-c", "listen_addresses=", "-c", "max_connections=100", "-k"])
            .arg(dir.path())
            .arg("-D")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_ready(&bin, dir.path());
        Self { server, dir }
    }

    /// As in `database.url`.
    pub fn url(&self) -> String {
        let socket = self.dir.path().display().to_string().replace('/', "%2F");
        format!("postgres://launchway@{socket}/postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
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
