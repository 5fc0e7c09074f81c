//! What is written to and read from the database.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    app::Scale,
    engine::{
        retry::RestartPoint,
        undo::{Started, Undone},
    },
    error::StepFailure,
    ids::{DeploymentId, EnvironmentId, InvocationId},
    model::{BuiltImage, DeploymentPlan, Routed, RunOptions, Sealed},
    status::DeploymentStatus,
    step::Step,
};

/// Whether a guarded write took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// Written, or already so.
    Applied,
    /// The row is owned by another invocation or in a state that forbids it.
    Lost,
}

/// One execution of one step by one attempt of a deployment.
#[derive(Debug, Clone)]
pub struct StepRun {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The invocation that runs it; its row says which attempt that is.
    pub owner: InvocationId,
    /// The step.
    pub step: Step,
}

/// How a step ended.
#[derive(Debug, Clone)]
pub enum StepEnd {
    /// It did its work.
    Done,
    /// There was nothing to do; why, for people.
    Skipped(String),
    /// It failed for good.
    Failed(StepFailure),
    /// This try failed and another follows.
    WillRetry(StepFailure),
    /// It was cancelled.
    Cancelled,
}

/// A step that has ended well; the journal knows it, the database does not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The step.
    pub step: Step,
    /// Why there was nothing to do, if there was not.
    pub skipped: Option<String>,
}

impl Passed {
    /// As it is recorded.
    pub fn end(self) -> StepEnd {
        self.skipped.map_or(StepEnd::Done, StepEnd::Skipped)
    }
}

/// The end of an attempt that did not succeed.
#[derive(Debug, Clone)]
pub struct AttemptEnd {
    /// `failed`, `cancelled` or `superseded`.
    pub status: DeploymentStatus,
    /// What failed.
    pub failure: StepFailure,
    /// What was taken back, newest effect first.
    pub undone: Vec<Undone>,
}

/// Whether an attempt may be unwound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "start", content = "value", rename_all = "kebab-case")]
pub enum UnwindStart {
    /// Yes: the way to the commit point is closed.
    Begun,
    /// The commit had already taken place; nothing was closed.
    Committed(Routed),
    /// The row is another invocation's.
    NotOurs,
}

/// What an invocation that was killed has left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftBehind {
    /// What was being deployed.
    pub plan: DeploymentPlan,
    /// The steps of its attempt, in order.
    pub started: Vec<Started>,
    /// Why it was unwinding, if it was.
    pub failure: Option<StepFailure>,
    /// Somebody has asked for cancellation.
    pub cancelling: bool,
}

/// The attempt of a deployment that has ended, or is about to be repeated.
#[derive(Debug, Clone)]
pub struct EndedAttempt {
    /// `failed` or `cancelled`, if it may be retried.
    pub status: DeploymentStatus,
    /// From 1.
    pub attempt: u32,
    /// What it failed with.
    pub failure: Option<StepFailure>,
    /// What it took back.
    pub undone: Vec<Undone>,
    /// The last step that it began.
    pub last_step: Option<Step>,
    /// What was being deployed.
    pub plan: DeploymentPlan,
    /// What it had built.
    pub image: Option<BuiltImage>,
    /// The `deploy` that owned it last; `None`: none ever did.
    pub workflow: Option<InvocationId>,
    /// How the present attempt began, while it is `retrying`.
    pub retried: Option<Retried>,
}

/// How an attempt began that is a retry.
#[derive(Debug, Clone)]
pub struct Retried {
    /// The invocation that asked for it.
    pub by: InvocationId,
    /// The invocation whose journal it continues.
    pub ended: InvocationId,
    /// Where.
    pub point: RestartPoint,
}

/// What a request for cancellation found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "found", content = "status", rename_all = "kebab-case")]
pub enum CancelRequest {
    /// Its workflow has to be told.
    Asked,
    /// It had not begun; the row is ended.
    Unstarted,
    /// It is cancelled already.
    Already,
    /// It has ended otherwise, or its domains have moved.
    TooLate(DeploymentStatus),
}

/// A deployment that a workflow should own.
#[derive(Debug, Clone)]
pub struct InFlight {
    /// Which one.
    pub deployment_id: DeploymentId,
    /// How far it is.
    pub status: DeploymentStatus,
    /// The invocation of `Deployments` that submitted it, or last retried it.
    pub sent_by: Option<InvocationId>,
    /// The step that runs.
    pub step: Option<Step>,
    /// Last sign of life in the database, in milliseconds since the epoch.
    pub updated_at: i64,
    /// Somebody has asked for cancellation, and it does not unwind yet.
    pub cancel_pending: bool,
    /// It was said already that it makes no progress.
    pub stalled: bool,
}

/// Whether an environment may move.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "start", content = "value", rename_all = "kebab-case")]
pub enum ReleaseStart {
    /// Yes, once this runs.
    Begun(Box<ReleaseTarget>),
    /// No; why, for people.
    Refused(String),
}

/// Where an environment moves to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseTarget {
    /// What it is.
    pub plan: DeploymentPlan,
    /// What it runs, pinned.
    pub image: String,
    /// Its instances are stopped, for it was retired.
    pub retired: bool,
    /// They are stopped, or about to be, for nobody asked for them.
    pub evicted: bool,
    /// How often they have been stopped so far.
    pub stops: i64,
}

/// A deployment that may retire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Retirable {
    /// Which one.
    pub deployment_id: DeploymentId,
    /// Counts how often it was wanted again (rollback, promote).
    pub generation: i64,
}

/// How and with which variables to run, as recorded with a deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunInputs {
    /// With a number for everything that was left to the environment.
    pub options: RunOptions,
    /// Variables of the environment at its submission.
    pub env: BTreeMap<String, Sealed>,
}

/// Whether a command that must not run twice may have been started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseMark {
    /// No; from now on it may.
    First {
        /// The attempt.
        attempt: u32,
    },
    /// An earlier try of this attempt may have.
    Again {
        /// The attempt.
        attempt: u32,
    },
    /// The row is not the owner's.
    Lost,
}

/// Whether a scale may be changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "start", content = "value", rename_all = "kebab-case")]
pub enum ScaleStart {
    /// Yes: it is recorded, for this deployment and the next ones.
    Begun(Box<ScaleTarget>),
    /// Not before this one is taken back, whose invocation was killed. It is the
    /// caller's from now on.
    LeftBehind(Box<ScaleTarget>),
    /// No; why, for people.
    Refused(String),
}

/// A deployment whose scale changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleTarget {
    /// What it is.
    pub plan: DeploymentPlan,
    /// What it runs, pinned.
    pub image: String,
    /// Which of its processes.
    pub process: String,
    /// As it was.
    pub from: Scale,
    /// As it shall be.
    pub to: Scale,
    /// Milliseconds from the signal to end until an instance is killed.
    pub drain_ms: Option<u32>,
    /// Its instances are stopped, or about to be, for nobody asked for them.
    #[serde(default)]
    pub evicted: bool,
}

impl ScaleTarget {
    /// Instances are to be stopped: they must lose their requests first.
    pub fn drains(&self) -> bool {
        self.to.replicas < self.from.replicas
    }
}

/// A change of scale that is recorded as under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleUnderWay {
    /// Where.
    pub environment_id: EnvironmentId,
    /// Whose instances.
    pub deployment_id: DeploymentId,
    /// The invocation that does it: compared, never called.
    pub by: String,
}

/// A parked wait for a deployment's instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadinessWait {
    /// Restate's id of the awakeable to resolve.
    pub awakeable_id: String,
    /// Whose instances.
    pub deployment_id: DeploymentId,
    /// The runtime's namespace.
    pub namespace: String,
    /// Instances that must be ready.
    pub replicas: u32,
    /// Milliseconds since the epoch.
    pub deadline: i64,
}
