//! BuildKit's status stream as build events: vertices merged by digest, output
//! cut into lines, and very long lines into parts, so that memory is bounded.

use std::collections::{HashMap, VecDeque};

use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog};
use launchway_workflows::ports::{BuildEvent, BuildEventKind, OutputStream};

use super::redact::Redactor;

/// Lines of output kept for the error of a failed build.
const TAIL: usize = 50;
/// A tail's line is cut here: the whole line is in the log.
const TAIL_LINE: usize = 2000;
/// BuildKit's number for stderr.
const STDERR: i64 = 2;
/// A line that is longer is passed on in parts of about this size.
const PART: usize = 16 * 1024;
/// What is looked at before a part is cut off, so that secrets stay whole.
const LOOK_AHEAD: usize = 8 * 1024;

#[derive(Default)]
struct Seen {
    name: String,
    started: Option<i64>,
    completed: bool,
    /// Incomplete last lines of stdout and stderr.
    partial: [Vec<u8>; 2],
    /// Whose beginning was passed on.
    begun: [bool; 2],
}

/// Turns status messages into events; remembers the end of the output.
pub(super) struct Progress<'a> {
    redactor: &'a Redactor,
    vertices: HashMap<String, Seen>,
    tail: VecDeque<String>,
    /// When something was last said, in milliseconds since the epoch.
    latest: i64,
    /// Bytes of output that may still be passed on; `None`: it was said that
    /// there is more.
    left: Option<u64>,
}

impl<'a> Progress<'a> {
    /// Events are cleaned by `redactor`; output ends after `max_output` bytes.
    pub(super) fn new(redactor: &'a Redactor, max_output: u64) -> Self {
        Self {
            redactor,
            vertices: HashMap::new(),
            tail: VecDeque::new(),
            latest: 0,
            left: Some(max_output),
        }
    }

    /// The events of one message, in order.
    pub(super) fn absorb(&mut self, status: StatusResponse) -> Vec<BuildEvent> {
        let mut events = Vec::new();
        for log in status.logs {
            self.log(log, &mut events);
        }
        for vertex in status.vertexes {
            self.vertex(vertex, &mut events);
        }
        events
    }

    /// The ends of lines that never had one; nothing follows.
    pub(super) fn finish(&mut self) -> Vec<BuildEvent> {
        let mut events = Vec::new();
        let digests: Vec<String> = self.vertices.keys().cloned().collect();
        for digest in digests {
            self.flush(&digest, self.latest, true, &mut events);
        }
        events
    }

    /// The last lines of all output.
    pub(super) fn tail(self) -> Vec<String> {
        self.tail.into()
    }

    fn vertex(&mut self, vertex: Vertex, events: &mut Vec<BuildEvent>) {
        let started = vertex.started.as_ref().map(|at| millis(at.seconds, at.nanos));
        let completed = vertex.completed.as_ref().map(|at| millis(at.seconds, at.nanos));
        let seen = self.vertices.entry(vertex.digest.clone()).or_default();
        let name = self.redactor.clean(&vertex.name).into_owned();
        seen.name.clone_from(&name);
        let event = |at, kind| BuildEvent { at, vertex: name.clone(), kind };
        if let (None, Some(at)) = (seen.started, started) {
            seen.started = Some(at);
            if !vertex.cached {
                events.push(event(at, BuildEventKind::Started));
            }
        }
        let Some(at) = completed.filter(|_| !seen.completed) else { return };
        seen.completed = true;
        let begun = seen.started.unwrap_or(at);
        // More of its output may follow: BuildKit sends the two separately.
        self.flush(&vertex.digest, at, false, events);
        let duration_ms = (at - begun).max(0);
        events.push(event(
            at,
            match (vertex.error.is_empty(), vertex.cached) {
                (false, _) => BuildEventKind::Failed {
                    duration_ms,
                    error: self.redactor.clean(&vertex.error).into_owned(),
                },
                (true, true) => BuildEventKind::Cached,
                (true, false) => BuildEventKind::Done { duration_ms },
            },
        ));
    }

    fn log(&mut self, log: VertexLog, events: &mut Vec<BuildEvent>) {
        let at = log.timestamp.as_ref().map_or(0, |at| millis(at.seconds, at.nanos));
        self.latest = self.latest.max(at);
        let stream = if log.stream == STDERR { OutputStream::Stderr } else { OutputStream::Stdout };
        let seen = self.vertices.entry(log.vertex.clone()).or_default();
        let mut open = std::mem::take(&mut seen.partial[stream as usize]);
        let mut begun = seen.begun[stream as usize];
        let origin = Origin { vertex: seen.name.clone(), stream, at };
        let mut pieces = log.msg.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            open.extend_from_slice(piece);
            begun |= self.parts(&origin, &mut open, events);
            if pieces.peek().is_some() {
                self.line(&origin, &std::mem::take(&mut open), events);
                begun = false;
            }
        }
        if let Some(seen) = self.vertices.get_mut(&log.vertex) {
            seen.partial[stream as usize] = open;
            seen.begun[stream as usize] = begun;
        }
    }

    /// What is held back of a vertex's output; `ends`: no more will come.
    fn flush(&mut self, digest: &str, at: i64, ends: bool, events: &mut Vec<BuildEvent>) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let Some(seen) = self.vertices.get_mut(digest) else { return };
            let open = std::mem::take(&mut seen.partial[stream as usize]);
            let begun = std::mem::replace(&mut seen.begun[stream as usize], !ends);
            let origin = Origin { vertex: seen.name.clone(), stream, at };
            if !open.is_empty() || (ends && begun) {
                self.output(&origin, &String::from_utf8_lossy(&open), ends, events);
            } else if let Some(seen) = self.vertices.get_mut(digest) {
                seen.begun[stream as usize] = begun && !ends;
            }
        }
    }

    /// Passes on what is long enough of a line that has not ended; whether there
    /// was any.
    fn parts(&mut self, origin: &Origin, open: &mut Vec<u8>, events: &mut Vec<BuildEvent>) -> bool {
        let mut any = false;
        while open.len() > PART + LOOK_AHEAD {
            let whole = open.len() - unfinished_character(open);
            let text = String::from_utf8_lossy(&open[..whole]).into_owned();
            let cut = self.redactor.cut(&text, PART);
            if cut == 0 {
                break;
            }
            let rest = [&text.as_bytes()[cut..], &open[whole..]].concat();
            *open = rest;
            self.output(origin, &text[..cut], false, events);
            any = true;
        }
        any
    }

    fn line(&mut self, origin: &Origin, line: &[u8], events: &mut Vec<BuildEvent>) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.output(origin, &String::from_utf8_lossy(line), true, events);
    }

    fn output(&mut self, origin: &Origin, text: &str, ends: bool, events: &mut Vec<BuildEvent>) {
        let text = self.redactor.clean(text).into_owned();
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(text.chars().take(TAIL_LINE).collect());
        let Some(left) = self.left else { return };
        let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.left = left.checked_sub(size);
        let kind = match self.left {
            Some(_) => BuildEventKind::Output { stream: origin.stream, text, ends },
            None => BuildEventKind::Output {
                stream: OutputStream::Stderr,
                text: "[launchway keeps no more of the output: see build.max_output_bytes]"
                    .to_owned(),
                ends: true,
            },
        };
        events.push(BuildEvent { at: origin.at, vertex: origin.vertex.clone(), kind });
    }
}

/// Whose output it is.
struct Origin {
    vertex: String,
    stream: OutputStream,
    at: i64,
}

/// Bytes at the end that are the beginning of a character.
fn unfinished_character(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let begin = tail.iter().rposition(|byte| *byte >= 0xC0);
    match begin.map(|begin| &tail[begin..]) {
        Some(begun)
            if std::str::from_utf8(begun).is_err_and(|error| error.error_len().is_none()) =>
        {
            begun.len()
        }
        _ => 0,
    }
}

fn millis(seconds: i64, nanos: i32) -> i64 {
    seconds * 1000 + i64::from(nanos) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(message: &[u8]) -> StatusResponse {
        let log = VertexLog {
            vertex: "v".to_owned(),
            stream: 1,
            msg: message.to_vec(),
            ..VertexLog::default()
        };
        StatusResponse { logs: vec![log], ..StatusResponse::default() }
    }

    fn lines(events: &[BuildEvent]) -> Vec<String> {
        let mut lines = vec![String::new()];
        for event in events {
            if let BuildEventKind::Output { text, ends, .. } = &event.kind {
                assert!(text.len() <= PART, "a part of {} bytes", text.len());
                lines.last_mut().unwrap().push_str(text);
                if *ends {
                    lines.push(String::new());
                }
            }
        }
        lines.pop();
        lines
    }

    /// Checklist 3.
    #[test]
    fn a_line_of_any_length_across_messages_is_whole_when_its_parts_are_joined() {
        let redactor = Redactor::default();
        let mut progress = Progress::new(&redactor, u64::MAX);
        let huge = "xä".repeat(500_000);
        let mut events = progress.absorb(log(huge.as_bytes()));
        let kept: usize = progress.vertices["v"].partial.iter().map(Vec::len).sum();
        assert!(kept <= PART + LOOK_AHEAD, "{kept} bytes are held");
        events.extend(progress.absorb(log(b"y\nnext\nrest")));
        assert_eq!(lines(&events), [format!("{huge}y"), "next".to_owned()]);
    }

    #[test]
    fn output_beyond_its_limit_is_dropped_and_said_once() {
        let redactor = Redactor::default();
        let mut progress = Progress::new(&redactor, 8);
        let events = progress.absorb(log(b"1234\n5678\n9\n10\n"));
        let lines = lines(&events);
        assert_eq!(lines[..2], ["1234", "5678"]);
        assert!(lines.len() == 3 && lines[2].contains("build.max_output_bytes"), "{lines:?}");
        assert_eq!(progress.tail(), ["1234", "5678", "9", "10"], "the error still has its end");
    }

    #[test]
    fn a_character_cut_in_two_is_whole_again() {
        let redactor = Redactor::default();
        let mut progress = Progress::new(&redactor, u64::MAX);
        let text = "größe\n".as_bytes();
        assert!(progress.absorb(log(&text[..3])).is_empty());
        assert_eq!(lines(&progress.absorb(log(&text[3..]))), ["größe"]);
    }

    #[test]
    fn output_that_comes_after_its_vertex_has_ended_is_the_same_line() {
        let redactor = Redactor::default();
        let mut progress = Progress::new(&redactor, u64::MAX);
        let mut events = progress.absorb(log(b"one li"));
        let done = Vertex {
            digest: "v".to_owned(),
            name: "RUN x".to_owned(),
            started: Some(bollard_time(1)),
            completed: Some(bollard_time(3)),
            error: "exit code: 1".to_owned(),
            ..Vertex::default()
        };
        let status =
            StatusResponse { vertexes: vec![done.clone(), done], ..StatusResponse::default() };
        events.extend(progress.absorb(status));
        events.extend(progress.absorb(log(b"ne\nno end")));
        events.extend(progress.finish());
        assert_eq!(lines(&events), ["one line", "no end"]);
        let failed = |event: &&BuildEvent| matches!(event.kind, BuildEventKind::Failed { .. });
        assert_eq!(events.iter().filter(failed).count(), 1);
        let first = &events[0].kind;
        assert!(matches!(first, BuildEventKind::Started | BuildEventKind::Output { .. }));
        assert!(progress.finish().is_empty());
    }

    fn bollard_time(seconds: i64) -> bollard_buildkit_proto::google::protobuf::Timestamp {
        bollard_buildkit_proto::google::protobuf::Timestamp { seconds, nanos: 0 }
    }
}
