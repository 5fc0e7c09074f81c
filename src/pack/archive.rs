//! The packed context: tar.gz in a private, unlinked file, with its hashes.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};
use tempfile::SpooledTempFile;

use super::{PackError, PackOptions, walk::Entry};

/// Contexts up to this size stay in memory.
const IN_MEMORY: usize = 4 * 1024 * 1024;

/// A context, ready to be uploaded. Its temporary file has no name (and mode
/// 0600 while it had one) and is gone with it.
pub struct PackedContext {
    pub(super) file: SpooledTempFile,
    /// In bytes, packed.
    pub size: u64,
    /// Of the packed bytes, lower-case hex.
    pub sha256: String,
    /// Of paths, modes, types, link targets and bytes, and of the build
    /// inputs; not of times. Lower-case hex.
    pub content_hash: String,
    /// Files, directories and links in it.
    pub entries: usize,
    /// Sockets and the like, which were left out.
    pub skipped: Vec<PathBuf>,
}

pub(super) fn write(
    options: &PackOptions,
    entries: &[Entry],
    skipped: Vec<PathBuf>,
    mut progress: impl FnMut(u64),
) -> Result<PackedContext, PackError> {
    let sink = Hashing {
        file: SpooledTempFile::new(IN_MEMORY),
        hash: Sha256::new(),
        size: 0,
        limit: options.max_bytes,
    };
    // Fast: the build reads it once, from the same machine or network.
    let mut tar = Builder::new(GzEncoder::new(sink, Compression::fast()));
    let mut content = Content::new();
    let mut read = 0;
    for entry in entries {
        append(&mut tar, &options.dir, entry, &mut content, &mut |bytes| {
            read += bytes;
            progress(read);
        })
        .map_err(|error| refused(error, options.max_bytes))?;
    }
    let sink = tar
        .into_inner()
        .and_then(GzEncoder::finish)
        .map_err(|error| refused(PackError::Temporary(error), options.max_bytes))?;
    Ok(PackedContext {
        file: sink.file,
        size: sink.size,
        sha256: hex(sink.hash),
        content_hash: content.finish(&options.build_inputs),
        entries: entries.len(),
        skipped,
    })
}

/// The sink says "too large" through the writers in between.
fn refused(error: PackError, limit: u64) -> PackError {
    match error {
        PackError::Temporary(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            PackError::TooLarge { limit }
        }
        error => error,
    }
}

fn append<W: Write>(
    tar: &mut Builder<W>,
    root: &Path,
    entry: &Entry,
    content: &mut Content,
    progress: &mut impl FnMut(u64),
) -> Result<(), PackError> {
    let full = root.join(&entry.path);
    let unreadable = |source| PackError::Unreadable { path: full.clone(), source };
    let mode = entry.meta.permissions().mode() & 0o7777;
    let mut header = Header::new_gnu();
    // Nothing of this machine: the same tree is the same archive anywhere.
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    content.entry(&entry.path, mode);
    if entry.meta.is_symlink() {
        let target = std::fs::read_link(&full).map_err(unreadable)?;
        content.link(&target);
        header.set_entry_type(EntryType::Symlink);
        return tar.append_link(&mut header, &entry.path, &target).map_err(PackError::Temporary);
    }
    if entry.meta.is_dir() {
        content.directory();
        header.set_entry_type(EntryType::Directory);
        return tar
            .append_data(&mut header, &entry.path, io::empty())
            .map_err(PackError::Temporary);
    }
    let file = File::open(&full).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    content.file(size);
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    let mut reader = Exactly { file: file.take(size), content, progress, left: size, failed: None };
    let appended = tar.append_data(&mut header, &entry.path, &mut reader);
    let (left, failed) = (reader.left, reader.failed.take());
    match (failed, appended, left) {
        (Some(source), _, _) => Err(unreadable(source)),
        (None, Err(error), _) => Err(PackError::Temporary(error)),
        (None, Ok(()), 0) => Ok(()),
        (None, Ok(()), _) => Err(PackError::Changed(full)),
    }
}

/// Hashes what the context says, unambiguously: every part with its length.
struct Content(Sha256);

impl Content {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn part(&mut self, kind: u8, bytes: &[u8]) {
        self.0.update([kind]);
        self.0.update(bytes.len().to_le_bytes());
        self.0.update(bytes);
    }

    fn entry(&mut self, path: &Path, mode: u32) {
        self.part(b'p', path.as_os_str().as_bytes());
        self.part(b'm', &mode.to_le_bytes());
    }

    fn link(&mut self, target: &Path) {
        self.part(b'l', target.as_os_str().as_bytes());
    }

    fn directory(&mut self) {
        self.part(b'd', b"");
    }

    fn file(&mut self, size: u64) {
        self.part(b'f', &size.to_le_bytes());
    }

    fn finish(mut self, build_inputs: &[(String, String)]) -> String {
        for (name, value) in build_inputs {
            self.part(b'n', name.as_bytes());
            self.part(b'v', value.as_bytes());
        }
        hex(self.0)
    }
}

/// Reads as many bytes as the header says, hashing and counting them.
struct Exactly<'a, P> {
    file: io::Take<File>,
    content: &'a mut Content,
    progress: &'a mut P,
    left: u64,
    failed: Option<io::Error>,
}

impl<P: FnMut(u64)> Read for Exactly<'_, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer) {
            Ok(0) if self.left > 0 && !buffer.is_empty() => {
                // Shorter than it was: the archive must stay well-formed to
                // its end, and is thrown away then.
                let zeros = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.failed.get_or_insert_with(|| io::ErrorKind::UnexpectedEof.into());
                self.left -= zeros as u64;
                buffer[..zeros].fill(0);
                Ok(zeros)
            }
            Ok(read) => {
                self.content.0.update(&buffer[..read]);
                self.left -= read as u64;
                (self.progress)(read as u64);
                Ok(read)
            }
            Err(error) => {
                let again = io::Error::new(error.kind(), error.to_string());
                self.failed = Some(error);
                Err(again)
            }
        }
    }
}

/// The file, its size and hash as it is written.
struct Hashing {
    file: SpooledTempFile,
    hash: Sha256,
    size: u64,
    limit: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        if self.size > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl PackedContext {
    /// The bytes from the start, for another try of the upload too.
    pub(super) fn rewound(&mut self) -> io::Result<&mut SpooledTempFile> {
        self.file.seek(SeekFrom::Start(0))?;
        Ok(&mut self.file)
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
