//! What can be wrong with a context.

use std::{io, path::PathBuf};

use super::{PackOptions, walk::Entry};

/// A directory cannot be packed; nothing was uploaded.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file instead.
    #[error("`{}` is not a directory: give the directory that holds the Dockerfile", .0.display())]
    NotADirectory(PathBuf),
    /// Something in it cannot be read.
    #[error("`{}` cannot be read: {source}; make it readable or leave it out with .dockerignore", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The Dockerfile is not there.
    #[error("`{}` has no `{dockerfile}`: {hint}", dir.display())]
    NoDockerfile {
        /// The directory.
        dir: PathBuf,
        /// As asked for.
        dockerfile: String,
        /// Where one might be.
        hint: String,
    },
    /// An ignore rule cannot be read.
    #[error("`{file}` line {line}: the pattern `{pattern}` is not valid: {reason}")]
    Pattern {
        /// Which ignore file.
        file: String,
        /// From 1.
        line: usize,
        /// As written.
        pattern: String,
        /// Why.
        reason: String,
    },
    /// More than the limit.
    #[error("the context is larger than {limit} bytes packed: leave files out with .dockerignore")]
    TooLarge {
        /// In bytes.
        limit: u64,
    },
    /// A file was written to meanwhile.
    #[error("`{}` changed while it was packed: deploy again when nothing writes to it", .0.display())]
    Changed(PathBuf),
    /// The temporary file cannot be written.
    #[error("the context cannot be packed: {0}")]
    Temporary(io::Error),
}

impl PackError {
    pub(super) fn no_dockerfile(options: &PackOptions, entries: &[Entry]) -> Self {
        let found: Vec<String> = entries
            .iter()
            .map(|entry| entry.path.to_string_lossy().into_owned())
            .filter(|path| path.rsplit('/').next().is_some_and(|name| name.contains("Dockerfile")))
            .take(5)
            .collect();
        let hint = match (found.is_empty(), entries.is_empty()) {
            (false, _) => {
                format!("name one of those that are there with --dockerfile: {}", found.join(", "))
            }
            (true, true) => "the directory is empty, or its ignore rules leave nothing".to_owned(),
            (true, false) => "add one, or name it with --dockerfile".to_owned(),
        };
        Self::NoDockerfile {
            dir: options.dir.clone(),
            dockerfile: options.dockerfile.clone(),
            hint,
        }
    }
}
