//! Lines of a pod's output. What is held of a line that does not end is bounded:
//! it comes in parts.

use futures::{AsyncBufRead, AsyncBufReadExt};
use jiff::Timestamp;
use kube::api::LogParams;

use super::objects::CONTAINER;
use crate::krane::lines::{PART, boundary};
pub(super) use crate::krane::lines::{Source, Timed};

/// What is asked of the cluster; times in milliseconds.
pub(super) fn asked(follow: bool, tail: Option<u32>, since: i64) -> LogParams {
    LogParams {
        container: Some(CONTAINER.to_owned()),
        follow,
        timestamps: true,
        tail_lines: tail.map(i64::from),
        since_time: Timestamp::from_millisecond(since).ok().filter(|_| since > 0),
        ..LogParams::default()
    }
}

/// Takes the output apart as it comes.
pub(super) struct Lines<R> {
    reader: R,
    source: Source,
    /// When the open line was begun, and what there is of it.
    open: Option<(i128, Vec<u8>)>,
    ended: bool,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R, source: Source) -> Self {
        Self { reader, source, open: None, ended: false }
    }

    /// The next line, or the next part of one. `None`: the output has ended, or
    /// the connection has.
    pub(super) async fn next(&mut self) -> Option<Timed> {
        loop {
            if let Some(part) = self.part() {
                return Some(part);
            }
            if self.ended {
                return self.rest();
            }
            let (taken, whole) = {
                let Ok(bytes) = self.reader.fill_buf().await else {
                    self.ended = true;
                    continue;
                };
                self.ended = bytes.is_empty();
                let end = bytes.iter().position(|byte| *byte == b'\n');
                let text = &bytes[..end.unwrap_or(bytes.len())];
                self.open.get_or_insert((0, Vec::new())).1.extend_from_slice(text);
                (end.map_or(bytes.len(), |end| end + 1), end.is_some())
            };
            self.reader.consume_unpin(taken);
            self.split_time(whole);
            if whole && self.open.as_ref().is_some_and(|(_, text)| text.len() <= PART) {
                return self.rest();
            }
        }
    }

    /// The time that a line begins with, once it is there.
    fn split_time(&mut self, whole: bool) {
        let Some((at, text)) = &mut self.open else { return };
        if *at != 0 || (!whole && text.len() < 64) {
            return;
        }
        let (time, rest) = timed(text);
        *at = time;
        *text = rest.to_vec();
    }

    fn part(&mut self) -> Option<Timed> {
        let (at, text) = self.open.as_mut().filter(|(_, text)| text.len() > PART)?;
        let rest = text.split_off(boundary(text));
        let part = std::mem::replace(text, rest);
        let at = *at;
        Some(self.line(at, &part))
    }

    fn rest(&mut self) -> Option<Timed> {
        let (at, text) = self.open.take()?;
        let (at, text) = if at == 0 { timed(&text) } else { (at, text.as_slice()) };
        if self.ended && text.is_empty() {
            return None;
        }
        Some(self.line(at, text.strip_suffix(b"\r").unwrap_or(text)))
    }

    /// Which stream it was is not kept by the cluster.
    fn line(&self, at: i128, text: &[u8]) -> Timed {
        self.source.line("stdout", at, text)
    }
}

fn timed(line: &[u8]) -> (i128, &[u8]) {
    let space = line.iter().take(64).position(|byte| *byte == b' ');
    let head = &line[..space.unwrap_or(line.len().min(64))];
    let time = std::str::from_utf8(head).ok().and_then(|time| time.parse::<Timestamp>().ok());
    match time {
        Some(time) => (time.as_nanosecond(), space.map_or(&[][..], |at| &line[at + 1..])),
        None => (Timestamp::now().as_nanosecond(), line),
    }
}

#[cfg(test)]
mod tests {
    use launchway_proto::krane::v1::LogLine;

    use super::*;

    async fn all(text: &str) -> Vec<LogLine> {
        // A small buffer: lines come in pieces.
        let reader = futures::io::BufReader::with_capacity(7, futures::io::Cursor::new(text));
        let mut lines = Lines::new(reader, Source::default());
        let mut all = Vec::new();
        while let Some((_, line)) = lines.next().await {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn lines_have_the_time_they_begin_with() {
        let lines = all("2026-01-01T00:00:01.5Z hello  world\r\n2026-01-01T00:00:02Z \nbare").await;
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["hello  world", "", "bare"]);
        assert_eq!((lines[0].at, lines[1].at), (1_767_225_601_500, 1_767_225_602_000));
    }

    #[tokio::test]
    async fn a_line_without_an_end_comes_in_bounded_parts() {
        let long = "ä".repeat(50_000);
        let lines =
            all(&format!("2026-01-01T00:00:01Z {long}\n2026-01-01T00:00:02Z after\n")).await;
        let (after, parts) = lines.split_last().unwrap();
        assert_eq!(after.text, "after");
        assert!(parts.iter().all(|part| part.text.len() <= PART && part.at == 1_767_225_601_000));
        assert_eq!(parts.iter().map(|part| part.text.as_str()).collect::<String>(), long);
    }
}
