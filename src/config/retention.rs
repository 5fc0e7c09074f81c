//! `[retention]`: what is kept for how long.

use std::time::Duration;

use launchway_workflows::engine::janitor::Retention;
use serde::Deserialize;

use super::{Config, Period};

/// The window within which Restate can restart an attempt.
const RETRY_WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);

/// `[retention]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RetentionSection {
    pub every: Period,
    pub sources: Period,
    pub logs: Period,
    pub records: Period,
    pub restorable: u32,
    pub left_overs: Period,
}

impl Config {
    pub(super) fn retention(&self) -> Retention {
        Retention {
            every: self.retention.every.get(),
            sources: self.retention.sources.get(),
            logs: self.retention.logs.get(),
            records: self.retention.records.get(),
            restorable: self.retention.restorable,
            left_overs: self.retention.left_overs.get(),
        }
    }

    /// What would take away what is promised elsewhere.
    pub(super) fn retention_problems(&self) -> Vec<String> {
        let section = &self.retention;
        let mut problems = Vec::new();
        if section.sources.get() < RETRY_WINDOW {
            problems.push(format!(
                "retention.sources = {:?}: give at least 7d, for as long a deployment can be retried",
                section.sources.get()
            ));
        }
        if section.records.get() < section.sources.get() {
            problems.push(format!(
                "retention.records = {:?} is less than retention.sources = {:?}: a source is found by its record",
                section.records.get(),
                section.sources.get()
            ));
        }
        if section.every.get().is_zero() {
            problems.push("retention.every is zero: give a time, e.g. `1h`".to_owned());
        }
        problems
    }
}
