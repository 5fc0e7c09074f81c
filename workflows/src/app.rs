//! How an application is run: what `launchway.toml` says beyond the build.

mod rules;
mod scale;
mod words;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use rules::{MAX_RELEASE_LIMIT, MAX_REPLICAS};
pub use scale::{Scale, Scales};
pub use words::split_words;

/// The process that a deployment has when it names none; it gets requests.
pub const WEB: &str = "web";

/// How to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunOptions {
    /// Port the application listens on; 0: the image's only EXPOSE, else 8080.
    #[serde(default)]
    pub port: u16,
    /// Instances; 0: the environment's default.
    #[serde(default)]
    pub replicas: u32,
    /// How an instance shows that it is ready; none: HTTP on `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Signal that asks an instance to end, e.g. `SIGINT`; none: the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Milliseconds from that signal until an instance is killed; none: 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u32>,
    /// Thousandths of a core; 0: the environment's default.
    #[serde(default)]
    pub cpu_millicores: u32,
    /// MiB; 0: the environment's default.
    #[serde(default)]
    pub memory_mib: u64,
    /// Milliseconds without requests after which its instances are stopped until
    /// the next one; 0: never, none: as the server is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<u32>,
    /// By name. Empty: one named [`WEB`], from the fields above.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub processes: BTreeMap<String, Process>,
    /// Run once before any instance starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseCommand>,
}

/// A readiness check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// What is asked.
    pub check: Check,
    /// None: the process's own port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Milliseconds between checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u32>,
    /// Milliseconds of one check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
    /// Milliseconds from the start within which an instance must be ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period_ms: Option<u32>,
}

/// The three ways to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Any HTTP answer below 500 on this path.
    Path(String),
    /// A connection.
    Tcp,
    /// A command in the instance that ends with 0.
    Command(Vec<String>),
}

/// One of the things an image can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Empty: the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// 0: one, or the environment's default for [`WEB`].
    #[serde(default)]
    pub replicas: u32,
    /// Of a process that gets requests; [`WEB`] always does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// None: HTTP on `/` with a port, else that it stays up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Thousandths of a core; 0: the deployment's.
    #[serde(default)]
    pub cpu_millicores: u32,
    /// MiB; 0: the deployment's.
    #[serde(default)]
    pub memory_mib: u64,
}

impl Process {
    /// Whether requests go to the process of this name.
    pub fn is_routed(&self, name: &str) -> bool {
        name == WEB || self.port.is_some()
    }
}

/// A command that prepares a rollout, such as a migration of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseCommand {
    /// Arguments for the image's entry point.
    pub command: Vec<String>,
    /// It may run again after a crash that leaves open whether it ran.
    #[serde(default)]
    pub idempotent: bool,
    /// Longest run in milliseconds; none: ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_ms: Option<u32>,
}
