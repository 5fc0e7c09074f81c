//! An installation of its own for each test.

mod app;
mod web;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::servers::looks::pauses;

pub use app::App;
use web::exchange;
pub use web::{Answer, request};

/// Longest wait for anything that happens by itself.
pub const PATIENCE: Duration = Duration::from_secs(60);

const SETTINGS: [&str; 8] = [
    "control.bind",
    "krane.bind",
    "gateway.bind",
    "worker.bind",
    "restate.ingress_bind",
    "restate.admin_bind",
    "restate.node_bind",
    "storage.bind",
];

/// A running `launchway up`, gone with everything it made when dropped.
pub struct Installation {
    dir: tempfile::TempDir,
    ports: Vec<SocketAddr>,
    extra: Vec<String>,
    up: Option<Child>,
    /// Of `up` alone.
    env: Vec<(&'static str, String)>,
}

pub fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_launchway"))
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn example(name: &str) -> PathBuf {
    let dir = root().join("examples").join(name);
    assert!(dir.is_dir(), "{} is missing", dir.display());
    dir
}

/// Polls until `look` finds something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    for pause in pauses() {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(pause);
    }
    unreachable!("there is always another look")
}

fn free_ports(count: usize) -> Vec<SocketAddr> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

impl Installation {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(extra: &[&str]) -> Self {
        let mut this = Self::prepare(extra);
        this.up();
        this
    }

    /// Everything but the start.
    pub fn prepare(extra: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("launchway-test-").tempdir().unwrap();
        fs::create_dir(dir.path().join("failpoints")).unwrap();
        let extra = extra.iter().map(|text| (*text).to_owned()).collect();
        Self { dir, ports: free_ports(SETTINGS.len()), extra, up: None, env: Vec::new() }
    }

    pub fn address(&self, setting: &str) -> SocketAddr {
        let at = SETTINGS.iter().position(|known| *known == setting).unwrap();
        self.ports[at]
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--data-dir".to_owned(), self.data().display().to_string()];
        for (setting, address) in SETTINGS.iter().zip(&self.ports) {
            flags.extend(["--set".to_owned(), format!("{setting}={address}")]);
        }
        for extra in &self.extra {
            flags.extend(["--set".to_owned(), extra.clone()]);
        }
        flags
    }

    fn environment(&self, command: &mut Command) {
        command
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .env("LAUNCHWAY_FAILPOINTS", self.dir.path().join("failpoints"))
            .env_remove("LAUNCHWAY_URL")
            .env_remove("LAUNCHWAY_TOKEN")
            .env("NO_COLOR", "1");
    }

    /// `up` in the foreground of a child process, with more flags.
    pub fn up_command(&self, more: &[&str]) -> Command {
        let mut command = binary();
        command.arg("up").args(self.flags()).args(more).stdin(Stdio::null());
        self.environment(&mut command);
        command
    }

    /// Starts `up` and returns when it is ready.
    pub fn up(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("up.log"))
            .unwrap();
        let mut command = self.up_command(&[]);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let up = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let pid = up.id();
        self.up = Some(up);
        let state = self.data().join("run/up.json");
        eventually("`up` is ready", || {
            let ended = self.up.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "`up` has ended: {}", self.log());
            let state: Value = serde_json::from_slice(&fs::read(&state).ok()?).ok()?;
            (state["process"]["pid"] == pid && state["status"] == "ready").then_some(())
        });
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default()
    }

    /// For the next starts of `up`.
    pub fn set_env(&mut self, name: &'static str, value: &str) {
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value.to_owned()));
    }

    /// `down`, with more flags.
    pub fn down(&self, more: &[&str]) -> Output {
        self.down_command(more).output().unwrap()
    }

    pub fn down_command(&self, more: &[&str]) -> Command {
        let mut down = binary();
        down.arg("down").args(self.flags()).args(more).stdin(Stdio::null());
        self.environment(&mut down);
        down
    }

    /// kill -9 of `up`: control API, worker, krane and object store at once.
    pub fn kill_up(&mut self) {
        let mut up = self.up.take().unwrap();
        up.kill().unwrap();
        up.wait().unwrap();
    }

    /// SIGTERM, and the exit code.
    pub fn stop_up(&mut self) -> Option<i32> {
        let mut up = self.up.take().unwrap();
        signal("TERM", up.id());
        up.wait().unwrap().code()
    }

    /// Pid of a child of `up`.
    pub fn child(&self, name: &str) -> u32 {
        let record = fs::read(self.data().join(format!("run/{name}.json"))).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        u32::try_from(record["process"]["pid"].as_u64().unwrap()).unwrap()
    }

    /// The next execution of the step is held at the point.
    pub fn arm(&self, step: &str, point: &str) {
        fs::write(self.dir.path().join(format!("failpoints/{step}.{point}")), "").unwrap();
    }

    pub fn wait_parked(&self, step: &str, point: &str) {
        let hit = self.dir.path().join(format!("failpoints/{step}.{point}.hit"));
        eventually("the failpoint is hit", || hit.exists().then_some(()));
    }

    /// Whoever is held at the point goes on.
    pub fn release(&self, step: &str, point: &str) {
        let hit = self.dir.path().join(format!("failpoints/{step}.{point}.hit"));
        fs::remove_file(hit).unwrap();
    }

    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = binary();
        command.args(args).stdin(Stdio::null());
        self.environment(&mut command);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.cli(args).output().unwrap()
    }

    /// What a command shows on a terminal of its own, where each of these is typed
    /// when it asks for something.
    pub fn on_a_terminal(&self, command: &str, answers: &[&str]) -> String {
        let mut script = Command::new("script");
        script.args(["-qec", command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        self.environment(&mut script);
        let mut script = script.spawn().unwrap();
        let (mut typed, mut screen) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
        let shown = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = Arc::clone(&shown);
        let reading = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                seen.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        for answer in answers {
            let before = shown.lock().unwrap().len();
            eventually("it asks", || shown.lock().unwrap().ends_with(b": ").then_some(()));
            typed.write_all(format!("{answer}\r").as_bytes()).unwrap();
            eventually("the answer is taken", || {
                (shown.lock().unwrap().len() > before).then_some(())
            });
        }
        script.wait().unwrap();
        drop(typed);
        reading.join().unwrap();
        let shown = shown.lock().unwrap();
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// The last line of a verb's JSON output, which must succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        let stdout = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
    }

    /// The API key that `up` has written for the command line.
    pub fn token(&self) -> String {
        let file =
            fs::read_to_string(self.dir.path().join("config/launchway/credentials.toml")).unwrap();
        let line = file.lines().find_map(|line| line.strip_prefix("token = "));
        line.unwrap().trim_matches('"').to_owned()
    }

    /// Deploys and returns the result, which must be live.
    pub fn deploy(&self, dir: &Path, more: &[&str]) -> Value {
        let dir = dir.display().to_string();
        let result = self.json(&[&["deploy", &dir], more].concat());
        assert_eq!(result["status"], "live", "{result:#}");
        result
    }

    /// Deploys in the background and returns the id.
    pub fn submit(&self, dir: &Path, more: &[&str]) -> String {
        let dir = dir.display().to_string();
        let result = self.json(&[&["deploy", &dir, "--detach"], more].concat());
        result["deployment_id"].as_str().unwrap().to_owned()
    }

    pub fn inspect(&self, id: &str) -> Value {
        self.json(&["inspect", id])
    }

    /// The deployment once its status is one of these. The control API may be
    /// away meanwhile.
    pub fn wait_status(&self, id: &str, statuses: &[&str]) -> Value {
        eventually(&format!("{id} is {statuses:?}"), || {
            let output = self.run(&["inspect", id, "--json"]);
            let found: Value = serde_json::from_slice(&output.stdout).ok()?;
            statuses.contains(&found["status"].as_str()?).then_some(found)
        })
    }

    /// The step's row, once it has one with this status.
    pub fn wait_step(&self, id: &str, step: &str, status: &str) {
        eventually(&format!("{step} of {id} is {status}"), || {
            let found = self.inspect(id);
            let rows = found["steps"].as_array()?;
            rows.iter().any(|row| row["name"] == step && row["status"] == status).then_some(())
        });
    }

    /// Rows of Restate's own tables.
    pub fn sql(&self, query: &str) -> Vec<Value> {
        let url = format!("http://{}/query", self.address("restate.admin_bind"));
        let body = serde_json::json!({ "query": query }).to_string();
        let json = ["-H", "accept: application/json", "-H", "content-type: application/json"];
        let output = Command::new("curl").args(["-sS", &url, "-d", &body]).args(json).output();
        let found: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        found["rows"].as_array().unwrap().clone()
    }

    /// Asks Restate's admin API to do something with a deployment's workflow.
    pub fn admin(&self, id: &str, action: &str) -> Answer {
        self.operate(self.inspect(id)["invocation_id"].as_str().unwrap(), action)
    }

    /// The same with any invocation.
    pub fn operate(&self, invocation: &str, action: &str) -> Answer {
        let address = self.address("restate.admin_bind");
        let head = format!(
            "PATCH /invocations/{invocation}/{action} HTTP/1.1\r\nHost: {address}\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        exchange(address, head.as_bytes()).expect("the admin API answers")
    }

    /// The files of the contexts in the object store.
    pub fn contexts(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = vec![self.bucket().join("contexts")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => dirs.push(entry.path()),
                    false => files.push(entry.path()),
                }
            }
        }
        files
    }

    /// The object store's files, by key.
    pub fn bucket(&self) -> PathBuf {
        self.data().join("objects/launchway")
    }

    pub fn containers(&self, id: &str) -> Vec<String> {
        docker(&[
            "ps",
            "-aq",
            "--filter",
            &format!("label=launchway.deployment={id}"),
            "--filter",
            "label=launchway.replica",
        ])
    }

    /// Images that this installation has built, whether it runs or not.
    fn own_images(&self) -> Vec<String> {
        let secrets = fs::read(self.data().join("secrets/installation")).unwrap_or_default();
        let owner = String::from_utf8_lossy(&secrets).trim().to_owned();
        if owner.is_empty() {
            return Vec::new();
        }
        docker(&["images", "-q", "--filter", &format!("label=launchway.owner={owner}")])
    }

    pub fn images(&self, id: &str) -> Vec<String> {
        docker(&["images", "-q", "--filter", &format!("label=launchway.deployment={id}")])
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- up.log\n{}", self.log());
        }
        let _ = self.down(&["--all"]);
        if let Some(mut up) = self.up.take() {
            let _ = up.kill();
            let _ = up.wait();
        }
        for image in self.own_images() {
            docker(&["rmi", "-f", &image]);
        }
    }
}

pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub fn signal(name: &str, pid: u32) {
    let status =
        Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

pub fn docker(args: &[&str]) -> Vec<String> {
    let output = Command::new("docker").args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Rows of the steps that really ran, by name.
pub fn step<'a>(deployment: &'a Value, name: &str) -> &'a Value {
    let rows = deployment["steps"].as_array().unwrap();
    let mut found = rows.iter().filter(|row| row["name"] == name);
    let row = found.next().unwrap_or_else(|| panic!("{name} has no row: {deployment:#}"));
    assert!(found.next().is_none(), "{name} has two rows: {deployment:#}");
    row
}
