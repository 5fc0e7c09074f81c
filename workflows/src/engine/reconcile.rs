//! Database and Restate, brought together again: a deployment whose workflow is
//! gone is unwound, a workflow whose deployment has ended is ended, a change of
//! scale whose workflow is gone is taken back, and what makes no progress is
//! shown and set going again.
#![expect(clippy::disallowed_methods, reason = "a background task and a clock, not a handler")]

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{cancel, readiness::now_ms};
use crate::{
    ids::DeploymentId,
    ports::{
        InFlight, Invocations, RestateSilent, ScaleUnderWay, Store, StoreError, Workflow,
        WorkflowState,
    },
    step::Step,
};

/// When to do what, validated by the configuration.
#[derive(Debug, Clone)]
pub struct RecoverySettings {
    /// Between two looks.
    pub every: Duration,
    /// Without progress for this long a deployment is `stalled`.
    pub stalled_after: Duration,
    /// And after this long its workflow is set going again.
    pub resume_after: Duration,
    /// A row and its workflow may differ for this long: one is written first.
    pub grace: Duration,
    /// Longest wait for a build slot.
    pub queue_limit: Duration,
    /// Longest wait for readiness.
    pub ready_limit: Duration,
    /// Deployments of an environment that go on running without its domains.
    pub keep_running: u32,
    /// From the loss of the domains until retirement.
    pub retire_after: Duration,
    /// Between two sweeps of what is past its retention.
    pub sweep_every: Duration,
}

/// See the module. Several of them do no harm: everything they do is guarded.
pub struct Reconciler {
    store: Arc<dyn Store>,
    invocations: Arc<dyn Invocations>,
    settings: RecoverySettings,
    /// The number of the sweep that was started last.
    swept: u64,
}

/// Neither could be read. The next look is soon.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum LookError {
    Store(#[from] StoreError),
    Restate(#[from] RestateSilent),
}

/// What a deployment needs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    Fine,
    /// Its workflow is gone.
    Unwind,
    /// It was cancelled, and its workflow was not told.
    Cancel,
    /// It makes no progress; why, for people.
    Stalled { why: String, rouse: Option<Rouse> },
}

/// How a workflow is set going again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rouse {
    Resume,
    Reschedule,
}

impl Reconciler {
    /// A reconciler; [`Reconciler::run`] must be spawned.
    pub fn new(
        store: Arc<dyn Store>,
        invocations: Arc<dyn Invocations>,
        settings: RecoverySettings,
    ) -> Self {
        Self { store, invocations, settings, swept: 0 }
    }

    /// Looks at once and then again and again, forever.
    pub async fn run(mut self) {
        loop {
            if let Err(error) = self.look_and_sweep().await {
                // Either may be restarting: said by those who depend on it.
                tracing::debug!(%error, "cannot compare database and Restate now");
            }
            tokio::time::sleep(self.settings.every).await;
        }
    }

    async fn look_and_sweep(&mut self) -> Result<(), LookError> {
        self.look().await?;
        // By the clock, so that several of these start each sweep once.
        let number =
            u64::try_from(now_ms() / millis(self.settings.sweep_every).max(1)).unwrap_or(0);
        if number != self.swept {
            self.invocations.sweep(number).await?;
            self.swept = number;
        }
        Ok(())
    }

    async fn look(&self) -> Result<(), LookError> {
        // The rows first: a workflow that ends in between is seen as ended.
        let rows = self.store.in_flight().await?;
        let scales = self.store.scales_under_way().await?;
        let workflows = self.invocations.unfinished().await?;
        let mut by_deployment: HashMap<&DeploymentId, Vec<&Workflow>> = HashMap::new();
        for workflow in &workflows {
            if let Some(id) = &workflow.deployment_id {
                by_deployment.entry(id).or_default().push(workflow);
            }
        }
        let now = now_ms();
        for row in &rows {
            let own = by_deployment.remove(&row.deployment_id).unwrap_or_default();
            let sender =
                workflows.iter().any(|workflow| Some(&workflow.invocation) == row.sent_by.as_ref());
            let verdict = judge(row, &own, sender, now, &self.settings);
            self.act(row, &own, verdict).await?;
        }
        for (id, workflows) in by_deployment {
            self.end_leftovers(id, &workflows, now).await?;
        }
        self.settle_scales(&scales, &workflows).await?;
        self.send_overdue_retirements(now).await
    }

    /// There is nothing to wait for: a change whose workflow goes on after all is
    /// over before `settle` has its turn.
    async fn settle_scales(
        &self,
        scales: &[ScaleUnderWay],
        workflows: &[Workflow],
    ) -> Result<(), LookError> {
        let lives = |scale: &ScaleUnderWay| {
            workflows.iter().any(|workflow| workflow.invocation.0 == scale.by)
        };
        for left in scales.iter().filter(|scale| !lives(scale)) {
            tracing::warn!(deployment = %left.deployment_id, "nobody ends the change of its scale; taking it back");
            self.invocations.settle_scale(left).await?;
        }
        Ok(())
    }

    /// Retirement is sent after the commit: a workflow that was killed in
    /// between has left its predecessors running.
    async fn send_overdue_retirements(&self, now: i64) -> Result<(), LookError> {
        let patience = self.settings.retire_after + self.settings.grace;
        let before = now - millis(patience);
        let keep = self.settings.keep_running;
        for overdue in self.store.overdue_retirements(keep, before).await? {
            tracing::warn!(deployment = %overdue.deployment_id, "nobody has retired it; doing so");
            self.invocations.retire(&overdue).await?;
        }
        Ok(())
    }

    async fn act(
        &self,
        row: &InFlight,
        own: &[&Workflow],
        verdict: Verdict,
    ) -> Result<(), LookError> {
        let id = &row.deployment_id;
        match verdict {
            Verdict::Fine => {}
            Verdict::Unwind => {
                tracing::warn!(deployment = %id, status = %row.status, "its workflow is gone; unwinding");
                self.invocations.unwind(id).await?;
            }
            Verdict::Cancel => cancel::tell(&*self.invocations, id).await?,
            Verdict::Stalled { why, rouse } => {
                if !row.stalled {
                    tracing::warn!(deployment = %id, status = %row.status, "stalled: {why}");
                    self.store.mark_stalled(id, row.updated_at, &why).await?;
                }
                for workflow in own.iter().filter(|workflow| workflow.handler == "deploy") {
                    match rouse {
                        Some(Rouse::Resume) => {
                            self.invocations.resume(&workflow.invocation).await?;
                        }
                        Some(Rouse::Reschedule) => {
                            self.invocations.reschedule(&workflow.invocation).await?;
                        }
                        None => continue,
                    }
                    tracing::warn!(deployment = %id, ?rouse, "set going again");
                }
            }
        }
        Ok(())
    }

    /// `deploy` returns right after its row is settled; one that does not is of
    /// no use to anybody.
    async fn end_leftovers(
        &self,
        id: &DeploymentId,
        workflows: &[&Workflow],
        now: i64,
    ) -> Result<(), LookError> {
        let Some((status, since)) = self.store.settled_since(id).await? else { return Ok(()) };
        if !status.has_failed() || now - since < millis(self.settings.grace) {
            return Ok(());
        }
        for workflow in workflows.iter().filter(|workflow| workflow.handler == "deploy") {
            tracing::warn!(deployment = %id, %status, "it has ended and its workflow has not; ending that");
            self.invocations.cancel(&workflow.invocation).await?;
        }
        Ok(())
    }
}

fn judge(
    row: &InFlight,
    own: &[&Workflow],
    sender_lives: bool,
    now: i64,
    settings: &RecoverySettings,
) -> Verdict {
    let quiet = now - row.updated_at;
    let Some(workflow) = own.iter().find(|workflow| workflow.handler == "deploy").or(own.first())
    else {
        // Not sent yet, or just about to be written.
        let about_to = sender_lives || quiet < millis(settings.grace);
        return if about_to { Verdict::Fine } else { Verdict::Unwind };
    };
    if row.cancel_pending && quiet >= millis(settings.grace) {
        return Verdict::Cancel;
    }
    if quiet < millis(settings.stalled_after) {
        return Verdict::Fine;
    }
    let cause = workflow.last_failure.as_deref().unwrap_or("no failure was reported");
    let (why, rouse) = match workflow.state {
        WorkflowState::Paused => {
            (format!("Restate has paused the workflow ({cause})"), Some(Rouse::Resume))
        }
        WorkflowState::BackingOff => {
            (format!("the worker does not take up the workflow ({cause})"), Some(Rouse::Resume))
        }
        WorkflowState::Suspended => match row.step {
            Some(step) if quiet < millis(longest_wait(step, settings)) => return Verdict::Fine,
            _ => {
                ("the workflow is suspended and does not move".to_owned(), Some(Rouse::Reschedule))
            }
        },
        // Restate holds for running what a worker was handed and does not answer
        // for: a frozen one accepts connections.
        WorkflowState::Running if !taken_up(workflow, row) => {
            (format!("the worker does not take up the workflow ({cause})"), None)
        }
        // A held step has a limit of its own, and says so when it reaches it.
        WorkflowState::Running if row.step.is_some_and(Step::is_held) => return Verdict::Fine,
        WorkflowState::Running => ("the worker does not get on with the step".to_owned(), None),
        WorkflowState::Waiting => {
            ("the workflow waits behind another one of this deployment".to_owned(), None)
        }
        WorkflowState::Completed => return Verdict::Fine,
    };
    let rouse = rouse.filter(|_| quiet >= millis(settings.resume_after));
    Verdict::Stalled { why, rouse }
}

/// Whether the workflow has given a sign of life since it failed and was handed
/// to a worker again.
fn taken_up(workflow: &Workflow, row: &InFlight) -> bool {
    let handed = workflow.tried_at.filter(|_| workflow.last_failure.is_some());
    handed.is_none_or(|at| at <= row.updated_at)
}

/// How long a step may be suspended in the normal course of things.
fn longest_wait(step: Step, settings: &RecoverySettings) -> Duration {
    match step {
        Step::AcquireSlot => settings.queue_limit + settings.stalled_after,
        Step::AwaitReady => settings.ready_limit + settings.stalled_after,
        _ => Duration::ZERO,
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::InvocationId, status::DeploymentStatus};

    const NOW: i64 = 1_000_000_000;

    fn settings() -> RecoverySettings {
        RecoverySettings {
            every: Duration::from_secs(10),
            stalled_after: Duration::from_secs(60),
            resume_after: Duration::from_secs(120),
            grace: Duration::from_secs(15),
            queue_limit: Duration::from_secs(3600),
            ready_limit: Duration::from_secs(60),
            keep_running: 1,
            retire_after: Duration::from_secs(30),
            sweep_every: Duration::from_secs(3600),
        }
    }

    fn row(step: Option<Step>, quiet_secs: i64) -> InFlight {
        InFlight {
            deployment_id: DeploymentId::generate(),
            status: DeploymentStatus::Building,
            sent_by: None,
            step,
            updated_at: NOW - quiet_secs * 1000,
            cancel_pending: false,
            stalled: false,
        }
    }

    fn workflow(state: WorkflowState) -> Workflow {
        Workflow {
            invocation: InvocationId("inv".to_owned()),
            deployment_id: None,
            handler: "deploy".to_owned(),
            state,
            last_failure: None,
            tried_at: None,
            journal_version: None,
        }
    }

    fn verdict(row: &InFlight, state: WorkflowState) -> Verdict {
        judge(row, &[&workflow(state)], false, NOW, &settings())
    }

    fn rouse(verdict: Verdict) -> Option<Rouse> {
        match verdict {
            Verdict::Stalled { rouse, .. } => rouse,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_row_without_a_workflow_is_unwound_unless_it_is_about_to_get_one() {
        let judged = |row: &InFlight, sender| judge(row, &[], sender, NOW, &settings());
        assert_eq!(judged(&row(None, 20), false), Verdict::Unwind);
        assert_eq!(judged(&row(None, 5), false), Verdict::Fine);
        assert_eq!(judged(&row(None, 500), true), Verdict::Fine);
    }

    #[test]
    fn what_is_paused_or_backs_off_is_stalled_and_then_resumed() {
        for state in [WorkflowState::Paused, WorkflowState::BackingOff] {
            let building = |quiet| row(Some(Step::BuildImage), quiet);
            assert_eq!(verdict(&building(59), state), Verdict::Fine);
            assert_eq!(rouse(verdict(&building(61), state)), None);
            assert_eq!(rouse(verdict(&building(121), state)), Some(Rouse::Resume));
        }
    }

    #[test]
    fn a_long_build_and_a_long_queue_are_no_stall() {
        assert_eq!(
            verdict(&row(Some(Step::BuildImage), 900), WorkflowState::Running),
            Verdict::Fine
        );
        let queued = row(Some(Step::AcquireSlot), 900);
        assert_eq!(verdict(&queued, WorkflowState::Suspended), Verdict::Fine);
        let ready = row(Some(Step::AwaitReady), 900);
        assert_eq!(rouse(verdict(&ready, WorkflowState::Suspended)), Some(Rouse::Reschedule));
    }

    #[test]
    fn what_was_handed_to_a_frozen_worker_is_stalled_and_a_step_that_failed_once_is_not() {
        let building = row(Some(Step::BuildImage), 61);
        let judged = |tried_at| {
            let handed = Workflow {
                last_failure: Some("connection closed".to_owned()),
                tried_at: Some(tried_at),
                ..workflow(WorkflowState::Running)
            };
            judge(&building, &[&handed], false, NOW, &settings())
        };
        assert_eq!(judged(building.updated_at - 10), Verdict::Fine);
        assert_eq!(rouse(judged(building.updated_at + 30_000)), None);
    }

    #[test]
    fn a_cancel_that_was_not_told_is_told() {
        let mut row = row(Some(Step::BuildImage), 20);
        row.cancel_pending = true;
        assert_eq!(verdict(&row, WorkflowState::Running), Verdict::Cancel);
    }
}
