//! A build on a terminal: what runs with its time and the end of its output;
//! what is over, one line.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use launchway_proto::ctrl::v1::BuildLogLine;

use super::{render::log_text, time::duration};

/// Lines of output below a vertex that runs, and above the error of one that
/// failed.
const SHOWN: usize = 5;
const KEPT: usize = 50;
const TICK: Duration = Duration::from_millis(100);

/// The vertices that run now.
#[derive(Default)]
pub(super) struct Vertices {
    running: HashMap<String, Running>,
}

struct Running {
    bar: ProgressBar,
    output: VecDeque<String>,
}

impl Vertices {
    /// Takes an event in; the lines that it leaves for good.
    pub(super) fn absorb(&mut self, screen: &MultiProgress, line: &BuildLogLine) -> Vec<String> {
        let internal = line.vertex.starts_with("[internal]");
        match line.kind.as_str() {
            // The builder's own vertices are noise unless they fail.
            "vertex-failed" => self.failed(line),
            _ if internal => Vec::new(),
            "vertex-started" => {
                self.running.insert(line.vertex.clone(), Running::begin(screen, &line.vertex));
                Vec::new()
            }
            "vertex-done" => {
                self.end(&line.vertex);
                let took = duration(line.duration_ms);
                vec![format!("\x1b[32m  ✓\x1b[0m {} \x1b[90m{took}\x1b[0m", line.vertex)]
            }
            "vertex-cached" => {
                self.end(&line.vertex);
                vec![format!("\x1b[32m  ✓\x1b[0m {} \x1b[36mcached\x1b[0m", line.vertex)]
            }
            _ => {
                if let Some(running) = self.running.get_mut(&line.vertex) {
                    running.said(log_text(line));
                }
                Vec::new()
            }
        }
    }

    /// Takes everything off the screen.
    pub(super) fn clear(&mut self) {
        self.running.drain().for_each(|(_, running)| running.bar.finish_and_clear());
    }

    fn failed(&mut self, line: &BuildLogLine) -> Vec<String> {
        let output = self.end(&line.vertex);
        let mut lines: Vec<String> =
            output.iter().map(|text| format!("\x1b[90m  │\x1b[0m {text}")).collect();
        lines.push(format!("\x1b[31m  ✗\x1b[0m {} {}", line.vertex, line.text));
        lines
    }

    fn end(&mut self, vertex: &str) -> VecDeque<String> {
        let ended = self.running.remove(vertex);
        ended.map_or_else(VecDeque::new, |running| {
            running.bar.finish_and_clear();
            running.output
        })
    }
}

impl Running {
    fn begin(screen: &MultiProgress, vertex: &str) -> Self {
        let bar = spinner(screen, "  {spinner:.cyan} {prefix} {elapsed:.dim}{msg:.dim}", vertex);
        Self { bar, output: VecDeque::new() }
    }

    fn said(&mut self, text: String) {
        if self.output.len() == KEPT {
            self.output.pop_front();
        }
        self.output.push_back(text);
        let shown = self.output.iter().skip(self.output.len().saturating_sub(SHOWN));
        self.bar
            .set_message(shown.map(|line| format!("\n  │ {}", fitting(line))).collect::<String>());
    }
}

/// Something that runs, at the end of the screen.
pub(super) fn spinner(screen: &MultiProgress, template: &str, prefix: &str) -> ProgressBar {
    let bar = screen.add(ProgressBar::new_spinner().with_prefix(prefix.to_owned()));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// What of a line fits on the terminal, without colours that would go on into
/// the next one.
fn fitting(line: &str) -> String {
    let plain = console::strip_ansi_codes(line).replace(['\t', '\r'], " ");
    let width = usize::from(console::Term::stderr().size().1).saturating_sub(6);
    console::truncate_str(&plain, width, "…").into_owned()
}
