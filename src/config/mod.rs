//! Configuration: one commented file of defaults, overridden by a file, the
//! environment and flags; every problem is named at once.

mod builder;
mod gateway;
mod layers;
mod problems;
mod retention;
mod runtime;
mod secrets;
mod sections;
mod storage;
#[cfg(test)]
mod tests_builder;
mod values;

use std::{fmt, path::PathBuf};

use launchway_workflows::{
    engine::{core::Settings, reconcile::RecoverySettings},
    ids::WorkspaceId,
    secret::Secret,
};
use serde::Deserialize;

pub use builder::{Backend, BuilderSettings};
pub use gateway::{AccessLog, Gateway};
pub use layers::Overrides;
pub use runtime::{RuntimeBackend, RuntimeSettings};
pub(crate) use secrets::read_secret;
pub use sections::{Api, Build, Database, LogFormat, Recovery, Restate, Run, Server};
pub use storage::Storage;
pub use values::Period;

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
        secrets::optional("server.sealing_key_file", &self.server.sealing_key_file)
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
