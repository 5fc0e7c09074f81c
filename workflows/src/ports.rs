//! What the durable core needs from the outside: traits, implemented by the
//! adapters in the root crate and, to inject failures, by tests.
//!
//! Every method may be called again with the same arguments after a crash and
//! must then have the same effect. Every call is bounded in time by its adapter.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    engine::{
        retry::RestartPoint,
        undo::{Started, Undone},
    },
    error::{StepError, StepFailure},
    ids::{BuildId, DeploymentId, InvocationId, ProjectId, WorkspaceId},
    model::{
        BuildOptions, BuiltImage, DeploymentPlan, DomainClaim, Instance, NewDeployment, Routed,
        RunOptions, Sealed, Submission,
    },
    secret::Secret,
    services::{
        release::ReleaseRequest,
        routing::{SwapRequest, Swapped},
    },
    status::DeploymentStatus,
    step::Step,
};

/// The database did not do what it was asked to. Always worth another try.
#[derive(Debug, thiserror::Error)]
#[error("database: {0}")]
pub struct StoreError(pub String);

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

/// The product's database.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Inserts the row with its project and environment, or finds the one the
    /// key already has. Same key with another content hash: refused.
    async fn create_deployment(&self, new: &NewDeployment) -> Result<Submission, StoreError>;

    /// Takes the row for an invocation (compare-and-set: pending or retrying,
    /// or already its own) and reads it. `None`: no such row, or not for it.
    async fn begin_attempt(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
    ) -> Result<Option<DeploymentPlan>, StoreError>;

    /// How to build; read inside the step, because it may hold credentials.
    async fn build_options(&self, id: &DeploymentId) -> Result<BuildOptions, StoreError>;

    /// How to run, and the environment's variables.
    async fn run_inputs(&self, id: &DeploymentId) -> Result<RunInputs, StoreError>;

    /// Records that a try of a step starts and moves the deployment to
    /// `status` where one is given (compare-and-set along
    /// [`DeploymentStatus::sources`], for the owner only). Takes the row of a deployment that is being
    /// retried. Records in the same transaction what has `passed` before it.
    /// Returns the number of this try, from 1; `None`: the row is not the
    /// owner's, or in a state that forbids it.
    async fn step_started(
        &self,
        run: &StepRun,
        status: Option<DeploymentStatus>,
        passed: &[Passed],
    ) -> Result<Option<u32>, StoreError>;

    /// Says more about a step that is running, for people.
    async fn note_step(
        &self,
        id: &DeploymentId,
        step: Step,
        message: &str,
    ) -> Result<(), StoreError>;

    /// Records how a try of a step ended.
    async fn step_ended(&self, run: &StepRun, end: &StepEnd) -> Result<(), StoreError>;

    /// Appends build output of the row's present attempt, in order.
    async fn append_build_log(
        &self,
        id: &DeploymentId,
        events: &[BuildEvent],
    ) -> Result<(), StoreError>;

    /// Notes the image of a deployment.
    async fn record_image(&self, id: &DeploymentId, image: &BuiltImage) -> Result<(), StoreError>;

    /// Whether somebody asked for cancellation.
    async fn cancel_requested(&self, id: &DeploymentId) -> Result<bool, StoreError>;

    /// The commit point: domains, the environment's live pointer, the status and
    /// the end of the step, in one transaction, for the owner only; `None` when the row is
    /// not the owner's to route. Repeating a commit returns what it did.
    async fn commit_routes(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        claims: &[DomainClaim],
    ) -> Result<Option<Routed>, StoreError>;

    /// Closes the way to the commit point for the owner: from here on
    /// `commit_routes` answers `None`, until the next attempt. Notes why.
    async fn begin_unwind(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        cause: &StepFailure,
    ) -> Result<UnwindStart, StoreError>;

    /// Makes `owner` the owner of a deployment whose invocation was killed, to
    /// unwind it. `None`: it is settled.
    async fn take_over(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
    ) -> Result<Option<LeftBehind>, StoreError>;

    /// The invocation that owns the row, for callees that record for it.
    async fn owner_of(&self, id: &DeploymentId) -> Result<Option<InvocationId>, StoreError>;

    /// Notes a warning for people (an event after the commit point).
    async fn add_warning(&self, id: &DeploymentId, warning: &str) -> Result<(), StoreError>;

    /// Stores the application's OpenAPI description.
    async fn record_openapi(&self, id: &DeploymentId, spec: &str) -> Result<(), StoreError>;

    /// Ends the attempt, for the owner only.
    async fn finish_attempt(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        end: &AttemptEnd,
    ) -> Result<Guarded, StoreError>;

    /// Parks a wait for readiness: the worker resolves the awakeable, after a
    /// restart too. Repeating it with the same awakeable changes nothing.
    async fn open_readiness_wait(&self, wait: &ReadinessWait) -> Result<(), StoreError>;

    /// All parked waits.
    async fn readiness_waits(&self) -> Result<Vec<ReadinessWait>, StoreError>;

    /// Forgets a wait.
    async fn close_readiness_wait(&self, awakeable_id: &str) -> Result<(), StoreError>;

    /// Starts retirement (compare-and-set `ready → retiring`) unless a domain
    /// other than its own commit domain points to the deployment, or it was
    /// wanted again since the candidate was chosen.
    async fn begin_retirement(&self, candidate: &Retirable) -> Result<Guarded, StoreError>;

    /// Starts to stop what a release has started for nothing (compare-and-set
    /// `retired → retiring`), unless it has become live meanwhile.
    async fn retire_again(&self, id: &DeploymentId) -> Result<Guarded, StoreError>;

    /// Retirements that should have taken place by now: whoever was to send
    /// them was killed. `keep` as in [`Store::retirement_candidates`]; `before`
    /// in milliseconds since the epoch, of when they lost their domains.
    async fn overdue_retirements(
        &self,
        keep: u32,
        before: i64,
    ) -> Result<Vec<Retirable>, StoreError>;

    /// Ends it (`retiring → retired`).
    async fn finish_retirement(&self, id: &DeploymentId) -> Result<Guarded, StoreError>;

    /// Deployments of the environment of `id` that retirement may take: ready,
    /// older than `id`, beyond the newest `keep` of them; and those that it has
    /// begun with.
    async fn retirement_candidates(
        &self,
        id: &DeploymentId,
        keep: u32,
    ) -> Result<Vec<Retirable>, StoreError>;

    /// A new submission of what `id` was made from, with ids and a key of its
    /// own. `None`: there is no such deployment.
    async fn resubmission(&self, id: &DeploymentId) -> Result<Option<NewDeployment>, StoreError>;

    /// What a retry has to know of the attempt that ended. `None`: there is no
    /// such deployment.
    async fn ended_attempt(&self, id: &DeploymentId) -> Result<Option<EndedAttempt>, StoreError>;

    /// Begins a new attempt (compare-and-set `failed | cancelled → retrying`)
    /// and puts the ended one into the history. `by` is the invocation that
    /// asks, `ended` the one whose journal the new attempt continues.
    async fn begin_retry(
        &self,
        id: &DeploymentId,
        by: &InvocationId,
        ended: &InvocationId,
        point: &RestartPoint,
    ) -> Result<Guarded, StoreError>;

    /// Takes back a retry that Restate has refused: the deployment is as ended
    /// as it was.
    async fn take_back_retry(&self, id: &DeploymentId, by: &InvocationId)
    -> Result<(), StoreError>;

    /// Asks for cancellation, once.
    async fn request_cancel(&self, id: &DeploymentId) -> Result<CancelRequest, StoreError>;

    /// Deployments that a workflow should own.
    async fn in_flight(&self) -> Result<Vec<InFlight>, StoreError>;

    /// The state of a deployment and when it was entered, in milliseconds since
    /// the epoch. `None`: there is no such deployment.
    async fn settled_since(
        &self,
        id: &DeploymentId,
    ) -> Result<Option<(DeploymentStatus, i64)>, StoreError>;

    /// Notes that a deployment makes no progress, and why, unless it has given a
    /// sign of life after `seen` (compare-and-set); its next step forgets it.
    async fn mark_stalled(&self, id: &DeploymentId, seen: i64, why: &str)
    -> Result<(), StoreError>;

    /// Checks whether an environment may move to the target, and calls off a
    /// retirement that was scheduled for it.
    async fn begin_release(&self, request: &ReleaseRequest) -> Result<ReleaseStart, StoreError>;

    /// Moves domains, live pointer, pin and statuses in one transaction, unless
    /// the target's instances were stopped since they were made ready.
    /// Repeating it returns the same.
    async fn swap_routes(&self, request: &SwapRequest) -> Result<Swapped, StoreError>;

    /// Namespace (environment id) and service name a deployment runs under.
    async fn run_target(&self, id: &DeploymentId) -> Result<Option<String>, StoreError>;
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
    /// Its instances are stopped.
    pub retired: bool,
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

/// How and with which variables to run. Not journaled.
#[derive(Clone, Default)]
pub struct RunInputs {
    /// Port and replicas, with the environment's defaults applied.
    pub options: RunOptions,
    /// Variables of the environment.
    pub env: BTreeMap<String, String>,
    /// Thousandths of a core; 0: no limit.
    pub cpu_millicores: u32,
    /// MiB; 0: no limit.
    pub memory_mib: u64,
}

impl fmt::Debug for RunInputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        f.debug_struct("RunInputs")
            .field("options", &self.options)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
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

/// What is known of an uploaded context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Bytes.
    pub size: u64,
}

/// A URL that carries a credential: never printed, never journaled.
#[derive(Clone)]
pub struct SignedUrl(pub String);

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.split('?').next().unwrap_or_default())
    }
}

/// The part of the object store the workflow needs.
#[async_trait]
pub trait ContextStore: Send + Sync + 'static {
    /// `None` when there is no such object.
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StepError>;

    /// A GET that the *builder* can reach.
    async fn presign_get(&self, key: &str, lifetime: Duration) -> Result<SignedUrl, StepError>;
}

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildSpec {
    /// Unique; the image's tag carries it, and so finds it after a crash.
    pub build_id: BuildId,
    /// For labels and logs.
    pub deployment_id: DeploymentId,
    /// The owner, first part of the repository name.
    pub workspace_id: WorkspaceId,
    /// Whose cache, and where builders keep projects apart, whose machine.
    pub project_id: ProjectId,
    /// Last part of the repository name.
    pub project_slug: String,
    /// Where the builder reads the tar.gz.
    pub context_url: SignedUrl,
    /// Inside the context.
    pub dockerfile_path: Option<String>,
    /// Target, platform, args.
    pub options: BuildOptions,
    /// Build secrets by id: mounted while a command runs, part of no layer.
    pub secrets: BTreeMap<String, Secret>,
    /// Labels of the image (source revision, …).
    pub labels: BTreeMap<String, String>,
    /// Bytes of output that are kept; what commands print beyond is dropped.
    pub max_output: u64,
}

/// Progress of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildEvent {
    /// Milliseconds since the epoch.
    pub at: i64,
    /// Name of the BuildKit vertex it belongs to.
    pub vertex: String,
    /// What happened.
    pub kind: BuildEventKind,
}

/// See [`BuildEvent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEventKind {
    /// The vertex began.
    Started,
    /// The vertex ended.
    Done {
        /// From its start.
        duration_ms: i64,
    },
    /// The vertex was taken from the cache.
    Cached,
    /// The vertex failed.
    Failed {
        /// From its start.
        duration_ms: i64,
        /// The builder's message.
        error: String,
    },
    /// Output of the vertex's command, ANSI kept.
    Output {
        /// Which of the two.
        stream: OutputStream,
        /// A line without its end, or a part of a very long one.
        text: String,
        /// Whether the line ends here; else the vertex's next output on this
        /// stream goes on with it.
        ends: bool,
    },
}

/// Where a command wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Builds images. Cancelling is dropping the future of [`Builder::build`] and
/// then [`Builder::abort`].
#[async_trait]
pub trait Builder: Send + Sync + 'static {
    /// The image of this build, if an earlier run finished it.
    async fn find_image(&self, spec: &BuildSpec) -> Result<Option<BuiltImage>, StepError>;

    /// Builds. Progress goes to `events`; a full channel holds the build back.
    async fn build(
        &self,
        spec: &BuildSpec,
        events: mpsc::Sender<BuildEvent>,
    ) -> Result<BuiltImage, StepError>;

    /// Whether an image that was built can still be run.
    async fn has_image(&self, image: &BuiltImage) -> Result<bool, StepError>;

    /// Ends any build with this id; none running is fine.
    async fn abort(&self, build_id: &BuildId) -> Result<(), StepError>;

    /// Pushes the image, or verifies that the registry has it. `Skipped` says
    /// why there is nothing to push.
    async fn push(&self, image: &BuiltImage) -> Result<Push, StepError>;
}

/// Opens what the control API has sealed.
pub trait Unsealer: Send + Sync + 'static {
    /// The secret, if it was sealed here, for this workspace and name.
    ///
    /// # Errors
    /// Permanent: it was not.
    fn open(
        &self,
        workspace: &WorkspaceId,
        name: &str,
        sealed: &Sealed,
    ) -> Result<Secret, StepError>;
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Push {
    /// The registry has it, under this reference and digest.
    Pushed(BuiltImage),
    /// Nothing to push; why, for people.
    Skipped(String),
}

/// What to run.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// The plan it comes from.
    pub plan: DeploymentPlan,
    /// Pullable reference with digest, or a local image id.
    pub image: String,
    /// Port, replicas, variables, limits.
    pub inputs: RunInputs,
}

/// Runs instances, through krane.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Idempotent: leaves exactly the wanted instances.
    async fn apply(&self, spec: &RunSpec) -> Result<(), StepError>;

    /// Returns when the instances are gone; unknown ones are gone.
    async fn delete(&self, namespace: &str, id: &DeploymentId) -> Result<(), StepError>;

    /// The instances now.
    async fn instances(
        &self,
        namespace: &str,
        id: &DeploymentId,
    ) -> Result<Vec<Instance>, StepError>;

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

    /// Every unfinished `Deployment` and `Deployments` invocation.
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

    /// Starts `Deployment/unwind`.
    async fn unwind(&self, id: &DeploymentId) -> Result<(), RestateSilent>;
}

/// An invocation of a deployment's workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workflow {
    /// Its id.
    pub invocation: InvocationId,
    /// The object's key; `None` for `Deployments`.
    pub deployment_id: Option<DeploymentId>,
    /// deploy, unwind, create, retry, …
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

/// Fetches the OpenAPI description of a running application.
#[async_trait]
pub trait OpenapiScraper: Send + Sync + 'static {
    /// `None`: the application has none. Bounded in time and size.
    async fn scrape(&self, address: &str) -> Result<Option<String>, StepError>;
}
