//! One `up` per data directory.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
};

use rustix::fs::{FlockOperation, flock};

use super::{SetupError, layout::Layout};

/// Held as long as it lives; the system releases it with the process.
#[derive(Debug)]
pub(super) struct DataLock(#[allow(dead_code)] File);

impl DataLock {
    pub(super) fn take(layout: &Layout) -> Result<Self, SetupError> {
        let path = layout.lock();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| SetupError(format!("{} cannot be opened: {error}", path.display())))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(SetupError(format!(
                "the data directory {} is in use by process {}: stop it with `launchway down`, or name \
                 another directory with --data-dir",
                path.parent().unwrap_or(&path).display(),
                pid.trim()
            )));
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(
            |error| SetupError(format!("{} cannot be written: {error}", path.display())),
        )?;
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_up_is_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let held = DataLock::take(&layout).unwrap();
        let error = DataLock::take(&layout).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains("launchway down"), "{error}");
        drop(held);
        assert!(DataLock::take(&layout).is_ok());
    }
}
