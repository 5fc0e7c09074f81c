//! What a running `up` says of itself to `up --detach`, `down` and `doctor`.

use std::{io, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{layout::Layout, process::Identity};

/// How far `up` is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Status {
    /// On its way.
    Starting,
    /// Everything answers.
    Ready,
    /// It gave up.
    Failed {
        /// The sentence it would have printed.
        error: String,
    },
}

/// The file `run/up.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpState {
    pub(super) process: Identity,
    /// How far it is.
    #[serde(flatten)]
    pub status: Status,
    /// Its control API.
    pub control_url: String,
}

impl UpState {
    /// The state of the `up` that runs on this data directory.
    pub fn read(layout: &Layout) -> Option<Self> {
        read_json(&layout.identity("up")).ok()
    }

    /// Whether that process still runs.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    pub(super) fn write(layout: &Layout, status: Status, control_url: &str) -> io::Result<()> {
        let process = Identity::own().ok_or(io::ErrorKind::NotFound)?;
        let state = Self { process, status, control_url: control_url.to_owned() };
        write_json(&layout.identity("up"), &state)
    }
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// Beside the file and then moved there: readers see all or nothing.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer(&file, value)?;
    file.persist(path)?;
    Ok(())
}
