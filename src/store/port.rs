//! The port of the durable core, delegated to the files by subject.

use async_trait::async_trait;
use launchway_workflows::{
    engine::retry::RestartPoint,
    error::StepFailure,
    ids::{DeploymentId, InvocationId},
    model::{
        BuildOptions, BuiltImage, DeploymentPlan, DomainClaim, NewDeployment, Routed, Submission,
    },
    ports::{
        self, AttemptEnd, BuildEvent, CancelRequest, EndedAttempt, Guarded, InFlight, LeftBehind,
        Passed, ReadinessWait, ReleaseMark, ReleaseStart, Retirable, RunInputs, ScaleStart,
        ScaleTarget, ScaleUnderWay, StepEnd, StepRun, UnwindStart,
    },
    services::{
        release::ReleaseRequest,
        routing::{SwapRequest, Swapped},
        scale::ScaleRequest,
    },
    status::DeploymentStatus,
    step::Step,
};

use super::{Result, Store};

#[async_trait]
impl ports::Store for Store {
    async fn create_deployment(&self, new: &NewDeployment) -> Result<Submission> {
        self.submit(new).await
    }

    async fn begin_attempt(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
    ) -> Result<Option<DeploymentPlan>> {
        self.take_for_attempt(id, owner).await
    }

    async fn build_options(&self, id: &DeploymentId) -> Result<BuildOptions> {
        self.read_build_options(id).await
    }

    async fn run_inputs(&self, id: &DeploymentId) -> Result<RunInputs> {
        self.read_run_inputs(id).await
    }

    async fn step_started(
        &self,
        run: &StepRun,
        status: Option<DeploymentStatus>,
        passed: &[Passed],
    ) -> Result<Option<u32>> {
        self.start_step(run, status, passed).await
    }

    async fn note_step(&self, id: &DeploymentId, step: Step, message: &str) -> Result<()> {
        self.write_note(id, step, message).await
    }

    async fn step_ended(&self, run: &StepRun, end: &StepEnd) -> Result<()> {
        self.end_step(run, end).await
    }

    async fn append_build_log(&self, id: &DeploymentId, events: &[BuildEvent]) -> Result<()> {
        self.append_log(id, events).await
    }

    async fn record_image(&self, id: &DeploymentId, image: &BuiltImage) -> Result<()> {
        self.write_image(id, image).await
    }

    async fn mark_release(&self, id: &DeploymentId, owner: &InvocationId) -> Result<ReleaseMark> {
        self.note_release(id, owner).await
    }

    async fn release_attempt(&self, id: &DeploymentId) -> Result<Option<u32>> {
        self.read_release_attempt(id).await
    }

    async fn logged_lines(&self, id: &DeploymentId, vertex: &str) -> Result<u64> {
        self.count_lines(id, vertex).await
    }

    async fn begin_scale(&self, request: &ScaleRequest, by: &InvocationId) -> Result<ScaleStart> {
        self.start_scale(request, by).await
    }

    async fn finish_scale(&self, id: &DeploymentId, by: &InvocationId) -> Result<Guarded> {
        self.end_scale(id, by).await
    }

    async fn undo_scale(&self, target: &ScaleTarget, by: &InvocationId) -> Result<Guarded> {
        self.take_back_scale(target, by).await
    }

    async fn scales_under_way(&self) -> Result<Vec<ScaleUnderWay>> {
        self.read_scales_under_way().await
    }

    async fn take_over_scale(
        &self,
        left: &ScaleUnderWay,
        by: &InvocationId,
    ) -> Result<Option<ScaleTarget>> {
        self.take_over_left_scale(left, by).await
    }

    async fn cancel_requested(&self, id: &DeploymentId) -> Result<bool> {
        self.is_cancel_requested(id).await
    }

    async fn finish_build(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        passed: &[Passed],
    ) -> Result<Option<Routed>> {
        self.end_build(id, owner, passed).await
    }

    async fn commit_routes(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        claims: &[DomainClaim],
    ) -> Result<Option<Routed>> {
        self.route(id, owner, claims).await
    }

    async fn begin_unwind(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        cause: &StepFailure,
    ) -> Result<UnwindStart> {
        self.close_commit(id, owner, cause).await
    }

    async fn take_over(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
    ) -> Result<Option<LeftBehind>> {
        self.take_left_behind(id, owner).await
    }

    async fn owner_of(&self, id: &DeploymentId) -> Result<Option<InvocationId>> {
        self.read_owner(id).await
    }

    async fn add_warning(&self, id: &DeploymentId, warning: &str) -> Result<()> {
        self.write_warning(id, warning).await
    }

    async fn record_openapi(&self, id: &DeploymentId, spec: &str) -> Result<()> {
        self.write_openapi(id, spec).await
    }

    async fn finish_attempt(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        end: &AttemptEnd,
    ) -> Result<Guarded> {
        self.settle_attempt(id, owner, end).await
    }

    async fn open_readiness_wait(&self, wait: &ReadinessWait) -> Result<()> {
        self.open_wait(wait).await
    }

    async fn readiness_waits(&self) -> Result<Vec<ReadinessWait>> {
        self.open_waits().await
    }

    async fn close_readiness_wait(&self, awakeable_id: &str) -> Result<()> {
        self.close_wait(awakeable_id).await
    }

    async fn begin_retirement(&self, candidate: &Retirable) -> Result<Guarded> {
        self.start_retirement(candidate).await
    }

    async fn retire_again(&self, id: &DeploymentId) -> Result<Guarded> {
        self.restart_retirement(id).await
    }

    async fn overdue_retirements(&self, keep: u32, before: i64) -> Result<Vec<Retirable>> {
        self.find_overdue(keep, before).await
    }

    async fn finish_retirement(&self, id: &DeploymentId) -> Result<Guarded> {
        self.end_retirement(id).await
    }

    async fn retirement_candidates(&self, id: &DeploymentId, keep: u32) -> Result<Vec<Retirable>> {
        self.find_retirable(id, keep).await
    }

    async fn resubmission(&self, id: &DeploymentId) -> Result<Option<NewDeployment>> {
        self.read_resubmission(id).await
    }

    async fn ended_attempt(&self, id: &DeploymentId) -> Result<Option<EndedAttempt>> {
        self.read_ended(id).await
    }

    async fn begin_retry(
        &self,
        id: &DeploymentId,
        by: &InvocationId,
        ended: &InvocationId,
        point: &RestartPoint,
    ) -> Result<Guarded> {
        self.start_retry(id, by, ended, point).await
    }

    async fn take_back_retry(&self, id: &DeploymentId, by: &InvocationId) -> Result<()> {
        self.undo_retry(id, by).await
    }

    async fn request_cancel(&self, id: &DeploymentId) -> Result<CancelRequest> {
        self.ask_cancel(id).await
    }

    async fn in_flight(&self) -> Result<Vec<InFlight>> {
        self.read_in_flight().await
    }

    async fn settled_since(&self, id: &DeploymentId) -> Result<Option<(DeploymentStatus, i64)>> {
        self.read_settled_since(id).await
    }

    async fn mark_stalled(&self, id: &DeploymentId, seen: i64, why: &str) -> Result<()> {
        self.write_stalled(id, seen, why).await
    }

    async fn begin_release(&self, request: &ReleaseRequest) -> Result<ReleaseStart> {
        self.start_release(request).await
    }

    async fn swap_routes(&self, request: &SwapRequest) -> Result<Swapped> {
        self.swap(request).await
    }

    async fn run_target(&self, id: &DeploymentId) -> Result<Option<String>> {
        self.namespace_of(id).await
    }
}
