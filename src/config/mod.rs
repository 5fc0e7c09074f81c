//! Configuration: one commented file of defaults, overridden by a file, the
//! environment and flags; every problem is named at once.

mod builder;
mod layers;
mod retention;
mod runtime;
#[cfg(test)]
mod tests_builder;
mod values;

use std::{fmt, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf};

use launchway_workflows::{
    engine::{core::Settings, reconcile::RecoverySettings},
    ids::WorkspaceId,
    names::check_slug,
    secret::Secret,
};
use serde::Deserialize;

pub use builder::{Backend, BuilderSettings};
pub use layers::Overrides;
pub use runtime::{RuntimeBackend, RuntimeSettings};
pub use values::Period;

/// Idle timeouts, in seconds: from what is for trials to 30 days.
const IDLE: std::ops::RangeInclusive<u64> = 1..=2_592_000;

/// Everything that is configured, as in `default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Config {
    pub server: Server,
    pub control: Api,
    pub krane: Api,
    pub gateway: Gateway,
    pub worker: Api,
    pub restate: Restate,
    pub database: Database,
    pub storage: Storage,
    pub builder: builder::Builder,
    pub buildkit: builder::Buildkit,
    pub depot: builder::Depot,
    pub registry: builder::RegistrySection,
    pub runtime: runtime::Runtime,
    pub kubernetes: runtime::Kubernetes,
    pub build: Build,
    pub run: Run,
    pub recovery: Recovery,
    pub retention: retention::RetentionSection,
    /// Where everything is kept; not part of the file.
    #[serde(skip)]
    pub data_dir: PathBuf,
}

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Server {
    pub workspace: String,
    pub sealing_key_file: String,
    pub apex: String,
    pub log: String,
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[control]`, `[krane]`, `[worker]`: where it listens and how it is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Api {
    pub bind: SocketAddr,
    pub url: String,
}

impl Api {
    /// The URL by which others reach it.
    pub fn url(&self) -> String {
        url_or(&self.url, self.bind)
    }
}

/// `[gateway]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Gateway {
    pub bind: SocketAddr,
    pub scheme: String,
    pub public_port: u16,
    pub drain: Period,
    pub access_log: AccessLog,
    pub metrics_bind: String,
    pub workers: usize,
    pub max_connections: usize,
    pub max_header_bytes: usize,
    pub max_body_bytes: u64,
    pub header_timeout: Period,
    pub connect_timeout: Period,
    pub response_timeout: Period,
    pub stream_idle: Period,
    pub client_window: Period,
    pub client_min_bytes: u64,
    pub cooldown: Period,
    pub repeat_safe: bool,
    pub start_wait: Period,
    pub report_every: Period,
    pub trust_forwarded: bool,
}

/// Where the gateway's requests are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// `log/access.log` in the data directory.
    File,
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
}

impl Gateway {
    /// Where the metrics have an address of their own.
    pub fn metrics_bind(&self) -> Option<SocketAddr> {
        self.metrics_bind.parse().ok()
    }

    /// The URL of a hostname, as people open it.
    pub fn url_of(&self, host: &str) -> String {
        let port = if self.public_port == 0 { self.bind.port() } else { self.public_port };
        match (self.scheme.as_str(), port) {
            ("http", 80) | ("https", 443) => format!("{}://{host}/", self.scheme),
            (scheme, port) => format!("{scheme}://{host}:{port}/"),
        }
    }
}

/// `[restate]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Restate {
    pub embedded: bool,
    pub binary: String,
    pub ingress_bind: SocketAddr,
    pub admin_bind: SocketAddr,
    pub node_bind: SocketAddr,
    pub ingress_url: String,
    pub admin_url: String,
}

impl Restate {
    /// Where handlers are called.
    pub fn ingress_url(&self) -> String {
        url_or(&self.ingress_url, self.ingress_bind)
    }

    /// Where the server is administered.
    pub fn admin_url(&self) -> String {
        url_or(&self.admin_url, self.admin_bind)
    }
}

/// `[database]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Database {
    pub url: String,
    pub url_file: String,
}

/// `[storage]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Storage {
    pub embedded: bool,
    pub bind: SocketAddr,
    pub url: String,
    pub uploader_url: String,
    pub builder_url: String,
    pub bucket: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key_file: String,
    pub upload_url_lifetime: Period,
    pub context_url_lifetime: Period,
    pub max_context_bytes: u64,
}

impl Storage {
    /// Address for launchway's own calls.
    pub fn url(&self) -> String {
        url_or(&self.url, self.bind)
    }

    /// Address as the CLI reaches the store.
    pub fn uploader_url(&self) -> String {
        if self.uploader_url.is_empty() { self.url() } else { self.uploader_url.clone() }
    }

    /// Address as the builder reaches the store.
    pub fn builder_url(&self) -> String {
        if self.builder_url.is_empty() { self.url() } else { self.builder_url.clone() }
    }
}

/// `[build]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Build {
    pub time_limit: Period,
    pub max_output_bytes: u64,
    pub min_free_bytes: u64,
    pub concurrency: u32,
    pub queue_time_limit: Period,
}

/// `[run]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Run {
    pub ready_timeout: Period,
    pub retire_after: Period,
    pub keep_running: u32,
    pub idle_timeout: Period,
}

/// `[recovery]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Recovery {
    pub every: Period,
    pub stalled_after: Period,
    pub resume_after: Period,
    pub grace: Period,
}

/// Every problem of a configuration at once.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} problem(s):", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads all layers and checks the result.
    ///
    /// # Errors
    /// Every problem, with the key, the value and the rule.
    pub fn load(data_dir: PathBuf, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut config = layers::merge(&data_dir, overrides)?;
        config.data_dir = data_dir;
        let problems = config.problems();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }

    /// The workspace of this installation.
    pub fn workspace(&self) -> WorkspaceId {
        WorkspaceId::try_from(self.server.workspace.clone())
            .unwrap_or_else(|_| WorkspaceId::local())
    }

    /// What build secrets are sealed with, where it is configured.
    ///
    /// # Errors
    /// Its file cannot be read, or others may read it.
    pub fn sealing_key(&self) -> Result<Option<Secret>, ConfigError> {
        let file = &self.server.sealing_key_file;
        if file.is_empty() {
            return Ok(None);
        }
        let key = read_private("server.sealing_key_file", file);
        key.map(|key| Some(Secret::new(key))).map_err(|problem| ConfigError(vec![problem]))
    }

    /// The limits of the durable core.
    pub fn settings(&self) -> Settings {
        Settings {
            apex: self.server.apex.clone(),
            build_time_limit: self.build.time_limit.get(),
            build_max_output: self.build.max_output_bytes,
            build_concurrency: self.build.concurrency,
            queue_time_limit: self.build.queue_time_limit.get(),
            ready_timeout: self.run.ready_timeout.get(),
            context_url_lifetime: self.storage.context_url_lifetime.get(),
            retire_after: self.run.retire_after.get(),
            keep_running: self.run.keep_running,
            report_every: self.gateway.report_every.get(),
            build_min_free: self.build.min_free_bytes,
            retention: self.retention(),
        }
    }

    /// When the reconciler does what.
    pub fn recovery(&self) -> RecoverySettings {
        RecoverySettings {
            every: self.recovery.every.get(),
            stalled_after: self.recovery.stalled_after.get(),
            resume_after: self.recovery.resume_after.get(),
            grace: self.recovery.grace.get(),
            queue_limit: self.build.queue_time_limit.get(),
            ready_limit: self.run.ready_timeout.get(),
            keep_running: self.run.keep_running,
            retire_after: self.run.retire_after.get(),
            sweep_every: self.retention.every.get(),
        }
    }

    /// The database's URL: as configured, from its file, or SQLite in the
    /// data directory.
    ///
    /// # Errors
    /// `database.url_file` cannot be read.
    pub fn database_url(&self) -> Result<String, ConfigError> {
        let file = &self.database.url_file;
        if !file.is_empty() {
            return read_secret("database.url_file", file)
                .map_err(|problem| ConfigError(vec![problem]));
        }
        if !self.database.url.is_empty() {
            return Ok(self.database.url.clone());
        }
        Ok(format!("sqlite://{}", self.data_dir.join("launchway.db").display()))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut rule = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        if let Err(error) = check_slug("workspace", &self.server.workspace, 24) {
            rule(false, format!("server.workspace: {error}"));
        }
        rule(
            !self.server.apex.is_empty(),
            "server.apex is empty: give a domain, e.g. `localhost`".to_owned(),
        );
        for (key, url) in self.urls() {
            let valid = url.is_empty()
                || reqwest::Url::parse(url)
                    .is_ok_and(|url| url.has_host() && url.scheme().starts_with("http"));
            rule(valid, format!("{key} = `{url}`: give an http:// or https:// URL with a host"));
        }
        let scheme = &self.gateway.scheme;
        rule(
            scheme == "http" || scheme == "https",
            format!("gateway.scheme = `{scheme}`: give http or https"),
        );
        let metrics = &self.gateway.metrics_bind;
        rule(
            metrics.is_empty() || self.gateway.metrics_bind().is_some(),
            format!("gateway.metrics_bind = `{metrics}`: give an address, e.g. 127.0.0.1:9100"),
        );
        rule(
            self.build.concurrency > 0,
            "build.concurrency = 0: at least one build must be allowed".to_owned(),
        );
        let idle = self.run.idle_timeout.get();
        rule(
            idle.is_zero() || IDLE.contains(&idle.as_secs()),
            format!("run.idle_timeout = {idle:?} is refused: give 1s to 30d, or 0s for never"),
        );
        for (key, period) in self.periods() {
            rule(!period.get().is_zero(), format!("{key} is zero: give a time, e.g. `30s`"));
        }
        let max = 7 * 24 * 3600;
        for (key, period) in [
            ("storage.upload_url_lifetime", &self.storage.upload_url_lifetime),
            ("storage.context_url_lifetime", &self.storage.context_url_lifetime),
        ] {
            rule(
                period.get().as_secs() <= max,
                format!("{key} is over 7d: S3 signs at most 7 days"),
            );
        }
        if !self.storage.embedded {
            let storage = &self.storage;
            rule(
                !storage.url.is_empty(),
                "storage.url is empty: an external store needs its URL".to_owned(),
            );
            rule(
                !storage.access_key_id.is_empty(),
                "storage.access_key_id is empty: an external store needs it".to_owned(),
            );
            rule(
                !storage.secret_access_key_file.is_empty(),
                "storage.secret_access_key_file is empty: name the file that holds the secret"
                    .to_owned(),
            );
        }
        problems.extend(self.builder_problems());
        problems.extend(self.retention_problems());
        problems.extend(self.runtime_problems());
        problems
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

/// The content of a secret's file, without its line end.
pub(crate) fn read_secret(key: &str, file: &str) -> Result<String, String> {
    match std::fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => Err(format!("{key} = `{file}`: the file is empty")),
        Err(error) => Err(format!("{key} = `{file}`: cannot be read: {error}")),
    }
}

/// The content of a secret's file that only its owner can read. What is mounted
/// under `/run/secrets` is for one container alone, whatever its mode.
fn read_private(key: &str, file: &str) -> Result<String, String> {
    let secret = read_secret(key, file)?;
    let mode = std::fs::metadata(file).map_or(0, |meta| meta.permissions().mode());
    if mode & 0o077 != 0 && !file.starts_with("/run/secrets/") {
        return Err(format!(
            "{key} = `{file}`: others may read the file (mode {:03o}): chmod 600 it",
            mode & 0o777
        ));
    }
    Ok(secret)
}

fn url_or(url: &str, bind: SocketAddr) -> String {
    if url.is_empty() { format!("http://{bind}") } else { url.trim_end_matches('/').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(set: &[&str]) -> Result<Config, ConfigError> {
        let set = set.iter().map(|text| (*text).to_owned()).collect();
        let overrides = Overrides { file: None, set, env: Vec::new() };
        Config::load(PathBuf::from("/nonexistent"), &overrides)
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = load(&[]).unwrap();
        assert_eq!(config.control.url(), "http://127.0.0.1:7091");
        assert_eq!(config.gateway.url_of("a.localhost"), "http://a.localhost:8000/");
        assert_eq!(config.storage.builder_url(), "http://127.0.0.1:3902");
    }

    /// Checklist 32.
    #[test]
    fn every_problem_is_named_at_once() {
        let ConfigError(problems) = load(&[
            "server.workspace=Not Valid",
            "storage.builder_url=nowhere",
            "build.concurrency=0",
            "gateway.metrics_bind=everywhere",
            "gateway.client_window=0s",
            "storage.embedded=false",
        ])
        .unwrap_err();
        for key in [
            "server.workspace",
            "storage.builder_url",
            "build.concurrency",
            "gateway.metrics_bind",
            "gateway.client_window",
            "storage.url",
            "storage.access_key_id",
            "storage.secret_access_key_file",
        ] {
            assert!(problems.iter().any(|problem| problem.contains(key)), "{key}: {problems:?}");
        }
    }

    /// Checklist 7, 43.
    #[test]
    fn uploader_and_builder_may_see_the_store_at_different_addresses() {
        let config = load(&["storage.builder_url=http://host.docker.internal:3902"]).unwrap();
        assert_eq!(config.storage.uploader_url(), "http://127.0.0.1:3902");
        assert_eq!(config.storage.builder_url(), "http://host.docker.internal:3902");
    }
}
