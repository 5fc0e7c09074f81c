//! The files of a context, in a fixed order.

use std::{
    fs::{self, FileType, Metadata},
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Path, PathBuf},
};

use super::{PackError, ignore::Ignore};

/// A file, directory or link of the context.
pub(super) struct Entry {
    /// Relative to the context.
    pub(super) path: PathBuf,
    /// Of the link itself where it is one.
    pub(super) meta: Metadata,
}

/// Entries sorted by path, and what cannot be packed (sockets and the like).
/// Links are not followed.
pub(super) fn walk(dir: &Path, ignore: &Ignore) -> Result<(Vec<Entry>, Vec<PathBuf>), PackError> {
    let (mut entries, mut skipped) = (Vec::new(), Vec::new());
    descend(dir, Path::new(""), ignore, &mut entries, &mut skipped)?;
    entries.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    Ok((entries, skipped))
}

fn descend(
    root: &Path,
    below: &Path,
    ignore: &Ignore,
    entries: &mut Vec<Entry>,
    skipped: &mut Vec<PathBuf>,
) -> Result<(), PackError> {
    let dir = root.join(below);
    let unreadable = |path: &Path, source| PackError::Unreadable { path: path.to_owned(), source };
    for entry in fs::read_dir(&dir).map_err(|error| unreadable(&dir, error))? {
        let entry = entry.map_err(|error| unreadable(&dir, error))?;
        let path = below.join(entry.file_name());
        let excluded = ignore.excludes(path.as_os_str().as_bytes());
        let meta = entry.metadata().map_err(|error| unreadable(&entry.path(), error))?;
        let is_dir = meta.is_dir();
        if excluded && !(is_dir && ignore.may_keep_below(path.as_os_str().as_bytes())) {
            continue;
        }
        if !excluded && is_special(meta.file_type()) {
            skipped.push(path);
            continue;
        }
        if !excluded {
            entries.push(Entry { path: path.clone(), meta });
        }
        if is_dir {
            descend(root, &path, ignore, entries, skipped)?;
        }
    }
    Ok(())
}

fn is_special(kind: FileType) -> bool {
    kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device()
}
