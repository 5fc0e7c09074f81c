//! `logs --runtime`: output of the instances, followed through whatever happens
//! to the server.

use std::collections::HashMap;

use launchway_proto::{ctrl::v1::StreamRuntimeLogsRequest, krane::v1::LogLine};
use serde_json::{Value, json};

use super::{
    Exit, Failure,
    args::{Global, LogsArgs},
    connect::{Api, connect},
    deploy::await_return,
    render::{Renderer, emit, print},
    time::now_ms,
};

/// How far behind the newest line another instance's may still come, in
/// milliseconds: what is asked for again after a break.
const OVERLAP: i64 = 10_000;

pub(super) async fn logs(global: &Global, args: LogsArgs) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let renderer = Renderer::of(global);
    let since = args.runtime.since.map(|since| {
        now_ms().saturating_sub(i64::try_from(since.get().as_millis()).unwrap_or(i64::MAX))
    });
    let mut request = StreamRuntimeLogsRequest {
        deployment_id: args.id,
        follow: args.follow,
        tail: args.runtime.tail.unwrap_or(0),
        since: since.unwrap_or(0),
        replica: args.runtime.replica,
        process: args.runtime.process.unwrap_or_default(),
    };
    let (mut output, mut away) = (Printer::new(global.json), 0);
    while let Err(interrupted) = print_all(&mut api, request.clone(), &mut output).await {
        // Whoever follows sees it to its end, whatever happens in between.
        if !args.follow {
            return Err(Failure::of_call(&interrupted));
        }
        away = if output.moved() { 1 } else { away + 1 };
        await_return(&interrupted, away, &renderer).await?;
        if output.newest > 0 {
            (request.since, request.tail) = (output.newest - OVERLAP, 0);
            output.begin_again();
        }
    }
    if global.json {
        emit(&json!({"type": "result", "lines": output.count}));
    }
    Ok(Exit::Success)
}

async fn print_all(
    api: &mut Api,
    request: StreamRuntimeLogsRequest,
    output: &mut Printer,
) -> Result<(), tonic::Status> {
    let mut lines = api.runtime.stream_runtime_logs(request).await?.into_inner();
    while let Some(message) = lines.message().await? {
        match message.line {
            None => output.several |= message.instances > 1,
            Some(line) => output.print(&line),
        }
    }
    Ok(())
}

/// Prints lines, each once.
struct Printer {
    json: bool,
    /// Lines say whose they are.
    several: bool,
    count: u64,
    seen: u64,
    newest: i64,
    by_instance: HashMap<String, Last>,
    /// What a stream that begins again may bring again.
    known: HashMap<String, Last>,
}

/// The last lines of an instance, which are all of one millisecond.
#[derive(Default, Clone)]
struct Last {
    at: i64,
    texts: Vec<String>,
}

impl Last {
    fn note(&mut self, line: &LogLine) {
        if line.at > self.at {
            (self.at, self.texts) = (line.at, Vec::new());
        }
        self.texts.push(line.text.clone());
    }

    /// The line is one of these or older; each counts once.
    fn takes(&mut self, line: &LogLine) -> bool {
        if line.at != self.at {
            return line.at < self.at;
        }
        let at = self.texts.iter().position(|text| *text == line.text);
        at.map(|at| self.texts.swap_remove(at)).is_some()
    }
}

impl Printer {
    fn new(json: bool) -> Self {
        Self {
            json,
            several: false,
            count: 0,
            seen: 0,
            newest: 0,
            by_instance: HashMap::new(),
            known: HashMap::new(),
        }
    }

    /// Whether anything was printed since the last question.
    fn moved(&mut self) -> bool {
        std::mem::replace(&mut self.seen, self.count) != self.count
    }

    /// Lines come again, from a while ago.
    fn begin_again(&mut self) {
        self.known.clone_from(&self.by_instance);
    }

    fn print(&mut self, line: &LogLine) {
        if self.known.get_mut(&line.instance_id).is_some_and(|last| last.takes(line)) {
            return;
        }
        self.count += 1;
        self.newest = self.newest.max(line.at);
        self.by_instance.entry(line.instance_id.clone()).or_default().note(line);
        self.several |= self.by_instance.len() > 1;
        if self.json {
            emit(&line_json(line));
        } else if self.several {
            print(&format!("{}.{} | {}", line.process, line.replica, line.text));
        } else {
            print(&line.text);
        }
    }
}

pub(super) fn line_json(line: &LogLine) -> Value {
    json!({
        "type": "log", "at": line.at, "instance": line.instance_id, "process": line.process,
        "replica": line.replica, "stream": line.stream, "text": line.text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(instance: &str, at: i64, text: &str) -> LogLine {
        let (instance_id, text) = (instance.to_owned(), text.to_owned());
        LogLine { instance_id, at, text, ..LogLine::default() }
    }

    #[test]
    fn what_comes_again_after_a_break_is_printed_once() {
        let mut output = Printer::new(true);
        let before = [line("a", 1, "x"), line("a", 2, "y"), line("a", 2, "y"), line("b", 1, "z")];
        before.iter().for_each(|line| output.print(line));
        assert_eq!((output.count, output.newest), (4, 2), "equal lines are lines");
        output.begin_again();
        before.iter().for_each(|line| output.print(line));
        assert_eq!(output.count, 4);
        [line("a", 2, "y"), line("b", 2, "w")].iter().for_each(|line| output.print(line));
        assert_eq!(output.count, 6, "one that was not there before is new");
    }
}
