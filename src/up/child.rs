//! A process that `up` keeps running, and that outlives a killed `up`.

use std::{
    fs::{File, OpenOptions},
    future::Future,
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    pin::Pin,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{process::Command, sync::watch, time::Instant};

use super::{SetupError, layout::Layout, process::Identity, state};

/// From the start until it must be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const READY_LOOK: Duration = Duration::from_millis(20);
/// How long an orphan may take to prove that it is healthy.
const ADOPT_LIMIT: Duration = Duration::from_secs(3);
/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(15);
/// Pauses between restarts of a child that dies again and again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A child that ran this long has recovered.
const STEADY: Duration = Duration::from_secs(30);
/// A log file is begun anew above this size, the old one kept once.
const MAX_LOG: u64 = 20 * 1024 * 1024;

type ReadyCheck = Box<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// What to run.
pub(super) struct ChildSpec {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    /// What makes a running one the wanted one, beside its arguments.
    pub(super) configuration: String,
    pub(super) ready: ReadyCheck,
    /// On a stop, leave it for the next `up`.
    pub(super) kept: Arc<AtomicBool>,
}

impl ChildSpec {
    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for text in self.args.iter().chain([&self.configuration]) {
            hash.update(text.len().to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The file `run/<name>.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    process: Identity,
    fingerprint: String,
}

/// A child under supervision.
pub(super) struct Child {
    spec: ChildSpec,
    layout: Layout,
    process: Identity,
    /// It ran before.
    adopted: bool,
}

/// The recorded process of a child, if it still runs.
pub(super) fn recorded(layout: &Layout, name: &str) -> Option<Identity> {
    let record: Record = state::read_json(&layout.identity(name)).ok()?;
    record.process.is_alive().then_some(record.process)
}

impl Child {
    /// Adopts a healthy orphan of the same configuration, stops any other
    /// orphan, or starts anew. Returns when it is ready.
    pub(super) async fn start(spec: ChildSpec, layout: &Layout) -> Result<Self, SetupError> {
        let record: Option<Record> = state::read_json(&layout.identity(spec.name)).ok();
        if let Some(record) = record.filter(|record| record.process.is_alive()) {
            let same = record.fingerprint == spec.fingerprint();
            if same && wait_ready(&spec, &record.process, ADOPT_LIMIT).await {
                tracing::info!(child = spec.name, pid = record.process.pid, "adopted");
                let process = record.process;
                return Ok(Self { spec, layout: layout.clone(), process, adopted: true });
            }
            tracing::info!(child = spec.name, pid = record.process.pid, same, "stopping an orphan");
            record.process.stop(GRACE).await;
        }
        let process = spawn(&spec, layout).await.map_err(|error| {
            SetupError(format!("{} cannot be started: {error}", spec.program.display()))
        })?;
        if wait_ready(&spec, &process, READY_LIMIT).await {
            return Ok(Self { spec, layout: layout.clone(), process, adopted: false });
        }
        let state =
            if process.is_alive() { "is not ready after 60 s" } else { "ended at its start" };
        process.stop(GRACE).await;
        Err(SetupError(format!(
            "{} {state}: {}; its log is {}",
            spec.name,
            last_line(layout, spec.name),
            layout.log(spec.name).display()
        )))
    }

    /// Leaves everything as it was found.
    pub(super) async fn leave(self) {
        if !self.adopted {
            self.process.stop(GRACE).await;
            let _ = std::fs::remove_file(self.layout.identity(self.spec.name));
        }
    }

    /// Restarts it whenever it dies; on `stop`, stops it unless it is kept. Restarts are told
    /// through `restarted`.
    pub(super) async fn supervise(
        mut self,
        mut stop: watch::Receiver<bool>,
        restarted: watch::Sender<u64>,
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let since = Instant::now();
            tokio::select! {
                () = self.process.ended() => {}
                () = stopped(&mut stop) => {
                    if self.spec.kept.load(Relaxed) {
                        return;
                    }
                    self.process.stop(GRACE).await;
                    let _ = std::fs::remove_file(self.layout.identity(self.spec.name));
                    return;
                }
            }
            let last = last_line(&self.layout, self.spec.name);
            tracing::warn!(
                child = self.spec.name,
                pid = self.process.pid,
                last,
                "a child has died; starting it again"
            );
            pause = if since.elapsed() > STEADY { FIRST_PAUSE } else { pause };
            while !self.restart().await {
                if tokio::time::timeout(pause, stopped(&mut stop)).await.is_ok() {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            restarted.send_modify(|count| *count += 1);
        }
    }

    async fn restart(&mut self) -> bool {
        match spawn(&self.spec, &self.layout).await {
            Ok(process) => self.process = process,
            Err(error) => {
                tracing::error!(child = self.spec.name, %error, "cannot be started");
                return false;
            }
        }
        let ready = wait_ready(&self.spec, &self.process, READY_LIMIT).await;
        tracing::info!(child = self.spec.name, pid = self.process.pid, ready, "started again");
        if !ready {
            self.process.stop(GRACE).await;
        }
        ready
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn spawn(spec: &ChildSpec, layout: &Layout) -> io::Result<Identity> {
    let log = open_log(layout, spec.name)?;
    let mut child = Command::new(&spec.program)
        .args(&spec.args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A group of its own: Ctrl-C in the terminal is for `up` alone.
        .process_group(0)
        .spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or(io::ErrorKind::NotFound)?;
    let process = Identity::of(pid).ok_or(io::ErrorKind::NotFound)?;
    // Reaps it; who it was is known by its identity.
    tokio::spawn(async move { child.wait().await });
    let record = Record { process: process.clone(), fingerprint: spec.fingerprint() };
    state::write_json(&layout.identity(spec.name), &record)?;
    Ok(process)
}

/// The log, appended to; begun anew when it is large.
pub(super) fn open_log(layout: &Layout, name: &str) -> io::Result<File> {
    let path = layout.log(name);
    if path.metadata().is_ok_and(|meta| meta.len() > MAX_LOG) {
        std::fs::rename(&path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

async fn wait_ready(spec: &ChildSpec, process: &Identity, limit: Duration) -> bool {
    let looking = async {
        while process.is_alive() {
            if (spec.ready)().await {
                return true;
            }
            tokio::time::sleep(READY_LOOK).await;
        }
        false
    };
    tokio::time::timeout(limit, looking).await.unwrap_or(false)
}

fn last_line(layout: &Layout, name: &str) -> String {
    let text = std::fs::read(layout.log(name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line =
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it wrote nothing");
    line.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(seconds: &str) -> ChildSpec {
        ChildSpec {
            name: "sleeper",
            program: PathBuf::from("/bin/sleep"),
            args: vec![seconds.to_owned()],
            configuration: String::new(),
            ready: Box::new(|| Box::pin(async { true })),
            kept: Arc::default(),
        }
    }

    fn layout(dir: &tempfile::TempDir) -> Layout {
        let layout = Layout::new(dir.path());
        layout.create().unwrap();
        layout
    }

    #[tokio::test]
    async fn an_orphan_of_the_same_configuration_is_adopted_and_another_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(&dir);
        let first = Child::start(sleeper("600"), &layout).await.unwrap();
        let adopted = Child::start(sleeper("600"), &layout).await.unwrap();
        assert_eq!(adopted.process, first.process);
        let replaced = Child::start(sleeper("601"), &layout).await.unwrap();
        assert_ne!(replaced.process, first.process);
        assert!(!first.process.is_alive());
        replaced.process.stop(GRACE).await;
    }

    #[tokio::test]
    async fn a_child_that_dies_is_started_again_and_stopped_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(&dir);
        let child = Child::start(sleeper("600"), &layout).await.unwrap();
        let first = child.process.clone();
        let (stop, stopped) = watch::channel(false);
        let (restarted, mut restarts) = watch::channel(0);
        let supervising = tokio::spawn(child.supervise(stopped, restarted));
        first.signal(rustix::process::Signal::KILL).unwrap();
        restarts.wait_for(|count| *count == 1).await.unwrap();
        let second = recorded(&layout, "sleeper").unwrap();
        assert_ne!(second, first);
        stop.send_replace(true);
        supervising.await.unwrap();
        assert!(!second.is_alive());
    }

    #[tokio::test]
    async fn a_child_that_ends_at_its_start_is_an_error_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let spec = ChildSpec {
            program: PathBuf::from("/bin/sh"),
            args: vec!["-c".to_owned(), "echo no space left; exit 3".to_owned()],
            ready: Box::new(|| Box::pin(async { false })),
            ..sleeper("0")
        };
        let error = Child::start(spec, &layout(&dir)).await.err().unwrap().to_string();
        assert!(error.contains("ended at its start") && error.contains("no space left"), "{error}");
    }
}
