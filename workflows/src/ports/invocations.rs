//! Restate, as far as handlers are not told.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Retirable, ScaleUnderWay};
use crate::{
    ids::{DeploymentId, InvocationId},
    step::Step,
};

/// What Restate knows of workflows and does not tell their handlers.
#[async_trait]
pub trait Invocations: Send + Sync + 'static {
    /// The `idempotency-key` header it was submitted with. Up to protocol V6
    /// the server keeps it to itself (restate-server 1.7).
    async fn idempotency_key(&self, id: &InvocationId) -> Result<Option<String>, RestateSilent>;

    /// An invocation, as far as Restate remembers it.
    async fn workflow(&self, id: &InvocationId) -> Result<Option<Workflow>, RestateSilent>;

    /// The newest `deploy` of a deployment, as far as Restate remembers; not
    /// necessarily one that ever owned it, since anybody may send one.
    async fn latest(&self, id: &DeploymentId) -> Result<Option<Workflow>, RestateSilent>;

    /// Every unfinished invocation of `Deployment`, `Deployments` and `Scale`.
    async fn unfinished(&self) -> Result<Vec<Workflow>, RestateSilent>;

    /// Asks an invocation to end; one that has ended already is fine. One that
    /// backs off or is paused is woken, so that it hears it at once.
    async fn cancel(&self, id: &InvocationId) -> Result<(), RestateSilent>;

    /// Ends a back-off or a pause; in any other state nothing happens.
    async fn resume(&self, id: &InvocationId) -> Result<(), RestateSilent>;

    /// Makes Restate schedule an invocation anew that is suspended and does not
    /// move.
    async fn reschedule(&self, id: &InvocationId) -> Result<(), RestateSilent>;

    /// Runs an ended invocation again from the first own entry of a step; what
    /// is before it is kept and not executed. Repeating it finds the one that
    /// was started.
    async fn restart(&self, ended: &InvocationId, from: Step) -> Result<Restarted, RestateSilent>;

    /// Starts `Retirement/retire`.
    async fn retire(&self, candidate: &Retirable) -> Result<(), RestateSilent>;

    /// Starts `Janitor/sweep`, unless one of this number was started.
    async fn sweep(&self, number: u64) -> Result<(), RestateSilent>;

    /// Starts `Scale/settle`.
    async fn settle_scale(&self, left: &ScaleUnderWay) -> Result<(), RestateSilent>;

    /// Starts `Deployment/unwind`.
    async fn unwind(&self, id: &DeploymentId) -> Result<(), RestateSilent>;
}

/// An invocation of a deployment's workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workflow {
    /// Its id.
    pub invocation: InvocationId,
    /// The object's key; `None` for `Deployments` and `Scale`.
    pub deployment_id: Option<DeploymentId>,
    /// deploy, unwind, create, retry, run, …
    pub handler: String,
    /// What it does now.
    pub state: WorkflowState,
    /// The last transient failure.
    pub last_failure: Option<String>,
    /// When Restate last handed it to a worker, in milliseconds since the epoch.
    pub tried_at: Option<i64>,
    /// Version of its journal; `None`: not known, or not of this product.
    pub journal_version: Option<u32>,
}

/// What an invocation does now, in Restate's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkflowState {
    /// Behind another one of the same key, or about to start.
    Waiting,
    /// On a worker.
    Running,
    /// Waits for a result, on no worker.
    Suspended,
    /// Waits for its next try.
    BackingOff,
    /// Waits for a person.
    Paused,
    /// Ended.
    Completed,
}

/// Whether an invocation was run again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restarted {
    /// Yes.
    Yes,
    /// It has not ended yet.
    NotYet,
    /// No; why, for people.
    Refused(String),
}

/// Restate's admin API did not answer. Always worth another try.
#[derive(Debug, thiserror::Error)]
#[error("Restate's admin API: {0}")]
pub struct RestateSilent(pub String);
