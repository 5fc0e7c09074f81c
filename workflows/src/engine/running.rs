//! Running what is recorded with a deployment.

use super::core::Core;
use crate::{
    error::{ErrorCode, StepError},
    model::{DeploymentPlan, Sealed},
    ports::{RunInputs, RunSpec},
};

/// Changes of what is recorded that come while it is applied, before somebody
/// is taken to do nothing else.
const ROUNDS: u32 = 10;

/// What sealed variables are bound to, apart from build secrets of that name.
pub fn variable(name: &str) -> String {
    format!("variable:{name}")
}

/// Opens the variables: call it in the step that hands them over.
pub(crate) fn run_spec(
    core: &Core,
    plan: &DeploymentPlan,
    image: &str,
    inputs: RunInputs,
) -> Result<RunSpec, StepError> {
    let open = |(name, sealed): (String, Sealed)| {
        let opened = core.unsealer.open(&plan.workspace_id, &variable(&name), &sealed);
        let opened = opened.map_err(|why| {
            let message = format!("the variable `{name}` cannot be opened: {why}");
            StepError::permanent(ErrorCode::RuntimeRejected, message)
        })?;
        Ok((name, opened))
    };
    Ok(RunSpec {
        plan: plan.clone(),
        image: image.to_owned(),
        options: inputs.options,
        env: inputs.env.into_iter().map(open).collect::<Result<_, StepError>>()?,
    })
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
