//! Where the lines of the access log go: a thread of their own, so that no
//! request waits for a disk.

use std::{
    fs::OpenOptions,
    io::{BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use file_rotate::{ContentLimit, FileRotate, compression::Compression, suffix::AppendCount};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::config::GatewayError;

/// Lines that wait for the disk; more are dropped and counted.
const QUEUE: usize = 64 * 1024;
/// Written at once when there is a lot to write, in bytes.
const BUFFER: usize = 64 * 1024;
/// A file is set aside above this size, and so many of them are kept.
const FILE_BYTES: usize = 64 * 1024 * 1024;
const OLD_FILES: usize = 4;

/// Where each request is written down, as a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
    /// To this file, and at most 4 older ones of 64 MiB beside it.
    File(PathBuf),
}

/// The queue, and what writes the rest of it when dropped.
pub(super) type Opened = (Option<NonBlocking>, Option<WorkerGuard>);

pub(super) fn open(log: &AccessLog) -> Result<Opened, GatewayError> {
    let path = match log {
        AccessLog::Off => return Ok((None, None)),
        AccessLog::Stdout => return Ok(queue(std::io::stdout())),
        AccessLog::File(path) => path,
    };
    let mut options = OpenOptions::new();
    options.read(true).create(true).append(true).mode(0o600);
    // What writes the file from now on drops lines it cannot write.
    let unusable = |source| GatewayError::AccessLog { path: path.clone(), source };
    options.open(path).map_err(unusable)?;
    let (suffix, limit) = (AppendCount::new(OLD_FILES), ContentLimit::BytesSurpassed(FILE_BYTES));
    Ok(queue(FileRotate::new(path, suffix, limit, Compression::None, Some(options))))
}

fn queue(writer: impl Write + Send + 'static) -> Opened {
    let (queue, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUE)
        .thread_name("access-log")
        .finish(BufWriter::with_capacity(BUFFER, writer));
    (Some(queue), Some(guard))
}
