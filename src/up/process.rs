//! Processes by pid and start time, so that a reused pid is never taken for
//! one of ours.

use std::{io, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// How often a process that is not our child is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A process, beyond doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: i32,
    /// Clock ticks since boot.
    started: u64,
}

impl Identity {
    /// The process that has this pid now, be it only to be reaped.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let (started, _) = stat(pid)?;
        Some(Self { pid, started })
    }

    pub(super) fn own() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    pub(super) fn is_alive(&self) -> bool {
        matches!(self.phase(), Phase::Running | Phase::Ending)
    }

    /// Alive, and not about to end.
    pub(super) fn is_running(&self) -> bool {
        self.phase() == Phase::Running
    }

    fn phase(&self) -> Phase {
        match stat(self.pid) {
            Some((started, phase)) if started == self.started => phase,
            _ => Phase::Ended,
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Returns once it has ended.
    pub(super) async fn ended(&self) {
        while self.is_alive() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// SIGHUP, and a wait for the end within the grace.
    pub(super) async fn hang_up(&self, grace: Duration) {
        if let Err(error) = self.signal(Signal::HUP) {
            tracing::warn!(pid = self.pid, %error, "cannot signal the process");
        }
        let _ = tokio::time::timeout(grace, self.ended()).await;
    }

    /// SIGTERM, and SIGKILL after the grace. Nothing when it has ended.
    pub(super) async fn stop(&self, grace: Duration) {
        for (signal, patience) in [(Signal::TERM, grace), (Signal::KILL, Duration::from_secs(5))] {
            if let Err(error) = self.signal(signal) {
                tracing::warn!(pid = self.pid, %error, "cannot signal the process");
            }
            if tokio::time::timeout(patience, self.ended()).await.is_ok() {
                return;
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Killed, while a thread that waits for a disk still holds the process's
    /// files and ports.
    Ending,
    Ended,
}

/// Start time (field 22 of `/proc/<pid>/stat`), and how far it is.
fn stat(pid: i32) -> Option<(u64, Phase)> {
    let stat =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The second field is the name, in parentheses, and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let threads: u32 = fields.get(17)?.parse().ok()?;
    let phase = match *fields.first()? {
        "Z" | "X" if threads > 1 => Phase::Ending,
        "Z" | "X" => Phase::Ended,
        _ => Phase::Running,
    };
    Some((fields.get(19)?.parse().ok()?, phase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_known_until_it_ends_and_a_reused_pid_is_not_it() {
        let mut child = tokio::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        let identity = Identity::of(pid).unwrap();
        assert!(identity.is_alive());
        let reused = Identity { pid, started: identity.started + 1 };
        assert!(!reused.is_alive());
        reused.signal(Signal::KILL).unwrap();
        assert!(identity.is_alive(), "the signal for another process reached this one");
        identity.stop(Duration::from_secs(5)).await;
        child.wait().await.unwrap();
        assert!(!identity.is_alive());
    }
}
