//! The product's database, as the durable core uses it.

use async_trait::async_trait;

use super::{
    AttemptEnd, BuildEvent, CancelRequest, EndedAttempt, Guarded, InFlight, LeftBehind, Passed,
    ReadinessWait, ReleaseMark, ReleaseStart, Retirable, RunInputs, ScaleStart, ScaleTarget,
    ScaleUnderWay, StepEnd, StepRun, UnwindStart,
};
use crate::{
    engine::retry::RestartPoint,
    error::StepFailure,
    ids::{DeploymentId, InvocationId},
    model::{
        BuildOptions, BuiltImage, DeploymentPlan, DomainClaim, NewDeployment, Routed, Submission,
    },
    services::{
        release::ReleaseRequest,
        routing::{SwapRequest, Swapped},
        scale::ScaleRequest,
    },
    status::DeploymentStatus,
    step::Step,
};

/// The database did not do what it was asked to. Always worth another try.
#[derive(Debug, thiserror::Error)]
#[error("database: {0}")]
pub struct StoreError(pub String);

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

    /// How to run and with which variables, as recorded with the deployment.
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

    /// Notes, for the owner only, that the release command of the present
    /// attempt may be started from now on (compare-and-set by attempt).
    async fn mark_release(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
    ) -> Result<ReleaseMark, StoreError>;

    /// The last attempt that may have started its release command.
    async fn release_attempt(&self, id: &DeploymentId) -> Result<Option<u32>, StoreError>;

    /// Lines of output that the present attempt has logged under a name.
    async fn logged_lines(&self, id: &DeploymentId, vertex: &str) -> Result<u64, StoreError>;

    /// Checks whether the scale may be changed and records it with the deployment,
    /// in one transaction. Instances that are to be stopped lose their requests
    /// with it. Repeated by the same invocation it answers the same.
    async fn begin_scale(
        &self,
        request: &ScaleRequest,
        by: &InvocationId,
    ) -> Result<ScaleStart, StoreError>;

    /// Ends it: what is recorded stays and, unless it was taken back, is the
    /// environment's default from now on. `Lost`: it is another invocation's now.
    async fn finish_scale(
        &self,
        id: &DeploymentId,
        by: &InvocationId,
    ) -> Result<Guarded, StoreError>;

    /// Takes it back: the deployment is as it was. `Lost`: it is another
    /// invocation's now, whose record stays.
    async fn undo_scale(
        &self,
        target: &ScaleTarget,
        by: &InvocationId,
    ) -> Result<Guarded, StoreError>;

    /// Changes of scale that are recorded as under way.
    async fn scales_under_way(&self) -> Result<Vec<ScaleUnderWay>, StoreError>;

    /// Takes back for `by` what an invocation has left that was killed. `None`: it
    /// has ended, or is another one's now. Repeating it returns the same.
    async fn take_over_scale(
        &self,
        left: &ScaleUnderWay,
        by: &InvocationId,
    ) -> Result<Option<ScaleTarget>, StoreError>;

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

    /// The commit point of a build by itself: `built`, with the ends of the steps
    /// before; `None` when the row is not the owner's to end. Repeating it returns
    /// what it did.
    async fn finish_build(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        passed: &[Passed],
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
