//! Lines of an instance's output, whatever it runs on. What is held of a line that
//! does not end is bounded: it comes in parts.

use launchway_proto::krane::v1::LogLine;

/// Longest part of a line.
pub(super) const PART: usize = 32 * 1024;

/// Whose output a line is.
#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    /// The runtime's name of the instance.
    pub(super) name: String,
    pub(super) process: String,
    pub(super) replica: u32,
}

/// A line with the nanoseconds it was written at.
pub(super) type Timed = (i128, LogLine);

impl Source {
    pub(super) fn line(&self, stream: &str, at: i128, text: &[u8]) -> Timed {
        let line = LogLine {
            instance_id: self.name.clone(),
            at: i64::try_from(at / 1_000_000).unwrap_or(i64::MAX),
            stream: stream.to_owned(),
            text: String::from_utf8_lossy(text).into_owned(),
            process: self.process.clone(),
            replica: self.replica,
        };
        (at, line)
    }
}

/// Where a text that is longer than a part is cut: never inside a character.
pub(super) fn boundary(text: &[u8]) -> usize {
    let continues = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    (PART - 3..=PART).rev().find(|at| !continues(text[*at])).unwrap_or(PART)
}
