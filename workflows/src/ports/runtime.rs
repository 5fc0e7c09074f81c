//! What runs instances and routes to them.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use super::{Found, OutputStream};
use crate::{
    error::StepError,
    ids::DeploymentId,
    model::{DeploymentPlan, Instance, RunOptions},
    secret::Secret,
};

/// What to run.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// The plan it comes from.
    pub plan: DeploymentPlan,
    /// Pullable reference with digest, or a local image id.
    pub image: String,
    /// Processes, their health and limits.
    pub options: RunOptions,
    /// Variables.
    pub env: BTreeMap<String, Secret>,
}

/// A command to run once.
#[derive(Debug, Clone)]
pub struct TaskSpec {
    /// Unique in the deployment: the same one again joins what was started.
    pub id: String,
    /// Image, variables and limits are those of the deployment.
    pub run: RunSpec,
    /// Arguments for the image's entry point.
    pub command: Vec<String>,
    /// It is ended then.
    pub time_limit: Duration,
    /// It was started before and must not be started again.
    pub join_only: bool,
}

/// A line that a task has printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLine {
    /// Milliseconds since the epoch.
    pub at: i64,
    /// Which of the two.
    pub stream: OutputStream,
    /// Without its end.
    pub text: String,
}

/// What became of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEnd {
    /// It has run.
    Exited {
        /// Of its process.
        exit_code: i32,
        /// Its time limit ended it.
        timed_out: bool,
        /// What the runtime says about that, if anything.
        message: String,
    },
    /// It was to be joined and the runtime does not know it.
    Unknown,
}

/// Runs instances, through krane.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Idempotent: leaves exactly the wanted instances.
    async fn apply(&self, spec: &RunSpec) -> Result<(), StepError>;

    /// Returns when the instances are gone; unknown ones are gone.
    async fn delete(&self, namespace: &str, id: &DeploymentId) -> Result<(), StepError>;

    /// Starts or joins a task; what it has printed goes to `output` from its
    /// first line, and a full channel holds it back. Dropping the future leaves
    /// it running.
    async fn run_task(
        &self,
        task: &TaskSpec,
        output: mpsc::Sender<TaskLine>,
    ) -> Result<TaskEnd, StepError>;

    /// Ends and forgets a task; an unknown one is gone.
    async fn delete_task(
        &self,
        namespace: &str,
        id: &DeploymentId,
        task: &str,
    ) -> Result<(), StepError>;

    /// The instances now.
    async fn instances(
        &self,
        namespace: &str,
        id: &DeploymentId,
    ) -> Result<Vec<Instance>, StepError>;

    /// Everything of deployments that it has.
    async fn found(&self) -> Result<Vec<Found>, StepError>;

    /// The instances now, then after each change. Ends only with an error.
    async fn watch(
        &self,
        namespace: &str,
        id: &DeploymentId,
    ) -> Result<BoxStream<'static, Result<Vec<Instance>, StepError>>, StepError>;
}

/// Tells the gateways that routes changed.
#[async_trait]
pub trait RouteAnnouncer: Send + Sync + 'static {
    /// Returns when every connected gateway routes by the present table, or
    /// after a short while: the routes are committed either way.
    async fn announce(&self);
}

/// Fetches the OpenAPI description of a running application.
#[async_trait]
pub trait OpenapiScraper: Send + Sync + 'static {
    /// `None`: the application has none. Bounded in time and size.
    async fn scrape(&self, address: &str) -> Result<Option<String>, StepError>;
}
