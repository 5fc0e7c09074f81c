//! One `up` per data directory.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use super::{SetupError, layout::Layout, process::Identity};

/// Held as long as it lives; the system releases it with the process.
#[derive(Debug)]
pub(super) struct DataLock(#[allow(dead_code)] File);

/// How long a process that was killed may take to let go of its files.
const LETTING_GO: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

impl DataLock {
    pub(super) async fn take(layout: &Layout) -> Result<Self, SetupError> {
        let path = layout.lock();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| SetupError(format!("{} cannot be opened: {error}", path.display())))?;
        let begun = Instant::now();
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            let _ = file.rewind().and_then(|()| file.read_to_string(&mut pid));
            let holder = pid.trim().parse().ok().and_then(Identity::of);
            let runs = holder.is_some_and(|holder| holder.is_running());
            if !runs && begun.elapsed() < LETTING_GO {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            return Err(SetupError(format!(
                "the data directory {} is in use by process {}: stop it with `launchway down`, or name \
                 another directory with --data-dir",
                path.parent().unwrap_or(&path).display(),
                pid.trim()
            )));
        }
        file.rewind()
            .and_then(|()| file.set_len(0))
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|error| {
                SetupError(format!("{} cannot be written: {error}", path.display()))
            })?;
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_up_is_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let held = DataLock::take(&layout).await.unwrap();
        let error = DataLock::take(&layout).await.unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains("launchway down"), "{error}");
        drop(held);
        assert!(DataLock::take(&layout).await.is_ok());
    }
}
