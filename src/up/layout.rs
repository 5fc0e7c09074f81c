//! Where an installation keeps what.

use std::{
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::SetupError;

/// Paths below the data directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// For a data directory; nothing is created.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Creates the directories, 0700.
    ///
    /// # Errors
    /// One cannot be created; says which.
    pub fn create(&self) -> Result<(), SetupError> {
        for dir in [self.root.clone(), self.logs(), self.run(), self.secrets()] {
            private_dir(&dir).map_err(|error| {
                SetupError(format!(
                    "the data directory {} cannot be created: {error}; name another with --data-dir",
                    dir.display()
                ))
            })?;
        }
        Ok(())
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("up.lock")
    }

    /// Log files of all processes.
    pub fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    pub(super) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(super) fn identity(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.json"))
    }

    pub(crate) fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    pub(super) fn restate(&self) -> PathBuf {
        self.root.join("restate")
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    pub(super) fn routes(&self) -> PathBuf {
        self.root.join("routes.json")
    }
}

fn private_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// `/var/lib/launchway` for root, else below `$XDG_DATA_HOME`.
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/launchway");
    }
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    data.unwrap_or_else(|| home().join(".local/share")).join("launchway")
}
