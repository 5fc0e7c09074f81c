//! BuildKit's status stream as build events: vertices merged by digest, output
//! cut into lines of any length.

use std::collections::{HashMap, VecDeque};

use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog};
use launchway_workflows::ports::{BuildEvent, BuildEventKind};

use super::redact::Redactor;

/// Lines of output kept for the error of a failed build.
const TAIL: usize = 50;
/// A tail's line is cut here: the whole line is in the log.
const TAIL_LINE: usize = 2000;
/// BuildKit's number for stderr.
const STDERR: i64 = 2;

#[derive(Default)]
struct Seen {
    name: String,
    started: Option<i64>,
    completed: bool,
    /// Incomplete last lines of stdout and stderr.
    partial: [Vec<u8>; 2],
}

/// Turns status messages into events; remembers the end of the output.
pub(super) struct Progress<'a> {
    redactor: &'a Redactor,
    vertices: HashMap<String, Seen>,
    tail: VecDeque<String>,
}

impl<'a> Progress<'a> {
    /// Events are cleaned by `redactor`.
    pub(super) fn new(redactor: &'a Redactor) -> Self {
        Self { redactor, vertices: HashMap::new(), tail: VecDeque::new() }
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
        self.flush(&vertex.digest, at, events);
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
        let stderr = log.stream == STDERR;
        let seen = self.vertices.entry(log.vertex).or_default();
        let partial = &mut seen.partial[usize::from(stderr)];
        partial.extend_from_slice(&log.msg);
        let Some(end) = partial.iter().rposition(|byte| *byte == b'\n') else { return };
        let rest = partial.split_off(end + 1);
        let whole = std::mem::replace(partial, rest);
        let name = seen.name.clone();
        for line in whole[..end].split(|byte| *byte == b'\n') {
            self.line(&name, line, stderr, at, events);
        }
    }

    /// Output that ended without a line end.
    fn flush(&mut self, digest: &str, at: i64, events: &mut Vec<BuildEvent>) {
        let Some(seen) = self.vertices.get_mut(digest) else { return };
        let name = seen.name.clone();
        for (stderr, partial) in std::mem::take(&mut seen.partial).into_iter().enumerate() {
            if !partial.is_empty() {
                self.line(&name, &partial, stderr == 1, at, events);
            }
        }
    }

    fn line(
        &mut self,
        vertex: &str,
        line: &[u8],
        stderr: bool,
        at: i64,
        events: &mut Vec<BuildEvent>,
    ) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = self.redactor.clean(&String::from_utf8_lossy(line)).into_owned();
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(text.chars().take(TAIL_LINE).collect());
        let kind = if stderr { BuildEventKind::Stderr(text) } else { BuildEventKind::Stdout(text) };
        events.push(BuildEvent { at, vertex: vertex.to_owned(), kind });
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

    fn lines(events: &[BuildEvent]) -> Vec<&str> {
        events
            .iter()
            .filter_map(|event| match &event.kind {
                BuildEventKind::Stdout(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Checklist 3.
    #[test]
    fn a_line_of_any_length_across_messages_stays_one_line() {
        let redactor = Redactor::default();
        let mut progress = Progress::new(&redactor);
        let huge = "x".repeat(1_000_000);
        assert!(progress.absorb(log(huge.as_bytes())).is_empty());
        let events = progress.absorb(log(b"y\nnext\nrest"));
        assert_eq!(lines(&events), [format!("{huge}y").as_str(), "next"]);
    }

    #[test]
    fn a_character_cut_in_two_is_whole_again() {
        let redactor = Redactor::default();
        let mut progress = Progress::new(&redactor);
        let text = "größe\n".as_bytes();
        assert!(progress.absorb(log(&text[..3])).is_empty());
        assert_eq!(lines(&progress.absorb(log(&text[3..]))), ["größe"]);
    }

    #[test]
    fn a_vertex_ends_once_and_gives_its_open_line_first() {
        let redactor = Redactor::default();
        let mut progress = Progress::new(&redactor);
        progress.absorb(log(b"no line end"));
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
        let events = progress.absorb(status);
        let kinds: Vec<_> = events.into_iter().map(|event| event.kind).collect();
        assert_eq!(
            kinds,
            [
                BuildEventKind::Started,
                BuildEventKind::Stdout("no line end".to_owned()),
                BuildEventKind::Failed { duration_ms: 2000, error: "exit code: 1".to_owned() },
            ]
        );
    }

    fn bollard_time(seconds: i64) -> bollard_buildkit_proto::google::protobuf::Timestamp {
        bollard_buildkit_proto::google::protobuf::Timestamp { seconds, nanos: 0 }
    }
}
