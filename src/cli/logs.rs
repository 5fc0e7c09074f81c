//! `logs`: a build's output, followed through whatever happens to the server.

use launchway_proto::ctrl::v1::{BuildLogLine, StreamBuildLogsRequest};
use launchway_workflows::step::Step;
use serde_json::json;

use super::{
    Exit, Failure,
    args::{Global, LogsArgs},
    connect::connect,
    deploy::await_return,
    render::{Renderer, emit, log_json, log_text, print, print_open},
};

pub(super) async fn logs(global: &Global, args: LogsArgs) -> Result<Exit, Failure> {
    let mut api = connect(global).await?;
    let renderer = Renderer::of(global);
    let (mut output, mut away) = (LogPrinter::new(global.json, args.release), 0);
    loop {
        let request = StreamBuildLogsRequest {
            deployment_id: args.id.clone(),
            attempt: args.attempt.unwrap_or(0),
            after: output.cursor,
            follow: args.follow,
        };
        let interrupted = match api.deployments.stream_build_logs(request).await {
            Ok(lines) => match print_all(lines.into_inner(), &mut output).await {
                Ok(()) => break,
                Err(status) => status,
            },
            Err(status) => status,
        };
        // Whoever follows sees it to its end, whatever happens in between.
        if !args.follow {
            return Err(Failure::of_call(&interrupted));
        }
        away = if output.moved() { 1 } else { away + 1 };
        await_return(&interrupted, away, &renderer).await?;
    }
    if global.json {
        emit(&json!({"type": "result", "lines": output.count}));
    }
    Ok(Exit::Success)
}

async fn print_all(
    mut lines: tonic::Streaming<BuildLogLine>,
    output: &mut LogPrinter,
) -> Result<(), tonic::Status> {
    while let Some(line) = lines.message().await? {
        output.print(&line);
    }
    Ok(())
}

/// Prints a build's output and remembers how far it is.
struct LogPrinter {
    json: bool,
    cursor: i64,
    seen: i64,
    count: u64,
    /// Nothing but the release command's.
    only_release: bool,
    /// Whose line has not ended.
    open: Option<(String, String)>,
}

impl LogPrinter {
    fn new(json: bool, only_release: bool) -> Self {
        Self { json, cursor: 0, seen: 0, count: 0, only_release, open: None }
    }

    /// Whether anything was printed since the last question.
    fn moved(&mut self) -> bool {
        std::mem::replace(&mut self.seen, self.cursor) != self.cursor
    }

    fn print(&mut self, line: &BuildLogLine) {
        self.cursor = line.cursor;
        if self.only_release && line.vertex != Step::ReleaseCommand.name() {
            return;
        }
        self.count += 1;
        if self.json {
            return emit(&log_json(line));
        }
        let (kind, ends) = match line.kind.strip_suffix("-part") {
            Some(kind) => (kind, false),
            None => (line.kind.as_str(), true),
        };
        let origin = (line.vertex.clone(), kind.to_owned());
        if self.open.take().is_some_and(|open| open != origin) {
            print("");
        }
        if ends {
            print(&log_text(line));
        } else {
            print_open(&log_text(line));
            self.open = Some(origin);
        }
    }
}
