//! Are the addresses free? Asked before anything is started, all at once.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

use super::{SetupError, process::Identity};

/// An address that is needed, by its setting.
pub(super) struct Needed {
    pub(super) setting: &'static str,
    pub(super) address: SocketAddr,
    /// Our own orphan, which may hold it.
    pub(super) ours: Option<Identity>,
}

/// How long an address may stay taken by nobody: a process that was killed
/// gives its ports back only when the last of its threads has ended.
const GIVING_BACK: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// Names every address that somebody else holds.
pub(super) async fn check(needed: &[Needed]) -> Result<(), SetupError> {
    let begun = Instant::now();
    loop {
        let problems: Vec<Problem> = needed.iter().filter_map(problem).collect();
        if problems.is_empty() {
            return Ok(());
        }
        let passing = problems.iter().all(|problem| problem.passing);
        if !passing || begun.elapsed() > GIVING_BACK {
            let texts: Vec<String> = problems.into_iter().map(|problem| problem.text).collect();
            return Err(SetupError(texts.join("\n")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

struct Problem {
    text: String,
    /// Nobody who runs holds the address.
    passing: bool,
}

fn problem(needed: &Needed) -> Option<Problem> {
    if needed.address.port() == 0 {
        return None;
    }
    let error = TcpListener::bind(needed.address).err()?;
    let (setting, address) = (needed.setting, needed.address);
    let holder = holder(address.port());
    if let (Some(ours), Some((pid, _))) = (&needed.ours, &holder)
        && ours.pid == *pid
    {
        return None;
    }
    let passing = holder.is_none() && error.kind() == std::io::ErrorKind::AddrInUse;
    let text = match holder {
        Some((pid, name)) => format!(
            "{address} ({setting}) is taken by process {pid} ({name}): stop it, or choose another address \
             with --set {setting}=127.0.0.1:PORT"
        ),
        None => format!(
            "{address} ({setting}) cannot be used: {error}; choose another address with --set {setting}=127.0.0.1:PORT"
        ),
    };
    Some(Problem { text, passing })
}

/// Pid and name of the process that listens on a port.
fn holder(port: u16) -> Option<(i32, String)> {
    let inode =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|file| listener_inode(file, port))?;
    let wanted = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let descriptors =
            std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let holds = |descriptor: std::fs::DirEntry| {
            std::fs::read_link(descriptor.path()).is_ok_and(|target| target == Path::new(&wanted))
        };
        if descriptors.into_iter().any(holds) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// The inode of a socket in state LISTEN (0A).
fn listener_inode(file: &str, port: u16) -> Option<String> {
    let suffix = format!(":{port:04X}");
    std::fs::read_to_string(file).ok()?.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == "0A";
        listens.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_taken_address_is_named_with_its_holder_and_the_remedy() {
        let held =
            [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
        let needed = |at: usize, setting| Needed {
            setting,
            address: held[at].local_addr().unwrap(),
            ours: None,
        };
        let error = check(&[needed(0, "gateway.bind"), needed(1, "control.bind")])
            .await
            .unwrap_err()
            .to_string();
        for text in ["gateway.bind", "control.bind", &std::process::id().to_string(), "--set"] {
            assert!(error.contains(text), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn an_orphan_of_ours_may_hold_its_own_address() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = Identity::own();
        let needed = Needed { setting: "gateway.bind", address: held.local_addr().unwrap(), ours };
        assert!(check(&[needed]).await.is_ok());
    }

    /// As a process looks whose threads are still ending: the port is bound,
    /// and nobody is found who listens on it.
    #[tokio::test]
    async fn an_address_that_is_being_given_back_is_waited_for() {
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = held.local_addr().unwrap();
        let needed = [Needed { setting: "gateway.bind", address, ours: None }];
        let checking = check(&needed);
        tokio::pin!(checking);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut checking).await;
        assert!(early.is_err(), "it was not waited for: {early:?}");
        drop(held);
        assert!(checking.await.is_ok());
    }
}
