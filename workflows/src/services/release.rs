//! `Release`, a virtual object per request: moves an environment to another of
//! its deployments (rollback, promote), which may have to be started first.
//! Keyed apart from `Routing`, because that may take minutes.

use std::sync::Arc;

use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    eviction::start_evicted,
    retirement::RetirementClient,
    routing::{RoutingClient, SwapRequest, Swapped},
    waits::{ReadyRequest, WaitsClient},
};
use crate::{
    engine::{
        core::Core,
        readiness::ReadyVerdict,
        run::bounded_run,
        running::{START_LIMIT, apply_recorded, started_within},
    },
    error::StepFailure,
    ids::DeploymentId,
    ports::{Guarded, ReleaseStart, ReleaseTarget, Retirable},
};

/// A target that retires between its check and the swap is started again;
/// more than this is somebody retiring it in a loop.
const ROUNDS: u32 = 5;

/// Input of `run`. Which workspace it is in was checked by the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// Back, and pinned there; or forward, and unpinned.
    pub kind: ReleaseKind,
    /// What the environment shall serve.
    pub target_deployment_id: DeploymentId,
    /// What it serves now, if that is to be checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_deployment_id: Option<DeploymentId>,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseKind {
    /// The environment stays where it is put: new deployments end as `ready`.
    Rollback,
    /// The environment follows new deployments again.
    Promote,
}

/// Output of `run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verdict", content = "value", rename_all = "snake_case")]
pub enum Released {
    /// The domains have moved.
    Done {
        /// The environment's hostname.
        domain: String,
        /// What was live before.
        previous: Option<DeploymentId>,
        /// The instances had to be started first.
        started: bool,
    },
    /// The rules forbid it; nothing was changed.
    Refused(String),
    /// The target could not be started; nothing was changed.
    Failed(StepFailure),
}

/// Moves environments.
pub struct Release {
    core: Arc<Core>,
}

impl Release {
    /// Handlers over these ports.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

#[restate_sdk::object]
impl Release {
    /// Makes sure that the target runs and is ready, then moves domains, live
    /// pointer and statuses in one transaction. What it had started for nothing
    /// is stopped again.
    #[handler]
    async fn run(
        &self,
        ctx: ObjectContext<'_>,
        request: Json<ReleaseRequest>,
    ) -> HandlerResult<Json<Released>> {
        let Json(request) = request;
        for _ in 0..ROUNDS {
            let target = match self.begin(&ctx, &request).await? {
                ReleaseStart::Begun(target) => target,
                ReleaseStart::Refused(reason) => return Ok(Json(Released::Refused(reason))),
            };
            match self.start_and_swap(&ctx, &request, &target).await {
                Ok(Swapped::Done { domain, previous }) => {
                    self.retire_left(&ctx, &request.target_deployment_id).await;
                    let started = target.retired || target.evicted;
                    return Ok(Json(Released::Done { domain, previous, started }));
                }
                Ok(Swapped::Again) => {}
                Ok(Swapped::Refused(reason)) => {
                    self.stop_again(&ctx, &target).await?;
                    return Ok(Json(Released::Refused(reason)));
                }
                Err(NotMoved::Failed(failure)) => {
                    self.stop_again(&ctx, &target).await?;
                    return Ok(Json(Released::Failed(failure)));
                }
                // Tries used up, or cancelled: what was started must not stay.
                Err(NotMoved::Ended(error)) => {
                    self.stop_again(&ctx, &target).await?;
                    return Err(error.into());
                }
            }
        }
        let id = &request.target_deployment_id;
        Ok(Json(Released::Refused(format!("`{id}` was retired again each time it was started"))))
    }
}

/// Why a round has moved nothing, as far as it knows.
enum NotMoved {
    /// The target cannot be made ready.
    Failed(StepFailure),
    /// What the SDK ended an await with.
    Ended(TerminalError),
}

impl From<TerminalError> for NotMoved {
    fn from(error: TerminalError) -> Self {
        Self::Ended(error)
    }
}

impl Release {
    async fn start_and_swap(
        &self,
        ctx: &ObjectContext<'_>,
        request: &ReleaseRequest,
        target: &ReleaseTarget,
    ) -> Result<Swapped, NotMoved> {
        if target.evicted
            && let Some(failure) = start_evicted(ctx, &target.plan.deployment_id).await?
        {
            return Err(NotMoved::Failed(failure));
        }
        self.ensure_ready(ctx, target).await?;
        let swap = SwapRequest { release: request.clone(), stops: target.stops };
        let routing = ctx.object_client::<RoutingClient>(target.plan.environment_id.as_str());
        Ok(routing.swap(Json(swap)).call().await?.0)
    }

    async fn begin(
        &self,
        ctx: &ObjectContext<'_>,
        request: &ReleaseRequest,
    ) -> Result<ReleaseStart, TerminalError> {
        let (core, request) = (Arc::clone(&self.core), request.clone());
        let Json(start) = bounded_run!(ctx, "begin-release", move || async move {
            Ok(Json(core.store.begin_release(&request).await?))
        })
        .await?;
        Ok(start)
    }

    /// Applying is idempotent: instances that run already are left alone.
    async fn ensure_ready(
        &self,
        ctx: &ObjectContext<'_>,
        target: &ReleaseTarget,
    ) -> Result<(), NotMoved> {
        let (core, wanted) = (Arc::clone(&self.core), target.clone());
        let Json(failed) = bounded_run!(ctx, "start-instances", move || async move {
            let applying = apply_recorded(&core, &wanted.plan, &wanted.image);
            started_within(START_LIMIT, applying).await
        })
        .await?;
        if let Some(failure) = failed {
            return Err(NotMoved::Failed(failure));
        }
        let request = ReadyRequest {
            deployment_id: target.plan.deployment_id.clone(),
            namespace: target.plan.environment_id.to_string(),
        };
        match ctx.service_client::<WaitsClient>().ready(Json(request)).call().await?.0 {
            ReadyVerdict::Ready => Ok(()),
            ReadyVerdict::Failed(failure) => Err(NotMoved::Failed(failure)),
        }
    }

    /// What was retired stays so when it was started for nothing. Anything else
    /// ran before and goes on, and so does what another release, or this one
    /// unheard, has made live meanwhile.
    async fn stop_again(
        &self,
        ctx: &ObjectContext<'_>,
        target: &ReleaseTarget,
    ) -> Result<(), TerminalError> {
        if !target.retired {
            return Ok(());
        }
        let (core, plan) = (Arc::clone(&self.core), target.plan.clone());
        bounded_run!(ctx, "undo-start-instances", move || async move {
            let id = &plan.deployment_id;
            // From here on no swap can make it live while its instances go.
            if core.store.retire_again(id).await? == Guarded::Lost {
                return Ok(());
            }
            let namespace = plan.environment_id.to_string();
            let deleted = core.runtime.delete(&namespace, id).await;
            deleted.map_err(|error| HandlerError::from(error.failure().to_string()))?;
            core.store.finish_retirement(id).await?;
            Ok(())
        })
        .await
    }

    /// The deployment that lost the environment may retire now, like after any
    /// deployment. The domains have moved: a failure here is not the caller's.
    async fn retire_left(&self, ctx: &ObjectContext<'_>, target: &DeploymentId) {
        let (core, id) = (Arc::clone(&self.core), target.clone());
        let keep = core.settings.keep_running;
        let found = bounded_run!(ctx, "find-retirable", move || async move {
            Ok(Json(core.store.retirement_candidates(&id, keep).await?))
        });
        let candidates: Vec<Retirable> = match found.await {
            Ok(Json(candidates)) => candidates,
            Err(error) => {
                tracing::warn!(deployment = %target, %error, "what it replaced is retired after the next one");
                return;
            }
        };
        for candidate in candidates {
            let key = candidate.deployment_id.clone();
            ctx.object_client::<RetirementClient>(key.as_str())
                .retire(Json(candidate))
                .send_after(self.core.settings.retire_after);
        }
    }
}
