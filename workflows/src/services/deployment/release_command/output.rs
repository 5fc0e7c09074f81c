//! The output of a release command on its way to the deployment's log.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::mpsc;

use crate::{
    engine::{core::Core, readiness::now_ms},
    error::StepError,
    ids::DeploymentId,
    ports::{BuildEvent, BuildEventKind, OutputStream, TaskEnd, TaskLine, TaskSpec},
    step::Step,
};

/// Lines written in one transaction.
const BATCH: usize = 256;
/// Lines that a failure shows.
const TAIL: usize = 50;
/// Values of variables that are taken out. Shorter ones are words of every
/// program's output: replacing them would hide nothing and spoil everything.
const SHORTEST: usize = 8;

/// Writes lines, and keeps the last of them.
pub(super) struct Output {
    core: Arc<Core>,
    id: DeploymentId,
    /// Longest first.
    secrets: Vec<String>,
    /// Lines that an earlier try has written: whoever joins sees them again.
    written: u64,
    seen: u64,
    bytes: u64,
    begun: i64,
    tail: VecDeque<String>,
}

impl Output {
    pub(super) async fn of(core: &Arc<Core>, task: &TaskSpec) -> Result<Self, StepError> {
        let id = task.run.plan.deployment_id.clone();
        let values = task.run.env.values().flat_map(|value| value.expose().lines());
        let long = values.map(str::trim).filter(|line| line.len() >= SHORTEST);
        let mut secrets: Vec<String> = long.map(str::to_owned).collect();
        secrets.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let written = core.store.logged_lines(&id, Step::ReleaseCommand.name()).await?;
        let tail = VecDeque::with_capacity(TAIL);
        let begun = now_ms();
        let output =
            Self { core: Arc::clone(core), id, secrets, written, seen: 0, bytes: 0, begun, tail };
        if !task.join_only {
            output.append(vec![event(begun, BuildEventKind::Started)]).await;
        }
        Ok(output)
    }

    /// Until the channel is closed.
    pub(super) async fn write(mut self, mut lines: mpsc::Receiver<TaskLine>) -> Self {
        let mut batch = Vec::with_capacity(BATCH);
        while lines.recv_many(&mut batch, BATCH).await > 0 {
            let events: Vec<_> =
                batch.drain(..).filter_map(|line: TaskLine| self.taken(line)).collect();
            self.append(events).await;
        }
        self
    }

    /// The event of a line that is to be written.
    fn taken(&mut self, line: TaskLine) -> Option<BuildEvent> {
        let mut text = line.text;
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "<secret>");
            }
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(text.clone());
        let limit = self.core.settings.build_max_output;
        let fitted = self.bytes <= limit;
        self.bytes += text.len() as u64;
        self.seen += 1;
        if !fitted || self.seen <= self.written {
            return None;
        }
        if self.bytes > limit {
            text = "[launchway keeps no more of the output: see build.max_output_bytes]".to_owned();
        }
        Some(event(line.at, BuildEventKind::Output { stream: line.stream, text, ends: true }))
    }

    /// Closes the command's part of the log.
    pub(super) async fn ended(&mut self, end: &TaskEnd) {
        let duration_ms = now_ms() - self.begun;
        let kind = match end {
            TaskEnd::Exited { exit_code: 0, timed_out: false, .. } => {
                BuildEventKind::Done { duration_ms }
            }
            TaskEnd::Exited { exit_code, timed_out, .. } => {
                let error = match timed_out {
                    true => "it was ended at its time limit".to_owned(),
                    false => format!("exit code: {exit_code}"),
                };
                BuildEventKind::Failed { duration_ms, error }
            }
            TaskEnd::Unknown => return,
        };
        self.append(vec![event(now_ms(), kind)]).await;
    }

    /// The last lines.
    pub(super) fn tail(self) -> Vec<String> {
        self.tail.into()
    }

    async fn append(&self, events: Vec<BuildEvent>) {
        if events.is_empty() {
            return;
        }
        if let Err(error) = self.core.store.append_build_log(&self.id, &events).await {
            // A command is not failed for its log; the gap is said once.
            let (id, lost) = (&self.id, events.len());
            tracing::warn!(deployment = %id, %error, lost, "output of the release command was lost");
        }
    }
}

fn event(at: i64, kind: BuildEventKind) -> BuildEvent {
    BuildEvent { at, vertex: Step::ReleaseCommand.name().to_owned(), kind }
}

/// What a task has printed, as its runtime names it.
impl TaskLine {
    /// By the name of the stream.
    pub fn of_stream(at: i64, stream: &str, text: String) -> Self {
        let stream = if stream == "stderr" { OutputStream::Stderr } else { OutputStream::Stdout };
        Self { at, stream, text }
    }
}
