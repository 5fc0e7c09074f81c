//! Errors of steps: what failed, whose fault it is, and what to do about it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ports::StoreError, step::Step};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, exit $exit:literal, $remedy:literal;)*) => {
        /// A stable code: tests, scripts and `docs/errors/<code>.md` rely on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "kebab-case")]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* }

        impl ErrorCode {
            /// Every code; each has a page under `docs/errors/`.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The kebab-case name.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// The CLI's exit code for a deployment that ended with this error.
            pub fn exit_code(self) -> u8 {
                match self { $(ErrorCode::$variant => $exit,)* }
            }

            /// What a user can do, in one sentence.
            pub fn remedy(self) -> &'static str {
                match self { $(ErrorCode::$variant => $remedy,)* }
            }
        }
    };
}

error_codes! {
    /// The Dockerfile or a command in it failed.
    BuildFailed, "build-failed", exit 3, "Fix the Dockerfile or the source it builds, then deploy again.";
    /// The context has no Dockerfile at the given path.
    DockerfileMissing, "dockerfile-missing", exit 3, "Add a Dockerfile, or name it with --dockerfile.";
    /// A base image does not exist or may not be pulled.
    BaseImageUnavailable, "base-image-unavailable", exit 3, "Check the FROM reference and the registry credentials.";
    /// The build ran longer than its limit.
    BuildTimeout, "build-timeout", exit 3, "Make the build faster or raise build.time_limit.";
    /// The uploaded context is not in the object store, or is another one.
    ContextMissing, "context-missing", exit 1, "Deploy again: the upload did not complete or was removed.";
    /// The builder could not read the context from the object store.
    ContextUnreachable, "context-unreachable", exit 1, "Check storage.builder_url: the builder must reach it.";
    /// The builder does not answer or lost the build.
    BuilderUnavailable, "builder-unavailable", exit 1, "Check that the builder runs (`launchway doctor`).";
    /// The disk of the builder is full.
    BuilderOutOfDisk, "builder-out-of-disk", exit 1, "Free disk space on the builder (`docker system df`).";
    /// The registry refused the credentials.
    RegistryAuth, "registry-auth", exit 3, "Check the registry credentials.";
    /// The registry does not answer.
    RegistryUnavailable, "registry-unavailable", exit 3, "Check that the registry runs and is reachable.";
    /// The image to deploy does not exist.
    ImageUnavailable, "image-unavailable", exit 1, "Check the image reference and the pull credentials.";
    /// The runtime refused the deployment.
    RuntimeRejected, "runtime-rejected", exit 1, "Read the runtime's message and correct the deployment's settings.";
    /// No node has room for an instance.
    Unschedulable, "unschedulable", exit 1, "Free or add capacity, or ask for less CPU and memory.";
    /// A quota of the runtime is used up.
    QuotaExceeded, "quota-exceeded", exit 1, "Raise the quota (kubernetes.max_*), or stop what is not needed any more.";
    /// The runtime does not answer.
    RuntimeUnavailable, "runtime-unavailable", exit 1, "Check that krane and the container engine run (`launchway doctor`).";
    /// The release command did not end with 0.
    ReleaseFailed, "release-failed", exit 4, "Read the command's last lines and fix what made it fail; then deploy again, or `retry` it.";
    /// Nobody knows whether the release command has run to its end.
    ReleaseInterrupted, "release-interrupted", exit 1, "Look whether it has done its work; `launchway retry ID --from release-command` runs it again, and with `release_idempotent = true` in launchway.toml that happens by itself.";
    /// An instance ended before it was ready.
    InstanceExited, "instance-exited", exit 4, "Read the instance's last log lines and fix what made it exit.";
    /// An instance needed more memory than it may have.
    OutOfMemory, "out-of-memory", exit 4, "Raise the memory limit of the process, or make it need less.";
    /// The instances were not ready in time.
    NotReady, "not-ready", exit 4, "Answer below 500 on the health path, on the port given by PORT.";
    /// The object store does not answer.
    StorageUnavailable, "storage-unavailable", exit 1, "Check the object store (`launchway doctor`).";
    /// The database does not answer.
    DatabaseUnavailable, "database-unavailable", exit 1, "Check the database (`launchway doctor`).";
    /// A newer attempt or deployment owns the row.
    Overtaken, "overtaken", exit 6, "Nothing to do: a newer attempt took over.";
    /// The deployment's row does not exist.
    DeploymentUnknown, "deployment-unknown", exit 9, "Submit the deployment through `Deployments/create` or the CLI.";
    /// A newer deployment of the same branch took its place in the queue.
    Superseded, "superseded", exit 6, "Nothing to do: the newer one has the newer source. `redeploy` builds this one anyway.";
    /// The deployment was cancelled.
    Cancelled, "cancelled", exit 5, "`retry` goes on from there; or deploy again.";
    /// The workflow ended without saying why.
    Interrupted, "interrupted", exit 1, "`retry` goes on from there; what had been started was undone.";
    /// A defect of launchway.
    Internal, "internal", exit 1, "Please report this with `launchway inspect` and the logs.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a step's action failed.
///
/// Deliberately not a [`std::error::Error`]: the SDK turns any such error into
/// a *retryable* one, so a bare `?` would retry a bad Dockerfile forever.
#[derive(Debug, Clone)]
pub enum StepError {
    /// Trying again cannot help: the user's or the configuration's error.
    Permanent(StepFailure),
    /// Trying again may help; after the step's last try it is permanent.
    Transient(StepFailure),
}

impl StepError {
    /// A permanent error.
    pub fn permanent(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Permanent(StepFailure::new(code, message))
    }

    /// A transient error.
    pub fn transient(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Transient(StepFailure::new(code, message))
    }

    /// The same error with the last lines of the log that explain it.
    pub fn with_log_tail(self, lines: Vec<String>) -> Self {
        match self {
            Self::Permanent(failure) => Self::Permanent(failure.with_log_tail(lines)),
            Self::Transient(failure) => Self::Transient(failure.with_log_tail(lines)),
        }
    }

    /// What failed, without whether to try again.
    pub fn failure(&self) -> &StepFailure {
        match self {
            Self::Permanent(failure) | Self::Transient(failure) => failure,
        }
    }
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::transient(ErrorCode::DatabaseUnavailable, error.to_string())
    }
}

/// Most bytes of a message, and of a log tail, that enter the journal.
const MAX_TEXT: usize = 4 * 1024;
/// Most lines of a log tail.
const MAX_TAIL_LINES: usize = 50;

/// A failure as journaled and shown: plain data, at most 8 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepFailure {
    /// The stable code.
    pub code: ErrorCode,
    /// One or a few sentences that name the input and the rule.
    pub message: String,
    /// The last lines of the build's or the instance's output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// The step it failed at; filled in by the step helper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
}

impl StepFailure {
    /// A failure; the message is capped.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: cap(message.into(), MAX_TEXT), log_tail: Vec::new(), step: None }
    }

    /// Keeps the last lines that fit.
    pub fn with_log_tail(mut self, lines: Vec<String>) -> Self {
        let mut budget = MAX_TEXT;
        let mut tail: Vec<String> = Vec::new();
        for line in lines.into_iter().rev().take(MAX_TAIL_LINES) {
            if line.len() > budget {
                break;
            }
            budget -= line.len();
            tail.push(line);
        }
        tail.reverse();
        self.log_tail = tail;
        self
    }

    /// The failure as it happened at `step`.
    pub fn at(mut self, step: Step) -> Self {
        self.step.get_or_insert(step);
        self
    }
}

impl fmt::Display for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(f, "{step}: {} ({})", self.message, self.code),
            None => write!(f, "{} ({})", self.message, self.code),
        }
    }
}

fn cap(text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    let mut end = max - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_stays_under_eight_kib_whatever_it_is_given() {
        let failure = StepFailure::new(ErrorCode::BuildFailed, "ä".repeat(10_000))
            .with_log_tail(vec!["x".repeat(300); 400]);
        assert!(serde_json::to_string(&failure).unwrap().len() <= 8 * 1024 + 512);
        assert!(failure.message.ends_with('…'));
        assert!(!failure.log_tail.is_empty() && failure.log_tail.len() <= MAX_TAIL_LINES);
    }

    #[test]
    fn every_code_has_its_page() {
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
        for code in ErrorCode::ALL {
            let page = pages.join(format!("{code}.md"));
            assert!(page.is_file(), "{} is missing", page.display());
        }
    }
}
