//! Output of one container, line by line. What is held of a line that does not
//! end is bounded: it comes in parts.

use std::collections::HashMap;

use bollard::{Docker, container::LogOutput, errors::Error, query_parameters::LogsOptionsBuilder};
use futures::{Stream, StreamExt, stream};

use crate::krane::lines::{PART, boundary};
pub(super) use crate::krane::lines::{Source, Timed};

/// How much of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    pub(super) follow: bool,
    pub(super) tail: Option<u32>,
    /// Milliseconds since the epoch.
    pub(super) since: i64,
    /// Nanoseconds of the last line that is known already.
    pub(super) after: i128,
}

/// The container's lines. Ends when it does, or with what is there.
pub(super) fn lines(
    docker: &Docker,
    source: Source,
    reading: Reading,
) -> impl Stream<Item = Result<Timed, Error>> + Send + use<> {
    let tail = reading.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let last_ms = i64::try_from(reading.after / 1_000_000).unwrap_or(i64::MAX);
    // The engine takes seconds; the rest is left out below.
    let since = reading.since.max(last_ms).max(0) / 1000;
    let options = LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .follow(reading.follow)
        .tail(&tail)
        .since(i32::try_from(since).unwrap_or(i32::MAX))
        .build();
    let docker = docker.clone();
    let output = stream::once(async move {
        let name = source.name.clone();
        (docker.logs(&name, Some(options)).boxed(), Lines::new(source))
    });
    let all = output.flat_map(|(output, lines)| {
        let ended = output.map(Some).chain(stream::iter([None]));
        let parts = ended.scan(lines, |lines, part| {
            let whole = match part {
                Some(Ok(part)) => lines.take(part).into_iter().map(Ok).collect(),
                Some(Err(error)) => vec![Err(error)],
                None => lines.rest().into_iter().map(Ok).collect(),
            };
            std::future::ready(Some(stream::iter(whole)))
        });
        parts.flatten()
    });
    all.filter(move |line| {
        let wanted = |(at, line): &Timed| *at > reading.after && line.at >= reading.since;
        std::future::ready(line.as_ref().map_or(true, wanted))
    })
}

/// Puts the engine's parts together.
struct Lines {
    source: Source,
    /// What has not ended yet, by stdout or stderr.
    open: HashMap<&'static str, (i128, Vec<u8>)>,
}

impl Lines {
    fn new(source: Source) -> Self {
        Self { source, open: HashMap::new() }
    }

    /// The engine gives a time and at most 16 KiB of one line.
    fn take(&mut self, part: LogOutput) -> Vec<Timed> {
        let stream = if matches!(part, LogOutput::StdErr { .. }) { "stderr" } else { "stdout" };
        let bytes = part.into_bytes();
        let (at, text) = timed(&bytes);
        let (since, mut open) = self.open.remove(stream).unwrap_or((at, Vec::new()));
        open.extend_from_slice(text.strip_suffix(b"\n").unwrap_or(text));
        let mut whole = Vec::new();
        while open.len() > PART {
            let rest = open.split_off(boundary(&open));
            whole.push(self.source.line(stream, since, &open));
            open = rest;
        }
        if text.ends_with(b"\n") {
            whole.push(self.source.line(stream, since, open.strip_suffix(b"\r").unwrap_or(&open)));
        } else {
            self.open.insert(stream, (since, open));
        }
        whole
    }

    /// What has no end of a line.
    fn rest(&mut self) -> Vec<Timed> {
        let open =
            std::mem::take(&mut self.open).into_iter().filter(|(_, (_, text))| !text.is_empty());
        open.map(|(stream, (at, text))| self.source.line(stream, at, &text)).collect()
    }
}

fn timed(part: &[u8]) -> (i128, &[u8]) {
    let space = part.iter().take(64).position(|byte| *byte == b' ');
    let time = space.and_then(|at| std::str::from_utf8(&part[..at]).ok());
    let time = time.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    match (time, space) {
        (Some(time), Some(space)) => (time.as_nanosecond(), &part[space + 1..]),
        _ => (jiff::Timestamp::now().as_nanosecond(), part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text: &str) -> LogOutput {
        LogOutput::StdOut { message: format!("2026-11-26T10:00:00.000000001Z {text}").into() }
    }

    #[test]
    fn a_line_that_does_not_end_comes_in_parts_at_characters() {
        let mut lines = Lines::new(Source::default());
        // Every character has two bytes, and the first one shifts them.
        let half = "ä".repeat(8000);
        let mut got = lines.take(part(&format!("x{half}")));
        for _ in 0..5 {
            got.extend(lines.take(part(&half)));
            let held = lines.open.values().map(|(_, text)| text.len()).sum::<usize>();
            assert!(held <= PART, "{held} bytes are held");
        }
        got.extend(lines.take(part("end\r\n")));
        assert!(got.len() > 2 && got.iter().all(|(_, line)| line.text.len() <= PART));
        let whole: String = got.iter().map(|(_, line)| line.text.as_str()).collect();
        assert_eq!(whole, format!("x{}end", half.repeat(6)));
        assert_eq!(got[0].0 % 1_000_000_000, 1);
    }

    #[test]
    fn the_two_outputs_do_not_mix() {
        let mut lines = Lines::new(Source::default());
        assert!(lines.take(part("half ")).is_empty());
        let error = LogOutput::StdErr { message: "2026-11-26T10:00:00Z whole\n".into() };
        assert_eq!(lines.take(error)[0].1.text, "whole");
        let rest = lines.rest();
        assert_eq!((rest[0].1.text.as_str(), rest[0].1.stream.as_str()), ("half ", "stdout"));
    }
}
