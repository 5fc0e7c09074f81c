//! What is wrong with a configuration, all of it at once.

use launchway_workflows::names::check_slug;

use super::{Config, Period};

/// Idle timeouts, in seconds: from what is for trials to 30 days.
const IDLE: std::ops::RangeInclusive<u64> = 1..=2_592_000;

/// The problem, unless the rule holds.
pub(super) fn rule(holds: bool, problem: impl FnOnce() -> String) -> Option<String> {
    (!holds).then(problem)
}

impl Config {
    /// Each with the key, the value and the rule.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = self.server_problems();
        problems.extend(self.urls().into_iter().filter_map(|(key, url)| not_a_url(key, url)));
        problems.extend(self.gateway.problems());
        problems.extend(self.limit_problems());
        problems.extend(self.periods().into_iter().filter_map(|(key, period)| {
            let zero = || format!("{key} is zero: give a time, e.g. `30s`");
            rule(!period.get().is_zero(), zero)
        }));
        problems.extend(self.storage.problems());
        problems.extend(self.builder_problems());
        problems.extend(self.retention_problems());
        problems.extend(self.runtime_problems());
        problems
    }

    fn server_problems(&self) -> Vec<String> {
        let workspace = check_slug("workspace", &self.server.workspace, 24).err();
        let apex = rule(!self.server.apex.is_empty(), || {
            "server.apex is empty: give a domain, e.g. `localhost`".to_owned()
        });
        workspace
            .map(|error| format!("server.workspace: {error}"))
            .into_iter()
            .chain(apex)
            .collect()
    }

    fn limit_problems(&self) -> impl Iterator<Item = String> {
        let idle = self.run.idle_timeout.get();
        let builds = rule(self.build.concurrency > 0, || {
            "build.concurrency = 0: at least one build must be allowed".to_owned()
        });
        let idle = rule(idle.is_zero() || IDLE.contains(&idle.as_secs()), || {
            format!("run.idle_timeout = {idle:?} is refused: give 1s to 30d, or 0s for never")
        });
        builds.into_iter().chain(idle)
    }

    fn urls(&self) -> [(&'static str, &str); 8] {
        [
            ("control.url", &self.control.url),
            ("krane.url", &self.krane.url),
            ("worker.url", &self.worker.url),
            ("restate.ingress_url", &self.restate.ingress_url),
            ("restate.admin_url", &self.restate.admin_url),
            ("storage.url", &self.storage.url),
            ("storage.uploader_url", &self.storage.uploader_url),
            ("storage.builder_url", &self.storage.builder_url),
        ]
    }

    /// Those that zero makes no sense of.
    fn periods(&self) -> [(&'static str, &Period); 17] {
        [
            ("gateway.header_timeout", &self.gateway.header_timeout),
            ("gateway.connect_timeout", &self.gateway.connect_timeout),
            ("gateway.response_timeout", &self.gateway.response_timeout),
            ("gateway.stream_idle", &self.gateway.stream_idle),
            ("gateway.client_window", &self.gateway.client_window),
            ("gateway.cooldown", &self.gateway.cooldown),
            ("gateway.start_wait", &self.gateway.start_wait),
            ("gateway.report_every", &self.gateway.report_every),
            ("build.time_limit", &self.build.time_limit),
            ("build.queue_time_limit", &self.build.queue_time_limit),
            ("run.ready_timeout", &self.run.ready_timeout),
            ("storage.upload_url_lifetime", &self.storage.upload_url_lifetime),
            ("storage.context_url_lifetime", &self.storage.context_url_lifetime),
            ("recovery.every", &self.recovery.every),
            ("recovery.stalled_after", &self.recovery.stalled_after),
            ("recovery.resume_after", &self.recovery.resume_after),
            ("recovery.grace", &self.recovery.grace),
        ]
    }
}

fn not_a_url(key: &str, url: &str) -> Option<String> {
    let valid = url.is_empty()
        || reqwest::Url::parse(url)
            .is_ok_and(|url| url.has_host() && url.scheme().starts_with("http"));
    rule(valid, || format!("{key} = `{url}`: give an http:// or https:// URL with a host"))
}
