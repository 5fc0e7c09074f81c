//! Restate's journal with the times that people see.

use launchway_proto::ctrl::v1 as proto;

use crate::{
    restate::admin::JournalEntry,
    store::{DeploymentView, StepView},
};

/// Entries in order. Times are the product's own where it recorded the step:
/// Restate stamps the start and end of a fast step alike.
pub(super) fn entries(rows: Vec<JournalEntry>, view: &DeploymentView) -> Vec<proto::JournalEntry> {
    let step = |name: &str| -> Option<&StepView> {
        view.steps.iter().find(|step| step.name == name && step.attempt == view.attempt)
    };
    rows.into_iter()
        .map(|row| {
            let recorded = step(&row.name);
            proto::JournalEntry {
                index: row.index,
                entry: row.entry,
                status: row.status,
                attempt: view.attempt,
                started_at: recorded
                    .map(|step| step.started_at)
                    .or_else(|| millis(row.started_at.as_deref())),
                ended_at: recorded
                    .and_then(|step| step.ended_at)
                    .or_else(|| millis(row.ended_at.as_deref())),
                error: row.error,
                name: row.name,
            }
        })
        .collect()
}

fn millis(timestamp: Option<&str>) -> Option<i64> {
    let text = timestamp?;
    let parsed = text.parse::<jiff::Timestamp>().ok();
    parsed.or_else(|| format!("{text}Z").parse().ok()).map(|at| at.as_millisecond())
}
