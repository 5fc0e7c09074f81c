//! Running what is recorded with a deployment.

use std::{collections::BTreeMap, time::Duration};

use restate_sdk::prelude::*;

use super::core::{Core, Settings};
use crate::{
    error::{ErrorCode, StepError, StepFailure},
    ids::{DeploymentId, WorkspaceId},
    model::{DeploymentPlan, Sealed},
    ports::{Guarded, RunInputs, RunSpec, Unsealer},
    secret::Secret,
    status::DeploymentStatus,
};

/// Starting the instances of one deployment, once: an image may have to be pulled.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(600);
/// From the last request that instances are sent until they are asked to end.
const DRAIN: Duration = Duration::from_secs(5);
/// Changes of what is recorded that come while it is applied, before somebody
/// is taken to do nothing else.
const ROUNDS: u32 = 10;

/// What sealed variables are bound to, apart from build secrets of that name.
pub fn variable(name: &str) -> String {
    format!("variable:{name}")
}

/// The variables of a deployment, opened.
///
/// # Errors
/// One of them cannot be; says which and why.
pub fn opened(
    unsealer: &dyn Unsealer,
    workspace: &WorkspaceId,
    env: BTreeMap<String, Sealed>,
) -> Result<BTreeMap<String, Secret>, String> {
    let open = |(name, sealed): (String, Sealed)| {
        let opened = unsealer.open(workspace, &variable(&name), &sealed);
        let opened =
            opened.map_err(|why| format!("the variable `{name}` cannot be opened: {why}"))?;
        Ok((name, opened))
    };
    env.into_iter().map(open).collect()
}

/// What to hand over: call it in the step that does.
pub(crate) fn run_spec(
    core: &Core,
    plan: &DeploymentPlan,
    image: &str,
    inputs: RunInputs,
) -> Result<RunSpec, StepError> {
    let env = opened(&*core.unsealer, &plan.workspace_id, inputs.env)
        .map_err(|why| StepError::permanent(ErrorCode::RuntimeRejected, why))?;
    Ok(RunSpec { plan: plan.clone(), image: image.to_owned(), options: inputs.options, env })
}

/// The result of a run that starts instances: why they cannot be started, if that
/// is for good. Everything else is tried again.
pub(crate) async fn started_within(
    limit: Duration,
    starting: impl Future<Output = Result<(), StepError>>,
) -> HandlerResult<Json<Option<StepFailure>>> {
    match tokio::time::timeout(limit, starting).await {
        Ok(Ok(())) => Ok(Json(None)),
        Ok(Err(StepError::Permanent(failure))) => Ok(Json(Some(failure))),
        Ok(Err(StepError::Transient(failure))) => Err(failure.to_string().into()),
        Err(_) => Err("the instances did not start within their limit".to_owned().into()),
    }
}

/// Leaves exactly the recorded instances. What is recorded may be changed by
/// somebody else meanwhile: whoever has applied the older record applies the
/// newer one too, so that the last one stands.
pub(crate) async fn apply_recorded(
    core: &Core,
    plan: &DeploymentPlan,
    image: &str,
) -> Result<(), StepError> {
    let id = &plan.deployment_id;
    let mut recorded = core.store.run_inputs(id).await?;
    for _ in 0..ROUNDS {
        core.runtime.apply(&run_spec(core, plan, image, recorded.clone())?).await?;
        let now = core.store.run_inputs(id).await?;
        if now == recorded {
            return Ok(());
        }
        recorded = now;
    }
    let message = format!("the scale of `{id}` was changed again each time it was applied");
    Err(StepError::transient(ErrorCode::Internal, message))
}

/// [`apply_recorded`], unless the deployment is evicted, or is retired meanwhile:
/// then what was started for nothing is stopped again.
pub(crate) async fn apply_while_wanted(
    core: &Core,
    plan: &DeploymentPlan,
    image: &str,
) -> Result<(), StepError> {
    let id = &plan.deployment_id;
    if core.evictions.is_evicted(id).await? {
        return Ok(());
    }
    if is_wanted(core, id).await? {
        apply_recorded(core, plan, image).await?;
        if is_wanted(core, id).await? {
            return Ok(());
        }
        // From here on no release can make it live while its instances go.
        if core.store.retire_again(id).await? == Guarded::Applied {
            core.runtime.delete(plan.environment_id.as_str(), id).await?;
            core.store.finish_retirement(id).await?;
        }
    }
    let message = format!("deployment `{id}` was retired while its instances were started");
    Err(StepError::permanent(ErrorCode::Overtaken, message))
}

async fn is_wanted(core: &Core, id: &DeploymentId) -> Result<bool, StepError> {
    let status = core.store.settled_since(id).await?.map(|(status, _)| status);
    Ok(matches!(status, Some(DeploymentStatus::Live | DeploymentStatus::Ready)))
}

/// Milliseconds from the commit that takes requests away from instances until they
/// are asked to end.
pub(crate) fn drain(settings: &Settings) -> u64 {
    u64::try_from(DRAIN.min(settings.retire_after).as_millis()).unwrap_or(u64::MAX)
}
