//! Pieces of sentences.

use std::time::Duration;

use super::Facts;
use crate::{engine::undo::Undone, error::StepFailure, step::Step};

/// `Deployment dep_… (shop, preview)`, with the attempt where there was another
/// one.
pub(super) fn subject(facts: &Facts) -> String {
    let (id, project, environment) =
        (&facts.deployment_id, &facts.project, &facts.environment.name);
    let attempt = match facts.attempt {
        0 | 1 => String::new(),
        attempt => format!(", attempt {attempt}"),
    };
    format!("Deployment {id} ({project}, {environment}{attempt})")
}

/// `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub(super) fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    let two = |large: i64, unit: &str, small: i64, rest: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {rest}"),
    };
    match seconds {
        0 => "less than 1 s".to_owned(),
        1..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

pub(super) fn time(duration: Duration) -> String {
    span(millis(duration))
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// `in 12 s`, or `within moments`.
pub(super) fn until(at: i64, now: i64) -> String {
    match at - now {
        left if left >= 1000 => format!("in {}", span(left)),
        _ => "within moments".to_owned(),
    }
}

/// The text as the end of a sentence, whatever it ends with itself.
pub(super) fn ended(text: &str) -> String {
    let text = text.trim();
    match text.ends_with(['.', '!', '?', '…']) {
        true => text.to_owned(),
        false => format!("{text}."),
    }
}

/// What a step does: a deployment "has been …" or "is …".
pub(super) fn doing(step: Step) -> &'static str {
    match step {
        Step::LoadDeployment => "reading what is to be deployed",
        Step::AcquireSlot => "waiting for a build slot",
        Step::PresignContext => "checking the uploaded build context",
        Step::BuildImage => "building its image",
        Step::ReleaseSlot => "giving its build slot back",
        Step::PushImage => "pushing its image to the registry",
        Step::ReleaseCommand => "running its release command",
        Step::DeployToKrane => "starting its instances",
        Step::AwaitReady => "waiting for its instances to be ready",
        Step::AssignDomains => "moving its domains",
        Step::ScrapeOpenapi => "looking for an OpenAPI description",
        Step::RetirePrevious => "scheduling the retirement of earlier deployments",
    }
}

/// Who has to act before the step ends.
pub(super) fn waiting_for(step: Step) -> &'static str {
    match step {
        Step::LoadDeployment | Step::ReleaseSlot | Step::RetirePrevious => "the database",
        Step::AcquireSlot => "a build slot",
        Step::PresignContext => "the object store",
        Step::BuildImage => "the builder",
        Step::PushImage => "the registry",
        Step::ReleaseCommand => "its release command to end",
        Step::DeployToKrane => "the runtime (krane)",
        Step::AwaitReady => "its instances to be ready",
        Step::AssignDomains => "its domains to move",
        Step::ScrapeOpenapi => "the application",
    }
}

/// The failure in a sentence, with the last words of a log that explains it.
pub(super) fn failure(failure: &StepFailure) -> String {
    let message = ended(&failure.message);
    match failure.log_tail.iter().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("{message} The last line of its output: \"{}\".", line.trim()),
        None => message,
    }
}

/// What was taken back and what is left.
pub(super) fn undone(undone: &[Undone]) -> Vec<String> {
    let notes = |failed: bool| {
        let notes: Vec<&str> = undone
            .iter()
            .filter(|undone| undone.failed == failed)
            .map(|undone| undone.note.trim_end_matches('.'))
            .collect();
        (!notes.is_empty()).then(|| notes.join(", "))
    };
    let done = notes(false).map(|notes| format!("Rolled back: {notes}."));
    let left = notes(true).map(|notes| format!("Not rolled back: {notes}."));
    done.into_iter().chain(left).collect()
}
