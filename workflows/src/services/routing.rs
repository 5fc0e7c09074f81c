//! `Routing`, a virtual object per environment: its domains move atomically
//! and in order. A leaf: it calls nothing and waits for nothing unbounded.

use std::sync::Arc;

use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::release::ReleaseRequest;
use crate::{
    engine::{
        core::Core,
        failpoint::{self, Point},
        run::bounded_run,
        steps::handler_error,
    },
    error::{ErrorCode, StepError, StepFailure},
    ids::DeploymentId,
    model::{DomainClaim, Routed},
    ports::{StepEnd, StepRun},
    step::Step,
};

/// Input of `assign`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AssignRequest {
    /// Who gets the domains.
    pub deployment_id: DeploymentId,
    /// Which ones.
    pub claims: Vec<DomainClaim>,
}

/// Output of `assign`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verdict", content = "value", rename_all = "snake_case")]
pub enum Assigned {
    /// The commit took place.
    Routed(Routed),
    /// The row forbids it.
    Failed(StepFailure),
}

/// Input of `swap`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SwapRequest {
    /// From and to.
    pub release: ReleaseRequest,
    /// How often the target's instances had been stopped when they were made
    /// ready.
    pub stops: i64,
}

/// Output of `swap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verdict", content = "value", rename_all = "snake_case")]
pub enum Swapped {
    /// The domains have moved.
    Done {
        /// The environment's hostname.
        domain: String,
        /// What was live before.
        previous: Option<DeploymentId>,
    },
    /// The target was retired meanwhile: start it again.
    Again,
    /// The rules forbid it.
    Refused(String),
}

/// The domains of an environment.
pub struct Routing {
    core: Arc<Core>,
}

impl Routing {
    /// Handlers over these ports.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

#[restate_sdk::object]
impl Routing {
    /// The commit point: routes, live pointer and status in one transaction.
    #[handler]
    async fn assign(
        &self,
        ctx: ObjectContext<'_>,
        request: Json<AssignRequest>,
    ) -> HandlerResult<Json<Assigned>> {
        let core = Arc::clone(&self.core);
        let assigned = bounded_run!(ctx, "commit-routes", move || async move {
            commit(&core, request.0).await.map(Json).map_err(handler_error)
        });
        Ok(assigned.await?)
    }

    /// Moves the environment's domains and live pointer to another of its
    /// deployments, in one transaction.
    #[handler]
    async fn swap(
        &self,
        ctx: ObjectContext<'_>,
        request: Json<SwapRequest>,
    ) -> HandlerResult<Json<Swapped>> {
        let core = Arc::clone(&self.core);
        let swapped = bounded_run!(ctx, "swap-routes", move || async move {
            let swapped = core.store.swap_routes(&request.0).await?;
            core.announcer.announce().await;
            Ok(Json(swapped))
        });
        Ok(swapped.await?)
    }
}

async fn commit(core: &Core, request: AssignRequest) -> Result<Assigned, StepError> {
    let id = request.deployment_id;
    let Some(owner) = core.store.owner_of(&id).await? else { return Ok(refused(&id)) };
    let run = StepRun { deployment_id: id.clone(), owner, step: Step::AssignDomains };
    failpoint::faulty(&id, "commit-routes", Ok(()))?;
    let committing = core.store.commit_routes(&id, &run.owner, &request.claims);
    let committed = failpoint::during(&id, Step::AssignDomains, committing).await?;
    let Some(routed) = committed else {
        let refused = refused(&id);
        if let Assigned::Failed(failure) = &refused {
            core.store.step_ended(&run, &StepEnd::Failed(failure.clone())).await?;
        }
        return Ok(refused);
    };
    failpoint::reach(&id, Step::AssignDomains, Point::Done).await;
    failpoint::faulty(&id, "committed-routes", Ok(()))?;
    // The routes are committed; gateways that are away catch up by themselves.
    core.announcer.announce().await;
    tracing::info!(deployment = %id, status = %routed.status, domain = %routed.primary, "domains assigned");
    Ok(Assigned::Routed(routed))
}

fn refused(id: &DeploymentId) -> Assigned {
    let message = format!("deployment `{id}` is no longer this attempt's to route");
    Assigned::Failed(StepFailure::new(ErrorCode::Overtaken, message))
}
