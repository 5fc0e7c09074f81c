//! While `down --drain` waits for what is in flight, nothing new is taken. A file
//! says so, with the process that waits: it counts as long as that process lives.

use std::path::PathBuf;

use super::{
    SetupError,
    layout::Layout,
    process::Identity,
    state::{read_json, write_json},
};

/// The file's name.
const DRAINING: &str = "draining";

/// Nothing new is taken until this is dropped.
#[derive(Debug)]
pub struct Draining {
    file: PathBuf,
}

impl Draining {
    /// From now on, by this process.
    ///
    /// # Errors
    /// The file cannot be written; says which.
    pub fn begin(layout: &Layout) -> Result<Self, SetupError> {
        let file = layout.identity(DRAINING);
        let written = match Identity::own() {
            Some(own) => write_json(&file, &own),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        match written {
            Ok(()) => Ok(Self { file }),
            Err(error) => Err(SetupError(format!("{} cannot be written: {error}", file.display()))),
        }
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Why nothing new is taken; `None`: it is.
pub(super) fn reason(layout: &Layout) -> Option<String> {
    let by: Identity = read_json(&layout.identity(DRAINING)).ok()?;
    by.is_alive().then(|| {
        format!(
            "launchway is being stopped, and takes nothing new while `launchway down --drain` (process {}) \
             waits for the workflows in flight: try again once `launchway up` runs again, or end that \
             process to go on without a stop",
            by.pid
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_whoever_waits_however_that_ends() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        layout.create().unwrap();
        assert_eq!(reason(&layout), None);
        let draining = Draining::begin(&layout).unwrap();
        let said = reason(&layout).unwrap();
        assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
        drop(draining);
        assert_eq!(reason(&layout), None);
        let mut killed = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let process = Identity::of(i32::try_from(killed.id()).unwrap()).unwrap();
        write_json(&layout.identity(DRAINING), &process).unwrap();
        assert!(reason(&layout).is_some());
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert_eq!(reason(&layout), None);
    }
}
