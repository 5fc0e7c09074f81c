//! Taking back what an attempt had started, whatever happens meanwhile.

use std::sync::Arc;

use futures::future::BoxFuture;
use restate_sdk::prelude::*;

use crate::{
    engine::{
        core::Core,
        run::bounded_run,
        steps::{Steps, Stop},
        undo::{Undo, Undos},
    },
    error::{ErrorCode, StepError, StepFailure},
    ids::DeploymentId,
    model::Routed,
    ports::AttemptEnd,
    services::build_slots::{BuildSlotsClient, SlotHolder},
    status::DeploymentStatus,
};

/// Restate delivers a cancel as this code at whatever await comes next.
const CANCELLED: u16 = 409;
/// Cancels absorbed during one undo: more than people send, and a bound.
const MAX_CANCELS: u32 = 100;

/// Undoes and settles the row. `Some`: the commit point had been passed, so
/// nothing was undone and the deployment goes on.
///
/// # Errors
/// The database could not be reached for the whole of the bound.
pub(super) async fn unwind(
    steps: &Steps<'_, '_>,
    undos: &mut Undos,
    stop: Stop,
) -> HandlerResult<Option<Routed>> {
    if let Some(routed) = begin(steps).await? {
        undos.clear(steps.ctx());
        return Ok(Some(routed));
    }
    let (status, failure) = match stop {
        Stop::Cancelled => (DeploymentStatus::Cancelled, cancelled()),
        Stop::Failed(failure) => (DeploymentStatus::Failed, failure),
    };
    finish(steps, undos, status, failure).await?;
    Ok(None)
}

/// The same for an invocation that was killed.
pub(super) async fn unwind_killed(steps: &Steps<'_, '_>, undos: &mut Undos) -> HandlerResult<()> {
    if begin(steps).await?.is_some() {
        undos.clear(steps.ctx());
        return Ok(());
    }
    let message = "the workflow was ended from outside before it was done";
    let failure = StepFailure::new(ErrorCode::Interrupted, message);
    finish(steps, undos, DeploymentStatus::Failed, failure).await
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

/// Closes the way to the commit point, or finds that it was passed.
async fn begin(steps: &Steps<'_, '_>) -> Result<Option<Routed>, TerminalError> {
    let Json(routed) = record(steps, "begin-unwind", |core, id, owner| {
        Box::pin(async move { Ok(Json(core.store.begin_unwind(&id, &owner).await?)) })
    })
    .await?;
    Ok(routed)
}

async fn finish(
    steps: &Steps<'_, '_>,
    undos: &mut Undos,
    status: DeploymentStatus,
    failure: StepFailure,
) -> HandlerResult<()> {
    let mut rolled_back = Vec::new();
    for undo in undos.newest_first() {
        rolled_back.push(run_undo(steps, undo).await);
    }
    undos.clear(steps.ctx());
    let end = AttemptEnd { status, failure, rolled_back };
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

/// A line for people: what was undone, or what is left behind.
async fn run_undo(steps: &Steps<'_, '_>, undo: &Undo) -> String {
    let result = match undo {
        Undo::ReleaseSlot { workspace_id } => {
            let holder = SlotHolder { deployment_id: steps.deployment_id().clone() };
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
        Ok(()) => undo.describe().to_owned(),
        Err(error) => {
            let id = steps.deployment_id();
            tracing::error!(deployment = %id, undo = undo.name(), %error, "an undo failed");
            format!("{} failed and is left behind: {}", undo.name(), error.message())
        }
    }
}

async fn take_back(core: &Core, id: &DeploymentId, undo: &Undo) -> HandlerResult<()> {
    let done = match undo {
        Undo::AbortBuild { build_id } => core.builder.abort(build_id).await,
        Undo::DeleteInstances { namespace } => core.runtime.delete(namespace, id).await,
        Undo::ReleaseSlot { .. } => Ok(()),
    };
    done.map_err(|error| {
        let failure = error.failure().to_string();
        match error {
            StepError::Permanent(_) => TerminalError::new(failure).into(),
            StepError::Transient(_) => failure.into(),
        }
    })
}

/// A run that a cancel cannot skip: a 409 means "run this again".
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
    let mut cancels = 0;
    loop {
        let future = action(Arc::clone(steps.core()), steps.deployment_id().clone(), steps.owner());
        match bounded_run!(steps.ctx(), name, move || future).await {
            Err(error) if error.code() == CANCELLED && cancels < MAX_CANCELS => cancels += 1,
            result => return result,
        }
    }
}
