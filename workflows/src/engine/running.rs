//! Running what is recorded with a deployment.

use std::{collections::BTreeMap, time::Duration};

use restate_sdk::prelude::*;

use super::core::Core;
use crate::{
    error::{ErrorCode, StepError, StepFailure},
    ids::WorkspaceId,
    model::{DeploymentPlan, Sealed},
    ports::{RunInputs, RunSpec, Unsealer},
    secret::Secret,
};

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
