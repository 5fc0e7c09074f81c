//! `Deployment`, a virtual object per deployment: the workflow itself.

mod build_phase;
mod finish;
mod release_command;
mod release_phase;
mod unwinding;

use std::{str::FromStr, sync::Arc};

use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{
        core::Core,
        failpoint,
        run::bounded_run,
        steps::{Done, StepLimits, Steps, Stop},
        undo::Undos,
    },
    error::{ErrorCode, StepError, StepFailure},
    ids::DeploymentId,
    model::{DeploymentPlan, Purpose, Routed},
    status::DeploymentStatus,
    step::Step,
};
pub(crate) use build_phase::PUSH_LIMIT;
pub(crate) use release_command::RELEASE_LIMIT;
pub(crate) use release_phase::APPLY_LIMIT;
use unwinding::Unwound;

/// Input of `deploy`. What to deploy is in the database, not in the journal.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DeployRequest {
    /// Must equal the object's key.
    pub deployment_id: DeploymentId,
    /// Key space of the deployed API, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_auth_id: Option<String>,
}

/// Output of `status`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DeploymentState {
    /// The object's key.
    pub deployment_id: DeploymentId,
    /// Where it is.
    pub status: DeploymentStatus,
    /// From 1.
    pub attempt: u32,
    /// The last step that this attempt has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// Why it failed, or is being taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<StepFailure>,
}

/// The workflow of one deployment.
pub struct Deployment {
    core: Arc<Core>,
}

impl Deployment {
    /// Handlers over these ports.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

#[restate_sdk::object]
impl Deployment {
    /// Takes the deployment from its source to its domains. Ends with a
    /// terminal error when it failed or was cancelled, and everything it had
    /// started is undone by then.
    #[handler]
    async fn deploy(
        &self,
        ctx: ObjectContext<'_>,
        request: Json<DeployRequest>,
    ) -> HandlerResult<Json<Routed>> {
        let id = key_of(&ctx)?;
        if request.0.deployment_id != id {
            let message = format!("the body's deployment_id is not the key `{id}`");
            return Err(TerminalError::new_with_code(400, message).into());
        }
        let mut undos = Undos::default();
        let steps = Steps::new(&ctx, Arc::clone(&self.core), id);
        match run_to_commit(&steps, &mut undos).await {
            Ok(routed) => after_commit(&steps, routed).await,
            Err(stop) => match unwinding::unwind(&steps, &mut undos, stop).await? {
                // The commit had taken place: cancelled or broken too late.
                Unwound::Committed(routed) => after_commit(&steps, routed).await,
                Unwound::Settled | Unwound::NotOurs => Err(unwinding::terminal_error(&steps)),
            },
        }
    }

    /// Where the deployment is; answers while `deploy` runs.
    #[handler]
    async fn status(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<Json<DeploymentState>> {
        let id = DeploymentId::from_str(ctx.key())
            .map_err(|error| TerminalError::new_with_code(400, error.to_string()))?;
        let (core, key) = (Arc::clone(&self.core), id.clone());
        let Json(state) = bounded_run!(ctx, "read-state", move || async move {
            let found = core.store.ended_attempt(&key).await?;
            Ok(Json(found.map(|found| DeploymentState {
                deployment_id: key,
                status: found.status,
                attempt: found.attempt,
                step: found.last_step,
                failure: found.failure,
            })))
        })
        .await?;
        let unknown = || format!("there is no deployment `{id}`: `launchway list` shows them");
        state.map(Json).ok_or_else(|| TerminalError::new_with_code(404, unknown()).into())
    }

    /// Finishes the undos of an invocation that was killed and settles the
    /// deployment's row. Does nothing for one that is settled.
    #[handler]
    async fn unwind(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        let id = key_of(&ctx)?;
        let steps = Steps::new(&ctx, Arc::clone(&self.core), id);
        unwinding::unwind_killed(&steps).await
    }
}

fn key_of(ctx: &ObjectContext<'_>) -> Result<DeploymentId, TerminalError> {
    DeploymentId::from_str(ctx.key())
        .map_err(|error| TerminalError::new_with_code(400, error.to_string()))
}

/// The deployment, step by step, up to the commit point.
async fn run_to_commit(steps: &Steps<'_, '_>, undos: &mut Undos) -> Result<Routed, Stop> {
    let plan = load_deployment(steps).await?;
    let image = build_phase::image_of(steps, undos, &plan).await?;
    if plan.purpose == Purpose::Build {
        let built = finish::finish_build(steps).await?;
        undos.clear();
        return Ok(built);
    }
    release_command::run(steps, undos, &plan, &image).await?;
    release_phase::deploy_to_krane(steps, undos, &plan, image).await?;
    release_phase::await_ready(steps, &plan).await?;
    let routed = release_phase::assign_domains(steps, &plan).await?;
    undos.clear();
    Ok(routed)
}

/// What follows the commit point can only warn.
async fn after_commit(steps: &Steps<'_, '_>, routed: Routed) -> HandlerResult<Json<Routed>> {
    if routed.status != DeploymentStatus::Built {
        release_phase::scrape_openapi(steps).await;
        release_phase::retire_previous(steps).await;
    }
    failpoint::reached(steps.deployment_id(), "deploy", "ended");
    Ok(Json(routed))
}

async fn load_deployment(steps: &Steps<'_, '_>) -> Result<DeploymentPlan, Stop> {
    let (id, owner) = (steps.deployment_id().clone(), steps.owner());
    steps
        .run(Step::LoadDeployment, None, StepLimits::CALL, move |core| async move {
            match core.store.begin_attempt(&id, &owner).await? {
                Some(plan) => Ok(Done::with(plan)),
                None => Err(StepError::permanent(
                    ErrorCode::DeploymentUnknown,
                    format!("there is no deployment `{id}` for this invocation to run"),
                )),
            }
        })
        .await
}
