//! Progress of a deployment: on a terminal, in a pipe, or as JSON.

use std::{
    collections::HashMap,
    io::{IsTerminal, Write},
    sync::Mutex,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use launchway_proto::ctrl::v1::{BuildLogLine, Deployment, DeploymentStep};
use launchway_workflows::step::Step;
use serde_json::json;

use super::{
    Failure,
    args::{Global, Progress},
    query::deployment_json,
    time::{clock, duration, now_ms},
    vertices::{Vertices, spinner},
};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Colours and a bar on stderr.
    Terminal,
    /// Lines with a time on stderr.
    Plain,
    /// One object per line on stdout.
    Json,
}

/// Shows what happens while it happens.
pub(super) struct Renderer {
    mode: Mode,
    screen: MultiProgress,
    bar: Mutex<Option<ProgressBar>>,
    vertices: Vertices,
    /// The step that runs, on a terminal.
    running: Option<ProgressBar>,
    /// Last shown status, try and message by step and attempt.
    shown: HashMap<(String, u32), (String, u32, String)>,
    /// Earlier attempts are not shown.
    from_attempt: u32,
    /// Neither steps nor build output.
    quiet: bool,
}

impl Drop for Renderer {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Renderer {
    /// As the flags ask for it.
    pub(super) fn of(global: &Global) -> Self {
        let progress = if global.json { Progress::Json } else { global.progress };
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self::with(match progress {
            Progress::Json => Mode::Json,
            Progress::Tty => Mode::Terminal,
            Progress::Auto if std::io::stderr().is_terminal() && colours => Mode::Terminal,
            Progress::Auto | Progress::Plain => Mode::Plain,
        })
    }

    /// For a single note to people.
    pub(super) fn for_people() -> Self {
        Self::with(if std::io::stderr().is_terminal() { Mode::Terminal } else { Mode::Plain })
    }

    fn with(mode: Mode) -> Self {
        Self {
            mode,
            screen: MultiProgress::new(),
            bar: Mutex::new(None),
            vertices: Vertices::default(),
            running: None,
            shown: HashMap::new(),
            from_attempt: 0,
            quiet: false,
        }
    }

    /// Shows nothing of the attempts before this one.
    pub(super) fn since_attempt(mut self, attempt: u32) -> Self {
        self.from_attempt = attempt;
        self
    }

    /// Shows neither steps nor build output.
    pub(super) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Something worth a line.
    pub(super) fn note(&self, text: &str) {
        match self.mode {
            Mode::Json => emit(&json!({"type": "note", "message": text})),
            Mode::Terminal => self.line(text),
            Mode::Plain => self.line(&format!("{} {text}", clock(now_ms()))),
        }
    }

    pub(super) fn warning(&self, text: &str) {
        match self.mode {
            Mode::Json => emit(&json!({"type": "warning", "message": text})),
            Mode::Terminal => self.line(&format!("\x1b[33mwarning:\x1b[0m {text}")),
            Mode::Plain => self.line(&format!("{} warning: {text}", clock(now_ms()))),
        }
    }

    /// Begins a bar of bytes and rate, on a terminal.
    pub(super) fn begin_bytes(&self, what: &'static str, total: u64) {
        if self.mode == Mode::Terminal
            && let Ok(mut bar) = self.bar.lock()
        {
            let template = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}";
            let style = ProgressStyle::with_template(template);
            let new = self.screen.add(ProgressBar::new(total).with_prefix(what));
            if let Ok(style) = style {
                new.set_style(style);
            }
            *bar = Some(new);
        }
    }

    pub(super) fn bytes(&self, done: u64) {
        if let Ok(bar) = self.bar.lock()
            && let Some(bar) = bar.as_ref()
        {
            bar.set_position(done);
        }
    }

    pub(super) fn end_bytes(&self) {
        if let Ok(mut bar) = self.bar.lock()
            && let Some(bar) = bar.take()
        {
            bar.finish_and_clear();
        }
    }

    /// The steps whose status has changed.
    pub(super) fn deployment(&mut self, deployment: &Deployment) {
        let prints = |step: &DeploymentStep| {
            ["build-image", "release-command"].contains(&step.name.as_str())
                && step.status == "running"
        };
        if !deployment.steps.iter().any(prints) {
            self.vertices.clear();
        }
        let (quiet, from) = (self.quiet, self.from_attempt);
        for step in deployment.steps.iter().filter(|step| !quiet && step.attempt >= from) {
            let key = (step.name.clone(), step.attempt);
            let state = (step.status.clone(), step.tries, step.message.clone());
            if self.shown.get(&key) == Some(&state) {
                continue;
            }
            let retried = step.status == "running" && step.tries > 1;
            self.shown.insert(key, state);
            self.step(step, retried);
        }
    }

    fn step(&mut self, step: &DeploymentStep, retried: bool) {
        let took = step.ended_at.map(|ended| duration(ended - step.started_at));
        if self.mode == Mode::Json {
            emit(&json!({
                "type": "step", "name": step.name, "status": step.status, "attempt": step.attempt,
                "tries": step.tries, "started_at": step.started_at, "ended_at": step.ended_at,
                "error": some(&step.error_message),
            }));
            return;
        }
        let (sign, colour) = match step.status.as_str() {
            "done" => ("✓", 32),
            "skipped" => ("–", 90),
            "failed" => ("✗", 31),
            "cancelled" => ("✗", 33),
            _ => ("…", 36),
        };
        let reason =
            if step.error_message.is_empty() { &step.message } else { &step.error_message };
        let detail = match (retried, reason.is_empty()) {
            (true, _) => format!(" (try {}) {reason}", step.tries),
            (false, true) => String::new(),
            (false, false) => format!(" {reason}"),
        };
        let took = took.unwrap_or_default();
        match self.mode {
            Mode::Terminal => {
                if let Some(before) = self.running.take() {
                    before.finish_and_clear();
                }
                // What runs is shown until it has a line of its own.
                if step.status == "running" {
                    let template = "{spinner:.cyan} {prefix:<16} {elapsed:>9.dim}{msg}";
                    let bar = spinner(&self.screen, template, &step.name);
                    bar.set_message(detail);
                    self.running = Some(bar);
                } else {
                    let line =
                        format!("\x1b[{colour}m{sign}\x1b[0m {:<16} {took:>9}{detail}", step.name);
                    self.line(&line);
                }
            }
            _ => self.line(&format!(
                "{} {:<16} {:<9} {took}{detail}",
                clock(now_ms()),
                step.name,
                step.status
            )),
        }
    }

    /// An event of the build.
    pub(super) fn build_log(&mut self, line: &BuildLogLine) {
        if self.quiet || line.attempt < self.from_attempt {
            return;
        }
        match self.mode {
            Mode::Json => emit(&log_json(line)),
            Mode::Terminal => {
                let left = self.vertices.absorb(&self.screen, line);
                left.iter().for_each(|text| self.line(text));
            }
            Mode::Plain => {
                // The builder's own vertices are noise unless they fail.
                let internal =
                    line.vertex.starts_with("[internal]") && line.kind != "vertex-failed";
                let text = log_text(line);
                if !(text.is_empty() || internal) {
                    let release = line.vertex == Step::ReleaseCommand.name();
                    let what = if release { "release" } else { "build" };
                    self.line(&format!("{} {what} | {text}", clock(line.at)));
                }
            }
        }
    }

    /// Takes what runs off the screen: it is not followed any more.
    fn leave(&mut self) {
        self.vertices.clear();
        if let Some(running) = self.running.take() {
            running.finish_and_clear();
        }
    }

    /// Why a deployment did not succeed.
    pub(super) fn failed(&self, deployment: &Deployment) {
        let Some(failure) = &deployment.failure else { return };
        if self.mode == Mode::Json {
            return;
        }
        let mut text = failed_text(&deployment.state, failure);
        text.push_str(&format!("\n  code {} (docs/errors/{}.md)", failure.code, failure.code));
        text.push_str(&format!("\n  more: launchway inspect {}", deployment.id));
        self.line(&text);
    }

    /// The end: JSON, or the URL or the image alone.
    pub(super) fn result(&mut self, deployment: &Deployment) {
        self.leave();
        match self.mode {
            Mode::Json => {
                let mut result = deployment_json(deployment);
                result["type"] = json!("result");
                emit(&result);
            }
            // A build by itself has no URL.
            _ if deployment.state == "built" => print(&deployment.image_name),
            _ => {
                if !deployment.url.is_empty() {
                    print(&deployment.url);
                }
            }
        }
    }

    fn line(&self, text: &str) {
        let write = || {
            // A closed stderr must not end a deployment.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        };
        self.screen.suspend(write);
    }
}

/// Why an attempt ended, what was taken back and what was not, what to do.
pub(super) fn failed_text(state: &str, failure: &launchway_proto::ctrl::v1::Failure) -> String {
    let at = if failure.step.is_empty() { String::new() } else { format!(" at {}", failure.step) };
    let mut text = format!("{state}{at}: {} ({})", failure.message, failure.code);
    for (what, lines) in [
        ("  | ", &failure.log_tail),
        ("  rolled back: ", &failure.rolled_back),
        ("  left behind: ", &failure.left_behind),
    ] {
        lines.iter().for_each(|line| text.push_str(&format!("\n{what}{line}")));
    }
    text.push_str(&format!("\n  {}", failure.remedy));
    text
}

/// An empty text is no text.
pub(super) fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn log_json(line: &BuildLogLine) -> serde_json::Value {
    json!({
        "type": "build-log", "cursor": line.cursor, "attempt": line.attempt, "at": line.at,
        "vertex": line.vertex, "kind": line.kind, "text": line.text, "duration_ms": line.duration_ms,
    })
}

/// As `docker build` writes it.
pub(super) fn log_text(line: &BuildLogLine) -> String {
    match line.kind.as_str() {
        "stdout" | "stderr" | "stdout-part" | "stderr-part" => line.text.clone(),
        "vertex-started" => line.vertex.clone(),
        "vertex-cached" => format!("{} CACHED", line.vertex),
        "vertex-done" => format!("{} DONE {}", line.vertex, duration(line.duration_ms)),
        "vertex-failed" => format!("{} ERROR {}", line.vertex, line.text),
        _ => String::new(),
    }
}

/// One line on stdout; a reader that went away is fine.
pub(super) fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A part of a line.
pub(super) fn print_open(text: &str) {
    let _ = write!(std::io::stdout().lock(), "{text}");
}

pub(super) fn emit(value: &serde_json::Value) {
    print(&value.to_string());
}

/// The last words of a command that failed.
pub(super) fn failure(failure: &Failure, json: bool) {
    if json {
        emit(
            &json!({"type": "result", "error": failure.message, "exit_code": failure.exit.code()}),
        );
    } else {
        let _ = writeln!(std::io::stderr().lock(), "error: {}", failure.message);
    }
}

/// Columns as wide as their widest cell.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    print(&line(&header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()));
    for row in rows {
        print(&line(row));
    }
}
