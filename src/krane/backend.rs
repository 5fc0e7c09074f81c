//! What a runtime must do, whatever it runs on.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use launchway_proto::krane::v1::{
    Found, Instance, LogLine, NotReadyReason, TaskEvent, exec_input, exec_output,
};
use launchway_workflows::ids::{DeploymentId, EnvironmentId};

use super::table::Table;

/// A port that nobody named.
pub const DEFAULT_PORT: u16 = 8080;

/// What a runtime sends while it goes on; bounded, so that a slow reader holds
/// only itself back.
pub type Feed<T> = BoxStream<'static, Result<T, BackendError>>;

/// A DNS label: names of processes and tasks become parts of names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(String);

impl Label {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Label {
    type Err = String;

    fn from_str(input: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let edge = input.starts_with('-') || input.ends_with('-');
        if input.is_empty() || input.len() > 63 || edge || !input.chars().all(allowed) {
            return Err(format!(
                "`{input}` is not a DNS label: give 1 to 63 lower-case letters, digits and inner hyphens"
            ));
        }
        Ok(Self(input.to_owned()))
    }
}

/// The wanted instances of a deployment, validated.
#[derive(Clone, PartialEq, Eq)]
pub struct InstanceSpec {
    /// Whose.
    pub deployment_id: DeploymentId,
    /// Instances of one namespace share a network.
    pub namespace: EnvironmentId,
    /// For labels.
    pub project_id: String,
    /// The name others of the namespace reach it by; empty: none.
    pub service_name: String,
    /// A local image's id, or a reference.
    pub image: String,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// Asks an instance to end; none: the image's own.
    pub stop_signal: Option<String>,
    /// From the stop signal to SIGKILL.
    pub stop_grace: Duration,
    /// At least one, of different names.
    pub processes: Vec<ProcessSpec>,
}

impl InstanceSpec {
    /// Of all processes together.
    pub fn replicas(&self) -> u32 {
        self.processes.iter().map(|process| process.replicas).sum()
    }
}

/// One of the things an image does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Unique in the deployment.
    pub name: Label,
    /// Arguments for the image's entry point; empty: the image's own.
    pub command: Vec<String>,
    /// 0: none for now.
    pub replicas: u32,
    /// Where it gets requests.
    pub port: Port,
    /// How readiness is found out.
    pub health: Health,
    /// Thousandths of a core; 0: no limit.
    pub cpu_millicores: u32,
    /// 0: no limit.
    pub memory_mib: u64,
}

/// Where a process gets requests. One with a port gets an address and `PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Nowhere.
    None,
    /// Here.
    Given(u16),
    /// At the image's only EXPOSE, else [`DEFAULT_PORT`].
    OfImage,
}

impl Port {
    /// The number, once the image is known.
    pub fn number(self, exposed: Option<u16>) -> Option<u16> {
        match self {
            Port::None => None,
            Port::Given(port) => Some(port),
            Port::OfImage => Some(exposed.unwrap_or(DEFAULT_PORT)),
        }
    }
}

/// When an instance is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub check: Check,
    /// Of one check.
    pub timeout: Duration,
    /// Longest pause between checks.
    pub interval: Duration,
    /// An instance that is not ready this long after its start is ended.
    pub start_period: Option<Duration>,
}

/// The ways to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Any HTTP answer below 500.
    Http {
        /// Path and query.
        path: String,
        /// None: the process's own.
        port: Option<u16>,
    },
    /// A connection.
    Tcp {
        /// None: the process's own.
        port: Option<u16>,
    },
    /// A command in the instance that ends with 0.
    Command(Vec<String>),
    /// Nothing: it must stay up for [`STAYS_UP`].
    StaysUp,
}

/// From its start until an instance of which nothing is asked counts as ready.
pub const STAYS_UP: Duration = Duration::from_secs(2);

/// Which instances' output, and how much of it.
#[derive(Debug, Clone)]
pub struct LogQuery {
    /// Whose.
    pub deployment_id: DeploymentId,
    /// None: of all processes.
    pub process: Option<Label>,
    /// None: of all replicas.
    pub replica: Option<u32>,
    /// Until the deployment is deleted, instances that come later too.
    pub follow: bool,
    /// The last lines of each instance; none: all.
    pub tail: Option<u32>,
    /// Milliseconds since the epoch.
    pub since: i64,
}

/// A command that runs once, validated.
#[derive(Clone)]
pub struct TaskSpec {
    /// Whose.
    pub deployment_id: DeploymentId,
    /// It runs in the network of this one.
    pub namespace: EnvironmentId,
    /// For labels.
    pub project_id: String,
    /// Unique in the deployment; the same one again joins it.
    pub task_id: Label,
    /// A local image's id, or a reference.
    pub image: String,
    /// Arguments for the image's entry point; empty: the image's own.
    pub command: Vec<String>,
    /// `command` stands in for the entry point too.
    pub replace_entrypoint: bool,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// Thousandths of a core; 0: no limit.
    pub cpu_millicores: u32,
    /// 0: no limit.
    pub memory_mib: u64,
    /// From its start until it is ended, whatever becomes of krane.
    pub time_limit: Duration,
    /// Never start it: [`BackendError::UnknownTask`] where it was not started.
    pub join_only: bool,
}

/// A command in an instance that runs.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// Whose instance.
    pub deployment_id: DeploymentId,
    /// None: any.
    pub process: Option<Label>,
    /// None: any.
    pub replica: Option<u32>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// With a terminal; stdout and stderr are one then.
    pub tty: bool,
    /// Columns and rows of it.
    pub size: Option<(u16, u16)>,
}

/// What went wrong, as callers must tell it apart.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The image does not exist or cannot be pulled.
    #[error("image `{image}` is not available: {reason}")]
    ImageUnavailable {
        /// As asked for.
        image: String,
        /// The engine's message.
        reason: String,
    },
    /// The instances will not become ready; trying again cannot help.
    #[error("{message}")]
    NotReady {
        /// Why.
        reason: NotReadyReason,
        /// The runtime's word.
        message: String,
    },
    /// The engine refuses these settings; trying again cannot help.
    #[error("the container engine refused: {0}")]
    Rejected(String),
    /// The engine does not answer.
    #[error("the container engine failed: {0}")]
    Unavailable(String),
    /// The task was never started.
    #[error("task `{0}` was not started")]
    UnknownTask(Label),
    /// There is no instance that could do it.
    #[error("{0}")]
    NotRunning(String),
    /// This runtime cannot do it.
    #[error("this runtime does not offer {0}")]
    Unsupported(&'static str),
}

impl BackendError {
    /// Why instances are not ready, where that is the error.
    pub fn reason(&self) -> NotReadyReason {
        match self {
            Self::ImageUnavailable { .. } => NotReadyReason::ImagePull,
            Self::NotReady { reason, .. } => *reason,
            _ => NotReadyReason::Unspecified,
        }
    }
}

/// Runs instances.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Leaves exactly the wanted instances; the same call again changes nothing.
    /// Where some were ready, some are ready all the time: what a changed one is
    /// replaced by must be ready first, or it is an error and nothing changes.
    async fn apply(&self, spec: &InstanceSpec) -> Result<(), BackendError>;

    /// The instances now.
    async fn get(&self, id: &DeploymentId) -> Result<Vec<Instance>, BackendError>;

    /// Returns when the instances and tasks are gone.
    async fn delete(&self, id: &DeploymentId) -> Result<(), BackendError>;

    /// What is known of all instances, and its changes.
    fn table(&self) -> &Arc<Table>;

    /// Output of instances, in order of time as far as it has been read.
    async fn logs(&self, query: LogQuery) -> Result<Feed<LogLine>, BackendError> {
        let _ = query;
        Err(BackendError::Unsupported("logs"))
    }

    /// Runs a task, or joins the one of this name. It goes on when nobody reads.
    async fn run_task(&self, spec: TaskSpec) -> Result<Feed<TaskEvent>, BackendError> {
        let _ = spec;
        Err(BackendError::Unsupported("tasks"))
    }

    /// Returns when the task is gone; unknown ones are.
    async fn delete_task(&self, id: &DeploymentId, task: &Label) -> Result<(), BackendError> {
        let _ = (id, task);
        Err(BackendError::Unsupported("tasks"))
    }

    /// Runs a command in an instance. It is asked to end when nobody reads.
    async fn exec(
        &self,
        spec: ExecSpec,
        input: BoxStream<'static, exec_input::Input>,
    ) -> Result<Feed<exec_output::Output>, BackendError> {
        let _ = (spec, input);
        Err(BackendError::Unsupported("commands in instances"))
    }

    /// Everything that the runtime has of ours; sizes where they are asked for. Who
    /// attends a task is not known here.
    async fn list(&self, sizes: bool) -> Result<Vec<Found>, BackendError> {
        let _ = sizes;
        Err(BackendError::Unsupported("lists of what it has"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_are_dns_labels() {
        for good in ["web", "a", "release-1", "0"] {
            assert_eq!(good.parse::<Label>().unwrap().as_str(), good);
        }
        let long = "a".repeat(64);
        for bad in ["", "Web", "-a", "a-", "a_b", "a.b", long.as_str()] {
            assert!(bad.parse::<Label>().unwrap_err().contains(&format!("`{bad}`")));
        }
    }
}
