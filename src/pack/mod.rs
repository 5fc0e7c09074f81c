//! A directory as a build context: packed on the client, uploaded through a
//! presigned URL.

mod archive;
mod error;
pub mod git;
mod ignore;
mod upload;
mod walk;

use std::path::{Path, PathBuf};

pub use archive::PackedContext;
pub use error::PackError;
pub use upload::{UploadError, upload};

/// What to pack, and how much of it.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// The directory.
    pub dir: PathBuf,
    /// Path of the Dockerfile inside it.
    pub dockerfile: String,
    /// Part of the content hash: build args, target, and so on.
    pub build_inputs: Vec<(String, String)>,
    /// Larger packed contexts are refused, in bytes.
    pub max_bytes: u64,
}

/// Packs the directory. `progress` is told the bytes read so far.
///
/// # Errors
/// [`PackError`], each with the file, the rule and the remedy.
pub async fn pack(
    options: PackOptions,
    progress: impl FnMut(u64) + Send + 'static,
) -> Result<PackedContext, PackError> {
    let packing = tokio::task::spawn_blocking(move || pack_blocking(&options, progress));
    packing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn pack_blocking(
    options: &PackOptions,
    progress: impl FnMut(u64),
) -> Result<PackedContext, PackError> {
    check_directory(&options.dir)?;
    let ignore = ignore::Ignore::load(&options.dir, &options.dockerfile)?;
    let (entries, skipped) = walk::walk(&options.dir, &ignore)?;
    if !entries.iter().any(|entry| entry.path == Path::new(&options.dockerfile)) {
        return Err(PackError::no_dockerfile(options, &entries));
    }
    archive::write(options, &entries, skipped, progress)
}

fn check_directory(dir: &Path) -> Result<(), PackError> {
    match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(PackError::NotADirectory(dir.to_owned())),
        Err(source) => Err(PackError::Unreadable { path: dir.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
