//! Taking back what an attempt had started, whatever happens meanwhile.

use std::sync::Arc;

use futures::future::BoxFuture;
use restate_sdk::prelude::*;

use super::release_command;
use crate::{
    engine::{
        core::Core,
        failpoint,
        run::uncancelled_run,
        steps::{Steps, Stop},
        undo::{Undo, Undone, Undos},
    },
    error::{ErrorCode, StepError, StepFailure},
    ids::DeploymentId,
    model::Routed,
    ports::{AttemptEnd, StepRun, UnwindStart},
    services::build_slots::{BuildSlotsClient, SlotHolder},
    status::DeploymentStatus,
    step::Step,
};

/// What became of an attempt that did not go well.
pub(super) enum Unwound {
    /// Undone, and the row says so.
    Settled,
    /// The commit point had been passed: nothing was undone, it goes on.
    Committed(Routed),
    /// The row is another invocation's: nothing was touched.
    NotOurs,
}

/// Undoes and settles the row.
///
/// # Errors
/// The database could not be reached for the whole of the bound.
pub(super) async fn unwind(
    steps: &Steps<'_, '_>,
    undos: &mut Undos,
    stop: Stop,
) -> HandlerResult<Unwound> {
    let (status, failure) = match stop {
        Stop::Overtaken => return Ok(Unwound::NotOurs),
        Stop::Cancelled => (DeploymentStatus::Cancelled, cancelled()),
        Stop::Superseded(by) => (DeploymentStatus::Superseded, superseded(&by)),
        Stop::Failed(failure) => (DeploymentStatus::Failed, failure),
    };
    let (cause, passed) = (failure.clone(), steps.take_passed());
    let Json(begun) = record(steps, "begin-unwind", move |core, id, owner| {
        let (cause, passed) = (cause.clone(), passed.clone());
        Box::pin(async move {
            for passed in passed {
                let run =
                    StepRun { deployment_id: id.clone(), owner: owner.clone(), step: passed.step };
                core.store.step_ended(&run, &passed.end()).await?;
            }
            Ok(Json(core.store.begin_unwind(&id, &owner, &cause).await?))
        })
    })
    .await?;
    match begun {
        UnwindStart::NotOurs => Ok(Unwound::NotOurs),
        UnwindStart::Committed(routed) => {
            undos.clear();
            Ok(Unwound::Committed(routed))
        }
        UnwindStart::Begun => {
            finish(steps, undos, status, failure).await?;
            Ok(Unwound::Settled)
        }
    }
}

/// The same for an invocation that was killed: what it had started is read
/// from the rows of its steps.
pub(super) async fn unwind_killed(steps: &Steps<'_, '_>) -> HandlerResult<()> {
    let Json(taken) = record(steps, "take-over", |core, id, owner| {
        Box::pin(async move { Ok(Json(core.store.take_over(&id, &owner).await?)) })
    })
    .await?;
    let Some(left) = taken else { return Ok(()) };
    let undos = Undos::of_started(&left.plan, &left.started);
    let (status, failure) = match (left.failure, left.cancelling) {
        (Some(failure), _) if failure.code != ErrorCode::Cancelled => {
            (DeploymentStatus::Failed, failure)
        }
        (Some(_), _) | (None, true) => (DeploymentStatus::Cancelled, cancelled()),
        (None, false) => {
            let message = "the workflow was ended from outside before it was done";
            let failure = StepFailure::new(ErrorCode::Interrupted, message);
            let running = left.started.iter().rfind(|known| !known.ended);
            (
                DeploymentStatus::Failed,
                running.map_or(failure.clone(), |known| failure.at(known.step)),
            )
        }
    };
    finish(steps, &undos, status, failure).await
}

fn superseded(by: &DeploymentId) -> StepFailure {
    let message =
        format!("the newer deployment {by} of the same branch took its place in the queue");
    StepFailure::new(ErrorCode::Superseded, message).at(Step::AcquireSlot)
}

fn cancelled() -> StepFailure {
    StepFailure::new(ErrorCode::Cancelled, "the deployment was cancelled")
}

/// What `deploy` ends with for its callers; people read the row.
pub(super) fn terminal_error(steps: &Steps<'_, '_>) -> HandlerError {
    let id = steps.deployment_id();
    TerminalError::new(format!("deployment `{id}` did not succeed; see `launchway inspect {id}`"))
        .into()
}

async fn finish(
    steps: &Steps<'_, '_>,
    undos: &Undos,
    status: DeploymentStatus,
    failure: StepFailure,
) -> HandlerResult<()> {
    let mut undone = Vec::new();
    for undo in undos.newest_first() {
        undone.push(run_undo(steps, undo).await);
    }
    let end = AttemptEnd { status, failure, undone };
    failpoint::reach_at(steps.deployment_id(), "settle-attempt", "before").await;
    record(steps, "settle-attempt", move |core, id, owner| {
        let end = end.clone();
        Box::pin(async move {
            core.store.finish_attempt(&id, &owner, &end).await?;
            Ok(())
        })
    })
    .await?;
    Ok(())
}

async fn run_undo(steps: &Steps<'_, '_>, undo: &Undo) -> Undone {
    let result = match undo {
        Undo::ReleaseSlot { workspace_id } => {
            let holder =
                SlotHolder { deployment_id: steps.deployment_id().clone(), awakeable_id: None };
            let slots = steps.ctx().object_client::<BuildSlotsClient>(workspace_id.as_str());
            slots.release(Json(holder)).send();
            Ok(())
        }
        undo => {
            let undo = undo.clone();
            record(steps, undo.name(), move |core, id, _| {
                let undo = undo.clone();
                Box::pin(async move { take_back(&core, &id, &undo).await })
            })
            .await
        }
    };
    match result {
        Ok(()) => Undone { step: undo.step(), note: undo.describe().to_owned(), failed: false },
        Err(error) => {
            let id = steps.deployment_id();
            tracing::error!(deployment = %id, undo = undo.name(), %error, "an undo failed");
            let note = format!("{} failed and is left behind: {}", undo.name(), error.message());
            Undone { step: undo.step(), note, failed: true }
        }
    }
}

async fn take_back(core: &Core, id: &DeploymentId, undo: &Undo) -> HandlerResult<()> {
    failpoint::reach_at(id, undo.name(), "before").await;
    let done = match undo {
        Undo::AbortBuild { build_id } => core.builder.abort(build_id).await,
        Undo::DeleteTask { namespace } => release_command::forget(core, namespace, id).await,
        Undo::DeleteInstances { namespace } => core.runtime.delete(namespace, id).await,
        Undo::ReleaseSlot { .. } => Ok(()),
    };
    failpoint::faulty(id, undo.name(), done).map_err(|error| {
        let failure = error.failure().to_string();
        match error {
            StepError::Permanent(_) => TerminalError::new(failure).into(),
            StepError::Transient(_) => failure.into(),
        }
    })
}

/// A run that a cancel cannot skip.
async fn record<T>(
    steps: &Steps<'_, '_>,
    name: &'static str,
    action: impl Fn(
        Arc<Core>,
        DeploymentId,
        crate::ids::InvocationId,
    ) -> BoxFuture<'static, HandlerResult<T>>,
) -> Result<T, TerminalError>
where
    T: restate_sdk::serde::Serialize + restate_sdk::serde::Deserialize + Send + 'static,
{
    let again = || action(Arc::clone(steps.core()), steps.deployment_id().clone(), steps.owner());
    uncancelled_run(steps.ctx(), name, again).await
}
